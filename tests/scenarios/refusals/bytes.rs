//! Every message of a client counts with its bytes, whatever it is and in whatever protocol it comes.

use super::sessions::{Session, Way};
use super::system::Locked;
use super::tokens::{claims, shared};
use super::{Findings, has, is_ok};
use serde_json::{Value, json};
use testkit::permit::Permit;
use testkit::pomelo::{self, DATA, HANDSHAKE, HEARTBEAT, LOGIN, SEND};
use testkit::websocket::{BINARY, TEXT};
use testkit::{SOON, socket_io, sse};

const MEMBERS: &str = "chat.handler.members";
/// Bytes that a session may send at once. It gets no more for a long time, so that a slow machine does not count.
const BURST: usize = 20 << 10;
/// Bytes in a message of the tests.
const SIZE: usize = 2_000;
/// So many fit into the burst beside a login and a question.
const FITTING: usize = 9;

/// What a client sends.
#[derive(Debug, Clone, Copy)]
enum What {
    /// A request that wants no answer, with a text as its body.
    Notify,
    /// A message that its protocol ignores, or that is no request.
    Ignored,
    /// What shows that the client lives, and is never refused.
    Alive,
}

impl Session {
    /// Sends a message of about [`SIZE`] bytes.
    async fn fling(&mut self, what: What) {
        let text = "x".repeat(SIZE);
        let quoted = format!("\"{text}\"");
        let package = match what {
            What::Notify => pomelo::package(DATA, &pomelo::notification(SEND, quoted.as_bytes())),
            What::Ignored => pomelo::package(HANDSHAKE, quoted.as_bytes()),
            What::Alive => pomelo::package(HEARTBEAT, quoted.as_bytes()),
        };
        let packet = match what {
            What::Notify => socket_io::request(0, SEND, &json!(text)),
            What::Ignored => format!("42{}", json!(["other", text])),
            What::Alive => format!("2{text}"),
        };
        match self {
            Self::Json(client) => {
                let message = match what {
                    What::Notify => json!({"route": SEND, "body": text}),
                    What::Ignored => json!([text]),
                    What::Alive => json!({"route": "connector.handler.ping", "body": {"x": text}}),
                };
                client.frame(TEXT, message.to_string().as_bytes()).await;
            }
            Self::Pomelo(client) => client.frame(BINARY, &package).await,
            // The other side may have closed already.
            Self::PomeloOverTcp(client) => client.try_write(&package).await,
            Self::SocketIo(link, _) => socket_io::say(link, &packet).await,
            Self::Sse(address, Some(stream)) => {
                let message = match what {
                    What::Notify => json!({"route": SEND, "body": text}),
                    What::Ignored => json!([text]),
                    What::Alive => json!({"route": "connector.handler.ping", "body": {"x": text}}),
                };
                drop(sse::post(*address, &stream.session(), &message).await);
            }
            Self::Sse(_, None) => {}
            Self::Polls(poller, _) => drop(poller.post(&[&packet]).await),
        }
    }

    /// Waits until the connection is over.
    async fn ends(&mut self) {
        match self {
            Self::Json(client) => drop(client.end(SOON).await),
            Self::Pomelo(client) => drop(client.end(SOON).await),
            Self::PomeloOverTcp(client) => client.until_end().await,
            Self::SocketIo(link, _) => drop(link.end(SOON).await),
            Self::Sse(_, stream) => {
                if let Some(stream) = stream {
                    stream.end(SOON).await;
                }
            }
            Self::Polls(poller, _) => {
                testkit::wait::eventually("the session is unknown", SOON, async || {
                    poller.poll().await.is_ok_and(|(status, _)| status == 400)
                })
                .await;
            }
        }
    }
}

async fn locked() -> Locked {
    let burst = BURST.to_string();
    Locked::start(&[], &["--byte-rate", "1", "--byte-burst", &burst]).await
}

/// A session that has logged in as this user. Each has its own, because the end of one that polls is noticed late.
async fn enter(way: Way, user: &str, system: &Locked) -> Session {
    let mut session = Session::open(way, system.clients()).await;
    let body = json!({"token": shared(&claims(user)), "lessonId": "open"});
    let reply = session.ask(LOGIN, &body).await;
    assert_eq!(is_ok(&reply), Ok(()), "{way:?}");
    session
}

#[tokio::test]
async fn the_bytes_of_a_request_count_whatever_its_body_is() {
    let _permit = Permit::shared().await;
    let system = locked().await;
    let mut findings = Findings::default();
    for way in Way::ALL {
        for (user, body) in [
            ("ann", json!("x".repeat(SIZE))),
            ("bob", json!(vec![1_111_111; SIZE / 8])),
            ("carl", json!({"text": "x".repeat(SIZE)})),
        ] {
            let user = format!("{user} {way:?}");
            let mut session = enter(way, &user, &system).await;
            let mut answers = Vec::new();
            for _ in 0..2 * FITTING {
                answers.push(session.ask(SEND, &body).await);
            }
            let refused = |answer: &&Value| has(answer, 429, "RATE_LIMITED").is_ok();
            let fitting = answers.iter().position(|it| refused(&it));
            let fitting = match fitting {
                Some(fitting) if fitting >= FITTING => Ok(()),
                other => Err(format!("{other:?} were not refused")),
            };
            let last = has(answers.last().unwrap_or(&Value::Null), 429, "RATE_LIMITED");
            findings.row(&format!("{way:?} {:.9}", body.to_string()), last, fitting);
        }
    }
    findings.check(18);
}

/// What cannot be refused counts all the same: first requests are refused, and then the client is closed.
#[tokio::test]
async fn the_bytes_of_a_message_count_whatever_it_is() {
    let _permit = Permit::shared().await;
    let system = locked().await;
    let mut findings = Findings::default();
    for way in Way::ALL {
        for what in [What::Notify, What::Ignored, What::Alive] {
            let user = format!("{way:?} {what:?}");
            let mut session = enter(way, &user, &system).await;
            for _ in 0..FITTING {
                session.fling(what).await;
            }
            let allowed = is_ok(&session.ask(MEMBERS, &json!({"channel": "open"})).await);
            for _ in 0..3 {
                session.fling(what).await;
            }
            let answer = session.ask(MEMBERS, &json!({"channel": "open"})).await;
            let refused = has(&answer, 429, "RATE_LIMITED");
            findings.row(&format!("{way:?} {what:?}"), refused, allowed);
            for _ in 0..2 * FITTING {
                session.fling(what).await;
            }
            session.ends().await;
        }
    }
    findings.check(18);
}
