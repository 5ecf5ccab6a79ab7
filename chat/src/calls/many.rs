//! Many messages in one call, each with an outcome of its own.
//!
//! The messages of one channel go to the store as one batch, in order. Each channel has a publisher of its own, so a channel
//! whose server does not answer holds no other one back. What is not answered shortly before the call must end gets
//! DEADLINE_EXCEEDED as its outcome, so that the caller learns what became of the others.

use super::Calls;
use crate::error::Error;
use crate::metering;
use crate::port::guard::Deadline;
use channel_store::{ChannelName, ChannelStore, Publish, Published, StoreError};
use futures_util::stream::{self, StreamExt};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// So many bytes of messages are with the store at once …
const BYTES_IN_FLIGHT: usize = 4 << 20;
/// … but messages of at least so many channels.
const LEAST_IN_FLIGHT: usize = 16;
/// What a message counts in addition to its payload.
const MESSAGE_BYTES: usize = 1 << 10;

/// What becomes of one message.
pub(crate) type Outcome = Result<Published, Error>;

/// Messages of one channel, each with its place in the call.
#[derive(Default)]
struct Group {
    places: Vec<usize>,
    messages: Vec<Publish>,
    bytes: usize,
}

impl Calls {
    /// Publishes messages, of which some may have been refused already. The outcomes are in their order.
    pub(crate) async fn publish_each(
        &self,
        messages: Vec<Result<Publish, Error>>,
        deadline: Option<Deadline>,
    ) -> Vec<Outcome> {
        let now = Instant::now();
        let time = deadline.map_or(self.limits.call_time, |it| it.0.duration_since(now));
        let end = now + time * 3 / 4;
        let mut outcomes = Vec::with_capacity(messages.len());
        let mut groups: Vec<Group> = Vec::new();
        let mut by_channel: HashMap<ChannelName, usize> = HashMap::new();
        for (place, message) in messages.into_iter().enumerate() {
            // Replaced below, by the answer of the store.
            outcomes.push(Err(Error::DeadlineExceeded));
            match message.and_then(|it| self.limits.rules.admit(it)) {
                Err(error) => outcomes[place] = Err(error),
                Ok(publish) => {
                    let group = *by_channel
                        .entry(publish.channel.clone())
                        .or_insert_with(|| {
                            groups.push(Group::default());
                            groups.len() - 1
                        });
                    let group = &mut groups[group];
                    group.places.push(place);
                    group.bytes += publish.payload.as_bytes().len() + MESSAGE_BYTES;
                    group.messages.push(publish);
                }
            }
        }
        let largest = groups.iter().map(|it| it.bytes).max().unwrap_or(1);
        let at_once = (BYTES_IN_FLIGHT / largest).max(LEAST_IN_FLIGHT);
        let publishing = groups.into_iter().map(
            async |Group {
                       places, messages, ..
                   }| { (places, publish_group(&self.store, messages, end).await) },
        );
        let mut published = stream::iter(publishing).buffer_unordered(at_once);
        while let Some((places, answers)) = published.next().await {
            for (place, answer) in places.into_iter().zip(answers) {
                outcomes[place] = answer;
            }
        }
        for outcome in &outcomes {
            match outcome {
                Ok(published) => metering::sent(published),
                Err(error) => metering::refused(error),
            }
        }
        outcomes
    }
}

/// Publishes messages of one channel, in order. After one whose outcome is unknown, or for which the store had no memory,
/// the store publishes none of those that it has not tried yet.
async fn publish_group(
    store: &Arc<dyn ChannelStore>,
    messages: Vec<Publish>,
    end: Instant,
) -> Vec<Outcome> {
    let count = messages.len();
    let published = async {
        // Once the time is over, nothing more is begun.
        if Instant::now() >= end {
            return Err(Error::DeadlineExceeded);
        }
        let publisher = store.publisher()?;
        let published = timeout_at(end, publisher.publish(messages)).await;
        Ok(published.map_err(|_| Error::DeadlineExceeded)??)
    };
    match published.await {
        Ok(answers) => {
            let mut answers = answers.into_iter();
            let none = || Err(StoreError::Unavailable("no answer".into()));
            let answer = |_| answers.next().unwrap_or_else(none).map_err(Error::from);
            (0..count).map(answer).collect()
        }
        Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
    }
}
