//! One connection to a server. Commands are sent in the order in which their futures are first polled, and a command that
//! was given up is never sent afterwards.
//!
//! A command that is not answered in time closes the connection for all its users at once. Otherwise a command that was
//! queued behind it could still take effect while the first one is repeated elsewhere, and the messages of one sender
//! would change their order.

use super::address::Address;
use super::measure::Measures;
use super::reply::{
    ServerState, is_redirect, refusal, server_state, text, unavailable, unexpected_reply,
    wants_another_connection,
};
use super::unsolicited::Unsolicited;
use crate::error::StoreError;
use crate::server::ServerLifetime;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, ProtocolVersion, PushInfo, RedisConnectionInfo,
    RedisError, RedisResult, Script, Value,
};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle, coop::unconstrained};
use tokio::time::{sleep, timeout};

/// How often a connection's server is asked whether it lives, and for its role and lifetime.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Commands that are handed to the connection's task at once. More of them wait in line.
const QUEUE: usize = 1024;

/// Takes the pushes that a connection brings. It runs on the connection's own task, so it must neither wait nor block.
pub(super) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// How to set up a connection.
#[derive(Clone)]
pub(super) struct ConnectionOptions {
    pub(super) number: u64,
    /// A command that takes longer has an unknown outcome.
    pub(super) answer_time: Duration,
    pub(super) on_push: Option<OnPush>,
    /// With a node of a cluster: notified when the node says that a slot is elsewhere.
    pub(super) slots_moved: Option<Arc<Notify>>,
    /// Measures the calls. `None` for a sentinel, which is asked for addresses only.
    pub(super) measures: Option<Arc<Measures>>,
}

/// Why a connection was given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("closed")]
    Closed,
    #[error("{0}")]
    Failed(StoreError),
    #[error("the server is a replica now")]
    Replica,
    #[error("the server has begun another lifetime")]
    Lifetime,
    #[error("the sentinels name {0} as the primary now")]
    Elsewhere(Address),
    #[error("the server answers, but does not deliver what is published")]
    Deaf,
}

impl Ended {
    /// All labels of the metric.
    pub(super) const LABELS: [&'static str; 6] = [
        "closed",
        "failed",
        "replica",
        "lifetime",
        "elsewhere",
        "deaf",
    ];

    /// The reason as the metric names it.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Failed(_) => "failed",
            Self::Replica => "replica",
            Self::Lifetime => "lifetime",
            Self::Elsewhere(_) => "elsewhere",
            Self::Deaf => "deaf",
        }
    }
}

/// The command that publishes to a topic. In a cluster it reaches only connections to the node that owns the topic's slot.
pub(super) const fn publish_command(is_cluster: bool) -> &'static str {
    if is_cluster { "SPUBLISH" } else { "PUBLISH" }
}

/// A connection that is ready for use. All clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    /// A later connection of the same store or feed has a higher number.
    pub(crate) number: u64,
    /// The server lifetime under which the connection began.
    pub(crate) lifetime: ServerLifetime,
    answer_time: Duration,
    commands: MultiplexedConnection,
    driver: AbortHandle,
    slots_moved: Option<Arc<Notify>>,
    measures: Option<Arc<Measures>>,
}

impl Connection {
    /// Sends commands in one piece and returns a reply for each of them. "Out of memory" is a reply like others. With every
    /// other refusal the outcome of the whole is unknown. The future that is polled first is sent first.
    pub(crate) async fn request(&self, pipeline: &Pipeline) -> Result<Vec<Value>, StoreError> {
        let replies = self.request_unchecked(pipeline).await?;
        self.check(&replies)?;
        Ok(replies)
    }

