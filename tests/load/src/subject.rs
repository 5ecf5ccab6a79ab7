//! What is measured: the floor, a whole system that is started for this, or one that runs already.

use crate::floor;
use crate::protocol::Protocol;
use anyhow::{Context, bail};
use clap::ValueEnum;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use testkit::chat_api::ChatApi;
use testkit::process::{Memory, Process};
use testkit::redis::Redis;
use testkit::service::Standalone;
use testkit::system::{Plan, Services};

/// What to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Up {
    /// Two connectors, two chats and a Redis.
    Redis,
    /// One connector, one chat and a Redis.
    One,
    /// One process with the store in memory.
    Standalone,
    /// The floor, a bare broadcaster.
    Floor,
}

/// A running server. Its processes are known only if this program has started them.
pub(crate) struct Subject {
    /// The addresses to which clients connect.
    pub(crate) servers: Vec<SocketAddr>,
    /// The protocol of the clients.
    pub(crate) protocol: Protocol,
    processes: Vec<(&'static str, u32)>,
    running: Running,
}

enum Running {
    Floor(Process),
    Services(Services, Redis),
    Standalone(Standalone),
    Elsewhere,
}

/// CPU time that processes have used, in nanoseconds, by kind of process.
pub(crate) type Used = BTreeMap<&'static str, u64>;

impl Subject {
    /// Starts a server. Its connectors get these further flags.
    pub(crate) async fn start(
        up: Up,
        protocol: Protocol,
        flags: &[&'static str],
    ) -> anyhow::Result<Self> {
        match up {
            Up::Floor => {
                let mut command = Command::new(std::env::current_exe()?);
                let mut process = Process::spawn("floor", command.arg("floor"));
                let address = |line: &str| line.strip_prefix(floor::LISTENING)?.parse().ok();
                let server = process.until_line("where it listens", address).await;
                Ok(Self {
                    servers: vec![server],
                    protocol: Protocol::Floor,
                    processes: vec![("floor", process.id())],
                    running: Running::Floor(process),
                })
            }
            Up::Redis | Up::One => {
                let redis = Redis::without_persistence().await;
                let count = if up == Up::Redis { 2 } else { 1 };
                let plan = Plan::of(count, count).connector_flags(flags);
                let services = plan.services(&redis.url(), &redis.url()).await;
                let mut processes = vec![("redis", redis.id())];
                processes.extend(services.chats.iter().map(|it| ("chat", it.id())));
                processes.extend(services.connectors.iter().map(|it| ("connector", it.id())));
                Ok(Self {
                    servers: services.addresses(),
                    protocol,
                    processes,
                    running: Running::Services(services, redis),
                })
            }
            Up::Standalone => {
                let standalone = Standalone::with(flags).await;
                Ok(Self {
                    servers: vec![standalone.address()],
                    protocol,
                    processes: vec![("standalone", standalone.id())],
                    running: Running::Standalone(standalone),
                })
            }
        }
    }

    /// A server that runs already.
    pub(crate) fn elsewhere(servers: Vec<SocketAddr>, protocol: Protocol) -> anyhow::Result<Self> {
        if let Some(server) = servers.iter().find(|server| !server.ip().is_loopback()) {
            bail!("{server} is not on this machine: load is for loopback alone");
        }
        Ok(Self {
            servers,
            protocol,
            processes: Vec::new(),
            running: Running::Elsewhere,
        })
    }

    /// The CPU time that the processes have used so far.
    pub(crate) fn used(&self) -> anyhow::Result<Used> {
        let mut used = Used::new();
        for &(kind, id) in &self.processes {
            *used.entry(kind).or_default() += cpu(id)?;
        }
        Ok(used)
    }

    /// The resident memory of the processes that hold the clients' sockets, in bytes.
    pub(crate) fn memory(&self) -> Memory {
        match &self.running {
            Running::Floor(floor) => floor.memory(),
            Running::Standalone(standalone) => standalone.memory(),
            Running::Services(services, _) => {
                let each = services.connectors.iter().map(|it| it.memory());
                each.fold(Memory::default(), |all, it| Memory {
                    now: all.now + it.now,
                    peak: all.peak + it.peak,
                })
            }
            Running::Elsewhere => Memory::default(),
        }
    }

    /// Clients of the chats.
    pub(crate) fn apis(&self) -> anyhow::Result<Vec<ChatApi>> {
        match &self.running {
            Running::Services(services, _) => Ok((0..services.chats.len())
                .map(|it| services.api(it))
                .collect()),
            Running::Standalone(standalone) => Ok(vec![ChatApi::at(standalone.grpc())]),
            Running::Floor(_) | Running::Elsewhere => bail!("give --up redis, one or standalone"),
        }
    }

    /// The number of commands that Redis has carried out, if there is one.
    pub(crate) async fn commands(&self) -> Option<u64> {
        match &self.running {
            Running::Services(_, redis) => {
                let count = redis.info("stats", "total_commands_processed").await?;
                count.parse().ok()
            }
            _ => None,
        }
    }
}

/// The CPU time that the threads of a process have used, in nanoseconds.
pub(crate) fn cpu(id: u32) -> anyhow::Result<u64> {
    let mut used = 0;
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).context("a process is gone")?;
    for task in tasks {
        let path = task?.path().join("schedstat");
        let text = std::fs::read_to_string(path).context("the kernel keeps no schedstat")?;
        let first = text
            .split(' ')
            .next()
            .and_then(|text| text.parse::<u64>().ok());
        used += first.context("a number")?;
    }
    Ok(used)
}
