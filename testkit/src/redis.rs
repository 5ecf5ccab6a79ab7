//! A `redis-server` for one test. The test can stop, kill, freeze and restart it with its data.
//!
//! ```no_run
//! # async fn example() {
//! use testkit::redis::Redis;
//!
//! let mut redis = Redis::start().await;
//! redis.command(&["SET", "key", "value"]).await;
//! redis.kill();
//! redis.restart().await;
//! assert_eq!(redis.text("GET key"), "value");
//! # }
//! ```

use crate::clock::Clock;
use crate::log::Log;
use crate::process::{Memory, Process};
use crate::resp::{self, Value};
use crate::wait;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The advice for a machine without Redis.
const MISSING: &str = "install redis-server, or run ./tests/run, which does";

/// Another process may take the port after the kernel has named it and before Redis binds it. So the start is tried
/// this often.
const TRIES: usize = 5;

/// Flags with which Redis keeps everything that it has acknowledged. With `everysec` it may answer before it has
/// written, while an earlier fsync is still running.
pub const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// A Redis on loopback.
pub struct Redis {
    process: Process,
    port: u16,
    directory: TempDir,
    flags: Vec<String>,
    clock: Option<Clock>,
}

impl Redis {
    /// Starts a server on a free port, with an append-only file.
    ///
    /// # Panics
    /// If `redis-server` is not installed, or does not start.
    pub async fn start() -> Self {
        Self::with(DURABLE).await
    }

    /// Starts a server that is empty after a restart.
    ///
    /// # Panics
    /// Like [`Redis::start`].
    pub async fn without_persistence() -> Self {
        Self::with(&["--appendonly", "no"]).await
    }

    /// Starts a replica of the server at this address, with an append-only file, and waits until both servers say that
    /// it is linked. The primary counts a replica from its first acknowledgement on, which may come a second after the
    /// replica has everything.
    ///
    /// # Panics
    /// Like [`Redis::start`], and if the primary doesn't answer.
    pub async fn replica_of(primary: SocketAddr) -> Self {
        let (host, port) = (primary.ip().to_string(), primary.port().to_string());
        let replica = Self::with(&[DURABLE, &["--replicaof", &host, &port]].concat()).await;
        replica.until_linked().await;
        let online = format!("port={},state=online", replica.port);
        wait::eventually("the primary counts the replica", crate::SOON, async || {
            let info = resp::ask(primary, &["INFO", "replication"]).await;
            let info = info.and_then(|info| info.text()).unwrap_or_default();
            info.contains(&online)
        })
        .await;
        replica
    }

    /// Starts a server with these flags.
    ///
    /// # Panics
    /// Like [`Redis::start`].
    pub async fn with(flags: &[&str]) -> Self {
        Self::with_files(|_| flags.iter().map(|&flag| flag.to_owned()).collect()).await
    }

    /// Starts a server with flags that name further ports, or files in its directory. If a port is taken meanwhile, the
    /// flags are made again. If the first flag is the name of a file, it is the server's configuration.
    ///
    /// # Panics
    /// Like [`Redis::start`].
    pub async fn with_files(flags: impl Fn(&Path) -> Vec<String>) -> Self {
        Self::begin(flags, None).await
    }

    /// Starts a server whose clock can be set, and is wrong by this many seconds. If an address is given, it is a
    /// replica of the server there.
    ///
    /// # Panics
    /// Like [`Redis::replica_of`], and if there is no C compiler.
    pub async fn with_clock(seconds: i64, primary: Option<SocketAddr>) -> Self {
        let clock = Clock::new();
        clock.set(seconds);
        let mut flags: Vec<_> = DURABLE.iter().map(|&flag| flag.to_owned()).collect();
        if let Some(primary) = primary {
            flags.push("--replicaof".into());
            flags.extend([primary.ip().to_string(), primary.port().to_string()]);
        }
        let redis = Self::begin(|_| flags.clone(), Some(clock)).await;
        if primary.is_some() {
            redis.until_linked().await;
        }
        redis
    }

    /// Sets its clock: from now on it is wrong by this many seconds.
    ///
    /// # Panics
    /// If it was started without such a clock.
    pub fn set_clock(&self, seconds: i64) {
        let clock = self.clock.as_ref();
        clock.expect("it has a clock that can be set").set(seconds);
    }

