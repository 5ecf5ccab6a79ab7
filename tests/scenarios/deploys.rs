//! A deploy: connectors and chats are restarted one after another while members send. Connectors close their connections at a pace,
//! so that those who stay are not overrun.

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use testkit::followers::{Followers, WHOLE_LOG, assert_consistent};
use testkit::history::Event;
use testkit::pomelo::{Client, LOGIN, SEND, SENT, left};
use testkit::redis::Redis;
use testkit::service::{CONNECTIONS, sum_of};
use testkit::system::{Plan, System};
use testkit::{SOON, http, json, long, wait};
use tokio::time::Instant;

/// How long a service may take to end.
pub(crate) const END: Duration = Duration::from_secs(30);

/// The number of connections that a connector says it has. `None`: it does not answer any more.
async fn connections(admin: SocketAddr) -> Option<u64> {
    let metrics = http::get(admin, "/metrics").await?;
    Some(sum_of(&metrics.body, CONNECTIONS).expect("a connector counts its connections"))
}

/// Looks at the connections of a connector until it has none, or does not answer. Returns what was seen, and when.
pub(crate) async fn watch(admin: SocketAddr) -> Vec<(Instant, u64)> {
    let mut seen = Vec::new();
    while let Some(count) = connections(admin).await {
        seen.push((Instant::now(), count));
        if count == 0 {
            break;
        }
    }
    seen
}

/// Between any two looks at most this many connections a second were closed, and those of one second more.
pub(crate) fn assert_paced(seen: &[(Instant, u64)], rate: u64) {
    for (index, (began, before)) in seen.iter().enumerate() {
        for (ended, after) in &seen[index..] {
            let seconds = (*ended - *began).as_secs_f64();
            let closed = before.saturating_sub(*after);
            let most = rate as f64 * (seconds + 1.0);
            assert!(closed as f64 <= most, "{closed} connections in {seconds} s");
        }
    }
}

/// Nothing was lost, and nobody saw somebody leave.
pub(crate) fn assert_undisturbed(followers: &Followers) {
    assert_eq!(followers.sum(|notes| notes.losses().len()), 0);
    let first = &followers.all()[0];
    let left =
        |event: &&Event| matches!(event, Event::Received(_, content) if content.route == "onLeave");
    let left = first.notes().read().events.iter().filter(left).count();
    assert_eq!(left, 0, "nobody seems to leave");
}

/// Rooms with members at every connector, in each of which somebody sends. In one room of thousands everybody would be told of
/// everybody, and a test would hold all of that.
struct Rooms(Vec<Followers>);

impl Rooms {
    /// This many rooms with so many listeners. Speakers make a pause of this length between two messages.
    async fn start(
        connectors: &[SocketAddr],
        rooms: usize,
        listeners: usize,
        pace: Duration,
    ) -> Self {
        let rooms = (0..rooms).map(|room| {
            let mut followers = Followers::empty(&format!("room{room}"), connectors);
            let speakers =
                (0..connectors.len()).map(|it| (format!("speaker{room}-{it}"), Some(pace)));
            let listeners = (0..listeners).map(|it| (format!("listener{room}-{it}"), None));
            for (number, (user, pace)) in speakers.chain(listeners).enumerate() {
                followers.add(&user, pace, number % connectors.len());
            }
            followers
        });
        let rooms = Self(rooms.collect());
        rooms.until_online().await;
        rooms
    }

    async fn until_online(&self) {
        for room in &self.0 {
            room.until_online().await;
        }
    }

    async fn until_each_acknowledged(&self, more: usize) {
        // All at once, because each room counts from now.
        join_all(self.0.iter().map(|room| room.until_each_acknowledged(more))).await;
    }

    fn slowest(&self) -> Duration {
        self.0
            .iter()
            .map(Followers::slowest)
            .max()
            .unwrap_or_default()
    }
}

