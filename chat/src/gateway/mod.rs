//! `connector.v1.SessionService`, for connectors: sessions that join, leave and send, and the proof that a connector and
//! this chat use the same store.

mod probe;
mod sends;
mod sessions;

use crate::calls::send_stream::SendStream;
use crate::calls::{Calls, respond};
use proto::connector::v1;
use proto::connector::v1::session_service_server::SessionService;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// The contract for connectors. It converts, and [`Calls`] does the work.
pub(crate) struct Gateway(pub(crate) Arc<Calls>);

#[tonic::async_trait]
impl SessionService for Gateway {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        respond(sessions::join(&self.0, request.into_inner()).await)
    }

    async fn leave(
        &self,
        request: Request<v1::LeaveRequest>,
    ) -> Result<Response<v1::LeaveResponse>, Status> {
        respond(sessions::leave(&self.0, request.into_inner()).await)
    }

    type SendStreamStream = SendStream<sends::Stream>;

    async fn send_stream(
        &self,
        request: Request<Streaming<v1::SendStreamRequest>>,
    ) -> Result<Response<Self::SendStreamStream>, Status> {
        respond(self.0.send_stream(request))
    }

    async fn probe(
        &self,
        request: Request<v1::ProbeRequest>,
    ) -> Result<Response<v1::ProbeResponse>, Status> {
        respond(probe::probe(&self.0, request.into_inner()).await)
    }
}
