//! What operators see: complete and documented metrics, logs of which every line can be parsed, probes that are always
//! answered, and messages that say what is wrong.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use testkit::chat_api::ChatApi;
use testkit::permit::Permit;
use testkit::process::Process;
use testkit::redis::Redis;
use testkit::service::{Chat, Connector, Standalone};
use testkit::system::{Plan, System};
use testkit::{SOON, binaries, http, wait};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// What `promtool check metrics` complains about.
fn complaints(metrics: &str) -> String {
    use std::io::Write;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tests/run installs promtool");
    let mut input = promtool.stdin.take().expect("stdin is a pipe");
    input.write_all(metrics.as_bytes()).expect("promtool reads");
    drop(input);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success() || !said.is_empty());
    said
}

/// The metric families of a process, with type and label names.
fn families(metrics: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families = BTreeMap::new();
    for line in metrics.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        }
    }
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once('{') else {
            continue;
        };
        let stem = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| {
                name.strip_suffix(suffix)
                    .filter(|it| families.contains_key(*it))
            })
            .unwrap_or(name);
        let (labels, _) = rest.rsplit_once('}').expect("labels end");
        let (_, known) = families
            .get_mut(stem)
            .expect("the type comes before the samples");
        let names = labels
            .split("\",")
            .filter_map(|label| label.split_once('='));
        known.extend(
            names
                .map(|(name, _)| name.to_owned())
                .filter(|name| name != "le"),
        );
    }
    families
}

/// The table of docs/metrics.md: type, label names, and the services that have the metric.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>, String)> {
    let page = include_str!("../../docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells[2]
            .split(',')
            .map(|label| label.trim().trim_matches('`'));
        let labels = labels.filter(|label| !label.is_empty()).map(str::to_owned);
        let name = cells[0].trim_matches('`').to_owned();
        (
            name,
            (cells[1].to_owned(), labels.collect(), cells[3].to_owned()),
        )
    });
    rows.collect()
}

#[tokio::test]
async fn metrics_are_complete_before_anything_happens_and_documented() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let chat = Chat::start(&redis, &[]).await;
    let connector = Connector::start("c1", &[&chat], &redis, &[]).await;
    let standalone = Standalone::start().await;
    let documented = documented();
    for (who, text) in [
        ("chat", chat.metrics().await),
        ("connector", connector.metrics().await),
        ("standalone", standalone.metrics().await),
    ] {
        assert_eq!(
            complaints(&text),
            "",
            "promtool complains about {who}:\n{text}"
        );
        let served = families(&text);
        let expected: BTreeMap<_, _> = documented
            .iter()
            .filter(|(_, (_, _, by))| match who {
                "standalone" => !by.contains("Redis"),
                _ => by.contains(who),
            })
            .map(|(name, (kind, labels, _))| (name.clone(), (kind.clone(), labels.clone())))
            .collect();
        assert_eq!(served, expected, "{who} and docs/metrics.md differ");
    }
}

#[tokio::test]
async fn every_line_of_a_json_log_is_json() {
    let _permit = Permit::shared().await;
    let mut standalone = Standalone::start().await;
    for line in standalone.process().lines() {
        let parsed = serde_json::from_str::<Value>(&line);
        assert!(parsed.is_ok_and(|it| it.is_object()), "{line}");
    }
    // The error that ends a process is JSON, too.
    let taken = standalone.address().to_string();
    let mut command = Command::new(binaries::path("standalone"));
    command.args(["--log-format", "json", "--listen", &taken]);
    command.args(["--admin", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]);
    let mut second = Process::spawn("standalone", &mut command);
    assert!(!second.ended_within(SOON).await.success());
    let lines = second.lines();
    assert!(lines.iter().any(|line| line.contains(&taken)), "{lines:?}");
    for line in lines {
        assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
    }
}

#[tokio::test]
async fn probes_are_answered_while_other_requests_are_incomplete() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let chat = Chat::start(&redis, &[]).await;
    let mut halves = Vec::new();
    for _ in 0..200 {
        let mut half = TcpStream::connect(chat.admin())
            .await
            .expect("a connection");
        half.write_all(b"GET /livez HT")
            .await
            .expect("half a request");
        halves.push(half);
    }
    // Less than the time that an incomplete request may take.
    let within = std::time::Duration::from_millis(1_500);
    let answer = testkit::pace::timeout(within, http::get(chat.admin(), "/livez")).await;
    let answer = answer.expect("no incomplete request has to end first");
    assert_eq!(answer.expect("an answer").status, 200);
}

/// Connects, and acknowledges pings that nobody sent.
async fn flood_with_acknowledgements(chat: SocketAddr) {
    const ACKNOWLEDGEMENT: [u8; 17] = [0, 0, 8, 6, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let mut stream = TcpStream::connect(chat).await.expect("a connection");
    let greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(greeting).await.expect("the greeting");
    let many = ACKNOWLEDGEMENT.repeat(1_000);
    for _ in 0..100 {
        if stream.write_all(&many).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn protocol_errors_of_a_caller_do_not_fill_the_log() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let mut chat = Chat::start(&redis, &[]).await;
    let before = chat.process().lines().len();
    flood_with_acknowledgements(chat.address()).await;
    let api = ChatApi::at(chat.address());
    api.send("4", "bot", "{}", "").await.expect("chat goes on");
    let written = chat.process().lines().len() - before;
    assert!(written < 10, "{written} lines for 100,000 wrong frames");
}

#[tokio::test]
async fn silent_connections_leave_room_for_probes_and_callers() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let chat = Chat::start(&redis, &["--connections", "50"]).await;
    let connector = Connector::start("c1", &[&chat], &redis, &[]).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(
            TcpStream::connect(chat.address())
                .await
                .expect("a connection"),
        );
    }
    let api = ChatApi::at(chat.address());
    api.send("4", "bot", "{}", "").await.expect("there is room");
    assert_eq!(connector.readyz().await, Some(200));
    let counted: f64 = chat.metric("chat_connections").await;
    assert!(counted <= 60.0, "{counted} connections");
}

