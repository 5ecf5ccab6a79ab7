//! One supervised connection: it is watched, and replaced for ever.
//!
//! A connection is handed out only when it is of use: the server is a primary, keeps this version's schema, and has
//! all scripts. One that breaks, falls silent, or belongs to a server that is no longer the primary it was is closed
//! for good before the next one is made, whatever still holds a clone of it: so nothing that was queued on it can take
//! effect after something that was said on a later one. The link never repeats a command.

use super::connection::{Connection, Ended, Live, Manner, OnPush, PROBE_INTERVAL};
use super::location::Address;
use super::reply::{self, is_redirect, unavailable};
use super::scripts::SCRIPTS;
use super::sentinel::Sentinels;
use super::slots::Slots;
use super::stream::Dial;
use super::unasked::DROPPED;
use crate::StoreError;
use async_trait::async_trait;
use futures_util::future::try_join_all;
use metrics::{counter, describe_counter};
use parking_lot::Mutex;
use redis::{Pipeline, PushInfo, PushKind, RedisConnectionInfo, RedisError, Value};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// The version of keys and scripts; a server that keeps another one is refused.
pub(super) const SCHEMA: &str = "1";
/// Asking sentinels, connecting, greeting and loading the scripts; more only if a single answer may take longer. With the
/// pauses it is short enough that after a failover the new primary is in use within a second or two, even if the old one
/// still takes connections.
const CONNECT_TIME: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

const LOST: &str = "redis_connections_lost_total";

/// What links of one store or feed have in common: those that are for everything, or those that are for reads alone.
pub(super) struct Common {
    pub(super) settings: RedisConnectionInfo,
    pub(super) dial: Dial,
    pub(super) schema: String,
    /// For reads alone.
    pub(super) reads_only: bool,
    /// How long a server may take to answer.
    pub(super) answer_time: Duration,
    pub(super) attendant: Option<Arc<dyn Attendant>>,
    /// Connections made so far.
    pub(super) numbers: Arc<AtomicU64>,
    /// A link has come up or gone down.
    pub(super) changed: watch::Sender<()>,
    /// With a cluster: slots may have moved.
    pub(super) stirred: Option<Arc<Notify>>,
}

impl Common {
    /// With a cluster: says that slots may have moved.
    fn stir(&self) {
        if let Some(stirred) = &self.stirred {
            stirred.notify_one();
        }
    }

    /// A connection on which nothing is prepared.
    pub(super) async fn connect(
        &self,
        address: &Address,
        number: u64,
        on_push: Option<OnPush>,
    ) -> Result<Live, NoConnection> {
        let stream = self.dial.connect(address).await?;
        let manner = Manner {
            number,
            answer_time: self.answer_time,
            on_push,
            stirred: self.stirred.clone(),
        };
        Ok(Live::begin(&self.settings, stream, manner).await?)
    }
}

/// Uses each connection of the links as long as it lives.
#[async_trait]
pub(super) trait Attendant: Send + Sync + 'static {
    /// What a node refuses to the attendant, in words.
    fn trouble(&self, node: &Address) -> Option<String>;

    /// From now on these own the slots; what a node has refused as not its own is to be asked for again.
    fn assign(&self, slots: &Arc<Slots>);

    /// Takes what a node's connection brings unasked, on the connection's own task.
    fn push(&self, node: &Address, number: u64, push: PushInfo);

    /// Uses a connection, says when it is ready for use, and returns when it is of none any more.
    async fn attend(
        &self,
        node: &Address,
        connection: &Connection,
        ready: &(dyn Fn() + Send + Sync),
    ) -> Ended;
}

/// Where a link's server is: looked up with each attempt.
pub(super) enum Place {
    Fixed(Address),
    Sentinels(Sentinels),
}

impl Place {
    async fn address(&self, dial: &Dial) -> Result<Address, NoConnection> {
        match self {
            Self::Fixed(address) => Ok(address.clone()),
            Self::Sentinels(sentinels) => {
                let primary = sentinels.primary(dial).await;
                primary.ok_or(NoConnection::NoSentinel)
            }
        }
    }

    /// Returns when sentinels name another primary than this: the server may not know yet that it is none.
    async fn left(&self, address: &Address, dial: &Dial) -> Address {
        let Self::Sentinels(sentinels) = self else {
            return pending().await;
        };
        loop {
            sleep(PROBE_INTERVAL).await;
            match sentinels.primary(dial).await {
                Some(primary) if primary != *address => return primary,
                _ => {}
            }
        }
    }
}

/// A supervised connection. Its supervisor ends when this is dropped.
pub(super) struct Link {
    current: watch::Receiver<Option<Connection>>,
    ready: watch::Receiver<bool>,
    patience: Duration,
    trouble: Arc<Mutex<Option<String>>>,
    supervisor: AbortHandle,
}

