//! A `redis-server` of a test's own, which can be stopped, killed, frozen and started again with its data.

use crate::clock::Clock;
use crate::log::Log;
use crate::process::{Memory, Process};
use crate::resp::{self, Value};
use crate::wait;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use tempfile::TempDir;

/// What to do about a machine without one.
const MISSING: &str = "install redis-server, or run ./tests/run, which does";

/// A port may be taken between asking the kernel for it and Redis binding it: so often it is tried again.
const TRIES: usize = 5;

/// Where a node of a Cluster talks to others: so far above its own port.
const CLUSTER_BUS: u16 = 10_000;

/// What makes a Redis keep all that it has answered: with everysec it may answer before it has written, while an earlier
/// fsync is still under way.
const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// A Redis on loopback.
pub struct Redis {
    process: Process,
    port: u16,
    directory: TempDir,
    flags: Vec<String>,
    clock: Option<Clock>,
}

impl Redis {
    /// Starts one on a free port, with an append-only file.
    ///
    /// # Panics
    /// When `redis-server` is not installed, or does not start.
    pub async fn start() -> Self {
        Self::with(DURABLE).await
    }

    /// Starts one that is empty after a restart.
    ///
    /// # Panics
    /// As [`Redis::start`].
    pub async fn forgetful() -> Self {
        Self::with(&["--appendonly", "no"]).await
    }

    /// Starts one with an append-only file that copies what is at this address, and waits until it has all of it.
    ///
    /// # Panics
    /// As [`Redis::start`], or when the other doesn't answer.
    pub async fn replica_of(primary: SocketAddr) -> Self {
        let (host, port) = (primary.ip().to_string(), primary.port().to_string());
        let replica = Self::with(&[DURABLE, &["--replicaof", &host, &port]].concat()).await;
        replica.until_linked().await;
        replica
    }

    /// Starts one with these flags.
    ///
    /// # Panics
    /// As [`Redis::start`].
    pub async fn with(flags: &[&str]) -> Self {
        Self::begin(flags, None).await
    }

    /// Starts one whose clock can be set, wrong by so many seconds, as a copy of what is at this address if one is given.
    ///
    /// # Panics
    /// As [`Redis::replica_of`], and when there is no C compiler.
    pub async fn with_clock(seconds: i64, primary: Option<SocketAddr>) -> Self {
        let clock = Clock::new();
        clock.set(seconds);
        let Some(primary) = primary else {
            return Self::begin(DURABLE, Some(clock)).await;
        };
        let (host, port) = (primary.ip().to_string(), primary.port().to_string());
        let flags = [DURABLE, &["--replicaof", &host, &port]].concat();
        let replica = Self::begin(&flags, Some(clock)).await;
        replica.until_linked().await;
        replica
    }

    /// Sets its clock: from now on it is wrong by so many seconds.
    ///
    /// # Panics
    /// When it was started without one.
    pub fn set_clock(&self, seconds: i64) {
        let clock = self.clock.as_ref();
        clock.expect("it has a clock that can be set").set(seconds);
    }

    async fn begin(flags: &[&str], clock: Option<Clock>) -> Self {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let flags: Vec<_> = flags.iter().map(|&flag| flag.to_owned()).collect();
        for _ in 0..TRIES {
            let port = free_port();
            let mut process = spawn(port, &directory, &flags, clock.as_ref());
            if answers(port, &mut process).await {
                return Self {
                    process,
                    port,
                    directory,
                    flags,
                    clock,
                };
            }
        }
        panic!("redis-server does not start on a free port");
    }

    /// One command.
    ///
    /// # Panics
    /// When it does not answer, or refuses.
    pub async fn command(&self, parts: &[&str]) -> Value {
        let answer = resp::ask(self.address(), parts).await;
        let answer = answer.unwrap_or_else(|| panic!("Redis does not answer {parts:?}"));
        assert!(!matches!(answer, Value::Error(_)), "{parts:?}: {answer:?}");
        answer
    }

