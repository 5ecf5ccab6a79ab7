//! A real Prometheus watches a running system: each query of each dashboard has data, and real faults fire their alerts.

use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use testkit::permit::Permit;
use testkit::pomelo::{Client, SEND};
use testkit::process::Process;
use testkit::redis::Redis;
use testkit::service::{Chat, Standalone};
use testkit::system::Plan;
use testkit::tls::Authority;
use testkit::{SOON, http, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ALERTS: &str = include_str!("../../deploy/prometheus/alerts.yml");

/// An alert waits for up to a minute here, because a busy machine is slow to scrape.
const FIRES: Duration = Duration::from_secs(60);

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The rules with shorter times: everything else stays as it is. It is the same as `sed -E 's/for: .*/for: 1s/'`.
fn hasty(rules: &str) -> String {
    let lines = rules.lines().map(|line| match line.find("for: ") {
        Some(place) => format!("{}for: 1s", &line[..place]),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The body of an answer. With HTTP/1.0 it is never in chunks.
async fn whole(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address)
        .await
        .expect("Prometheus listens");
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let written = stream.write_all(request.as_bytes()).await;
    written.expect("Prometheus reads");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer).await;
    read.expect("Prometheus answers");
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
    body.to_owned()
}

/// A Prometheus that scrapes every second.
struct Prometheus {
    process: Process,
    address: SocketAddr,
    _directory: TempDir,
}

impl Prometheus {
    /// Scrapes these jobs, each at these addresses.
    async fn start(jobs: &[(&str, Vec<SocketAddr>)]) -> Self {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let mut config =
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n\
                          rule_files: [alerts.yml]\nscrape_configs:\n"
                .to_owned();
        for (job, targets) in jobs {
            let targets: Vec<_> = targets.iter().map(|it| format!("\"{it}\"")).collect();
            let targets = targets.join(", ");
            config +=
                &format!("  - job_name: {job}\n    static_configs: [{{targets: [{targets}]}}]\n");
        }
        let file = directory.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("a file");
        std::fs::write(directory.path().join("alerts.yml"), hasty(ALERTS)).expect("a file");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("data").display()
            ))
            .args(["--web.listen-address=127.0.0.1:0", "--log.format=json"]);
        let mut process = Process::spawn("prometheus", &mut command);
        let address = process
            .until_line("where it listens", |line| {
                let event: Value = serde_json::from_str(line).ok()?;
                let is_it = event["msg"] == "Listening on";
                is_it.then(|| event["address"].as_str()?.parse().ok())?
            })
            .await;
        Self {
            process,
            address,
            _directory: directory,
        }
    }

    /// What a query finds now: each series with its labels.
    async fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = whole(self.address, &format!("/api/v1/query?query={encoded}")).await;
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let found = answer["data"]["result"].as_array();
        found.cloned().unwrap_or_default()
    }

    /// The names of the alerts that fire.
    async fn firing(&self) -> BTreeSet<String> {
        let firing = self.query("ALERTS{alertstate=\"firing\"}").await;
        let names = firing
            .iter()
            .filter_map(|it| it["metric"]["alertname"].as_str());
        names.map(str::to_owned).collect()
    }

    async fn until_fires(&self, alert: &str) {
        let what = format!("{alert} fires");
        wait::eventually(&what, FIRES, async || self.firing().await.contains(alert)).await;
    }
}

/// All queries of all dashboards, each with the place where it stands.
fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    let files =
        std::fs::read_dir(deploy().join("grafana/dashboards")).expect("there are dashboards");
    for file in files {
        let file = file.expect("a file").path();
        let text = std::fs::read_to_string(&file).expect("a text");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                let place = format!("{}, {}", file.display(), panel["title"]);
                let query = target["expr"].as_str().expect("a query");
                queries.push((place, query.replace("$__rate_interval", "1m")));
            }
        }
    }
    assert!(queries.len() > 50, "{} queries", queries.len());
    queries
}

