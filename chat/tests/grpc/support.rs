//! Chat on a free port, over a store that does what the test says, and a real client that calls it.

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use channel_store::{
    Block, ChannelName, ChannelStore, ChannelSummary, ChannelsPage, Epoch, HistoryPage,
    HistoryRange, IdempotencyKey, Incarnation, Join, Joined, Leave, LogRule, MembersPage, Position,
    PresentUser, Publish, Published, Publisher, Reaped, Restricted, Restriction, Restrictions,
    StoreError, UserId, UserInfo, UserRestrictions,
};
use chat::Limits;
use parking_lot::Mutex;
use proto::chat::v1::chat_service_client::ChatServiceClient;
use proto::chat::v1::send_outcome::Outcome;
use proto::chat::v1::send_request::Content;
use proto::chat::v1::{ListMembersRequest, SendRequest, SendStreamRequest, SendStreamResponse};
use proto::connector::v1::session_service_client::SessionServiceClient;
use runtime::Shutdown;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tonic_types::StatusExt;

/// A store in which every session except "stranger" is a member. It fails as the test says, and publishes only while
/// the gate is open.
#[derive(Clone)]
pub(crate) struct FakeStore(Arc<State>);

pub(crate) struct State {
    written: Mutex<Written>,
    /// The error of every call, if there is one.
    failure: Mutex<Option<StoreError>>,
    gate: Semaphore,
    /// Messages whose body contains this are written, but the answer is lost.
    lost: Mutex<Option<&'static str>>,
    /// Batches for this channel are never answered.
    silent: Mutex<Option<&'static str>>,
    /// The number of next batches that are refused.
    refusals: Mutex<Option<(usize, StoreError)>>,
    pub(crate) batch_sizes: Mutex<Vec<usize>>,
    /// The number of batches that have come to the gate.
    pub(crate) batches: watch::Sender<usize>,
    pub(crate) available: watch::Sender<bool>,
    pub(crate) joins: Mutex<Vec<Join>>,
    pub(crate) leaves: Mutex<Vec<Leave>>,
    /// The pages of members and channels that were asked for: channel or prefix, token, size.
    pub(crate) pages: Mutex<Vec<(String, Option<String>, usize)>>,
    pub(crate) deletions: Mutex<Vec<(String, Option<String>)>>,
    pub(crate) trims: Mutex<Vec<(String, Position)>>,
    pub(crate) restrictions: Mutex<Vec<Restriction>>,
}

#[derive(Default)]
struct Written {
    log: Vec<Publish>,
    keys: HashMap<String, (Publish, Published)>,
}

const OPEN: usize = 1_000_000;
/// How long a detached member stays whose join does not say.
pub(crate) const DETACHED_LIFE: Duration = Duration::from_secs(17);

impl FakeStore {
    pub(crate) fn new() -> Self {
        Self(Arc::new(State {
            written: Mutex::default(),
            failure: Mutex::default(),
            gate: Semaphore::new(OPEN),
            lost: Mutex::default(),
            silent: Mutex::default(),
            refusals: Mutex::default(),
            batch_sizes: Mutex::default(),
            batches: watch::Sender::new(0),
            available: watch::Sender::new(true),
            joins: Mutex::default(),
            leaves: Mutex::default(),
            pages: Mutex::default(),
            deletions: Mutex::default(),
            trims: Mutex::default(),
            restrictions: Mutex::default(),
        }))
    }
}

impl Deref for FakeStore {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl State {
    pub(crate) fn fail(&self, error: StoreError) {
        *self.failure.lock() = Some(error);
    }

    pub(crate) fn lose_bodies_with(&self, text: &'static str) {
        *self.lost.lock() = Some(text);
    }

    pub(crate) fn never_answer_in(&self, channel: &'static str) {
        *self.silent.lock() = Some(channel);
    }

    /// Refuses the next batches, this many, and writes nothing of them.
    pub(crate) fn refuse(&self, batches: usize, error: StoreError) {
        *self.refusals.lock() = Some((batches, error));
    }

