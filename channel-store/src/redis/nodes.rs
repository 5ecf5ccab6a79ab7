//! The servers that hold the channels: one, or the primaries of a cluster, each behind links of its own.
//!
//! Which primary owns which slot is asked of any known node once a second, and at once when there is a sign that it has
//! changed. A node that owns nothing any more is let go, with its connections.

use super::connection::{Connection, PROBE_INTERVAL, publish_word};
use super::keys::Keys;
use super::link::{AnotherSchema, Attendant, Common, Link, Place};
use super::location::{Address, Kind, Location, OpenError};
use super::reply::{text, unavailable};
use super::sentinel::Sentinels;
use super::slots::{Slots, slot};
use super::turns::{Turn, Turns};
use crate::Shard;
use crate::name::ChannelName;
use crate::probe::{SLOTS, is_enough, several};
use crate::{StoreError, StoreOptions};
use futures_util::future::{join_all, try_join_all};
use redis::{Pipeline, Value};
use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// A node that takes longer to say who owns what is passed over.
const ANSWER_TIME: Duration = Duration::from_millis(500);
/// Between two looks at the slots, whatever the signs.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// What a store or feed knows of its servers.
pub(super) struct Nodes {
    keys: Keys,
    is_cluster: bool,
    table: watch::Receiver<Arc<Table>>,
    available: watch::Receiver<bool>,
    turns: Turns,
    watcher: AbortHandle,
    database: i64,
    attendant: Option<Arc<dyn Attendant>>,
}

/// A connection for one read, and the turn at it.
pub(super) struct Reading {
    pub(super) connection: Connection,
    _turn: Turn,
}

/// The primaries at one time.
#[derive(Default)]
struct Table {
    slots: Arc<Slots>,
    nodes: HashMap<Address, Arc<Node>>,
}

/// One primary.
struct Node {
    /// The first is for everything but reads; the others, if any, are for publishers that wait for replicas.
    links: Vec<Link>,
    /// For reads of logs and lists: whatever becomes of one, nothing else is lost with its connection.
    reader: Link,
}

impl Nodes {
    /// Connects to what stands at the URL. It succeeds while that is unreachable, too. `pool`: connections to each node
    /// beside the one for everything.
    pub(super) async fn open(
        url: &str,
        options: &StoreOptions,
        pool: usize,
        attendant: Option<Arc<dyn Attendant>>,
    ) -> Result<Self, OpenError> {
        let location = Location::parse(url, options.redis_ca.as_deref())?;
        let keys = Keys::new(&options.prefix);
        let is_cluster = matches!(location.kind, Kind::Cluster(_));
        let (changed, watch_changed) = watch::channel(());
        let stirred = is_cluster.then(Arc::<Notify>::default);
        let numbers = Arc::<AtomicU64>::default();
        let common = |reads_only, attendant| Common {
            reads_only,
            answer_time: options.redis_timeout,
            settings: location.settings.clone(),
            dial: location.dial.clone(),
            schema: keys.schema(),
            attendant,
            numbers: numbers.clone(),
            changed: changed.clone(),
            stirred: stirred.clone(),
        };
        let database = location.settings.db();
        let for_reads = Arc::new(common(true, None));
        let common = Arc::new(common(false, attendant.clone()));
        let (table, watch_table) = watch::channel(Arc::default());
        let (available, watch_available) = watch::channel(false);
        let mut watcher = Watcher {
            common: common.clone(),
            for_reads,
            pool,
            seeds: Vec::new(),
            asked: 0,
            lone: None,
            table,
        };
        match location.kind {
            Kind::Server(address) => {
                let place = || Place::Fixed(address.clone());
                watcher.open_one(address.clone(), place).await?;
            }
            Kind::Sentinels {
                sentinels,
                master,
                settings,
            } => {
                let node = Address::Tcp(master.clone(), 0);
                let place = || {
                    let (sentinels, master) = (sentinels.clone(), master.clone());
                    Place::Sentinels(Sentinels::new(sentinels, master, settings.clone()))
                };
                watcher.open_one(node, place).await?;
            }
            Kind::Cluster(seeds) => {
                watcher.seeds = seeds;
                watcher.open_cluster().await?;
            }
        }
        let share = options.ready_slots;
        judge(&watch_table, &available, share);
        let judging = keep_judging(watch_changed, watch_table.clone(), available, share);
        let watcher = async move {
            match &common.stirred {
                Some(stirred) => tokio::join!(judging, watcher.run(stirred)).0,
                None => judging.await,
            }
        };
        Ok(Self {
            keys,
            is_cluster,
            table: watch_table,
            available: watch_available,
            turns: Turns::default(),
            watcher: tokio::spawn(watcher).abort_handle(),
            database,
            attendant,
        })
    }

