//! Clients of a few lines in Python and Go, with nothing but a WebSocket library: `tests/clients`.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use tests::pomelo::SENT;
use tests::process::Process;
use tests::relay::Relay;
use tests::system::System;
use tests::workspace;

/// It says what it reads, prints what it is given, and after a lost connection what it has missed, once.
async fn talks_and_comes_back(name: &str, mut command: Command) {
    let system = System::start().await;
    let relay = Relay::to(system.connectors[0].address()).await;
    let url = format!("ws://{}/ws", relay.address());
    command.args([&url, "visitor", "room"]);
    let (input, mut words) = std::io::pipe().expect("a pipe");
    let listener = system.member(1, "listener", "room").await;
    let mut client = Process::spawn_with_input(name, &mut command, input);
    client
        .wrote("its onJoin", |line| said(line, "visitor"))
        .await;
    writeln!(words, "hello from {name}").expect("written");
    let pushes = listener.until_pushes(3).await;
    assert!(
        pushes[2].contains(&format!("hello from {name}")),
        "{pushes:?}"
    );

    relay.cut();
    relay.refuse();
    listener.until_push(&tests::pomelo::left("visitor")).await;
    for text in ["one", "two", "three"] {
        assert_eq!(listener.say(text).await, SENT);
    }
    relay.admit();
    client
        .wrote("the last message", |line| said(line, "three"))
        .await;
    assert_eq!(listener.say("four").await, SENT);
    client.wrote("the next", |line| said(line, "four")).await;
    for text in ["one", "two", "three", "four"] {
        let lines = client.lines();
        let count = lines.iter().filter(|line| said(line, text).is_some());
        assert_eq!(count.count(), 1, "{text} in {lines:#?}");
    }
    let source = std::fs::read_to_string(workspace().join("tests/clients").join(name));
    let lines = source.expect("its source").lines().count();
    assert!(lines < 60, "{name} has {lines} lines");
}

fn said(line: &str, what: &str) -> Option<()> {
    (line.starts_with("on") && line.contains(what)).then_some(())
}

#[tokio::test]
async fn a_client_in_python_misses_nothing() {
    let python = workspace().join("tests/clients/.venv/bin/python");
    assert!(
        python.exists(),
        "run ./tests/run, which installs what this needs"
    );
    let mut command = Command::new(python);
    command.arg(workspace().join("tests/clients/client.py"));
    talks_and_comes_back("client.py", command).await;
}

#[tokio::test]
async fn a_client_in_go_misses_nothing() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("client");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(".");
    build.current_dir(workspace().join("tests/clients/go"));
    let built = build.status().expect("go is missing; install it");
    assert!(built.success(), "go build fails");
    talks_and_comes_back("go/main.go", Command::new(program)).await;
}