    fn refusal(&self) -> Option<StoreError> {
        let mut refusals = self.refusals.lock();
        let (left, error) = refusals.as_mut().filter(|(left, _)| *left > 0)?;
        *left -= 1;
        Some(error.clone())
    }

    pub(crate) fn close_gate(&self) {
        self.gate.forget_permits(OPEN);
    }

    /// Lets this many batches pass.
    pub(crate) fn open_gate(&self, batches: usize) {
        self.gate.add_permits(batches);
    }

    /// Waits until this many batches in all have come to the gate.
    pub(crate) async fn has_seen(&self, batches: usize) {
        let mut seen = self.batches.subscribe();
        seen.wait_for(|&seen| seen >= batches).await.unwrap();
    }

    pub(crate) fn log(&self) -> Vec<Publish> {
        self.written.lock().log.clone()
    }

    /// The last body in the log.
    pub(crate) fn body(&self) -> String {
        let log = self.log();
        String::from_utf8(log.last().unwrap().payload.body().to_vec()).unwrap()
    }

    fn check(&self) -> Result<(), StoreError> {
        self.failure.lock().clone().map_or(Ok(()), Err)
    }

    fn append(&self, publish: Publish) -> Result<Published, StoreError> {
        if publish
            .session
            .as_ref()
            .is_some_and(|id| id.as_str() == "stranger")
        {
            return Err(StoreError::NotMember);
        }
        let mut written = self.written.lock();
        let key = publish
            .key
            .as_ref()
            .map(|key| format!("{}/{}/{key}", publish.channel, publish.user));
        if let Some((first, published)) = key.as_ref().and_then(|key| written.keys.get(key)) {
            if first.payload != publish.payload {
                return Err(StoreError::KeyReused);
            }
            return Ok(Published {
                repeated: true,
                reached: 0,
                ..published.clone()
            });
        }
        written.log.push(publish.clone());
        let body = String::from_utf8_lossy(publish.payload.body());
        if self.lost.lock().is_some_and(|text| body.contains(text)) {
            return Err(StoreError::Unavailable("lost".into()));
        }
        let published = Published {
            position: position(written.log.len() as u64),
            time: 1_795_377_365_123,
            reached: 2,
            repeated: false,
            ephemeral: publish.ephemeral,
        };
        if let Some(key) = key {
            written.keys.insert(key, (publish, published.clone()));
        }
        Ok(published)
    }
}

pub(crate) fn position(offset: u64) -> Position {
    Position {
        epoch: Epoch::new("e1"),
        offset,
    }
}

/// What the store knows of every channel but `nowhere`.
pub(crate) fn summary() -> ChannelSummary {
    ChannelSummary {
        end: position(7),
        users: 2,
        sessions: 3,
        held: 4,
        held_bytes: 567,
        oldest: Some(1_700_000_000_123),
        newest: None,
    }
}

#[async_trait]
impl UserRestrictions for FakeStore {
    async fn restrict(&self, _: &UserId, change: &Restriction) -> Result<Restricted, StoreError> {
        self.check()?;
        self.restrictions.lock().push(change.clone());
        if matches!(change, Restriction::RevokeToken { .. }) {
            return Ok(Restricted::TooMany);
        }
        let block = match change {
            Restriction::Block { reason, .. } => Some(Block {
                until: 1_900_000_000_123,
                reason: reason.clone(),
            }),
            _ => None,
        };
        Ok(Restricted::Yes(Restrictions {
            block,
            ..Restrictions::default()
        }))
    }
}

#[async_trait]
impl ChannelStore for FakeStore {
    fn publisher(&self) -> Result<Arc<dyn Publisher>, StoreError> {
        self.check()?;
        Ok(Arc::new(FakePublisher(self.clone())))
    }

    async fn join(&self, join: Join) -> Result<Joined, StoreError> {
        self.check()?;
        self.joins.lock().push(join);
        Ok(Joined {
            position: position(7),
            published: true,
            trimmed: 3,
            life: Epoch::new("life"),
            deletion: Epoch::new("e9"),
        })
    }

