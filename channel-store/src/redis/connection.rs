//! One connection, and the rule that makes its order worth something: what is polled first is sent first, and what was
//! given up is never sent.
//!
//! A command that is not answered in time ends the connection for everybody, at once. Otherwise one that was queued
//! behind it could still take effect while it itself is repeated elsewhere, and a sender's messages would change places.

use super::location::Address;
use super::reply::{
    self, ServerState, is_redirect, refusal, unavailable, wants_another_connection,
};
use super::unasked::Unasked;
use crate::{Generation, StoreError};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Pipeline, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError,
    RedisResult, Script, Value,
};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle, coop::unconstrained};
use tokio::time::{sleep, timeout};

/// How often a connection is asked whether its server lives, and is what it was.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Commands that are handed over at once; more wait in line.
const QUEUE: usize = 1024;

/// Takes what a connection brings unasked, on the connection's own task.
pub(super) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// What a connection is for.
#[derive(Clone)]
pub(super) struct Manner {
    pub(super) number: u64,
    /// A command that takes longer has an unknown outcome.
    pub(super) answer_time: Duration,
    pub(super) on_push: Option<OnPush>,
    /// With a node of a cluster: told when the node says that slots are elsewhere.
    pub(super) stirred: Option<Arc<Notify>>,
}

/// Why a connection was left.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("closed")]
    Closed,
    #[error("{0}")]
    Failed(StoreError),
    #[error("the server is a replica now")]
    Replica,
    #[error("the server has begun another lifetime")]
    Lifetime,
    #[error("the sentinels name {0}")]
    Elsewhere(Address),
    #[error("what it publishes does not come back")]
    Deaf,
}

impl Ended {
    /// All labels.
    pub(super) const LABELS: [&'static str; 6] = [
        "closed",
        "failed",
        "replica",
        "lifetime",
        "elsewhere",
        "deaf",
    ];

    /// The reason as a metric has it.
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

/// The word that publishes to topics: in a cluster to those of the node alone.
pub(super) const fn publish_word(is_cluster: bool) -> &'static str {
    if is_cluster { "SPUBLISH" } else { "PUBLISH" }
}

