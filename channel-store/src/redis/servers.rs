//! What operators should know of each server before it refuses anything: its memory, and its replicas.

use super::net::{Connection, Nodes, text};
use metrics::{describe_gauge, gauge};
use parking_lot::Mutex;
use redis::Value;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::sleep;

const USED: &str = "redis_memory_used_bytes";
const LIMIT: &str = "redis_memory_limit_bytes";
const BUDGET: &str = "redis_memory_budget_bytes";
const REPLICAS: &str = "redis_replicas";
const REPLICAS_WANTED: &str = "redis_replicas_wanted";
const LAG: &str = "redis_replica_lag_bytes";

/// How often servers are asked. Memory does not fill within seconds.
const PAUSE: Duration = Duration::from_secs(5);
/// Shares of a bound at which operators are warned, in per cent. They leave time to act before writes are refused.
const STAGES: [u64; 2] = [80, 95];
/// A warning is over when the share is so much below its stage. So a share at the edge does not fill the log.
const BACK: u64 = 5;

/// What a server tells of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Told {
    used: u64,
    /// `maxmemory`. 0: none.
    limit: u64,
    /// It refuses writes when its memory is full, and evicts nothing.
    refuses: bool,
    /// Replicas that follow it.
    replicas: u64,
    /// How much the one lacks that is furthest behind.
    lag: u64,
}

impl Told {
    /// Reads the answers of `INFO memory` and `INFO replication`.
    fn parse(memory: &str, replication: &str) -> Option<Self> {
        let field = |info: &str, name: &str| -> Option<String> {
            let value = info.lines().find_map(|line| line.strip_prefix(name));
            Some(value?.strip_prefix(':')?.trim().to_owned())
        };
        let end: u64 = field(replication, "master_repl_offset")?.parse().ok()?;
        let replicas: Vec<u64> = replication.lines().filter_map(offset_of_replica).collect();
        Some(Self {
            used: field(memory, "used_memory")?.parse().ok()?,
            limit: field(memory, "maxmemory").map_or(Some(0), |it| it.parse().ok())?,
            refuses: field(memory, "maxmemory_policy")? == "noeviction",
            replicas: replicas.len() as u64,
            lag: end.saturating_sub(replicas.into_iter().min().unwrap_or(end)),
        })
    }

    /// The bound that is reached first, and what it is called. `None`: there is none.
    fn bound(&self, budget: Option<u64>) -> Option<(u64, &'static str)> {
        let limit = (self.limit > 0 && self.refuses).then_some((self.limit, "maxmemory"));
        let budget = budget.map(|it| (it, "memory budget"));
        limit.into_iter().chain(budget).min()
    }

