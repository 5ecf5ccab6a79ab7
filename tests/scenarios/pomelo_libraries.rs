//! The client libraries that users of the original have, unmodified from npm, under mocha: `tests/clients`.

use std::time::Duration;
use testkit::process::Process;
use testkit::system::Plan;

async fn passes(library: &str) {
    passes_with(library, &[]).await;
}

async fn passes_with(library: &str, flags: &[&'static str]) {
    let system = Plan::of(2, 2).connector_flags(flags).start().await;
    let mut command = testkit::mocha("chat.test.js", &system.connectors);
    command.env("LIBRARY", library);
    let mut mocha = Process::spawn("mocha", &mut command);
    let status = mocha.ended_within(Duration::from_secs(150)).await;
    let output = mocha.lines().join("\n");
    assert!(status.success(), "{output}");
    assert!(output.contains("7 passing"), "{output}");
}

#[tokio::test]
async fn the_node_library_passes_its_authors_test() {
    passes("pomelo-nodejsclient-websocket").await;
}

#[tokio::test]
async fn the_browser_library_passes_its_authors_test() {
    passes("pomelo-jsclient-websocket").await;
}

#[tokio::test]
async fn both_libraries_pass_with_a_dictionary() {
    for library in ["pomelo-nodejsclient-websocket", "pomelo-jsclient-websocket"] {
        passes_with(library, &["--dictionary"]).await;
    }
}

#[tokio::test]
async fn socket_io_1_passes_over_every_transport() {
    passes_over_every_transport("socket.io-client-1").await;
}

#[tokio::test]
async fn socket_io_2_passes_over_every_transport() {
    passes_over_every_transport("socket.io-client-2").await;
}

#[tokio::test]
async fn socket_io_4_passes_over_every_transport() {
    passes_over_every_transport("socket.io-client-4").await;
}

async fn passes_over_every_transport(library: &str) {
    for transports in ["websocket", "polling", "polling then websocket"] {
        passes(&format!("{library} by {transports}")).await;
    }
}
