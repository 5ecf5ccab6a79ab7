//! A store behind a simulated network: a server for the store in memory, and a feed that reaches it.
//!
//! Only the number of a message travels. The message itself is in a table that both ends know. So delays, cuts and
//! partitions come from the network, and messages need no encoding.

use async_trait::async_trait;
use channel_store::memory::MemoryStore;
use channel_store::{
    ChannelFeed, ChannelName, Ephemeral, FeedConnection, FeedSink, Head, LogPage, Position,
    Publication, ServerLifetime, Since, StoreError,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use turmoil::net::{TcpListener, TcpStream};

const PORT: u16 = 6379;
const ANSWER_TIME: Duration = Duration::from_millis(500);

type Question = u64;

enum Message {
    Subscribe(ChannelName),
    Unsubscribe(ChannelName),
    Read(Question, ChannelName, Since, usize),
    Heads(Question, Vec<ChannelName>, bool),
    ServerLifetime(ServerLifetime),
    Subscribed(ChannelName),
    Published(ChannelName, Vec<Publication>),
    Ephemeral(ChannelName, Ephemeral),
    Page(Question, LogPage),
    Ends(Question, Vec<Option<Head>>),
}

/// Messages under way, by number.
#[derive(Default)]
pub(super) struct Table {
    messages: Mutex<HashMap<u64, Message>>,
    last: AtomicU64,
}

impl Table {
    fn put(&self, message: Message) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        self.messages.lock().insert(number, message);
        number
    }

    async fn next(&self, stream: &mut (impl AsyncRead + Unpin)) -> Option<Message> {
        let number = stream.read_u64().await.ok()?;
        self.messages.lock().remove(&number)
    }
}

/// Where a server's connection puts what its connector must get.
struct Outbox(mpsc::UnboundedSender<Message>);

impl FeedSink for Outbox {
    fn subscribed(&self, _: &FeedConnection, channel: &ChannelName) {
        let _ = self.0.send(Message::Subscribed(channel.clone()));
    }

    fn publications(
        &self,
        _: &FeedConnection,
        channel: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    ) {
        let _ = self
            .0
            .send(Message::Published(channel.clone(), run.collect()));
    }

    fn ephemeral(&self, _: &FeedConnection, channel: &ChannelName, ephemeral: Ephemeral) {
        let _ = self.0.send(Message::Ephemeral(channel.clone(), ephemeral));
    }
}

/// The faults of connections.
pub(super) struct Faults {
    /// Ends all connections.
    pub(super) cut: broadcast::Sender<()>,
    /// How many of 10,000 runs of publications are lost on a connection that goes on.
    pub(super) deaf: u32,
    /// How many runs were lost so far.
    pub(super) lost: AtomicU64,
}

/// Answers connectors until the simulation ends.
pub(super) async fn serve(
    store: Arc<MemoryStore>,
    table: Arc<Table>,
    faults: Arc<Faults>,
) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (store, table, faults) = (store.clone(), table.clone(), faults.clone());
        tokio::spawn(async move {
            let mut cut = faults.cut.subscribe();
            tokio::select! {
                biased;
                _ = cut.recv() => {}
                _ = connection(stream, store, &table, &faults) => {}
            }
        });
    }
}

