//! Login, send and leave, with a feed and a chat that do what the test says.

use super::replies::{DONE, LOGGED_IN, SENT};
use super::*;
use crate::chat_client::tests::chat_of;
use crate::limits::QueueLimits;
use crate::membership::LeaseKeeper;
use crate::metering::{CHAT_CALLS, LOGINS_REFUSED, REQUESTS};
use crate::testing::chat::{Called, Instance, Sends, joined};
use crate::testing::client::{self, Told};
use crate::testing::counters::Counters;
use crate::testing::feed::{Script, connection, head, page};
use crate::testing::users::Users;
use crate::testing::{at, let_run, publication, soon};
use channel_store::memory::MemoryStore;
use channel_store::{
    Continuity, EntryState, Incarnation, LogPage, LoginPolicy, Shard, StoreOptions, UserId,
};
use proto::chat::v1::member::About;
use proto::chat::v1::{HistoryResponse, ListMembersResponse, Member};
use proto::connector::v1::{JoinResponse, LeaveRequest};
use proto::time::timestamp;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use wire::{Protocol, Refusal, WireFormat};

const LOGIN: &str = "connector.handler.login";
const REFRESH: &str = "connector.handler.refresh";

/// A connector with one client, and with the feed, the chat and the store that it uses.
pub(crate) struct Scene {
    pub(crate) services: Arc<Services>,
    store: Arc<MemoryStore>,
    users: Arc<Users>,
    incarnation: Incarnation,
    pub(crate) script: Script,
    pub(crate) instance: Instance,
    stream: Sends,
    me: Handlers,
    socket: Arc<Connection>,
    client: client::Client,
}

pub(crate) async fn scene() -> Scene {
    scene_with(Routes::none()).await
}

/// The same, with handlers of the operator.
async fn scene_with(routes: Arc<Routes>) -> Scene {
    scene_of(routes, AccessControl::open()).await
}

/// The same, with a decision who may log in and what sessions may do.
async fn scene_of(routes: Arc<Routes>, access: Arc<AccessControl>) -> Scene {
    scene_with_grace(routes, access, Duration::ZERO).await
}

/// The same. Sessions whose clients are gone stay members for the grace.
async fn scene_with_grace(
    routes: Arc<Routes>,
    access: Arc<AccessControl>,
    grace: Duration,
) -> Scene {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let script = Script::new();
    let store = MemoryStore::new(StoreOptions::default());
    let policy = LoginPolicy::Reject;
    let users = Users::new(store.registry());
    let registry = Arc::clone(&users);
    let logins = Logins::new(policy, registry, store.hints(), store.leases());
    logins.announce_policy().await;
    let suspects = script.hub.suspects();
    let lease = LeaseKeeper::new("c", Duration::from_secs(10), store.leases(), suspects).unwrap();
    let incarnation = lease.take().await;
    let services = Arc::new(Services {
        commands: Commands::new(&logins, lease.roster(), store.inboxes()),
        lease,
        hub: Arc::clone(&script.hub),
        admission: super::admission_queue::AdmissionQueues::new(|_| Shard::default()),
        reads: Arc::default(),
        routes,
        access,
        leaves: PendingLeaves::new(&chat, &logins, |_| Shard::default(), grace),
        chat,
        logins,
        requests: Requests::new(),
    });
    let stream = instance.stream().await;
    let_run().await;
    let (socket, client) = client::client(WireFormat::JSON).await;
    Scene {
        me: Handlers::new(Arc::clone(&services), Arc::clone(&socket)),
        services,
        store,
        users,
        incarnation,
        script,
        instance,
        stream,
        socket,
        client,
    }
}

impl Scene {
    /// The number of sessions that are logged in as a user.
    pub(crate) async fn logins(&self, user: &str) -> usize {
        let user = [channel_store::UserId::new(user).unwrap()];
        let looks = self
            .store
            .registry()
            .entries(&self.incarnation, &user)
            .await;
        looks.unwrap()[0].entries.len()
    }
}

fn request(id: u64, route: &str, body: &Value) -> Request {
    Request {
        id: Some(id),
        route: route.into(),
        body: RequestBody::Object(body.to_string().into()),
        key: None,
    }
}

const PING: &str = "connector.handler.ping";

fn login(id: u64, user: &str) -> Request {
    request(id, LOGIN, &json!({"userId": user, "lessonId": "room"}))
}

fn send(id: u64) -> Request {
    request(id, "chat.handler.send", &json!({"n": id}))
}

fn reply(id: u64, body: &str) -> Told {
    let body = serde_json::from_str(body).unwrap();
    Told::Reply { id, body }
}

/// The reply to a login, without its secret. Panics if there is none.
fn without_secret(told: Told) -> Told {
    let Told::Reply { id, mut body } = told else {
        panic!("{told:?}");
    };
    let secret = body.as_object_mut().and_then(|it| it.remove("resume"));
    let secret = secret.as_ref().and_then(Value::as_str);
    assert!(secret.and_then(Secret::parse).is_some(), "{secret:?}");
    Told::Reply { id, body }
}

fn refused(id: u64, reason: Reason) -> Told {
    let body = Refusal::from(reason).body(Protocol::Json);
    reply(id, &body)
}

/// The feed confirms the subscription to the channel, whose log ends at ("a", 4).
pub(crate) async fn is_followed(script: &mut Script) {
    is_followed_at(script, 4).await;
}

/// The same, with another end of the log.
async fn is_followed_at(script: &mut Script, end: u64) {
    let_run().await;
    script.subscribed(&connection(1));
    script.next_read().await.answer(head(at("a", end)));
}