    fn per_cent_of(&self, bound: u64) -> u64 {
        let share = u128::from(self.used) * 100 / u128::from(bound.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

/// The offset that a replica has, from a line such as `slave0:ip=…,port=…,state=online,offset=14,lag=0`. `None` for other lines,
/// and for a replica that does not follow yet.
fn offset_of_replica(line: &str) -> Option<u64> {
    let (number, fields) = line.trim().strip_prefix("slave")?.split_once(':')?;
    number.parse::<u32>().ok()?;
    let field = |name: &str| {
        let mut fields = fields.split(',');
        fields.find_map(|it| it.strip_prefix(name)?.strip_prefix('='))
    };
    (field("state")? == "online").then(|| field("offset")?.parse().ok())?
}

/// The stage of which a server was warned: the number of [`STAGES`] that it has reached.
fn stage(before: usize, per_cent: u64) -> usize {
    let reached = STAGES.iter().filter(|it| per_cent >= **it).count();
    let stays = STAGES.iter().filter(|it| per_cent + BACK >= **it).count();
    reached.max(before.min(stays))
}

/// Watches the servers, until it is dropped.
pub struct ServerWatch {
    troubles: Arc<Mutex<BTreeMap<String, String>>>,
    task: AbortHandle,
}

impl ServerWatch {
    /// Begins to ask. `budget`: the bytes that each server should use at most. `replicas`: how many each of them should have.
    pub(super) fn begin(nodes: Arc<Nodes>, budget: Option<u64>, replicas: u32) -> Self {
        describe_gauge!(USED, "Memory that a Redis server uses, as it counts");
        describe_gauge!(LIMIT, "maxmemory of a Redis server; 0: none");
        describe_gauge!(
            BUDGET,
            "Memory that a Redis server should use at most (--store-memory-budget); 0: not set"
        );
        describe_gauge!(REPLICAS, "Replicas that follow a Redis server");
        describe_gauge!(
            REPLICAS_WANTED,
            "Replicas that have to have a message before its send is answered (--ack replica)"
        );
        describe_gauge!(
            LAG,
            "Bytes that the replica lacks which is furthest behind its Redis server"
        );
        let troubles = Arc::<Mutex<BTreeMap<String, String>>>::default();
        let told = troubles.clone();
        let watching = Watching {
            nodes,
            budget,
            replicas,
            stages: BTreeMap::new(),
        };
        let task = tokio::spawn(async move { watching.run(&told).await }).abort_handle();
        Self { troubles, task }
    }

    /// A function that says which servers have little memory left. It answers `None` if none has.
    pub fn troubles(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let troubles = self.troubles.clone();
        move || {
            let troubles = troubles.lock();
            let all: Vec<_> = troubles.values().cloned().collect();
            (!all.is_empty()).then(|| all.join("; "))
        }
    }
}

impl Drop for ServerWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watching {
    nodes: Arc<Nodes>,
    budget: Option<u64>,
    replicas: u32,
    /// The stage of each server that was seen.
    stages: BTreeMap<String, usize>,
}

impl Watching {
    async fn run(mut self, troubles: &Mutex<BTreeMap<String, String>>) -> Infallible {
        loop {
            let mut asked = BTreeMap::new();
            for (server, connection) in self.nodes.main_connections() {
                let told = match connection {
                    Ok(connection) => ask(&connection).await,
                    Err(_) => None,
                };
                asked.insert(server.to_string(), told);
            }
            // A server that is gone, or does not answer, must not look as it did.
            for server in self.stages.keys() {
                asked.entry(server.clone()).or_insert(None);
            }
            for (server, told) in asked {
                self.tell(&server, told.as_ref());
                let trouble = self.note(&server, told.as_ref());
                let mut troubles = troubles.lock();
                match trouble {
                    Some(trouble) => troubles.insert(server, trouble),
                    None => troubles.remove(&server),
                };
            }
            sleep(PAUSE).await;
        }
    }

    /// Sets the metrics of a server. What is not known now is no number, which no alert takes for one.
    fn tell(&self, server: &str, told: Option<&Told>) {
        let set = |name: &'static str, value: Option<u64>| {
            let value = value.map_or(f64::NAN, |it| it as f64);
            gauge!(name, "server" => server.to_owned()).set(value);
        };
        set(USED, told.map(|it| it.used));
        set(LIMIT, told.map(|it| it.limit));
        set(REPLICAS, told.map(|it| it.replicas));
        set(LAG, told.map(|it| it.lag));
        let budget = self.budget.unwrap_or_default();
        set(BUDGET, told.map(|_| budget));
        set(REPLICAS_WANTED, told.map(|_| self.replicas.into()));
    }

    /// Logs when a server comes near its bound, and when it is far from it again. Returns what is wrong with it.
    fn note(&mut self, server: &str, told: Option<&Told>) -> Option<String> {
        let before = self.stages.entry(server.to_owned()).or_default();
        let told = told?;
        let (bound, name) = told.bound(self.budget)?;
        let per_cent = told.per_cent_of(bound);
        let now = stage(*before, per_cent);
        if now > *before {
            tracing::warn!(
                server,
                used = told.used,
                bound,
                "this Redis uses {per_cent}% of its {name}. When maxmemory is reached, messages and logins are refused: \
                 give it more memory, or let channels keep less (--log-entries, --log-keep, --log-bytes)"
            );
        } else if now == 0 && *before > 0 {
            tracing::info!(
                server,
                used = told.used,
                bound,
                "this Redis has enough memory again"
            );
        }
        *before = now;
        (now > 0).then(|| format!("{server} uses {per_cent}% of its {name}"))
    }
}

/// `None`: no answer, or none that can be read.
async fn ask(connection: &Connection) -> Option<Told> {
    let info = async |section: &str| {
        let mut info = redis::cmd("INFO");
        info.arg(section);
        let reply: Value = connection.request_one(info).await.ok()?;
        text(&reply).map(str::to_owned)
    };
    let (memory, replication) = (info("memory").await?, info("replication").await?);
    Told::parse(&memory, &replication)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: &str = "# Memory\r\nused_memory:850\r\nused_memory_human:850B\r\nmaxmemory:2000\r\nmaxmemory_policy:noeviction\r\n";
    const REPLICATION: &str = "# Replication\r\nrole:master\r\nconnected_slaves:3\r\n\
        slave0:ip=127.0.0.1,port=1,state=online,offset=90,lag=0\r\n\
        slave1:ip=127.0.0.1,port=2,state=online,offset=60,lag=1\r\n\
        slave2:ip=127.0.0.1,port=3,state=wait_bgsave,offset=0,lag=0\r\n\
        master_repl_offset:100\r\n";

    fn told() -> Told {
        Told {
            used: 850,
            limit: 2_000,
            refuses: true,
            replicas: 2,
            lag: 40,
        }
    }

    #[test]
    fn memory_and_replicas_are_read_from_info() {
        assert_eq!(Told::parse(MEMORY, REPLICATION), Some(told()));
        let alone = "role:master\r\nconnected_slaves:0\r\nmaster_repl_offset:100\r\n";
        let parsed = Told::parse(MEMORY, alone).unwrap();
        assert_eq!((parsed.replicas, parsed.lag), (0, 0));
        for (memory, replication) in [("", REPLICATION), (MEMORY, ""), ("used_memory:x", "")] {
            assert_eq!(Told::parse(memory, replication), None);
        }
    }

    #[test]
    fn the_smaller_of_budget_and_limit_counts_and_a_server_that_evicts_has_no_limit() {
        let told = told();
        assert_eq!(told.bound(None), Some((2_000, "maxmemory")));
        assert_eq!(told.bound(Some(1_000)), Some((1_000, "memory budget")));
        assert_eq!(told.bound(Some(3_000)), Some((2_000, "maxmemory")));
        let evicts = Told {
            refuses: false,
            ..told
        };
        assert_eq!(evicts.bound(None), None);
        let endless = Told { limit: 0, ..told };
        assert_eq!(endless.bound(Some(7)), Some((7, "memory budget")));
        assert_eq!(told.per_cent_of(1_000), 85);
        assert_eq!(told.per_cent_of(0), 85_000);
    }

    #[test]
    fn a_stage_is_told_once_and_is_over_only_when_the_share_is_well_below_it() {
        let mut now = 0;
        let shares = [50, 79, 80, 79, 81, 95, 94, 90, 89, 75, 74, 80];
        let stages = shares.map(|share| {
            now = stage(now, share);
            now
        });
        assert_eq!(stages, [0, 0, 1, 1, 1, 2, 2, 2, 1, 1, 0, 1]);
    }
}
