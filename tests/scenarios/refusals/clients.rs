//! What clients are refused: where their pages come from, who they say they are, what they may do, and how often.

use super::sessions::{Session, Way};
use super::system::{Locked, PAGE};
use super::tokens::{PUBLIC, SECRET, claims, now, shared, unsigned, with, with_secret};
use super::{Findings, has, is_ok, is_refused};
use serde_json::{Value, json};
use std::net::SocketAddr;
use testkit::permit::Permit;
use testkit::polling::Http;
use testkit::pomelo::{LOGIN, SEND};
use testkit::websocket::upgrade_request;

const JOIN: &str = "chat.handler.join";
const HISTORY: &str = "chat.handler.history";
const MEMBERS: &str = "chat.handler.members";
const PUBLISH: &str = "chat.handler.publish";
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The status of a request that a page of this origin makes.
async fn from_page(address: SocketAddr, request: &str, origin: &str) -> u16 {
    let head = request.strip_suffix("\r\n").expect("a head");
    let request = format!("{head}Origin: {origin}\r\n\r\n");
    let mut http = Http::connect(address).await.expect("it listens");
    http.send(request.as_bytes()).await.expect("it reads");
    http.answer().await.expect("it answers").0
}

fn is(status: u16, expected: u16) -> Result<(), String> {
    if status == expected {
        Ok(())
    } else {
        Err(format!("{status}, not {expected}"))
    }
}