/// A client that has logged in as "u", with its own onJoin at ("a", 5) delivered.
async fn logged_in() -> Scene {
    logged_in_with(&client::limits()).await
}

/// The same, on a connector with these limits.
async fn logged_in_with(limits: &Arc<QueueLimits>) -> Scene {
    let mut scene = scene().await;
    (scene.socket, scene.client) = client::connect(WireFormat::JSON, limits).await;
    scene.me = Handlers::new(Arc::clone(&scene.services), Arc::clone(&scene.socket));
    tokio::join!(scene.me.handle(login(1, "u"), Instant::now()), async {
        is_followed(&mut scene.script).await;
        scene.instance.join().await.answer(Ok(joined("a", 5)));
    });
    scene.script.publish(publication("a", 5));
    assert_eq!(
        without_secret(scene.client.next().await),
        reply(1, LOGGED_IN)
    );
    assert_eq!(scene.client.offsets(1).await, [5]);
    scene
}

#[tokio::test(start_paused = true)]
async fn a_join_is_indexed_first_and_bound_to_the_lease() {
    let mut scene = scene().await;
    let leases = scene.store.leases();
    tokio::join!(scene.me.handle(login(1, "u"), Instant::now()), async {
        is_followed(&mut scene.script).await;
        let join = scene.instance.join().await;
        let incarnation = std::slice::from_ref(&scene.incarnation);
        let index = leases.index(&scene.incarnation).await.unwrap();
        assert_eq!(index.len(), 2, "the channel and the user");
        let lease = leases
            .observe(incarnation)
            .await
            .remove(0)
            .unwrap()
            .unwrap();
        let request = join.answer(Ok(joined("a", 5)));
        let length = u64::try_from(lease.length.as_millis()).unwrap();
        let deadline = timestamp(lease.beat / 1_000 + length + 20_000);
        assert_eq!(request.deadline, Some(deadline));
    });
    assert!(scene.me.is_logged_in());
}

#[tokio::test(start_paused = true)]
async fn the_reply_to_a_login_comes_before_the_own_on_join_k2() {
    for push_first in [true, false] {
        let mut scene = scene().await;
        tokio::join!(scene.me.handle(login(1, "u"), Instant::now()), async {
            is_followed(&mut scene.script).await;
            let join = scene.instance.join().await;
            if push_first {
                scene.script.publish(publication("a", 5));
                let_run().await;
            }
            let request = join.answer(Ok(joined("a", 5)));
            assert_eq!((&*request.channel, &*request.user), ("room", "u"));
            let session = request.session.unwrap();
            assert_eq!(session.incarnation, scene.incarnation.as_str());
        });
        if !push_first {
            scene.script.publish(publication("a", 5));
        }
        assert_eq!(
            without_secret(scene.client.next().await),
            reply(1, LOGGED_IN)
        );
        assert_eq!(scene.client.offsets(1).await, [5]);
        assert!(scene.me.is_logged_in());
        let_run().await;
        assert!(scene.client.has_nothing());
    }
}

fn login_with(recovery: &Value) -> Request {
    let mut body = json!({"userId": "u", "lessonId": "room"});
    for (name, value) in recovery.as_object().unwrap() {
        body[name] = value.clone();
    }
    request(1, LOGIN, &body)
}