    async fn begin(flags: impl Fn(&Path) -> Vec<String>, clock: Option<Clock>) -> Self {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        for _ in 0..TRIES {
            let port = free_port();
            let flags = flags(directory.path());
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

    /// Sends one command and returns the answer.
    ///
    /// # Panics
    /// If it does not answer, or answers with an error.
    pub async fn command(&self, parts: &[&str]) -> Value {
        let answer = resp::ask(self.address(), parts).await;
        let answer = answer.unwrap_or_else(|| panic!("Redis does not answer {parts:?}"));
        assert!(!matches!(answer, Value::Error(_)), "{parts:?}: {answer:?}");
        answer
    }

    /// Sends one command, whose words are separated by blanks. It blocks the thread, for places that can't await.
    ///
    /// # Panics
    /// If the server does not answer, or answers with an error.
    pub fn say(&self, command: &str) -> Value {
        self.say_words(&command.split(' ').collect::<Vec<_>>())
    }

    /// Like [`Redis::say`], for words that contain blanks.
    ///
    /// # Panics
    /// Like [`Redis::say`].
    pub fn say_words(&self, words: &[&str]) -> Value {
        let answer = resp::say(self.address(), words);
        let answer = answer.unwrap_or_else(|error| panic!("{words:?}: {error}"));
        assert!(!matches!(answer, Value::Error(_)), "{words:?}: {answer:?}");
        answer
    }

    /// Like [`Redis::say`], for commands whose answer is a text, such as a section of `INFO`.
    ///
    /// # Panics
    /// Like [`Redis::say`], and if the answer is of another type.
    #[must_use]
    pub fn text(&self, command: &str) -> String {
        let answer = self.say(command);
        let text = answer.text();
        text.unwrap_or_else(|| panic!("{command}: {answer:?} is not a text"))
    }

    /// Like [`Redis::say`], for commands whose answer is a number.
    ///
    /// # Panics
    /// Like [`Redis::say`], and if the answer is of another type.
    #[must_use]
    pub fn number(&self, command: &str) -> i64 {
        match self.say(command) {
            Value::Integer(number) => number,
            other => panic!("{command}: {other:?} is not a number"),
        }
    }

    /// All keys, sorted. The server of a test has few keys.
    ///
    /// # Panics
    /// Like [`Redis::say`].
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let keys = self.say("KEYS *");
        let mut keys: Vec<_> = keys.list().iter().filter_map(Value::text).collect();
        keys.sort();
        keys
    }

    /// The path of a file in the server's directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of a flag that the server was started with.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<&str> {
        let at = self.flags.iter().position(|flag| flag == name)?;
        self.flags.get(at + 1).map(String::as_str)
    }

    /// The value of a line of `INFO`.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn info(&self, section: &str, name: &str) -> Option<String> {
        let info = self.command(&["INFO", section]).await.text()?;
        let mut lines = info.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.to_owned()))
    }

    /// Makes it a primary.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn promote(&self) {
        self.command(&["REPLICAOF", "NO", "ONE"]).await;
    }

    /// Makes it a replica of the server at this address.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn demote(&self, primary: SocketAddr) {
        let (host, port) = (primary.ip().to_string(), primary.port().to_string());
        self.command(&["REPLICAOF", &host, &port]).await;
    }

    /// Waits until this replica is linked to its primary and has received everything once.
    ///
    /// # Panics
    /// If that takes too long.
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

    /// Waits until this replica has everything that the primary has written until now.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn until_caught_up(&self, primary: &Self) {
        let written = primary.replicated().await;
        wait::eventually("the replica has caught up", crate::SOON, async || {
            self.replicated().await >= written
        })
        .await;
    }

    /// The last offset of a channel on this server; 0 if there is none.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn published(&self, channel: &str) -> u64 {
        Log::read(self.address(), channel).await.last
    }

    /// The replication offset, in bytes: what a primary has written, or what a replica has received.
    async fn replicated(&self) -> u64 {
        let replica = self.info("replication", "slave_repl_offset").await;
        let offset = match replica {
            Some(offset) => Some(offset),
            None => self.info("replication", "master_repl_offset").await,
        };
        let offset = offset.and_then(|offset| offset.parse().ok());
        offset.expect("INFO has the offset")
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The memory in use.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.process.memory()
    }

    /// The URL for the flags of the product.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The address on which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Stops it with SIGTERM, as an operator would.
    ///
    /// # Panics
    /// If it does not stop.
    pub async fn stop(&mut self) {
        self.process.terminate();
        self.process.ended_within(crate::SOON).await;
    }

    /// Kills it with SIGKILL. If it is [`DURABLE`], everything that it has acknowledged is in its file.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Restarts it on the same port with the same data.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(self.port, &self.directory, &self.flags, self.clock.as_ref());
        assert!(
            answers(self.port, &mut self.process).await,
            "redis-server does not start again on port {}",
            self.port
        );
    }

    /// Lets it hang: connections stay open, and it answers nothing.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// The users that have entries in the registry of logins, with the number of entries.
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

    /// How often each command has been called since the start, inside scripts too.
    ///
    /// # Panics
    /// If it does not answer.
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
    assert!(installed("redis-server"), "{MISSING}");
    let mut command = Command::new("redis-server");
    if let Some(clock) = clock {
        clock.give_to(&mut command);
    }
    // The configuration file must come first. Only Sentinels have one, and they don't know the flags for data.
    let has_file = flags.first().is_some_and(|flag| !flag.starts_with('-'));
    let (file, flags) = flags.split_at(usize::from(has_file));
    command.args(file);
    if !has_file {
        command.args(["--save", "", "--repl-diskless-sync-delay", "0"]);
    }
    command
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--daemonize", "no", "--loglevel", "notice"])
        .arg("--dir")
        .arg(directory.path())
        .args(flags);
    Process::spawn("redis-server", &mut command)
}

pub(crate) fn installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    })
}

/// Waits until this server answers and has loaded its data. False if it has ended instead, as it does if another
/// process has the port.
async fn answers(port: u16, process: &mut Process) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let own = format!("process_id:{}\r", process.id());
    wait::some("redis-server answers", crate::SOON, async || {
        if process.poll().is_some() {
            return Some(false);
        }
        let server = resp::ask(address, &["INFO", "server"]).await?.text()?;
        let loaded = resp::ask(address, &["PING"]).await?.text()?;
        (server.contains(&own) && loaded == "PONG").then_some(true)
    })
    .await
}

/// A port that was free a moment ago.
///
/// # Panics
/// If the kernel has none.
#[must_use]
pub fn free_port() -> u16 {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("the kernel has a free port")
        .port()
}
