//! Only callers with a token may call chat: with real processes, grpcurl and curl, and while tokens are replaced.

use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;
use testkit::permit::Permit;
use testkit::pomelo::{Client, SENT, heard};
use testkit::redis::Redis;
use testkit::service::{Chat, Connector, Service, Standalone};
use testkit::{SOON, binaries, http, wait};

/// A change of the file counts within this time, and a connector goes on by it a moment later.
const CHANGED: Duration = Duration::from_secs(15);

/// Runs `chat token`.
fn chat_token(arguments: &[&str]) -> Output {
    let mut command = Command::new(binaries::path("chat"));
    let output = command.arg("token").args(arguments).output();
    output.expect("chat starts")
}

/// A new token, and its line.
pub(crate) fn create(name: &str, scopes: &str) -> (String, String) {
    let output = chat_token(&["create", name, "--scopes", scopes]);
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).expect("text");
    let (token, line) = printed.split_once('\n').expect("two lines");
    (token.to_owned(), line.trim_end().to_owned())
}

/// The files of one test.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file as an editor does.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let (path, new) = (self.path(name), self.path("new"));
        fs::write(&new, text).expect("it can be written");
        fs::rename(new, &path).expect("it can be moved");
        path
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of letters")
}

/// Waits until `/readyz` says this.
async fn says(service: &Service, words: &str) {
    let what = format!("/readyz says {words:?}");
    wait::eventually(&what, CHANGED, async || {
        let answer = http::get(service.admin(), "/readyz").await;
        answer.is_some_and(|it| it.body.contains(words))
    })
    .await;
}

/// Calls with grpcurl. Returns whether it went well, and all that it printed.
fn grpcurl(chat: SocketAddr, headers: &[&str], method: &str, request: &str) -> (bool, String) {
    let mut command = Command::new("grpcurl");
    command
        .arg("-plaintext")
        .args(headers.iter().flat_map(|it| ["-H", *it]));
    command.args(["-d", request, &chat.to_string(), method]);
    let output = command
        .output()
        .expect("install grpcurl, or run ./tests/run, which does");
    let printed = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&printed).into_owned(),
    )
}

/// Calls with curl. Returns the status and the body.
fn curl(chat: SocketAddr, arguments: &[&str]) -> (String, String) {
    let mut command = Command::new("curl");
    command.args(["-sS", "-w", "\n%{http_code}", "--max-time", "10"]);
    let (last, others) = arguments.split_last().expect("a path");
    let output = command
        .args(others)
        .arg(format!("http://{chat}{last}"))
        .output();
    let printed = String::from_utf8(output.expect("curl").stdout).expect("text");
    let (body, status) = printed.rsplit_once('\n').expect("a status");
    (status.to_owned(), body.to_owned())
}

#[tokio::test]
async fn a_token_and_its_line_are_all_that_chat_prints() {
    let _permit = Permit::shared().await;
    let arguments = [
        "create",
        "game",
        "--scopes",
        "send,read",
        "--channels",
        "game:*,a room",
    ];
    let output = chat_token(&arguments);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let printed = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("gct_") && lines[0].len() == 47);
    let words: Vec<_> = lines[1].splitn(4, ' ').collect();
    assert_eq!(words[0], "game");
    assert_eq!(words[1].len(), 64);
    assert_eq!(words[2..], ["send,read", "game:*,a room"]);
    for wrong in [
        &["create"][..],
        &["create", "game"],
        &["create", "game", "--scopes", "everything"],
        &["create", "two words", "--scopes", "send"],
        &["destroy", "game"],
    ] {
        let output = chat_token(wrong);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}: {output:?}");
        assert_eq!(output.stdout, b"", "{wrong:?}");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(complaint.trim_end().lines().count(), 1, "{complaint}");
    }
}

