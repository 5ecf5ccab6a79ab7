//! What a feed follows, and by which connection to which node.
//!
//! Each topic is followed at the node that owns its slot. What a connection brings counts only while it is the one that
//! the topic was asked of last: so nothing of an earlier one passes as news. A topic that its node refuses or drops,
//! because its slot goes elsewhere, is adrift until the slots have been looked at again.
//!
//! Each connection also follows a topic of its own and speaks on it once a second: a server that answers, but does not
//! deliver, is left like one that is silent.

use super::connection::{Connection, Ended, PROBE_INTERVAL};
use super::keys::Keys;
use super::link::Attendant;
use super::location::Address;
use super::reply::{Run, is_redirect, number};
use super::slots::{Slots, slot};
use super::unasked::DROPPED;
use crate::name::{ChannelName, UserId};
use crate::probe::{MOST_SETS, ProbePoint, nonce};
use crate::publication::Epoch;
use crate::registry::HINTS;
use crate::{FeedConnection, FeedSink, StoreError};
use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{Pipeline, PushInfo, PushKind, Value};
use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

/// Topics that a connection is told of at once: bounds how long others wait for it.
const CHUNK: usize = 500;
/// Probes' nonces that are remembered for each node: more than there are probes at once.
const NONCES: usize = 256;

/// What is followed.
pub(super) struct Topics {
    sink: Arc<dyn FeedSink>,
    keys: Keys,
    state: Mutex<State>,
    /// A probe's publication has come.
    heard: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    slots: Arc<Slots>,
    followed: HashMap<Arc<str>, Followed>,
    /// Topics that nobody follows at present, though they are wanted.
    adrift: HashSet<Arc<str>>,
    /// The present connection to each node.
    nodes: HashMap<Address, Attended>,
}

struct Followed {
    to: Listener,
    slot: u16,
    /// The number of the connection that was told last; 0: none.
    by: u64,
    /// The last epoch seen: the next publication most likely has it too.
    epoch: Option<Epoch>,
}

/// Whom a topic's messages are for.
#[derive(Clone)]
enum Listener {
    /// The sink: they are publications.
    Channel(ChannelName),
    /// They are hints about users.
    Hints(mpsc::Sender<UserId>),
}

struct Attended {
    connection: FeedConnection,
    /// Topics whose change this connection has not been told.
    untold: HashSet<Arc<str>>,
    changed: Arc<Notify>,
    probe: Probe,
}

/// A topic of a connection's own.
#[derive(Default)]
struct Probe {
    topic: Arc<str>,
    /// Names the topic, and the keys that chat is asked to publish at.
    set: u64,
    /// How often was spoken, and the last of it that has come.
    said: u64,
    heard: u64,
    /// Nonces that came in publications, the last [`NONCES`].
    nonces: VecDeque<u64>,
    /// Why the server does not let this connection speak.
    refused: Option<String>,
}

impl State {
    /// Lets the node that owns a topic's slot be told of it.
    fn tell(&mut self, topic: Arc<str>, slot: u16) {
        let owner = self.slots.owner(slot);
        // Without a connection that is all: the next one begins with everything.
        if let Some(attended) = owner.and_then(|owner| self.nodes.get_mut(owner)) {
            attended.untold.insert(topic);
            attended.changed.notify_one();
        }
    }
}

impl Topics {
    pub(super) fn new(sink: Arc<dyn FeedSink>, keys: Keys) -> Self {
        Self {
            sink,
            keys,
            state: Mutex::default(),
            heard: watch::Sender::default(),
        }
    }

    /// Where probes can be heard now.
    pub(super) fn points(&self) -> Vec<ProbePoint> {
        let state = self.state.lock();
        let heard = state.nodes.iter().filter(|(_, it)| it.probe.heard > 0);
        let points = heard.filter_map(|(node, attended)| {
            let owner = state.slots.owner(slot(&attended.probe.topic));
            (owner == Some(node)).then(|| ProbePoint {
                set: attended.probe.set,
                slots: state.slots.count(|owner| owner == node),
                server: node.to_string(),
                lifetime: attended.connection.generation.clone(),
            })
        });
        points.take(MOST_SETS).collect()
    }

