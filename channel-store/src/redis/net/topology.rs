//! Which nodes there are, and which of them owns which slot.
//!
//! In a cluster this is asked once a second, and at once when there is a sign that it has changed. Any known node may
//! answer. A node that owns no slot any more is dropped together with its connections.

use super::address::{Address, OpenError};
use super::connection::{CHECK_INTERVAL, Connection};
use super::link::{Link, LinkOptions, Target};
use super::reply::text;
use super::slots::Slots;
use futures_util::future::{join_all, try_join_all};
use redis::{Pipeline, Value};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

/// A node that takes longer to tell the owners of the slots is passed over.
const ANSWER_TIME: Duration = Duration::from_millis(500);
/// The shortest pause before the slots are read again, however many signs there are.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// The primaries at one moment.
#[derive(Default)]
pub(super) struct Table {
    pub(super) slots: Arc<Slots>,
    pub(super) nodes: HashMap<Address, Arc<Node>>,
}

/// One primary.
pub(super) struct Node {
    /// The first link is for everything but reads. The others, if there are any, are for publishers.
    links: Vec<Link>,
    /// For reads of logs and lists. If a read breaks its connection, nothing else is lost with it.
    pub(super) reader: Link,
}

impl Node {
    /// The link for everything but reads.
    pub(super) fn main(&self) -> &Link {
        &self.links[0]
    }

    /// One of the links for publishers, or the link for everything if there are none.
    pub(super) fn for_publisher(&self, turn: usize) -> &Link {
        let for_publishers = self.links.len() - 1;
        let place = turn.checked_rem(for_publishers).map_or(0, |turn| turn + 1);
        &self.links[place]
    }
}

/// Keeps the table.
pub(super) struct Watcher {
    options: Arc<LinkOptions>,
    for_reads: Arc<LinkOptions>,
    publisher_connections: usize,
    /// The nodes in the operator's URL.
    seeds: Vec<Address>,
    /// Which node to ask next. It grows when another node than the last one should be asked.
    asked: usize,
    /// A server that answered that it belongs to no cluster.
    alone: Option<Address>,
    table: watch::Sender<Arc<Table>>,
}

impl Watcher {
    pub(super) fn new(
        options: Arc<LinkOptions>,
        for_reads: Arc<LinkOptions>,
        publisher_connections: usize,
        table: watch::Sender<Arc<Table>>,
    ) -> Self {
        Self {
            options,
            for_reads,
            publisher_connections,
            seeds: Vec::new(),
            asked: 0,
            alone: None,
            table,
        }
    }

    /// Opens a single node that owns all slots for ever.
    pub(super) async fn open_one(
        &self,
        node: Address,
        target: impl Fn() -> Target,
    ) -> Result<(), OpenError> {
        let slots = Arc::new(Slots::of_one(node.clone()));
        self.assign(&slots);
        let opened = self.open_node(&node, target).await?;
        let nodes = HashMap::from([(node, opened)]);
        self.table.send_replace(Arc::new(Table { slots, nodes }));
        Ok(())
    }

    /// Opens the nodes of a cluster that are known by now.
    pub(super) async fn open_cluster(&mut self, seeds: Vec<Address>) -> Result<(), OpenError> {
        self.seeds = seeds;
        let Some(slots) = self.read_slots().await else {
            if let Some(server) = self.alone.take() {
                let server = server.to_string();
                return Err(OpenError::NoCluster { server });
            }
            tracing::warn!("no node of the cluster answers");
            return Ok(());
        };
        let slots = Arc::new(slots);
        self.assign(&slots);
        let nodes = slots.nodes().into_iter().map(async |node| {
            let opened = self.open_node(node, || Target::Fixed(node.clone())).await?;
            Ok((node.clone(), opened))
        });
        let nodes = try_join_all(nodes).await?.into_iter().collect();
        self.table.send_replace(Arc::new(Table { slots, nodes }));
        Ok(())
    }

