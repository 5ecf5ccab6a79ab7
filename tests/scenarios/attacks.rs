//! During an attack, other clients are delayed no more than by harmless requests that take the same processor time.
//! Nobody else is disconnected, memory is released, and `/livez`, `/readyz` and logins are answered.
//!
//! How this is measured, and why it is fair, is explained at [`testkit::impact`].

use serde_json::json;
use std::time::Duration;
use testkit::attack::abuser::Abuser;
use testkit::attack::filling::Filling;
use testkit::attack::histories::{self, HEAVY, Histories};
use testkit::attack::http2::Http2;
use testkit::attack::mixed::Mixed;
use testkit::attack::polls::Polls;
use testkit::attack::sockets::Sockets;
use testkit::attack::unread::Unread;
use testkit::attack::{enter, message};
use testkit::impact::load::Chatting;
use testkit::impact::{Bounds, ImpactTest, MEBIBYTE, Moment};
use testkit::pace::timeout;
use testkit::polling::Poller;
use testkit::pomelo::{LOGIN, SEND};
use testkit::socket_io;
use testkit::system::Plan;
use testkit::websocket::{TEXT, Terms};
use testkit::{SOON, wait};
use tokio::net::TcpStream;

/// Checks the comparison itself: clients that do no harm must pass it.
#[tokio::test]
#[ignore = "tests the tests: ./tests/run --long"]
async fn harmless_clients_are_not_taken_for_an_attack() {
    let mut scene = ImpactTest::start(Plan::of(1, 1), Bounds::default()).await;
    scene.compare(Chatting).await;
    scene.finish().await;
}

/// The number of sessions that have not logged in is bounded, and a client that opens more is refused.
#[tokio::test]
async fn sessions_that_poll_and_never_log_in_are_bounded_and_disturb_nobody() {
    let bounds = Bounds {
        peak: 64 * MEBIBYTE,
        ..Bounds::default()
    };
    let mut scene = ImpactTest::start(Plan::of(1, 1), bounds).await;
    scene.compare(Polls).await;
    let (sessions, refused) = (scene.tally.of("sessions"), scene.tally.of("refused"));
    // A session that does not log in ends after a minute, so all of them exist at the same time.
    let is_bounded = sessions <= 2_500;
    scene.check(is_bounded, &format!("{sessions} sessions were made"));
    scene.check(refused > 0, "nobody was refused with 429 or 503");
    scene.finish().await;
}

/// A client that reads much history slows down itself, and nobody else.
#[tokio::test]
async fn reading_many_pages_of_large_messages_delays_nobody_else() {
    let mut scene = ImpactTest::start(Plan::of(1, 1), Bounds::default()).await;
    histories::fill(&scene.services.api(0)).await;
    scene.compare(Histories).await;
    let pages = scene.tally.of("pages");
    scene.check(pages > 50, &format!("{pages} pages were read in all"));
    let lost = lost_redis(&scene);
    scene.check(lost == 0, &format!("Redis was lost {lost} times"));
    scene.finish().await;
}

/// A full store refuses writes and says why. Everything else goes on.
#[tokio::test]
async fn a_client_that_fills_the_store_is_refused_and_disturbs_nobody() {
    let bounds = Bounds {
        redis_returns: false,
        full: true,
        ..Bounds::default()
    };
    let mut scene = ImpactTest::start(Plan::of(1, 1), bounds).await;
    scene
        .compare_with(Filling, async |scene, moment| {
            // The attack fills the 8 MiB that are left, also on a slow machine. The harmless requests have no limit.
            let used = scene.redis.info("memory", "used_memory").await;
            let used: u64 = used.and_then(|used| used.parse().ok()).expect("a number");
            let limit = match moment {
                Moment::Before => used + 8 * MEBIBYTE,
                Moment::After => 0,
            };
            let limit = limit.to_string();
            scene
                .redis
                .command(&["CONFIG", "SET", "maxmemory", &limit])
                .await;
        })
        .await;
    let refused = scene.tally.of("refused");
    scene.check(refused > 0, "the writer was not refused");
    scene.services.ready().await;
    scene.finish().await;
}