#[tokio::test]
async fn a_deploy_closes_connections_at_its_pace_loses_nothing_and_nobody_seems_to_leave() {
    // 6,000 clients in the long run.
    let (rooms, listeners, pace, rate, flag) = if long() {
        (40, 147, 1_000, 500, "500")
    } else {
        (2, 60, 100, 20, "20")
    };
    let plan = Plan::of(3, 2)
        .alone()
        .chat_flags(&WHOLE_LOG)
        // These clients keep no secrets, and move twice within one grace, which is longer than the test waits for anything.
        .login_policy("reject")
        .connector_flags(&["--grace", "5m", "--drain-rate", flag]);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let mut services = plan.services(&redis.url(), &redis.url()).await;
    let pace = Duration::from_millis(pace);
    let all = Rooms::start(&services.addresses(), rooms, listeners, pace).await;
    for room in &all.0 {
        room.start_sending();
    }
    all.until_each_acknowledged(5).await;

    for connector in &mut services.connectors {
        let before = connector.connections().await;
        connector.terminate();
        let began = Instant::now();
        let seen = watch(connector.admin()).await;
        assert!(connector.ended_within(END).await.success());
        let took = began.elapsed();
        println!("{before} connections, ended after {took:?}");
        assert_paced(&seen, rate);
        let least = Duration::from_secs_f64(before as f64 / rate as f64) - Duration::from_secs(1);
        assert!(took >= least, "it took {took:?}");
        connector.restart().await;
        connector.ready().await;
        all.until_online().await;
        all.until_each_acknowledged(5).await;
    }
    for chat in &mut services.chats {
        chat.terminate();
        assert!(chat.ended_within(END).await.success());
        chat.restart().await;
        chat.ready().await;
        all.until_each_acknowledged(5).await;
    }

    let api = services.api(0);
    for room in &all.0 {
        let history = room.stop_and_collect(&api, redis.address()).await;
        assert_consistent(&history, &[]);
        assert_undisturbed(room);
    }
    println!("{}; slowest {:?}", all.0[0].report(), all.slowest());
    if long() {
        assert!(
            all.slowest() < Duration::from_secs(1),
            "{:?}",
            all.slowest()
        );
    }
    for (number, room) in all.0.iter().enumerate() {
        wait::eventually("everybody is a member", SOON, async || {
            let members = api.members(&format!("room{number}")).await;
            members.is_ok_and(|members| members.len() == room.all().len())
        })
        .await;
    }
}

/// As many clients as this process may have sockets for, with the settings as they are.
#[tokio::test]
#[ignore = "18,000 clients: ./tests/run --long"]
async fn a_connector_with_many_thousand_clients_closes_them_in_random_order_and_serves_those_who_are_left()
 {
    const CLIENTS: usize = 18_000;
    const RATE: u64 = 500;
    testkit::impact::raise_descriptors();
    let plan = Plan::of(2, 1).alone().connector_flags(&["--grace", "5m"]);
    let mut system = plan.start().await;
    let address = system.connectors[0].address();
    let connect = |number: usize| async move {
        let client = json::Client::connect(address).await;
        // A hundred in each room.
        let (user, room) = (format!("user{number}"), format!("room{}", number / 100));
        let login = json!({ "userId": user, "lessonId": room });
        assert_eq!(client.request(LOGIN, login).await["code"], 0);
        client
    };
    let began = Instant::now();
    let clients = stream::iter(0..CLIENTS).map(connect).buffered(64);
    let clients: Vec<_> = clients.collect().await;
    println!("{CLIENTS} clients have come in {:?}", began.elapsed());
    let watcher = system.member(1, "watcher", "room0").await;

    system.connectors[0].terminate();
    let began = Instant::now();
    let admin = system.connectors[0].admin();
    let meanwhile = async {
        let open = |client: &&json::Client| client.ended().is_none();
        let count = |some: &[json::Client]| some.iter().filter(open).count();
        wait::eventually("half of them are closed", 6 * SOON, async || {
            count(&clients) <= CLIENTS / 2
        })
        .await;
        // Those who came first are among them as often as those who came last.
        let (first, last) = clients.split_at(CLIENTS / 2);
        let (first, last) = (count(first), count(last));
        assert!(first.abs_diff(last) < CLIENTS / 20, "{first} and {last}");
        let mut served = 0;
        for client in clients.iter().filter(open).step_by(100) {
            tokio::select! {
                answer = client.request("chat.handler.send", json!({ "content": "hi" })) => {
                    assert_eq!(answer["code"], 0);
                    served += 1;
                }
                // It was its turn.
                _ = client.end(2 * SOON) => {}
            }
        }
        served
    };
    let (seen, served) = tokio::join!(watch(admin), meanwhile);
    assert!(system.connectors[0].ended_within(END).await.success());
    let took = began.elapsed();
    println!(
        "it has ended after {took:?}; {served} of those who were left at half time were served"
    );
    assert!(served >= 50, "{served}");
    assert_paced(&seen, RATE);
    let paced = Duration::from_secs(CLIENTS as u64 / RATE);
    assert!(took >= paced - Duration::from_secs(1), "it took {took:?}");
    assert!(took < Duration::from_secs(55), "it took {took:?}");
    let left = watcher.pushes();
    let left = left.iter().filter(|push| push.starts_with("onLeave"));
    assert_eq!(left.count(), 0, "their grace lasts");
}

