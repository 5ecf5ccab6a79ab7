//! What the end-to-end tests stand on: the product's own binaries as processes, a real `redis-server`, and clients whose
//! parsers are their own, so that a codec's mistake cannot hide in a test that shares it.
//!
//! Nothing here knows the product's crates but the gRPC contract. A helper that cannot do its work panics with what it
//! was doing, and a test that fails prints what its processes logged.

pub mod attack;
pub mod beside;
pub mod binaries;
pub mod chat_api;
pub mod checker;
pub mod clock;
pub mod cluster;
pub mod crowd;
pub mod follower;
pub mod history;
pub mod http;
pub mod inbox;
pub mod json;
pub mod link;
pub mod log;
pub mod pace;
pub mod polling;
pub mod pomelo;
pub mod process;
pub mod readme;
pub mod recording;
pub mod redis;
pub mod relay;
pub mod resp;
pub mod sentinels;
pub mod service;
pub mod system;
pub mod tongue;
pub mod turn;
pub mod wait;
mod watchdog;
pub mod websocket;

/// Longer than anything takes that happens at all. On a busy machine it lasts longer ([`pace`]).
pub const SOON: std::time::Duration = std::time::Duration::from_secs(10);

/// A client has its answer within 2 s, whatever is broken behind the connector. The rest is what it takes to notice; on a busy
/// machine it lasts longer ([`pace`]).
pub const ANSWERED: std::time::Duration = std::time::Duration::from_millis(2_500);

/// True in the long run (`./tests/run --long`): the same tests with more of everything.
#[must_use]
pub fn long() -> bool {
    std::env::var_os("TESTS_LONG").is_some()
}

/// The workspace's root, where README.md is.
#[must_use]
pub fn workspace() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate stands in the workspace")
}

/// A file of `tests/clients` under mocha, which is told where these connectors are. A test in it that takes two minutes
/// hangs; how long it takes otherwise depends on what else the machine has to do.
///
/// # Panics
/// If the npm packages are not there.
#[must_use]
pub fn mocha(file: &str, connectors: &[service::Connector]) -> std::process::Command {
    let directory = workspace().join("tests/clients");
    assert!(
        directory.join("node_modules/.bin/mocha").exists(),
        "run npm ci in tests/clients, or ./tests/run, which does"
    );
    let addresses = connectors.iter().map(|it| it.address().to_string());
    let addresses: Vec<_> = addresses.collect();
    let mut command = std::process::Command::new("node");
    command
        .args([
            "node_modules/.bin/mocha",
            "--exit",
            "--timeout",
            "120000",
            file,
        ])
        .current_dir(directory)
        .env("CONNECTORS", addresses.join(","));
    command
}
