//! Users who are blocked, tokens that are revoked, and how many connections a user may have: with two connectors, and grpcurl.

use crate::tokens::{in_node, in_python, issued};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use testkit::grpcurl;
use testkit::json::Client;
use testkit::link::End;
use testkit::pomelo::{LOGIN, left};
use testkit::system::{Plan, System};
use testkit::{SOON, socket_io, wait};
use tokio::task::JoinSet;

const REFRESH: &str = "connector.handler.refresh";
/// A connector that has got no command looks at each user once a minute.
const NEXT_LOOK: Duration = Duration::from_secs(90);

/// Calls `chat.v1.UserService` with grpcurl.
fn call(system: &System, method: &str, request: &Value) -> Value {
    let method = format!("chat.v1.UserService/{method}");
    grpcurl::call(system.chats[0].address(), &method, request)
}

/// Logs in over JSON. Returns the client and the reply.
async fn login(at: SocketAddr, body: Value) -> (Client, Value) {
    let client = Client::connect(at).await;
    let reply = client.request(LOGIN, body).await;
    (client, reply)
}

async fn enter(at: SocketAddr, body: Value) -> Client {
    let (client, reply) = login(at, body).await;
    assert_eq!(reply["code"], 0, "{reply}");
    client
}

fn closed(code: u16, reason: &str) -> End {
    let reason = reason.to_owned();
    End::Closed { code, reason }
}

