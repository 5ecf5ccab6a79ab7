//! A chat that asks connectors over a store in memory. The test moves the clock, and loses letters.

use super::super::incarnation::IndexGuard;
use super::*;
use crate::chat_client::tests::chat_of;
use crate::membership::{LeaseKeeper, Membership, Shown};
use crate::testing::chat::answered;
use crate::testing::client::{self, Told};
use crate::transport::Connection;
use async_trait::async_trait;
use channel_store::memory::MemoryStore;
use channel_store::{
    ChannelName, Inbox, LoginPolicy, Place, SessionId, StoreError, StoreOptions, User,
};
use proto::chat::v1::node_service_client::NodeServiceClient;
use proto::chat::v1::user_service_client::UserServiceClient;
use proto::chat::v1::{self as api, list_sessions_request::Of, push_to_users_request::Content};
use runtime::Shutdown;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use wire::{Disconnect, Reason, WireFormat};

mod channels;
mod describe;
mod drain;
mod restrict;

const LENGTH: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::from_millis(10);

/// Loses letters whose receiver's name begins with a text.
struct Lossy {
    inboxes: Arc<dyn Inboxes>,
    to: &'static str,
    lost: AtomicUsize,
    sent: AtomicUsize,
}

impl Lossy {
    fn new(store: &MemoryStore, to: &'static str, lost: usize) -> Arc<Self> {
        Arc::new(Self {
            inboxes: store.inboxes(),
            to,
            lost: AtomicUsize::new(lost),
            sent: AtomicUsize::new(0),
        })
    }
}

#[async_trait]
impl Inboxes for Lossy {
    async fn post(&self, to: &Incarnation, content: &[u8]) -> Result<bool, StoreError> {
        if to.as_str().starts_with(self.to) {
            self.sent.fetch_add(1, Ordering::Relaxed);
            let less = |left: usize| left.checked_sub(1);
            let lost = self
                .lost
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            if lost.is_ok() {
                return Ok(true);
            }
        }
        self.inboxes.post(to, content).await
    }

    fn open(&self, name: &Incarnation) -> Inbox {
        self.inboxes.open(name)
    }
}

/// A connector, without the loops of its clients.
struct Node {
    lease: Arc<LeaseKeeper>,
    logins: Arc<Logins>,
    commands: Arc<Commands>,
    keeping: AbortOnDropHandle<Infallible>,
}

/// A session and its client.
struct Guest {
    registration: Option<Arc<Registration>>,
    connection: Arc<Connection>,
    client: client::Client,
}

impl Node {
    async fn new(store: &MemoryStore, id: &str, inboxes: Arc<dyn Inboxes>) -> Self {
        Self::with(store, id, inboxes, chat_of(&[])).await
    }

    /// The same. `chat` lands leaves.
    async fn with(
        store: &MemoryStore,
        id: &str,
        inboxes: Arc<dyn Inboxes>,
        chat: Arc<Chat>,
    ) -> Self {
        let lease = LeaseKeeper::new(id, LENGTH, store.leases(), Arc::default()).unwrap();
        let policy = LoginPolicy::Allow;
        let logins = Logins::new(policy, store.registry(), store.hints(), store.leases());
        let commands = Arc::new(Commands::new(&logins, lease.roster(), inboxes));
        let keeping = {
            let (lease, logins) = (Arc::clone(&lease), Arc::clone(&logins));
            let commands = Arc::clone(&commands);
            tokio::spawn(async move { lease.keep(&chat, &logins, &commands).await })
        };
        logins.announce_policy().await;
        sleep(Duration::from_millis(1)).await;
        Self {
            lease,
            logins,
            commands,
            keeping: AbortOnDropHandle::new(keeping),
        }
    }

    /// A login that was sent, and whose client was not told yet.
    async fn logging_in(&self, user: &str, session: &str, format: WireFormat) -> Guest {
        let user = UserId::new(user).unwrap();
        let guard = self.lease.enter(vec![Place::User(user.clone())]).await;
        let (connection, client) = client::client(format).await;
        let session = SessionId::new(session).unwrap();
        let guard = Arc::new(guard.unwrap());
        let registration =
            self.logins
                .begin(&guard, &user, &session, &connection, Shown::default());
        self.logins.login(&registration).await.unwrap();
        Guest {
            registration: Some(registration),
            connection,
            client,
        }
    }