    /// The present connection to the node that owns a channel.
    pub(super) fn connection(&self, channel: &ChannelName) -> Result<Connection, StoreError> {
        self.connection_of(|| self.keys.of(channel).topic())
    }

    /// The present connection to the node that owns a key.
    pub(super) fn connection_of(
        &self,
        key: impl FnOnce() -> String,
    ) -> Result<Connection, StoreError> {
        let table = self.table.borrow().clone();
        let (_, node) = owner(&table.slots, &table.nodes, key)?;
        node.links[0].connection()
    }

    /// False: one server has all keys.
    pub(super) fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// The shard that holds a key: all keys of one node belong to one shard, and so do keys that nobody owns at present.
    /// Without a cluster it is always [`Shard::default`], which is no shard of a cluster.
    pub(super) fn shard_of(&self, key: impl FnOnce() -> String) -> Shard {
        if !self.is_cluster {
            return Shard::default();
        }
        let table = self.table.borrow().clone();
        // A hash is enough: two nodes with the same one would only wait for each other.
        let mut hasher = DefaultHasher::new();
        table.slots.owner(slot(&key())).hash(&mut hasher);
        Shard::new(hasher.finish() | 1)
    }

    /// A turn at reading, and the connection for it to the node that owns a key. Waits for others' turns as long as the
    /// caller does, and for the connection as long as for an answer.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if there is none, at once if the node can't be reached at all.
    pub(super) async fn reading(&self, key: String) -> Result<Reading, StoreError> {
        let turn = self.turns.take(&key).await;
        let table = self.table.borrow().clone();
        let (_, node) = owner(&table.slots, &table.nodes, || key)?;
        node.links[0].connection()?;
        Ok(Reading {
            connection: node.reader.next_connection().await?,
            _turn: turn,
        })
    }

    /// As [`Self::reading`], of a channel.
    pub(super) async fn reading_of(&self, channel: &ChannelName) -> Result<Reading, StoreError> {
        self.reading(self.keys.of(channel).topic()).await
    }

