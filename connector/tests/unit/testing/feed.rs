//! A feed for tests: the test says what it delivers, and answers its reads.

use crate::hub::{Hub, TOUCH_INTERVAL};
use async_trait::async_trait;
use channel_store::{
    ChannelFeed, ChannelName, Continuity, Ephemeral, FeedConnection, FeedSink, Head, LogPage,
    Position, Publication, Shard, Since, StoreError,
};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{mpsc, oneshot, watch};

/// A channel on a shard of its own. That shard does not answer touches.
pub(crate) const AWAY: &str = "away";

/// A read that waits for the test's answer.
pub(crate) struct Read {
    pub(crate) since: Since,
    pub(crate) limit: usize,
    answer: oneshot::Sender<Result<LogPage, StoreError>>,
}

/// The hub's side of the feed.
pub(crate) struct Feed {
    reads: mpsc::UnboundedSender<Read>,
    /// True for each subscription, false for each end of one.
    follows: Mutex<Vec<bool>>,
    /// The end of the log, which answers looks and touches. `None` if it is unknown, so that the hub must read.
    pub(crate) head: Mutex<Option<Head>>,
    /// What a reader finds that goes back.
    pub(crate) log: Mutex<Vec<Publication>>,
    /// The number of looks and touches so far.
    pub(crate) looks: AtomicUsize,
    pub(crate) touches: AtomicUsize,
}

/// The test's side of the feed. It has one channel, [`super::channel`].
pub(crate) struct Script {
    pub(crate) hub: Arc<Hub>,
    pub(crate) feed: Arc<Feed>,
    reads: mpsc::UnboundedReceiver<Read>,
}

#[async_trait]
impl ChannelFeed for Feed {
    fn subscribe(&self, _: &ChannelName) {
        self.follows.lock().push(true);
    }

    fn unsubscribe(&self, _: &ChannelName) {
        self.follows.lock().push(false);
    }

    async fn read(
        &self,
        _: &ChannelName,
        since: &Since,
        limit: usize,
    ) -> Result<LogPage, StoreError> {
        let (answer, answered) = oneshot::channel();
        let read = Read {
            since: since.clone(),
            limit,
            answer,
        };
        let unavailable = || StoreError::Unavailable("the test is over".into());
        self.reads.send(read).map_err(|_| unavailable())?;
        answered.await.map_err(|_| unavailable())?
    }

    async fn read_back(
        &self,
        _: &ChannelName,
        upto: &Position,
        limit: usize,
    ) -> Result<Vec<Publication>, StoreError> {
        let log = self.log.lock();
        let held = log.iter().rev();
        let held = held.filter(|it| it.position.offset <= upto.offset);
        Ok(held.take(limit).cloned().collect())
    }

    async fn heads(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        Ok(vec![self.head.lock().clone(); channels.len()])
    }

    async fn touch(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        self.touches.fetch_add(1, Ordering::Relaxed);
        if channels.iter().any(|it| it.as_str() == AWAY) {
            return Err(StoreError::Unavailable("the shard is away".into()));
        }
        match self.head.lock().clone() {
            Some(head) => Ok(vec![Some(head); channels.len()]),
            None => Err(StoreError::Unavailable("the test has set no head".into())),
        }
    }

    fn shard(&self, channel: &ChannelName) -> Shard {
        Shard::new(u64::from(channel.as_str() == AWAY))
    }

    fn available(&self) -> watch::Receiver<bool> {
        watch::Sender::new(true).subscribe()
    }
}

impl Feed {
    pub(crate) fn follows(&self) -> Vec<bool> {
        self.follows.lock().clone()
    }
}

/// The connection with this number, which began under the server lifetime "g".
pub(crate) fn connection(number: u64) -> FeedConnection {
    of_lifetime(number, "g")
}

pub(crate) fn of_lifetime(number: u64, lifetime: &str) -> FeedConnection {
    FeedConnection {
        number,
        lifetime: lifetime.into(),
    }
}

/// A contiguous answer with these publications. The log ends at `last`.
pub(crate) fn page(position: Position, entries: Vec<Publication>, last: u64) -> LogPage {
    LogPage {
        continuity: Continuity::Contiguous,
        lifetime: "g".into(),
        position,
        last,
        entries,
    }
}

/// An answer that says: the log ends here.
pub(crate) fn head(position: Position) -> LogPage {
    LogPage {
        continuity: Continuity::Contiguous,
        last: position.offset,
        ..page(position, Vec::new(), 0)
    }
}

impl Script {
    pub(crate) fn new() -> Self {
        Self::of(Hub::new(TOUCH_INTERVAL))
    }

    pub(crate) fn of(hub: Arc<Hub>) -> Self {
        let (sender, reads) = mpsc::unbounded_channel();
        let feed = Arc::new(Feed {
            reads: sender,
            follows: Mutex::default(),
            head: Mutex::default(),
            log: Mutex::default(),
            looks: AtomicUsize::new(0),
            touches: AtomicUsize::new(0),
        });
        hub.follow(Arc::clone(&feed) as Arc<dyn ChannelFeed>);
        Self { hub, feed, reads }
    }

    pub(crate) fn subscribed(&self, connection: &FeedConnection) {
        self.hub.subscribed(connection, &super::channel());
    }

    /// Brings a publication over connection 1.
    pub(crate) fn publish(&self, publication: Publication) {
        self.publish_over(1, publication);
    }

    pub(crate) fn publish_over(&self, number: u64, publication: Publication) {
        let run = &mut std::iter::once(publication);
        self.hub
            .publications(&connection(number), &super::channel(), run);
    }

    /// Brings something that is not in the log.
    pub(crate) fn bring(&self, ephemeral: Ephemeral) {
        self.hub
            .ephemeral(&connection(1), &super::channel(), ephemeral);
    }

    pub(crate) async fn next_read(&mut self) -> Read {
        super::soon(self.reads.recv()).await.unwrap()
    }

    /// Waits for a read from this position.
    pub(crate) async fn read_from(&mut self, position: Position) -> Read {
        let read = self.next_read().await;
        assert_eq!(read.since, Since::Position(position));
        read
    }

    pub(crate) async fn nobody_reads(&mut self) {
        super::let_run().await;
        assert!(self.poll_read().is_none(), "the hub reads");
    }

    pub(crate) fn poll_read(&mut self) -> Option<Read> {
        self.reads.try_recv().ok()
    }
}

impl Read {
    pub(crate) fn answer(self, page: LogPage) {
        // The reader may be gone.
        let _ = self.answer.send(Ok(page));
    }

    pub(crate) fn fail(self) {
        let _ = self
            .answer
            .send(Err(StoreError::Unavailable("the test says so".into())));
    }
}
