//! The hub, with a feed that does what the test says and members on real sockets.

mod deleting;
mod encodings;
mod ephemerals;
mod members;
mod newest;
mod news;
mod order;
mod random;
mod resuming;
mod simulation;
mod starting;
mod watching;

use super::{Hub, Member};
use crate::testing::client::{self, Client};
use crate::testing::feed::{Script, connection, head};
use crate::testing::{at, channel, let_run};
use crate::transport::Connection;
use channel_store::Position;
use std::sync::Arc;
use wire::WireFormat;

/// The formats of the members.
const FORMATS: [WireFormat; 3] = [
    WireFormat::POMELO,
    WireFormat::POMELO_POSITIONS,
    WireFormat::JSON,
];

/// A member, and the client's end of its socket.
struct Guest {
    member: Member,
    connection: Arc<Connection>,
    client: Client,
}

/// Registers a member, and does no more.
async fn guest(hub: &Arc<Hub>, format: WireFormat) -> Guest {
    let (connection, client) = client::client(format).await;
    Guest {
        member: hub.attach(&channel(), &connection, format),
        connection,
        client,
    }
}

/// A member that begins at the hub's position, so that no read is needed.
async fn guest_at(hub: &Arc<Hub>, format: WireFormat, start: Position) -> Guest {
    let guest = guest(hub, format).await;
    guest.begins(start).await;
    guest
}

/// A JSON member whose own `onJoin` is at this offset. It begins right before that.
async fn joiner(hub: &Arc<Hub>, own: u64) -> Guest {
    let joiner = guest(hub, WireFormat::JSON).await;
    joiner.member.has_joined_at(&at("a", own));
    joiner.begins(at("a", own - 1)).await;
    joiner
}

/// A live channel at ("a", 4) over connection 1, with one JSON member.
async fn room() -> (Script, Guest) {
    let mut script = Script::new();
    let guest = guest(&script.hub, WireFormat::JSON).await;
    script.subscribed(&connection(1));
    script.next_read().await.answer(head(at("a", 4)));
    guest.member.followed().await;
    guest.begins(at("a", 4)).await;
    (script, guest)
}

impl Guest {
    async fn begins(&self, start: Position) {
        self.member.begin(start);
        let_run().await;
    }

    async fn is_given_nothing(&mut self) {
        let_run().await;
        assert!(self.client.has_nothing(), "the member gets something");
    }

    /// The client gets pushes with these offsets next, and nothing after them.
    async fn is_given(&mut self, offsets: impl IntoIterator<Item = u64>) {
        let expected: Vec<u64> = offsets.into_iter().collect();
        assert_eq!(self.client.offsets(expected.len()).await, expected);
        self.is_given_nothing().await;
    }
}
