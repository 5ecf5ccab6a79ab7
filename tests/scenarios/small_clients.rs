//! Clients of a hundred lines in Python and Go that need only a WebSocket library: `tests/clients`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testkit::pomelo::{self, SENT};
use testkit::process::Process;
use testkit::relay::Relay;
use testkit::system::{Plan, System};
use testkit::workspace;

/// It sends its input, prints what it receives, and after a lost connection what it has missed, once.
async fn talks_and_comes_back(name: &str, mut command: Command) {
    let system = System::start().await;
    let relay = Relay::to(system.connectors[0].address()).await;
    let url = format!("ws://{}/ws", relay.address());
    command.args([&url, "visitor", "room"]);
    let (input, mut words) = std::io::pipe().expect("a pipe");
    let listener = system.member(1, "listener", "room").await;
    let mut client = Process::spawn_with_input(name, &mut command, input);
    client
        .until_line("its onJoin", |line| said(line, "visitor"))
        .await;
    writeln!(words, "hello from {name}").expect("written");
    let pushes = listener.until_pushes(3).await;
    assert!(
        pushes[2].contains(&format!("hello from {name}")),
        "{pushes:?}"
    );

    relay.cut();
    relay.refuse();
    listener.until_push(&testkit::pomelo::left("visitor")).await;
    for text in ["one", "two", "three"] {
        assert_eq!(listener.say(text).await, SENT);
    }
    relay.admit();
    client
        .until_line("the last message", |line| said(line, "three"))
        .await;
    assert_eq!(listener.say("four").await, SENT);
    client
        .until_line("the next", |line| said(line, "four"))
        .await;
    for text in ["one", "two", "three", "four"] {
        let lines = client.lines();
        let count = lines.iter().filter(|line| said(line, text).is_some());
        assert_eq!(count.count(), 1, "{text} in {lines:#?}");
    }
    let source = std::fs::read_to_string(workspace().join("tests/clients").join(name));
    let lines = source.expect("its source").lines().count();
    assert!(lines < 110, "{name} has {lines} lines");
}

/// Right after it has sent something, its network drops everything silently. It notices by its own heartbeat, which
/// takes 15 s, and comes back with what was sent meanwhile.
async fn notices_a_dead_connection(name: &str, mut command: Command) {
    // The server notices first, so that the user may log in again.
    let system = Plan::of(1, 1)
        .connector_flags(&["--heartbeat", "2s"])
        .start()
        .await;
    let relay = Relay::to(system.connectors[0].address()).await;
    command.args([&format!("ws://{}/ws", relay.address()), "visitor", "room"]);
    let (input, mut words) = std::io::pipe().expect("a pipe");
    let listener = system.member(0, "listener", "room").await;
    let mut client = Process::spawn_with_input(name, &mut command, input);
    client
        .until_line("its onJoin", |line| said(line, "visitor"))
        .await;
    relay.swallow();
    writeln!(words, "into the void").expect("written");
    listener.until_push(&pomelo::left("visitor")).await;
    assert_eq!(listener.say("meanwhile").await, SENT);
    let came_back = client.until_line_within(Duration::from_secs(40), "what it missed", |line| {
        said(line, "meanwhile")
    });
    came_back.await;
}

/// A message beyond the server's limit ends the connection, and is not sent again: the room sees one leave and one
/// join.
async fn gives_up_a_message_that_is_too_large(name: &str, mut command: Command) {
    let system = Plan::of(1, 1).start().await;
    let address = system.connectors[0].address();
    command.args([&format!("ws://{address}/ws"), "visitor", "room"]);
    let (input, mut words) = std::io::pipe().expect("a pipe");
    let listener = system.member(0, "listener", "room").await;
    let mut client = Process::spawn_with_input(name, &mut command, input);
    client
        .until_line("its onJoin", |line| said(line, "visitor"))
        .await;
    let large = "x".repeat(200_000);
    let speaking = std::thread::spawn(move || {
        writeln!(words, "{large}").expect("written");
        words
    });
    listener.until_push(&pomelo::left("visitor")).await;
    let mut words = speaking.join().expect("it has spoken");
    let joined = pomelo::joined("visitor");
    listener.until_pushes(4).await;
    // The next message arrives, on a connection that lasts.
    writeln!(words, "short").expect("written");
    testkit::wait::eventually("the next message", testkit::SOON, async || {
        let pushes = listener.until_pushes(1).await;
        pushes.iter().any(|push| push.contains("short"))
    })
    .await;
    let pushes = listener.until_pushes(1).await;
    let joins = pushes.iter().filter(|push| **push == joined).count();
    assert_eq!(joins, 2, "{pushes:?}");
}

fn said(line: &str, what: &str) -> Option<()> {
    (line.starts_with("on") && line.contains(what)).then_some(())
}

fn in_python() -> Command {
    let mut command = Command::new(testkit::python());
    command.arg(workspace().join("tests/clients/client.py"));
    command
}

fn in_go() -> Command {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let program = BUILT.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("client");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&program).arg(".");
        build.current_dir(workspace().join("tests/clients/go"));
        let built = build.status().expect("go is missing; install it");
        assert!(built.success(), "go build fails");
        program
    });
    Command::new(program)
}

#[tokio::test]
async fn a_client_in_python_misses_nothing() {
    talks_and_comes_back("client.py", in_python()).await;
}

#[tokio::test]
async fn a_client_in_go_misses_nothing() {
    talks_and_comes_back("go/main.go", in_go()).await;
}

#[tokio::test]
async fn a_client_in_python_notices_a_dead_connection() {
    notices_a_dead_connection("client.py", in_python()).await;
}

#[tokio::test]
async fn a_client_in_go_notices_a_dead_connection() {
    notices_a_dead_connection("go/main.go", in_go()).await;
}

#[tokio::test]
async fn a_client_in_python_gives_up_a_message_that_is_too_large() {
    gives_up_a_message_that_is_too_large("client.py", in_python()).await;
}

#[tokio::test]
async fn a_client_in_go_gives_up_a_message_that_is_too_large() {
    gives_up_a_message_that_is_too_large("go/main.go", in_go()).await;
}
