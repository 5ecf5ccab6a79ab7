//! Tools for the tests of all crates: the project's services as processes, real Redis servers, a network that can fail,
//! a client of each protocol, and a checker for what clients have received.
//!
//! The only crate of the project that it uses is the gRPC contract. It has its own parsers, so a mistake in a codec
//! can't hide in a test that uses the same codec. If a helper can't do its work, it panics and says what it was doing.
//! A test that fails prints what its processes logged. Tests wait for conditions and never for a fixed time ([`wait`]),
//! and on a busy machine they wait longer ([`pace`]).
//!
//! | module | what it gives |
//! |---|---|
//! | [`redis`], [`sentinels`], [`cluster`], [`resp`] | servers that can be killed, frozen and started again, and commands to them |
//! | [`system`], [`service`], [`process`], [`binaries`] | the services as processes |
//! | [`pomelo`], [`json`], [`polling`], [`sse`], [`websocket`], [`http`] | clients of each protocol, which can also send invalid bytes |
//! | [`relay`] | a network that can stall, cut connections, and redirect them |
//! | [`senders`] | back ends that send under load |
//! | [`followers`], [`follower`], [`history`], [`log`], [`checker`] | many clients, and a check that what they received keeps the promises |
//! | [`attack`], [`impact`] | attackers, and a measurement of what other clients notice of them |
//! | [`collector`] | a collector of traces
//! | [`tls`] | certificates, and clients that use them |
//! | [`recording`] | what the original system sent and received, byte by byte |
//! | [`costs`] | the instructions that hot paths take |
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
pub mod binaries;
pub mod chat_api;
pub mod checker;
pub mod clock;
pub mod cluster;
pub mod collector;
pub mod conversation;
pub mod costs;
pub mod follower;
pub mod followers;
pub mod grpcurl;
pub mod history;
pub mod http;
pub mod impact;
pub mod inbox;
pub mod json;
pub mod link;
pub mod log;
pub mod pace;
pub mod permit;
pub mod polling;
pub mod pomelo;
pub mod process;
pub mod protocol;
pub mod readme;
pub mod recording;
pub mod redis;
pub mod relay;
pub mod resp;
pub mod senders;
pub mod sentinels;
pub mod service;
pub mod settings;
pub mod socket_io;
pub mod sse;
pub mod system;
pub mod tls;
pub mod wait;
mod watchdog;
pub mod websocket;
pub mod yaml;

/// A limit for waits. Everything that happens at all happens much sooner. On a busy machine the limit is longer
/// ([`pace`]).
pub const SOON: std::time::Duration = std::time::Duration::from_secs(10);

/// A client gets its answer within 2 s, whatever is broken behind the connector. The rest is a margin for the test
/// itself. On a busy machine the limit is longer ([`pace`]).
pub const ANSWERED: std::time::Duration = std::time::Duration::from_millis(2_500);

/// True in the long run (`./tests/run --long`), in which tests do more.
#[must_use]
pub fn long() -> bool {
    std::env::var_os("TESTS_LONG").is_some()
}

/// The root of the workspace, where README.md is.
#[must_use]
pub fn workspace() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in the workspace")
}

/// The Python that has the libraries of `tests/clients`.
///
/// # Panics
/// If it is not installed.
#[must_use]
pub fn python() -> std::path::PathBuf {
    let python = workspace().join("tests/clients/.venv/bin/python");
    assert!(
        python.exists(),
        "run ./tests/run, which installs what this needs"
    );
    python
}

/// A command that runs a file of `tests/clients` with mocha and gives it the addresses of these connectors. A test in
/// it fails after two minutes. This is long, because the machine may be busy.
///
/// # Panics
/// If the npm packages are not installed.
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
