//! Settings in files: what `config` prints and checks, what each layer counts for, and what changes without a restart.

use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use testkit::json::Client;
use testkit::permit::Permit;
use testkit::service::Standalone;
use testkit::wait::eventually;
use testkit::websocket::{self, Terms};
use testkit::{SOON, binaries};

const BINARIES: [&str; 3] = ["chat", "connector", "standalone"];
/// Set this in the environment to write docs/configuration.md instead of comparing it.
const WRITE: &str = "CONFIGURATION_WRITE";

/// Runs a binary that only prints something.
fn run(binary: &'static str, arguments: &[&str]) -> Output {
    let mut command = Command::new(binaries::path(binary));
    command.args(arguments).output().expect("it runs")
}

fn printed(binary: &'static str, arguments: &[&str]) -> String {
    let output = run(binary, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{binary} {arguments:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

/// The values that `config show` prints, without their sources.
fn shown(binary: &'static str, arguments: &[&str]) -> BTreeMap<String, String> {
    let text = printed(binary, &[&["config", "show"], arguments].concat());
    let mut table = String::new();
    let mut values = BTreeMap::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut table);
        } else if let Some((key, value)) = line.split_once(" = ") {
            let value = value.rsplit_once("  # ").map_or(value, |(value, _)| value);
            values.insert(format!("{table}.{key}"), value.to_owned());
        }
    }
    values
}

/// The file with every default written down. The examples of tables at its end stay comments.
fn without_comment_signs(text: &str) -> String {
    let end = text.find("\n#[[").unwrap_or(text.len());
    let mut lines = Vec::new();
    let mut has_default = true;
    for line in text[..end].lines() {
        let key = line.strip_prefix('#').filter(|key| !key.starts_with(' '));
        lines.push(key.filter(|_| has_default).unwrap_or(line));
        has_default = line != "# Not set by default.";
    }
    lines.join("\n")
}

#[tokio::test]
async fn the_file_that_config_default_prints_changes_nothing() {
    let _permit = Permit::shared().await;
    let directory = tempfile::tempdir().expect("a directory");
    for binary in BINARIES {
        let text = printed(binary, &["config", "default"]);
        let file = directory.path().join(format!("{binary}.toml"));
        let path = file.to_str().expect("text");
        let live = without_comment_signs(&text);
        assert!(live.contains("\nlisten = \"127.0.0.1:"), "{live}");
        for content in [&text, &live] {
            fs::write(&file, content).expect("a file");
            let checked = printed(binary, &["config", "check", path]);
            assert_eq!(checked, "The file is right.\n", "{binary}");
            assert_eq!(
                shown(binary, &["--config", path]),
                shown(binary, &[]),
                "{binary}"
            );
        }
    }
}

#[tokio::test]
async fn a_flag_counts_more_than_a_variable_and_a_variable_more_than_the_file() {
    let _permit = Permit::shared().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("service.toml");
    let path = file.to_str().expect("text");
    // In one process with chat, the connector's settings have the variables that they have otherwise, and a table of their own.
    for (binary, table) in [("connector", ""), ("standalone", "[connector]")] {
        let text = format!(
            "{table}\nheartbeat = \"1s\"\nidle_timeout = \"1s\"\nhandshake_timeout = \"1s\"\n"
        );
        fs::write(&file, text).expect("a file");
        let mut command = Command::new(binaries::path(binary));
        command
            .args(["--heartbeat", "3s", "--config", path, "config", "show"])
            .env("CONNECTOR_HEARTBEAT", "2s")
            .env("CONNECTOR_IDLE_TIMEOUT", "2s");
        let output = command.output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        for expected in [
            "heartbeat = \"3s\"  # --heartbeat",
            "idle_timeout = \"2s\"  # CONNECTOR_IDLE_TIMEOUT",
            "handshake_timeout = \"1s\"  # the file, line 4",
        ] {
            let is_there = text.lines().any(|line| line == expected);
            assert!(is_there, "{binary}: {expected} is not in\n{text}");
        }
    }
}