    /// Waits to hear a probe's publication; `None`: nobody listens to that set any more.
    pub(super) async fn hears(&self, set: u64, nonce: u64, within: Duration) -> Option<bool> {
        let mut heard = self.heard.subscribe();
        let has_heard = || {
            let state = self.state.lock();
            let mut probes = state.nodes.values().map(|it| &it.probe);
            let probe = probes.find(|it| it.set == set && !it.topic.is_empty())?;
            Some(probe.nonces.contains(&nonce))
        };
        let until = Instant::now() + within;
        loop {
            match has_heard() {
                Some(false) => {}
                known => return known,
            }
            if timeout_at(until, heard.changed()).await.is_err() {
                return has_heard();
            }
        }
    }

    /// Follows a channel from now on.
    pub(super) fn follow(&self, channel: &ChannelName) {
        let topic = self.keys.of(channel).topic();
        self.follow_topic(topic, || Listener::Channel(channel.clone()));
    }

    /// Hears hints on a topic from now on, and no longer those that nobody receives. Who listens last to a topic hears
    /// it; an earlier receiver ends.
    pub(super) fn listen(&self, topic: String) -> mpsc::Receiver<UserId> {
        let (sender, receiver) = mpsc::channel(HINTS);
        for topic in self.unheard() {
            self.leave_topic(&topic);
        }
        self.follow_topic(topic, || Listener::Hints(sender));
        receiver
    }

    /// Topics of hints whose receivers are gone.
    fn unheard(&self) -> Vec<Arc<str>> {
        let is_over = |to: &Listener| matches!(to, Listener::Hints(hints) if hints.is_closed());
        let state = self.state.lock();
        let over = state.followed.iter().filter(|(_, it)| is_over(&it.to));
        over.map(|(topic, _)| topic.clone()).collect()
    }

    fn follow_topic(&self, topic: String, to: impl FnOnce() -> Listener) {
        let topic: Arc<str> = topic.into();
        let slot = slot(&topic);
        let mut state = self.state.lock();
        let to = to();
        if let Some(followed) = state.followed.get_mut(&topic) {
            followed.to = to;
        } else {
            let followed = Followed {
                to,
                slot,
                by: 0,
                epoch: None,
            };
            state.followed.insert(topic.clone(), followed);
        }
        state.tell(topic, slot);
    }

    /// Follows it no longer.
    pub(super) fn leave(&self, channel: &ChannelName) {
        self.leave_topic(&self.keys.of(channel).topic());
    }

    fn leave_topic(&self, topic: &str) {
        let mut state = self.state.lock();
        if let Some((topic, followed)) = state.followed.remove_entry(topic) {
            state.adrift.remove(&topic);
            state.tell(topic, followed.slot);
        }
    }

    /// From now on this is the node's connection, and has to be told everything that is the node's.
    fn begin(&self, node: &Address, connection: &Connection) -> Arc<Notify> {
        let changed = Arc::new(Notify::new());
        let mut state = self.state.lock();
        let is_nodes = |followed: &Followed| state.slots.owner(followed.slot) == Some(node);
        let topics = state.followed.iter().filter(|(_, it)| is_nodes(it));
        let attended = Attended {
            connection: FeedConnection {
                number: connection.number,
                generation: connection.generation.clone(),
            },
            untold: topics.map(|(topic, _)| topic.clone()).collect(),
            changed: changed.clone(),
            probe: Probe::default(),
        };
        state.nodes.insert(node.clone(), attended);
        changed
    }

    /// The connection is none any more.
    fn end(&self, node: &Address, number: u64) {
        let mut state = self.state.lock();
        if state
            .nodes
            .get(node)
            .is_some_and(|it| it.connection.number == number)
        {
            state.nodes.remove(node);
        }
    }

