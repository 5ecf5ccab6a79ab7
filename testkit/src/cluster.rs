//! A Redis Cluster: primaries without replicas, or three primaries with one replica each.

use crate::redis::{DURABLE, Redis, free_port};
use crate::resp::{self, Value};
use crate::{SOON, wait};
use std::net::SocketAddr;
use std::time::Duration;

/// If a node does not answer for this long, the others take it to be down.
pub const NODE_TIMEOUT: Duration = Duration::from_secs(1);

const SLOTS: usize = 16_384;

/// The flag for the port that a node uses to talk to the others.
const BUS: &str = "--cluster-port";

/// A running cluster.
pub struct Cluster {
    /// All nodes. Those that began as primaries come first.
    pub nodes: Vec<Redis>,
    primaries: usize,
}

impl Cluster {
    /// Starts three primaries with a replica each, and waits until every slot is served and every replica is linked.
    /// Before that no replica would take over.
    ///
    /// # Panics
    /// If a node doesn't start, or the cluster doesn't form in time.
    pub async fn start() -> Self {
        let mut cluster = Self::of_primaries(3, DURABLE).await;
        let replicas = cluster.add_replicas(DURABLE).await;
        cluster.nodes.extend(replicas);
        wait::eventually("every replica is linked", 3 * SOON, async || {
            cluster.is_whole().await
        })
        .await;
        cluster
    }

    /// Starts a cluster in which no replica takes over if a primary hangs. The other slots are still served.
    ///
    /// # Panics
    /// Like [`Cluster::start`].
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