    async fn guest(&self, user: &str, session: &str) -> Guest {
        let guest = self.logging_in(user, session, WireFormat::JSON).await;
        guest.registration().answered();
        guest
    }
}

impl Guest {
    fn registration(&self) -> &Arc<Registration> {
        self.registration.as_ref().unwrap()
    }

    /// Ends the session as soon as its connection is closed, as the loop of a client does.
    fn ends(&mut self) {
        let registration = self.registration.take();
        let connection = Arc::clone(&self.connection);
        tokio::spawn(async move {
            connection.closed().await;
            connection.conclude();
            drop(registration);
        });
    }
}

/// A chat in the same process.
fn chat(store: &Arc<MemoryStore>, inboxes: Arc<dyn Inboxes>) -> UserServiceClient<chat::Service> {
    UserServiceClient::new(service(store, inboxes))
}

/// The same, for operators.
fn nodes(store: &Arc<MemoryStore>) -> NodeServiceClient<chat::Service> {
    NodeServiceClient::new(service(store, store.inboxes()))
}

fn service(store: &Arc<MemoryStore>, inboxes: Arc<dyn Inboxes>) -> chat::Service {
    let connectors = chat::Connectors::begin(store.registry(), store.leases(), inboxes);
    chat::service(
        store.clone(),
        Arc::default(),
        connectors,
        Arc::default(),
        &chat::Limits::default(),
        Shutdown::new(),
    )
}

fn store() -> Arc<MemoryStore> {
    MemoryStore::new(StoreOptions::default())
}