#[tokio::test]
async fn pages_of_other_origins_reach_no_protocol() {
    let _permit = Permit::shared().await;
    let system = Locked::start(&[], &[]).await;
    let address = system.clients();
    let poll =
        format!("GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let events = format!("GET /sse?channel=open HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let post = format!("POST /sse/none HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n");
    let mut findings = Findings::default();
    for (name, request, good) in [
        ("JSON", upgrade_request(address, "/ws", KEY), 101),
        ("Pomelo", upgrade_request(address, "/", KEY), 101),
        (
            "Socket.IO",
            upgrade_request(address, "/socket.io/?EIO=4&transport=websocket", KEY),
            101,
        ),
        ("polls", poll, 200),
        // It is let in so far that it is asked for its token, and for its session.
        ("events", events, 401),
        ("posts", post, 404),
    ] {
        for origin in [
            "https://evil.example",
            "null",
            "http://page.example",
            "https://page.example.evil",
        ] {
            let refused = from_page(address, &request, origin).await;
            let allowed = from_page(address, &request, PAGE).await;
            findings.row(
                &format!("{name} from {origin}"),
                is(refused, 403),
                is(allowed, good),
            );
        }
    }
    findings.check(24);
}

/// Tokens that are not worth anything, each with the reason that a client reads.
fn worthless(system: &Locked, user: &str) -> Vec<(&'static str, String, &'static str)> {
    let good = || claims(user);
    let invalid = "TOKEN_INVALID";
    let changed = |changes| shared(&with(good(), &changes));
    let of_public = with(good(), &json!({"iss": PUBLIC}));
    let text = shared(&good());
    let key = |id: &str| json!({"alg": "EdDSA", "kid": id});
    let other = super::tokens::Pair::new();
    vec![
        ("no token", String::new(), invalid),
        (
            "no token at all, but words",
            "let me in".to_owned(),
            invalid,
        ),
        (
            "a changed signature",
            format!("{}A", &text[..text.len() - 2]),
            invalid,
        ),
        (
            "another secret",
            with_secret(&[7; 32], &json!({"alg": "HS256"}), &good()),
            invalid,
        ),
        ("no algorithm", unsigned(&good()), invalid),
        (
            "an algorithm that is not listed",
            with_secret(SECRET, &json!({"alg": "HS512"}), &good()),
            invalid,
        ),
        (
            "a public key taken for a secret",
            with_secret(
                system.pair.public(),
                &json!({"alg": "HS256", "kid": "one"}),
                &of_public,
            ),
            invalid,
        ),
        (
            "an unknown key",
            system.pair.sign(&key("two"), &of_public),
            invalid,
        ),
        (
            "another key of the same name",
            other.sign(&key("one"), &of_public),
            invalid,
        ),
        (
            "an unknown issuer",
            changed(json!({"iss": "https://evil.example"})),
            invalid,
        ),
        ("no issuer", changed(json!({"iss": null})), invalid),
        (
            "the issuer of another key",
            system.pair.sign(&key("one"), &good()),
            invalid,
        ),
        (
            "another audience",
            changed(json!({"aud": ["mail"]})),
            invalid,
        ),
        ("no end", changed(json!({"exp": null})), invalid),
        (
            "an end 90 s ago",
            changed(json!({"exp": now() - 90})),
            "TOKEN_EXPIRED",
        ),
        (
            "a beginning in 90 s",
            changed(json!({"nbf": now() + 90})),
            invalid,
        ),
        ("no user", changed(json!({"sub": null})), invalid),
        ("another user", changed(json!({"sub": "bob"})), invalid),
        (
            "10 KB of claims",
            changed(json!({"more": "x".repeat(10_000)})),
            invalid,
        ),
        ("a token in a token", changed(json!({"sub": text})), invalid),
        (
            "critical extensions",
            with_secret(
                SECRET,
                &json!({"alg": "HS256", "crit": ["exp"], "exp": 1}),
                &good(),
            ),
            invalid,
        ),
        (
            "a key of its own",
            system.pair.sign(
                &with(key("one"), &json!({"jku": "http://127.0.0.1:1/"})),
                &of_public,
            ),
            invalid,
        ),
    ]
}

#[tokio::test]
async fn nobody_logs_in_with_a_worthless_token() {
    let _permit = Permit::shared().await;
    let system = Locked::start(&[], &[]).await;
    let mut findings = Findings::default();
    let rows = worthless(&system, "").len();
    for way in Way::ALL {
        for row in 0..rows {
            // The end of a session may be noticed late, so each has a user of its own.
            let user = format!("{way:?}-{row}");
            let (name, token, reason) = worthless(&system, &user).swap_remove(row);
            let mut session = Session::open(way, system.clients()).await;
            let mut body = json!({"userId": user, "lessonId": "open"});
            if !token.is_empty() {
                body["token"] = json!(token);
            }
            let refused = session.ask(LOGIN, &body).await;
            let sends = session.ask(SEND, &json!({"content": "hi"})).await;
            let refused =
                has(&refused, 401, reason).and_then(|()| is_refused(&sends, "NOT_LOGGED_IN"));
            // The same connection is let in with a good one, so it was not cut off.
            body["token"] = json!(shared(&claims(&user)));
            let allowed = session.ask(LOGIN, &body).await;
            findings.row(&format!("{way:?} with {name}"), refused, is_ok(&allowed));
        }
    }
    assert!(
        !system.log().contains(&shared(&claims("ann"))[..40]),
        "no token is logged"
    );
    findings.check(120);
}

#[tokio::test]
async fn nobody_does_in_a_channel_what_its_rule_forbids() {
    let _permit = Permit::shared().await;
    let system = Locked::start(&[], &[]).await;
    let all = json!([{"channels": ["granted:*"], "allow": ["join", "send", "history", "members"]}]);
    let only_join = json!([{"channels": ["granted:*"], "allow": ["join"]}]);
    let granted = |user: &str| shared(&with(claims(user), &json!({"caps": all})));
    let joins = |user: &str| shared(&with(claims(user), &json!({"caps": only_join})));
    let mut findings = Findings::default();
    for way in Way::ALL {
        let open = async |token: String, channel: Option<&str>| {
            let mut session = Session::open(way, system.clients()).await;
            let mut body = json!({"token": token});
            if let Some(channel) = channel {
                body["lessonId"] = json!(channel);
            }
            let reply = session.ask(LOGIN, &body).await;
            (session, reply)
        };
        // The end of a session may be noticed late, so each has a user of its own.
        let own = |name: &str| format!("{name}-{way:?}");
        // A login into a channel that one may not join.
        let amy = own("amy");
        let inbox = format!("inbox:{amy}");
        for (user, channel, another) in [
            (&own("ann"), "closed", "open"),
            (&own("abe"), "granted:1", "open"),
            (&amy, "inbox:bob", &inbox),
        ] {
            let token = shared(&claims(user));
            let (mut session, refused) = open(token.clone(), Some(channel)).await;
            let body = json!({"token": token, "lessonId": another});
            let allowed = session.ask(LOGIN, &body).await;
            let name = format!("{way:?} logs into {channel}");
            findings.row(&name, has(&refused, 403, "NOT_ALLOWED"), is_ok(&allowed));
        }
        let (mut stranger, _) = open(shared(&claims(&own("sue"))), Some("open")).await;
        // A send goes to the channel of the login, and here there is none.
        let (mut outside, _) = open(shared(&claims(&own("oda"))), None).await;
        let (mut member, _) = open(granted(&own("mary")), Some("granted:1")).await;
        let (mut silent, _) = open(joins(&own("sam")), Some("granted:1")).await;
        let (mut mute, _) = open(shared(&claims(&own("mo"))), Some("mute")).await;
        for channel in ["closed", "granted:1", "inbox:bob"] {
            let refused = stranger.ask(JOIN, &json!({"channel": channel})).await;
            let allowed = stranger
                .ask(JOIN, &json!({"channel": format!("open:{channel}")}))
                .await;
            let name = format!("{way:?} joins {channel}");
            findings.row(&name, has(&refused, 403, "NOT_ALLOWED"), is_ok(&allowed));
        }
        let page = json!({"channel": "granted:1"});
        let said = json!({"channel": "granted:1", "content": "hi"});
        for (what, route, body) in [
            ("sends", SEND, &said),
            (
                "publishes",
                PUBLISH,
                &json!({"channel": "granted:1", "body": {"typing": true}}),
            ),
            ("reads the log", HISTORY, &page),
            ("lists members", MEMBERS, &page),
        ] {
            let allowed = member.ask(route, body).await;
            let allowed = || is_ok(&allowed);
            let refused = silent.ask(route, body).await;
            findings.row(
                &format!("{way:?} {what} without a grant"),
                has(&refused, 403, "NOT_ALLOWED"),
                allowed(),
            );
            let mut in_mute = body.clone();
            in_mute["channel"] = json!("mute");
            let refused = mute.ask(route, &in_mute).await;
            findings.row(
                &format!("{way:?} {what} where nobody may"),
                has(&refused, 403, "NOT_ALLOWED"),
                allowed(),
            );
            let asks = if route == SEND {
                &mut outside
            } else {
                &mut stranger
            };
            let refused = asks.ask(route, body).await;
            let refused = is_refused(&refused, "NOT_JOINED");
            findings.row(&format!("{way:?} {what} from outside"), refused, allowed());
        }
    }
    findings.check(105);
}

/// Asks until the answer has this code. The burst is small, so it comes soon.
async fn until(
    session: &mut Session,
    code: u64,
    mut ask: impl FnMut(usize) -> (&'static str, Value),
) -> Result<Value, String> {
    let mut last = Value::Null;
    for at in 0..50 {
        let (route, body) = ask(at);
        last = session.ask(route, &body).await;
        if last["code"] == code {
            return Ok(last);
        }
    }
    Err(last.to_string())
}

#[tokio::test]
async fn nobody_does_more_in_a_second_than_the_limits_allow() {
    let _permit = Permit::shared().await;
    let slow = [
        "--join-rate",
        "1",
        "--join-burst",
        "3",
        "--read-rate",
        "1",
        "--read-burst",
        "2",
        "--byte-rate",
        "1KiB",
        "--byte-burst",
        "4KiB",
    ];
    let system = Locked::start(&[], &slow).await;
    let busy = ["--request-rate", "1", "--request-burst", "4"];
    let few = Locked::start(&[], &busy).await;
    let mut findings = Findings::default();
    let limited = |refused: Result<Value, String>| {
        let answer = refused?;
        has(&answer, 429, "RATE_LIMITED")?;
        let waits = answer["retryAfterMs"].as_u64();
        waits
            .filter(|it| (1..=60_000).contains(it))
            .map(drop)
            .ok_or_else(|| answer.to_string())
    };
    for way in Way::ALL {
        let open = async |system: &Locked| {
            let mut session = Session::open(way, system.clients()).await;
            // The end of a session may be noticed late, so each has a user of its own.
            let user = format!("ann-{way:?}");
            let body = json!({"token": shared(&claims(&user)), "lessonId": "open"});
            let reply = session.ask(LOGIN, &body).await;
            (session, is_ok(&reply))
        };
        let (mut session, allowed) = open(&system).await;
        let joins = until(&mut session, 429, |at| {
            (JOIN, json!({"channel": format!("room:{at}")}))
        })
        .await;
        findings.row(&format!("{way:?} joins"), limited(joins), allowed);
        let first = session.ask(MEMBERS, &json!({"channel": "open"})).await;
        let reads = until(&mut session, 429, |_| (HISTORY, json!({"channel": "open"}))).await;
        findings.row(&format!("{way:?} reads"), limited(reads), is_ok(&first));
        let first = session
            .ask(SEND, &json!({"channel": "open", "content": "small"}))
            .await;
        let large = json!({"channel": "open", "content": "x".repeat(1_500)});
        let bytes = until(&mut session, 429, |_| (SEND, large.clone())).await;
        findings.row(
            &format!("{way:?} sends bytes"),
            limited(bytes),
            is_ok(&first),
        );
        // Leaving is never limited.
        let leaves = session
            .ask("chat.handler.leave", &json!({"channel": "open"}))
            .await;
        assert_ne!(leaves["code"], 429, "{way:?}: {leaves}");
        let (mut session, allowed) = open(&few).await;
        let requests = until(&mut session, 429, |_| ("game.handler.move", json!({}))).await;
        findings.row(&format!("{way:?} requests"), limited(requests), allowed);
    }
    findings.check(24);
}
