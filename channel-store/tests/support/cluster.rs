//! A cluster of real servers, without replicas.

use super::server::{Server, free_port};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

const SLOTS: usize = 16_384;

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

/// The one that tests share as long as somebody holds it.
static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

impl Cluster {
    /// Starts so many primaries, each with an equal share of the slots.
    pub(crate) fn start(count: usize) -> Self {
        let nodes: Vec<Server> = (0..count).map(|_| start_node()).collect();
        for (index, node) in nodes.iter().enumerate() {
            let (first, end) = (index * SLOTS / count, (index + 1) * SLOTS / count);
            node.say(&format!("CLUSTER ADDSLOTSRANGE {first} {}", end - 1));
            node.say(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1));
        }
        for node in &nodes[1..] {
            let port = node.port();
            nodes[0].say(&format!(
                "CLUSTER MEET 127.0.0.1 {port} {}",
                node.bus_port()
            ));
        }
        let cluster = Self { nodes };
        until(&cluster.nodes, |node| {
            let info: String = redis::from_redis_value(node.say("CLUSTER INFO")).unwrap();
            info.contains("cluster_state:ok") && info.contains(&format!("cluster_size:{count}"))
        });
        cluster
    }

    /// Gives each primary a replica, and returns when they are in step.
    pub(crate) fn add_replicas(&self) -> Vec<Server> {
        let replicas: Vec<Server> = self.nodes.iter().map(|_| start_node()).collect();
        let known = |node: &Server, count: usize| {
            let info: String = redis::from_redis_value(node.say("CLUSTER INFO")).unwrap();
            info.contains(&format!("cluster_known_nodes:{count}"))
        };
        for replica in &replicas {
            let (port, bus) = (replica.port(), replica.bus_port());
            self.nodes[0].say(&format!("CLUSTER MEET 127.0.0.1 {port} {bus}"));
        }
        until(&replicas, |it| known(it, 2 * self.nodes.len()));
        until(&self.nodes, |it| known(it, 2 * self.nodes.len()));
        for (index, replica) in replicas.iter().enumerate() {
            replica.say(&format!("CLUSTER REPLICATE {}", self.id(index)));
        }
        // A node that has not heard of all this would not vote, or not stand.
        let agrees = |node: &Server| {
            let nodes: String = redis::from_redis_value(node.say("CLUSTER NODES")).unwrap();
            let info: String = redis::from_redis_value(node.say("CLUSTER INFO")).unwrap();
            nodes.matches("slave ").count() == replicas.len()
                && info.contains("cluster_slots_assigned:16384")
        };
        until(&replicas, |it| {
            agrees(it) && it.info("replication").contains("master_link_status:up")
        });
        until(&self.nodes, agrees);
        replicas
    }

    /// Three primaries, shared with whoever else asks meanwhile.
    pub(crate) fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap();
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Self::start(3));
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    pub(crate) fn url(&self) -> String {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|it| format!("127.0.0.1:{}", it.port()))
            .collect();
        format!("redis-cluster://{}", nodes.join(","))
    }

    /// The number of the node that owns a channel.
    pub(crate) fn owner(&self, channel: &str) -> usize {
        self.slot(channel) * self.nodes.len() / SLOTS
    }

    pub(crate) fn slot(&self, channel: &str) -> usize {
        redis::from_redis_value(self.nodes[0].say(&format!("CLUSTER KEYSLOT {channel}"))).unwrap()
    }

    /// Begins to move a slot.
    pub(crate) fn begin_move(&self, slot: usize, from: usize, to: usize) {
        let (from_id, to_id) = (self.id(from), self.id(to));
        self.nodes[to].say(&format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}"));
        self.nodes[from].say(&format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}"));
    }

    /// Moves a slot's keys.
    pub(crate) fn move_keys(&self, slot: usize, from: usize, to: usize) {
        let keys = self.nodes[from].say(&format!("CLUSTER GETKEYSINSLOT {slot} 1000"));
        let keys: Vec<String> = redis::from_redis_value(keys).unwrap();
        let port = self.nodes[to].port();
        for key in keys {
            self.nodes[from].say(&format!("MIGRATE 127.0.0.1 {port} {key} 0 5000"));
        }
    }

    /// Gives a slot to its new owner.
    pub(crate) fn end_move(&self, slot: usize, from: usize, to: usize) {
        let to_id = self.id(to);
        self.nodes[to].say(&format!("CLUSTER SETSLOT {slot} NODE {to_id}"));
        self.nodes[from].say(&format!("CLUSTER SETSLOT {slot} NODE {to_id}"));
    }

    fn id(&self, node: usize) -> String {
        redis::from_redis_value(self.nodes[node].say("CLUSTER MYID")).unwrap()
    }
}

fn until(nodes: &[Server], holds: impl Fn(&Server) -> bool) {
    let start = Instant::now();
    while !nodes.iter().all(&holds) {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the cluster never forms"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start_node() -> Server {
    Server::start_with(|_| {
        let bus = free_port().to_string();
        let settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
        let settings = [&settings[..], &["--repl-diskless-sync-delay", "0"]].concat();
        let more = [
            "--cluster-require-full-coverage",
            "no",
            "--cluster-port",
            &bus,
        ];
        settings
            .iter()
            .chain(&more)
            .map(|&it| it.to_owned())
            .collect()
    })
}
