//! What was recorded of the original is answered alike: the recordings' clients are played, and every payload that comes
//! back is compared, replies and pushes as separate sequences (K2). Not compared: `__route__`, which is not sent any
//! more, deflate, which these clients don't offer, and what a test names as a fault.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use tests::SOON;
use tests::link::End;
use tests::pomelo::{Client, DATA, Message};
use tests::system::Plan;
use tests::transcript::{self, Event};
use tests::websocket::{BINARY, CLOSE};
use tokio::time::{Instant, sleep_until};

/// Where what is received differs from what was recorded: ends of packages.
#[derive(Default)]
struct Exceptions {
    /// Recorded, and a fault: it must not come.
    fault: &'static str,
    /// Cut off in the recording by the connection's end: it may come.
    cut_off: &'static str,
}

/// What a connection is to receive, or has received.
#[derive(Default, Debug, PartialEq, Eq)]
struct Answers {
    replies: Vec<Bytes>,
    pushes: Vec<Bytes>,
    others: Vec<Bytes>,
}

impl Answers {
    fn of(client: &Client) -> Self {
        let received = client.inbox().read();
        let replies = received.replies.iter().map(|reply| reply.package.clone());
        let pushes = received.pushes.iter().map(|push| push.package.clone());
        Self {
            replies: replies.collect(),
            pushes: pushes.collect(),
            others: received.others.clone(),
        }
    }

    fn add(&mut self, package: Bytes) {
        if package[0] != DATA {
            self.others.push(package);
            return;
        }
        match Message::parse(&package.slice(4..)).expect("a recorded message") {
            Message::Response { .. } => self.replies.push(package),
            Message::Push { .. } => self.pushes.push(package),
        }
    }
}

struct Played {
    client: Client,
    expected: Answers,
    close: Option<u16>,
}

impl Played {
    /// Waits for all that the recording has had by now.
    async fn catch_up(&self, name: &str) {
        let inbox = self.client.inbox();
        let caught = inbox.until(SOON, |received| {
            let enough = received.replies.len() >= self.expected.replies.len()
                && received.pushes.len() >= self.expected.pushes.len()
                && received.others.len() >= self.expected.others.len();
            enough.then_some(())
        });
        let caught = caught.await;
        assert!(
            caught.is_some(),
            "{name}: received {:?}\nexpected {:?}",
            Answers::of(&self.client),
            self.expected
        );
    }
}