/// How often both chats together have counted this.
async fn counted(system: &System, counter: &str) -> u64 {
    let mut all = 0;
    for chat in &system.chats {
        all += chat.metric::<u64>(counter).await;
    }
    all
}

#[tokio::test]
async fn a_connector_that_stops_with_a_grace_counts_as_handed_over_when_the_grace_is_over() {
    let lease = ["--lease", "2s"];
    let mut system = Plan::of(2, 2)
        .chat_flags(&lease)
        .connector_flags(&["--lease", "2s", "--grace", "1s"])
        .start()
        .await;
    let bob = system.member(1, "bob", "room").await;
    let alice = system.member(0, "alice", "room").await;
    system.connectors[0].terminate();
    system.connectors[0].ended_within(3 * SOON).await;
    alice.end(SOON).await;
    bob.until_push(&testkit::pomelo::left("alice")).await;
    wait::eventually("it was handed over", SOON, async || {
        counted(&system, "chat_connectors_handed_over_total").await > 0
    })
    .await;
    assert_eq!(counted(&system, "chat_connectors_dead_total").await, 0);

    // One that is killed is dead.
    system.connectors[1].kill();
    wait::eventually("it was declared dead", 3 * SOON, async || {
        counted(&system, "chat_connectors_dead_total").await == 1
    })
    .await;
}

#[tokio::test]
async fn a_connector_that_stops_cleanly_is_not_declared_dead() {
    let mut system = Plan::of(1, 2).start().await;
    let alice = system.member(0, "alice", "room").await;
    alice.close().await;
    system.connectors[0].terminate();
    system.connectors[0].ended_within(SOON).await;
    wait::eventually("both chats have seen it", SOON, async || {
        let mut seen = 0;
        for chat in &system.chats {
            let text = chat.metrics().await;
            assert!(text.contains("chat_connectors_dead_total 0"), "{text}");
            seen += usize::from(text.contains("chat_connectors_handed_over_total 1"));
        }
        seen == 2
    })
    .await;
    for chat in &mut system.chats {
        for line in chat.process().lines() {
            assert!(!line.contains("dead"), "{line}");
        }
    }
}

#[tokio::test]
async fn an_unreachable_chat_is_named_with_the_reason() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let connector = Connector::begin("c1", "http://127.0.0.1:1", &redis.url(), &[]).await;
    wait::eventually("readyz says why", SOON, async || {
        let Some(answer) = http::get(connector.admin(), "/readyz").await else {
            return false;
        };
        let line = answer.body.lines().find(|line| line.starts_with("chat: "));
        line.is_some_and(|line| line.contains("127.0.0.1:1") && line.contains("refused"))
    })
    .await;
}

/// Runs a binary that ends by itself. Returns its exit code, and what it wrote.
async fn run(binary: &'static str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binaries::path(binary));
    command.args(arguments);
    let mut process = Process::spawn(binary, &mut command);
    let status = process.ended_within(SOON).await;
    let lines = process.lines();
    (status.code(), lines.join("\n"))
}

#[tokio::test]
async fn wrong_settings_are_refused_with_the_flag_and_an_example() {
    let _permit = Permit::shared().await;
    for (binary, arguments, words) in [
        (
            "chat",
            &["--listen", "3010"][..],
            &["--listen", "127.0.0.1:3010"][..],
        ),
        (
            "chat",
            &["--message-limit", "1GB"],
            &["--message-limit", "1MiB"],
        ),
        ("connector", &["--queue", "1GB"], &["--queue", "1MiB"]),
        (
            "connector",
            &["--heartbeat", "soon"],
            &["--heartbeat", "10s"],
        ),
        (
            "connector",
            &["--chat", "ftp://chat:4001"],
            &["--chat", "http://"],
        ),
        (
            "connector",
            &["--chat", "http://u:secret@chat"],
            &["--chat", "password"],
        ),
        (
            "chat",
            &["--redis", "http://:secret@h"],
            &["--redis", "redis://127"],
        ),
        (
            "connector",
            &["--redis", "redis://:secret@h:x"],
            &["--redis", "redis://127"],
        ),
        ("chat", &["redis://:secret@h"], &["unrecognized subcommand"]),
        (
            "chat",
            &["--ack-replicas", "2"],
            &["--ack-replicas", "--ack replica"],
        ),
        (
            "chat",
            &["--log-life", "48h", "--channel-life", "24h"],
            &["--channel-life", "--log-life"],
        ),
        (
            "chat",
            &["--log-keep", "2h", "--log-life", "1h"],
            &["--log-keep", "--log-life"],
        ),
        ("chat", &["--ready-slots", "0"], &["--ready-slots", "0.5"]),
        (
            "connector",
            &["--redis-timeout", "5s"],
            &["--redis-timeout", "--lease"],
        ),
        (
            "connector",
            &["--queue", "2MiB", "--queue-total", "1MiB"],
            &["--queue", "--queue-total"],
        ),
    ] {
        let (code, said) = run(binary, arguments).await;
        assert_eq!(code, Some(64), "{binary} {arguments:?}: {said}");
        for word in words {
            assert!(
                said.contains(word),
                "{binary} {arguments:?}: no {word} in {said}"
            );
        }
        assert!(!said.contains("secret"), "{said}");
    }
}