    async fn open_node(
        &self,
        node: &Address,
        target: impl Fn() -> Target,
    ) -> Result<Arc<Node>, OpenError> {
        let open = |options: &Arc<LinkOptions>| Link::open(node.clone(), target(), options.clone());
        let links = join_all((0..=self.publisher_connections).map(|_| open(&self.options)));
        let (links, reader) = tokio::join!(links, open(&self.for_reads));
        let links = links.into_iter().collect::<Result<_, _>>();
        Ok(Arc::new(Node {
            links: links.map_err(OpenError::Schema)?,
            reader: reader.map_err(OpenError::Schema)?,
        }))
    }

    /// Keeps the table of a cluster up to date.
    pub(super) async fn run(mut self, slots_moved: &Notify) -> Infallible {
        loop {
            let sign = timeout(CHECK_INTERVAL, slots_moved.notified()).await;
            if sign.is_ok() {
                // One node knows of a change that the others may not know yet. So another one is asked each time.
                self.asked += 1;
                sleep(SHORTEST_PAUSE.mul_f64(1.0 + fastrand::f64())).await;
            }
            if let Some(slots) = self.read_slots().await {
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
                let link = |options: &Arc<LinkOptions>| {
                    let target = Target::Fixed(address.clone());
                    Link::start(address.clone(), target, options.clone())
                };
                let links = (0..=self.publisher_connections).map(|_| link(&self.options));
                Arc::new(Node {
                    links: links.collect(),
                    reader: link(&self.for_reads),
                })
            });
            (address.clone(), node)
        };
        let nodes = slots.nodes().into_iter().map(node).collect();
        self.table.send_replace(Arc::new(Table { slots, nodes }));
    }

    fn assign(&self, slots: &Arc<Slots>) {
        if let Some(subscriber) = &self.options.subscriber {
            subscriber.assign(slots);
        }
    }

    /// Reads the slots from the first node that answers. The node that answered last is asked first.
    async fn read_slots(&mut self) -> Option<Slots> {
        let known = self.table.borrow().clone();
        let mut nodes: Vec<_> = known.nodes.keys().cloned().collect();
        nodes.sort_by_cached_key(ToString::to_string);
        nodes.extend(self.seeds.iter().cloned());
        for _ in 0..nodes.len() {
            let node = &nodes[self.asked % nodes.len()];
            let known_node = known.nodes.get(node);
            let present = known_node.and_then(|it| it.main().connection().ok());
            let answer = async {
                match present {
                    Some(connection) => ask(&connection, node).await,
                    None => {
                        let driven = self.options.connect(node, 0, None).await.ok()?;
                        ask(&driven.connection, node).await
                    }
                }
            };
            match timeout(ANSWER_TIME, answer).await {
                Ok(Some(Answer::Slots(slots))) => return Some(slots),
                Ok(Some(Answer::Alone)) => self.alone = Some(node.clone()),
                Ok(None) | Err(_) => {}
            }
            self.asked += 1;
        }
        None
    }
}

/// What a node tells about its cluster.
enum Answer {
    Slots(Slots),
    /// It belongs to no cluster.
    Alone,
}

/// Asks a node for the owners of the slots. A node that is cut off from the others does not know them.
async fn ask(connection: &Connection, node: &Address) -> Option<Answer> {
    let mut ask = Pipeline::with_capacity(2);
    ask.cmd("CLUSTER").arg("INFO");
    ask.cmd("CLUSTER").arg("SLOTS");
    let answers = connection.request_unchecked(&ask).await.ok()?;
    if let Some(Value::ServerError(error)) = answers.first() {
        let is_alone = error
            .details()
            .is_some_and(|it| it.contains("cluster support disabled"));
        return is_alone.then_some(Answer::Alone);
    }
    connection.check(&answers).ok()?;
    let [state, slots] = <[Value; 2]>::try_from(answers).ok()?;
    let is_whole = text(&state)?.lines().any(|line| line == "cluster_state:ok");
    let slots = Slots::parse(&slots, node).filter(|_| is_whole)?;
    Some(Answer::Slots(slots))
}
