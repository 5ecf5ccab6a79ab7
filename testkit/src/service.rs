//! The product's services as processes. The kernel chooses their ports, and the test reads the ports from their JSON
//! logs.

use crate::process::{Memory, Process};
use crate::redis::Redis;
use crate::{SOON, binaries, http, wait};
use serde_json::Value;
use std::collections::BTreeMap;
use std::iter::Sum;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::str::FromStr;

/// A running `chat`, `connector` or `standalone`.
pub struct Service {
    binary: &'static str,
    arguments: Vec<String>,
    descriptors: Option<u32>,
    /// Where its program is, if it is not that of this workspace.
    release: Option<PathBuf>,
    process: Process,
    bound: BTreeMap<&'static str, SocketAddr>,
}

/// The message that a service logs when it has bound an address, and the flag for the address.
const LISTENING: (&str, &str) = ("listening", "--listen");
const ADMIN: (&str, &str) = ("admin listening", "--admin");
const GRPC: (&str, &str) = ("grpc listening", "--grpc");

/// The connections of clients that a connector has, by protocol and transport.
pub const CONNECTIONS: &str = "connector_connections";

impl Service {
    /// Starts a binary with these arguments and waits until it has bound all its addresses. It need not be ready then.
    async fn start(
        binary: &'static str,
        events: &[(&'static str, &'static str)],
        arguments: Vec<String>,
        descriptors: Option<u32>,
    ) -> Self {
        let mut process = spawn(binary, None, &arguments, descriptors);
        let mut bound = BTreeMap::new();
        for &(event, flag) in events {
            let address = process.until_line(event, |line| address(line, event)).await;
            bound.insert(flag, address);
        }
        Self {
            binary,
            arguments,
            descriptors,
            release: None,
            process,
            bound,
        }
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Panics
    /// If it doesn't in time.
    pub async fn ready(&self) {
        let what = format!("{} is ready", self.binary);
        wait::eventually(&what, SOON, async || self.readyz().await == Some(200)).await;
    }

    /// The sum of some series of metrics: those of a family (`requests_total`), or those of it whose first labels are these
    /// (`requests_total{outcome="done"`).
    ///
    /// # Panics
    /// If the service doesn't answer, if there is no such series (a name that is wrong would always be zero), or if a value
    /// is no number of this type.
    pub async fn metric<N: FromStr + Sum>(&self, series: &str) -> N {
        let metrics = self.metrics().await;
        let sum = sum_of(&metrics, series);
        sum.unwrap_or_else(|| panic!("there is no {series} in:\n{metrics}"))
    }

    /// What `/metrics` tells.
    ///
    /// # Panics
    /// If the service doesn't answer.
    pub async fn metrics(&self) -> String {
        let answer = http::get(self.admin(), "/metrics").await;
        answer.expect("a service serves its metrics").body
    }

    /// How many client connections a connector or standalone has.
    ///
    /// # Panics
    /// If it doesn't answer.
    pub async fn connections(&self) -> u64 {
        self.metric(CONNECTIONS).await
    }

    /// The present status of `/readyz`.
    pub async fn readyz(&self) -> Option<u16> {
        Some(http::get(self.admin(), "/readyz").await?.status)
    }

    /// The address for clients of the service.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.bound[LISTENING.1]
    }

    /// The address of `/livez`, `/readyz` and `/metrics`.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.bound[ADMIN.1]
    }

    /// The process.
    #[must_use]
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
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

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops it with SIGSTOP: its connections stay open, and it answers nothing.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// Limits how many file descriptors it may have open, and returns the limit before.
    pub fn limit_descriptors(&self, limit: Option<u64>) -> Option<u64> {
        self.process.limit_descriptors(limit)
    }

    /// Asks it to read its settings again.
    pub fn hang_up(&self) {
        self.process.hang_up();
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.process.terminate();
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// If it doesn't end in time.
    pub async fn ended_within(&mut self, within: std::time::Duration) -> ExitStatus {
        self.process.ended_within(within).await
    }

    /// From its next start on, its program is the one in this directory. `None`: that of this workspace.
    pub fn run_from(&mut self, release: Option<PathBuf>) {
        self.release = release;
    }

    /// Kills it if it still runs, and starts it again on the same addresses.
    ///
    /// # Panics
    /// If it doesn't start.
    pub async fn restart(&mut self) {
        self.process.kill();
        for (flag, address) in &self.bound {
            let value = self.arguments.iter().position(|argument| argument == flag);
            let value = value.expect("the flag was given") + 1;
            self.arguments[value] = address.to_string();
        }
        let release = self.release.as_deref();
        self.process = spawn(self.binary, release, &self.arguments, self.descriptors);
        self.process
            .until_line(LISTENING.0, |line| address(line, LISTENING.0))
            .await;
    }

    /// All lines that it has logged so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.process.lines()
    }

    /// The lines with level `WARN` or `ERROR` that it has logged so far.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let lines = self.process.lines().into_iter();
        lines
            .filter(|line| {
                let event: Option<Value> = serde_json::from_str(line).ok();
                let level = event.as_ref().and_then(|event| event["level"].as_str());
                matches!(level, Some("WARN" | "ERROR"))
            })
            .collect()
    }
}

