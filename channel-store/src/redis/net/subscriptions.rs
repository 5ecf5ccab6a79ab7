//! The topics that a feed is subscribed to, and over which connection to which node.
//!
//! Each topic is subscribed at the node that owns its slot. A message of a topic counts only if it comes over the
//! connection that was asked last to subscribe to it. So no message of an earlier connection is taken for a new one. When a
//! node refuses or drops a topic because its slot moves, the topic is unplaced until the slots have been read again.
//!
//! Each connection is also subscribed to a topic of its own, its echo topic, and publishes to it once a second. So a server that
//! answers, but does not deliver, is found and its connection is replaced.

use super::address::Address;
use super::connection::{CHECK_INTERVAL, Connection, Ended};
use super::link::Subscriber;
use super::reply::{is_redirect, number};
use super::slots::{Slots, slot};
use super::unsolicited::DROPPED;
use crate::error::StoreError;
use crate::probe::{MOST_SETS, ProbePoint};
use crate::server::FeedConnection;
use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

/// Topics that one round of commands subscribes to. It bounds how long other commands wait.
const CHUNK: usize = 500;
/// Nonces that are remembered for each node. That is more than there are probes at once.
const NONCES: usize = 256;

/// Takes what is published to one topic. Its methods are called on a connection's own task: they must neither wait nor block.
pub(crate) trait Listener: Send + Sync + 'static {
    /// The server has confirmed the subscription, for the first time or again. What was published before may be missing.
    fn subscribed(&self, _connection: &FeedConnection) {}

    /// A message has arrived.
    fn message(&self, connection: &FeedConnection, content: Vec<u8>);

    /// True if nobody needs the messages any more.
    fn is_closed(&self) -> bool {
        false
    }
}

/// The longest wait for an echo. One is sent in each [`CHECK_INTERVAL`].
const ECHO_TIME: Duration = Duration::from_millis(1_500);
/// The topic of the echo that this number names. Numbers are random, so that no two connections share a topic.
type EchoTopic = Box<dyn Fn(u64) -> String + Send + Sync>;
/// The nonce in a message that somebody else has published to an echo topic, if it has one.
type EchoNonce = fn(Vec<u8>) -> Option<u64>;

/// Everything that a feed is subscribed to.
pub(crate) struct Subscriptions {
    echo_topic: EchoTopic,
    echo_nonce: EchoNonce,
    state: Mutex<State>,
    /// Notified when something has arrived on an echo topic.
    echo_arrived: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    slots: Arc<Slots>,
    subscriptions: HashMap<Arc<str>, Subscription>,
    /// Topics that no connection is subscribed to at present, although they are wanted.
    unplaced: HashSet<Arc<str>>,
    /// The present connection to each node.
    nodes: HashMap<Address, NodeState>,
}

struct Subscription {
    listener: Arc<dyn Listener>,
    slot: u16,
    /// The number of the connection that was asked last; 0 if there is none.
    connection: u64,
}

struct NodeState {
    connection: FeedConnection,
    /// Topics to subscribe to or to unsubscribe from, which was not done yet.
    changes: HashSet<Arc<str>>,
    changed: Arc<Notify>,
    echo: Echo,
}

/// The topic of a connection's own.
#[derive(Default)]
struct Echo {
    topic: Arc<str>,
    /// The number that names the topic.
    set: u64,
    /// The number of the last message that was sent, and of the last one that came back.
    sent: u64,
    received: u64,
    /// The last [`NONCES`] nonces that others have published here.
    nonces: VecDeque<u64>,
    /// Why the server does not let this connection publish.
    refusal: Option<String>,
}

impl State {
    /// Makes the connection to the node that owns a topic's slot look at the topic again.
    fn change(&mut self, topic: Arc<str>, slot: u16) {
        let owner = self.slots.owner(slot);
        // Without a connection there is nothing to do: the next one begins with all topics.
        if let Some(node) = owner.and_then(|owner| self.nodes.get_mut(owner)) {
            node.changes.insert(topic);
            node.changed.notify_one();
        }
    }
}

impl Subscriptions {
    /// `echo_topic` names echo topics, and `echo_nonce` reads what others publish to them.
    pub(crate) fn new(
        echo_topic: impl Fn(u64) -> String + Send + Sync + 'static,
        echo_nonce: EchoNonce,
    ) -> Self {
        Self {
            echo_topic: Box::new(echo_topic),
            echo_nonce,
            state: Mutex::default(),
            echo_arrived: watch::Sender::default(),
        }
    }

