//! What a publication costs: Redis commands (F14) and time (F15).

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use testkit::long;
use testkit::pace;
use testkit::pomelo::{Client, LOGIN, SENT, heard};
use testkit::system::{Plan, System};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Commands that list members or keys.
const LISTING: [&str; 14] = [
    "hgetall", "hkeys", "hvals", "hscan", "hlen", "smembers", "sscan", "scard", "keys", "scan",
    "lrange", "zrange", "zscan", "sort",
];

/// F14: in the original, every push read the whole member list, once for each connector.
#[tokio::test]
async fn a_publication_costs_redis_the_same_few_commands_however_many_members_f14() {
    const COUNT: u64 = 200;
    let system = Plan::of(2, 1).alone().start().await;
    let mut members = Vec::new();
    for number in 0..4 {
        let user = format!("user{number}");
        members.push(system.member(number % 2, &user, "room").await);
    }
    let few = commands(&system, &members, COUNT).await;
    for number in 4..200 {
        let user = format!("user{number}");
        members.push(system.member(number % 2, &user, "room").await);
    }
    let many = commands(&system, &members, COUNT).await;

    for calls in [&few, &many] {
        for listing in LISTING {
            let times = calls.get(listing).copied().unwrap_or_default();
            assert!(times < COUNT / 10, "{listing} was called {times} times");
        }
        // Those inside the script are counted, too.
        let each = calls.values().sum::<u64>() / COUNT;
        assert!(
            each <= 20,
            "{each} commands for each publication: {calls:?}"
        );
    }
    let total = |calls: &BTreeMap<String, u64>| calls.values().sum::<u64>();
    assert!(
        total(&many) <= total(&few) + total(&few) / 5,
        "with 4 members {few:?}\nwith 200 {many:?}"
    );
}

/// The Redis commands that `count` publications cause, until all of them have arrived everywhere.
async fn commands(system: &System, members: &[Client], count: u64) -> BTreeMap<String, u64> {
    let before = system.redis.calls().await;
    for number in 0..count {
        assert_eq!(members[0].say(&number.to_string()).await, SENT);
    }
    let last = heard("user0", &(count - 1).to_string());
    for member in members {
        member.until_push(&last).await;
    }
    let mut calls = system.redis.calls().await;
    calls.retain(|command, calls| {
        *calls -= before.get(command).copied().unwrap_or_default();
        // Their number depends on time, not on publications.
        !matches!(command.as_str(), "ping" | "info") && *calls > 0
    });
    calls
}

/// When a connector ends, many clients come back at once. Redis must not get a storm of reads.
#[tokio::test]
async fn resuming_on_a_connector_that_has_the_log_in_memory_costs_redis_no_read() {
    const MISSED: u64 = 20;
    let system = Plan::of(2, 1).alone().start().await;
    let alice = system.member(0, "alice", "room").await;
    let log_in = async |connector: usize, user: &str, recovery: (&str, Value)| {
        let client = testkit::json::Client::connect(system.connectors[connector].address()).await;
        let mut body = json!({ "userId": user, "lessonId": "room" });
        body[recovery.0] = recovery.1;
        let reply = client.request(LOGIN, body).await;
        (client, reply)
    };
    let (visitor, reply) = log_in(0, "visitor", ("positions", true.into())).await;
    let since = json!({
        "epoch": reply["position"]["epoch"],
        "offset": reply["position"]["offset"].as_u64().map(|before_join| before_join + 1),
    });
    drop(visitor);
    for number in 0..MISSED {
        assert_eq!(alice.say(&number.to_string()).await, SENT);
    }
    let reads = async || {
        let calls = system.redis.calls().await;
        calls.get("xrange").copied().unwrap_or_default()
    };
    let before = reads().await;
    for number in 0..30 {
        let (client, reply) = log_in(0, &format!("user{number}"), ("since", since.clone())).await;
        assert_eq!(reply["recovered"], true, "{reply}");
        let replayed = reply["replayed"].as_u64().expect("a number");
        assert!(replayed > MISSED, "{reply}");
        let pushes = client
            .until_pushes(usize::try_from(replayed).expect("few"))
            .await;
        let first = since["offset"].as_u64().expect("a number") + 1;
        for (push, offset) in pushes.iter().zip(first..) {
            assert_eq!(push["offset"], offset);
        }
    }
    assert_eq!(reads().await, before, "the log was read");
    // A connector that has nothing in memory must read, and does.
    let (_, reply) = log_in(1, "elsewhere", ("since", since)).await;
    assert_eq!(reply["recovered"], true, "{reply}");
    assert!(reads().await > before);
}