fn logged_in_at(position: &Value, recovered: bool, replayed: u64) -> Told {
    let mut body: Value = serde_json::from_str(LOGGED_IN).unwrap();
    body["position"] = position.clone();
    body["recovered"] = recovered.into();
    body["replayed"] = replayed.into();
    Told::Reply { id: 1, body }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_for_positions_is_told_where_its_pushes_begin() {
    let mut scene = scene().await;
    let login = login_with(&json!({"positions": true}));
    tokio::join!(scene.me.handle(login, Instant::now()), async {
        is_followed(&mut scene.script).await;
        scene.instance.join().await.answer(Ok(joined("a", 5)));
    });
    scene.script.publish(publication("a", 5));
    let begins = json!({"epoch": "a", "offset": 4});
    assert_eq!(
        without_secret(scene.client.next().await),
        logged_in_at(&begins, false, 0)
    );
    assert_eq!(scene.client.offsets(1).await, [5]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_back_gets_the_reply_and_then_what_it_missed() {
    let mut scene = scene().await;
    let login = login_with(&json!({"since": {"epoch": "a", "offset": 2}}));
    tokio::join!(scene.me.handle(login, Instant::now()), async {
        is_followed(&mut scene.script).await;
        scene.instance.join().await.answer(Ok(joined("a", 5)));
        let resumed = scene.script.read_from(at("a", 2)).await;
        resumed.answer(page(at("a", 2), vec![], 5));
    });
    scene.script.publish(publication("a", 5));
    let read = scene.script.read_from(at("a", 2)).await;
    let missed = vec![publication("a", 3), publication("a", 4)];
    read.answer(page(at("a", 2), missed, 4));
    let end = json!({"epoch": "a", "offset": 5});
    assert_eq!(
        without_secret(scene.client.next().await),
        logged_in_at(&end, true, 3)
    );
    assert_eq!(scene.client.offsets(3).await, [3, 4, 5]);
    assert_eq!(scene.client.moved, []);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_lost_something_is_told_after_the_reply_and_before_the_rest() {
    let mut scene = scene().await;
    let login = login_with(&json!({"since": {"epoch": "a", "offset": 7}}));
    tokio::join!(scene.me.handle(login, Instant::now()), async {
        is_followed(&mut scene.script).await;
        scene.instance.join().await.answer(Ok(joined("b", 5)));
        let resumed = scene.script.read_from(at("a", 7)).await;
        resumed.answer(LogPage {
            continuity: Continuity::Diverged,
            ..page(at("a", 4), vec![], 5)
        });
    });
    let end = json!({"epoch": "b", "offset": 5});
    assert_eq!(
        without_secret(scene.client.next().await),
        logged_in_at(&end, false, 1)
    );
    let told = ("a".to_owned(), 4, "diverged".to_owned());
    assert_eq!(scene.client.next_moved().await, told);
    scene.script.publish(publication("b", 5));
    let read = scene.script.read_from(at("a", 4)).await;
    read.answer(page(at("a", 4), vec![publication("b", 5)], 5));
    assert_eq!(scene.client.offsets(1).await, [5]);
    let begins = ("b".to_owned(), 4, "new-epoch".to_owned());
    assert_eq!(scene.client.moved, [begins]);
}

#[tokio::test(start_paused = true)]
async fn if_a_position_cannot_be_checked_the_login_fails_and_the_join_is_undone() {
    let mut scene = scene().await;
    let login = login_with(&json!({"since": {"epoch": "a", "offset": 2}}));
    tokio::join!(scene.me.handle(login, Instant::now()), async {
        is_followed(&mut scene.script).await;
        scene.instance.join().await.answer(Ok(joined("a", 5)));
        scene.script.read_from(at("a", 2)).await.fail();
    });
    assert_eq!(scene.client.next().await, refused(1, Reason::Unavailable));
    assert!(!scene.me.is_logged_in());
    scene.instance.leave().await;
}

#[tokio::test(start_paused = true)]
async fn an_invalid_position_is_refused_before_anything_happens() {
    let mut scene = scene().await;
    scene
        .me
        .handle(login_with(&json!({"since": 17})), Instant::now())
        .await;
    let Told::Reply { id: 1, body } = scene.client.next().await else {
        panic!("this is not a reply");
    };
    assert_eq!(body["reason"], "INVALID_PARAMETER");
    assert!(scene.script.feed.follows().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_second_session_of_a_user_begins_at_the_position_of_its_join() {
    let mut scene = scene().await;
    tokio::join!(scene.me.handle(login(1, "u"), Instant::now()), async {
        is_followed(&mut scene.script).await;
        let join = scene.instance.join().await;
        for offset in 5..=6 {
            scene.script.publish(publication("a", offset));
        }
        join.answer(Ok(JoinResponse {
            published: false,
            ..joined("a", 5)
        }));
    });
    assert_eq!(
        without_secret(scene.client.next().await),
        reply(1, LOGGED_IN)
    );
    assert_eq!(scene.client.offsets(1).await, [6]);
}

#[tokio::test(start_paused = true)]
async fn a_second_login_on_a_connection_is_refused_and_the_connection_stays_f05() {
    let mut scene = logged_in().await;
    for (id, user) in [(2, "u"), (3, "v")] {
        scene.me.handle(login(id, user), Instant::now()).await;
        assert_eq!(
            scene.client.next().await,
            refused(id, Reason::AlreadyLoggedIn)
        );
    }
    scene.instance.nobody_calls().await;
    scene.script.publish(publication("a", 6));
    assert_eq!(scene.client.offsets(1).await, [6]);
    assert_eq!(scene.socket.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn a_user_who_is_logged_in_elsewhere_is_refused_until_that_session_has_ended() {
    let mut scene = logged_in().await;
    let (socket, mut told) = client::client(WireFormat::JSON).await;
    let mut other = Handlers::new(Arc::clone(&scene.services), socket);
    other.handle(login(1, "u"), Instant::now()).await;
    assert_eq!(told.next().await, refused(1, Reason::UserLoggedIn));
    assert!(!other.is_logged_in());
    scene.me.close().await;
    scene.instance.leave().await.answer(Ok(Default::default()));
    soon(scene.services.leaves.landed()).await;
    tokio::join!(other.handle(login(2, "u"), Instant::now()), async {
        is_followed(&mut scene.script).await;
        scene.instance.join().await.answer(Ok(joined("a", 7)));
    });
    assert_eq!(without_secret(told.next().await), reply(2, LOGGED_IN));
}

#[tokio::test(start_paused = true)]
async fn every_refused_login_is_counted_once_by_its_reason() {
    let counters = Counters::default();
    let _recording = metrics::set_default_local_recorder(&counters);
    let mut scene = logged_in().await;
    // What is refused, but is no login, does not count.
    scene
        .me
        .handle(request(2, "no.such.route", &json!({})), Instant::now())
        .await;
    assert_eq!(scene.client.next().await, refused(2, Reason::UnknownRoute));
    assert!(counters.series(LOGINS_REFUSED).is_empty());

    let unusable = Request {
        body: RequestBody::Unusable,
        ..login(3, "u")
    };
    // Nobody reads the answer to a login without an id.
    let unanswered = Request {
        id: None,
        ..login(4, "u")
    };
    for login in [unusable, unanswered, login(5, "another")] {
        scene.me.handle(login, Instant::now()).await;
    }
    let (socket, mut told) = client::client(WireFormat::JSON).await;
    let mut other = Handlers::new(Arc::clone(&scene.services), socket);
    for body in [
        json!({}),
        json!({"userId": ["u"]}),
        json!({"userId": "u", "lessonId": "room"}),
    ] {
        other.handle(request(1, LOGIN, &body), Instant::now()).await;
        told.next().await;
    }
    // Chat may give any reason. The label is one of the connector's own all the same.
    tokio::join!(other.handle(login(2, "v"), Instant::now()), async {
        let join = scene.instance.join().await;
        let details = ErrorDetails::with_error_info("A_LATER_REASON", "chat.v1", []);
        let later = Status::with_error_details(Code::FailedPrecondition, "", details);
        join.answer(Err(later));
    });
    told.next().await;
    let expected = [
        ("ALREADY_LOGGED_IN", 2),
        ("INVALID_BODY", 1),
        ("INVALID_PARAMETER", 1),
        ("MISSING_PARAMETER", 1),
        ("UNAVAILABLE", 1),
        ("USER_LOGGED_IN", 1),
    ];
    let expected = expected.map(|(reason, count)| (vec![reason.to_owned()], count));
    assert_eq!(counters.series(LOGINS_REFUSED), expected.into());
}

#[tokio::test(start_paused = true)]
async fn every_request_is_measured_by_what_it_asks_for_and_what_became_of_it() {
    let counters = Counters::default();
    let _recording = metrics::set_default_local_recorder(&counters);
    let mut scene = logged_in().await;
    let own_route = request(2, "no.such.route", &json!({}));
    let elsewhere = request(
        3,
        "chat.handler.publish",
        &json!({"channel": "x", "body": {}}),
    );
    let ping = request(4, "connector.handler.ping", &json!({}));
    for request in [own_route, elsewhere, ping] {
        scene.me.handle(request, Instant::now()).await;
        scene.client.next().await;
    }
    // The time of this one was over before its turn came.
    let members = request(5, "chat.handler.members", &json!({}));
    let received = Instant::now() - CALL;
    scene.me.handle(members, received).await;
    scene.client.next().await;
    let send = request(6, "chat.handler.send", &json!({"text": "hello"}));
    scene.me.handle(send, Instant::now()).await;
    let is_sent = vec!["send".to_owned(), "done".to_owned()];
    assert!(
        !counters.series(REQUESTS).contains_key(&is_sent),
        "chat has not answered"
    );
    scene.stream.take().await;
    scene.client.next().await;
    let expected = [
        (["handler", "refused"], 1),
        (["login", "done"], 1),
        (["members", "failed"], 1),
        (["ping", "done"], 1),
        (["publish", "refused"], 1),
        (["send", "done"], 1),
    ];
    let expected = expected.map(|(labels, count)| (labels.map(str::to_owned).to_vec(), count));
    assert_eq!(counters.series(REQUESTS), expected.into());
    let joins = ["connector.v1.SessionService/Join", "OK"];
    let calls = counters.series(CHAT_CALLS);
    assert_eq!(
        calls.get(joins.map(str::to_owned).as_slice()),
        Some(&1),
        "{calls:?}"
    );
    let steps = counters.series("connector_login_step_duration_seconds");
    let steps: Vec<_> = steps
        .into_iter()
        .map(|(step, count)| (step.concat(), count))
        .collect();
    let expected = ["admit", "claim", "enter", "identify", "register"];
    assert_eq!(steps, expected.map(|step| (step.to_owned(), 1)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_not_logged_in_cannot_send() {
    let mut scene = scene().await;
    scene.me.handle(send(1), Instant::now()).await;
    assert_eq!(scene.client.next().await, refused(1, Reason::NotLoggedIn));
    scene.instance.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn a_join_whose_outcome_is_unknown_is_followed_by_a_fenced_leave_f02() {
    let mut scene = scene().await;
    let started = Instant::now();
    let (join, again) = {
        let script = async {
            is_followed(&mut scene.script).await;
            (scene.instance.join().await, scene.instance.join().await)
        };
        tokio::join!(scene.me.handle(login(1, "u"), Instant::now()), script).1
    };
    assert_eq!(scene.client.next().await, refused(1, Reason::Unavailable));
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(!scene.me.is_logged_in());
    let join = join.answer(Err(Status::cancelled("")));
    drop(again);
    let leave = scene.instance.leave().await.answer(Ok(Default::default()));
    assert_eq!((&*leave.channel, &*leave.user), ("room", "u"));
    assert!(leave.fence, "the join may still arrive");
    assert_eq!(leave.session, join.session);
    assert!(leave.operation > join.operation);
    // The user may log in again, and the channel can be joined.
    assert_eq!(scene.script.feed.follows(), [true, false]);
    soon(scene.services.leaves.landed()).await;
    assert_eq!(scene.logins("u").await, 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_refused_join_there_is_nothing_to_undo() {
    let mut scene = scene().await;
    tokio::join!(scene.me.handle(login(1, "u"), Instant::now()), async {
        is_followed(&mut scene.script).await;
        let refused = Err(Status::failed_precondition(""));
        scene.instance.join().await.answer(refused);
    });
    assert_eq!(scene.client.next().await, refused(1, Reason::Unavailable));
    scene.instance.nobody_calls().await;
    soon(scene.services.leaves.landed()).await;
}

#[tokio::test(start_paused = true)]
async fn if_a_channel_cannot_be_followed_the_login_fails_in_time_without_a_join() {
    let mut scene = scene().await;
    let started = Instant::now();
    scene.me.handle(login(1, "u"), Instant::now()).await;
    assert_eq!(scene.client.next().await, refused(1, Reason::Unavailable));
    assert!(started.elapsed() < Duration::from_secs(2));
    scene.instance.nobody_calls().await;
    assert_eq!(scene.script.feed.follows(), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn the_leave_is_sent_when_the_sessions_sends_are_answered_k3() {
    let mut scene = logged_in().await;
    scene.me.handle(send(2), Instant::now()).await;
    scene.me.handle(send(3), Instant::now()).await;
    scene.stream.next().await;
    scene.stream.next().await;
    tokio::join!(scene.me.close(), async {
        scene.instance.nobody_calls().await;
        scene.stream.sent();
        scene.instance.nobody_calls().await;
        scene.stream.sent();
        let leave = scene.instance.leave().await.answer(Ok(Default::default()));
        assert_eq!((&*leave.channel, &*leave.user), ("room", "u"));
        assert!(!leave.fence, "no copy of the join is under way");
    });
    assert_eq!(scene.client.next().await, reply(2, SENT));
    assert_eq!(scene.client.next().await, reply(3, SENT));
    soon(scene.services.leaves.landed()).await;
    assert_eq!(scene.script.feed.follows(), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn the_leave_after_a_join_that_was_repeated_is_fenced() {
    let mut scene = scene().await;
    tokio::join!(scene.me.handle(login(1, "u"), Instant::now()), async {
        is_followed(&mut scene.script).await;
        let away = Err(Status::unavailable(""));
        scene.instance.join().await.answer(away);
        scene.instance.join().await.answer(Ok(joined("a", 5)));
    });
    scene.me.close().await;
    let leave = scene.instance.leave().await.answer(Ok(Default::default()));
    assert!(leave.fence);
}

#[tokio::test(start_paused = true)]
async fn requests_are_answered_in_order_even_if_some_need_no_chat() {
    let mut scene = logged_in().await;
    scene.me.handle(send(2), Instant::now()).await;
    let array = Request {
        body: RequestBody::Unusable,
        ..send(4)
    };
    let script = async {
        scene.stream.next().await;
        let_run().await;
        assert!(
            scene.client.has_nothing(),
            "the first request is not answered yet"
        );
        scene.stream.refuse("OVERLOADED");
    };
    let unknown = request(3, "no.such.route", &json!({}));
    tokio::join!(scene.me.handle(unknown, Instant::now()), script);
    scene.me.handle(array, Instant::now()).await;
    for (id, reason) in [
        (2, Reason::TryLater),
        (3, Reason::UnknownRoute),
        (4, Reason::InvalidBody),
    ] {
        assert_eq!(scene.client.next().await, refused(id, reason));
    }
}

#[tokio::test(start_paused = true)]
async fn each_pipelined_request_is_answered_within_two_seconds_while_chat_is_away() {
    let scene = logged_in().await;
    let Scene {
        mut me,
        mut client,
        mut instance,
        stream,
        ..
    } = scene;
    stream.fail();
    let_run().await;
    let received = Instant::now();
    let ids = 2..102;
    let requests = async {
        for id in ids.clone() {
            let request = match id % 4 {
                0 => request(
                    id,
                    "chat.handler.join",
                    &json!({"channel": format!("{id}")}),
                ),
                1 => request(id, "chat.handler.members", &json!({})),
                2 => request(id, "chat.handler.history", &json!({})),
                _ => send(id),
            };
            me.handle(request, received).await;
        }
    };
    crate::chat_client::tests::while_refusing(&mut instance, requests).await;
    for id in ids {
        let Told::Reply { id: told, body } = client.next().await else {
            panic!("this is not a reply");
        };
        assert_eq!(told, id);
        assert_eq!(body["reason"], "UNAVAILABLE", "{body}");
    }
    assert!(received.elapsed() <= Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn each_send_has_the_clients_key_or_a_new_one() {
    let mut scene = logged_in().await;
    for (id, key) in [(2, None), (3, None), (4, Some("mine"))] {
        let key = key.map(Into::into);
        scene
            .me
            .handle(Request { key, ..send(id) }, Instant::now())
            .await;
    }
    let keys = scene.stream.keys(3).await;
    assert_ne!(keys[0], keys[1]);
    assert_eq!(keys[2], "mine");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_went_away_is_still_served_and_one_that_was_cut_off_is_not_k3() {
    let mut scene = logged_in().await;
    scene.socket.abort();
    scene.me.handle(send(2), Instant::now()).await;
    assert_eq!(scene.stream.keys(1).await.len(), 1);

    let (socket, _told) = client::client(WireFormat::JSON).await;
    let mut late = Handlers::new(Arc::clone(&scene.services), Arc::clone(&socket));
    socket.close(Disconnect::Shutdown);
    let started = Instant::now();
    late.handle(login(1, "v"), Instant::now()).await;
    assert!(!late.is_logged_in());
    assert_eq!(started.elapsed(), Duration::ZERO);
    scene.instance.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn a_send_refused_for_lack_of_membership_makes_the_channel_suspected() {
    let mut scene = logged_in().await;
    for (id, reason, is_suspected) in [(2, "OVERLOADED", false), (3, "NOT_MEMBER", true)] {
        scene.me.handle(send(id), Instant::now()).await;
        scene.stream.next().await;
        scene.stream.refuse(reason);
        assert_eq!(
            scene.client.next().await,
            refused(id, Reason::of_chat(reason))
        );
        let session = scene.me.session.as_ref().unwrap();
        let suspects = session.registration.guard().suspects();
        let suspected = timeout(Duration::from_millis(1), suspects.some(10)).await;
        assert_eq!(suspected.is_ok(), is_suspected, "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_may_log_in_without_a_channel_and_join_one_later() {
    let mut scene = scene().await;
    let login = request(1, LOGIN, &json!({"userId": "u"}));
    scene.me.handle(login, Instant::now()).await;
    assert_eq!(
        without_secret(scene.client.next().await),
        reply(1, LOGGED_IN)
    );
    assert!(scene.me.is_logged_in());
    assert_eq!(scene.logins("u").await, 1);
    scene.instance.nobody_calls().await;

    scene.me.handle(send(2), Instant::now()).await;
    let look = request(3, "chat.handler.members", &json!({}));
    scene.me.handle(look, Instant::now()).await;
    for id in [2, 3] {
        let refusal = refused(id, Reason::NotJoined);
        assert_eq!(scene.client.next().await, refusal);
    }

    let join = request(4, "chat.handler.join", &json!({"channel": "room"}));
    tokio::join!(scene.me.handle(join, Instant::now()), async {
        is_followed(&mut scene.script).await;
        scene.instance.join().await.answer(Ok(joined("a", 5)));
    });
    scene.script.publish(publication("a", 5));
    assert_eq!(scene.client.next().await, reply(4, DONE));
    assert_eq!(scene.client.offsets(1).await, [5]);

    scene.me.close().await;
    scene.instance.leave().await.answer(Ok(Default::default()));
    soon(scene.services.leaves.landed()).await;
    assert_eq!(scene.script.feed.follows(), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn after_a_session_without_a_channel_has_ended_its_user_may_log_in_again() {
    let mut scene = scene().await;
    let login = |id| request(id, LOGIN, &json!({"userId": "u", "lessonId": null}));
    scene.me.handle(login(1), Instant::now()).await;
    assert_eq!(
        without_secret(scene.client.next().await),
        reply(1, LOGGED_IN)
    );
    let (socket, mut told) = client::client(WireFormat::JSON).await;
    let mut other = Handlers::new(Arc::clone(&scene.services), socket);
    other.handle(login(1), Instant::now()).await;
    assert_eq!(told.next().await, refused(1, Reason::UserLoggedIn));
    scene.me.close().await;
    soon(scene.services.leaves.landed()).await;
    other.handle(login(2), Instant::now()).await;
    assert_eq!(without_secret(told.next().await), reply(2, LOGGED_IN));
}

#[tokio::test(start_paused = true)]
async fn a_client_of_the_original_must_name_its_channel_k1() {
    let scene = scene().await;
    let (socket, mut told) = client::client(WireFormat::POMELO).await;
    let mut other = Handlers::new(Arc::clone(&scene.services), socket);
    let login = request(1, LOGIN, &json!({"userId": "u"}));
    other.handle(login, Instant::now()).await;
    let missing = r#"{"code":1,"message":"缺少参数"}"#;
    assert_eq!(told.next().await, reply(1, missing));
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_before_and_after_the_login() {
    let mut scene = scene().await;
    scene
        .me
        .handle(request(1, PING, &json!({})), Instant::now())
        .await;
    assert_eq!(scene.client.next().await, reply(1, DONE));
    let mut scene = logged_in().await;
    scene
        .me
        .handle(request(2, PING, &json!({})), Instant::now())
        .await;
    assert_eq!(scene.client.next().await, reply(2, DONE));
}

/// A refusal tells whether the same request may succeed later, and when to try again.
#[tokio::test(start_paused = true)]
async fn each_refusal_of_chat_says_whether_a_retry_helps() {
    let mut scene = logged_in().await;
    for (id, by_chat, reason) in [
        (2, "IDEMPOTENCY_KEY_REUSED", Reason::KeyReused),
        (3, "STORE_FULL", Reason::StoreFull),
        (4, "OVERLOADED", Reason::TryLater),
        (5, "INVALID_ARGUMENT", Reason::InvalidParameter),
        (6, "CONNECTOR_DEAD", Reason::Unavailable),
        (7, "a reason of a later version", Reason::Unavailable),
    ] {
        scene.me.handle(send(id), Instant::now()).await;
        scene.stream.next().await;
        scene.stream.refuse(by_chat);
        assert_eq!(scene.client.next().await, refused(id, reason));
    }
}

#[tokio::test(start_paused = true)]
async fn an_invalid_key_is_refused_in_the_same_way_wherever_it_is() {
    let mut scene = logged_in().await;
    for key in [String::new(), "k".repeat(129), "a\u{0}b".to_owned()] {
        let with_part = |request: Request| Request {
            key: Some(key.as_str().into()),
            ..request
        };
        let publish = |body: Value| request(3, "chat.handler.publish", &body);
        for request in [
            with_part(Request {
                id: Some(3),
                ..send(3)
            }),
            with_part(publish(json!({"body": {}}))),
            with_part(publish(json!({"body": {}, "key": "good"}))),
            publish(json!({"body": {}, "key": key})),
        ] {
            scene.me.handle(request, Instant::now()).await;
            let refusal = refused(3, Reason::InvalidKey);
            assert_eq!(scene.client.next().await, refusal, "{key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_message_with_a_key_is_refused_wherever_the_key_stands() {
    let mut scene = logged_in().await;
    let publish = |body: Value| request(3, "chat.handler.publish", &body);
    let with_part = |request: Request| Request {
        key: Some("k".into()),
        ..request
    };
    for request in [
        with_part(publish(json!({"body": {}, "ephemeral": true}))),
        publish(json!({"body": {}, "ephemeral": true, "key": "k"})),
    ] {
        scene.me.handle(request, Instant::now()).await;
        let Told::Reply { body, .. } = scene.client.next().await else {
            panic!("no reply");
        };
        assert_eq!(body["reason"], "INVALID_PARAMETER", "{body}");
    }
}

/// The secret in the reply to a login.
fn secret_of(told: &Told) -> Value {
    let Told::Reply { body, .. } = told else {
        panic!("{told:?}");
    };
    body["resume"].clone()
}

impl Scene {
    /// The entries of a user, lowest rank first.
    async fn entries(&self, user: &str) -> Vec<channel_store::UserEntry> {
        let user = UserId::new(user).unwrap();
        let look = self
            .store
            .registry()
            .entries(&self.incarnation, &[user])
            .await;
        let mut entries = look.unwrap().remove(0).entries;
        entries.sort_by_key(|entry| entry.login_rank);
        entries
    }
}

/// The order is: index, login, join with the predecessors, claim, reply. If the client is gone before the claim, no
/// other session is closed.
#[tokio::test(start_paused = true)]
async fn a_client_with_its_secret_joins_in_place_of_its_session_and_then_claims() {
    let mut scene = scene().await;
    tokio::join!(scene.me.handle(login(1, "u"), Instant::now()), async {
        is_followed(&mut scene.script).await;
        scene.instance.join().await.answer(Ok(joined("a", 5)));
    });
    let secret = secret_of(&scene.client.next().await);
    let first = scene.entries("u").await[0].session.to_string();
    for is_gone in [true, false] {
        let (socket, mut told) = client::client(WireFormat::JSON).await;
        let mut other = Handlers::new(Arc::clone(&scene.services), Arc::clone(&socket));
        let back = json!({"userId": "u", "lessonId": "room", "resume": secret});
        let back = request(2, LOGIN, &back);
        let (instance, store) = (&mut scene.instance, &scene.store);
        let (user, whose) = (UserId::new("u").unwrap(), scene.incarnation.clone());
        tokio::join!(other.handle(back, Instant::now()), async {
            let join = instance.join().await;
            let replaced = join.request.replaces.iter().map(|it| it.id.clone());
            assert!(replaced.collect::<Vec<_>>().contains(&first));
            let look = store.registry().entries(&whose, &[user]).await;
            let entries = look.unwrap().remove(0).entries;
            assert!(entries.iter().all(|it| it.state == EntryState::Live));
            if is_gone {
                socket.close(Disconnect::CLOSED);
            }
            join.answer(Ok(joined("a", 5)));
        });
        let entries = scene.entries("u").await;
        let states: Vec<_> = entries.iter().map(|it| it.state).collect();
        if is_gone {
            assert_eq!(states, [EntryState::Live, EntryState::Live]);
        } else {
            assert_eq!(
                secret_of(&told.next().await),
                secret,
                "the secret stays the same"
            );
            assert_eq!(states, [EntryState::Superseded, EntryState::Live]);
        }
        other.close().await;
        scene.instance.leave().await.answer(Ok(Default::default()));
        soon(scene.services.leaves.landed()).await;
    }
    // The same holds if the session joins later than it logs in.
    let (socket, mut told) = client::client(WireFormat::JSON).await;
    let mut third = Handlers::new(Arc::clone(&scene.services), socket);
    let back = json!({"userId": "u", "resume": secret});
    let back = request(3, LOGIN, &back);
    third.handle(back, Instant::now()).await;
    assert_eq!(secret_of(&told.next().await), secret);
    let join = request(4, "chat.handler.join", &json!({"channel": "room"}));
    tokio::join!(third.handle(join, Instant::now()), async {
        let join = scene.instance.join().await;
        let replaced = join.request.replaces.iter().map(|it| it.id.clone());
        assert!(replaced.collect::<Vec<_>>().contains(&first));
        join.answer(Ok(joined("a", 5)));
    });
    assert_eq!(told.next().await, reply(4, DONE));
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_join_is_stale_has_lost_its_place_and_is_closed() {
    let mut scene = scene().await;
    let login = request(1, LOGIN, &json!({"userId": "u"}));
    scene.me.handle(login, Instant::now()).await;
    let join = request(2, "chat.handler.join", &json!({"channel": "room"}));
    tokio::join!(scene.me.handle(join, Instant::now()), async {
        is_followed(&mut scene.script).await;
        let join = scene.instance.join().await;
        let details = ErrorDetails::with_error_info("STALE_OPERATION", "chat.v1", []);
        let stale = Status::with_error_details(Code::FailedPrecondition, "", details);
        join.answer(Err(stale));
    });
    assert_eq!(scene.socket.closing(), Some(Disconnect::Displaced));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_joins_ever_new_channels_is_told_to_slow_down() {
    let mut scene = logged_in().await;
    let paces = scene.me.paces.get_or_insert_default();
    let refusal = loop {
        if let Err(refusal) = paces.join(Instant::now()) {
            break refusal;
        }
    };
    let join = request(2, "chat.handler.join", &json!({"channel": "another"}));
    scene.me.handle(join, Instant::now()).await;
    let refusal = refusal.body(Protocol::Json);
    assert_eq!(scene.client.next().await, reply(2, &refusal));
    scene.instance.nobody_calls().await;
}

/// Chat must limit the page, so that the rest is not read from the store and sent in vain. The connector would cut a
/// longer page, too, but that would be too late.
#[tokio::test(start_paused = true)]
async fn a_page_of_history_is_requested_with_the_limit_of_bytes_for_a_client() {
    for limit in [1 << 10, 1 << 20] {
        let mut scene = logged_in_with(&QueueLimits::new(limit, 512 << 20)).await;
        for (id, body, size) in [(2, json!({}), 50), (3, json!({"pageSize": 1_000}), 1_000)] {
            let look = request(id, "chat.handler.history", &body);
            let asked = async {
                let call = scene.instance.history().await;
                call.answer(Ok(HistoryResponse::default()))
            };
            let ((), asked) = tokio::join!(scene.me.handle(look, Instant::now()), asked);
            assert_eq!(usize::try_from(asked.page_bytes), Ok(limit / 8));
            assert_eq!((&*asked.channel, asked.page_size), ("room", size));
            let empty = r#"{"code":0,"publications":[],"more":false,"continuity":"contiguous","position":null}"#;
            assert_eq!(scene.client.next().await, reply(id, empty));
        }
    }
}

/// As docs/protocols/json.md says: each user once with the number of its sessions, and the number of users on all
/// pages.
#[tokio::test(start_paused = true)]
async fn each_page_of_members_has_their_sessions_and_the_number_of_all_users() {
    let mut scene = logged_in().await;
    let body = json!({"channel": "room", "pageSize": 2, "pageToken": "before"});
    let look = request(2, "chat.handler.members", &body);
    let member = |user: &str, sessions, info: Option<&str>| Member {
        user: user.into(),
        sessions,
        about: info.map(|info| About::InfoJson(info.to_owned().into())),
    };
    let asked = async {
        let call = scene.instance.members().await;
        call.answer(Ok(ListMembersResponse {
            members: vec![
                member("u", 1, Some(r#"{"z":"安","a":1.0}"#)),
                member("\"7\"", 3, None),
            ],
            next_page_token: "after".into(),
            total_users: 12_345,
        }))
    };
    let ((), asked) = tokio::join!(scene.me.handle(look, Instant::now()), asked);
    assert_eq!((&*asked.channel, asked.page_size), ("room", 2));
    assert_eq!(
        (&*asked.page_token, asked.info_as_struct),
        ("before", false)
    );
    let room = scene.socket.share();
    assert_eq!(
        asked.page_bytes as usize, room,
        "a page must fit into the queue"
    );
    let body = json!({
        "code": 0,
        "members": [
            {"userId": "u", "sessions": 1, "info": {"z": "安", "a": 1.0}},
            {"userId": "\"7\"", "sessions": 3},
        ],
        "users": 12_345,
        "nextPageToken": "after",
    });
    assert_eq!(scene.client.next().await, Told::Reply { id: 2, body });
}

fn operation(leave: &LeaveRequest) -> u64 {
    leave.operation
}

/// A client that is told that a leave is pending has left, and need not repeat it. If it joins again, the late leave
/// does not end the new membership, because the join has a higher number.
#[tokio::test(start_paused = true)]
async fn a_leave_that_does_not_land_in_time_is_pending_and_a_new_join_works() {
    for (format, told) in [
        (
            WireFormat::JSON,
            r#"{"code":500,"message":"You have left, and the others are told as soon as that is possible. There is nothing more to do.","reason":"LEAVE_PENDING","retry":false}"#,
        ),
        (WireFormat::POMELO, r#"{"code":500}"#),
    ] {
        let mut scene = scene().await;
        (scene.socket, scene.client) = client::client(format).await;
        scene.me = Handlers::new(Arc::clone(&scene.services), Arc::clone(&scene.socket));
        tokio::join!(scene.me.handle(login(1, "u"), Instant::now()), async {
            is_followed(&mut scene.script).await;
            scene.instance.join().await.answer(Ok(joined("a", 5)));
        });
        scene.script.publish(publication("a", 5));
        assert!(matches!(
            scene.client.next().await,
            Told::Reply { id: 1, .. }
        ));
        assert_eq!(scene.client.offsets(1).await, [5]);

        let begun = Instant::now();
        let channel = json!({"channel": "room"});
        let leave = |id| request(id, "chat.handler.leave", &channel);
        // The call stays unanswered.
        let mut calls = Vec::new();
        {
            let handled = scene.me.handle(leave(2), begun);
            tokio::pin!(handled);
            loop {
                tokio::select! {
                    () = &mut handled => break,
                    called = scene.instance.next() => calls.push(called),
                }
            }
        }
        assert!(begun.elapsed() <= Duration::from_secs(2));
        assert_eq!(scene.client.next().await, reply(2, told));

        // The session is not in the channel any more: it gets no pushes, and can't leave again.
        scene.script.publish(publication("a", 6));
        scene.me.handle(leave(3), Instant::now()).await;
        let refusal = Refusal::from(Reason::NotJoined).body(format.protocol());
        assert_eq!(scene.client.next().await, reply(3, &refusal));

        let again = request(4, "chat.handler.join", &channel);
        let ((), join) = tokio::join!(scene.me.handle(again, Instant::now()), async {
            is_followed_at(&mut scene.script, 6).await;
            loop {
                match scene.instance.next().await {
                    Called::Join(join) => break join.answer(Ok(joined("a", 7))),
                    called => calls.push(called),
                }
            }
        });
        scene.script.publish(publication("a", 7));
        assert_eq!(scene.client.next().await, reply(4, DONE));
        assert_eq!(scene.client.offsets(1).await, [7]);

        // Chat is back. The leave lands once, and does not affect the new membership.
        while let Some(Called::Leave(call)) = calls.pop() {
            let leave = call.answer(Err(Status::unavailable("")));
            assert_eq!(leave.session, join.session);
            assert!(operation(&leave) < join.operation);
        }
        assert!(calls.is_empty(), "there was no other call");
        let leave = scene.instance.leave().await.answer(Ok(Default::default()));
        assert!(operation(&leave) < join.operation);
        soon(scene.services.leaves.landed()).await;
        scene.instance.nobody_calls().await;
        scene.script.publish(publication("a", 8));
        assert_eq!(scene.client.offsets(1).await, [8]);
    }
}

mod access;
mod commanded;
mod handlers;
mod rates;