    /// Where a probe would be heard now: at each node to which there is a connection that delivers.
    pub(crate) fn probe_points(&self) -> Vec<ProbePoint> {
        let state = self.state.lock();
        let delivering = state.nodes.iter().filter(|(_, it)| it.echo.received > 0);
        let points = delivering.filter_map(|(address, node)| {
            let owner = state.slots.owner(slot(&node.echo.topic));
            (owner == Some(address)).then(|| ProbePoint {
                set: node.echo.set,
                slots: state.slots.count(|owner| owner == address),
                server: address.to_string(),
                lifetime: node.connection.lifetime.clone(),
            })
        });
        points.take(MOST_SETS).collect()
    }

    /// Returns whether a nonce, which was published before this call, has come to the echo topic of this set. A connection
    /// that delivers nothing at all says nothing about the nonce. So it counts as missing only when an echo that was sent
    /// after the call has come back. `None`: none has within [`ECHO_TIME`], or no connection is subscribed to that topic
    /// any more.
    pub(crate) async fn hears(&self, set: u64, nonce: u64) -> Option<bool> {
        let mut arrived = self.echo_arrived.subscribe();
        let look = || {
            let state = self.state.lock();
            let mut echoes = state.nodes.values().map(|it| &it.echo);
            let echo = echoes.find(|it| it.set == set && !it.topic.is_empty())?;
            Some((echo.nonces.contains(&nonce), echo.sent, echo.received))
        };
        let (_, asked, _) = look()?;
        let until = Instant::now() + ECHO_TIME;
        loop {
            let (is_heard, _, received) = look()?;
            if is_heard || received > asked {
                return Some(is_heard);
            }
            timeout_at(until, arrived.changed()).await.ok()?.ok()?;
        }
    }

    /// Subscribes to a topic from now on. An earlier listener of the same topic gets nothing any more.
    pub(crate) fn subscribe(&self, topic: String, listener: Arc<dyn Listener>) {
        let topic: Arc<str> = topic.into();
        let slot = slot(&topic);
        let mut state = self.state.lock();
        let earlier = match state.subscriptions.get_mut(&topic) {
            Some(subscription) => Some(std::mem::replace(&mut subscription.listener, listener)),
            None => {
                let subscription = Subscription {
                    listener,
                    slot,
                    connection: 0,
                };
                state.subscriptions.insert(topic.clone(), subscription);
                None
            }
        };
        state.change(topic, slot);
        drop(state);
        // Dropped without the lock: what a listener does then is unknown here.
        drop(earlier);
    }

    /// Unsubscribes from a topic.
    pub(crate) fn unsubscribe(&self, topic: &str) {
        let mut state = self.state.lock();
        let removed = state.subscriptions.remove_entry(topic);
        if let Some((topic, subscription)) = &removed {
            state.unplaced.remove(topic);
            state.change(topic.clone(), subscription.slot);
        }
        drop(state);
    }

    /// Unsubscribes from all topics whose messages nobody needs any more.
    pub(crate) fn unsubscribe_closed(&self) {
        let is_closed = |(_, it): &(&Arc<str>, &Subscription)| it.listener.is_closed();
        let closed: Vec<_> = {
            let state = self.state.lock();
            let closed = state.subscriptions.iter().filter(is_closed);
            closed.map(|(topic, _)| topic.clone()).collect()
        };
        for topic in closed {
            self.unsubscribe(&topic);
        }
    }

    /// From now on this is the node's connection. All topics of the node have to be subscribed on it.
    fn begin(&self, address: &Address, connection: &Connection) -> Arc<Notify> {
        let changed = Arc::new(Notify::new());
        let mut state = self.state.lock();
        let is_nodes = |it: &Subscription| state.slots.owner(it.slot) == Some(address);
        let topics = state.subscriptions.iter().filter(|(_, it)| is_nodes(it));
        let node = NodeState {
            connection: FeedConnection {
                number: connection.number,
                lifetime: connection.lifetime.clone(),
            },
            changes: topics.map(|(topic, _)| topic.clone()).collect(),
            changed: changed.clone(),
            echo: Echo::default(),
        };
        state.nodes.insert(address.clone(), node);
        changed
    }

    /// The connection is closed.
    fn end(&self, address: &Address, number: u64) {
        let mut state = self.state.lock();
        let present = state.nodes.get(address);
        if present.is_some_and(|it| it.connection.number == number) {
            state.nodes.remove(address);
        }
    }

