//! The servers that hold the keys: one server, or the primaries of a cluster. Each of them has links of its own.

use super::address::{Address, Kind, Location, OpenError};
use super::connection::{Connection, publish_command};
use super::link::{LinkOptions, Subscriber, Target};
use super::measure::Measures;
use super::reply::unavailable;
use super::schema::Schema;
use super::sentinel::Sentinels;
use super::slots::{Slots, slot};
use super::subscriptions::Subscriptions;
use super::tls::Dialer;
use super::topology::{Node, Table, Watcher};
use super::turns::{Turn, Turns};
use crate::error::StoreError;
use crate::probe::{SLOTS, is_enough, several};
use crate::server::Shard;
use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

/// How to connect to the servers.
pub(crate) struct NodesOptions<'a> {
    pub(crate) schema: Schema,
    pub(crate) measures: Arc<Measures>,
    /// See [`Dialer::new`].
    pub(crate) certificates: Option<&'a Path>,
    /// A command that takes longer has an unknown outcome, and its connection is replaced.
    pub(crate) answer_time: Duration,
    /// The share of all slots whose servers must be connected for the whole to be available.
    pub(crate) ready_slots: f64,
    /// How many connections to each node publishers have for themselves. With 0 they use the one for everything.
    pub(crate) publisher_connections: usize,
    /// True if it is logged when a server can't be reached.
    pub(crate) logs_failures: bool,
}

/// The servers of a store or feed, with the connections to them.
pub(crate) struct Nodes {
    is_cluster: bool,
    table: watch::Receiver<Arc<Table>>,
    available: watch::Receiver<bool>,
    turns: Turns,
    watcher: AbortHandle,
    database: i64,
    subscriber: Option<Arc<dyn Subscriber>>,
}

/// A connection for one read, with the turn that allows it.
pub(crate) struct Reading {
    pub(crate) connection: Connection,
    _turn: Turn,
}

impl Nodes {
    /// Connects to what the URL names. It also succeeds while that can't be reached. `subscriptions`: what to subscribe to
    /// over the connections that are not for reads.
    ///
    /// # Errors
    /// [`OpenError`]: with this URL, or with what the servers hold, it will never work.
    pub(crate) async fn open(
        url: &str,
        options: NodesOptions<'_>,
        subscriptions: Option<Arc<Subscriptions>>,
    ) -> Result<Self, OpenError> {
        let subscriber = subscriptions.map(|it| it as Arc<dyn Subscriber>);
        let location = Location::parse(url)?;
        let dialer = Dialer::new(location.encrypted, options.certificates)?;
        let is_cluster = matches!(location.kind, Kind::Cluster(_));
        let (changed, watch_changed) = watch::channel(());
        let slots_moved = is_cluster.then(Arc::<Notify>::default);
        let numbers = Arc::<AtomicU64>::default();
        let link_options = |reads_only, subscriber| {
            Arc::new(LinkOptions {
                reads_only,
                // Of the links to one server, only those for everything write this to the log.
                logs_failures: options.logs_failures && !reads_only,
                answer_time: options.answer_time,
                settings: location.settings.clone(),
                dialer: dialer.clone(),
                schema: options.schema.clone(),
                measures: options.measures.clone(),
                subscriber,
                numbers: numbers.clone(),
                changed: changed.clone(),
                slots_moved: slots_moved.clone(),
            })
        };
        let database = location.settings.db();
        let (table, watch_table) = watch::channel(Arc::default());
        let (available, watch_available) = watch::channel(false);
        let mut watcher = Watcher::new(
            link_options(false, subscriber.clone()),
            link_options(true, None),
            options.publisher_connections,
            table,
        );
        match location.kind {
            Kind::Server(address) => {
                let target = || Target::Fixed(address.clone());
                watcher.open_one(address.clone(), target).await?;
            }
            Kind::Sentinels {
                sentinels,
                master,
                settings,
            } => {
                let node = Address::Tcp(master.clone(), 0);
                let target = || {
                    let (sentinels, master) = (sentinels.clone(), master.clone());
                    Target::Sentinels(Sentinels::new(sentinels, master, settings.clone()))
                };
                watcher.open_one(node, target).await?;
            }
            Kind::Cluster(seeds) => watcher.open_cluster(seeds).await?,
        }
        let share = options.ready_slots;
        update_available(&watch_table, &available, share);
        let updating = keep_available_updated(watch_changed, watch_table.clone(), available, share);
        let watcher = async move {
            match &slots_moved {
                Some(slots_moved) => tokio::join!(updating, watcher.run(slots_moved)).0,
                None => updating.await,
            }
        };
        Ok(Self {
            is_cluster,
            table: watch_table,
            available: watch_available,
            turns: Turns::default(),
            watcher: tokio::spawn(watcher).abort_handle(),
            database,
            subscriber,
        })
    }

