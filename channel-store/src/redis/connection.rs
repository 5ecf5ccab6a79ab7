//! One connection, and the rule that makes its order worth something: what is polled first is sent first, and what was
//! given up is never sent.
//!
//! A command that is not answered in time ends the connection for everybody, at once. Otherwise one that was queued
//! behind it could still take effect while it itself is repeated elsewhere, and a sender's messages would change places.

use super::reply::{self, ServerState, refusal, unavailable, wants_another_connection};
use crate::store::{Generation, StoreError};
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
use tokio::task::{AbortHandle, JoinHandle, coop::unconstrained};
use tokio::time::{sleep, timeout};

/// A command that takes longer has an unknown outcome.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// How often a connection is asked whether its server lives, and is what it was.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Commands that are handed over at once; more wait in line.
const QUEUE: usize = 1024;

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

/// A connection with the task that reads and writes it.
pub(super) struct Live {
    pub(super) connection: Connection,
    driver: JoinHandle<()>,
}

impl Live {
    /// Greets the server on a stream, in RESP3, where pushes come between the answers.
    pub(super) async fn begin<S>(
        number: u64,
        settings: &RedisConnectionInfo,
        stream: S,
        on_push: Option<OnPush>,
    ) -> Result<Self, RedisError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let settings = settings.clone().set_protocol(ProtocolVersion::RESP3);
        // The time limit is ours: the crate's would let go of a command without closing the connection.
        let mut config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        if let Some(on_push) = on_push {
            config = config.set_push_sender(move |push| {
                on_push(push);
                Ok::<(), Infallible>(())
            });
        }
        let (commands, driver) =
            MultiplexedConnection::new_with_config(&settings, stream, config).await?;
        let driver = tokio::spawn(driver);
        Ok(Self {
            connection: Connection {
                number,
                generation: "".into(),
                commands,
                driver: driver.abort_handle(),
            },
            driver,
        })
    }

    /// Waits until the connection is of no use any more, and says why.
    pub(super) async fn ended(&mut self) -> String {
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
