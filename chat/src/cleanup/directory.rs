//! Takes channels that have ended out of the store's directory.
//!
//! Nobody is told when a channel expires, and many channels are never listed. So each chat looks from time to time at the
//! channels of which the directory has not heard for long. Any number of chats may do so: what one has looked at, the
//! others don't meet.

use channel_store::{ChannelStore, DIRECTORY_PARTS};
use runtime::backoff::jittered;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// The time between two looks, each of them at one part of the directory.
const PAUSE: Duration = Duration::from_secs(1);

/// Sweeps one part after the other, for ever. It begins with any of them, because all chats may have started at once.
pub(crate) async fn sweep(store: Arc<dyn ChannelStore>) {
    let mut part = fastrand::usize(..DIRECTORY_PARTS);
    loop {
        sleep(jittered(PAUSE)).await;
        part = (part + 1) % DIRECTORY_PARTS;
        match store.sweep_directory(part).await {
            Ok(0) => {}
            Ok(ended) => tracing::debug!(part, ended, "channels that have ended are forgotten"),
            Err(error) => tracing::debug!(part, %error, "can't sweep the directory of channels"),
        }
    }
}