    /// The present connection to the node that owns a key. `key` is called only where there are several nodes.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if there is none.
    pub(crate) fn connection(
        &self,
        key: impl FnOnce() -> String,
    ) -> Result<Connection, StoreError> {
        let table = self.table.borrow().clone();
        let (_, node) = owner(&table.slots, &table.nodes, key)?;
        node.main().connection()
    }

    /// False if one server has all keys.
    pub(crate) fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// The shard that holds a key. All keys of one node belong to one shard, and so do all keys without an owner.
    /// Without a cluster it is always [`Shard::default`], which is no shard of any cluster.
    pub(crate) fn shard(&self, key: impl FnOnce() -> String) -> Shard {
        if !self.is_cluster {
            return Shard::default();
        }
        let table = self.table.borrow().clone();
        // If two nodes had the same hash, work for them would wait for each other; nothing else would happen.
        let mut hasher = DefaultHasher::new();
        table.slots.owner(slot(&key())).hash(&mut hasher);
        Shard::new(hasher.finish() | 1)
    }

    /// Waits for a turn at reading and for a connection to the node that owns the key. The wait for the turn has no
    /// time-out of its own: the caller sets one. The wait for the connection is as long as that for an answer.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if there is no connection. It comes at once if the node can't be reached at all.
    pub(crate) async fn reading(&self, key: String) -> Result<Reading, StoreError> {
        let turn = self.turns.take(&key).await;
        let table = self.table.borrow().clone();
        let (_, node) = owner(&table.slots, &table.nodes, || key)?;
        node.main().connection()?;
        Ok(Reading {
            connection: node.reader.next_connection().await?,
            _turn: turn,
        })
    }

    /// The present connection for reads to the node that owns a key, for a caller that holds a [`Reading`] already and has
    /// many short questions.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if there is none.
    pub(crate) fn reader(&self, key: impl FnOnce() -> String) -> Result<Connection, StoreError> {
        let table = self.table.borrow().clone();
        let (_, node) = owner(&table.slots, &table.nodes, key)?;
        node.reader.connection()
    }