    /// Does the same as [`Self::request`], but returns every refusal as a reply.
    pub(crate) async fn request_unchecked(
        &self,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, StoreError> {
        let mut commands = self.commands.clone();
        let measured = self.measures.as_ref().map(|it| it.begin(pipeline));
        let replies = self
            .in_time(commands.send_packed_commands(pipeline, 0, pipeline.len()))
            .await;
        match (measured, &replies) {
            (Some(measured), Ok(replies)) => measured.answered(replies),
            (Some(measured), Err(_)) => measured.failed(),
            (None, _) => {}
        }
        let replies = replies?;
        if replies.len() != pipeline.len() {
            return Err(unexpected_reply());
        }
        Ok(replies)
    }

    /// Sends one command.
    pub(crate) async fn request_one(&self, command: Cmd) -> Result<Value, StoreError> {
        match self.request_one_unchecked(command).await? {
            Value::ServerError(error) => {
                self.check(&[Value::ServerError(error.clone())])?;
                Err(refusal(&error))
            }
            reply => Ok(reply),
        }
    }

    /// Does the same as [`Self::request_one`], but returns a refusal as a reply.
    pub(crate) async fn request_one_unchecked(&self, command: Cmd) -> Result<Value, StoreError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command);
        let mut replies = self.request_unchecked(&pipeline).await?;
        replies.pop().ok_or_else(unexpected_reply)
    }

    /// Looks for refusals among replies, and does what each one asks for: reading the slots again or closing the
    /// connection.
    pub(crate) fn check(&self, replies: &[Value]) -> Result<(), StoreError> {
        for reply in replies {
            if let Value::ServerError(error) = reply {
                // A node that redirects one slot is still the right one for all others.
                match &self.slots_moved {
                    Some(slots_moved) if is_redirect(error) => slots_moved.notify_one(),
                    _ if wants_another_connection(error) => self.close(),
                    _ => {}
                }
                if refusal(error) != StoreError::Full {
                    return Err(refusal(error));
                }
            }
        }
        Ok(())
    }

    /// Subscribes to topics. A push confirms each of them, except for those that are returned: a cluster has moved these.
    pub(super) async fn subscribe(&self, topics: &[Arc<str>]) -> Result<Vec<Arc<str>>, StoreError> {
        if self.slots_moved.is_none() {
            let mut commands = self.commands.clone();
            let topics: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
            self.in_time(commands.subscribe(topics)).await?;
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(topics.len());
        for topic in topics {
            pipeline.cmd("SSUBSCRIBE").arg(&**topic);
        }
        let replies = self.request_unchecked(&pipeline).await?;
        let mut moved = Vec::new();
        for (topic, reply) in topics.iter().zip(&replies) {
            match reply {
                Value::ServerError(error) if is_redirect(error) => moved.push(topic.clone()),
                _ => self.check(std::slice::from_ref(reply))?,
            }
        }
        Ok(moved)
    }

    /// Unsubscribes from topics.
    pub(super) async fn unsubscribe(&self, topics: &[Arc<str>]) -> Result<(), StoreError> {
        if self.slots_moved.is_none() {
            let mut commands = self.commands.clone();
            let topics: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
            return self.in_time(commands.unsubscribe(topics)).await;
        }
        // Each in a transaction, so that the number of answers is the same whether or not a slot has moved.
        let mut pipeline = Pipeline::with_capacity(3 * topics.len());
        for topic in topics {
            pipeline.cmd("MULTI");
            pipeline.cmd("SUNSUBSCRIBE").arg(&**topic);
            pipeline.cmd("EXEC");
        }
        self.request_unchecked(&pipeline).await?;
        Ok(())
    }

    /// Reports that slots may have moved.
    pub(super) fn report_moved_slots(&self) {
        if let Some(slots_moved) = &self.slots_moved {
            slots_moved.notify_one();
        }
    }

    /// The command that publishes to the server's topics.
    pub(super) fn publish_command(&self) -> &'static str {
        publish_command(self.slots_moved.is_some())
    }

    /// Closes the connection for all who hold it. The outcome of commands without an answer stays unknown. A command that
    /// was not sent yet is never sent.
    pub(super) fn close(&self) {
        self.driver.abort();
    }

    /// Loads a script into the server.
    pub(super) async fn load(&self, script: &Script) -> Result<(), StoreError> {
        let mut commands = self.commands.clone();
        self.in_time(script.load_async(&mut commands)).await?;
        Ok(())
    }

    /// Asks the server for its role and lifetime.
    pub(super) async fn server(&self) -> Result<ServerState, StoreError> {
        let mut info = redis::cmd("INFO");
        info.arg("replication");
        let reply = self.request_one(info).await?;
        let state = text(&reply).and_then(server_state);
        state.ok_or_else(unexpected_reply)
    }

    async fn in_time<T>(
        &self,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, StoreError> {
        // Unconstrained, because tokio's budget could otherwise let a later command into the queue before this one.
        let mut answer = pin!(unconstrained(answer));
        let answer = match timeout(self.answer_time, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                // The connection is closed before the future is dropped. A command that is dropped while it is still queued
                // would be skipped, and a later one would be sent.
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

/// A connection together with the task that reads and writes it. Dropping it closes the connection.
pub(super) struct DrivenConnection {
    pub(super) connection: Connection,
    driver: JoinHandle<()>,
}

impl DrivenConnection {
    /// Logs in to the server over a stream. It uses RESP3, in which pushes may come between answers.
    pub(super) async fn begin<S>(
        settings: &RedisConnectionInfo,
        stream: S,
        options: ConnectionOptions,
    ) -> Result<Self, RedisError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // Does not tell the server the library's name: a Redis user with minimal rights may not run that command.
        let settings = settings
            .clone()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        // Without the crate's own time-out: that one gives up a command without closing the connection.
        let mut config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        if let Some(on_push) = options.on_push {
            config = config.set_push_sender(move |push| {
                on_push(push);
                Ok::<(), Infallible>(())
            });
        }
        let (commands, driver) = if options.slots_moved.is_some() {
            let stream = Unsolicited::new(stream);
            let (commands, driver) =
                MultiplexedConnection::new_with_config(&settings, stream, config).await?;
            (commands, tokio::spawn(driver))
        } else {
            let (commands, driver) =
                MultiplexedConnection::new_with_config(&settings, stream, config).await?;
            (commands, tokio::spawn(driver))
        };
        Ok(Self {
            connection: Connection {
                number: options.number,
                lifetime: "".into(),
                answer_time: options.answer_time,
                commands,
                driver: driver.abort_handle(),
                slots_moved: options.slots_moved,
                measures: options.measures,
            },
            driver,
        })
    }

    /// Waits until the connection can't be used any more, and returns why.
    pub(super) async fn ended(&mut self) -> Ended {
        loop {
            tokio::select! {
                _ = &mut self.driver => return Ended::Closed,
                () = sleep(CHECK_INTERVAL) => {}
            }
            match self.connection.server().await {
                Err(error) => return Ended::Failed(error),
                Ok(server) if !server.is_primary => return Ended::Replica,
                // The server restarted, or was a replica in between: others may have published elsewhere meanwhile.
                Ok(server) if server.lifetime != self.connection.lifetime => {
                    return Ended::Lifetime;
                }
                Ok(_) => {}
            }
        }
    }

    /// Closes the connection and waits until it can't bring anything any more.
    pub(super) async fn close(mut self) {
        self.connection.close();
        if !self.driver.is_finished() {
            let _ = (&mut self.driver).await;
        }
    }
}

impl Drop for DrivenConnection {
    fn drop(&mut self) {
        self.connection.close();
    }
}
