//! Clients that log in with tokens, which issuers have made with libraries that others wrote, and the rules of channels.

use serde_json::{Value, json};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use testkit::json::Client;
use testkit::link::End;
use testkit::permit::Permit;
use testkit::pomelo::{self, LOGIN, SEND};
use testkit::redis::Redis;
use testkit::service::{Chat, Connector, Standalone};
use testkit::tls::Authority;
use testkit::{SOON, socket_io, wait, workspace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const REFRESH: &str = "connector.handler.refresh";
/// Keys are fetched again for a token with an unknown key, but not within half a minute.
const REFETCHED: Duration = Duration::from_secs(60);

/// What an issuer has made.
pub(crate) struct Issued {
    pub(crate) jwk: Value,
    pub(crate) tokens: Vec<String>,
}

pub(crate) fn issued(
    mut command: Command,
    algorithm: &str,
    key: &str,
    life: u32,
    claims: &[Value],
) -> Issued {
    let asked = json!({"alg": algorithm, "kid": key, "life": life, "claims": claims});
    // Not as an argument, because there may be more claims than an argument may have bytes.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut issuer = command.stderr(Stdio::piped()).spawn().expect("it runs");
    let mut input = issuer.stdin.take().expect("it is a pipe");
    let written = input.write_all(asked.to_string().as_bytes());
    written.expect("it reads its input");
    drop(input);
    let output = issuer.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    let made: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{errors}"));
    let tokens = made["tokens"].as_array().expect("tokens").iter();
    Issued {
        jwk: made["jwk"].clone(),
        tokens: tokens
            .map(|it| it.as_str().expect("a token").to_owned())
            .collect(),
    }
}

fn clients() -> PathBuf {
    workspace().join("tests/clients")
}

pub(crate) fn in_node() -> Command {
    let mut command = Command::new("node");
    command.current_dir(clients()).arg("tokens.mjs");
    command
}

pub(crate) fn in_python() -> Command {
    let mut command = Command::new(testkit::python());
    command.current_dir(clients()).arg("tokens.py");
    command
}

/// Serves a set of keys, which the test may change.
struct KeyServer {
    address: SocketAddr,
    url: String,
    keys: Arc<Mutex<Value>>,
    task: tokio::task::JoinHandle<()>,
}

impl KeyServer {
    async fn start(keys: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let url = format!("http://{address}/keys.json");
        let keys = Arc::new(Mutex::new(keys));
        let served = Arc::clone(&keys);
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                let body = served.lock().expect("not poisoned").to_string();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                // The other side may be gone.
                let _ = socket.write_all((head + &body).as_bytes()).await;
            }
        });
        Self {
            address,
            url,
            keys,
            task,
        }
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A configuration file of standalone.
pub(crate) struct AccessFile {
    _directory: TempDir,
    path: PathBuf,
}

impl AccessFile {
    pub(crate) fn new(text: &str) -> Self {
        Self::in_directory(TempDir::new().expect("a directory"), text)
    }

    fn in_directory(directory: TempDir, text: &str) -> Self {
        let path = directory.path().join("access.toml");
        std::fs::write(&path, text).expect("written");
        Self {
            _directory: directory,
            path,
        }
    }

    pub(crate) fn issuer(algorithms: &str, keys: &str) -> Self {
        Self::new(&issuer_in("connector.auth.issuer", algorithms, keys))
    }

    /// Accepts tokens that are signed with one of these keys, which are in a file beside it.
    pub(crate) fn with_keys(algorithms: &str, keys: &[&Value]) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("jwks.json");
        std::fs::write(&path, json!({ "keys": keys }).to_string()).expect("written");
        let keys = format!("jwks_file = '{}'", path.display());
        let text = issuer_in("connector.auth.issuer", algorithms, &keys);
        Self::in_directory(directory, &text)
    }

    pub(crate) async fn standalone(&self, flags: &[&str]) -> Standalone {
        let file = self.path.to_str().expect("a path");
        let flags = [flags, &["--config", file]].concat();
        Standalone::with(&flags).await
    }
}

/// The settings of an issuer, in a table with this name.
fn issuer_in(table: &str, algorithms: &str, keys: &str) -> String {
    format!(
        "[[{table}]]\nissuer = 'https://id.example'\naudience = ['chat']\n\
         algorithms = [{algorithms}]\n{keys}\n"
    )
}