/// Unread answers are bounded, and a client that reads none is removed when its heartbeats are overdue.
#[tokio::test]
async fn clients_that_never_read_their_answers_are_removed_in_time_and_disturb_nobody() {
    let flags = [
        "--heartbeat",
        "2s",
        "--socketio-heartbeat",
        "2s",
        "--socketio-timeout",
        "2s",
    ];
    let plan = Plan::of(1, 1).connector_flags(&flags);
    let mut scene = ImpactTest::start(plan, Bounds::default()).await;
    histories::fill(&scene.services.api(0)).await;
    scene.compare(Unread).await;
    let mut seen = 0;
    let what = "all members have left, although their sockets are still open";
    scene
        .hold(Unread, what, Duration::from_secs(12), async |services| {
            let listed = services.api(0).members(HEAVY).await;
            seen = seen.max(listed.as_ref().map_or(0, Vec::len));
            seen > 0 && listed.is_ok_and(|listed| listed.is_empty())
        })
        .await;
    scene.finish().await;
}

/// One address does too much of everything. It is refused and cut off, again and again, by limits that nobody else meets.
#[tokio::test]
async fn an_address_that_does_too_much_of_everything_disturbs_nobody() {
    let flags = [
        "--trusted-proxies",
        "127.0.0.1",
        "--request-rate",
        "200",
        "--request-burst",
        "200",
        "--byte-rate",
        "2MiB",
        "--join-rate",
        "20",
        "--join-burst",
        "20",
        "--read-rate",
        "10",
        "--address-connections",
        "1000",
        "--address-rate",
        "50",
        "--address-burst",
        "200",
    ];
    let plan = Plan::of(1, 1).connector_flags(&flags);
    let mut scene = ImpactTest::start(plan, Bounds::default()).await;
    scene.compare(Abuser).await;
    for limited in ["refused", "cut off", "sockets refused", "polls refused"] {
        let count = scene.tally.of(limited);
        scene.check(count > 0, &format!("nothing was {limited}"));
    }
    scene.finish().await;
}

/// A process that has too few descriptors keeps some for its own connections.
#[tokio::test]
async fn more_sockets_than_descriptors_disturb_nobody() {
    let plan = Plan::of(1, 1).descriptors(1_024);
    let mut scene = ImpactTest::start(plan, Bounds::default()).await;
    scene.compare(Sockets).await;
    let lost = lost_redis(&scene);
    scene.check(lost == 0, &format!("Redis was lost {lost} times"));
    scene.finish().await;
}

/// Connected clients stay, also while the connector must connect to Redis again, and while each poll needs a new
/// socket. A client for which there is no room is told so.
#[tokio::test]
async fn a_full_connector_refuses_new_clients_and_keeps_those_that_it_has() {
    const DESCRIPTORS: u32 = 1_024;
    const CLIENTS: usize = 1_300;
    testkit::impact::raise_descriptors();
    let system = Plan::of(1, 1)
        .alone()
        .descriptors(DESCRIPTORS)
        .start()
        .await;
    let connector = &system.connectors[0];
    let polls = Poller::open(connector.address(), 4).await;
    let mut polls = polls.expect("there is room for a client that polls");
    let login = json!({ "userId": "polls", "lessonId": "polls" });
    let login = polls.post(&[&socket_io::request(1, LOGIN, &login)]).await;
    assert_eq!(login.expect("an answer"), 200);
    polls.until("onJoin").await;
    let mut inside = Vec::new();
    let mut refusals = Vec::new();
    for number in 0..CLIENTS {
        let name = format!("client-{number}");
        let entered = timeout(
            SOON,
            enter(connector.address(), Terms::default(), &name, &name),
        );
        match entered.await.expect("an answer of some kind") {
            Ok(client) => inside.push(client),
            Err(refusal) => refusals.push(refusal.to_string()),
        }
    }
    println!(
        "{} are connected, {} are refused: {:?}",
        inside.len(),
        refusals.len(),
        refusals.first()
    );
    // A tenth of the descriptors is for the process itself.
    let most = (DESCRIPTORS - DESCRIPTORS / 10) as usize;
    assert!((most / 2..=most).contains(&inside.len()));
    for refusal in &refusals {
        assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
    }

    // Both kinds, because Redis counts a subscribed connection of RESP3 as `pubsub`.
    for kind in ["normal", "pubsub"] {
        let kill = ["CLIENT", "KILL", "TYPE", kind];
        system.redis.command(&kill).await;
    }
    let lost = || {
        connector
            .warnings()
            .iter()
            .any(|line| line.contains("Redis"))
    };
    wait::eventually("the connector has noticed", SOON, async || lost()).await;
    connector.ready().await;
    system.chats[0].ready().await;
    let livez = testkit::http::get(connector.admin(), "/livez").await;
    assert_eq!(livez.expect("it answers").status, 200);
    for (writer, reader) in &mut inside {
        let body = json!({ "route": SEND, "id": 1, "body": { "content": "still here" } });
        let said = writer.frame(TEXT, body.to_string().as_bytes()).await;
        said.expect("the connection is there");
        let answer = async {
            loop {
                let message = message(writer, reader)
                    .await
                    .expect("nobody is disconnected");
                if message["id"] == 1 {
                    return message["body"].clone();
                }
            }
        };
        let answer = timeout(SOON, answer).await.expect("an answer");
        assert_eq!(answer["code"], 0, "{answer}");
    }
    // Polls have descriptors of their own, which silent connections do not take away.
    let mut silent = Vec::new();
    for number in 0..100 {
        silent.push(TcpStream::connect(connector.address()).await);
        if number % 10 > 0 {
            continue;
        }
        polls.on_a_new_socket().await.expect("a socket");
        let what = format!("poll-{number}");
        let send = socket_io::request(2, SEND, &json!({ "content": what }));
        assert_eq!(polls.post(&[&send]).await.expect("an answer"), 200);
        polls.until(&what).await;
    }
    let another = Poller::open(connector.address(), 4).await;
    let refusal = another.err().expect("no room for another").to_string();
    assert!(refusal.starts_with("503: "), "{refusal}");

    // Clients that leave make room.
    drop((inside, silent));
    wait::eventually("there is room again", SOON, async || {
        let entered = enter(connector.address(), Terms::default(), "late", "late").await;
        entered.is_ok()
    })
    .await;
}

