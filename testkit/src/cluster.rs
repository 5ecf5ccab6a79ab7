//! A Redis Cluster of three primaries with a replica each.

use crate::redis::{self, Redis};
use crate::resp::{self, Value};
use crate::{SOON, wait};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

/// After this without an answer nodes take another one to be down.
pub const NODE_TIMEOUT: Duration = Duration::from_secs(1);

/// All six nodes.
pub struct Cluster {
    /// The first three began as primaries.
    pub nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts it and waits until every slot is served and every replica linked: before that none takes over.
    ///
    /// # Panics
    /// When it doesn't come up.
    pub async fn start() -> Self {
        let timeout = NODE_TIMEOUT.as_millis().to_string();
        let mut flags = vec!["--appendonly", "yes", "--appendfsync", "always"];
        flags.extend([
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            &timeout,
        ]);
        let mut nodes = Vec::new();
        for _ in 0..6 {
            nodes.push(Redis::with(&flags).await);
        }
        let addresses: Vec<_> = nodes
            .iter()
            .map(|node| node.address().to_string())
            .collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(addresses.iter().map(String::as_str));
        create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        redis_cli(&create).await;
        let cluster = Self { nodes };
        wait::eventually("every replica is linked", 3 * SOON, async || {
            cluster.is_whole().await
        })
        .await;
        cluster
    }

    /// Starts one in which nobody takes the place of a primary that hangs, and the slots of the others are served meanwhile.
    ///
    /// # Panics
    /// As [`Cluster::start`].
    pub async fn without_failover() -> Self {
        let cluster = Self::start().await;
        for node in &cluster.nodes {
            for (name, value) in [
                ("cluster-require-full-coverage", "no"),
                ("cluster-replica-no-failover", "yes"),
            ] {
                node.command(&["CONFIG", "SET", name, value]).await;
            }
        }
        cluster
    }

    /// Every node knows of three primaries that serve all slots, each with a replica that is linked.
    async fn is_whole(&self) -> bool {
        let mut linked = 0;
        for node in &self.nodes {
            let state = node.command(&["CLUSTER", "INFO"]).await.text();
            let shards = node.command(&["CLUSTER", "SLOTS"]).await;
            let serves = state.is_some_and(|state| state.contains("cluster_state:ok"));
            let whole = |shard: &Value| shard.list().len() == 4;
            if !serves || shards.list().len() != 3 || !shards.list().iter().all(whole) {
                return false;
            }
            let link = node.info("replication", "master_link_status").await;
            linked += u8::from(link.as_deref() == Some("up"));
        }
        linked == 3
    }

    /// As the product's flags take it.
    #[must_use]
    pub fn url(&self) -> String {
        let addresses = self.nodes.iter().map(|node| node.address().to_string());
        format!(
            "redis-cluster://{}",
            addresses.collect::<Vec<_>>().join(",")
        )
    }

    /// The slot of a key or hash tag.
    ///
    /// # Panics
    /// When no node says.
    pub async fn slot(&self, tag: &str) -> i64 {
        match self.anybody(&["CLUSTER", "KEYSLOT", tag]).await {
            Value::Integer(slot) => slot,
            other => panic!("no slot: {other:?}"),
        }
    }

    /// The nodes that serve a channel: its primary and that one's replica, as indices of `nodes`.
    ///
    /// # Panics
    /// When the nodes don't say soon.
    pub async fn of(&self, channel: &str) -> (usize, usize) {
        let slot = self.slot(channel).await;
        wait::some(
            "the slot has a primary and a replica",
            2 * SOON,
            async || {
                let serving = self.serving(slot).await?;
                Some((*serving.first()?, *serving.get(1)?))
            },
        )
        .await
    }

    /// The node that serves a channel, as an index of `nodes`.
    ///
    /// # Panics
    /// When the nodes don't say soon.
    pub async fn of_primary(&self, channel: &str) -> usize {
        let slot = self.slot(channel).await;
        wait::some("the slot has a primary", 2 * SOON, async || {
            self.serving(slot).await?.first().copied()
        })
        .await
    }

    /// Who serves a slot, as some node sees it: the primary first.
    async fn serving(&self, slot: i64) -> Option<Vec<usize>> {
        let shards = self.anybody(&["CLUSTER", "SLOTS"]).await;
        shards.list().iter().find_map(|shard| match shard.list() {
            [Value::Integer(from), Value::Integer(to), nodes @ ..] => {
                let serves = (*from..=*to).contains(&slot);
                serves.then(|| nodes.iter().map(|node| self.index(node)).collect())
            }
            _ => None,
        })
    }

    /// The id of a node.
    ///
    /// # Panics
    /// When it doesn't answer.
    pub async fn id(&self, node: usize) -> String {
        let id = self.nodes[node].command(&["CLUSTER", "MYID"]).await.text();
        id.expect("a node has an id")
    }

    /// Moves slots with all that is in them from one primary to another, beginning with the lowest.
    ///
    /// # Panics
    /// When they don't move.
    pub async fn move_slots(&self, from: usize, to: usize, slots: usize) {
        let address = self.nodes[from].address().to_string();
        let (from, to) = (self.id(from).await, self.id(to).await);
        let slots = slots.to_string();
        let mut reshard = vec!["--cluster", "reshard", &address, "--cluster-yes"];
        reshard.extend(["--cluster-from", &from, "--cluster-to", &to]);
        reshard.extend(["--cluster-slots", &slots]);
        redis_cli(&reshard).await;
    }

    /// Moves one slot with all that is in it.
    ///
    /// # Panics
    /// When it doesn't move.
    pub async fn move_slot(&self, slot: i64, from: usize, to: usize) {
        let (source, target) = (self.id(from).await, self.id(to).await);
        let slot = slot.to_string();
        let set = async |node: usize, parts: &[&str]| {
            let command = [&["CLUSTER", "SETSLOT", &slot], parts].concat();
            self.nodes[node].command(&command).await;
        };
        set(to, &["IMPORTING", &source]).await;
        set(from, &["MIGRATING", &target]).await;
        let keys = self.nodes[from]
            .command(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"])
            .await;
        let keys: Vec<_> = keys.list().iter().filter_map(Value::text).collect();
        if !keys.is_empty() {
            let port = self.nodes[to].address().port().to_string();
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            migrate.extend(keys.iter().map(String::as_str));
            self.nodes[from].command(&migrate).await;
        }
        for node in [to, from] {
            set(node, &["NODE", &target]).await;
        }
    }

    fn index(&self, node: &Value) -> usize {
        let port = match node.list() {
            [_, Value::Integer(port), ..] => *port,
            other => panic!("no node: {other:?}"),
        };
        let found = self
            .nodes
            .iter()
            .position(|n| i64::from(n.address().port()) == port);
        found.expect("one of the six")
    }

    /// Any node that answers.
    pub async fn any(&self) -> SocketAddr {
        for node in &self.nodes {
            if resp::ask(node.address(), &["PING"]).await.is_some() {
                return node.address();
            }
        }
        panic!("no node answers");
    }

    async fn anybody(&self, parts: &[&str]) -> Value {
        let answer = resp::ask(self.any().await, parts).await;
        answer.unwrap_or_else(|| panic!("not answered: {parts:?}"))
    }
}

/// Runs `redis-cli` to its end.
async fn redis_cli(arguments: &[&str]) {
    assert!(
        redis::installed("redis-cli"),
        "install redis-tools, or run ./tests/run, which does"
    );
    let mut command = Command::new("redis-cli");
    command.args(arguments).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("it does not panic").expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "redis-cli {arguments:?}: {text}");
}