/// Balancers see it first. Until the notice is over, everything goes on, also for newcomers.
#[tokio::test]
async fn a_connector_gives_notice_before_it_closes_anybody() {
    let notice = ["--drain-notice", "3s"];
    let system = Plan::of(2, 1).connector_flags(&notice).start().await;
    let member = system.member(0, "ann", "room").await;
    let connector = &system.connectors[0];
    connector.terminate();
    wait::eventually("the connector is not ready", SOON, async || {
        connector.readyz().await == Some(503)
    })
    .await;
    let health = http::get(connector.address(), "/healthz")
        .await
        .expect("it answers");
    assert_eq!(health.status, 503);
    assert!(health.body.starts_with("draining"), "{}", health.body);
    let late = system.member(0, "bob", "room").await;
    let sent = late.request(SEND, r#"{"content":"still here"}"#).await;
    assert_eq!(sent, SENT);
    member
        .until_push(r#"onMessage {"content":"still here","userId":"bob"}"#)
        .await;
    for client in [member, late] {
        client.end(3 * SOON).await;
        assert_eq!(client.kicked(), None);
    }
}

/// A second signal closes everybody who is left at once, and their leaves land.
#[tokio::test]
async fn a_connector_that_is_hurried_closes_everybody_at_once_and_loses_no_leave() {
    let flags = [
        "--drain-rate",
        "1",
        "--drain-window",
        "100s",
        "--drain-deadline",
        "110s",
    ];
    let mut system = Plan::of(2, 1).connector_flags(&flags).start().await;
    let watcher = system.member(1, "watcher", "room").await;
    let mut members = Vec::new();
    for number in 0..50 {
        members.push(system.member(0, &format!("user{number}"), "room").await);
    }
    let connector = &mut system.connectors[0];
    connector.terminate();
    wait::eventually("somebody was closed", SOON, async || {
        members.iter().any(|member| member.ended().is_some())
    })
    .await;
    assert!(
        members.iter().any(|member| member.ended().is_none()),
        "not everybody"
    );
    connector.terminate();
    assert!(connector.ended_within(END).await.success());
    for number in 0..50 {
        watcher.until_push(&left(&format!("user{number}"))).await;
    }
}

/// A connector with members that closes few of them a second, and a watcher elsewhere who sees who leaves.
async fn draining(members: usize) -> (System, Client, Vec<Client>) {
    let flags = [
        "--drain-rate=20",
        "--drain-window=10s",
        "--drain-deadline=20s",
    ];
    let system = Plan::of(2, 1).connector_flags(&flags).start().await;
    let watcher = system.member(1, "watcher", "room").await;
    let mut clients = Vec::new();
    for number in 0..members {
        clients.push(system.member(0, &format!("user{number}"), "room").await);
    }
    system.connectors[0].terminate();
    wait::eventually("somebody was closed", SOON, async || {
        clients.iter().any(|client| client.ended().is_some())
    })
    .await;
    (system, watcher, clients)
}

/// Each member has left, once, and nobody has come back.
async fn assert_left_once(system: &System, watcher: &Client, members: usize) {
    for number in 0..members {
        watcher.until_push(&left(&format!("user{number}"))).await;
    }
    system.until_members("room", &[("watcher", 1)]).await;
    let sent = watcher.request(SEND, r#"{"content":"the end"}"#).await;
    assert_eq!(sent, SENT);
    let end = r#"onMessage {"content":"the end","userId":"watcher"}"#;
    watcher.until_push(end).await;
    let pushes = watcher.pushes();
    for number in 0..members {
        let left = left(&format!("user{number}"));
        let times = pushes.iter().filter(|push| **push == left).count();
        assert_eq!(times, 1, "{left}");
    }
}

#[tokio::test]
async fn a_connector_that_is_frozen_in_its_drain_goes_on_and_publishes_each_leave_once() {
    const MEMBERS: usize = 60;
    let (mut system, watcher, clients) = draining(MEMBERS).await;
    system.connectors[0].freeze();
    let said = watcher.request(SEND, r#"{"content":"meanwhile"}"#).await;
    assert_eq!(said, SENT);
    assert!(clients.iter().any(|client| client.ended().is_none()));
    system.connectors[0].thaw();
    assert!(system.connectors[0].ended_within(END).await.success());
    assert_left_once(&system, &watcher, MEMBERS).await;
}

/// Meanwhile it is declared dead, and its members are removed.
#[tokio::test]
async fn a_connector_that_was_declared_dead_in_its_drain_ends_and_publishes_no_leave_again() {
    const MEMBERS: usize = 60;
    let (mut system, watcher, clients) = draining(MEMBERS).await;
    system.connectors[0].freeze();
    let gone = |number: usize| watcher.pushes().contains(&left(&format!("user{number}")));
    wait::eventually("its members have left", 3 * SOON, async || {
        (0..MEMBERS).all(gone)
    })
    .await;
    system.connectors[0].thaw();
    system.connectors[0].ended_within(END).await;
    for client in clients {
        client.end(SOON).await;
    }
    assert_left_once(&system, &watcher, MEMBERS).await;
}