#[tokio::test]
async fn dashboards_have_data_and_real_faults_fire_their_alerts() {
    let plan = Plan::of(1, 1)
        .alone()
        .chat_flags(&["--ack", "replica", "--store-memory-budget", "1GiB"])
        .connector_flags(&[
            "--queue",
            "16MiB",
            "--queue-total",
            "16MiB",
            "--message-limit",
            "64KiB",
        ]);
    let _permit = plan.permit().await;
    let mut primary = Redis::start().await;
    let mut replica = Redis::replica_of(primary.address()).await;
    let services = plan.services(&primary.url(), &primary.url()).await;
    let (connector, chat) = (&services.connectors[0], &services.chats[0]);
    let authority = Authority::new();
    let in_an_hour = SystemTime::now() + Duration::from_secs(3_600);
    let certificate = authority.issue_until("short", in_an_hour);
    let mut standalone = Standalone::with(&certificate.flags()).await;
    wait::eventually("the log warns of the certificate", SOON, async || {
        let warnings = standalone.warnings();
        warnings
            .iter()
            .any(|it| it.contains("a certificate expires soon"))
    })
    .await;
    let prometheus = Prometheus::start(&[
        ("connector", vec![connector.admin()]),
        ("chat", vec![chat.admin()]),
        ("standalone", vec![standalone.admin()]),
    ])
    .await;

    // A little load, until everything that a dashboard shows is there.
    let client = Client::connect(connector.address()).await;
    client.enter("reader", "room").await;
    let sender = Client::connect(connector.address()).await;
    sender.enter("sender", "room").await;
    let mut left = queries();
    wait::eventually(
        "every query of every dashboard has data",
        FIRES,
        async || {
            for _ in 0..10 {
                sender.request(SEND, r#"{"text":"hello"}"#).await;
            }
            let mut still = Vec::new();
            for (place, query) in left.drain(..) {
                if prometheus.query(&query).await.is_empty() {
                    still.push((place, query));
                }
            }
            left = still;
            if !left.is_empty() {
                eprintln!("without data: {left:?}");
            }
            left.is_empty()
        },
    )
    .await;
    prometheus.until_fires("CertificateExpires").await;
    prometheus.until_fires("CertificateExpiresSoon").await;
    let quiet = ["CertificateExpires", "CertificateExpiresSoon"].map(str::to_owned);
    assert_eq!(
        prometheus.firing().await,
        quiet.into(),
        "a healthy system is quiet"
    );
    let faults = prometheus
        .query("prometheus_rule_evaluation_failures_total > 0")
        .await;
    assert!(faults.is_empty(), "{faults:?}");

    // A client that does not read.
    let slow = Client::connect_with_small_buffer(connector.address()).await;
    slow.enter("slow", "room").await;
    slow.stop_reading();
    let body = format!(r#"{{"c":"{}"}}"#, "x".repeat(60_000));
    let is_filling = async || {
        sender.request(SEND, &body).await;
        connector.metric::<u64>("connector_queued_bytes").await > 8 << 20
    };
    wait::eventually("the queue is more than half full", FIRES, is_filling).await;
    prometheus.until_fires("QueuesFill").await;
    slow.resume_reading();
    drop(slow);

    // The replica that --ack replica needs is away.
    replica.kill();
    prometheus.until_fires("ReplicaMissing").await;
    prometheus.until_fires("RedisRefusesWrites").await;
    replica.restart().await;
    wait::eventually("writes work again", FIRES, async || {
        let firing = prometheus.firing().await;
        !firing.contains("ReplicaMissing") && !firing.contains("RedisRefusesWrites")
    })
    .await;

    // The replica is there, and lacks much of what the primary has.
    replica.freeze();
    primary.say_words(&["SET", "filling", &"x".repeat(12 << 20)]);
    prometheus.until_fires("ReplicaLags").await;
    replica.thaw();
    primary.say("DEL filling");
    wait::eventually("the replica has everything", FIRES, async || {
        let firing = prometheus.firing().await;
        !["ReplicaLags", "ReplicaMissing", "RedisRefusesWrites"]
            .iter()
            .any(|it| firing.contains(*it))
    })
    .await;

    // A frozen connector answers nobody, and does not renew its lease.
    connector.freeze();
    prometheus.until_fires("ProcessDown").await;
    prometheus.until_fires("ConnectorDied").await;
    connector.thaw();

    // A right was taken away, so leases are not renewed.
    primary.say("ACL SETUSER default -evalsha");
    prometheus.until_fires("LeaseLate").await;
    primary.say("ACL SETUSER default +evalsha");
    let quiet_again = async || {
        let firing = prometheus.firing().await;
        !(firing.contains("LeaseLate") || firing.contains("RedisRefusesWrites"))
    };
    wait::eventually("leases are renewed again", FIRES, quiet_again).await;

    // What follows from that has no alert of its own.
    primary.kill();
    prometheus.until_fires("RedisAway").await;
    let late = async || {
        !prometheus
            .query("connector_lease_age_seconds > 8")
            .await
            .is_empty()
    };
    wait::eventually("the lease is late", FIRES, late).await;
    let firing = prometheus.firing().await;
    for follows in [
        "LeaseLate",
        "LeaseAway",
        "ChatAway",
        "RedisRefusesWrites",
        "NotReady",
    ] {
        assert!(!firing.contains(follows), "{firing:?}");
    }
    let lines = prometheus.process.lines();
    let errors = lines.iter().filter(|it| it.contains("\"level\":\"error\""));
    assert_eq!(errors.collect::<Vec<_>>(), Vec::<&String>::new());
    standalone.terminate();
    standalone.ended_within(SOON).await;
}

#[tokio::test]
async fn a_redis_near_its_budget_is_named_in_the_log_and_where_readiness_is_told() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    // An empty Redis uses nearly as much.
    let chat = Chat::start(&redis, &["--store-memory-budget", "1MiB"]).await;
    wait::eventually("the log names the server", SOON, async || {
        let warnings = chat.warnings();
        warnings
            .iter()
            .any(|it| it.contains("of its memory budget"))
    })
    .await;
    let answer = http::get(chat.admin(), "/readyz").await.expect("an answer");
    assert_eq!(answer.status, 200, "a budget refuses nothing");
    let line = answer.body.lines().find(|it| it.starts_with("redis: "));
    let line = line.expect("a line about Redis");
    assert!(
        line.starts_with("redis: ok, but ") && line.contains("of its memory budget"),
        "{line}"
    );
    let metrics = chat.metrics().await;
    let budget = format!(
        "redis_memory_budget_bytes{{server=\"{}\"}} {}",
        redis.address(),
        1 << 20
    );
    assert!(
        metrics.lines().any(|it| it == budget),
        "no {budget} in:\n{metrics}"
    );
}

#[tokio::test]
async fn a_process_that_stops_warns_of_nothing_and_readiness_is_told_as_json() {
    let mut system = Plan::of(1, 1).start().await;
    let connector = &mut system.connectors[0];
    let report = http::get(connector.admin(), "/readyz?format=json")
        .await
        .expect("an answer");
    let report: Value = serde_json::from_str(&report.body).expect("JSON");
    assert_eq!(
        (&report["ready"], &report["draining"]),
        (&true.into(), &false.into())
    );
    let conditions = report["conditions"].as_array().expect("conditions");
    let lease = conditions
        .iter()
        .find(|it| it["name"] == "lease")
        .expect("the lease");
    assert_eq!(lease["ready"], true);
    let before = connector.warnings();
    connector.terminate();
    connector.ended_within(SOON).await;
    assert_eq!(connector.warnings(), before);
}

/// The anchor that GitHub and mdbook make of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|it| it.is_alphanumeric() || " -_".contains(*it));
    kept.collect::<String>().replace(' ', "-")
}