/// The number of entries of a list in an answer. grpcurl leaves out empty ones.
fn count(answer: &Value, list: &str) -> usize {
    answer[list].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_blocked_user_is_out_at_once_in_every_protocol_also_where_a_login_is_under_way() {
    let plan = Plan::of(2, 2).login_policy("allow");
    let system = plan.connector_flags(&["--grace", "30s"]).start().await;
    let [one, other] = [0, 1].map(|at| system.connectors[at].address());
    let watcher = system.member(0, "watcher", "4").await;
    let pomelo = system.member(1, "nancy", "4").await;
    let json = enter(one, json!({"userId": "nancy", "lessonId": "4"})).await;
    let socket = socket_io::connect(other, "/socket.io/?EIO=3&transport=websocket").await;
    let body = json!({"userId": "nancy", "lessonId": "4"});
    socket_io::say(&socket, &socket_io::request(1, LOGIN, &body)).await;
    let packets = socket_io::until(&socket, 3).await;
    assert_eq!(socket_io::message(&packets[2])["body"]["code"], 0);

    // Others log in as the same user all the time.
    let is_blocked = Arc::new(AtomicBool::new(false));
    let mut storm = JoinSet::new();
    for at in [one, other, one, other] {
        let is_blocked = Arc::clone(&is_blocked);
        storm.spawn(async move {
            let (mut inside, mut refused) = (VecDeque::new(), 0);
            while refused < 5 {
                let knew = is_blocked.load(Ordering::Acquire);
                let client = Client::connect(at).await;
                let asked = client.request(LOGIN, json!({ "userId": "nancy" }));
                // A client that is closed while it logs in gets no answer.
                let reply = tokio::select! {
                    reply = asked => reply,
                    _ = client.end(SOON) => continue,
                };
                match reply["reason"].as_str() {
                    Some("BLOCKED") => {
                        assert_eq!(reply["code"], 401);
                        assert_eq!(reply["retry"], false);
                        assert_eq!(reply["because"], "spam");
                        assert!(reply["until"].as_u64() > Some(1_700_000_000_000));
                        refused += 1;
                    }
                    Some(_) => tokio::task::yield_now().await,
                    None => {
                        assert!(!knew, "nobody gets in after the answer: {reply}");
                        inside.push_back(client);
                        // A user has a bounded number of sessions that can be found.
                        if inside.len() > 10 {
                            inside.pop_front();
                        }
                    }
                }
            }
            inside
        });
    }
    wait::eventually("several of them are there", SOON, async || {
        let sessions = call(&system, "ListSessions", &json!({"user": "nancy"}));
        count(&sessions, "sessions") > 10
    })
    .await;
    let block = json!({"user": "nancy", "duration": "3600s", "reason": "spam"});
    let answer = call(&system, "BlockUser", &block);
    is_blocked.store(true, Ordering::Release);
    assert_eq!(count(&answer, "unansweredConnectors"), 0, "{answer}");
    assert!(count(&answer, "closed") >= 3, "{answer}");
    // All of this was so before the answer, or is on its way to the client.
    assert_eq!(json.end(SOON).await, closed(4_019, "spam"));
    pomelo.end(SOON).await;
    assert_eq!(pomelo.kicked().as_deref(), Some("spam"));
    socket.end(SOON).await;
    while let Some(inside) = storm.join_next().await {
        for client in inside.expect("no panic") {
            assert_eq!(client.end(SOON).await, closed(4_019, "spam"));
        }
    }
    // Nobody lingers, although there is a grace.
    watcher.until_push(&left("nancy")).await;
    system.until_members("4", &[("watcher", 1)]).await;
    let sessions = call(&system, "ListSessions", &json!({"user": "nancy"}));
    assert_eq!(count(&sessions, "sessions"), 0, "{sessions}");
    let reply = system.visitor(1).await.login("nancy", "4").await;
    assert_eq!(reply, r#"{"code":401}"#);
    let known = call(&system, "GetRestrictions", &json!({"user": "nancy"}));
    assert_eq!(known["blockReason"], "spam");

    call(&system, "UnblockUser", &json!({"user": "nancy"}));
    enter(one, json!({"userId": "nancy"})).await;
    assert_eq!(watcher.ended(), None);
}

#[tokio::test]
async fn a_connector_that_was_frozen_while_a_user_was_blocked_closes_the_session_afterwards() {
    let system = Plan::of(2, 1).login_policy("allow").start().await;
    let [one, other] = [0, 1].map(|at| system.connectors[at].address());
    let near = enter(one, json!({"userId": "nancy"})).await;
    let far = enter(other, json!({"userId": "nancy"})).await;
    system.connectors[1].freeze();
    let block = json!({"user": "nancy", "duration": "3600s"});
    let answer = call(&system, "BlockUser", &block);
    assert_eq!(answer["unansweredConnectors"], json!(["connector-2"]));
    assert_eq!(count(&answer, "closed"), 1, "{answer}");
    assert_eq!(near.end(SOON).await, closed(4_019, "blocked"));
    assert_eq!(far.ended(), None);
    system.connectors[1].thaw();
    // By the command, which was on its way, or at the next look. If it was frozen for so long that it was declared dead, its
    // sockets are closed for that.
    let end = far.end(NEXT_LOOK).await;
    assert!(
        [
            closed(4_019, "blocked"),
            closed(4_009, "connector restarted")
        ]
        .contains(&end),
        "{end:?}"
    );
    let (_client, reply) = login(other, json!({"userId": "nancy"})).await;
    assert_eq!(reply["reason"], "BLOCKED", "{reply}");
}

/// Two connectors that accept tokens made in Node.js and in Python.
async fn with_tokens(keys: Value) -> (System, TempDir) {
    with_tokens_and(keys, &[]).await
}

/// The same with further flags.
async fn with_tokens_and(keys: Value, flags: &[&'static str]) -> (System, TempDir) {
    let directory = TempDir::new().expect("a directory");
    let keys_file = directory.path().join("jwks.json");
    std::fs::write(&keys_file, keys.to_string()).expect("written");
    let file = directory.path().join("connector.toml");
    let text = format!(
        "[[auth.issuer]]\nissuer = 'https://id.example'\naudience = ['chat']\n\
         algorithms = ['ES256', 'EdDSA']\njwks_file = '{}'\n",
        keys_file.display()
    );
    std::fs::write(&file, text).expect("written");
    // The flags of a plan live as long as the tests.
    let file: &'static str = Box::leak(file.display().to_string().into_boxed_str());
    let flags = [flags, &["--auth-mode", "jwt", "--config", file]].concat();
    let plan = Plan::of(2, 1).login_policy("allow").connector_flags(&flags);
    (plan.start().await, directory)
}

#[tokio::test]
async fn tokens_are_revoked_by_their_time_and_by_their_id_on_all_connectors() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    let claims = [
        json!({"sub": "ann", "jti": "first", "iat": now - 600}),
        json!({"sub": "ann", "jti": "second", "iat": now - 500}),
        json!({"sub": "ann", "jti": "third", "iat": now - 100}),
        json!({"sub": "ann", "jti": "fourth", "iat": now - 90}),
        json!({"sub": "bob", "jti": "first", "iat": now - 600}),
    ];
    let node = issued(in_node(), "ES256", "node", 3_600, &claims);
    let python = issued(in_python(), "EdDSA", "python", 3_600, &claims);
    let (system, _directory) = with_tokens(json!({"keys": [node.jwk, python.jwk]})).await;
    let [one, other] = [0, 1].map(|at| system.connectors[at].address());
    let by = |token: &String| json!({ "token": token });
    let first = enter(one, by(&node.tokens[0])).await;
    let second = enter(other, by(&python.tokens[1])).await;
    let third = enter(other, by(&node.tokens[2])).await;
    let fourth = enter(one, by(&python.tokens[3])).await;
    let bob = enter(one, by(&node.tokens[4])).await;

    let answer = call(
        &system,
        "RevokeTokens",
        &json!({"user": "ann", "jti": "first"}),
    );
    assert_eq!(count(&answer, "closed"), 1, "{answer}");
    assert_eq!(first.end(SOON).await, closed(4_020, "token revoked"));
    // Nobody gets in with it, on either connector and in any protocol, and nobody goes on with it.
    for at in [one, other] {
        let (_client, reply) = login(at, by(&python.tokens[0])).await;
        assert_eq!(reply["reason"], "TOKEN_REVOKED", "{reply}");
    }
    let pomelo = system.visitor(1).await;
    let body = json!({"token": node.tokens[0], "lessonId": "4"}).to_string();
    let reply = pomelo.request(LOGIN, &body).await;
    assert_eq!(reply, r#"{"code":401}"#);
    let reply = third.request(REFRESH, by(&node.tokens[0])).await;
    assert_eq!(reply["reason"], "TOKEN_REVOKED", "{reply}");

    // The session of the third token goes on with the fourth one, and that of the fourth with one that is to be revoked.
    let reply = third.request(REFRESH, by(&python.tokens[3])).await;
    assert_eq!(reply["code"], 0, "{reply}");
    let reply = fourth.request(REFRESH, by(&python.tokens[2])).await;
    assert_eq!(reply["code"], 0, "{reply}");
    let time = humantime(now - 95);
    let revoke = json!({"user": "ann", "issued_before": time, "remember": "3600s"});
    let answer = call(&system, "RevokeTokens", &revoke);
    assert_eq!(count(&answer, "closed"), 2, "{answer}");
    for client in [&second, &fourth] {
        assert_eq!(client.end(SOON).await, closed(4_020, "token revoked"));
    }
    let (_client, reply) = login(other, by(&python.tokens[2])).await;
    assert_eq!(reply["reason"], "TOKEN_REVOKED", "{reply}");
    enter(other, by(&python.tokens[3])).await;
    let known = call(&system, "GetRestrictions", &json!({"user": "ann"}));
    assert_eq!(known["revokedTokens"], 1, "{known}");
    assert_eq!((third.ended(), bob.ended()), (None, None));
}

/// A session that refreshes its token while Redis is away goes on, in every protocol alike. If the token was revoked before, it
/// ends when Redis is back.
#[tokio::test]
async fn tokens_are_refreshed_while_redis_is_away_and_revoked_ones_end_when_it_is_back() {
    let claims = ["ann", "bob", "carl", "dora"]
        .map(|user| json!({"sub": user, "jti": format!("{user} first")}));
    // Long enough for a busy machine.
    let short = issued(in_node(), "ES256", "short", 40, &claims);
    let claims = ["ann", "bob", "carl", "dora"]
        .map(|user| json!({"sub": user, "jti": format!("{user} second")}));
    let long = issued(in_node(), "EdDSA", "long", 3_600, &claims);
    let keys = json!({"keys": [short.jwk, long.jwk]});
    let flags = ["--auth-leeway", "0s", "--auth-expiry-grace", "1s"];
    let (mut system, _directory) = with_tokens_and(keys, &flags).await;
    let at = system.connectors[0].address();
    let by = |token: &String| json!({ "token": token });
    let [ann, bob, carl] = [
        enter(at, by(&short.tokens[0])).await,
        enter(at, by(&short.tokens[1])).await,
        enter(at, by(&short.tokens[2])).await,
    ];
    let original = system.visitor(1).await;
    let body = json!({"token": short.tokens[3], "lessonId": "4"}).to_string();
    let reply = original.request(LOGIN, &body).await;
    assert!(reply.starts_with(r#"{"code":0,"#), "{reply}");
    let revoke = json!({"user": "ann", "jti": "ann second"});
    assert_eq!(count(&call(&system, "RevokeTokens", &revoke), "closed"), 0);

    let dora_shows = by(&long.tokens[3]).to_string();
    system.redis.freeze();
    let (anns, bobs, carls, doras) = tokio::join!(
        ann.request(REFRESH, by(&long.tokens[0])),
        bob.request(REFRESH, by(&long.tokens[1])),
        // A token that nobody should accept is refused as always.
        carl.request(REFRESH, by(&long.tokens[1])),
        original.request(REFRESH, &dora_shows),
    );
    for reply in [&anns, &bobs] {
        assert_eq!(reply["code"], 0, "{reply}");
        assert!(reply["ttl"].as_u64() > Some(3_000), "{reply}");
    }
    assert_eq!(carls["reason"], "TOKEN_INVALID", "{carls}");
    assert!(doras.starts_with(r#"{"code":0,"ttl":"#), "{doras}");
    // Nobody new gets in, and is told to try again.
    let (_client, reply) = login(at, by(&long.tokens[1])).await;
    assert_eq!(
        (&reply["reason"], &reply["retry"]),
        (&json!("UNAVAILABLE"), &json!(true))
    );
    system.redis.thaw();
    assert_eq!(ann.end(NEXT_LOOK).await, closed(4_020, "token revoked"));

    // The same while nothing listens there.
    system.redis.kill();
    let reply = bob.request(REFRESH, by(&long.tokens[1])).await;
    assert_eq!(reply["code"], 0, "{reply}");
    system.redis.restart().await;
    // Who has not refreshed is out when the token expires, and the others are not.
    assert_eq!(carl.end(6 * SOON).await, closed(4_017, "token expired"));
    let reply = bob.request(REFRESH, by(&long.tokens[1])).await;
    assert_eq!(reply["code"], 0, "{reply}");
    assert_eq!((bob.ended(), original.ended()), (None, None));
}

/// A time as JSON has it, from seconds since 1970.
fn humantime(seconds: u64) -> String {
    let output = Command::new("date")
        .args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%SZ"])
        .output()
        .expect("date");
    String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

#[tokio::test]
async fn a_user_has_sixteen_connections_in_the_whole_cluster() {
    let plan = Plan::of(2, 1).login_policy("allow");
    let flags = &["--user-connections", "16"];
    let system = plan.connector_flags(flags).start().await;
    let at = |n: usize| system.connectors[n % 2].address();
    let mut inside = Vec::new();
    for n in 0..16 {
        inside.push(enter(at(n), json!({"userId": "nancy"})).await);
    }
    for n in 0..2 {
        let (_client, reply) = login(at(n), json!({"userId": "nancy"})).await;
        assert_eq!(reply["code"], 429, "{reply}");
        assert_eq!(reply["reason"], "TOO_MANY_CONNECTIONS");
        assert_eq!(reply["retry"], true);
    }
    let reply = system.visitor(0).await.login("nancy", "4").await;
    assert!(reply.starts_with(r#"{"code":429,"#), "{reply}");
    enter(at(0), json!({"userId": "other"})).await;
    drop(inside.pop());
    wait::eventually("there is room again", SOON, async || {
        let (client, reply) = login(at(1), json!({"userId": "nancy"})).await;
        inside.push(client);
        reply["code"] == 0
    })
    .await;
}
