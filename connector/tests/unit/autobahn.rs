//! Runs Autobahn's test suite against a connector without its protocols: it tests accepting, handshake, limits, client
//! loop, output and close. Instead of a protocol, a path sends each message back.
//!
//! A protocol does not learn whether a message is text or binary. So there is a path for each, and each case uses one.

use crate::chat_client::{Chat, Credentials, Source};
use crate::config::Config;
use crate::hub::Hub;
use crate::routes::Routes;
use crate::{ClientSettings, Connector};
use channel_store::StoreOptions;
use channel_store::memory::MemoryStore;
use clap::Parser;
use runtime::config::fixed;
use runtime::listen::Listener;
use runtime::{Readiness, Shutdown};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// The cases with binary messages.
const BINARY: [&str; 8] = [
    "1.2.*", "9.2.*", "9.4.*", "9.6.*", "9.8.*", "12.2.*", "12.3.*", "12.5.*",
];
/// The largest message of the suite.
const LARGEST: u32 = 16 << 20;
const NEVER: Duration = Duration::from_secs(1 << 20);

/// A connector whose limits are above what the suite needs.
async fn connector() -> (SocketAddr, AbortOnDropHandle<()>) {
    let clients = ClientSettings {
        message_limit: LARGEST,
        queue: 4 * LARGEST as usize,
        // Pings of the connector would disturb the suite's comparison.
        heartbeat: NEVER,
        handshake_timeout: NEVER,
        idle_timeout: NEVER,
        ..Config::parse_from(["connector"]).clients
    };
    let store = MemoryStore::new(StoreOptions::default());
    let hub = Hub::new(Duration::from_secs(60));
    let parts = crate::Store {
        feed: store.feed(hub.clone()),
        leases: store.leases(),
        users: store.registry(),
        hints: store.hints(),
        inboxes: store.inboxes(),
    };
    let chat = Chat::new(Source::Addresses(Vec::new(), Credentials::default()));
    let lease = Duration::from_secs(10);
    let connector = Connector::new("c", lease, &clients, hub, parts, chat, Routes::none()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        let listener = Listener::from(listener);
        connector
            .serve(listener, Readiness::new(), fixed(clients), Shutdown::new())
            .await;
    });
    (address, AbortOnDropHandle::new(served))
}

/// Runs cases of the suite and returns the verdict of each.
async fn run(
    connector: SocketAddr,
    kind: &str,
    cases: &[&str],
    without: &[&str],
) -> BTreeMap<String, Verdict> {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/autobahn/.venv/bin/wstest");
    assert!(suite.exists(), "run tests/autobahn/install first");
    let report = tempfile::tempdir().unwrap();
    let plan = json!({
        "outdir": report.path(),
        "servers": [{"agent": kind, "url": format!("ws://{connector}/echo/{kind}")}],
        "cases": cases,
        "exclude-cases": without,
    });
    let path = report.path().join("plan.json");
    std::fs::write(&path, plan.to_string()).unwrap();
    let mut client = Command::new(suite)
        .args(["--mode", "fuzzingclient", "--webport", "0", "--spec"])
        .arg(&path)
        .current_dir(report.path())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let ended = timeout(Duration::from_secs(3_600), client.wait()).await;
    let status = ended.expect("the suite has hung").unwrap();
    assert!(status.success(), "the suite ended with {status}");

    let read = |name: &str| std::fs::read_to_string(report.path().join(name)).unwrap();
    let mut index: Value = serde_json::from_str(&read("index.json")).unwrap();
    let cases: BTreeMap<String, Value> = serde_json::from_value(index[kind].take()).unwrap();
    let mut seen = BTreeMap::new();
    for (case, result) in cases {
        let text = |name: &str| result[name].as_str().unwrap().to_owned();
        // This file is not always valid JSON, because it quotes bytes that are not UTF-8.
        let details = read(&text("reportfile"));
        let told = details.lines().filter(|line| line.contains("\"result"));
        let verdict = Verdict {
            behavior: text("behavior"),
            close: text("behaviorClose"),
            details: told.collect(),
        };
        seen.insert(case, verdict);
    }
    seen
}

/// The suite's verdict on a case.
struct Verdict {
    behavior: String,
    close: String,
    details: String,
}

/// One line of the table in `docs/conformance.md`.
#[derive(Default)]
struct Line {
    cases: usize,
    counts: [usize; OUTCOMES.len()],
    unclean: usize,
}

/// The possible verdicts. Any other counts as a failure.
const OUTCOMES: [&str; 5] = [
    "OK",
    "NON-STRICT",
    "INFORMATIONAL",
    "UNIMPLEMENTED",
    "FAILED",
];

/// The table as in `docs/conformance.md`, and a list of failures.
fn summarize(verdicts: &BTreeMap<String, Verdict>) -> (String, Vec<String>) {
    let mut lines = BTreeMap::<u32, Line>::new();
    let mut wrong = Vec::new();
    for (case, verdict) in verdicts {
        let group = case.split_once('.').unwrap().0.parse().unwrap();
        let line = lines.entry(group).or_default();
        line.cases += 1;
        let outcome = OUTCOMES.iter().position(|name| *name == verdict.behavior);
        let outcome = outcome.unwrap_or(OUTCOMES.len() - 1);
        line.counts[outcome] += 1;
        let is_clean = matches!(&*verdict.close, "OK" | "INFORMATIONAL");
        line.unclean += usize::from(!is_clean);
        if !is_clean || OUTCOMES[outcome] == "FAILED" {
            let Verdict {
                behavior,
                close,
                details,
            } = verdict;
            wrong.push(format!("{case}: {behavior}, close {close}: {details}"));
        }
    }
    let mut table = String::new();
    for (group, line) in lines {
        let counts = line.counts.map(|count| count.to_string()).join(" | ");
        let (cases, unclean) = (line.cases, line.unclean);
        writeln!(table, "| {group} | {cases} | {counts} | {unclean} |").unwrap();
    }
    (table, wrong)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn the_suite_of_autobahn_finds_nothing_wrong() {
    let (address, _connector) = connector().await;
    let (mut verdicts, binary) = tokio::join!(
        run(address, "text", &["*"], &BINARY),
        run(address, "binary", &BINARY, &[]),
    );
    verdicts.extend(binary);
    let (table, wrong) = summarize(&verdicts);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let document = include_str!("../../../docs/conformance.md");
    assert!(
        document.contains(&table),
        "docs/conformance.md lacks\n{table}"
    );
}
