//! What the tests of every crate stand on: the project's own services as processes, real Redis servers, a network that can
//! fail, a client of each protocol, and a checker of what clients have seen.
//!
//! The only crate of the project that it knows is the gRPC contract. Its parsers are its own, so a mistake in a codec
//! cannot hide in a test that shares the codec. If a helper cannot do its work, it panics and says what it was doing; a
//! test that fails prints what its processes logged. Tests wait for conditions and never for a time ([`wait`]), and on a
//! busy machine they wait longer ([`pace`]).
//!
//! | module | what it gives |
//! |---|---|
//! | [`redis`], [`sentinels`], [`cluster`], [`resp`] | servers that can be killed, frozen and started again, and commands to them |
//! | [`system`], [`service`], [`process`], [`binaries`] | the services as processes |
//! | [`pomelo`], [`json`], [`polling`], [`websocket`], [`http`] | clients of each protocol, and bytes that no proper client sends |
//! | [`relay`] | a network that stalls, cuts, and leads elsewhere |
//! | [`crowd`], [`follower`], [`history`], [`log`], [`checker`] | many clients, and whether what they saw keeps the promises |
//! | [`attack`], [`beside`] | misuse, and what quiet clients notice of it |
//! | [`recording`] | what the original system sent and was sent, byte by byte |
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use testkit::pomelo::{SENT, heard};
//! use testkit::system::System;
//!
//! // Two connectors, two chats, one Redis.
//! let mut system = System::start().await;
//! let alice = system.member(0, "alice", "room").await;
//! let bob = system.member(1, "bob", "room").await;
//! assert_eq!(alice.say("hello").await, SENT);
//! bob.until_push(&heard("alice", "hello")).await;
//!
//! system.connectors[0].kill();
//! system.until_members("room", &[("bob", 1)]).await;
//! # }
//! ```

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