    /// Starts this many primaries with these flags, each with an equal share of the slots, and no replicas.
    ///
    /// # Panics
    /// Like [`Cluster::start`].
    pub async fn of_primaries(count: usize, flags: &[&str]) -> Self {
        let mut nodes = Vec::new();
        for index in 0..count {
            let node = start_node(flags).await;
            let (first, end) = (index * SLOTS / count, (index + 1) * SLOTS / count);
            node.say(&format!("CLUSTER ADDSLOTSRANGE {first} {}", end - 1));
            node.say(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1));
            nodes.push(node);
        }
        let cluster = Self {
            nodes,
            primaries: count,
        };
        for node in &cluster.nodes[1..] {
            cluster.meet(node);
        }
        let size = format!("cluster_size:{count}");
        until("the cluster forms", &cluster.nodes, |node| {
            let info = node.text("CLUSTER INFO");
            info.contains("cluster_state:ok") && info.contains(&size)
        })
        .await;
        cluster
    }

    /// Adds a replica with these flags to each primary, and returns the replicas when they are linked.
    ///
    /// # Panics
    /// Like [`Cluster::start`].
    pub async fn add_replicas(&self, flags: &[&str]) -> Vec<Redis> {
        let mut replicas = Vec::new();
        for _ in 0..self.primaries {
            replicas.push(start_node(flags).await);
        }
        for replica in &replicas {
            self.meet(replica);
        }
        let known = format!("cluster_known_nodes:{}", 2 * self.primaries);
        for nodes in [&replicas, &self.nodes] {
            until("the nodes know each other", nodes, |node| {
                node.text("CLUSTER INFO").contains(&known)
            })
            .await;
        }
        for (primary, replica) in replicas.iter().enumerate() {
            replica.say(&format!("CLUSTER REPLICATE {}", self.id(primary)));
        }
        // A node that doesn't know all of this would not vote in a failover, or not start one.
        let agrees = |node: &Redis| {
            node.text("CLUSTER NODES").matches("slave ").count() == self.primaries
                && node
                    .text("CLUSTER INFO")
                    .contains("cluster_slots_assigned:16384")
        };
        until("the replicas are linked", &replicas, |node| {
            agrees(node)
                && node
                    .text("INFO replication")
                    .contains("master_link_status:up")
        })
        .await;
        until("the primaries know the replicas", &self.nodes, agrees).await;
        replicas
    }

    fn meet(&self, node: &Redis) {
        let bus = node
            .flag(BUS)
            .expect("every node of a cluster has such a port");
        self.nodes[0].say(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", node.port()));
    }

    /// True if every node knows three primaries that serve all slots, each with a linked replica.
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

    /// The URL for the flags of the product.
    #[must_use]
    pub fn url(&self) -> String {
        let addresses = self.nodes.iter().map(|node| node.address().to_string());
        format!(
            "redis-cluster://{}",
            addresses.collect::<Vec<_>>().join(",")
        )
    }

    /// The primary that had a channel's slot when the cluster was started, as an index of `nodes`. It asks no node.
    #[must_use]
    pub fn first_owner(&self, channel: &str) -> usize {
        // The primary with index i has the slots from i * SLOTS / primaries on, rounded down.
        ((slot(channel) + 1) * self.primaries - 1) / SLOTS
    }

    /// The nodes that serve a channel, as indices of `nodes`: the primary and its replica.
    ///
    /// # Panics
    /// If the nodes don't answer in time.
    pub async fn of(&self, channel: &str) -> (usize, usize) {
        let slot = slot(channel);
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

    /// The primary that serves a channel, as an index of `nodes`.
    ///
    /// # Panics
    /// If the nodes don't answer in time.
    pub async fn of_primary(&self, channel: &str) -> usize {
        let slot = slot(channel);
        wait::some("the slot has a primary", 2 * SOON, async || {
            self.serving(slot).await?.first().copied()
        })
        .await
    }

    /// Waits until the nodes know that this one is the primary of a channel. A node may hear of a new primary after the
    /// clients of that primary, so a test must not look once.
    ///
    /// # Panics
    /// If another node stays the primary.
    pub async fn until_primary(&self, channel: &str, node: usize) {
        wait::eventually("the node is the primary of the channel", SOON, async || {
            self.of_primary(channel).await == node
        })
        .await;
    }

    /// The nodes that serve a slot, as one node knows them: the primary comes first.
    async fn serving(&self, slot: usize) -> Option<Vec<usize>> {
        let shards = self.ask_any(&["CLUSTER", "SLOTS"]).await;
        shards.list().iter().find_map(|shard| match shard.list() {
            [Value::Integer(from), Value::Integer(to), nodes @ ..] => {
                let slot = i64::try_from(slot).ok()?;
                let serves = (*from..=*to).contains(&slot);
                serves.then(|| nodes.iter().map(|node| self.index(node)).collect())
            }
            _ => None,
        })
    }

    fn id(&self, node: usize) -> String {
        self.nodes[node].text("CLUSTER MYID")
    }

    /// Moves this many slots with their keys from one primary to another, beginning with the lowest.
    ///
    /// # Panics
    /// If a node refuses.
    pub async fn move_slots(&self, from: usize, to: usize, count: usize) {
        let id = self.id(from);
        let nodes = self.nodes[from].text("CLUSTER NODES");
        let own = nodes.lines().find(|line| line.starts_with(&id));
        let ranges = own.expect("a node knows itself").split(' ').skip(8);
        let slots = ranges.flat_map(|range| {
            let number = |text: &str| text.parse::<usize>().expect("a slot");
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            number(first)..=number(last)
        });
        for slot in slots.take(count).collect::<Vec<_>>() {
            self.move_slot(slot, from, to);
            // Other tasks of this thread must not wait for all slots.
            tokio::task::yield_now().await;
        }
    }

    /// Moves one slot with its keys.
    ///
    /// # Panics
    /// If a node refuses.
    pub fn move_slot(&self, slot: usize, from: usize, to: usize) {
        self.begin_move(slot, from, to);
        self.move_keys(slot, from, to);
        self.end_move(slot, from, to);
    }

    /// The first step of moving a slot: keys may move now, and new keys go to the new owner.
    ///
    /// # Panics
    /// If a node refuses.
    pub fn begin_move(&self, slot: usize, from: usize, to: usize) {
        let (from_id, to_id) = (self.id(from), self.id(to));
        self.nodes[to].say(&format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}"));
        self.nodes[from].say(&format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}"));
    }

    /// The second step: all keys move.
    ///
    /// # Panics
    /// If a node refuses.
    pub fn move_keys(&self, slot: usize, from: usize, to: usize) {
        let keys = self.nodes[from].say(&format!("CLUSTER GETKEYSINSLOT {slot} 1000"));
        let keys: Vec<_> = keys.list().iter().filter_map(Value::text).collect();
        if !keys.is_empty() {
            let port = self.nodes[to].port().to_string();
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            migrate.extend(keys.iter().map(String::as_str));
            self.nodes[from].say_words(&migrate);
        }
    }

    /// The last step: the new owner gets the slot.
    ///
    /// # Panics
    /// If a node refuses.
    pub fn end_move(&self, slot: usize, from: usize, to: usize) {
        let to_id = self.id(to);
        for node in [to, from] {
            self.nodes[node].say(&format!("CLUSTER SETSLOT {slot} NODE {to_id}"));
        }
    }

    fn index(&self, node: &Value) -> usize {
        let port = match node.list() {
            [_, Value::Integer(port), ..] => *port,
            other => panic!("this is not a node: {other:?}"),
        };
        let found = self
            .nodes
            .iter()
            .position(|n| i64::from(n.address().port()) == port);
        found.expect("it is one of the nodes")
    }

    /// The address of a node that answers.
    pub async fn any(&self) -> SocketAddr {
        for node in &self.nodes {
            if resp::ask(node.address(), &["PING"]).await.is_some() {
                return node.address();
            }
        }
        panic!("no node answers");
    }

    async fn ask_any(&self, parts: &[&str]) -> Value {
        let answer = resp::ask(self.any().await, parts).await;
        answer.unwrap_or_else(|| panic!("no answer to {parts:?}"))
    }
}

/// The slot of a key or hash tag: its CRC-16 (XMODEM), as in the specification of Redis Cluster.
#[must_use]
pub fn slot(tag: &str) -> usize {
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        let crc = crc ^ (u16::from(byte) << 8);
        (0..8).fold(crc, |crc, _| (crc << 1) ^ (0x1021 * (crc >> 15)))
    });
    usize::from(crc) % SLOTS
}

async fn start_node(flags: &[&str]) -> Redis {
    let timeout = NODE_TIMEOUT.as_millis().to_string();
    Redis::with_files(|_| {
        let bus = free_port().to_string();
        let own = ["--cluster-enabled", "yes", BUS, &bus];
        let own = [&own[..], &["--cluster-node-timeout", &timeout], flags].concat();
        own.into_iter().map(str::to_owned).collect()
    })
    .await
}

async fn until(what: &str, nodes: &[Redis], holds: impl Fn(&Redis) -> bool) {
    wait::eventually(what, 3 * SOON, async || nodes.iter().all(&holds)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // The answers of a real server to CLUSTER KEYSLOT.
        for (tag, expected) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("bar", 5_061),
            ("", 0),
        ] {
            assert_eq!(slot(tag), expected, "{tag}");
        }
    }
}