/// Plays a recording, with `pace` at the recorded times.
async fn replay(name: &str, flags: &[&'static str], pace: bool, exceptions: Exceptions) {
    let system = Plan::of(1, 1).connector_flags(flags).start().await;
    let address = system.connectors[0].address();
    let begin = Instant::now();
    let mut played: BTreeMap<usize, Played> = BTreeMap::new();
    for step in transcript::read(name) {
        if matches!(
            step.event,
            Event::Opened | Event::Sent(_) | Event::SentClose(_) | Event::Finished
        ) {
            for connection in played.values() {
                connection.catch_up(name).await;
            }
            if pace {
                sleep_until(begin + step.at).await;
            }
        }
        if step.event == Event::Opened {
            let client = Client::dial(address).await;
            // It says what is recorded, and nothing by itself.
            client.fall_silent();
            let connection = Played {
                client,
                expected: Answers::default(),
                close: None,
            };
            played.insert(step.connection, connection);
            continue;
        }
        let connection = played.get_mut(&step.connection).expect("it was opened");
        let client = &connection.client;
        match step.event {
            Event::Opened | Event::Ended => {}
            Event::Received(package) if ends(&package, exceptions.fault) => {}
            Event::Received(package) => connection.expected.add(package),
            Event::ReceivedClose(payload) => {
                let code: [u8; 2] = payload[..2].try_into().expect("a recorded code");
                connection.close = Some(u16::from_be_bytes(code));
            }
            Event::Sent(payload) => client.frame(BINARY, &payload).await,
            Event::SentClose(payload) if connection.close.is_none() => {
                client.frame(CLOSE, &payload).await;
            }
            // The server closed first: the answer to that goes by itself.
            Event::SentClose(_) => {}
            Event::Finished => {
                if connection.close.is_none() {
                    assert_eq!(client.ended(), None, "{name}: closed before its time");
                }
                client.finish().await;
            }
        }
    }
    for (number, connection) in &played {
        let end = connection.client.end(SOON).await;
        match connection.close {
            Some(recorded) => {
                let closed = matches!(end, End::Closed { code, .. } if code == recorded);
                assert!(closed, "{name}, connection {number}: {end:?}");
            }
            None => assert!(!matches!(end, End::Broken(_)), "{name}: {end:?}"),
        }
        let mut received = Answers::of(&connection.client);
        received
            .pushes
            .retain(|package| !ends(package, exceptions.cut_off));
        assert_eq!(
            received, connection.expected,
            "{name}, connection {number}: received (left) is not what was recorded (right)"
        );
    }
}

fn ends(package: &Bytes, with: &str) -> bool {
    !with.is_empty() && package.ends_with(with.as_bytes())
}

#[tokio::test]
async fn the_official_clients_first_steps_are_answered_as_recorded() {
    replay("hybrid-01", &[], false, Exceptions::default()).await;
}

#[tokio::test]
async fn two_users_see_each_other_as_recorded() {
    replay("hybrid-02", &[], false, Exceptions::default()).await;
}

#[tokio::test]
async fn errors_are_answered_as_recorded() {
    replay("hybrid-03", &[], false, Exceptions::default()).await;
}

/// F5: the recording's last login, with another user on a connection that has one, succeeded then; its push is void.
#[tokio::test]
async fn unknown_routes_are_answered_as_recorded() {
    let exceptions = Exceptions {
        fault: r#"onJoin{"userId":"x1"}"#,
        ..Exceptions::default()
    };
    replay("hybrid-04", &[], false, exceptions).await;
}

/// K2: the joiner gets its own onJoin; in the recording the kick came before.
#[tokio::test]
async fn an_attack_is_kicked_as_recorded() {
    let exceptions = Exceptions {
        cut_off: r#"onJoin{"userId":"k"}"#,
        ..Exceptions::default()
    };
    replay("hybrid-05", &[], false, exceptions).await;
}

#[tokio::test]
async fn ids_and_sizes_are_answered_as_recorded() {
    replay("hybrid-07", &[], false, Exceptions::default()).await;
}

#[tokio::test]
async fn with_a_dictionary_the_first_steps_are_answered_as_recorded() {
    replay(
        "hybriddict-01",
        &["--dictionary"],
        false,
        Exceptions::default(),
    )
    .await;
}

#[tokio::test]
async fn with_a_dictionary_errors_are_answered_as_recorded() {
    replay(
        "hybriddict-03",
        &["--dictionary"],
        false,
        Exceptions::default(),
    )
    .await;
}

#[tokio::test]
async fn who_comes_back_with_the_dictionarys_version_is_not_told_it_again_as_recorded() {
    // These clients go no further than the handshake, and don't end.
    let flags = &[
        "--dictionary",
        "--heartbeat",
        "1",
        "--handshake-timeout",
        "2s",
    ];
    replay("hybriddict-12", flags, false, Exceptions::default()).await;
}

#[tokio::test]
async fn heartbeats_are_answered_as_recorded() {
    replay(
        "hybrid-10",
        &["--heartbeat", "1"],
        true,
        Exceptions::default(),
    )
    .await;
}

/// K5, as the recording's second connection has it: data is no heartbeat.
#[tokio::test]
async fn who_talks_but_never_beats_is_dropped_after_twice_the_interval() {
    let plan = Plan::of(1, 1).connector_flags(&["--heartbeat", "1"]);
    let system = plan.start().await;
    let begin = Instant::now();
    let client = system.visitor(0).await;
    client.fall_silent();
    client.enter("hb", "1").await;
    let talks = async {
        let mut every = tokio::time::interval(Duration::from_millis(300));
        loop {
            every.tick().await;
            client.start("connector.handler.nosuch", "{}").await;
        }
    };
    let end = tokio::select! {
        end = client.end(SOON) => end,
        () = talks => unreachable!("it talks until it is dropped"),
    };
    assert!(matches!(end, End::Closed { code: 1000, .. }), "{end:?}");
    let took = begin.elapsed();
    let about_two = Duration::from_millis(1_500)..Duration::from_millis(4_000);
    assert!(about_two.contains(&took), "dropped after {took:?}");
}
