//! Asking sentinels which server is the primary.

use super::address::Address;
use super::connection::{ConnectionOptions, DrivenConnection};
use super::reply::text;
use super::tls::Dialer;
use parking_lot::Mutex;
use redis::{RedisConnectionInfo, Value};
use std::time::Duration;
use tokio::time::timeout;

/// A sentinel that takes longer is passed over. A frozen one still accepts connections, so this also ends a wait for it.
const ANSWER_TIME: Duration = Duration::from_millis(250);

/// The sentinels that watch one primary.
pub(super) struct Sentinels {
    /// The one that answered last is the first.
    addresses: Mutex<Vec<Address>>,
    master: String,
    settings: RedisConnectionInfo,
}

impl Sentinels {
    pub(super) fn new(
        addresses: Vec<Address>,
        master: String,
        settings: RedisConnectionInfo,
    ) -> Self {
        Self {
            addresses: Mutex::new(addresses),
            master,
            settings,
        }
    }

    /// The primary that the first answering sentinel names.
    pub(super) async fn primary(&self, dialer: &Dialer) -> Option<Address> {
        let addresses = self.addresses.lock().clone();
        for sentinel in addresses {
            match timeout(ANSWER_TIME, self.ask(dialer, &sentinel)).await {
                Ok(Some(primary)) => return Some(primary),
                _ => {
                    let mut addresses = self.addresses.lock();
                    if addresses.first() == Some(&sentinel) {
                        addresses.rotate_left(1);
                    }
                }
            }
        }
        None
    }

    async fn ask(&self, dialer: &Dialer, sentinel: &Address) -> Option<Address> {
        let stream = dialer.connect(sentinel).await.ok()?;
        let options = ConnectionOptions {
            number: 0,
            answer_time: ANSWER_TIME,
            on_push: None,
            slots_moved: None,
            measures: None,
        };
        let driven = DrivenConnection::begin(&self.settings, stream, options)
            .await
            .ok()?;
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("get-master-addr-by-name").arg(&self.master);
        let answer = driven.connection.request_one(ask).await.ok()?;
        let Value::Array(answer) = answer else {
            // The sentinel knows no primary of this name, or not yet.
            return None;
        };
        let [host, port] = &answer[..] else {
            return None;
        };
        Some(Address::Tcp(
            text(host)?.to_owned(),
            text(port)?.parse().ok()?,
        ))
    }
}