    /// The word that publishes to topics.
    pub(super) fn publish_word(&self) -> &'static str {
        publish_word(self.is_cluster)
    }

    /// The present connections to all nodes, for somebody to whom no later one is of use: to each node the one of this
    /// turn, if there is a pool.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if there is none at all.
    pub(super) fn pinned(&self, turn: usize) -> Result<Pinned, StoreError> {
        let table = self.table.borrow().clone();
        let connection = |(address, node): (&Address, &Arc<Node>)| {
            let pool = node.links.len() - 1;
            let link = turn.checked_rem(pool).map_or(0, |turn| turn + 1);
            Some((address.clone(), node.links[link].connection().ok()?))
        };
        let connections: HashMap<_, _> = table.nodes.iter().filter_map(connection).collect();
        if connections.is_empty() {
            return Err(unavailable("no connection"));
        }
        Ok(Pinned {
            slots: table.slots.clone(),
            connections,
        })
    }

    /// True while enough slots have a node, and that a connection that is ready for use.
    pub(super) fn available(&self) -> watch::Receiver<bool> {
        self.available.clone()
    }

    /// Says which nodes can't be used and why; `None`: all can be used.
    pub(super) fn why_unavailable(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let (table, attendant) = (self.table.clone(), self.attendant.clone());
        move || {
            let table = table.borrow().clone();
            let away = |(address, node): (&Address, &Arc<Node>)| {
                let link = &node.links[0];
                let refused = attendant.as_ref().and_then(|it| it.trouble(address));
                if link.is_ready() {
                    return refused.map(|words| format!("{address}: {words}"));
                }
                let words = refused.or_else(|| link.trouble());
                let words = words.unwrap_or_else(|| "no answer yet".to_owned());
                Some(format!("{address}: {words}"))
            };
            let mut nodes: Vec<_> = table.nodes.iter().filter_map(away).collect();
            nodes.sort();
            let ownerless = SLOTS - table.slots.count(|_| true);
            if ownerless > 0 {
                nodes.push(format!("{ownerless} of {SLOTS} slots have no server"));
            }
            several(nodes.into_iter())
        }
    }

    /// The number of the database.
    pub(super) fn database(&self) -> i64 {
        self.database
    }

    /// Each node with the number of its slots.
    pub(super) fn servers(&self) -> HashMap<Address, u32> {
        let table = self.table.borrow().clone();
        let slots = |address: &Address| table.slots.count(|owner| owner == address);
        let servers = table.nodes.keys();
        servers.map(|it| (it.clone(), slots(it))).collect()
    }

    /// True if a key is this node's.
    pub(super) fn owns(&self, node: &Address, key: &str) -> bool {
        self.table.borrow().slots.owner(slot(key)) == Some(node)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// One connection to each node, as it was at one time.
pub(super) struct Pinned {
    slots: Arc<Slots>,
    connections: HashMap<Address, Connection>,
}

impl Pinned {
    /// The node that owned a key, and the connection to it.
    pub(super) fn owner(
        &self,
        key: impl FnOnce() -> String,
    ) -> Result<(&Address, &Connection), StoreError> {
        owner(&self.slots, &self.connections, key)
    }

    /// The connection to the node that owned a channel.
    pub(super) fn connection(
        &self,
        keys: &Keys,
        channel: &ChannelName,
    ) -> Result<&Connection, StoreError> {
        let (_, connection) = self.owner(|| keys.of(channel).topic())?;
        Ok(connection)
    }
}

/// The node that owns a key, and what there is of it.
fn owner<'a, T>(
    slots: &Slots,
    nodes: &'a HashMap<Address, T>,
    key: impl FnOnce() -> String,
) -> Result<(&'a Address, &'a T), StoreError> {
    let owner = slots
        .only_owner()
        .or_else(|| slots.owner(slot(&key())))
        .and_then(|owner| nodes.get_key_value(owner));
    owner.ok_or_else(|| unavailable("no connection to the key's node"))
}

/// Says whether enough is at hand.
fn judge(table: &watch::Receiver<Arc<Table>>, available: &watch::Sender<bool>, share: f64) {
    let table = table.borrow().clone();
    let is_ready = |owner: &Address| {
        let node = table.nodes.get(owner);
        node.is_some_and(|node| node.links[0].is_ready())
    };
    let now = is_enough(table.slots.count(is_ready), share);
    available.send_if_modified(|known| std::mem::replace(known, now) != now);
}

/// Judges again whenever something has changed.
async fn keep_judging(
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
            // Nothing will change any more: the watcher is about to end, too.
            std::future::pending::<()>().await;
        }
        judge(&table, &available, share);
    }
}

/// Keeps the table.
struct Watcher {
    common: Arc<Common>,
    for_reads: Arc<Common>,
    pool: usize,
    /// Nodes that were named by the operator.
    seeds: Vec<Address>,
    /// Counts up when a node has to be asked that was not asked last.
    asked: usize,
    /// A server that answered, and is a node of no cluster.
    lone: Option<Address>,
    table: watch::Sender<Arc<Table>>,
}

impl Watcher {
    /// One node owns everything, for ever.
    async fn open_one(&self, node: Address, place: impl Fn() -> Place) -> Result<(), OpenError> {
        let slots = Arc::new(Slots::of_one(node.clone()));
        self.assign(&slots);
        let opened = self.open_node(&node, place).await?;
        let nodes = HashMap::from([(node, opened)]);
        self.table.send_replace(Arc::new(Table { slots, nodes }));
        Ok(())
    }

    /// Begins with what is known of a cluster by now.
    async fn open_cluster(&mut self) -> Result<(), OpenError> {
        let Some(slots) = self.look().await else {
            if let Some(server) = self.lone.take() {
                let server = server.to_string();
                return Err(OpenError::NoCluster { server });
            }
            tracing::warn!("no node of the cluster answers");
            return Ok(());
        };
        let slots = Arc::new(slots);
        self.assign(&slots);
        let nodes = slots.nodes().into_iter().map(async |node| {
            let opened = self.open_node(node, || Place::Fixed(node.clone())).await?;
            Ok((node.clone(), opened))
        });
        let nodes = try_join_all(nodes).await?.into_iter().collect();
        self.table.send_replace(Arc::new(Table { slots, nodes }));
        Ok(())
    }