fn users(count: usize, first: &str) -> Vec<Value> {
    (0..count)
        .map(|at| json!({"sub": format!("{first}{at}")}))
        .collect()
}

/// A key is replaced while a hundred sessions of all protocols are live, or ten thousand. They go on with tokens of the new key, on the
/// same connections.
#[tokio::test]
async fn sessions_with_tokens_made_in_node_live_through_a_rotation_of_keys() {
    let count = if testkit::long() { 10_000 } else { 100 };
    testkit::impact::raise_descriptors();
    let claims = users(4 + count, "u");
    let old = issued(in_node(), "ES256", "old", 3_600, &claims);
    let new = issued(in_node(), "EdDSA", "new", 3_600, &claims);
    let server = KeyServer::start(json!({"keys": [old.jwk]})).await;
    let file = AccessFile::issuer("'ES256', 'EdDSA'", &format!("jwks_url = '{}'", server.url));
    // All of them come from one address.
    let many = ["--address-connections", "0", "--address-rate", "0"];
    let flags = [&["--auth-mode", "jwt"], &many[..]].concat();
    let standalone = file.standalone(&flags).await;
    let address = standalone.address();
    let begun = Instant::now();
    let before = standalone.memory();

    let mut sessions = Vec::new();
    for (at, token) in old.tokens[4..].iter().enumerate() {
        let client = if at % 2 == 0 {
            Client::connect(address).await
        } else {
            Client::connect_at(address, &format!("/ws?token={token}")).await
        };
        // A hundred in each room.
        let room = format!("room{}", at / 100);
        let body = if at % 2 == 0 {
            json!({"token": token, "lessonId": room})
        } else {
            json!({ "lessonId": room })
        };
        let reply = client.request(LOGIN, body).await;
        assert_eq!(reply["code"], 0, "{reply}");
        assert!(reply["ttl"].as_u64() > Some(3_000), "{reply}");
        sessions.push(client);
    }
    let pomelo = pomelo::Client::connect(address).await;
    let body = json!({"token": old.tokens[0], "lessonId": "room0"}).to_string();
    let reply = pomelo.request(LOGIN, &body).await;
    assert!(
        reply.starts_with(r#"{"code":0,"message":"登录成功","ttl":"#),
        "{reply}"
    );
    let path = format!(
        "/socket.io/?EIO=3&transport=websocket&token={}",
        old.tokens[1]
    );
    let socket = socket_io::connect(address, &path).await;
    let login = socket_io::request(1, LOGIN, &json!({"lessonId": "room0"}));
    socket_io::say(&socket, &login).await;
    let packets = socket_io::until(&socket, 3).await;
    let reply = socket_io::message(&packets[2]);
    assert_eq!(reply["body"]["code"], 0, "{packets:?}");

    // Without a token, with that of somebody else, and with a key that nobody knows yet.
    let stranger = Client::connect(address).await;
    for body in [
        json!({"userId": "u2"}),
        json!({"userId": "u2", "token": old.tokens[3]}),
        json!({"userId": "u2", "token": new.tokens[2]}),
    ] {
        let reply = stranger.request(LOGIN, body).await;
        assert_eq!(
            (&reply["code"], &reply["reason"]),
            (&json!(401), &json!("TOKEN_INVALID"))
        );
    }
    let reply = pomelo::Client::connect(address)
        .await
        .login("u2", "room")
        .await;
    assert_eq!(reply, r#"{"code":401}"#);
    wait::eventually("the reason is logged", SOON, async || {
        let lines = standalone.lines();
        lines
            .iter()
            .any(|it| it.contains("belongs to another user"))
    })
    .await;
    let lines = standalone.lines().join("\n");
    assert!(!lines.contains(&old.tokens[3]), "no token is logged");

    let (entered, with_sessions) = (begun.elapsed(), standalone.memory());
    *server.keys.lock().expect("not poisoned") = json!({"keys": [new.jwk]});
    let begun = Instant::now();
    wait::eventually("the new key is known", REFETCHED, async || {
        let body = json!({"userId": "u2", "token": new.tokens[2]});
        stranger.request(LOGIN, body).await["code"] == 0
    })
    .await;
    let (known, begun) = (begun.elapsed(), Instant::now());
    for (client, token) in sessions.iter().zip(&new.tokens[4..]) {
        let reply = client.request(REFRESH, json!({ "token": token })).await;
        assert_eq!(reply["code"], 0, "{reply}");
    }
    let body = json!({"token": new.tokens[0]}).to_string();
    let reply = pomelo.request(REFRESH, &body).await;
    assert!(reply.starts_with(r#"{"code":0,"ttl":"#), "{reply}");
    let reply = sessions[0]
        .request(SEND, json!({"content": "still here"}))
        .await;
    assert_eq!(reply["code"], 0, "{reply}");
    pomelo
        .until_push(r#"onMessage {"content":"still here","userId":"u4"}"#)
        .await;
    assert!(sessions.iter().all(|client| client.ended().is_none()));
    println!(
        "{count} sessions: entered in {entered:?}, the new key known after {known:?}, refreshed in {:?}; \
         memory {before:?} before, {with_sessions:?} with them, {:?} after",
        begun.elapsed(),
        standalone.memory(),
    );
    // The old key is no longer accepted.
    let late = Client::connect(address).await;
    let reply = late.request(LOGIN, json!({"token": old.tokens[3]})).await;
    assert_eq!(reply["reason"], "TOKEN_INVALID", "{reply}");
}

/// The server of the keys has a certificate of an authority that the connector does not trust, until the operator names that one.
#[tokio::test]
async fn keys_of_tokens_made_in_node_are_not_taken_from_a_server_of_another_authority() {
    let made = issued(in_node(), "ES256", "k", 3_600, &users(3, "u"));
    let server = KeyServer::start(json!({"keys": [made.jwk]})).await;
    let (authority, another) = (Authority::new(), Authority::new());
    let (address, _proxy) = another.terminate(server.address).await;
    let keys = format!(
        "jwks_url = 'https://{address}/keys.json'\njwks_ca_file = '{}'",
        authority.ca().display()
    );
    let file = AccessFile::new(&issuer_in("auth.issuer", "'ES256'", &keys));
    let config = file.path.to_str().expect("a path");
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let chat = Chat::start(&redis, &[]).await;
    let flags = ["--auth-mode", "jwt", "--config", config];
    let connector = Connector::begin("c1", &chat.url(), &redis.url(), &flags).await;
    wait::eventually("it is not ready, and says why", SOON, async || {
        let answer = testkit::http::get(connector.admin(), "/readyz").await;
        answer.is_some_and(|it| {
            let words = [
                "tokens: not ready",
                "invalid peer certificate",
                "jwks_ca_file",
            ];
            it.status == 503 && words.iter().all(|word| it.body.contains(word))
        })
    })
    .await;
    for token in &made.tokens[..2] {
        let client = Client::connect(connector.address()).await;
        let reply = client.request(LOGIN, json!({ "token": token })).await;
        assert_eq!(reply["reason"], "UNAVAILABLE", "{reply}");
        let original = pomelo::Client::connect(connector.address()).await;
        let body = json!({"token": token, "lessonId": "room"}).to_string();
        let reply = original.request(LOGIN, &body).await;
        assert_eq!(reply, r#"{"code":500}"#);
    }
    std::fs::copy(another.ca(), authority.ca()).expect("copied");
    connector.ready().await;
    let client = Client::connect(connector.address()).await;
    let reply = client
        .request(LOGIN, json!({"token": made.tokens[2]}))
        .await;
    assert_eq!(reply["code"], 0, "{reply}");
}

/// Keys in a file, with each algorithm that PyJWT knows.
#[tokio::test]
async fn tokens_made_in_python_are_accepted_and_expire() {
    let mut keys = Vec::new();
    let mut tokens = Vec::new();
    for algorithm in ["RS256", "PS256", "ES256", "ES384", "EdDSA"] {
        let claims = [json!({"sub": algorithm, "channels": ["garden"]})];
        let made = issued(in_python(), algorithm, algorithm, 3_600, &claims);
        keys.push(made.jwk);
        tokens.extend(made.tokens);
    }
    // Long enough for a busy machine.
    let short = issued(in_python(), "ES256", "short", 15, &users(2, "s"));
    keys.push(short.jwk);
    let algorithms = "'RS256', 'PS256', 'ES256', 'ES384', 'EdDSA'";
    let file = AccessFile::with_keys(algorithms, &keys.iter().collect::<Vec<_>>());
    let flags = [
        "--auth-mode",
        "jwt",
        "--auth-leeway",
        "0s",
        "--auth-expiry-grace",
        "1s",
    ];
    let standalone = file.standalone(&flags).await;
    let address = standalone.address();

    let json = Client::connect(address).await;
    let reply = json.request(LOGIN, json!({"token": short.tokens[0]})).await;
    assert_eq!(reply["code"], 0, "{reply}");
    let original = pomelo::Client::connect(address).await;
    let body = json!({"token": short.tokens[1], "lessonId": "room"}).to_string();
    let reply = original.request(LOGIN, &body).await;
    assert!(reply.starts_with(r#"{"code":0,"#), "{reply}");

    for token in &tokens {
        let client = Client::connect(address).await;
        let reply = client.request(LOGIN, json!({ "token": token })).await;
        assert_eq!(reply["code"], 0, "{reply}");
        let pushes = client.until_pushes(1).await;
        assert_eq!(pushes[0]["route"], "onAdded", "{pushes:?}");
        assert_eq!(pushes[0]["body"]["channel"], "garden");
    }

    // The token lasts for longer than what comes soon.
    let end = json.end(3 * SOON).await;
    let reason = "token expired".to_owned();
    assert_eq!(end, End::Closed { code: 4017, reason });
    let pushes = json.until_pushes(2).await;
    assert_eq!(pushes[0]["route"], "onExpired", "{pushes:?}");
    assert_eq!(
        pushes[1]["body"],
        json!({"reason": "token expired", "reconnect": false})
    );
    original.end(3 * SOON).await;
    original.until_push(r#"onExpired {"closesIn":1}"#).await;
    assert_eq!(original.kicked().as_deref(), Some("token expired"));
    let again = Client::connect(address).await;
    let reply = again
        .request(LOGIN, json!({"token": short.tokens[0]}))
        .await;
    assert_eq!(
        (&reply["code"], &reply["reason"]),
        (&json!(401), &json!("TOKEN_EXPIRED"))
    );
}

/// Rules in the file, which the operator changes while sessions are in the channel.
#[tokio::test]
async fn rules_of_channels_hold_and_a_change_of_the_file_ends_what_it_forbids() {
    let rules = "[[channel]]\nmatch = 'news'\nsend = 'nobody'\n\
                 [[channel]]\nmatch = 'inbox:{user}'\n\
                 [[channel]]\nmatch = 'inbox:*'\njoin = 'nobody'\n";
    let file = AccessFile::new(rules);
    let standalone = file.standalone(&[]).await;
    let ann = Client::connect(standalone.address()).await;
    let login = json!({"userId": "ann", "lessonId": "news"});
    assert_eq!(ann.request(LOGIN, login).await["code"], 0);
    let reply = ann.request(SEND, json!({"content": "x"})).await;
    assert_eq!(
        (&reply["code"], &reply["reason"]),
        (&json!(403), &json!("NOT_ALLOWED"))
    );
    for (channel, code) in [("inbox:ann", 0), ("inbox:bob", 403), ("room", 0)] {
        let reply = ann
            .request("chat.handler.join", json!({ "channel": channel }))
            .await;
        assert_eq!(reply["code"], code, "{channel}: {reply}");
    }
    let bob = pomelo::Client::join(standalone.address(), "bob", "room").await;

    std::fs::write(
        &file.path,
        "[[channel]]\nmatch = 'room'\njoin = 'everybody'",
    )
    .expect("written");
    wait::eventually("the mistake is logged", SOON, async || {
        standalone
            .warnings()
            .iter()
            .any(|line| line.contains("the settings stay as they are"))
    })
    .await;
    let rules = format!("[[channel]]\nmatch = 'room'\njoin = 'nobody'\n{rules}");
    std::fs::write(&file.path, rules).expect("written");
    bob.until_push(r#"onRemoved {"channel":"room"}"#).await;
    let removed = ann.inbox().until(SOON, |received| {
        let mut pushes = received.pushes.iter();
        pushes.find(|push| push["route"] == "onRemoved").cloned()
    });
    let removed = removed.await.expect("ann is out, too");
    assert_eq!(removed["body"], json!({"channel": "room"}));
    let reply = ann
        .request("chat.handler.join", json!({"channel": "room"}))
        .await;
    assert_eq!(reply["reason"], "NOT_ALLOWED", "{reply}");
    let publish = json!({"channel": "inbox:ann", "body": {"content": "still here"}});
    assert_eq!(
        ann.request("chat.handler.publish", publish).await["code"],
        0
    );
}
