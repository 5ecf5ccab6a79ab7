//! One supervised connection: it is watched, and replaced for ever.
//!
//! A connection is handed out only when it is of use: the server is a primary, keeps this version's schema, and has
//! all scripts. One that breaks, falls silent, or belongs to a server that is no longer the primary it was is closed
//! for good before the next one is made, whatever still holds a clone of it: so nothing that was queued on it can take
//! effect after something that was said on a later one. The link never repeats a command.

use super::connection::{Connection, Live, OnPush};
use super::keys::Keys;
use super::reply::{self, unavailable};
use super::scripts::SCRIPTS;
use crate::store::StoreError;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisError, Value};
use std::convert::Infallible;
use std::io;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// The version of keys and scripts; a server that keeps another one is refused.
const SCHEMA: &str = "1";
/// Connecting, greeting and loading the scripts.
const CONNECT_TIME: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Why a service must not start with this Redis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not the URL of a Redis server. Never shows it: it may hold a password.
    #[error("not a usable Redis URL: {0}")]
    Url(String),
    /// The server keeps channels of another version.
    #[error("Redis holds schema version {found:?}, this program needs {SCHEMA:?}")]
    Schema {
        /// The version that was found.
        found: String,
    },
}

/// A supervised connection. Its supervisor ends when this is dropped.
pub(super) struct Link {
    current: watch::Receiver<Option<Connection>>,
    available: watch::Receiver<bool>,
    supervisor: AbortHandle,
}

impl Link {
    /// Opens a link; that the server is unreachable is no error.
    pub(super) async fn open(
        url: &str,
        keys: &Keys,
        on_push: Option<OnPush>,
    ) -> Result<Self, OpenError> {
        let (current, watch_current) = watch::channel(None);
        let (available, watch_available) = watch::channel(false);
        let mut supervisor = Supervisor {
            server: Server::new(url, keys, on_push)?,
            current,
            available,
        };
        let first = match supervisor.connect().await {
            Err(NoConnection::Schema(found)) => return Err(OpenError::Schema { found }),
            first => first,
        };
        Ok(Self {
            current: watch_current,
            available: watch_available,
            supervisor: tokio::spawn(supervisor.run(first)).abort_handle(),
        })
    }

    /// The present connection.
    pub(super) fn connection(&self) -> Result<Connection, StoreError> {
        let current = self.current.borrow().clone();
        current.ok_or_else(|| unavailable("no connection"))
    }

    /// The present connection and its successors.
    pub(super) fn connections(&self) -> watch::Receiver<Option<Connection>> {
        self.current.clone()
    }

    /// True while there is a connection.
    pub(super) fn available(&self) -> watch::Receiver<bool> {
        self.available.clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

/// Keeps a connection as long as it is good, then makes another.
struct Supervisor {
    server: Server,
    current: watch::Sender<Option<Connection>>,
    available: watch::Sender<bool>,
}

impl Supervisor {
    async fn run(mut self, first: Result<Live, NoConnection>) -> Infallible {
        let mut outcome = first;
        let mut pause = FIRST_PAUSE;
        let mut known_failure = None;
        loop {
            match outcome {
                Ok(mut live) => {
                    tracing::info!(server = %self.server.info.addr(), number = live.connection.number, "connected to Redis");
                    let began = Instant::now();
                    let reason = live.ended().await;
                    self.available.send_replace(false);
                    self.current.send_replace(None);
                    live.close().await;
                    tracing::warn!(server = %self.server.info.addr(), %reason, "lost the connection to Redis");
                    if began.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    known_failure = None;
                }
                Err(failure) => {
                    let kind = failure.kind();
                    let failure = failure.to_string();
                    if known_failure.replace(kind) != Some(kind) {
                        tracing::warn!(server = %self.server.info.addr(), %failure, "no connection to Redis");
                    }
                }
            }
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            outcome = self.connect().await;
        }
    }

    /// Makes a connection and hands it out.
    async fn connect(&mut self) -> Result<Live, NoConnection> {
        let live = self.server.connect().await?;
        self.current.send_replace(Some(live.connection.clone()));
        self.available.send_replace(true);
        Ok(live)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum NoConnection {
    #[error("it did not answer in time")]
    Silent,
    #[error("it is a replica")]
    Replica,
    #[error("it holds schema version {0:?}, this program needs {SCHEMA:?}")]
    Schema(String),
    #[error("its address is of no known kind")]
    Address,
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
            Self::Replica => "replica",
            Self::Schema(_) => "schema",
            Self::Address => "address",
        }
    }
}

/// Where to connect to.
struct Server {
    info: ConnectionInfo,
    schema: String,
    on_push: Option<OnPush>,
    attempts: u64,
}

impl Server {
    fn new(url: &str, keys: &Keys, on_push: Option<OnPush>) -> Result<Self, OpenError> {
        let info = url
            .into_connection_info()
            .map_err(|error| OpenError::Url(error.to_string()))?;
        if !matches!(
            info.addr(),
            ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_)
        ) {
            return Err(OpenError::Url("TLS is not built in".into()));
        }
        Ok(Self {
            info,
            schema: keys.schema(),
            on_push,
            attempts: 0,
        })
    }

    async fn connect(&mut self) -> Result<Live, NoConnection> {
        self.attempts += 1;
        let attempt = async {
            let (number, settings) = (self.attempts, self.info.redis_settings());
            let on_push = self.on_push.clone();
            let mut live = match self.info.addr() {
                ConnectionAddr::Unix(path) => {
                    let stream = UnixStream::connect(path).await?;
                    Live::begin(number, settings, stream, on_push).await?
                }
                ConnectionAddr::Tcp(host, port) => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    Live::begin(number, settings, stream, on_push).await?
                }
                _ => return Err(NoConnection::Address),
            };
            self.prepare(&mut live.connection).await?;
            Ok(live)
        };
        timeout(CONNECT_TIME, attempt)
            .await
            .unwrap_or(Err(NoConnection::Silent))
    }

    /// Finds out whether a connection is of use.
    async fn prepare(&self, connection: &mut Connection) -> Result<(), NoConnection> {
        let server = connection.server().await?;
        if !server.primary {
            return Err(NoConnection::Replica);
        }
        connection.generation = server.generation;

        let mut get = Pipeline::with_capacity(1);
        get.cmd("GET").arg(&self.schema);
        let mut found = connection.request(&get, 0, 1).await?;
        if found == [Value::Nil] {
            let mut set = Pipeline::with_capacity(2);
            set.cmd("SET").arg(&self.schema).arg(SCHEMA).arg("NX");
            set.cmd("GET").arg(&self.schema);
            found = connection.request(&set, 1, 1).await?;
        }
        // Nil still: the memory is full, and nothing of another version is there.
        if let Some(found) = found
            .first()
            .and_then(reply::text)
            .filter(|&it| it != SCHEMA)
        {
            return Err(NoConnection::Schema(found.to_owned()));
        }

        for script in SCRIPTS.all() {
            connection.load(script).await?;
        }
        Ok(())
    }
}