    /// What to do next on a connection: topics to subscribe to, and topics to unsubscribe from. A topic that changed several
    /// times appears once, in its last state. The order of different topics does not matter.
    fn changes(&self, address: &Address, number: u64) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let mut state = self.state.lock();
        let State {
            slots,
            subscriptions,
            unplaced,
            nodes,
        } = &mut *state;
        let Some(node) = nodes.get_mut(address) else {
            return Default::default();
        };
        let topics: Vec<_> = node.changes.iter().take(CHUNK).cloned().collect();
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        for topic in topics {
            node.changes.remove(&topic);
            match subscriptions.get_mut(&topic) {
                None => unwanted.push(topic),
                Some(subscription) if slots.owner(subscription.slot) == Some(address) => {
                    subscription.connection = number;
                    unplaced.remove(&topic);
                    wanted.push(topic);
                }
                // It belongs to another node by now, whose connection does the same.
                Some(_) => {}
            }
        }
        (wanted, unwanted)
    }

    /// Notes that the node of this connection does not own these topics any more.
    fn unplace(&self, number: u64, topics: &[Arc<str>]) {
        let mut state = self.state.lock();
        for topic in topics {
            if let Some(subscription) = state.subscriptions.get_mut(topic)
                && subscription.connection == number
            {
                subscription.connection = 0;
                state.unplaced.insert(topic.clone());
            }
        }
    }

    /// Subscribes to the node's topics over a connection, and follows every change. Returns when the connection has failed.
    async fn keep_subscribed(
        &self,
        address: &Address,
        connection: &Connection,
        changed: &Notify,
        ready: &(dyn Fn() + Send + Sync),
    ) -> Result<Infallible, StoreError> {
        loop {
            let (wanted, unwanted) = self.changes(address, connection.number);
            if wanted.is_empty() && unwanted.is_empty() {
                if self.has_delivered(address) {
                    ready();
                }
                changed.notified().await;
            }
            if !wanted.is_empty() {
                let moved = connection.subscribe(&wanted).await?;
                if !moved.is_empty() {
                    self.unplace(connection.number, &moved);
                    connection.report_moved_slots();
                }
            }
            if !unwanted.is_empty() {
                connection.unsubscribe(&unwanted).await?;
            }
        }
    }

    /// Publishes to the connection's echo topic for ever. Returns when a message did not come back.
    async fn keep_checking(
        &self,
        address: &Address,
        connection: &Connection,
    ) -> Result<Infallible, Ended> {
        let mut next = Instant::now();
        loop {
            next += CHECK_INTERVAL;
            let sent = self.send_echo(address, connection).await;
            let sent = sent.map_err(Ended::Failed)?;
            sleep_until(next).await;
            let state = self.state.lock();
            let received = state.nodes.get(address).map(|it| it.echo.received);
            if sent.is_some() && sent > received {
                return Err(Ended::Deaf);
            }
        }
    }

    /// Publishes one message to the echo topic and returns its number. `None`: that was not possible, because slots are
    /// being moved.
    async fn send_echo(
        &self,
        address: &Address,
        connection: &Connection,
    ) -> Result<Option<u64>, StoreError> {
        let (topic, sent, is_new) = {
            let mut state = self.state.lock();
            let State { slots, nodes, .. } = &mut *state;
            let Some(echo) = nodes.get_mut(address).map(|it| &mut it.echo) else {
                return Ok(None);
            };
            let is_nodes = |topic: &str| slots.owner(slot(topic)) == Some(address);
            let is_new = echo.topic.is_empty() || !is_nodes(&echo.topic);
            if is_new {
                // There are 16,384 slots, so a random number soon gives one of the node's.
                let mut some = (0..1_000_000).map(|_| fastrand::u64(..));
                let Some(set) = some.find(|set| is_nodes(&(self.echo_topic)(*set))) else {
                    return Ok(None);
                };
                echo.set = set;
                echo.topic = (self.echo_topic)(set).into();
            }
            echo.sent += 1;
            (echo.topic.clone(), echo.sent, is_new)
        };
        if is_new {
            connection.subscribe(std::slice::from_ref(&topic)).await?;
        }
        let mut publish = redis::cmd(connection.publish_command());
        publish.arg(&*topic).arg(sent);
        let reply = connection.request_one_unchecked(publish).await?;
        let refusal = match &reply {
            Value::ServerError(error) if !is_redirect(error) => {
                Some(format!("it refuses to publish ({error})"))
            }
            _ => None,
        };
        let is_refused = refusal.is_some();
        if let Some(node) = self.state.lock().nodes.get_mut(address) {
            node.echo.refusal = refusal;
        }
        let is_sent = connection.check(std::slice::from_ref(&reply)).is_ok();
        if is_sent && !is_refused {
            return Ok(Some(sent));
        }
        if !is_refused && let Some(node) = self.state.lock().nodes.get_mut(address) {
            // The next message gets another topic.
            node.echo.topic = Arc::default();
        }
        Ok(None)
    }

    /// True once the node's connection has delivered an echo.
    fn has_delivered(&self, address: &Address) -> bool {
        let state = self.state.lock();
        state
            .nodes
            .get(address)
            .is_some_and(|it| it.echo.received > 0)
    }
}