    /// A line of `INFO`.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn info(&self, section: &str, name: &str) -> Option<String> {
        let info = self.command(&["INFO", section]).await.text()?;
        let mut lines = info.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.to_owned()))
    }

    /// Makes it a primary.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn promote(&self) {
        self.command(&["REPLICAOF", "NO", "ONE"]).await;
    }

    /// Makes it a replica of the one at this address.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn demote(&self, primary: SocketAddr) {
        let (host, port) = (primary.ip().to_string(), primary.port().to_string());
        self.command(&["REPLICAOF", &host, &port]).await;
    }

    /// Waits until it, a replica, has a link to its primary and has got everything once.
    ///
    /// # Panics
    /// When it doesn't get it in time.
    pub async fn until_linked(&self) {
        wait::eventually(
            "the replica is linked to its primary",
            crate::SOON,
            async || {
                let link = self.info("replication", "master_link_status").await;
                link.as_deref() == Some("up")
            },
        )
        .await;
    }

    /// Waits until it, a replica, has all that the primary has written by now.
    ///
    /// # Panics
    /// When it doesn't have it in time.
    pub async fn until_caught_up(&self, primary: &Self) {
        let written = primary.replicated().await;
        wait::eventually("the replica has caught up", crate::SOON, async || {
            self.replicated().await >= written
        })
        .await;
    }

    /// The last offset that it has of a channel; 0 for none.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn published(&self, channel: &str) -> u64 {
        Log::read(self.address(), channel).await.last
    }

    /// How far in its stream of changes it is, bytes: a primary's own, or what a replica has taken of its primary's.
    async fn replicated(&self) -> u64 {
        let replica = self.info("replication", "slave_repl_offset").await;
        let offset = match replica {
            Some(offset) => Some(offset),
            None => self.info("replication", "master_repl_offset").await,
        };
        let offset = offset.and_then(|offset| offset.parse().ok());
        offset.expect("INFO tells the offset")
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Memory in use.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.process.memory()
    }

    /// As the product's flags take it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Stops it as an operator would.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop(&mut self) {
        self.process.terminate();
        self.process.ended_within(crate::SOON).await;
    }

    /// Kills it, -9. What it has answered is in its file.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port with the same data.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(self.port, &self.directory, &self.flags, self.clock.as_ref());
        assert!(
            answers(self.port, &mut self.process).await,
            "redis-server does not start again on port {}",
            self.port
        );
    }

    /// Lets it hang: connections stay, nothing is answered.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// Every user that the registry has entries of, with their number.
    ///
    /// # Panics
    /// If Redis does not answer.
    pub async fn logins(&self) -> BTreeMap<String, i64> {
        let mut logins = BTreeMap::new();
        for key in self.command(&["KEYS", "gc:*:user:entries"]).await.list() {
            let key = key.text().expect("a key");
            let user = key
                .trim_start_matches("gc:{")
                .split_once('}')
                .expect("a tag")
                .0;
            if let Value::Integer(entries @ 1..) = self.command(&["HLEN", &key]).await {
                logins.insert(user.to_owned(), entries);
            }
        }
        logins
    }

    /// How often each command has been called since the start, those inside scripts included.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn calls(&self) -> BTreeMap<String, u64> {
        let info = self.command(&["INFO", "commandstats"]).await;
        let info = info.text().expect("INFO is a text");
        info.lines()
            .filter_map(|line| {
                let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
                let calls = rest.split(',').next()?.parse().ok()?;
                Some((name.to_owned(), calls))
            })
            .collect()
    }
}

fn spawn(port: u16, directory: &TempDir, flags: &[String], clock: Option<&Clock>) -> Process {
    let mut command = Command::new("redis-server");
    if let Some(clock) = clock {
        clock.give_to(&mut command);
    }
    command
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--repl-diskless-sync-delay", "0"])
        .args(["--daemonize", "no", "--loglevel", "notice"])
        .args(flags)
        .arg("--dir")
        .arg(directory.path());
    assert!(installed("redis-server"), "{MISSING}");
    Process::spawn("redis-server", &mut command)
}

pub(crate) fn installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    })
}

/// Waits for the first answer; false when it ended instead, as it does when the port is taken.
async fn answers(port: u16, process: &mut Process) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    wait::some("redis-server answers", crate::SOON, async || {
        if process.poll().is_some() {
            return Some(false);
        }
        let answer = resp::ask(address, &["PING"]).await?;
        (answer.text().as_deref() == Some("PONG")).then_some(true)
    })
    .await
}

/// A port that nobody has now, with room above it for the port that a node of a Cluster adds 10,000 for.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .expect("the kernel has a free port")
            .port();
        if port < u16::MAX - CLUSTER_BUS {
            return port;
        }
    }
}