#[tokio::test]
async fn clients_chat_and_back_ends_call_with_tokens_alone() {
    let _permit = Permit::shared().await;
    let files = Files::new();
    let (connector, connectors_line) = create("connectors", "connector");
    let (game, games_line) = create("game", "send,read");
    let tokens = files.write("tokens", &format!("{connectors_line}\n{games_line}\n"));
    let own = files.write("own", &format!("{connector}\n"));
    let redis = Redis::start().await;
    let chat = Chat::start(&redis, &["--api-tokens-file", text(&tokens)]).await;
    let flags = ["--chat-token-file", text(&own)];
    let connector_1 = Connector::start("c1", &[&chat], &redis, &flags).await;
    let alice = Client::join(connector_1.address(), "alice", "4").await;
    assert_eq!(alice.say("hello").await, SENT);
    let history = alice.request("chat.handler.history", "{}").await;
    assert!(history.contains("hello"), "{history}");

    let at = chat.address();
    let shown = format!("authorization: Bearer {game}");
    let (send, body) = (
        "chat.v1.ChatService/Send",
        r#"{"channel":"4","user":"bot","body":{"content":"beep"}}"#,
    );
    let (ok, printed) = grpcurl(at, &[&shown], send, body);
    assert!(ok, "{printed}");
    alice.until_push(&heard("bot", "beep")).await;
    let (ok, printed) = grpcurl(at, &[], send, body);
    assert!(!ok && printed.contains("Unauthenticated"), "{printed}");
    let delete = ("chat.v1.ChatService/DeleteChannel", r#"{"channel":"4"}"#);
    let (ok, printed) = grpcurl(at, &[&shown], delete.0, delete.1);
    assert!(!ok && printed.contains("the scope admin"), "{printed}");
    // Probes have no token.
    let (ok, printed) = grpcurl(at, &[], "grpc.health.v1.Health/Check", "{}");
    assert!(ok, "{printed}");

    let path = format!("/{send}");
    let (status, answer) = curl(at, &["--json", body, "-H", &shown, &path]);
    assert_eq!(status, "200", "{answer}");
    let (status, answer) = curl(at, &["--json", body, &path]);
    assert_eq!(status, "401", "{answer}");
    assert!(answer.contains("TOKEN_MISSING"), "{answer}");
    let members =
        "/chat.v1.ChatService/ListMembers?encoding=json&message=%7B%22channel%22%3A%224%22%7D";
    let (status, answer) = curl(at, &["-H", &shown, members]);
    assert_eq!(status, "200", "{answer}");
    assert!(answer.contains("alice"), "{answer}");

    // Who has written what stands in the log, and no token.
    let audit = |line: &String| {
        let event: Value = serde_json::from_str(line).ok()?;
        (event["target"] == "audit").then_some(event)
    };
    let lines: Vec<_> = chat.lines().iter().filter_map(audit).collect();
    let of_game = lines
        .iter()
        .filter(|it| it["token"] == "game" && it["code"] == "OK");
    assert_eq!(of_game.count(), 2, "{lines:#?}");
    assert!(
        lines.iter().all(|it| it["token"] != "connectors"),
        "{lines:#?}"
    );
    for line in chat.lines().iter().chain(&connector_1.lines()) {
        assert!(
            !line.contains(&game) && !line.contains(&connector),
            "{line}"
        );
        assert!(!line.contains("beep"), "{line}");
    }
}

#[tokio::test]
async fn sessions_of_an_allowed_channel_do_not_show_their_other_channels() {
    let _permit = Permit::shared().await;
    let files = Files::new();
    let (wide, wide_line) = create("wide", "users,members");
    let (narrow, narrow_line) = create("narrow", "users");
    let lines = format!("{wide_line}\n{narrow_line} game:*\n");
    let tokens = files.write("tokens", &lines);
    let standalone = Standalone::with(&["--api-tokens-file", text(&tokens)]).await;
    let _alice = Client::join(standalone.address(), "alice", "game:1").await;
    let ask = |token: &str, method: &str, request: &str| {
        let shown = format!("authorization: Bearer {token}");
        let path = format!("/chat.v1.UserService/{method}");
        curl(standalone.grpc(), &["--json", request, "-H", &shown, &path])
    };
    let add = r#"{"channel":"chess:1","user":"alice"}"#;
    let (status, answer) = ask(&wide, "AddToChannel", add);
    assert_eq!(status, "200", "{answer}");
    let of_channel = r#"{"channel":"game:1"}"#;
    for (token, channels) in [(&wide, &["chess:1", "game:1"][..]), (&narrow, &["game:1"])] {
        let (status, answer) = ask(token, "ListSessions", of_channel);
        assert_eq!(status, "200", "{answer}");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let shown = answer["sessions"][0]["channels"]
            .as_array()
            .expect("channels");
        let mut shown: Vec<_> = shown.iter().filter_map(Value::as_str).collect();
        shown.sort_unstable();
        assert_eq!(shown, channels);
    }
}

#[tokio::test]
async fn a_connector_whose_token_is_missing_or_refused_is_not_ready_and_says_why() {
    let _permit = Permit::shared().await;
    let files = Files::new();
    let (connector, line) = create("connectors", "connector");
    let (reader, readers_line) = create("reader", "read");
    let tokens = files.write("tokens", &format!("{line}\n{readers_line}\n"));
    let own = files.write("own", &create("unknown", "connector").0);
    let redis = Redis::start().await;
    let chat = Chat::start(&redis, &["--api-tokens-file", text(&tokens)]).await;
    let without = Connector::begin("c1", &chat.url(), &redis.url(), &[]).await;
    says(&without, "chat: not ready: ").await;
    says(&without, "it wants a token, and this connector has none").await;
    let flags = ["--chat-token-file", text(&own)];
    let with = Connector::begin("c2", &chat.url(), &redis.url(), &flags).await;
    says(&with, "this connector's token is refused: it is not in").await;
    files.write("own", &reader);
    says(&with, "lacks the scope connector").await;
    // The right one is taken without a restart, and a broken file changes nothing.
    files.write("own", &connector);
    with.ready().await;
    files.write("own", "two words");
    wait::eventually("the connector complains", CHANGED, async || {
        with.warnings()
            .iter()
            .any(|it| it.contains("must hold one token"))
    })
    .await;
    let alice = Client::join(with.address(), "alice", "4").await;
    assert_eq!(alice.say("hello").await, SENT);
    for line in with.lines() {
        assert!(!line.contains("gct_"), "{line}");
    }
}

#[tokio::test]
async fn replacing_the_connectors_token_costs_nobody_a_connection() {
    let _permit = Permit::shared().await;
    let files = Files::new();
    let (old, old_line) = create("old", "connector");
    let (new, new_line) = create("new", "connector");
    let (watcher, watchers_line) = create("watcher", "read");
    let tokens = files.write("tokens", &format!("{old_line}\n{watchers_line}\n"));
    let own = files.write("own", &old);
    let redis = Redis::start().await;
    let chat = Chat::start(&redis, &["--api-tokens-file", text(&tokens)]).await;
    let flags = ["--chat-token-file", text(&own)];
    let connector = Connector::start("c1", &[&chat], &redis, &flags).await;
    let alice = Client::join(connector.address(), "alice", "4").await;
    let bob = Client::join(connector.address(), "bob", "4").await;
    let mut said = 0;
    let mut say = async || {
        said += 1;
        assert_eq!(alice.say(&format!("number {said}")).await, SENT);
        bob.until_push(&heard("alice", &format!("number {said}")))
            .await;
    };
    say().await;
    let changed = |service: &Service, what: &str| {
        service
            .lines()
            .iter()
            .filter(|it| it.contains(what))
            .count()
    };
    // Both are valid for a while.
    files.write(
        "tokens",
        &format!("{old_line}\n{new_line}\n{watchers_line}\n"),
    );
    wait::eventually("chat has the new token", CHANGED, async || {
        changed(&chat, "the file of tokens has changed") == 1
    })
    .await;
    say().await;
    files.write("own", &new);
    wait::eventually("the connector has the new token", CHANGED, async || {
        changed(&connector, "the token for chats has changed") == 1
    })
    .await;
    say().await;
    files.write("tokens", &format!("{new_line}\n{watchers_line}\n"));
    wait::eventually("the old token is gone", CHANGED, async || {
        say().await;
        changed(&chat, "the file of tokens has changed") == 2
    })
    .await;
    for _ in 0..20 {
        say().await;
    }
    // A further join asks chat with a call of its own.
    let carol = Client::join(connector.address(), "carol", "4").await;
    assert_eq!(carol.say("hello").await, SENT);
    assert_eq!(connector.connections().await, 3);
    assert_eq!(connector.readyz().await, Some(200));
    let closed = connector
        .lines()
        .into_iter()
        .filter(|it| it.contains("closed"));
    assert_eq!(closed.collect::<Vec<_>>(), Vec::<String>::new());

    // The tokens of back ends were not touched.
    let path =
        "/chat.v1.ChatService/ListMembers?encoding=json&message=%7B%22channel%22%3A%224%22%7D";
    let shown = format!("authorization: Bearer {watcher}");
    let (status, answer) = curl(chat.address(), &["-H", &shown, path]);
    assert_eq!(status, "200", "{answer}");
}

#[tokio::test]
async fn a_standalone_asks_its_callers_for_a_token_and_not_its_own_connector() {
    let _permit = Permit::shared().await;
    let files = Files::new();
    let (game, line) = create("game", "send");
    let tokens = files.write("tokens", &line);
    let standalone = Standalone::with(&["--api-tokens-file", text(&tokens)]).await;
    let alice = Client::join(standalone.address(), "alice", "4").await;
    assert_eq!(alice.say("hello").await, SENT);
    let body = r#"{"channel":"4","user":"bot","body":{"content":"beep"}}"#;
    let path = "/chat.v1.ChatService/Send";
    let (status, answer) = curl(standalone.grpc(), &["--json", body, path]);
    assert_eq!(status, "401", "{answer}");
    let shown = format!("authorization: Bearer {game}");
    let (status, answer) = curl(standalone.grpc(), &["--json", body, "-H", &shown, path]);
    assert_eq!(status, "200", "{answer}");
    alice.until_push(&heard("bot", "beep")).await;
}

#[tokio::test]
async fn a_service_does_not_start_with_a_file_of_tokens_that_it_cannot_use() {
    let _permit = Permit::shared().await;
    let files = Files::new();
    let secret = create("a", "send").0;
    let wrong = files.write("wrong", &format!("a {secret} send\n"));
    let missing = files.path("missing");
    for (binary, flag, file, reason) in [
        ("chat", "--api-tokens-file", &wrong, "line 1: "),
        ("chat", "--api-tokens-file", &missing, "cannot read"),
        ("standalone", "--api-tokens-file", &wrong, "line 1: "),
        (
            "connector",
            "--chat-token-file",
            &wrong,
            "must hold one token",
        ),
        ("connector", "--chat-token-file", &missing, "cannot read"),
    ] {
        let mut command = Command::new(binaries::path(binary));
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        if binary == "standalone" {
            command.args(["--grpc", "127.0.0.1:0"]);
        }
        command.args([flag, text(file)]);
        let mut process = testkit::process::Process::spawn(binary, &mut command);
        let status = process.ended_within(SOON).await;
        let lines = process.lines().join("\n");
        assert!(!status.success(), "{binary}: {lines}");
        assert!(lines.contains(flag) && lines.contains(reason), "{lines}");
        assert!(!lines.contains(&secret), "{lines}");
    }
}