#[async_trait]
impl Subscriber for Subscriptions {
    fn refusal(&self, node: &Address) -> Option<String> {
        self.state.lock().nodes.get(node)?.echo.refusal.clone()
    }

    fn assign(&self, slots: &Arc<Slots>) {
        let mut state = self.state.lock();
        let before = std::mem::replace(&mut state.slots, slots.clone());
        let mut topics: Vec<_> = state.unplaced.iter().cloned().collect();
        if !Arc::ptr_eq(&before, slots) {
            let moved = |it: &Subscription| before.owner(it.slot) != slots.owner(it.slot);
            let moved = state.subscriptions.iter().filter(|(_, it)| moved(it));
            topics.extend(moved.map(|(topic, _)| topic.clone()));
        }
        for topic in topics {
            if let Some(slot) = state.subscriptions.get(&topic).map(|it| it.slot) {
                state.change(topic, slot);
            }
        }
    }

    fn push(&self, node: &Address, number: u64, push: PushInfo) {
        let mut data = push.data.into_iter();
        let (Some(Value::BulkString(topic)), Some(content)) = (data.next(), data.next()) else {
            return;
        };
        let Ok(topic) = std::str::from_utf8(&topic) else {
            return;
        };
        let mut state = self.state.lock();
        let State {
            subscriptions,
            unplaced,
            nodes,
            ..
        } = &mut *state;
        let Some(node) = nodes.get_mut(node) else {
            return;
        };
        if node.connection.number != number {
            return;
        }
        if *node.echo.topic == *topic {
            node.echo.take(&push.kind, content, self.echo_nonce);
            node.changed.notify_one();
            drop(state);
            self.echo_arrived.send_replace(());
            return;
        }
        // A message may still arrive after the topic was given up, or given to another connection.
        let Some(subscription) = subscriptions.get_mut(topic) else {
            return;
        };
        if subscription.connection != number {
            return;
        }
        let (connection, listener) = (node.connection.clone(), subscription.listener.clone());
        match (push.kind, content) {
            (PushKind::Message | PushKind::SMessage, Value::BulkString(content)) => {
                drop(state);
                listener.message(&connection, content);
            }
            (PushKind::Subscribe | PushKind::SSubscribe, _) => {
                drop(state);
                listener.subscribed(&connection);
            }
            (PushKind::Other(kind), _) if kind == DROPPED => {
                subscription.connection = 0;
                unplaced.insert(topic.into());
                drop(state);
            }
            _ => drop(state),
        }
    }

    async fn run(
        &self,
        node: &Address,
        connection: &Connection,
        ready: &(dyn Fn() + Send + Sync),
    ) -> Ended {
        let changed = self.begin(node, connection);
        let _ends = EndOnDrop {
            subscriptions: self,
            node,
            number: connection.number,
        };
        tokio::select! {
            Err(error) = self.keep_subscribed(node, connection, &changed, ready) => Ended::Failed(error),
            Err(ended) = self.keep_checking(node, connection) => ended,
        }
    }
}

impl Echo {
    /// Takes a push of the echo topic.
    fn take(&mut self, kind: &PushKind, content: Value, nonce: EchoNonce) {
        match kind {
            PushKind::Message | PushKind::SMessage => {
                if let Some(received) = number(&content) {
                    self.received = received;
                } else if let Value::BulkString(content) = content
                    && let Some(nonce) = nonce(content)
                {
                    if self.nonces.len() >= NONCES {
                        self.nonces.pop_front();
                    }
                    self.nonces.push_back(nonce);
                }
            }
            PushKind::Other(kind) if kind == DROPPED => self.topic = Arc::default(),
            _ => {}
        }
    }
}

/// Ends the use of a connection when it is dropped.
struct EndOnDrop<'a> {
    subscriptions: &'a Subscriptions,
    node: &'a Address,
    number: u64,
}

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.subscriptions.end(self.node, self.number);
    }
}
