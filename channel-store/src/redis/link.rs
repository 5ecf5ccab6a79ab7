//! One supervised connection: it is watched, and replaced for ever.
//!
//! A connection is handed out only when it is of use: the server is a primary, keeps this version's schema, and has
//! all scripts. One that breaks, falls silent, or belongs to a server that is no longer the primary it was is closed
//! for good before the next one is made, whatever still holds a clone of it: so nothing that was queued on it can take
//! effect after something that was said on a later one. The link never repeats a command.

use super::keys::Keys;
use super::reply::{self, ServerState, refusal, unavailable, wants_another_connection};
use super::scripts::SCRIPTS;
use crate::store::{Generation, StoreError};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline,
    ProtocolVersion, PushInfo, RedisError, RedisResult, Value,
};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, coop::unconstrained};
use tokio::time::{sleep, timeout};

/// The version of keys and scripts; a server that keeps another one is refused.
const SCHEMA: &str = "1";
/// A command that takes longer has an unknown outcome, and its connection is given up.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// Connecting, greeting and loading the scripts.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// How often a silent connection is asked whether it lives.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Commands that wait to be written: enough that the order of first polls is the order of the queue.
const QUEUE: usize = 1024;

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

/// Takes what a connection brings unasked, on the connection's own task.
pub(super) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// A connection that was found good; clones share it.
#[derive(Clone)]
pub(super) struct Connection {
    /// Counts the link's connections upwards.
    pub(super) number: u64,
    /// The server lifetime that it began under.
    pub(super) generation: Generation,
    commands: MultiplexedConnection,
    driver: AbortHandle,
}

impl Connection {
    /// Sends commands in one piece and answers with the replies after the first `skip`. Being out of memory is a reply;
    /// every other refusal makes the outcome of the whole unknown. What is polled first is sent first.
    pub(super) async fn request(
        &self,
        pipeline: &Pipeline,
        skip: usize,
        count: usize,
    ) -> Result<Vec<Value>, StoreError> {
        let mut commands = self.commands.clone();
        let replies = self
            .in_time(commands.send_packed_commands(pipeline, skip, count))
            .await?;
        self.examine(&replies)?;
        Ok(replies)
    }

    /// Looks for refusals among replies.
    pub(super) fn examine(&self, replies: &[Value]) -> Result<(), StoreError> {
        for reply in replies {
            if let Value::ServerError(error) = reply {
                if wants_another_connection(error) {
                    self.close();
                }
                if refusal(error) != StoreError::Full {
                    return Err(refusal(error));
                }
            }
        }
        Ok(())
    }

    /// Follows topics; each is confirmed by a push.
    pub(super) async fn subscribe(&self, topics: &[Arc<str>]) -> Result<(), StoreError> {
        let mut commands = self.commands.clone();
        let topics: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
        self.in_time(commands.subscribe(topics)).await
    }

    /// Follows topics no longer.
    pub(super) async fn unsubscribe(&self, topics: &[Arc<str>]) -> Result<(), StoreError> {
        let mut commands = self.commands.clone();
        let topics: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
        self.in_time(commands.unsubscribe(topics)).await
    }

    /// Ends it for all that hold it. What was not answered stays unknown, what was not sent never will be.
    pub(super) fn close(&self) {
        self.driver.abort();
    }

    /// Asks the server for its role and lifetime.
    async fn server(&self) -> Result<ServerState, StoreError> {
        let mut info = Pipeline::with_capacity(1);
        info.cmd("INFO").arg("replication");
        let replies = self.request(&info, 0, 1).await?;
        let info = replies.first().and_then(reply::text);
        info.and_then(reply::server_state)
            .ok_or_else(reply::strange)
    }

