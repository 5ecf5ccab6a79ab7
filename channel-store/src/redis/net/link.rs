//! A link keeps one connection to one server, and replaces it for as long as the link exists.
//!
//! A connection is handed out only when it can be used: the server is a primary, holds a schema that this program can use, and has
//! loaded all scripts. A connection is closed when it breaks, falls silent, or when its server is no longer the same
//! primary. It is closed before the next one is made, also if somebody still holds a clone. So nothing that was queued on it can take
//! effect after a command on a later connection. A link never repeats a command.

use super::address::Address;
use super::connection::{
    CHECK_INTERVAL, Connection, ConnectionOptions, DrivenConnection, Ended, OnPush,
};
use super::measure::Measures;
use super::reply::{eviction_policy, is_redirect, text, unavailable};
use super::schema::{Schema, SchemaMismatch};
use super::sentinel::Sentinels;
use super::slots::Slots;
use super::tls::Dialer;
use super::unsolicited::DROPPED;
use crate::error::StoreError;
use async_trait::async_trait;
use futures_util::future::try_join_all;
use metrics::{counter, describe_counter};
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, RedisConnectionInfo, RedisError, Value};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// The time for asking sentinels, connecting, logging in and loading the scripts. It is longer only if a single answer may
/// take longer. Together with the pauses it is short enough that the new primary is in use a second or two after a
/// failover, even if the old one still accepts connections.
const CONNECT_TIME: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

const LOST: &str = "redis_connections_lost_total";

/// What the links of one store or feed have in common. There are links for reads alone, and links for everything else.
pub(super) struct LinkOptions {
    pub(super) settings: RedisConnectionInfo,
    pub(super) dialer: Dialer,
    pub(super) schema: Schema,
    pub(super) measures: Arc<Measures>,
    /// True if the link is for reads alone.
    pub(super) reads_only: bool,
    /// True if it is logged when there is no connection.
    pub(super) logs_failures: bool,
    /// How long a server may take to answer.
    pub(super) answer_time: Duration,
    pub(super) subscriber: Option<Arc<dyn Subscriber>>,
    /// How many connections were made so far.
    pub(super) numbers: Arc<AtomicU64>,
    /// Notified when a link becomes ready, or is not ready any more.
    pub(super) changed: watch::Sender<()>,
    /// With a cluster: notified when slots may have moved.
    pub(super) slots_moved: Option<Arc<Notify>>,
}

impl LinkOptions {
    /// Reports that slots may have moved, if this is a cluster.
    fn report_moved_slots(&self) {
        if let Some(slots_moved) = &self.slots_moved {
            slots_moved.notify_one();
        }
    }

    /// Makes a connection on which nothing is prepared.
    pub(super) async fn connect(
        &self,
        address: &Address,
        number: u64,
        on_push: Option<OnPush>,
    ) -> Result<DrivenConnection, NoConnection> {
        let stream = self.dialer.connect(address).await?;
        let options = ConnectionOptions {
            number,
            answer_time: self.answer_time,
            on_push,
            slots_moved: self.slots_moved.clone(),
            measures: Some(self.measures.clone()),
        };
        Ok(DrivenConnection::begin(&self.settings, stream, options).await?)
    }
}

/// Subscribes to topics over each connection of the links.
#[async_trait]
pub(super) trait Subscriber: Send + Sync + 'static {
    /// What the node refuses to the subscriber, in words.
    fn refusal(&self, node: &Address) -> Option<String>;

    /// Tells who owns the slots from now on. The subscriber asks again for what a node has refused as not its own.
    fn assign(&self, slots: &Arc<Slots>);

    /// Takes a push of a node's connection, on the connection's own task.
    fn push(&self, node: &Address, number: u64, push: PushInfo);

    /// Uses a connection, calls `ready` when it delivers, and returns when it can't be used any more.
    async fn run(
        &self,
        node: &Address,
        connection: &Connection,
        ready: &(dyn Fn() + Send + Sync),
    ) -> Ended;
}

/// Where a link's server is. It is looked up for each attempt to connect.
pub(super) enum Target {
    Fixed(Address),
    Sentinels(Sentinels),
}

impl Target {
    async fn address(&self, dialer: &Dialer) -> Result<Address, NoConnection> {
        match self {
            Self::Fixed(address) => Ok(address.clone()),
            Self::Sentinels(sentinels) => {
                let primary = sentinels.primary(dialer).await;
                primary.ok_or(NoConnection::NoSentinel)
            }
        }
    }

