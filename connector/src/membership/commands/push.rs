//! Gives the message of a back end to sessions.

use super::Commands;
use bytes::Bytes;
use channel_store::Incarnation;
use proto::connector::v1::{PushAction, Pushed};
use tokio::task::yield_now;
use wire::WireFormat;

/// So many sessions get the message before other work has its turn.
const AT_ONCE: usize = 256;

/// The message as clients with one wire format get it.
struct Encoded {
    format: WireFormat,
    frames: Vec<u8>,
    /// The copy that lagging clients share.
    shared: Option<Bytes>,
}

impl Commands {
    /// Queues a message for sessions. A session whose client was not told yet that it is logged in gets nothing: the
    /// client would not expect it before the answer to its login.
    pub(super) async fn push(&self, whose: &Incarnation, push: PushAction) -> Pushed {
        let mut pushed = Pushed::default();
        let mut encoded: Vec<Encoded> = Vec::new();
        for (number, registration) in self.sessions(whose, push.to).into_iter().enumerate() {
            if number % AT_ONCE == AT_ONCE - 1 {
                yield_now().await;
            }
            let Some(connection) = registration.connection.upgrade() else {
                continue;
            };
            if connection.closing().is_some() {
                continue;
            }
            if !registration.state.lock().answered {
                pushed.logging_in.push(registration.name());
                continue;
            }
            let format = connection.format();
            let known = encoded.iter().position(|it| it.format == format);
            let place = known.unwrap_or_else(|| {
                let mut frames = Vec::new();
                wire::direct(format, &push.route, &push.body_json, &mut frames);
                encoded.push(Encoded {
                    format,
                    frames,
                    shared: None,
                });
                encoded.len() - 1
            });
            let Encoded { frames, shared, .. } = &mut encoded[place];
            connection.send(frames, shared);
            pushed.reached.push(registration.name());
        }
        pushed
    }
}