    async fn in_time<T>(
        &self,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, StoreError> {
        // Unconstrained: tokio's budget would otherwise let a later command into the queue before this one.
        let mut answer = pin!(unconstrained(answer));
        let answer = match timeout(ANSWER_TIME, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                // Closed before it is let go: dropped while still queued, it would be passed over and a later one sent.
                self.close();
                answer.await
            }
        };
        answer.map_err(|error| {
            if error.is_unrecoverable_error() {
                self.close();
            }
            unavailable(error)
        })
    }
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
        let mut known_failure = String::new();
        loop {
            match outcome {
                Ok(mut live) => {
                    tracing::info!(server = %self.server.info.addr(), number = live.connection.number, "connected to Redis");
                    let reason = live.ended().await;
                    self.available.send_replace(false);
                    self.current.send_replace(None);
                    live.close().await;
                    tracing::warn!(server = %self.server.info.addr(), %reason, "lost the connection to Redis");
                    pause = FIRST_PAUSE;
                    known_failure.clear();
                }
                Err(failure) => {
                    let failure = failure.to_string();
                    if failure != known_failure {
                        tracing::warn!(server = %self.server.info.addr(), %failure, "no connection to Redis");
                        known_failure = failure;
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

/// A connection with the task that reads and writes it.
struct Live {
    connection: Connection,
    driver: JoinHandle<()>,
}

impl Live {
    /// Waits until the connection is of no use any more, and says why.
    async fn ended(&mut self) -> String {
        loop {
            tokio::select! {
                _ = &mut self.driver => return "closed".into(),
                () = sleep(PROBE_INTERVAL) => {}
            }
            match self.connection.server().await {
                Err(error) => return error.to_string(),
                Ok(server) if !server.primary => return "the server is a replica now".into(),
                // Demoted and promoted again in between: others may have published elsewhere.
                Ok(server) if server.generation != self.connection.generation => {
                    return "the server has begun another lifetime".into();
                }
                Ok(_) => {}
            }
        }
    }

    /// Closes it, and returns when it can bring nothing more.
    async fn close(mut self) {
        self.connection.close();
        if !self.driver.is_finished() {
            let _ = (&mut self.driver).await;
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.connection.close();
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
    #[error("{0}")]
    Failed(StoreError),
    #[error("{0}")]
    Redis(#[from] RedisError),
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
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3);
        Ok(Self {
            info: info.set_redis_settings(settings),
            schema: keys.schema(),
            on_push,
            attempts: 0,
        })
    }

    async fn connect(&mut self) -> Result<Live, NoConnection> {
        self.attempts += 1;
        let attempt = async {
            let mut live = match self.info.addr() {
                ConnectionAddr::Unix(path) => {
                    self.greet(UnixStream::connect(path).await.map_err(RedisError::from)?)
                        .await?
                }
                ConnectionAddr::Tcp(host, port) => {
                    let stream = TcpStream::connect((host.as_str(), *port))
                        .await
                        .map_err(RedisError::from)?;
                    stream.set_nodelay(true).map_err(RedisError::from)?;
                    self.greet(stream).await?
                }
                ConnectionAddr::TcpTls { .. } | _ => return Err(NoConnection::Silent),
            };
            self.prepare(&mut live.connection).await?;
            Ok(live)
        };
        timeout(CONNECT_TIME, attempt)
            .await
            .unwrap_or(Err(NoConnection::Silent))
    }

    async fn greet<S>(&self, stream: S) -> Result<Live, NoConnection>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        if let Some(on_push) = self.on_push.clone() {
            config = config.set_push_sender(move |push| {
                on_push(push);
                Ok::<(), Infallible>(())
            });
        }
        let settings = self.info.redis_settings();
        let (commands, driver) =
            MultiplexedConnection::new_with_config(settings, stream, config).await?;
        let driver = tokio::spawn(driver);
        Ok(Live {
            connection: Connection {
                number: self.attempts,
                generation: "".into(),
                commands,
                driver: driver.abort_handle(),
            },
            driver,
        })
    }

    /// Finds out whether a connection is of use.
    async fn prepare(&self, connection: &mut Connection) -> Result<(), NoConnection> {
        let server = connection.server().await.map_err(NoConnection::Failed)?;
        if !server.primary {
            return Err(NoConnection::Replica);
        }
        connection.generation = server.generation;

        let mut get = Pipeline::with_capacity(1);
        get.cmd("GET").arg(&self.schema);
        let mut found = connection
            .request(&get, 0, 1)
            .await
            .map_err(NoConnection::Failed)?;
        if found == [Value::Nil] {
            let mut set = Pipeline::with_capacity(2);
            set.cmd("SET").arg(&self.schema).arg(SCHEMA).arg("NX");
            set.cmd("GET").arg(&self.schema);
            found = connection
                .request(&set, 1, 1)
                .await
                .map_err(NoConnection::Failed)?;
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
            script.load_async(&mut connection.commands).await?;
        }
        Ok(())
    }
}
