//! A sink that records everything that it receives.

use super::PATIENCE;
use channel_store::{ChannelName, Ephemeral, FeedConnection, FeedSink, Publication, Traced};
use parking_lot::Mutex;
use tokio::sync::watch;

#[derive(Clone, Debug)]
pub(crate) enum Received {
    Subscribed(FeedConnection),
    Publication(FeedConnection, Publication),
    Ephemeral(Ephemeral),
    Traced(Traced),
}

#[derive(Default)]
pub(crate) struct RecordingSink {
    received: Mutex<Vec<(ChannelName, Received)>>,
    count: watch::Sender<usize>,
}

impl RecordingSink {
    fn record(&self, channel: &ChannelName, received: Received) {
        self.received.lock().push((channel.clone(), received));
        self.count.send_modify(|count| *count += 1);
    }

    /// All that was received of a channel so far.
    pub(crate) fn all(&self, channel: &str) -> Vec<Received> {
        let received = self.received.lock();
        let of_channel = received.iter().filter(|(it, _)| it.as_str() == channel);
        of_channel.map(|(_, received)| received.clone()).collect()
    }

    /// The publications so far. It checks that each came by the connection that was confirmed last.
    pub(crate) fn publications(&self, channel: &str) -> Vec<Publication> {
        let mut publications = Vec::new();
        let mut confirmed = None;
        for received in self.all(channel) {
            match received {
                Received::Subscribed(connection) => confirmed = Some(connection),
                Received::Publication(connection, publication) => {
                    assert_eq!(Some(connection), confirmed);
                    publications.push(publication);
                }
                Received::Ephemeral(_) | Received::Traced(_) => {}
            }
        }
        publications
    }

    pub(crate) fn confirmations(&self, channel: &str) -> Vec<FeedConnection> {
        let confirmation = |received| match received {
            Received::Subscribed(connection) => Some(connection),
            Received::Publication(..) | Received::Ephemeral(_) | Received::Traced(_) => None,
        };
        self.all(channel)
            .into_iter()
            .filter_map(confirmation)
            .collect()
    }

    /// Publications and ephemeral messages, in order: `offset body`, and `~offset body` with the place.
    pub(crate) fn in_order(&self, channel: &str) -> Vec<String> {
        let received = self.all(channel).into_iter().filter_map(|received| {
            let (mark, position, payload) = match received {
                Received::Subscribed(_) | Received::Traced(_) => return None,
                Received::Publication(_, it) => ("", it.position, it.payload),
                Received::Ephemeral(it) => ("~", it.place, it.payload),
            };
            let body = String::from_utf8_lossy(payload.body()).into_owned();
            Some(format!("{mark}{} {body}", position.offset))
        });
        received.collect()
    }

    /// Waits until this many publications have been received, and returns all of them.
    pub(crate) async fn until_publications(&self, channel: &str, count: usize) -> Vec<Publication> {
        self.until(|| self.publications(channel).len() >= count, "publications")
            .await;
        self.publications(channel)
    }

    /// Waits for this many confirmations, and returns the last one.
    pub(crate) async fn until_subscribed(&self, channel: &str, count: usize) -> FeedConnection {
        self.until(
            || self.confirmations(channel).len() >= count,
            "confirmations",
        )
        .await;
        self.confirmations(channel).pop().unwrap()
    }

    async fn until(&self, condition: impl Fn() -> bool, what: &str) {
        let mut count = self.count.subscribe();
        let wait = count.wait_for(|_| condition());
        let in_time = tokio::time::timeout(PATIENCE, wait).await.is_ok();
        assert!(in_time, "not received in time: {what}");
    }
}

impl FeedSink for RecordingSink {
    fn subscribed(&self, connection: &FeedConnection, channel: &ChannelName) {
        self.record(channel, Received::Subscribed(connection.clone()));
    }

    fn publications(
        &self,
        connection: &FeedConnection,
        channel: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    ) {
        for publication in run {
            self.record(
                channel,
                Received::Publication(connection.clone(), publication),
            );
        }
    }

    fn traced(&self, channel: &ChannelName, marks: Vec<Traced>) {
        for mark in marks {
            self.record(channel, Received::Traced(mark));
        }
    }

    fn ephemeral(&self, _: &FeedConnection, channel: &ChannelName, ephemeral: Ephemeral) {
        self.record(channel, Received::Ephemeral(ephemeral));
    }
}
