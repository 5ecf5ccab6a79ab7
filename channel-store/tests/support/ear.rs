//! A sink that remembers what it was told.

use super::PATIENCE;
use channel_store::{ChannelName, Ephemeral, FeedConnection, FeedSink, Publication};
use parking_lot::Mutex;
use tokio::sync::watch;

#[derive(Clone, Debug)]
pub(crate) enum Heard {
    Subscribed(FeedConnection),
    Publication(FeedConnection, Publication),
    Ephemeral(Ephemeral),
}

#[derive(Default)]
pub(crate) struct Ear {
    heard: Mutex<Vec<(ChannelName, Heard)>>,
    count: watch::Sender<usize>,
}

impl Ear {
    fn hear(&self, channel: &ChannelName, heard: Heard) {
        self.heard.lock().push((channel.clone(), heard));
        self.count.send_modify(|count| *count += 1);
    }

    /// All that was heard of a channel so far.
    pub(crate) fn all(&self, channel: &str) -> Vec<Heard> {
        let heard = self.heard.lock();
        let of_channel = heard.iter().filter(|(it, _)| it.as_str() == channel);
        of_channel.map(|(_, heard)| heard.clone()).collect()
    }

    /// The publications so far, each of which came by the connection that was confirmed last.
    pub(crate) fn publications(&self, channel: &str) -> Vec<Publication> {
        let mut publications = Vec::new();
        let mut confirmed = None;
        for heard in self.all(channel) {
            match heard {
                Heard::Subscribed(connection) => confirmed = Some(connection),
                Heard::Publication(connection, publication) => {
                    assert_eq!(Some(connection), confirmed);
                    publications.push(publication);
                }
                Heard::Ephemeral(_) => {}
            }
        }
        publications
    }

    pub(crate) fn confirmations(&self, channel: &str) -> Vec<FeedConnection> {
        let confirmation = |heard| match heard {
            Heard::Subscribed(connection) => Some(connection),
            Heard::Publication(..) | Heard::Ephemeral(_) => None,
        };
        self.all(channel)
            .into_iter()
            .filter_map(confirmation)
            .collect()
    }

    /// Publications and what is not in the log, in order: `offset body`, and `~offset body` with the place.
    pub(crate) fn told(&self, channel: &str) -> Vec<String> {
        let told = self.all(channel).into_iter().filter_map(|heard| {
            let (mark, position, payload) = match heard {
                Heard::Subscribed(_) => return None,
                Heard::Publication(_, it) => ("", it.position, it.payload),
                Heard::Ephemeral(it) => ("~", it.place, it.payload),
            };
            let body = String::from_utf8_lossy(payload.body()).into_owned();
            Some(format!("{mark}{} {body}", position.offset))
        });
        told.collect()
    }

    /// Waits until so many publications have been heard, and answers all.
    pub(crate) async fn heard(&self, channel: &str, count: usize) -> Vec<Publication> {
        self.until(|| self.publications(channel).len() >= count, "publications")
            .await;
        self.publications(channel)
    }

    /// Waits for so many confirmations, and answers the last.
    pub(crate) async fn subscribed(&self, channel: &str, count: usize) -> FeedConnection {
        self.until(
            || self.confirmations(channel).len() >= count,
            "confirmations",
        )
        .await;
        self.confirmations(channel).pop().unwrap()
    }

    async fn until(&self, holds: impl Fn() -> bool, what: &str) {
        let mut count = self.count.subscribe();
        let wait = count.wait_for(|_| holds());
        let in_time = tokio::time::timeout(PATIENCE, wait).await.is_ok();
        assert!(in_time, "never heard: {what}");
    }
}

impl FeedSink for Ear {
    fn subscribed(&self, connection: &FeedConnection, channel: &ChannelName) {
        self.hear(channel, Heard::Subscribed(connection.clone()));
    }

    fn publications(
        &self,
        connection: &FeedConnection,
        channel: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    ) {
        for publication in run {
            self.hear(channel, Heard::Publication(connection.clone(), publication));
        }
    }

    fn ephemeral(&self, _: &FeedConnection, channel: &ChannelName, ephemeral: Ephemeral) {
        self.hear(channel, Heard::Ephemeral(ephemeral));
    }
}