    async fn leave(&self, leave: Leave) -> Result<bool, StoreError> {
        self.check()?;
        self.leaves.lock().push(leave);
        Ok(true)
    }

    async fn reap(&self, _: &ChannelName, _: &Incarnation) -> Result<Reaped, StoreError> {
        self.check()?;
        Err(StoreError::Unavailable("this store cannot reap".into()))
    }

    async fn expire(&self, _: &ChannelName) -> Result<Option<Duration>, StoreError> {
        self.check()?;
        Ok(None)
    }

    async fn members(
        &self,
        channel: &ChannelName,
        page: Option<&str>,
        limit: usize,
    ) -> Result<MembersPage, StoreError> {
        self.check()?;
        let asked = (channel.to_string(), page.map(str::to_owned), limit);
        self.pages.lock().push(asked);
        Ok(MembersPage {
            members: vec![PresentUser {
                id: UserId::new("nancy").unwrap(),
                sessions: 2,
                info: Some(UserInfo::new(r#"{"name":"南希"}"#).unwrap()),
            }],
            users: 3,
            next: page.is_none().then(|| "more".to_owned()),
        })
    }

    async fn history(
        &self,
        _: &ChannelName,
        _: &HistoryRange,
        _: usize,
    ) -> Result<HistoryPage, StoreError> {
        self.check()?;
        Err(StoreError::Unavailable("this store has no history".into()))
    }

    async fn trim(
        &self,
        channel: &ChannelName,
        upto: &Position,
    ) -> Result<Option<u64>, StoreError> {
        self.check()?;
        self.trims.lock().push((channel.to_string(), upto.clone()));
        Ok((channel.as_str() != "nowhere").then_some(5))
    }

    async fn delete(
        &self,
        channel: &ChannelName,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<Position>, StoreError> {
        self.check()?;
        let deletion = (channel.to_string(), key.map(ToString::to_string));
        self.deletions.lock().push(deletion);
        Ok((channel.as_str() != "nowhere").then(|| position(8)))
    }

    async fn summaries(
        &self,
        channels: &[ChannelName],
    ) -> Result<Vec<Option<ChannelSummary>>, StoreError> {
        self.check()?;
        let known = |channel: &ChannelName| (channel.as_str() != "nowhere").then(summary);
        Ok(channels.iter().map(known).collect())
    }

    async fn channels(
        &self,
        prefix: &str,
        page: Option<&str>,
        limit: usize,
    ) -> Result<ChannelsPage, StoreError> {
        self.check()?;
        let asked = (prefix.to_owned(), page.map(str::to_owned), limit);
        self.pages.lock().push(asked);
        let channel = ChannelName::new(format!("{prefix}1")).unwrap();
        Ok(ChannelsPage {
            channels: vec![(channel, summary())],
            next: page.is_none().then(|| "more".to_owned()),
        })
    }

    fn detached_life(&self) -> Duration {
        DETACHED_LIFE
    }

    fn log_rule(&self, channel: &ChannelName) -> Option<String> {
        let game = channel.as_str().starts_with("game:");
        game.then(|| "game:*".to_owned())
    }

    fn set_log_rules(&self, _: Vec<LogRule>) {}

    fn available(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }
}

struct FakePublisher(FakeStore);

#[async_trait]
impl Publisher for FakePublisher {
    async fn publish(
        &self,
        batch: Vec<Publish>,
    ) -> Result<Vec<Result<Published, StoreError>>, StoreError> {
        let store = &self.0;
        // A publisher promises that batches take effect in the order of their first poll.
        store.batch_sizes.lock().push(batch.len());
        let silent = *store.silent.lock();
        if batch.iter().any(|it| Some(it.channel.as_str()) == silent) {
            std::future::pending::<()>().await;
        }
        let failure = store.check();
        let refusal = store.refusal();
        let outcomes = batch.into_iter().map(|publish| match &refusal {
            Some(error) => Err(error.clone()),
            None => store.append(publish),
        });
        let outcomes = failure.map(|()| outcomes.collect());
        store.batches.send_modify(|seen| *seen += 1);
        store.gate.acquire().await.unwrap().forget();
        outcomes
    }
}

/// A running chat.
pub(crate) struct Chat {
    pub(crate) store: FakeStore,
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: Shutdown,
    pub(crate) served: JoinHandle<Result<(), chat::ServeError>>,
}

impl Chat {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (store, shutdown) = (FakeStore::new(), Shutdown::new());
        let service = chat::serve(
            listener,
            Arc::new(store.clone()),
            Arc::default(),
            Arc::default(),
            Arc::default(),
            limits,
            shutdown.clone(),
        );
        Self {
            store,
            address,
            shutdown,
            served: tokio::spawn(service),
        }
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// Makes round trips as another caller, until chat has done everything that it can do without further input.
    pub(crate) async fn let_run(&self) {
        let mut other = self.client().await;
        for _ in 0..10 {
            let nothing = ListMembersRequest::default();
            other.list_members(nothing).await.unwrap_err();
        }
    }

    pub(crate) async fn client(&self) -> ChatServiceClient<Channel> {
        ChatServiceClient::new(self.channel().await)
    }

    /// A client of the contract for connectors.
    pub(crate) async fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel().await)
    }
}

/// The caller's end of a send stream.
pub(crate) struct Caller {
    pub(crate) requests: mpsc::Sender<SendStreamRequest>,
    pub(crate) answers: Streaming<SendStreamResponse>,
    pub(crate) frames_taken: Arc<AtomicUsize>,
}

impl Caller {
    pub(crate) async fn open(client: &mut ChatServiceClient<Channel>) -> Result<Self, Status> {
        use tokio_stream::StreamExt;
        let (requests, receiver) = mpsc::channel(100_000);
        let frames_taken = Arc::new(AtomicUsize::new(0));
        let taken = frames_taken.clone();
        let frames = ReceiverStream::new(receiver).map(move |frame| {
            taken.fetch_add(1, Ordering::Relaxed);
            frame
        });
        let answers = client.send_stream(frames).await?.into_inner();
        Ok(Self {
            requests,
            answers,
            frames_taken,
        })
    }