    /// What the connection has to be told next: topics to follow, and topics not to. A topic that changed several times
    /// comes once, as it ended; the order between topics does not matter.
    fn changes(&self, node: &Address, number: u64) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let mut state = self.state.lock();
        let State {
            slots,
            followed,
            adrift,
            nodes,
        } = &mut *state;
        let Some(attended) = nodes.get_mut(node) else {
            return Default::default();
        };
        let topics: Vec<_> = attended.untold.iter().take(CHUNK).cloned().collect();
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        for topic in topics {
            attended.untold.remove(&topic);
            match followed.get_mut(&topic) {
                None => unwanted.push(topic),
                Some(followed) if slots.owner(followed.slot) == Some(node) => {
                    followed.by = number;
                    adrift.remove(&topic);
                    wanted.push(topic);
                }
                // Another node's by now, which has been told.
                Some(_) => {}
            }
        }
        (wanted, unwanted)
    }

    /// This connection does not follow these topics any more.
    fn lose(&self, number: u64, topics: &[Arc<str>]) {
        let mut state = self.state.lock();
        for topic in topics {
            if let Some(followed) = state.followed.get_mut(topic)
                && followed.by == number
            {
                followed.by = 0;
                state.adrift.insert(topic.clone());
            }
        }
    }

    /// Tells a connection what is followed, and what changes. Returns when it has failed.
    async fn keep_telling(
        &self,
        node: &Address,
        connection: &Connection,
        changed: &Notify,
        ready: &(dyn Fn() + Send + Sync),
    ) -> Result<Infallible, StoreError> {
        loop {
            let (wanted, unwanted) = self.changes(node, connection.number);
            if wanted.is_empty() && unwanted.is_empty() {
                if self.has_heard(node) {
                    ready();
                }
                changed.notified().await;
            }
            if !wanted.is_empty() {
                let moved = connection.subscribe(&wanted).await?;
                if !moved.is_empty() {
                    self.lose(connection.number, &moved);
                    connection.stir();
                }
            }
            if !unwanted.is_empty() {
                connection.unsubscribe(&unwanted).await?;
            }
        }
    }

    /// Speaks on the connection's own topic for ever. Returns when what was said has not come back.
    async fn keep_probing(
        &self,
        node: &Address,
        connection: &Connection,
    ) -> Result<Infallible, Ended> {
        let mut next = Instant::now();
        loop {
            next += PROBE_INTERVAL;
            let said = self.speak(node, connection).await.map_err(Ended::Failed)?;
            sleep_until(next).await;
            let state = self.state.lock();
            let heard = state.nodes.get(node).map(|it| it.probe.heard);
            if said.is_some() && said > heard {
                return Err(Ended::Deaf);
            }
        }
    }

    /// Speaks once; `None` where that was not possible, because slots are on their way.
    async fn speak(
        &self,
        node: &Address,
        connection: &Connection,
    ) -> Result<Option<u64>, StoreError> {
        let (topic, said, is_new) = {
            let mut state = self.state.lock();
            let State { slots, nodes, .. } = &mut *state;
            let Some(probe) = nodes.get_mut(node).map(|it| &mut it.probe) else {
                return Ok(None);
            };
            let is_nodes = |topic: &str| slots.owner(slot(topic)) == Some(node);
            let is_new = probe.topic.is_empty() || !is_nodes(&probe.topic);
            if is_new {
                // Of 16,384 slots each is met soon.
                let topic = |set: u64| self.keys.of_probe(set).topic();
                let mut some = (0..1_000_000).map(|_| fastrand::u64(..));
                let Some(set) = some.find(|set| is_nodes(&topic(*set))) else {
                    return Ok(None);
                };
                probe.set = set;
                probe.topic = topic(set).into();
            }
            probe.said += 1;
            (probe.topic.clone(), probe.said, is_new)
        };
        if is_new {
            connection.subscribe(std::slice::from_ref(&topic)).await?;
        }
        let mut publish = Pipeline::with_capacity(1);
        publish
            .cmd(connection.publish_word())
            .arg(&*topic)
            .arg(said);
        let answer = connection.ask(&publish, 0, 1).await?;
        let refused = match answer.first() {
            Some(Value::ServerError(error)) if !is_redirect(error) => {
                Some(format!("it refuses to publish ({error})"))
            }
            _ => None,
        };
        let is_refused = refused.is_some();
        if let Some(attended) = self.state.lock().nodes.get_mut(node) {
            attended.probe.refused = refused;
        }
        if connection.examine(&answer).is_ok() && !is_refused {
            return Ok(Some(said));
        }
        if !is_refused {
            self.forget_probe(node);
        }
        Ok(None)
    }

    /// True once the node's connection has been heard to deliver.
    fn has_heard(&self, node: &Address) -> bool {
        let state = self.state.lock();
        state.nodes.get(node).is_some_and(|it| it.probe.heard > 0)
    }

    /// The next one gets a topic of its own.
    fn forget_probe(&self, node: &Address) {
        if let Some(attended) = self.state.lock().nodes.get_mut(node) {
            attended.probe.topic = Arc::default();
        }
    }
}

#[async_trait]
impl Attendant for Topics {
    fn trouble(&self, node: &Address) -> Option<String> {
        self.state.lock().nodes.get(node)?.probe.refused.clone()
    }

