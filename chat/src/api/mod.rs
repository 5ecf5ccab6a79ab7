//! `chat.v1.ChatService`, for back ends: messages, members and history of channels, which channels there are, and what happens
//! in them.

mod channels;
mod history;
mod members;
mod messages;
pub(crate) mod pages;
mod watch;

use crate::access::Permit;
use crate::calls::send_stream::SendStream;
use crate::calls::{Calls, respond};
use crate::port::connections::Caller;
use crate::port::guard::Deadline;
use proto::chat::v1;
use proto::chat::v1::chat_service_server::ChatService;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// The contract for back ends. It converts, and [`Calls`] does the work.
pub(crate) struct Api(pub(crate) Arc<Calls>);

#[tonic::async_trait]
impl ChatService for Api {
    async fn send(
        &self,
        request: Request<v1::SendRequest>,
    ) -> Result<Response<v1::SendResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(messages::send(&self.0, &permit, request.into_inner()).await)
    }

    type SendStreamStream = SendStream<messages::Stream>;

    async fn send_stream(
        &self,
        request: Request<Streaming<v1::SendStreamRequest>>,
    ) -> Result<Response<Self::SendStreamStream>, Status> {
        respond(self.0.send_stream(request))
    }

    async fn batch_send(
        &self,
        request: Request<v1::BatchSendRequest>,
    ) -> Result<Response<v1::BatchSendResponse>, Status> {
        let deadline = Deadline::of(request.extensions());
        let permit = Permit::of(request.extensions());
        respond(messages::batch_send(&self.0, &permit, deadline, request.into_inner()).await)
    }

    async fn broadcast(
        &self,
        request: Request<v1::BroadcastRequest>,
    ) -> Result<Response<v1::BroadcastResponse>, Status> {
        let deadline = Deadline::of(request.extensions());
        let permit = Permit::of(request.extensions());
        respond(messages::broadcast(&self.0, &permit, deadline, request.into_inner()).await)
    }

    type WatchStream = watch::Events;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(request.extensions());
        let permit = Permit::of(request.extensions());
        let request = request.into_inner();
        respond(watch::begin(&self.0, caller.as_ref(), &permit, request))
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(history::read(&self.0, &permit, request.into_inner()).await)
    }

    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(members::join(&self.0, &permit, request.into_inner()).await)
    }

    async fn leave(
        &self,
        request: Request<v1::LeaveRequest>,
    ) -> Result<Response<v1::LeaveResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(members::leave(&self.0, &permit, request.into_inner()).await)
    }

    async fn list_members(
        &self,
        request: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(members::list(&self.0, &permit, request.into_inner()).await)
    }

    async fn count_members(
        &self,
        request: Request<v1::CountMembersRequest>,
    ) -> Result<Response<v1::CountMembersResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(channels::count_members(&self.0, &permit, request.into_inner()).await)
    }

    async fn get_channel(
        &self,
        request: Request<v1::GetChannelRequest>,
    ) -> Result<Response<v1::GetChannelResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(channels::get(&self.0, &permit, request.into_inner()).await)
    }

    async fn list_channels(
        &self,
        request: Request<v1::ListChannelsRequest>,
    ) -> Result<Response<v1::ListChannelsResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(channels::list(&self.0, &permit, request.into_inner()).await)
    }

    async fn trim_history(
        &self,
        request: Request<v1::TrimHistoryRequest>,
    ) -> Result<Response<v1::TrimHistoryResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(history::trim(&self.0, &permit, request.into_inner()).await)
    }

    async fn delete_channel(
        &self,
        request: Request<v1::DeleteChannelRequest>,
    ) -> Result<Response<v1::DeleteChannelResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(channels::delete(&self.0, &permit, request.into_inner()).await)
    }
}