fn push(users: &[&str]) -> api::PushToUsersRequest {
    api::PushToUsersRequest {
        users: users.iter().map(ToString::to_string).collect(),
        route: "onMail".to_owned(),
        content: Some(Content::BodyJson(r#"{"n":1}"#.into())),
    }
}

fn mail() -> Told {
    Told::Push {
        route: "onMail".to_owned(),
        body: json!({"n": 1}),
    }
}

fn kick(users: &[&str]) -> api::DisconnectRequest {
    api::DisconnectRequest {
        users: users.iter().map(ToString::to_string).collect(),
        ..api::DisconnectRequest::default()
    }
}

/// Sessions that were reached, by user.
fn reached(response: &api::PushToUsersResponse) -> Vec<(&str, u32)> {
    let outcomes = response.outcomes.iter();
    outcomes.map(|it| (it.user.as_str(), it.sessions)).collect()
}

/// Sessions that were closed, and whether their leaves are pending.
fn closed(response: &api::DisconnectResponse) -> Vec<(&str, bool)> {
    let closed = response.closed.iter();
    let mut closed: Vec<_> = closed
        .map(|it| (it.session.as_str(), it.leaves_pending))
        .collect();
    closed.sort_unstable();
    closed
}

#[tokio::test(start_paused = true)]
async fn a_push_reaches_each_session_once_although_letters_and_answers_are_lost() {
    for to in ["chat:", "one:"] {
        let store = store();
        let lossy = Lossy::new(&store, to, 2);
        let one = Node::new(&store, "one", lossy.clone()).await;
        let other = Node::new(&store, "other", lossy.clone()).await;
        let mut guests = [one.guest("u", "s1").await, other.guest("u", "s2").await];
        let mut stranger = one.guest("v", "s3").await;
        let mut chat = chat(&store, lossy.clone());
        let response = chat.push_to_users(push(&["nobody", "u"])).await;
        let response = response.unwrap().into_inner();
        assert_eq!(reached(&response), [("nobody", 0), ("u", 2)]);
        assert_eq!(response.unanswered_connectors, Vec::<String>::new());
        assert!(lossy.sent.load(Ordering::Relaxed) > 2, "it was repeated");
        for guest in &mut guests {
            assert_eq!(guest.client.next().await, mail());
        }
        // What comes next shows that nothing came twice, and nothing to others.
        for guest in guests.iter_mut().chain([&mut stranger]) {
            guest.connection.close(Disconnect::Shutdown);
            guest.connection.conclude();
            assert!(matches!(guest.client.next().await, Told::Kick(_)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_does_not_answer_is_named_after_a_second_and_a_dead_one_is_not() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let silent = Node::new(&store, "silent", Lossy::new(&store, "chat:", 1_000)).await;
    let dead = Node::new(&store, "dead", store.inboxes()).await;
    let _guests = [
        one.guest("u", "s1").await,
        silent.guest("u", "s2").await,
        dead.guest("u", "s3").await,
    ];
    // Its letters reach nobody from now on.
    drop(dead.keeping);
    let mut chat = chat(&store, store.inboxes());
    let mut names = async |expected: &[&str]| {
        let begun = Instant::now();
        let response = chat.push_to_users(push(&["u"])).await.unwrap().into_inner();
        assert_eq!(response.unanswered_connectors, expected);
        begun.elapsed()
    };
    assert_eq!(names(&["dead", "silent"]).await, Duration::from_secs(1));
    let incarnation = dead.lease.end(Duration::ZERO).await;
    let () = incarnation;
    assert_eq!(names(&["silent"]).await, Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_logs_in_meanwhile_is_reached_after_it_was_told_so() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let mut guest = one.logging_in("u", "s1", WireFormat::JSON).await;
    let registration = Arc::clone(guest.registration());
    let told = tokio::spawn(async move {
        sleep(Duration::from_millis(50)).await;
        registration.answered();
    });
    let mut chat = chat(&store, store.inboxes());
    let response = chat.push_to_users(push(&["u"])).await.unwrap().into_inner();
    assert!(told.is_finished(), "it was not given anything before");
    assert_eq!(reached(&response), [("u", 1)]);
    assert_eq!(guest.client.next().await, mail());

    // One that takes longer is not counted, and gets nothing.
    let _later = one.logging_in("w", "s2", WireFormat::JSON).await;
    let response = chat.push_to_users(push(&["w"])).await.unwrap().into_inner();
    assert_eq!(reached(&response), [("w", 0)]);
    assert_eq!(response.unanswered_connectors, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn all_sessions_of_a_user_are_closed_but_those_that_are_to_stay() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let other = Node::new(&store, "other", store.inboxes()).await;
    let mut guests = [
        one.guest("u", "s1").await,
        other.guest("u", "s2").await,
        one.guest("u", "stays").await,
        // It is closed, too, although its client does not know yet that it is logged in.
        other.logging_in("u", "s3", WireFormat::JSON).await,
        one.guest("v", "stranger").await,
    ];
    guests[1..].iter_mut().for_each(Guest::ends);
    let mut chat = chat(&store, Lossy::new(&store, "one:", 1));
    let request = api::DisconnectRequest {
        except_sessions: vec!["stays".to_owned()],
        reason: "maintenance".to_owned(),
        code: 4_100,
        ..kick(&["u"])
    };
    let response = chat.disconnect(request).await.unwrap().into_inner();
    // The first session did not end in time: its leaves are pending.
    assert_eq!(
        closed(&response),
        [("s1", true), ("s2", false), ("s3", false)]
    );
    let connectors = response.closed.iter().map(|it| it.connector.as_str());
    assert!(connectors.eq(["one", "other", "other"]) || response.closed.len() == 3);
    for guest in [0, 1, 3] {
        let guest = &mut guests[guest];
        assert!(guest.connection.is_concluded());
        let told = json!({"reason": "maintenance", "reconnect": false});
        assert_eq!(guest.client.next().await, Told::Kick(told));
        let reason = "maintenance".to_owned();
        assert_eq!(
            guest.client.next().await,
            Told::Close {
                code: 4_100,
                reason
            }
        );
    }
    assert_eq!(guests[2].connection.closing(), None);
    assert_eq!(guests[4].connection.closing(), None);

    // Nothing is left to be closed.
    let response = chat
        .disconnect(kick(&["nobody"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(closed(&response), []);
}

#[tokio::test(start_paused = true)]
async fn one_session_is_closed_by_its_id() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let mut guests = [one.guest("u", "s1").await, one.guest("u", "s2").await];
    guests.iter_mut().for_each(Guest::ends);
    let mut chat = chat(&store, store.inboxes());
    let named = |user: &str| api::DisconnectRequest {
        sessions: vec![api::SessionName {
            user: user.to_owned(),
            session: "s2".to_owned(),
        }],
        ..api::DisconnectRequest::default()
    };
    let wrong = chat.disconnect(named("v")).await.unwrap().into_inner();
    assert_eq!(closed(&wrong), []);
    let response = chat.disconnect(named("u")).await.unwrap().into_inner();
    assert_eq!(closed(&response), [("s2", false)]);
    assert_eq!(guests[0].connection.closing(), None);
}

/// A client that was told to connect again does so while the call still runs.
#[tokio::test(start_paused = true)]
async fn who_is_told_to_reconnect_is_not_closed_again_when_it_is_back() {
    let store = store();
    // The first answer is lost, so the client is back before chat looks again.
    let lossy = Lossy::new(&store, "chat:", 1);
    let one = Arc::new(Node::new(&store, "one", lossy).await);
    let mut guest = one.guest("u", "s1").await;
    let connection = Arc::clone(&guest.connection);
    guest.ends();
    let back = {
        let one = Arc::clone(&one);
        tokio::spawn(async move {
            connection.closed().await;
            one.guest("u", "s2").await
        })
    };
    let mut chat = chat(&store, store.inboxes());
    let request = api::DisconnectRequest {
        reconnect: true,
        ..kick(&["u"])
    };
    let response = chat.disconnect(request).await.unwrap().into_inner();
    assert_eq!(closed(&response), [("s1", false)]);
    let back = back.await.unwrap();
    assert_eq!(back.connection.closing(), None);
    let told = json!({"reason": "reconnect requested", "reconnect": true});
    assert_eq!(guest.client.next().await, Told::Kick(told));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_take_its_farewell_is_cut_off_in_time() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let guest = one.guest("u", "s1").await;
    let large = vec![0; 32 << 20];
    guest.connection.send(&large, &mut None);
    let mut chat = chat(&store, store.inboxes());
    let begun = Instant::now();
    let response = chat.disconnect(kick(&["u"])).await.unwrap().into_inner();
    assert_eq!(closed(&response), [("s1", true)]);
    assert_eq!(response.unanswered_connectors, Vec::<String>::new());
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(guest.connection.is_concluded());
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_too_old_by_the_servers_clock_is_not_done() {
    let store = store();
    let node = Node::new(&store, "one", store.inboxes()).await;
    let guest = node.guest("u", "s1").await;
    let lease = HeldLease::new(guest.registration().guard.incarnation().clone(), LENGTH);
    let commands = Commands::new(&node.logins, node.lease.roster(), store.inboxes());
    let closing = async |id: u8, sent: u64| {
        let action = Some(Action::Disconnect(proto::connector::v1::DisconnectAction {
            of: vec![UserSessions {
                user: "u".to_owned(),
                sessions: Vec::new(),
            }],
            ..Default::default()
        }));
        let command = Command {
            id: vec![id; 16].into(),
            answer_to: "chat:1".to_owned(),
            action,
        };
        let content = command.encode_to_vec();
        let letter = Letter { sent, content };
        commands.take(&lease, &chat_of(&[]), letter).await;
        guest.connection.closing()
    };
    let clock = 1_000_000;
    assert_eq!(closing(1, clock).await, None, "the clock is not known yet");
    let length = u64::try_from(LENGTH.as_millis()).unwrap();
    lease.renewed(Instant::now(), clock + length);
    sleep(Duration::from_secs(60)).await;
    let now = clock + 60_000;
    assert_eq!(closing(2, now - 10_001).await, None, "it was frozen");
    let reason = Disconnect::ByBackEnd { reconnect: false };
    assert_eq!(closing(3, now - 10_000).await, Some(reason));
}

#[tokio::test(start_paused = true)]
async fn sessions_are_listed_in_pages_with_their_channels() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let other = Node::new(&store, "other", store.inboxes()).await;
    let mut guests = Vec::new();
    for number in 0..10 {
        let node = if number % 3 == 0 { &other } else { &one };
        guests.push(node.guest("u", &format!("s{number}")).await);
    }
    guests.push(one.guest("v", "s10").await);
    let _logging_in = one.logging_in("u", "s11", WireFormat::JSON).await;
    let joined = |guest: &Guest, node: &Node, channel: &str| {
        let registration = guest.registration();
        let membership = Membership::begin(
            node.lease.roster(),
            Arc::clone(registration.guard()),
            ChannelName::new(channel).unwrap(),
            User {
                id: registration.user().clone(),
                is_number: false,
            },
            registration.session.clone(),
            Some(Arc::clone(registration)),
        );
        membership.joined(&answered(false));
        membership
    };
    let memberships = [
        joined(&guests[1], &one, "b"),
        joined(&guests[1], &one, "a"),
        joined(&guests[10], &one, "a"),
    ];
    let ended = joined(&guests[1], &one, "c");
    ended.end();
    let mut chat = chat(&store, store.inboxes());
    let mut all = async |of: Of, page_size: u32| {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = api::ListSessionsRequest {
                of: Some(of.clone()),
                page_size,
                page_token,
            };
            let page = chat.list_sessions(request).await.unwrap().into_inner();
            assert!(page.sessions.len() <= page_size as usize);
            found.extend(page.sessions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return found;
            }
        }
    };
    let ids = |sessions: &[api::Session]| {
        let ids = sessions.iter().map(|it| it.session.clone());
        ids.collect::<Vec<_>>()
    };
    let expected: Vec<_> = (0..10).map(|number| format!("s{number}")).collect();
    for size in [1, 3, 100] {
        assert_eq!(ids(&all(Of::User("u".to_owned()), size).await), expected);
    }
    let of_connector = all(Of::Connector("one".to_owned()), 2).await;
    let expected = ["s1", "s2", "s4", "s5", "s7", "s8", "s10"];
    assert_eq!(ids(&of_connector), expected);
    let in_channel = all(Of::Channel("a".to_owned()), 1).await;
    assert_eq!(
        ids(&in_channel),
        Vec::<String>::new(),
        "chat knows no member"
    );
    let first = &of_connector[0];
    assert_eq!(first.channels, ["a", "b"]);
    assert_eq!(
        (first.user.as_str(), first.protocol.as_str()),
        ("u", "json")
    );
    assert_eq!(first.connector, "one");
    assert!(first.login_time.is_some());
    drop(memberships);
    assert_eq!(
        all(Of::User("u".to_owned()), 100).await[1].channels,
        Vec::<String>::new()
    );
}

#[tokio::test(start_paused = true)]
async fn presence_counts_the_live_sessions_of_each_user() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let guests = [one.guest("u", "s1").await, one.guest("u", "s2").await];
    store
        .registry()
        .linger(
            &guests[0].registration().user,
            &guests[0].registration().session,
        )
        .await
        .unwrap();
    let request = api::BatchGetPresenceRequest {
        users: vec!["nobody".to_owned(), "u".to_owned()],
    };
    let mut chat = chat(&store, store.inboxes());
    let found = chat.batch_get_presence(request).await.unwrap().into_inner();
    let found = found
        .presences
        .iter()
        .map(|it| (it.user.as_str(), it.sessions));
    assert_eq!(found.collect::<Vec<_>>(), [("nobody", 0), ("u", 1)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_command_does_no_harm() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let mut guest = one.guest("u", "s1").await;
    let whose: &IndexGuard = guest.registration().guard();
    let whose = whose.incarnation().clone();
    let short = Command {
        id: vec![1; 15].into(),
        ..Command::default()
    };
    for letter in [b"\xff\xff".to_vec(), Vec::new(), short.encode_to_vec()] {
        store.inboxes().post(&whose, &letter).await.unwrap();
    }
    sleep(AT_ONCE).await;
    let mut chat = chat(&store, store.inboxes());
    let response = chat.push_to_users(push(&["u"])).await.unwrap().into_inner();
    assert_eq!(reached(&response), [("u", 1)]);
    assert_eq!(guest.client.next().await, mail());
}