    fn assign(&self, slots: &Arc<Slots>) {
        let mut state = self.state.lock();
        let before = std::mem::replace(&mut state.slots, slots.clone());
        let mut topics: Vec<_> = state.adrift.iter().cloned().collect();
        if !Arc::ptr_eq(&before, slots) {
            let moved =
                |followed: &Followed| before.owner(followed.slot) != slots.owner(followed.slot);
            let followed = state.followed.iter().filter(|(_, it)| moved(it));
            topics.extend(followed.map(|(topic, _)| topic.clone()));
        }
        for topic in topics {
            if let Some(slot) = state.followed.get(&topic).map(|it| it.slot) {
                state.tell(topic, slot);
            }
        }
    }

    fn push(&self, node: &Address, number: u64, info: PushInfo) {
        let mut data = info.data.into_iter();
        let (Some(Value::BulkString(topic)), Some(content)) = (data.next(), data.next()) else {
            return;
        };
        let Ok(topic) = std::str::from_utf8(&topic) else {
            return;
        };
        let mut state = self.state.lock();
        let State {
            followed,
            adrift,
            nodes,
            ..
        } = &mut *state;
        let Some(attended) = nodes.get_mut(node) else {
            return;
        };
        if attended.connection.number != number {
            return;
        }
        if *attended.probe.topic == *topic {
            let is_probe = attended.probe.take(&info.kind, content);
            attended.changed.notify_one();
            drop(state);
            if is_probe {
                self.heard.send_replace(());
            }
            return;
        }
        // Not followed any more, or elsewhere: what was under way.
        let Some((topic, _)) = followed.get_key_value(topic) else {
            return;
        };
        let topic = topic.clone();
        let Some(followed) = followed.get_mut(&topic).filter(|it| it.by == number) else {
            return;
        };
        let (connection, to) = (attended.connection.clone(), followed.to.clone());
        match (info.kind, to, content) {
            (PushKind::Subscribe | PushKind::SSubscribe, Listener::Channel(channel), _) => {
                drop(state);
                self.sink.subscribed(&connection, &channel);
            }
            (
                PushKind::Message | PushKind::SMessage,
                Listener::Hints(hints),
                Value::BulkString(content),
            ) => {
                let user = String::from_utf8(content).ok();
                if let Some(user) = user.and_then(|user| UserId::new(user).ok()) {
                    // Where nobody keeps up, or is left, it is lost.
                    let _ = hints.try_send(user);
                }
            }
            (
                PushKind::Message | PushKind::SMessage,
                Listener::Channel(channel),
                Value::BulkString(content),
            ) => {
                // What is no publication leaves a gap at most, and the next publication shows it.
                let Some(mut run) = Run::parse(content, followed.epoch.as_ref()) else {
                    return;
                };
                followed.epoch = Some(run.epoch().clone());
                drop(state);
                self.sink.publications(&connection, &channel, &mut run);
            }
            (PushKind::Other(kind), _, _) if kind == DROPPED => {
                followed.by = 0;
                adrift.insert(topic);
            }
            _ => {}
        }
    }

    async fn attend(
        &self,
        node: &Address,
        connection: &Connection,
        ready: &(dyn Fn() + Send + Sync),
    ) -> Ended {
        let changed = self.begin(node, connection);
        let _attended = Attendance {
            topics: self,
            node,
            number: connection.number,
        };
        tokio::select! {
            Err(error) = self.keep_telling(node, connection, &changed, ready) => Ended::Failed(error),
            Err(ended) = self.keep_probing(node, connection) => ended,
        }
    }
}

impl Probe {
    /// Takes a push of the probe's own topic; true if it is a publication, which chat was asked for.
    fn take(&mut self, kind: &PushKind, content: Value) -> bool {
        match kind {
            PushKind::Message | PushKind::SMessage => {
                if let Some(heard) = number(&content) {
                    self.heard = heard;
                    return false;
                }
                let Value::BulkString(content) = content else {
                    return false;
                };
                let published = Run::parse(content, None).and_then(|mut run| run.next());
                let Some(nonce) = published.and_then(|it| nonce(it.payload.body())) else {
                    return false;
                };
                if self.nonces.len() >= NONCES {
                    self.nonces.pop_front();
                }
                self.nonces.push_back(nonce);
                return true;
            }
            PushKind::Other(kind) if kind == DROPPED => self.topic = Arc::default(),
            _ => {}
        }
        false
    }
}

/// Lasts as long as a connection is attended.
struct Attendance<'a> {
    topics: &'a Topics,
    node: &'a Address,
    number: u64,
}

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        self.topics.end(self.node, self.number);
    }
}