impl Link {
    /// Starts to connect.
    pub(super) fn start(node: Address, place: Place, common: Arc<Common>) -> Self {
        let (supervisor, link) = Supervisor::new(node, place, common);
        link(tokio::spawn(supervisor.run(None)).abort_handle())
    }

    /// Connects. That the server is unreachable is no error; that it keeps another version's schema is.
    pub(super) async fn open(
        node: Address,
        place: Place,
        common: Arc<Common>,
    ) -> Result<Self, AnotherSchema> {
        let (mut supervisor, link) = Supervisor::new(node, place, common);
        let first = match supervisor.connect().await {
            Err(NoConnection::Schema(found)) => return Err(AnotherSchema(found)),
            first => first,
        };
        Ok(link(
            tokio::spawn(supervisor.run(Some(first))).abort_handle(),
        ))
    }

    /// The present connection.
    pub(super) fn connection(&self) -> Result<Connection, StoreError> {
        let current = self.current.borrow().clone();
        current.ok_or_else(|| unavailable("no connection"))
    }

    /// The present connection, or the next one if it comes within the time that a server has for an answer.
    pub(super) async fn next_connection(&self) -> Result<Connection, StoreError> {
        let mut current = self.current.clone();
        let connected = timeout(self.patience, current.wait_for(Option::is_some)).await;
        let connection = match connected {
            Ok(Ok(connection)) => connection.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        connection.ok_or_else(|| unavailable("no connection for reads"))
    }

    /// True while there is a connection that is ready for use.
    pub(super) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Why there is no connection, if that is known.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

/// The version that was found instead of ours.
pub(super) struct AnotherSchema(pub(super) String);

/// Keeps a connection as long as it is good, then makes another.
struct Supervisor {
    node: Address,
    place: Place,
    common: Arc<Common>,
    current: watch::Sender<Option<Connection>>,
    ready: watch::Sender<bool>,
    /// Why the last connection, or the last try to make one, ended.
    trouble: Arc<Mutex<Option<String>>>,
    /// The policy that was warned of last.
    eviction: Option<String>,
}

impl Supervisor {
    fn new(
        node: Address,
        place: Place,
        common: Arc<Common>,
    ) -> (Self, impl FnOnce(AbortHandle) -> Link) {
        describe_counter!(LOST, "Connections to Redis that were left, by reason");
        for reason in Ended::LABELS {
            counter!(LOST, "reason" => reason).increment(0);
        }
        let (current, watch_current) = watch::channel(None);
        let (ready, watch_ready) = watch::channel(false);
        let patience = common.answer_time;
        let trouble = Arc::<Mutex<Option<String>>>::default();
        let supervisor = Self {
            trouble: trouble.clone(),
            node,
            place,
            common,
            current,
            ready,
            eviction: None,
        };
        let link = move |supervisor| Link {
            current: watch_current,
            ready: watch_ready,
            patience,
            trouble,
            supervisor,
        };
        (supervisor, link)
    }

    async fn run(mut self, first: Option<Result<(Live, Address), NoConnection>>) -> Infallible {
        let mut pause = FIRST_PAUSE;
        let mut known_failure = None;
        let mut outcome = match first {
            Some(outcome) => outcome,
            None => self.connect().await,
        };
        loop {
            match outcome {
                Ok((live, address)) => {
                    let number = live.connection.number;
                    tracing::info!(server = %address, number, "connected to Redis");
                    let began = Instant::now();
                    let reason = self.watch(live, &address).await;
                    *self.trouble.lock() = Some(reason.to_string());
                    counter!(LOST, "reason" => reason.label()).increment(1);
                    tracing::warn!(server = %address, %reason, "lost the connection to Redis");
                    if began.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    known_failure = None;
                }
                Err(failure) => {
                    *self.trouble.lock() = Some(failure.to_string());
                    let kind = failure.kind();
                    let is_known = known_failure.replace(kind) == Some(kind);
                    // The other link to the same server says so.
                    if !is_known && !self.common.reads_only {
                        tracing::warn!(server = %self.node, %failure, "no connection to Redis");
                    }
                }
            }
            self.common.stir();
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            outcome = self.connect().await;
        }
    }

    /// Uses a connection until it is of no use any more.
    async fn watch(&self, mut live: Live, address: &Address) -> Ended {
        let connection = live.connection.clone();
        let ready = || self.set_ready(true);
        let attended = async {
            match &self.common.attendant {
                Some(attendant) => attendant.attend(&self.node, &connection, &ready).await,
                None => pending().await,
            }
        };
        let reason = tokio::select! {
            reason = live.ended() => reason,
            reason = attended => reason,
            primary = self.place.left(address, &self.common.dial) => Ended::Elsewhere(primary),
        };
        self.current.send_replace(None);
        self.set_ready(false);
        live.close().await;
        reason
    }

    fn set_ready(&self, ready: bool) {
        if self.ready.send_replace(ready) != ready {
            self.common.changed.send_replace(());
        }
    }

    /// Makes a connection and hands it out.
    async fn connect(&mut self) -> Result<(Live, Address), NoConnection> {
        let attempt = async {
            let address = self.place.address(&self.common.dial).await?;
            let number = self.common.numbers.fetch_add(1, Ordering::Relaxed) + 1;
            let on_push = self.common.attendant.clone().map(|attendant| {
                let (node, common) = (self.node.clone(), self.common.clone());
                Arc::new(move |push: PushInfo| {
                    let dropped = matches!(&push.kind, PushKind::Other(kind) if kind == DROPPED);
                    attendant.push(&node, number, push);
                    if dropped {
                        common.stir();
                    }
                }) as OnPush
            });
            let mut live = self.common.connect(&address, number, on_push).await?;
            let eviction = self.prepare(&mut live.connection).await?;
            Ok((live, address, eviction))
        };
        let (live, address, eviction) = timeout(CONNECT_TIME.max(self.common.answer_time), attempt)
            .await
            .unwrap_or(Err(NoConnection::Silent))?;
        self.warn_of_eviction(&address, eviction);
        self.current.send_replace(Some(live.connection.clone()));
        if self.common.attendant.is_none() {
            self.set_ready(true);
        }
        Ok((live, address))
    }

    /// Says once what a full server would do to the channels.
    fn warn_of_eviction(&mut self, server: &Address, policy: Option<String>) {
        let policy = policy.filter(|policy| policy != "noeviction");
        if let Some(policy) = policy.as_ref().filter(|_| policy != self.eviction) {
            tracing::warn!(
                %server,
                %policy,
                "this Redis evicts keys when its memory is full: members, logs and leases would be lost; set \
                 maxmemory-policy noeviction"
            );
        }
        self.eviction = policy;
    }

    /// Finds out whether a connection is of use, and what the server does when its memory is full, if it says so.
    async fn prepare(&self, connection: &mut Connection) -> Result<Option<String>, NoConnection> {
        let server = connection.server().await?;
        if !server.primary {
            return Err(NoConnection::Replica);
        }
        connection.generation = server.generation;

        let mut get = Pipeline::with_capacity(1);
        get.cmd("GET").arg(&self.common.schema);
        let mut found = connection.ask(&get, 0, 1).await?;
        if found == [Value::Nil] {
            let mut set = Pipeline::with_capacity(2);
            set.cmd("SET")
                .arg(&self.common.schema)
                .arg(SCHEMA)
                .arg("NX");
            set.cmd("GET").arg(&self.common.schema);
            found = connection.ask(&set, 1, 1).await?;
        }
        match found.first() {
            // In a cluster another node judges it, or will.
            Some(Value::ServerError(error))
                if self.common.stirred.is_some() && is_redirect(error) => {}
            // Nil still: the memory is full, and nothing of another version is there.
            _ => {
                connection.examine(&found)?;
                let other = found
                    .first()
                    .and_then(reply::text)
                    .filter(|&it| it != SCHEMA);
                if let Some(found) = other {
                    return Err(NoConnection::Schema(found.to_owned()));
                }
            }
        }

        let loaded = SCRIPTS.all().map(|script| connection.load(script));
        try_join_all(loaded).await?;
        if self.common.reads_only {
            return Ok(None);
        }
        let mut info = Pipeline::with_capacity(1);
        info.cmd("INFO").arg("memory");
        let info = connection.ask(&info, 0, 1).await?;
        Ok(info.first().and_then(reply::eviction_policy))
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoConnection {
    #[error("it did not answer in time")]
    Silent,
    #[error("no sentinel names a primary")]
    NoSentinel,
    #[error("it is a replica")]
    Replica,
    #[error("it holds schema version {0:?}, this program needs {SCHEMA:?}")]
    Schema(String),
    #[error(transparent)]
    Failed(#[from] StoreError),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl NoConnection {
    /// What an operator would do about it: said once, however the words change from try to try.
    fn kind(&self) -> &'static str {
        match self {
            Self::Silent | Self::Failed(_) | Self::Redis(_) | Self::Io(_) => "unreachable",
            Self::NoSentinel => "no sentinel",
            Self::Replica => "replica",
            Self::Schema(_) => "schema",
        }
    }
}