    /// Sends one frame with these messages.
    pub(crate) async fn send(&self, messages: impl IntoIterator<Item = SendRequest>) {
        let messages = messages.into_iter().collect();
        self.requests
            .send(SendStreamRequest { messages })
            .await
            .unwrap();
    }

    /// Reads answers until there are this many.
    pub(crate) async fn answers(&mut self, count: usize) -> Vec<Outcome> {
        let mut answers = Vec::new();
        while answers.len() < count {
            let frame = self.answers.message().await.unwrap().unwrap();
            let outcomes = frame.outcomes.into_iter();
            answers.extend(outcomes.map(|it| it.outcome.unwrap()));
        }
        assert_eq!(answers.len(), count);
        answers
    }
}

/// A valid message.
pub(crate) fn message(json: &str) -> SendRequest {
    SendRequest {
        channel: "4".into(),
        user: "nancy".into(),
        content: Some(Content::BodyJson(json.to_owned().into())),
        ..SendRequest::default()
    }
}

/// The reason in the ErrorInfo of a status. It checks the domain, which is always the same.
pub(crate) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(info.domain, "chat.v1");
    info.reason
}

/// The wrong fields that a status lists, with their descriptions.
pub(crate) fn violations(status: &Status) -> Vec<(String, String)> {
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    assert_eq!(reason(status), "INVALID_ARGUMENT");
    let request = status.get_details_bad_request().expect("a BadRequest");
    let wrong = request.field_violations.into_iter();
    wrong
        .map(|wrong| (wrong.field, wrong.description))
        .collect()
}

/// The names of the wrong fields.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    violations(status)
        .into_iter()
        .map(|(field, _)| field)
        .collect()
}

/// A message in gRPC's frame.
pub(crate) fn framed(message: &impl prost::Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}