    async fn open_node(
        &self,
        node: &Address,
        place: impl Fn() -> Place,
    ) -> Result<Arc<Node>, OpenError> {
        let open = |common: &Arc<Common>| Link::open(node.clone(), place(), common.clone());
        let links = join_all((0..=self.pool).map(|_| open(&self.common)));
        let (links, reader) = tokio::join!(links, open(&self.for_reads));
        let another = |AnotherSchema(found)| OpenError::Schema { found };
        let links = links.into_iter().collect::<Result<_, _>>();
        Ok(Arc::new(Node {
            links: links.map_err(another)?,
            reader: reader.map_err(another)?,
        }))
    }

    async fn run(mut self, stirred: &Notify) -> Infallible {
        loop {
            let sign = timeout(PROBE_INTERVAL, stirred.notified()).await;
            if sign.is_ok() {
                // Whoever gave the sign knows more, but not yet everybody: ask around.
                self.asked += 1;
                sleep(SHORTEST_PAUSE.mul_f64(1.0 + fastrand::f64())).await;
            }
            if let Some(slots) = self.look().await {
                self.take(slots);
            }
        }
    }

    /// Takes over a new table.
    fn take(&self, slots: Slots) {
        let known = self.table.borrow().clone();
        if slots == *known.slots {
            self.assign(&known.slots);
            return;
        }
        let slots = Arc::new(slots);
        self.assign(&slots);
        let node = |address: &Address| {
            let node = known.nodes.get(address).cloned().unwrap_or_else(|| {
                let link = |common: &Arc<Common>| {
                    let place = Place::Fixed(address.clone());
                    Link::start(address.clone(), place, common.clone())
                };
                Arc::new(Node {
                    links: (0..=self.pool).map(|_| link(&self.common)).collect(),
                    reader: link(&self.for_reads),
                })
            });
            (address.clone(), node)
        };
        let nodes = slots.nodes().into_iter().map(node).collect();
        self.table.send_replace(Arc::new(Table { slots, nodes }));
    }

    fn assign(&self, slots: &Arc<Slots>) {
        if let Some(attendant) = &self.common.attendant {
            attendant.assign(slots);
        }
    }

    /// Asks for the slots, the node that answered last first, until one answers.
    async fn look(&mut self) -> Option<Slots> {
        let known = self.table.borrow().clone();
        let mut nodes: Vec<_> = known.nodes.keys().cloned().collect();
        nodes.sort_by_cached_key(ToString::to_string);
        nodes.extend(self.seeds.iter().cloned());
        for _ in 0..nodes.len() {
            let node = &nodes[self.asked % nodes.len()];
            let present = known
                .nodes
                .get(node)
                .and_then(|it| it.links[0].connection().ok());
            let ask = async {
                match present {
                    Some(connection) => ask(&connection, node).await,
                    None => {
                        let live = self.common.connect(node, 0, None).await.ok()?;
                        ask(&live.connection, node).await
                    }
                }
            };
            match timeout(ANSWER_TIME, ask).await {
                Ok(Some(Told::Slots(slots))) => return Some(slots),
                Ok(Some(Told::Alone)) => self.lone = Some(node.clone()),
                Ok(None) | Err(_) => {}
            }
            self.asked += 1;
        }
        None
    }
}

/// Asks a node who owns what. One that is cut off from the others does not know.
async fn ask(connection: &Connection, node: &Address) -> Option<Told> {
    let mut ask = Pipeline::with_capacity(2);
    ask.cmd("CLUSTER").arg("INFO");
    ask.cmd("CLUSTER").arg("SLOTS");
    let answers = connection.ask(&ask, 0, 2).await.ok()?;
    if let Some(Value::ServerError(error)) = answers.first() {
        let is_alone = error
            .details()
            .is_some_and(|it| it.contains("cluster support disabled"));
        return is_alone.then_some(Told::Alone);
    }
    connection.examine(&answers).ok()?;
    let [state, slots] = <[Value; 2]>::try_from(answers).ok()?;
    let is_whole = text(&state)?.lines().any(|line| line == "cluster_state:ok");
    let slots = Slots::parse(&slots, node).filter(|_| is_whole)?;
    Some(Told::Slots(slots))
}

/// What a node says of its cluster.
enum Told {
    Slots(Slots),
    /// That it is in none.
    Alone,
}