/// F15: in the original, Nagle's algorithm and delayed acknowledgements made 90 ms of each send.
#[tokio::test]
async fn a_send_on_an_idle_system_waits_for_no_tcp_timer_f15() {
    const COUNT: usize = 100;
    let system = Plan::of(2, 2).alone().start().await;
    let alice = system.member(0, "alice", "room").await;
    let bob = system.member(1, "bob", "room").await;
    let mut answered = Vec::new();
    let mut delivered = Vec::new();
    for number in 0..COUNT {
        let content = number.to_string();
        let begin = Instant::now();
        assert_eq!(alice.say(&content).await, SENT);
        answered.push(pace::since(begin));
        bob.until_push(&heard("alice", &content)).await;
        delivered.push(pace::since(begin));
    }
    for (what, mut times) in [("answered", answered), ("delivered", delivered)] {
        times.sort();
        let (median, most) = (times[COUNT / 2], times[COUNT * 9 / 10]);
        assert!(median < Duration::from_millis(10), "{what} in {median:?}");
        assert!(most < Duration::from_millis(30), "{what} in {most:?}");
    }
}

/// The commands a second that Redis runs while nothing happens: with one member in each channel, then with thirty.
async fn idle(connectors: usize, channels: usize, during: Duration) -> (f64, f64) {
    const AT_ONCE: usize = 32;
    const EACH: usize = 30;
    let flags = ["--lease", "1s"];
    let plan = Plan::of(connectors, 1)
        .alone()
        .chat_flags(&flags)
        .connector_flags(&flags)
        .connector_flags(&["--touch", "1s"]);
    let system = plan.start().await;
    let mut members = Vec::new();
    let mut commands = Vec::new();
    for round in [0..1, 1..EACH] {
        let mut joining = JoinSet::new();
        for number in round.start * channels..round.end * channels {
            if joining.len() == AT_ONCE {
                members.extend(joining.join_next().await);
            }
            let address = system.connectors[number % connectors].address();
            let (user, room) = (
                format!("user-{number}"),
                format!("room-{}", number % channels),
            );
            joining.spawn(async move { Client::join(address, &user, &room).await });
        }
        while let Some(joined) = joining.join_next().await {
            members.push(joined);
        }
        let before = system.redis.calls().await;
        let began = Instant::now();
        tokio::time::sleep(during).await;
        let after = system.redis.calls().await;
        let calls = after.values().sum::<u64>() - before.values().sum::<u64>();
        commands.push(
            u32::try_from(calls).map(f64::from).expect("few") / began.elapsed().as_secs_f64(),
        );
    }
    for member in members {
        assert_eq!(member.expect("it joins").ended(), None);
    }
    (commands[0], commands[1])
}

/// Leases, reconciling and touches depend on the number of connectors, not on the members.
#[tokio::test]
async fn idle_members_cost_redis_nothing_and_each_connector_a_little() {
    let (channels, during) = if long() {
        (500, Duration::from_secs(60))
    } else {
        (50, Duration::from_secs(4))
    };
    let (few, many) = idle(1, channels, during).await;
    let (few_at_three, many_at_three) = idle(3, channels, during).await;
    println!(
        "commands a second: one connector {few:.0}, with 30 times the members {many:.0}; three connectors \
         {few_at_three:.0} and {many_at_three:.0}"
    );
    // Touches come once a second, so one more or less makes a difference.
    assert!(many < 1.5 * few);
    assert!(many_at_three < 4.0 * many);
    // The measurement sees something.
    assert!(few > 1.0 && many_at_three > 1.2 * many);
}