/// All misuses at the same time: unread answers, acknowledgements of pings that were not sent, silent connections,
/// calls without a body, and streams without a message.
#[tokio::test]
async fn misuse_of_http2_on_chats_port_disturbs_nobody() {
    misuse_chats_port(Http2::Everything).await;
}

async fn misuse_chats_port(misuse: Http2) {
    // Unread answers may take 64 MiB, and so may incomplete requests.
    let bounds = Bounds {
        peak: 192 * MEBIBYTE,
        ..Bounds::default()
    };
    let mut scene = ImpactTest::start(Plan::of(1, 1), bounds).await;
    histories::fill(&scene.services.api(0)).await;
    scene.compare(misuse).await;
    scene.finish().await;
}

/// Each misuse alone.
#[tokio::test]
#[ignore = "repeats the test above in parts: ./tests/run --long"]
async fn each_misuse_of_http2_on_chats_port_disturbs_nobody() {
    for misuse in [
        Http2::UnreadPages,
        Http2::Pings,
        Http2::Silent,
        Http2::Bodiless,
        Http2::IdleStreams,
    ] {
        println!("{misuse:?}");
        misuse_chats_port(misuse).await;
    }
}

/// Attacks of all kinds at the same time.
#[tokio::test]
#[ignore = "loads the machine for long: ./tests/run --long"]
async fn random_mixtures_of_attacks_leave_the_system_as_it_was() {
    let flags = [
        "--heartbeat",
        "2s",
        "--socketio-heartbeat",
        "2s",
        "--socketio-timeout",
        "2s",
    ];
    let plan = Plan::of(1, 1).descriptors(1_024).connector_flags(&flags);
    let bounds = Bounds {
        peak: 256 * MEBIBYTE,
        ..Bounds::default()
    };
    let mut scene = ImpactTest::start(plan, bounds).await;
    histories::fill(&scene.services.api(0)).await;
    scene.endure(Mixed, Duration::from_secs(20)).await;
    scene.finish().await;
}

/// How often services have logged that they lost Redis.
fn lost_redis(scene: &ImpactTest) -> usize {
    let services = &scene.services;
    let warnings = [
        services.connectors[0].warnings(),
        services.chats[0].warnings(),
    ];
    let lines = warnings.iter().flatten();
    lines
        .filter(|line| line.to_lowercase().contains("lost"))
        .count()
}
