//! The command line: wrong flags and taken ports give one clear line, there is help and a version, and environment
//! variables work like flags.

use std::net::TcpListener;
use std::process::{Command, ExitStatus};
use testkit::permit::Permit;
use testkit::process::Process;
use testkit::redis::Redis;
use testkit::{SOON, binaries};

const BINARIES: [&str; 3] = ["chat", "connector", "standalone"];

/// Runs a binary that ends by itself. Returns how it ended, and what it wrote.
async fn run(binary: &'static str, arguments: &[&str]) -> (ExitStatus, Vec<String>) {
    let mut command = Command::new(binaries::path(binary));
    command.args(arguments);
    let mut process = Process::spawn(binary, &mut command);
    let status = process.ended_within(SOON).await;
    let mut lines = process.lines();
    lines.retain(|line| !line.is_empty());
    (status, lines)
}

#[tokio::test]
async fn a_bad_flag_gives_one_line_and_a_failure() {
    let _permit = Permit::shared().await;
    for binary in BINARIES {
        for arguments in [
            &["--no-such-flag"][..],
            &["--listen", "nowhere"],
            &["--listen"],
            &["surplus"],
            &["--log-format", "xml"],
        ] {
            let (status, lines) = run(binary, arguments).await;
            assert!(!status.success(), "{binary} {arguments:?}");
            assert_eq!(lines.len(), 1, "{binary} {arguments:?}: {lines:#?}");
            let wrong = arguments.last().expect("an argument");
            assert!(lines[0].contains(wrong), "{lines:?} doesn't name {wrong}");
        }
    }
}

/// Otherwise everybody would be locked out, or, worse, let in.
#[tokio::test]
async fn settings_of_access_that_cannot_be_used_give_one_line_and_a_failure() {
    let _permit = Permit::shared().await;
    let directory = tempfile::TempDir::new().expect("a directory");
    let path = directory.path().join("access.toml");
    let file = path.to_str().expect("a path");
    for (text, mode, words) in [
        ("", "jwt", "there is no [[auth.issuer]]"),
        (
            "[[channel]]\nmatch = 'a'\njoin = 'hook'",
            "open",
            "set auth.hook.target",
        ),
        ("", "hook", "set auth.hook.target"),
        (
            "\n[[channels]]\nmatch = 'a'",
            "open",
            "channels is no setting: did you mean",
        ),
    ] {
        std::fs::write(&path, text).expect("written");
        for binary in ["connector", "standalone"] {
            let flags = ["--auth-mode", mode, "--config", file];
            let (status, lines) = run(binary, &flags).await;
            assert_eq!(status.code(), Some(64), "{binary} {words}");
            assert_eq!(lines.len(), 1, "{binary}: {lines:#?}");
            assert!(lines[0].contains(words), "{binary}: {lines:?}");
        }
    }
}

#[tokio::test]
async fn an_invalid_redis_url_gives_one_line_and_a_failure() {
    let _permit = Permit::shared().await;
    for binary in ["chat", "connector"] {
        let flags = ["--redis", "nonsense", "--listen", "127.0.0.1:0"];
        let flags = [&flags[..], &["--admin", "127.0.0.1:0"]].concat();
        let (status, lines) = run(binary, &flags).await;
        assert!(!status.success(), "{binary}");
        assert_eq!(lines.len(), 1, "{binary}: {lines:#?}");
    }
}

#[tokio::test]
async fn a_taken_port_gives_one_line_that_names_it_and_a_failure() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("the kernel has a free port");
    let taken = taken.local_addr().expect("it is bound").to_string();
    for binary in BINARIES {
        let mut flags = vec!["--listen", "--admin"];
        if binary == "standalone" {
            flags.push("--grpc");
        }
        for wrong in &flags {
            let mut arguments = Vec::new();
            for flag in &flags {
                let address = if flag == wrong { &taken } else { "127.0.0.1:0" };
                arguments.extend([*flag, address]);
            }
            let url = redis.url();
            if binary != "standalone" {
                arguments.extend(["--redis", &url]);
            }
            let (status, lines) = run_without_log(binary, &arguments).await;
            assert!(!status.success(), "{binary} {wrong}");
            let complaints: Vec<_> = lines.iter().filter(|line| line.contains(&taken)).collect();
            assert_eq!(complaints.len(), 1, "{binary} {wrong}: {lines:#?}");
            assert_eq!(lines.len(), 1, "{binary} {wrong}: {lines:#?}");
        }
    }
}