    /// The command that publishes to topics.
    pub(crate) fn publish_command(&self) -> &'static str {
        publish_command(self.is_cluster)
    }

    /// The present connections to all nodes, one for each node. A publisher uses these only: a later connection could
    /// overtake what is unanswered on an earlier one. If publishers have connections of their own, `turn` chooses one of them.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if there is no connection at all.
    pub(crate) fn pinned(&self, turn: usize) -> Result<Pinned, StoreError> {
        let table = self.table.borrow().clone();
        let connection = |(address, node): (&Address, &Arc<Node>)| {
            let connection = node.for_publisher(turn).connection();
            Some((address.clone(), connection.ok()?))
        };
        let connections: HashMap<_, _> = table.nodes.iter().filter_map(connection).collect();
        if connections.is_empty() {
            return Err(unavailable("there is no connection to Redis"));
        }
        Ok(Pinned {
            slots: table.slots.clone(),
            connections,
        })
    }

    /// Each node, with the present connection to it.
    pub(crate) fn main_connections(&self) -> Vec<(Address, Result<Connection, StoreError>)> {
        let table = self.table.borrow().clone();
        let nodes = table.nodes.iter();
        let connections = nodes.map(|(address, node)| (address.clone(), node.main().connection()));
        connections.collect()
    }

    /// True while enough slots have a node with a connection that is ready for use.
    pub(crate) fn available(&self) -> watch::Receiver<bool> {
        self.available.clone()
    }

    /// A function that says which nodes can't be used and why. It answers `None` if all of them can be used. It keeps no
    /// connection open.
    pub(crate) fn why_unavailable(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let (table, subscriber) = (self.table.clone(), self.subscriber.clone());
        move || {
            let table = table.borrow().clone();
            let unusable = |(address, node): (&Address, &Arc<Node>)| {
                let refused = subscriber.as_ref().and_then(|it| it.refusal(address));
                if node.main().is_ready() {
                    return refused.map(|words| format!("{address}: {words}"));
                }
                let words = refused.or_else(|| node.main().last_failure());
                let words = words.unwrap_or_else(|| "no answer yet".to_owned());
                Some(format!("{address}: {words}"))
            };
            let mut nodes: Vec<_> = table.nodes.iter().filter_map(unusable).collect();
            nodes.sort();
            let ownerless = SLOTS - table.slots.count(|_| true);
            if ownerless > 0 {
                nodes.push(format!("{ownerless} of {SLOTS} slots have no server"));
            }
            several(nodes.into_iter())
        }
    }

    /// The number of the database.
    pub(crate) fn database(&self) -> i64 {
        self.database
    }

    /// Each node with the number of its slots.
    pub(crate) fn servers(&self) -> HashMap<Address, u32> {
        let table = self.table.borrow().clone();
        let slots = |address: &Address| table.slots.count(|owner| owner == address);
        let servers = table.nodes.keys();
        servers.map(|it| (it.clone(), slots(it))).collect()
    }

    /// True if the node owns the key.
    pub(crate) fn owns(&self, node: &Address, key: &str) -> bool {
        self.table.borrow().slots.owner(slot(key)) == Some(node)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// One connection to each node, as they were at one moment.
pub(crate) struct Pinned {
    slots: Arc<Slots>,
    connections: HashMap<Address, Connection>,
}

impl Pinned {
    /// The node that owned a key at that moment, and the connection to it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if there was none.
    pub(crate) fn owner(
        &self,
        key: impl FnOnce() -> String,
    ) -> Result<(&Address, &Connection), StoreError> {
        owner(&self.slots, &self.connections, key)
    }
}

/// The node that owns a key, and what belongs to that node.
fn owner<'a, T>(
    slots: &Slots,
    nodes: &'a HashMap<Address, T>,
    key: impl FnOnce() -> String,
) -> Result<(&'a Address, &'a T), StoreError> {
    let owner = slots
        .only_owner()
        .or_else(|| slots.owner(slot(&key())))
        .and_then(|owner| nodes.get_key_value(owner));
    owner.ok_or_else(|| unavailable("there is no connection to the server of this key"))
}

/// Finds out whether the nodes of enough slots can be used, and publishes it.
fn update_available(
    table: &watch::Receiver<Arc<Table>>,
    available: &watch::Sender<bool>,
    share: f64,
) {
    let table = table.borrow().clone();
    let is_ready = |owner: &Address| {
        let node = table.nodes.get(owner);
        node.is_some_and(|node| node.main().is_ready())
    };
    let now = is_enough(table.slots.count(is_ready), share);
    available.send_if_modified(|known| std::mem::replace(known, now) != now);
}

/// Does the same again whenever a link or the table has changed.
async fn keep_available_updated(
    mut changed: watch::Receiver<()>,
    mut table: watch::Receiver<Arc<Table>>,
    available: watch::Sender<bool>,
    share: f64,
) -> Infallible {
    loop {
        let ended = tokio::select! {
            changed = changed.changed() => changed.is_err(),
            changed = table.changed() => changed.is_err(),
        };
        if ended {
            // The senders are gone, so this task is about to be aborted, too.
            std::future::pending::<()>().await;
        }
        update_available(&table, &available, share);
    }
}
