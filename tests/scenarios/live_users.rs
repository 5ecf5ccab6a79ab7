//! Back ends reach users who are connected, wherever they are: messages, and the end of sessions.

use proto::chat::v1::list_sessions_request::Of;
use proto::chat::v1::push_to_users_request::Content;
use proto::chat::v1::user_service_client::UserServiceClient;
use proto::chat::v1::{
    BatchGetPresenceRequest, DisconnectRequest, DisconnectResponse, ListSessionsRequest,
    PushToUsersRequest, PushToUsersResponse, Session, SessionName,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use testkit::link::End;
use testkit::polling::Poller;
use testkit::pomelo::{LOGIN, left};
use testkit::system::{Plan, System};
use testkit::{SOON, json as ws, pace, socket_io, wait};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

/// How long a connector may take to answer, and what a busy machine adds to that.
const UNANSWERED: Duration = Duration::from_millis(1_000 + 1_500);

fn users(system: &System, chat: usize) -> UserServiceClient<Channel> {
    UserServiceClient::new(system.api(chat).channel())
}

async fn push(system: &System, chat: usize, names: &[String], number: u64) -> PushToUsersResponse {
    let request = PushToUsersRequest {
        users: names.to_vec(),
        route: "onMail".to_owned(),
        content: Some(Content::BodyJson(json!({ "n": number }).to_string().into())),
    };
    let pushed = users(system, chat).push_to_users(request).await;
    pushed.expect("pushed").into_inner()
}

/// How many sessions each user was reached on.
fn reached(response: &PushToUsersResponse) -> BTreeMap<&str, u32> {
    let outcomes = response.outcomes.iter();
    outcomes.map(|it| (it.user.as_str(), it.sessions)).collect()
}

async fn disconnect(system: &System, request: DisconnectRequest) -> DisconnectResponse {
    let answer = users(system, 0).disconnect(request).await;
    answer.expect("disconnected").into_inner()
}

async fn sessions(system: &System, of: Of) -> Vec<Session> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListSessionsRequest {
            of: Some(of.clone()),
            page_size: 100,
            page_token,
        };
        let page = users(system, 0).list_sessions(request).await;
        let page = page.expect("a page").into_inner();
        assert_eq!(page.unanswered_connectors, Vec::<String>::new());
        found.extend(page.sessions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}

/// A client of the JSON protocol, logged in without a channel.
async fn guest(system: &System, connector: usize, user: &str) -> ws::Client {
    let client = ws::Client::connect(system.connectors[connector].address()).await;
    let answer = client.request(LOGIN, json!({ "userId": user })).await;
    assert_eq!(answer["code"], 0, "{answer}");
    client
}

/// The numbers of the messages that a client was given, in their order.
fn given(client: &ws::Client) -> Vec<Value> {
    let received = client.inbox().read();
    let pushes = received.pushes.iter();
    let mail = pushes.filter(|push| push["route"] == "onMail");
    mail.map(|push| push["body"]["n"].clone()).collect()
}

#[tokio::test]
async fn a_push_reaches_500_users_on_three_connectors_once_and_names_the_connector_that_is_frozen()
{
    let system = Plan::of(3, 2).start().await;
    let names: Vec<_> = (0..500).map(|number| format!("u{number}")).collect();
    let mut guests = Vec::new();
    for (number, name) in names.iter().enumerate() {
        guests.push(guest(&system, number % 3, name).await);
    }
    let mut all = names.clone();
    all.push("nobody".to_owned());
    let response = push(&system, 0, &all, 1).await;
    assert_eq!(response.unanswered_connectors, Vec::<String>::new());
    let is_right = |(user, count): (&str, u32)| count == u32::from(user != "nobody");
    assert_eq!(reached(&response).len(), 501);
    assert!(reached(&response).into_iter().all(is_right), "{response:?}");

    system.connectors[2].freeze();
    let begun = Instant::now();
    let response = push(&system, 1, &all, 2).await;
    let took = pace::since(begun);
    assert!(took < UNANSWERED, "{took:?}");
    assert_eq!(response.unanswered_connectors, ["connector-3"]);
    for (number, name) in names.iter().enumerate() {
        let count = reached(&response)[name.as_str()];
        assert_eq!(count, u32::from(number % 3 != 2), "{name}");
    }
    let is_given = |number: usize, expected: &[u64]| {
        let numbers = given(&guests[number]);
        let numbers: Vec<_> = numbers.iter().filter_map(Value::as_u64).collect();
        numbers == expected
    };
    wait::eventually("everybody else got both messages once", SOON, async || {
        (0..500)
            .filter(|it| it % 3 != 2)
            .all(|it| is_given(it, &[1, 2]))
    })
    .await;

    // It was frozen for less than ten seconds, so it does the command now: once, although the letter came several times.
    system.connectors[2].thaw();
    let response = push(&system, 0, &all, 3).await;
    assert_eq!(response.unanswered_connectors, Vec::<String>::new());
    wait::eventually("each message came once, in order", SOON, async || {
        (0..500).all(|it| is_given(it, &[1, 2, 3]))
    })
    .await;
    assert!(guests.iter().all(|it| it.ended().is_none()));
}

#[tokio::test]
async fn a_user_is_disconnected_on_every_connector_and_in_every_protocol() {
    let system = Plan::of(2, 2).login_policy("allow").start().await;
    let watcher = system.member(0, "watcher", "4").await;
    let pomelo = system.member(1, "nancy", "4").await;
    let json = ws::Client::connect(system.connectors[0].address()).await;
    let login = json.request(LOGIN, json!({ "userId": "nancy", "lessonId": "4" }));
    assert_eq!(login.await["code"], 0);
    let mut polls = Poller::open(system.connectors[1].address(), 4)
        .await
        .expect("it polls");
    let login = json!({ "userId": "nancy", "lessonId": "4" });
    polls
        .post(&[&socket_io::request(1, LOGIN, &login)])
        .await
        .expect("posted");
    polls.until("登录成功").await;
    let elsewhere = guest(&system, 1, "nancy").await;
    let presence = BatchGetPresenceRequest {
        users: vec!["nancy".to_owned(), "nobody".to_owned()],
    };
    let found = users(&system, 1).batch_get_presence(presence).await;
    let found = found.expect("presences").into_inner().presences;
    let found: Vec<_> = found.iter().map(|it| it.sessions).collect();
    assert_eq!(found, [4, 0]);

    let listed = sessions(&system, Of::User("nancy".to_owned())).await;
    let mut shown: Vec<_> = listed
        .iter()
        .map(|it| (&*it.connector, &*it.protocol, it.channels.join(",")))
        .collect();
    shown.sort();
    let expected = [
        ("connector-1", "json", "4".to_owned()),
        ("connector-2", "json", String::new()),
        ("connector-2", "pomelo", "4".to_owned()),
        ("connector-2", "socket.io", "4".to_owned()),
    ];
    assert_eq!(shown, expected);
    assert!(
        listed
            .iter()
            .all(|it| it.address == "127.0.0.1" && it.login_time.is_some())
    );
    let in_channel = sessions(&system, Of::Channel("4".to_owned())).await;
    let in_channel: BTreeSet<_> = in_channel
        .iter()
        .map(|it| (&*it.user, &*it.connector))
        .collect();
    let expected = [
        ("nancy", "connector-1"),
        ("nancy", "connector-2"),
        ("watcher", "connector-1"),
    ];
    assert_eq!(in_channel, BTreeSet::from(expected));
    let there = sessions(&system, Of::Connector("connector-2".to_owned())).await;
    assert_eq!(there.len(), 3);

    let stays = listed
        .iter()
        .find(|it| it.channels.is_empty())
        .expect("one");
    let response = disconnect(
        &system,
        DisconnectRequest {
            users: vec!["nancy".to_owned()],
            except_sessions: vec![stays.session.clone()],
            reason: "banned".to_owned(),
            code: 4_100,
            ..DisconnectRequest::default()
        },
    )
    .await;
    assert_eq!(response.closed.len(), 3, "{response:?}");
    assert!(response.closed.iter().all(|it| !it.leaves_pending));
    assert_eq!(response.unanswered_connectors, Vec::<String>::new());
    let reason = "banned".to_owned();
    assert_eq!(
        json.end(SOON).await,
        End::Closed {
            code: 4_100,
            reason
        }
    );
    let told = json.inbox().read().pushes.last().cloned().expect("a push");
    assert_eq!(
        told["body"],
        json!({ "reason": "banned", "reconnect": false })
    );
    pomelo.end(SOON).await;
    assert_eq!(pomelo.kicked().as_deref(), Some("banned"));
    polls.until("banned").await;
    // All memberships have landed before the answer.
    watcher.until_push(&left("nancy")).await;
    system.until_members("4", &[("watcher", 1)]).await;
    assert_eq!(watcher.ended(), None);
    assert_eq!(elsewhere.ended(), None);

    let by_id = DisconnectRequest {
        sessions: vec![SessionName {
            user: "nancy".to_owned(),
            session: stays.session.clone(),
        }],
        reconnect: true,
        ..DisconnectRequest::default()
    };
    let response = disconnect(&system, by_id.clone()).await;
    assert_eq!(response.closed.len(), 1);
    let reason = "reconnect requested".to_owned();
    assert_eq!(
        elsewhere.end(SOON).await,
        End::Closed {
            code: 4_016,
            reason
        }
    );
    let again = disconnect(&system, by_id).await;
    assert_eq!(again.closed.len(), 0, "it is closed once");
}

/// Clients log in, drop and come back all the time. A user who is there throughout is reached by every push.
#[tokio::test]
async fn users_who_stay_are_always_reached_while_others_come_and_go() {
    let system = Plan::of(2, 1).login_policy("allow").start().await;
    let steady = [
        guest(&system, 0, "steady").await,
        guest(&system, 1, "steady").await,
    ];
    let mut comers = JoinSet::new();
    for number in 0..4 {
        let address = system.connectors[number % 2].address();
        comers.spawn(async move {
            loop {
                let client = ws::Client::connect(address).await;
                client.request(LOGIN, json!({ "userId": "steady" })).await;
                client.close().await;
            }
        });
    }
    for number in 0..50 {
        let pushed = push(&system, 0, &["steady".to_owned()], number).await;
        assert_eq!(pushed.unanswered_connectors, Vec::<String>::new());
        assert!(pushed.outcomes[0].sessions >= 2, "{pushed:?}");
    }
    comers.abort_all();
    for it in &steady {
        wait::eventually("each message came once", SOON, async || {
            given(it) == (0..50).map(Value::from).collect::<Vec<_>>()
        })
        .await;
    }
}

/// Redis closes the connections over which letters come, so commands and answers are lost. While chat has no connection at
/// all, a call fails, and may have been done.
#[tokio::test]
async fn whatever_becomes_of_the_letters_each_session_is_closed_once_and_given_each_message_once() {
    let system = Plan::of(2, 1).login_policy("allow").start().await;
    let steady = [
        guest(&system, 0, "steady").await,
        guest(&system, 1, "steady").await,
    ];
    let (mut pushes, mut ends) = (0, 0);
    for round in 0..10_u64 {
        let victims = [
            guest(&system, 0, "victim").await,
            guest(&system, 1, "victim").await,
        ];
        let push = PushToUsersRequest {
            users: vec!["steady".to_owned()],
            route: "onMail".to_owned(),
            content: Some(Content::BodyJson(json!({ "n": round }).to_string().into())),
        };
        let end = DisconnectRequest {
            users: vec!["victim".to_owned()],
            ..DisconnectRequest::default()
        };
        let (mut for_push, mut for_end) = (users(&system, 0), users(&system, 0));
        let kill = ["CLIENT", "KILL", "TYPE", "pubsub"];
        let (pushed, ended, _) = tokio::join!(
            for_push.push_to_users(push),
            for_end.disconnect(end),
            system.redis.command(&kill)
        );
        pushes += u32::from(pushed.is_ok_and(|it| it.get_ref().outcomes[0].sessions == 2));
        if let Ok(ended) = ended {
            let ended = ended.into_inner();
            let closed: BTreeSet<_> = ended.closed.iter().map(|it| &it.session).collect();
            assert_eq!(closed.len(), ended.closed.len(), "closed twice: {ended:?}");
            // A connector that is named may have done it or not. All others have.
            let known = closed.len() + ended.unanswered_connectors.len();
            assert!(known >= 2, "{ended:?}");
            ends += u32::from(closed.len() == 2);
        }
        drop(victims);
    }
    println!("of 10 calls each, {pushes} pushes and {ends} disconnects were done and answered");
    for it in &steady {
        let numbers = given(it);
        let once: BTreeSet<_> = numbers.iter().map(ToString::to_string).collect();
        assert_eq!(once.len(), numbers.len(), "given twice: {numbers:?}");
        assert_eq!(it.ended(), None);
    }
}