#[test]
fn each_alert_has_a_section_that_says_what_to_do() {
    let page = include_str!("../../docs/operations.md");
    let sections: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .map(anchor)
        .collect();
    let value =
        |line: &'static str, key: &str| line.trim().trim_start_matches("- ").strip_prefix(key);
    let alerts: Vec<_> = ALERTS
        .lines()
        .filter_map(|line| value(line, "alert: "))
        .collect();
    let places: Vec<_> = ALERTS
        .lines()
        .filter_map(|line| value(line, "runbook_url: "))
        .collect();
    assert!(
        alerts.len() > 20 && alerts.len() == places.len(),
        "{alerts:?} {places:?}"
    );
    for (alert, place) in alerts.iter().zip(places) {
        let section = place.strip_prefix("docs/operations.md#");
        let section = section.expect("the place is in docs/operations.md");
        assert!(
            sections.contains(section),
            "{alert}: there is no section {place}"
        );
        // Two alerts about the same share a section, which names both.
        assert!(
            page.contains(&format!("`{alert}`")) || anchor(alert) == section,
            "{alert}"
        );
    }
}

#[test]
fn each_alert_is_tested_with_promtool_and_fires_in_its_test() {
    for (arguments, file) in [
        (&["check", "rules"][..], "prometheus/alerts.yml"),
        (&["test", "rules"], "prometheus/tests/alerts.yml"),
    ] {
        let output = Command::new("promtool")
            .args(arguments)
            .arg(deploy().join(file))
            .output();
        let output = output.expect("tests/run installs promtool");
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }
    let tests = include_str!("../../deploy/prometheus/tests/alerts.yml");
    for alert in ALERTS
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        assert!(
            tests.contains(&format!(
                "alertname=\"{alert}\",alertstate=\"firing\"}}', value: 1"
            )),
            "no test sees {alert} fire"
        );
    }
}