    /// Returns when the sentinels name another primary than this one, which may not know yet that it is a replica now.
    async fn moved(&self, address: &Address, dialer: &Dialer) -> Address {
        let Self::Sentinels(sentinels) = self else {
            return pending().await;
        };
        loop {
            sleep(CHECK_INTERVAL).await;
            match sentinels.primary(dialer).await {
                Some(primary) if primary != *address => return primary,
                _ => {}
            }
        }
    }
}

/// A supervised connection. Dropping the link ends the supervisor and closes the connection.
pub(super) struct Link {
    current: watch::Receiver<Option<Connection>>,
    ready: watch::Receiver<bool>,
    answer_time: Duration,
    last_failure: Arc<Mutex<Option<String>>>,
    supervisor: AbortHandle,
}

impl Link {
    /// Starts to connect, and does not wait for it.
    pub(super) fn start(node: Address, target: Target, options: Arc<LinkOptions>) -> Self {
        let (supervisor, link) = Supervisor::new(node, target, options);
        link(tokio::spawn(supervisor.run(None)).abort_handle())
    }

    /// Tries once to connect. A server that can't be reached is no error, because the link tries again later. A server that
    /// holds a schema that this program can't use is an error.
    pub(super) async fn open(
        node: Address,
        target: Target,
        options: Arc<LinkOptions>,
    ) -> Result<Self, SchemaMismatch> {
        let (mut supervisor, link) = Supervisor::new(node, target, options);
        let first = match supervisor.connect().await {
            Err(NoConnection::Schema(mismatch)) => return Err(mismatch),
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

    /// The present connection, or the next one. It waits for that no longer than for an answer of a server.
    pub(super) async fn next_connection(&self) -> Result<Connection, StoreError> {
        let mut current = self.current.clone();
        let connected = timeout(self.answer_time, current.wait_for(Option::is_some)).await;
        let connection = match connected {
            Ok(Ok(connection)) => connection.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        connection.ok_or_else(|| unavailable("no connection for reads"))
    }

    /// True while there is a connection that can be used.
    pub(super) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Why there is no connection, if that is known.
    pub(super) fn last_failure(&self) -> Option<String> {
        self.last_failure.lock().clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

/// Keeps a connection as long as it can be used, then makes another one.
struct Supervisor {
    node: Address,
    target: Target,
    options: Arc<LinkOptions>,
    current: watch::Sender<Option<Connection>>,
    ready: watch::Sender<bool>,
    /// Why the last connection ended, or the last attempt to connect failed.
    last_failure: Arc<Mutex<Option<String>>>,
    /// The eviction policy that the last warning named.
    eviction: Option<String>,
}

impl Supervisor {
    fn new(
        node: Address,
        target: Target,
        options: Arc<LinkOptions>,
    ) -> (Self, impl FnOnce(AbortHandle) -> Link) {
        describe_counter!(LOST, "Connections to Redis that were given up, by reason");
        for reason in Ended::LABELS {
            counter!(LOST, "reason" => reason).increment(0);
        }
        let (current, watch_current) = watch::channel(None);
        let (ready, watch_ready) = watch::channel(false);
        let answer_time = options.answer_time;
        let last_failure = Arc::<Mutex<Option<String>>>::default();
        let supervisor = Self {
            last_failure: last_failure.clone(),
            node,
            target,
            options,
            current,
            ready,
            eviction: None,
        };
        let link = move |supervisor| Link {
            current: watch_current,
            ready: watch_ready,
            answer_time,
            last_failure,
            supervisor,
        };
        (supervisor, link)
    }

    async fn run(
        mut self,
        first: Option<Result<(DrivenConnection, Address), NoConnection>>,
    ) -> Infallible {
        let mut pause = FIRST_PAUSE;
        let mut known_failure = None;
        let mut outcome = match first {
            Some(outcome) => outcome,
            None => self.connect().await,
        };
        loop {
            match outcome {
                Ok((driven, address)) => {
                    let number = driven.connection.number;
                    tracing::info!(server = %address, number, "connected to Redis");
                    let began = Instant::now();
                    let reason = self.watch(driven, &address).await;
                    *self.last_failure.lock() = Some(reason.to_string());
                    counter!(LOST, "reason" => reason.label()).increment(1);
                    tracing::warn!(server = %address, %reason, "lost the connection to Redis");
                    if began.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    known_failure = None;
                }
                Err(failure) => {
                    *self.last_failure.lock() = Some(failure.to_string());
                    let kind = failure.kind();
                    let is_known = known_failure.replace(kind) == Some(kind);
                    if !is_known && self.options.logs_failures {
                        tracing::warn!(server = %self.node, %failure, "no connection to Redis");
                    }
                }
            }
            self.options.report_moved_slots();
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            outcome = self.connect().await;
        }
    }

    /// Watches a connection until it can't be used any more, and closes it.
    async fn watch(&self, mut driven: DrivenConnection, address: &Address) -> Ended {
        let connection = driven.connection.clone();
        let ready = || self.set_ready(true);
        let subscribed = async {
            match &self.options.subscriber {
                Some(subscriber) => subscriber.run(&self.node, &connection, &ready).await,
                None => pending().await,
            }
        };
        let reason = tokio::select! {
            reason = driven.ended() => reason,
            reason = subscribed => reason,
            primary = self.target.moved(address, &self.options.dialer) => Ended::Elsewhere(primary),
        };
        self.current.send_replace(None);
        self.set_ready(false);
        driven.close().await;
        reason
    }

    fn set_ready(&self, ready: bool) {
        if self.ready.send_replace(ready) != ready {
            self.options.changed.send_replace(());
        }
    }

    /// Makes a connection and hands it out.
    async fn connect(&mut self) -> Result<(DrivenConnection, Address), NoConnection> {
        let attempt = async {
            let address = self.target.address(&self.options.dialer).await?;
            let number = self.options.numbers.fetch_add(1, Ordering::Relaxed) + 1;
            let on_push = self.options.subscriber.clone().map(|subscriber| {
                let (node, options) = (self.node.clone(), self.options.clone());
                Arc::new(move |push: PushInfo| {
                    let dropped = matches!(&push.kind, PushKind::Other(kind) if kind == DROPPED);
                    subscriber.push(&node, number, push);
                    if dropped {
                        options.report_moved_slots();
                    }
                }) as OnPush
            });
            let mut driven = self.options.connect(&address, number, on_push).await?;
            let eviction = self.prepare(&mut driven.connection).await?;
            Ok((driven, address, eviction))
        };
        let (driven, address, eviction) =
            timeout(CONNECT_TIME.max(self.options.answer_time), attempt)
                .await
                .unwrap_or(Err(NoConnection::Silent))?;
        self.warn_of_eviction(&address, eviction);
        self.current.send_replace(Some(driven.connection.clone()));
        if self.options.subscriber.is_none() {
            self.set_ready(true);
        }
        Ok((driven, address))
    }

    /// Warns once if the server would evict keys when its memory is full.
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

    /// Checks whether a connection can be used, and loads the scripts. Returns what the server does when its memory is full,
    /// if it tells.
    async fn prepare(&self, connection: &mut Connection) -> Result<Option<String>, NoConnection> {
        let server = connection.server().await?;
        if !server.is_primary {
            return Err(NoConnection::Replica);
        }
        connection.lifetime = server.lifetime;

        let schema = &self.options.schema;
        let get = || {
            let mut get = redis::cmd("GET");
            get.arg(&schema.key);
            connection.request_one_unchecked(get)
        };
        let mut found = get().await?;
        if found == Value::Nil {
            let mut set = redis::cmd("SET");
            set.arg(&schema.key).arg(schema.version).arg("NX");
            connection.request_one_unchecked(set).await?;
            found = get().await?;
        }
        match &found {
            // In a cluster, another node holds the key and is checked when it is connected to.
            Value::ServerError(error)
                if self.options.slots_moved.is_some() && is_redirect(error) => {}
            // If it is still nil, the server's memory is full. Then there is no other version's schema, either.
            _ => {
                connection.check(std::slice::from_ref(&found))?;
                text(&found).map_or(Ok(()), |found| schema.check(found))?;
            }
        }

        let loaded = schema.scripts.iter().map(|script| connection.load(script));
        try_join_all(loaded).await?;
        if self.options.reads_only {
            return Ok(None);
        }
        let mut info = redis::cmd("INFO");
        info.arg("memory");
        let info = connection.request_one_unchecked(info).await?;
        Ok(eviction_policy(&info))
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoConnection {
    #[error("the server did not answer in time")]
    Silent,
    #[error("no sentinel names a primary")]
    NoSentinel,
    #[error("the server is a replica")]
    Replica,
    #[error(transparent)]
    Schema(#[from] SchemaMismatch),
    #[error(transparent)]
    Failed(#[from] StoreError),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl NoConnection {
    /// Failures of one kind ask for the same thing of the operator. So they are written to the log once, although their
    /// words may change from attempt to attempt.
    fn kind(&self) -> &'static str {
        match self {
            Self::Silent | Self::Failed(_) | Self::Redis(_) | Self::Io(_) => "unreachable",
            Self::NoSentinel => "no sentinel",
            Self::Replica => "replica",
            Self::Schema(_) => "schema",
        }
    }
}
