//! The calls of `chat.v1`: each is checked, handed to the store, and answered.

use crate::aftercare::Aftercare;
use crate::callers::Caller;
use crate::config::Limits;
use crate::error::Error;
use crate::send_stream::SendStream;
use crate::streams::Streams;
use crate::{history, metering, validate};
use channel_store::probe::{ProbeOutcome, Probed};
use channel_store::{ChannelStore, Membership, Position, Published};
use proto::v1;
use proto::v1::chat_service_server::ChatService;
use runtime::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};

/// Chat itself: it keeps nothing between calls that would be missed, so any number of them can share a store.
pub struct Chat {
    store: Arc<dyn ChannelStore>,
    aftercare: Arc<Aftercare>,
    limits: Limits,
    shutdown: Shutdown,
    streams: Arc<Streams>,
    /// For streams that come without a connection.
    here: Arc<Caller>,
}

impl Chat {
    pub(crate) fn new(
        store: Arc<dyn ChannelStore>,
        aftercare: Arc<Aftercare>,
        limits: Limits,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            streams: Streams::new(limits.streams),
            here: Caller::here(),
            store,
            aftercare,
            limits,
            shutdown,
        }
    }

    async fn join(&self, request: v1::JoinRequest) -> Result<v1::JoinResponse, Error> {
        let join = validate::join(request)?;
        let channel = join.channel.clone();
        let is_detached = matches!(join.membership, Membership::Detached);
        if is_detached && !self.aftercare.has_room_for_detached_in(&channel) {
            return Err(Error::Overloaded);
        }
        let joined = self.store.join(join).await?;
        self.aftercare.meets(&channel);
        if is_detached {
            self.aftercare.expects_the_end_in(&channel);
        }
        Ok(v1::JoinResponse {
            position: Some(position(&joined.position)),
            published: joined.published,
        })
    }

    async fn leave(&self, request: v1::LeaveRequest) -> Result<v1::LeaveResponse, Error> {
        let left = self.store.leave(validate::leave(request)?).await?;
        Ok(v1::LeaveResponse { left })
    }

    async fn send(&self, request: v1::SendRequest) -> Result<v1::SendResponse, Error> {
        let publish = validate::send(request, self.limits.message)?;
        Ok(sent(&self.store.publish(publish).await?))
    }

    fn send_stream(
        &self,
        request: Request<Streaming<v1::SendStreamRequest>>,
    ) -> Result<SendStream, Error> {
        let caller = Caller::of(request.extensions());
        let place = self.streams.enter(caller.as_ref().unwrap_or(&self.here))?;
        let requests = request.into_inner();
        let publisher = self.store.publisher()?;
        Ok(SendStream::new(
            requests,
            publisher,
            self.limits.clone(),
            self.shutdown.clone(),
            place,
        ))
    }

    async fn members(&self, request: v1::MembersRequest) -> Result<v1::MembersResponse, Error> {
        let page = validate::members(request)?;
        let answer = self
            .store
            .members(&page.channel, page.token.as_deref(), page.size)
            .await?;
        if page.token.is_none() {
            self.aftercare.meets(&page.channel);
        }
        let member = |(user, sessions): (channel_store::UserId, u32)| v1::Member {
            user: user.as_str().to_owned(),
            sessions,
        };
        Ok(v1::MembersResponse {
            members: answer.members.into_iter().map(member).collect(),
            users: answer.users,
            next_page_token: answer
                .next
                .map(|token| history::bound(&page.channel, &token))
                .unwrap_or_default(),
        })
    }

    async fn history(&self, request: v1::HistoryRequest) -> Result<v1::HistoryResponse, Error> {
        history::page(&*self.store, validate::history(request)?).await
    }

    async fn probe(&self, request: v1::ProbeRequest) -> Result<v1::ProbeResponse, Error> {
        let probe = validate::probe(request)?;
        let probed = self.store.probe(&probe).await;
        let settings = self.store.settings();
        Ok(v1::ProbeResponse {
            probed: probed.into_iter().map(probed_as_told).collect(),
            settings: Some(v1::Settings {
                prefix: settings.prefix,
                database: settings.database,
                lease_milliseconds: milliseconds(settings.lease),
                ack_replicas: settings.ack_replicas,
                log_life_milliseconds: milliseconds(settings.log_life),
                message_limit: self.limits.message as u64,
            }),
        })
    }
}

/// The answer to a send, counted.
pub(crate) fn sent(published: &Published) -> v1::SendResponse {
    metering::sent(published);
    v1::SendResponse {
        position: Some(position(&published.position)),
        time: i64::try_from(published.time).unwrap_or(i64::MAX),
        reached: published.reached,
    }
}

pub(crate) fn position(position: &Position) -> v1::Position {
    v1::Position {
        epoch: position.epoch.as_str().to_owned(),
        offset: position.offset,
    }
}

fn probed_as_told(probed: Probed) -> v1::Probed {
    let outcome = match probed.outcome {
        ProbeOutcome::Written(at) => v1::probed::Outcome::Written(position(&at)),
        ProbeOutcome::Refused(words) => v1::probed::Outcome::Refused(words),
        ProbeOutcome::Unanswered(words) => v1::probed::Outcome::Unanswered(words),
    };
    v1::Probed {
        outcome: Some(outcome),
        server: probed.server,
        lifetime: probed.lifetime.to_string(),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn respond<T>(answer: Result<T, Error>) -> Result<Response<T>, Status> {
    answer.map(Response::new).map_err(|error| {
        metering::refused(&error);
        error.into()
    })
}

#[tonic::async_trait]
impl ChatService for Chat {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        respond(self.join(request.into_inner()).await)
    }

    async fn leave(
        &self,
        request: Request<v1::LeaveRequest>,
    ) -> Result<Response<v1::LeaveResponse>, Status> {
        respond(self.leave(request.into_inner()).await)
    }

    async fn send(
        &self,
        request: Request<v1::SendRequest>,
    ) -> Result<Response<v1::SendResponse>, Status> {
        respond(self.send(request.into_inner()).await)
    }

    type SendStreamStream = SendStream;

    async fn send_stream(
        &self,
        request: Request<Streaming<v1::SendStreamRequest>>,
    ) -> Result<Response<SendStream>, Status> {
        respond(self.send_stream(request))
    }

    async fn members(
        &self,
        request: Request<v1::MembersRequest>,
    ) -> Result<Response<v1::MembersResponse>, Status> {
        respond(self.members(request.into_inner()).await)
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        respond(self.history(request.into_inner()).await)
    }

    async fn probe(
        &self,
        request: Request<v1::ProbeRequest>,
    ) -> Result<Response<v1::ProbeResponse>, Status> {
        respond(self.probe(request.into_inner()).await)
    }
}