/// A connection that was found good; clones share it.
#[derive(Clone)]
pub(super) struct Connection {
    /// Counts upwards the connections of all links of one store or feed.
    pub(super) number: u64,
    /// The server lifetime that it began under.
    pub(super) generation: Generation,
    answer_time: Duration,
    commands: MultiplexedConnection,
    driver: AbortHandle,
    stirred: Option<Arc<Notify>>,
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
        let replies = self.ask(pipeline, skip, count).await?;
        self.examine(&replies)?;
        Ok(replies)
    }

    /// As [`Self::request`]; every refusal is a reply.
    pub(super) async fn ask(
        &self,
        pipeline: &Pipeline,
        skip: usize,
        count: usize,
    ) -> Result<Vec<Value>, StoreError> {
        let mut commands = self.commands.clone();
        self.in_time(commands.send_packed_commands(pipeline, skip, count))
            .await
    }

    /// Looks for refusals among replies.
    pub(super) fn examine(&self, replies: &[Value]) -> Result<(), StoreError> {
        for reply in replies {
            if let Value::ServerError(error) = reply {
                // A node that sends us elsewhere is good for all else.
                match &self.stirred {
                    Some(stirred) if is_redirect(error) => stirred.notify_one(),
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

    /// Follows topics; each is confirmed by a push, but those that are answered: a cluster has moved them.
    pub(super) async fn subscribe(&self, topics: &[Arc<str>]) -> Result<Vec<Arc<str>>, StoreError> {
        if self.stirred.is_none() {
            let mut commands = self.commands.clone();
            let topics: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
            self.in_time(commands.subscribe(topics)).await?;
            return Ok(Vec::new());
        }
        let mut pipeline = Pipeline::with_capacity(topics.len());
        for topic in topics {
            pipeline.cmd("SSUBSCRIBE").arg(&**topic);
        }
        let replies = self.ask(&pipeline, 0, topics.len()).await?;
        let mut moved = Vec::new();
        for (topic, reply) in topics.iter().zip(&replies) {
            match reply {
                Value::ServerError(error) if is_redirect(error) => moved.push(topic.clone()),
                _ => self.examine(std::slice::from_ref(reply))?,
            }
        }
        Ok(moved)
    }

    /// Follows topics no longer.
    pub(super) async fn unsubscribe(&self, topics: &[Arc<str>]) -> Result<(), StoreError> {
        if self.stirred.is_none() {
            let mut commands = self.commands.clone();
            let topics: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
            return self.in_time(commands.unsubscribe(topics)).await;
        }
        // In a transaction each, so that the number of answers is the same whether or not a slot has moved.
        let mut pipeline = Pipeline::with_capacity(3 * topics.len());
        for topic in topics {
            pipeline.cmd("MULTI");
            pipeline.cmd("SUNSUBSCRIBE").arg(&**topic);
            pipeline.cmd("EXEC");
        }
        self.ask(&pipeline, 0, 3 * topics.len()).await?;
        Ok(())
    }

    /// Says that slots may have moved.
    pub(super) fn stir(&self) {
        if let Some(stirred) = &self.stirred {
            stirred.notify_one();
        }
    }

    /// The word that publishes to the server's topics.
    pub(super) fn publish_word(&self) -> &'static str {
        publish_word(self.stirred.is_some())
    }

    /// Ends it for all that hold it. What was not answered stays unknown, what was not sent never will be.
    pub(super) fn close(&self) {
        self.driver.abort();
    }

    /// Makes the server know a script.
    pub(super) async fn load(&self, script: &Script) -> Result<(), StoreError> {
        let mut commands = self.commands.clone();
        self.in_time(script.load_async(&mut commands)).await?;
        Ok(())
    }

    /// Asks the server for its role and lifetime.
    pub(super) async fn server(&self) -> Result<ServerState, StoreError> {
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
        let answer = match timeout(self.answer_time, &mut answer).await {
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

/// A connection with the task that reads and writes it.
pub(super) struct Live {
    pub(super) connection: Connection,
    driver: JoinHandle<()>,
}

impl Live {
    /// Greets the server on a stream, in RESP3, where pushes come between the answers.
    pub(super) async fn begin<S>(
        settings: &RedisConnectionInfo,
        stream: S,
        manner: Manner,
    ) -> Result<Self, RedisError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // Without the name of the library: a user that may do only what is needed is refused it.
        let settings = settings
            .clone()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        // The time limit is ours: the crate's would let go of a command without closing the connection.
        let mut config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        if let Some(on_push) = manner.on_push {
            config = config.set_push_sender(move |push| {
                on_push(push);
                Ok::<(), Infallible>(())
            });
        }
        let (commands, driver) = if manner.stirred.is_some() {
            let stream = Unasked::new(stream);
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
                number: manner.number,
                generation: "".into(),
                answer_time: manner.answer_time,
                commands,
                driver: driver.abort_handle(),
                stirred: manner.stirred,
            },
            driver,
        })
    }

    /// Waits until the connection is of no use any more, and says why.
    pub(super) async fn ended(&mut self) -> Ended {
        loop {
            tokio::select! {
                _ = &mut self.driver => return Ended::Closed,
                () = sleep(PROBE_INTERVAL) => {}
            }
            match self.connection.server().await {
                Err(error) => return Ended::Failed(error),
                Ok(server) if !server.primary => return Ended::Replica,
                // Demoted and promoted again in between: others may have published elsewhere.
                Ok(server) if server.generation != self.connection.generation => {
                    return Ended::Lifetime;
                }
                Ok(_) => {}
            }
        }
    }

    /// Closes it, and returns when it can bring nothing more.
    pub(super) async fn close(mut self) {
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