/// A service with these settings does not start, and the check refuses them: with 64 and one line, which contains this.
fn assert_refused(binary: &'static str, path: &str, expected: &str) {
    for arguments in [&["--config", path][..], &["config", "check", path]] {
        let output = run(binary, arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code();
        assert_eq!(code, Some(64), "{binary} {arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_mistake_in_a_file_ends_every_service_with_one_line() {
    let _permit = Permit::shared().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("wrong.toml");
    let path = file.to_str().expect("text");
    for (binary, text, expected) in [
        (
            "chat",
            "listn = \"127.0.0.1:0\"",
            "line 1: listn is no setting: did you mean listen?",
        ),
        (
            "connector",
            "\nmessage_limit = \"1GB\"",
            "line 2: message_limit: \"1GB\" can't be used",
        ),
        (
            "standalone",
            "[connector]\nmessage_limits = 5",
            "did you mean connector.message_limit?",
        ),
    ] {
        fs::write(&file, text).expect("a file");
        assert_refused(binary, path, expected);
    }
}

/// A service that cannot start must not be started again and again, so the check and the exit code say that the settings are wrong.
#[tokio::test]
async fn a_file_that_a_setting_names_and_that_is_not_there_is_found_by_the_check() {
    let _permit = Permit::shared().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("settings.toml");
    let path = file.to_str().expect("text");
    for (binary, text) in [
        ("chat", "api.tokens_file = '/nonesuch'"),
        ("chat", "redis_file = '/nonesuch'"),
        (
            "chat",
            "redis = 'rediss://127.0.0.1:1'\nredis_ca = '/nonesuch'",
        ),
        (
            "chat",
            "tls.certificate = '/nonesuch'\ntls.key = '/nonesuch'",
        ),
        (
            "chat",
            "trace.endpoint = 'https://127.0.0.1:1'\ntrace.ca = '/nonesuch'",
        ),
        ("connector", "chat_token_file = '/nonesuch'"),
        ("connector", "redis_file = '/nonesuch'"),
        (
            "connector",
            "chat = ['https://127.0.0.1:1']\nchat_ca = '/nonesuch'",
        ),
        (
            "connector",
            "tls.certificate = '/nonesuch'\ntls.key = '/nonesuch'",
        ),
        ("standalone", "api.tokens_file = '/nonesuch'"),
        (
            "standalone",
            "trace.endpoint = 'https://127.0.0.1:1'\ntrace.ca = '/nonesuch'",
        ),
    ] {
        fs::write(&file, text).expect("a file");
        assert_refused(binary, path, "/nonesuch");
    }
}

#[tokio::test]
async fn a_wrong_variable_is_reported_by_its_name() {
    let _permit = Permit::shared().await;
    for (binary, variable, value, expected) in [
        (
            "connector",
            "CONNECTOR_GRACE",
            "banana",
            "connector: CONNECTOR_GRACE: \"banana\" can't be used: expected a time",
        ),
        ("chat", "CHAT_REDIS", "5", "chat: CHAT_REDIS: "),
    ] {
        let mut command = Command::new(binaries::path(binary));
        let output = command.env(variable, value).output().expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{error}");
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[tokio::test]
async fn a_rule_that_never_holds_is_warned_of_by_the_check_and_in_the_log() {
    let _permit = Permit::shared().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("rules.toml");
    let path = file.to_str().expect("text");
    let text = "[[channel]]\nmatch = \"game:*\"\n[[channel]]\nmatch = \"game:1\"\n";
    fs::write(&file, text).expect("a file");
    for binary in BINARIES {
        let output = run(binary, &["config", "check", path]);
        let warning = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{binary}: {warning}");
        assert!(warning.contains("this rule never holds"), "{warning}");
        assert_eq!(output.stdout, b"The file is right.\n");
    }
    let system = Standalone::with(&["--config", path]).await;
    eventually("the log warns", SOON, async || {
        let lines = system.lines();
        lines.iter().any(|it| it.contains("this rule never holds"))
    })
    .await;
}

#[tokio::test]
async fn config_show_never_shows_a_password() {
    let _permit = Permit::shared().await;
    for (binary, flag) in [
        ("chat", "--redis"),
        ("connector", "--redis"),
        ("connector", "--chat"),
    ] {
        let scheme = if flag == "--redis" { "redis" } else { "http" };
        let url = format!("{scheme}://user:hidden@127.0.0.1:1");
        let output = run(binary, &[flag, &url, "config", "show"]);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains("hidden"), "{text}");
    }
}

#[tokio::test]
async fn the_log_filter_changes_at_sighup_and_a_wrong_file_changes_nothing() {
    let _permit = Permit::shared().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("standalone.toml");
    fs::write(&file, "log_filter = \"info\"\n").expect("a file");
    let path = file.to_str().expect("text");
    let system = Standalone::with(&["--config", path]).await;
    let has = |text: &str| system.lines().iter().any(|line| line.contains(text));

    fs::write(&file, "log_filter = \"debug\"\nlog_fliter = \"x\"\n").expect("a file");
    system.hang_up();
    eventually("the mistake is logged", SOON, async || {
        has("did you mean log_filter") && has("the settings stay as they are")
    })
    .await;
    assert!(!has("\"level\":\"DEBUG\""));

    fs::write(
        &file,
        "log_filter = \"debug\"\n[connector]\nheartbeat = \"9s\"\n",
    )
    .expect("a file");
    system.hang_up();
    eventually("debug lines are logged", SOON, async || {
        // The end of a connection is logged at level debug.
        drop(Client::connect(system.address()).await);
        has("\"level\":\"DEBUG\"")
    })
    .await;
    eventually("the log says what has changed", SOON, async || {
        has("\"changed\":\"log_filter\"") && has("\"settings\":\"connector.heartbeat\"")
    })
    .await;
}

/// The part of docs/configuration.md that is made of the code.
#[tokio::test]
async fn the_number_of_connections_changes_with_the_file_and_nobody_is_closed() {
    let _permit = Permit::shared().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("standalone.toml");
    let write = |connections: u32| {
        let text = format!("[connector]\nconnections = {connections}\n");
        fs::write(&file, text).expect("a file");
    };
    write(100);
    let system = Standalone::with(&["--config", file.to_str().expect("text")]).await;
    let address = system.address();
    let inside = [
        Client::connect(address).await,
        Client::connect(address).await,
    ];
    let is_let_in = async || {
        let connected = websocket::connect(address, "/ws", Terms::default()).await;
        connected.is_ok()
    };
    assert!(is_let_in().await);
    write(2);
    eventually("a third client is refused", SOON, async || {
        !is_let_in().await
    })
    .await;
    for client in &inside {
        let reply = client.request("connector.handler.ping", json!({})).await;
        assert_eq!(reply["code"], 0, "{reply}");
    }
    write(100);
    eventually("there is room again", SOON, is_let_in).await;
}

fn reference() -> String {
    let mut text = String::new();
    for binary in BINARIES {
        text += &format!(
            "\n## {binary}\n{}",
            printed(binary, &["config", "reference"])
        );
    }
    text
}

#[tokio::test]
async fn the_documentation_has_every_setting_as_the_code_has_it() {
    let _permit = Permit::shared().await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let committed = fs::read_to_string(&file).expect("docs/configuration.md is there");
    let begin = committed
        .find("\n## chat\n")
        .expect("it has a part for chat");
    let made = reference();
    if std::env::var_os(WRITE).is_some() {
        fs::write(file, committed[..begin].to_owned() + &made).expect("it can be written");
        return;
    }
    assert!(
        committed[begin..] == made,
        "docs/configuration.md does not say what the code says. To write it again, run:\n  \
         {WRITE}=1 ./tests/run the_documentation_has_every_setting"
    );
}
