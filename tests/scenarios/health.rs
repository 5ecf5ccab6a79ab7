//! `health`: whether the process of the same settings is ready, as an exit code. Containers ask it.

use std::process::{Command, Output};
use testkit::permit::Permit;
use testkit::service::{Service, Standalone};
use testkit::system::Plan;
use testkit::{SOON, binaries, wait};
use tokio::net::TcpListener;

/// Runs `health` of a binary with these arguments and variables.
fn health(binary: &'static str, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binaries::path(binary));
    command.arg("health").args(arguments);
    command.envs(variables.iter().copied());
    command.output().expect("it starts")
}

/// The exit code, and what was written to stdout and stderr.
fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn of(binary: &'static str, service: &Service) -> (Option<i32>, String, String) {
    let admin = service.admin().to_string();
    told(&health(binary, &["--admin", &admin], &[]))
}

#[tokio::test]
async fn health_says_whether_a_service_is_ready_wherever_its_settings_name_its_port() {
    let flags = ["--drain-notice", "50s", "--drain-window", "1s"];
    let mut system = Plan::of(1, 1).connector_flags(&flags).start().await;
    let standalone = Standalone::start().await;
    for (binary, service) in [
        ("connector", &*system.connectors[0]),
        ("chat", &*system.chats[0]),
        ("standalone", &*standalone),
    ] {
        let (code, words, error) = of(binary, service);
        assert_eq!((code, &*error), (Some(0), ""), "{binary}: {words}");
        assert!(words.lines().all(|line| line.contains(": ok")), "{words}");
    }
    let admin = system.connectors[0].admin().to_string();
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("connector.toml");
    std::fs::write(&file, format!("admin = \"{admin}\"\n")).expect("a file");
    let file = file.to_str().expect("text");
    for (arguments, variables) in [
        (&["--config", file][..], &[][..]),
        (&[], &[("CONNECTOR_CONFIG", file)]),
        (&[], &[("CONNECTOR_ADMIN", &admin)]),
    ] {
        let (code, _, error) = told(&health("connector", arguments, variables));
        assert_eq!(code, Some(0), "{arguments:?} {variables:?}: {error}");
    }

    // It waits for its notice, which is long enough for this test.
    system.connectors[0].terminate();
    wait::eventually("the connector drains", SOON, async || {
        of("connector", &system.connectors[0]).0 == Some(1)
    })
    .await;
    let (code, words, error) = of("connector", &system.connectors[0]);
    assert_eq!((code, &*words), (Some(1), ""));
    assert!(error.starts_with("draining\n"), "{error}");
    let live = health("connector", &["--live", "--admin", &admin], &[]);
    assert_eq!(told(&live).0, Some(0), "it still runs");

    system.connectors[0].kill();
    for arguments in [&["--admin", &admin][..], &["--live", "--admin", &admin]] {
        let (code, words, error) = told(&health("connector", arguments, &[]));
        assert_eq!((code, &*words), (Some(1), ""));
        assert!(error.contains("nothing listens"), "{error}");
    }
}

#[tokio::test]
async fn another_service_at_the_port_is_not_healthy_and_one_that_is_silent_is_given_up() {
    let _permit = Permit::shared().await;
    let standalone = Standalone::start().await;
    for binary in ["connector", "chat"] {
        let (code, _, error) = of(binary, &standalone);
        assert_eq!(code, Some(1));
        assert!(error.contains("is not the admin port"), "{error}");
    }
    // The port for clients answers over HTTP, too.
    let clients = standalone.address().to_string();
    let (code, _, error) = told(&health("standalone", &["--admin", &clients], &[]));
    assert_eq!(code, Some(1), "{error}");

    // The kernel accepts its connections, and nobody reads them.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let admin = silent.local_addr().expect("it is bound").to_string();
    let (code, _, error) = told(&health("connector", &["--admin", &admin], &[]));
    assert_eq!(code, Some(1));
    assert!(error.starts_with("no answer from"), "{error}");
    drop(silent);
}