/// Like [`run`], but the binary logs only errors.
async fn run_without_log(binary: &'static str, arguments: &[&str]) -> (ExitStatus, Vec<String>) {
    let mut command = Command::new(binaries::path(binary));
    command.args(arguments).env("RUST_LOG", "error");
    let mut process = Process::spawn(binary, &mut command);
    let status = process.ended_within(SOON).await;
    (status, process.lines())
}

#[tokio::test]
async fn version_and_help_are_printed() {
    let _permit = Permit::shared().await;
    for (binary, flags) in [
        ("chat", &["--listen", "--redis", "--admin"][..]),
        (
            "connector",
            &[
                "--listen",
                "--id",
                "--chat",
                "--redis",
                "--admin",
                "--heartbeat",
            ],
        ),
        ("standalone", &["--listen", "--grpc", "--admin"]),
    ] {
        let (status, lines) = run(binary, &["--version"]).await;
        assert!(status.success(), "{binary}");
        assert_eq!(lines, [format!("{binary} {}", env!("CARGO_PKG_VERSION"))]);

        let (status, lines) = run(binary, &["--help"]).await;
        assert!(status.success(), "{binary}");
        let help = lines.join("\n");
        for flag in flags {
            assert!(help.contains(flag), "{binary} --help lacks {flag}:\n{help}");
            let variable = flag
                .trim_start_matches('-')
                .to_uppercase()
                .replace('-', "_");
            let variable = format!("{}_{variable}", binary.to_uppercase());
            assert!(
                help.contains(&variable),
                "{binary} --help lacks {variable}:\n{help}"
            );
        }
    }
}

#[tokio::test]
async fn help_lists_six_flags_first_and_every_other_one_below_a_heading() {
    let _permit = Permit::shared().await;
    for binary in BINARIES {
        let (_, lines) = run(binary, &["-h"]).await;
        let headings = lines.iter().filter(|line| !line.starts_with(' '));
        let headings: Vec<_> = headings.filter(|line| line.ends_with(':')).collect();
        // Flags without a group would be listed below "More".
        assert!(headings.len() > 2, "{binary}: {headings:?}");
        assert!(!headings.contains(&&"More:".to_owned()), "{binary}");
        let begin = lines.iter().position(|line| line == "Options:");
        let first = lines[begin.expect("options") + 1..].iter();
        let first = first.take_while(|line| line.starts_with(' '));
        // The flags for help and for the version are listed there, too.
        assert_eq!(first.count(), 6 + 2, "{binary}: {lines:#?}");
    }
}

#[tokio::test]
async fn environment_variables_work_like_flags() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    for (binary, prefix) in [("chat", "CHAT"), ("connector", "CONNECTOR")] {
        let mut command = Command::new(binaries::path(binary));
        for (name, value) in [
            ("LISTEN", "127.0.0.1:0"),
            ("ADMIN", "127.0.0.1:0"),
            ("REDIS", &redis.url()),
            ("LOG_FORMAT", "json"),
        ] {
            command.env(format!("{prefix}_{name}"), value);
        }
        command
            .env("CONNECTOR_ID", "c1")
            .env("CONNECTOR_CHAT", "http://127.0.0.1:1");
        command.env("RUST_LOG", "info");
        let mut process = Process::spawn(binary, &mut command);
        let line = process
            .until_line("where it listens", |line| {
                let event: serde_json::Value = serde_json::from_str(line).ok()?;
                (event["message"] == "listening").then_some(event)
            })
            .await;
        let address = line["address"].as_str().expect("an address");
        assert!(!address.ends_with(":0"), "{address}");
    }
}

/// Logs never contain what users send.
#[tokio::test]
async fn no_message_is_logged() {
    let mut system = testkit::system::Plan::of(1, 1).start().await;
    let alice = system.member(0, "alice", "room").await;
    let secret = "nobody else's business";
    assert_eq!(alice.say(secret).await, testkit::pomelo::SENT);
    alice
        .until_push(&testkit::pomelo::heard("alice", secret))
        .await;
    // A body that is refused is not logged either.
    alice
        .request(testkit::pomelo::SEND, &format!(r#"["{secret}"]"#))
        .await;
    alice.close().await;
    let (chat, connector) = (&mut system.chats[0], &mut system.connectors[0]);
    for process in [chat.process(), connector.process()] {
        for line in process.lines() {
            assert!(!line.contains(secret), "{line}");
        }
    }
}
