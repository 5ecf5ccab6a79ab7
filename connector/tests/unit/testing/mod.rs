//! Test doubles around the parts of a connector: the client's end of a socket, and a feed and a chat that do what the
//! test says.

pub(crate) mod chat;
pub(crate) mod client;
pub(crate) mod counters;
pub(crate) mod feed;
pub(crate) mod handler;
pub(crate) mod hook;
pub(crate) mod logged;
pub(crate) mod process;
pub(crate) mod seeds;
pub(crate) mod users;

use crate::limits::{ClientLimits, Heartbeats};
use bytes::Bytes;
use channel_store::{ChannelName, Ephemeral, Epoch, Payload, Position, Publication};
use std::future::Future;
use std::time::Duration;

/// The default limits of clients, except that messages are short.
pub(crate) const LIMITS: ClientLimits = ClientLimits {
    heartbeat: Duration::from_secs(25),
    socket_io: Heartbeats {
        interval: Duration::from_secs(25),
        timeout: Duration::from_secs(60),
    },
    handshake: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    message: 1024,
};

/// Waits for what must come. If it takes longer than anything should, the test fails.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what)
        .await
        .expect("what the test waits for did not come")
}

/// Runs everything that can go on without waiting for time.
pub(crate) async fn let_run() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn channel() -> ChannelName {
    ChannelName::new("room").unwrap()
}

pub(crate) fn at(epoch: &str, offset: u64) -> Position {
    Position {
        epoch: Epoch::new(epoch),
        offset,
    }
}

/// A publication whose body tells its position, so that a client can check it, with some bytes of padding.
pub(crate) fn sized(epoch: &str, offset: u64, padding: usize) -> Publication {
    let body = format!(
        "onMessage\0u\0{{\"e\":\"{epoch}\",\"o\":{offset},\"p\":\"{}\"}}",
        "x".repeat(padding)
    );
    Publication {
        position: at(epoch, offset),
        time: 0,
        payload: Payload::parse(Bytes::from(body)).unwrap(),
    }
}

pub(crate) fn publication(epoch: &str, offset: u64) -> Publication {
    sized(epoch, offset, 0)
}

/// The join of somebody.
pub(crate) fn joining(epoch: &str, offset: u64) -> Publication {
    let body = format!("onJoin\0u\0{{\"e\":\"{epoch}\",\"o\":{offset}}}");
    Publication {
        payload: Payload::parse(Bytes::from(body)).unwrap(),
        ..publication(epoch, offset)
    }
}

/// The deletion of the channel.
pub(crate) fn deletion(epoch: &str, offset: u64) -> Publication {
    let body = format!("onDeleted\0\0{{\"e\":\"{epoch}\",\"o\":{offset}}}");
    Publication {
        payload: Payload::parse(Bytes::from(body)).unwrap(),
        ..publication(epoch, offset)
    }
}

/// Something for those who are there, published at this place. Its body tells the place's offset plus 100.
pub(crate) fn ephemeral(epoch: &str, offset: u64) -> Ephemeral {
    Ephemeral {
        place: at(epoch, offset),
        time: 0,
        payload: publication(epoch, 100 + offset).payload,
    }
}
