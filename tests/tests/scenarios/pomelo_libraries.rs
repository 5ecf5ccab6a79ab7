//! Pomelo's own client libraries from npm, unmodified, under mocha: `tests/clients`.

use std::process::Command;
use std::time::Duration;
use tests::process::Process;
use tests::system::System;

async fn passes(library: &str) {
    let system = System::start().await;
    let directory = tests::workspace().join("tests/clients");
    assert!(
        directory.join("node_modules/.bin/mocha").exists(),
        "run npm ci in tests/clients, or ./tests/run, which does"
    );
    let connectors: Vec<_> = system
        .connectors
        .iter()
        .map(|connector| connector.address().to_string())
        .collect();
    let mut command = Command::new("node");
    command
        .arg("node_modules/.bin/mocha")
        .args(["--timeout", "15000", "--exit", "chat.test.js"])
        .current_dir(&directory)
        .env("LIBRARY", library)
        .env("CONNECTORS", connectors.join(","));
    let mut mocha = Process::spawn("mocha", &mut command);
    let status = mocha.ended_within(Duration::from_secs(90)).await;
    let output = mocha.lines().join("\n");
    assert!(status.success(), "{output}");
    assert!(output.contains("5 passing"), "{output}");
}

#[tokio::test]
async fn the_node_library_passes_its_authors_test() {
    passes("pomelo-nodejsclient-websocket").await;
}

#[tokio::test]
async fn the_browser_library_passes_its_authors_test() {
    passes("pomelo-jsclient-websocket").await;
}