/// Starts a binary. If there is a limit of file descriptors, `prlimit` sets it and then becomes the service.
fn spawn(
    binary: &'static str,
    release: Option<&Path>,
    arguments: &[String],
    descriptors: Option<u32>,
) -> Process {
    let path = match release {
        Some(directory) => directory.join(binary),
        None => binaries::path(binary).to_owned(),
    };
    let mut command = match descriptors {
        None => Command::new(path),
        Some(limit) => {
            let mut command = Command::new("prlimit");
            command.arg(format!("--nofile={limit}:{limit}")).arg(path);
            command
        }
    };
    let log = std::env::var("TESTS_LOG");
    command
        .args(arguments)
        .env("RUST_LOG", log.as_deref().unwrap_or("info"))
        .env("RUST_BACKTRACE", "1");
    Process::spawn(binary, &mut command)
}

/// The `address` of a log event with this message.
fn address(line: &str, message: &str) -> Option<SocketAddr> {
    let event: Value = serde_json::from_str(line).ok()?;
    let fields = event.get("fields").unwrap_or(&event);
    (fields["message"] == message)
        .then(|| fields["address"].as_str()?.parse().ok())
        .flatten()
}

fn arguments(list: &[&str]) -> Vec<String> {
    list.iter().map(|&argument| argument.to_owned()).collect()
}

macro_rules! service {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name(Service);

        impl Deref for $name {
            type Target = Service;

            fn deref(&self) -> &Service {
                &self.0
            }
        }

        impl DerefMut for $name {
            fn deref_mut(&mut self) -> &mut Service {
                &mut self.0
            }
        }
    };
}

service!(
    /// A chat process.
    Chat
);
service!(
    /// A connector process.
    Connector
);
service!(
    /// A standalone process: both services over the store in memory.
    Standalone
);

impl Chat {
    /// Starts a chat on this Redis, with further flags, and waits until it is ready.
    ///
    /// # Panics
    /// If it doesn't start.
    pub async fn start(redis: &Redis, flags: &[&str]) -> Self {
        let chat = Self::begin(&redis.url(), flags).await;
        chat.ready().await;
        chat
    }

    /// Starts one and does not wait until it is ready.
    ///
    /// # Panics
    /// If it doesn't bind its addresses.
    pub async fn begin(redis: &str, flags: &[&str]) -> Self {
        let list = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let mut list = arguments(&list);
        list.extend(arguments(&["--redis", redis, "--log-format", "json"]));
        list.extend(arguments(flags));
        Self(Service::start("chat", &[LISTENING, ADMIN], list, None).await)
    }

    /// How many publications it has counted since its start.
    ///
    /// # Panics
    /// If it doesn't answer.
    pub async fn publications(&self) -> u64 {
        self.metric("chat_publications_total").await
    }

    /// The URL for connectors and gRPC clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }
}

impl Connector {
    /// Starts a connector on these chats and this Redis, with further flags, and waits until it is ready.
    ///
    /// # Panics
    /// If it doesn't start.
    pub async fn start(id: &str, chats: &[&Chat], redis: &Redis, flags: &[&str]) -> Self {
        let urls: Vec<_> = chats.iter().map(|chat| chat.url()).collect();
        let connector = Self::begin(id, &urls.join(","), &redis.url(), flags).await;
        connector.ready().await;
        connector
    }

    /// Starts one and does not wait until it is ready.
    ///
    /// # Panics
    /// If it doesn't bind its addresses.
    pub async fn begin(id: &str, chats: &str, redis: &str, flags: &[&str]) -> Self {
        Self::begin_within(None, id, chats, redis, flags).await
    }

    /// Like [`begin`](Self::begin), with a limit of file descriptors, soft and hard.
    ///
    /// # Panics
    /// Like [`begin`](Self::begin).
    pub async fn begin_within(
        descriptors: Option<u32>,
        id: &str,
        chats: &str,
        redis: &str,
        flags: &[&str],
    ) -> Self {
        let list = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let mut list = arguments(&list);
        list.extend(arguments(&["--id", id, "--chat", chats, "--redis", redis]));
        list.extend(arguments(&["--log-format", "json"]));
        list.extend(arguments(flags));
        let events = [LISTENING, ADMIN];
        Self(Service::start("connector", &events, list, descriptors).await)
    }
}

impl Standalone {
    /// Starts one and waits until it is ready.
    ///
    /// # Panics
    /// If it doesn't start.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts one with further flags.
    ///
    /// # Panics
    /// If it doesn't start.
    pub async fn with(flags: &[&str]) -> Self {
        let list = ["--listen", "127.0.0.1:0", "--grpc", "127.0.0.1:0"];
        let mut list = arguments(&list);
        list.extend(arguments(&["--admin", "127.0.0.1:0"]));
        list.extend(arguments(&["--log-format", "json"]));
        list.extend(arguments(flags));
        let standalone = Service::start("standalone", &[LISTENING, GRPC, ADMIN], list, None).await;
        standalone.ready().await;
        Self(standalone)
    }

    /// The address of chat's gRPC.
    #[must_use]
    pub fn grpc(&self) -> SocketAddr {
        self.bound[GRPC.1]
    }
}

/// The sum of some series in what `/metrics` told, like [`Service::metric`]. `None`: there is none.
///
/// # Panics
/// If a value is no number of this type.
#[must_use]
pub fn sum_of<N: FromStr + Sum>(metrics: &str, series: &str) -> Option<N> {
    let its = metrics.lines().filter(|line| {
        let rest = line.strip_prefix(series);
        rest.is_some_and(|rest| rest.starts_with(['{', '}', ',', ' ']))
    });
    let mut values = its.map(|line| {
        let value = line.rsplit(' ').next().and_then(|it| it.parse::<N>().ok());
        value.unwrap_or_else(|| panic!("a value of another type: {line}"))
    });
    let first = values.next()?;
    Some(std::iter::once(first).chain(values).sum())
}