async fn connection(
    stream: TcpStream,
    store: Arc<MemoryStore>,
    table: &Table,
    faults: &Faults,
) -> Option<()> {
    let (mut reader, mut writer) = stream.into_split();
    let (sender, mut outbox) = mpsc::unbounded_channel();
    let feed = store.feed(Arc::new(Outbox(sender.clone())));
    let probe = ChannelName::new("probe").unwrap();
    let lifetime = feed.read(&probe, &Since::Head, 0).await.ok()?.lifetime;
    sender.send(Message::ServerLifetime(lifetime)).ok()?;
    let write = async {
        while let Some(message) = outbox.recv().await {
            let may_be_lost = matches!(message, Message::Published(..) | Message::Ephemeral(..));
            if may_be_lost && fastrand::u32(..10_000) < faults.deaf {
                faults.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            writer.write_u64(table.put(message)).await.ok()?;
        }
        None
    };
    let read = async {
        loop {
            let answer = match table.next(&mut reader).await? {
                Message::Subscribe(channel) => {
                    feed.subscribe(&channel);
                    continue;
                }
                Message::Unsubscribe(channel) => {
                    feed.unsubscribe(&channel);
                    continue;
                }
                Message::Read(question, channel, since, limit) => {
                    let page = feed.read(&channel, &since, limit).await.ok()?;
                    Message::Page(question, page)
                }
                Message::Heads(question, channels, touch) => {
                    let heads = if touch {
                        feed.touch(&channels).await
                    } else {
                        feed.heads(&channels).await
                    };
                    Message::Ends(question, heads.ok()?)
                }
                _ => return None,
            };
            sender.send(answer).ok()?;
        }
    };
    tokio::select! {
        biased;
        done = write => done,
        done = read => done,
    }
}

/// The connector's end. It reconnects for ever, as the feed of Redis does.
pub(super) struct NetworkFeed {
    table: Arc<Table>,
    sink: Arc<dyn FeedSink>,
    state: Mutex<State>,
    available: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    followed: BTreeSet<ChannelName>,
    connection: Option<mpsc::UnboundedSender<Message>>,
    pages: BTreeMap<Question, oneshot::Sender<LogPage>>,
    ends: BTreeMap<Question, oneshot::Sender<Vec<Option<Head>>>>,
    questions: Question,
}

impl NetworkFeed {
    pub(super) fn new(table: Arc<Table>, sink: Arc<dyn FeedSink>) -> Arc<Self> {
        let feed = Arc::new(Self {
            table,
            sink,
            state: Mutex::default(),
            available: watch::Sender::new(true),
        });
        tokio::spawn(keep_connected(Arc::downgrade(&feed)));
        feed
    }

    /// Serves one connection, until it ends or does not answer.
    async fn connect(&self, number: u64) -> Option<()> {
        let stream = timeout(ANSWER_TIME, TcpStream::connect(("store", PORT)));
        let stream = stream.await.ok()?.ok()?;
        let (mut reader, mut writer) = stream.into_split();
        let Message::ServerLifetime(lifetime) = timeout(ANSWER_TIME, self.table.next(&mut reader))
            .await
            .ok()??
        else {
            return None;
        };
        let connection = FeedConnection { number, lifetime };
        let (sender, mut outbox) = mpsc::unbounded_channel();
        {
            let mut state = self.state.lock();
            for channel in &state.followed {
                let _ = sender.send(Message::Subscribe(channel.clone()));
            }
            state.connection = Some(sender);
        }
        let write = async {
            while let Some(message) = outbox.recv().await {
                writer.write_u64(self.table.put(message)).await.ok()?;
            }
            None
        };
        let read = async {
            loop {
                match self.table.next(&mut reader).await? {
                    Message::Subscribed(channel) => self.sink.subscribed(&connection, &channel),
                    Message::Published(channel, run) => {
                        let mut run = run.into_iter();
                        self.sink.publications(&connection, &channel, &mut run);
                    }
                    Message::Ephemeral(channel, ephemeral) => {
                        self.sink.ephemeral(&connection, &channel, ephemeral);
                    }
                    Message::Page(question, page) => {
                        let asked = self.state.lock().pages.remove(&question)?;
                        let _ = asked.send(page);
                    }
                    Message::Ends(question, ends) => {
                        let asked = self.state.lock().ends.remove(&question)?;
                        let _ = asked.send(ends);
                    }
                    _ => return None,
                }
            }
        };
        let probe = async {
            loop {
                sleep(ANSWER_TIME).await;
                self.ends(&[], false).await.ok()?;
            }
        };
        tokio::select! {
            biased;
            done = read => done,
            done = write => done,
            done = probe => done,
        }
    }

    async fn ask<T>(
        &self,
        ask: impl FnOnce(&mut State, Question, oneshot::Sender<T>) -> Message,
    ) -> Result<T, StoreError> {
        let unavailable = || StoreError::Unavailable("simulated".into());
        let answered = {
            let mut state = self.state.lock();
            let connection = state.connection.clone().ok_or_else(unavailable)?;
            let (answer, answered) = oneshot::channel();
            state.questions += 1;
            let question = state.questions;
            let message = ask(&mut state, question, answer);
            connection.send(message).map_err(|_| unavailable())?;
            answered
        };
        let answer = timeout(ANSWER_TIME, answered).await;
        answer
            .map_err(|_| unavailable())?
            .map_err(|_| unavailable())
    }

    async fn ends(
        &self,
        channels: &[ChannelName],
        touch: bool,
    ) -> Result<Vec<Option<Head>>, StoreError> {
        let channels = channels.to_vec();
        self.ask(|state, question, answer| {
            state.ends.insert(question, answer);
            Message::Heads(question, channels, touch)
        })
        .await
    }

    fn tell(&self, message: Message) {
        if let Some(connection) = &self.state.lock().connection {
            let _ = connection.send(message);
        }
    }
}

async fn keep_connected(feed: Weak<NetworkFeed>) {
    for number in 1.. {
        let Some(feed) = feed.upgrade() else { return };
        let _ = feed.connect(number).await;
        {
            let mut state = feed.state.lock();
            state.connection = None;
            // All waiting calls must learn that no answer will come.
            state.pages.clear();
            state.ends.clear();
        }
        sleep(Duration::from_millis(fastrand::u64(5..100))).await;
    }
}

#[async_trait]
impl ChannelFeed for NetworkFeed {
    fn subscribe(&self, channel: &ChannelName) {
        self.state.lock().followed.insert(channel.clone());
        self.tell(Message::Subscribe(channel.clone()));
    }

    fn unsubscribe(&self, channel: &ChannelName) {
        self.state.lock().followed.remove(channel);
        self.tell(Message::Unsubscribe(channel.clone()));
    }

    async fn read(
        &self,
        channel: &ChannelName,
        since: &Since,
        limit: usize,
    ) -> Result<LogPage, StoreError> {
        let (channel, since) = (channel.clone(), since.clone());
        self.ask(|state, question, answer| {
            state.pages.insert(question, answer);
            Message::Read(question, channel, since, limit)
        })
        .await
    }

    async fn read_back(
        &self,
        _: &ChannelName,
        _: &Position,
        _: usize,
    ) -> Result<Vec<Publication>, StoreError> {
        Err(StoreError::Unavailable("no rule is simulated".into()))
    }

    async fn heads(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        self.ends(channels, false).await
    }

    async fn touch(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        self.ends(channels, true).await
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }
}
