//! The connector answers as the original did. The clients of the recordings are replayed, and every payload that comes
//! back is compared, unmasked and inflated. Replies and pushes are compared as separate sequences (K2). Two things are
//! not compared: `__route__`, which is not sent any more, and what a test names as a fault.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use testkit::SOON;
use testkit::link::End;
use testkit::pace;
use testkit::pomelo::{Client, DATA, Message};
use testkit::recording::{self, Event};
use testkit::system::Plan;
use testkit::websocket::{BINARY, CLOSE, Terms};
use tokio::time::{Instant, sleep_until};

/// What is replayed, and how.
#[derive(Default)]
struct Replay {
    /// The beginning of the recording's name.
    name: &'static str,
    /// The flags of the connector.
    flags: &'static [&'static str],
    /// Replay at the recorded times.
    pace: bool,
    /// Let the client offer compression.
    deflates: bool,
    /// A recorded package with this end was a fault of the original, and must not come.
    fault: &'static str,
    /// A package with this end may come: in the recording, the connection ended before it.
    cut_off: &'static str,
}

/// What a connection should receive, or has received.
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
    /// Waits until everything has come that had come in the recording by now.
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

async fn replay(replay: Replay) {
    let Replay { name, flags, .. } = replay;
    let system = Plan::of(1, 1).connector_flags(flags).start().await;
    let address = system.connectors[0].address();
    let begin = Instant::now();
    let mut played: BTreeMap<usize, Played> = BTreeMap::new();
    for step in recording::read(name) {
        if matches!(
            step.event,
            Event::Opened | Event::Sent(_) | Event::SentClose(_) | Event::Finished
        ) {
            for connection in played.values() {
                connection.catch_up(name).await;
            }
            if replay.pace {
                sleep_until(begin + step.at).await;
            }
        }
        if step.event == Event::Opened {
            let terms = Terms {
                deflates: replay.deflates,
                ..Terms::default()
            };
            let client = Client::dial_on(address, terms).await;
            // It sends what is recorded, and nothing by itself.
            client.stop_heartbeats();
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
            Event::Received(package) if ends(&package, replay.fault) => {}
            Event::Received(package) => connection.expected.add(package),
            Event::ReceivedClose(payload) => {
                let code: [u8; 2] = payload[..2].try_into().expect("a recorded code");
                connection.close = Some(u16::from_be_bytes(code));
            }
            Event::Sent(payload) => client.frame(BINARY, &payload).await,
            Event::SentClose(payload) if connection.close.is_none() => {
                client.frame(CLOSE, &payload).await;
            }
            // The server closed first, and the client's answer to that goes by itself.
            Event::SentClose(_) => {}
            Event::Finished => {
                if connection.close.is_none() {
                    assert_eq!(client.ended(), None, "{name}: closed too early");
                } else {
                    // The server closed first, so the client must not be faster now.
                    client.end(SOON).await;
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
            .retain(|package| !ends(package, replay.cut_off));
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
    for deflates in [false, true] {
        replay(Replay {
            name: "hybrid-01",
            deflates,
            ..Replay::default()
        })
        .await;
    }
}

#[tokio::test]
async fn two_users_see_each_other_as_recorded() {
    replay(Replay {
        name: "hybrid-02",
        ..Replay::default()
    })
    .await;
}

#[tokio::test]
async fn errors_are_answered_as_recorded() {
    replay(Replay {
        name: "hybrid-03",
        ..Replay::default()
    })
    .await;
}

/// F5: in the original the last login succeeded, with another user on the same connection. Its push must not come.
#[tokio::test]
async fn unknown_routes_are_answered_as_recorded() {
    replay(Replay {
        name: "hybrid-04",
        fault: r#"onJoin{"userId":"x1"}"#,
        ..Replay::default()
    })
    .await;
}

/// K2: a client that joins gets its own onJoin. In the recording the kick came before it.
#[tokio::test]
async fn an_attack_is_kicked_as_recorded() {
    replay(Replay {
        name: "hybrid-05",
        cut_off: r#"onJoin{"userId":"k"}"#,
        ..Replay::default()
    })
    .await;
}

#[tokio::test]
async fn ids_and_sizes_are_answered_as_recorded() {
    replay(Replay {
        name: "hybrid-07",
        ..Replay::default()
    })
    .await;
}

/// F13: small messages are not compressed any more.
#[tokio::test]
async fn compressed_messages_are_answered_as_recorded() {
    replay(Replay {
        name: "hybrid-08",
        deflates: true,
        ..Replay::default()
    })
    .await;
}

#[tokio::test]
async fn with_a_dictionary_the_first_steps_are_answered_as_recorded() {
    replay(Replay {
        name: "hybriddict-01",
        flags: &["--dictionary"],
        deflates: true,
        ..Replay::default()
    })
    .await;
}

#[tokio::test]
async fn with_a_dictionary_errors_are_answered_as_recorded() {
    replay(Replay {
        name: "hybriddict-03",
        flags: &["--dictionary"],
        ..Replay::default()
    })
    .await;
}

#[tokio::test]
async fn a_client_that_knows_the_dictionarys_version_is_not_sent_it_again_as_recorded() {
    replay(Replay {
        name: "hybriddict-12",
        // These clients go no further than the handshake, and do not disconnect.
        flags: &[
            "--dictionary",
            "--heartbeat",
            "1",
            "--handshake-timeout",
            "2s",
        ],
        ..Replay::default()
    })
    .await;
}

#[tokio::test]
async fn heartbeats_are_answered_as_recorded() {
    replay(Replay {
        name: "hybrid-10",
        flags: &["--heartbeat", "1"],
        pace: true,
        deflates: true,
        ..Replay::default()
    })
    .await;
}

/// K5, as in the second connection of the recording: data does not count as a heartbeat.
#[tokio::test]
async fn a_client_that_sends_data_but_no_heartbeats_is_dropped_after_two_intervals() {
    let plan = Plan::of(1, 1).connector_flags(&["--heartbeat", "1"]);
    let system = plan.start().await;
    let begin = Instant::now();
    let client = system.visitor(0).await;
    client.stop_heartbeats();
    client.enter("hb", "1").await;
    let sending = async {
        let mut every = tokio::time::interval(Duration::from_millis(300));
        loop {
            every.tick().await;
            client.start("connector.handler.nosuch", "{}").await;
        }
    };
    let end = tokio::select! {
        end = client.end(SOON) => end,
        () = sending => unreachable!("it sends until it is dropped"),
    };
    assert!(matches!(end, End::Closed { code: 1000, .. }), "{end:?}");
    let (took, counted) = (begin.elapsed(), pace::since(begin));
    assert!(
        took >= Duration::from_millis(1_500),
        "dropped after {took:?}"
    );
    assert!(counted < Duration::from_secs(4), "dropped after {took:?}");
}
