//! Asking sentinels who the primary is.

use super::connection::{Live, Manner};
use super::location::Address;
use super::reply::text;
use super::stream::Dial;
use parking_lot::Mutex;
use redis::{Pipeline, RedisConnectionInfo, Value};
use std::time::Duration;
use tokio::time::timeout;

/// A sentinel that takes longer is passed over: one that is frozen takes connections, too.
const ANSWER_TIME: Duration = Duration::from_millis(250);

/// The sentinels of one primary.
pub(super) struct Sentinels {
    /// The one that answered last comes first.
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

    /// The primary, as the first sentinel that answers has it.
    pub(super) async fn primary(&self, dial: &Dial) -> Option<Address> {
        let addresses = self.addresses.lock().clone();
        for sentinel in addresses {
            match timeout(ANSWER_TIME, self.ask(dial, &sentinel)).await {
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

    async fn ask(&self, dial: &Dial, sentinel: &Address) -> Option<Address> {
        let stream = dial.connect(sentinel).await.ok()?;
        let manner = Manner {
            number: 0,
            answer_time: ANSWER_TIME,
            on_push: None,
            stirred: None,
        };
        let live = Live::begin(&self.settings, stream, manner).await.ok()?;
        let mut ask = Pipeline::with_capacity(1);
        ask.cmd("SENTINEL")
            .arg("get-master-addr-by-name")
            .arg(&self.master);
        let answer = live.connection.request(&ask, 0, 1).await.ok()?.pop()?;
        let Value::Array(answer) = answer else {
            // It knows no primary of this name, perhaps not yet.
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
