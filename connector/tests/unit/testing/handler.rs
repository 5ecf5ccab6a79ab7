//! A handler of the operator that answers what the test says, in the same process or behind a socket.

use crate::grpc::{GrpcService, TransportError};
use proto::route::v1::handle_response::Content;
use proto::route::v1::route_handler_server::{RouteHandler, RouteHandlerServer};
use proto::route::v1::{HandleRequest, HandleResponse};
use std::convert::Infallible;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};
use tower::util::{BoxCloneSyncService, MapErr};

/// A call that waits for the test's answer.
pub(crate) struct Call {
    pub(crate) request: HandleRequest,
    answer: oneshot::Sender<Result<HandleResponse, Status>>,
}

/// The test's side of a handler.
pub(crate) struct Handler(mpsc::UnboundedReceiver<Call>);

pub(crate) struct Fake(mpsc::UnboundedSender<Call>);

#[tonic::async_trait]
impl RouteHandler for Fake {
    async fn handle(
        &self,
        request: Request<HandleRequest>,
    ) -> Result<Response<HandleResponse>, Status> {
        let (answer, answered) = oneshot::channel();
        let request = request.into_inner();
        let gone = || Status::unavailable("the test is over");
        self.0.send(Call { request, answer }).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?.map(Response::new)
    }
}

impl Handler {
    /// A handler, and the service that it is called by.
    pub(crate) fn new() -> (Self, RouteHandlerServer<Fake>) {
        let (sender, calls) = mpsc::unbounded_channel();
        (Self(calls), RouteHandlerServer::new(Fake(sender)))
    }

    /// A handler in this process. Without a socket, time can be paused.
    pub(crate) fn in_process() -> (Self, GrpcService) {
        let (handler, server) = Self::new();
        let service = MapErr::new(server, |never: Infallible| TransportError::new(never));
        (handler, BoxCloneSyncService::new(service))
    }

    pub(crate) async fn next(&mut self) -> Call {
        super::soon(self.0.recv()).await.unwrap()
    }

    pub(crate) async fn nobody_calls(&mut self) {
        super::let_run().await;
        assert!(self.0.try_recv().is_err(), "the connector calls a handler");
    }
}

impl Call {
    /// Answers with this JSON.
    pub(crate) fn answer(self, json: &str) -> HandleRequest {
        self.respond(Ok(HandleResponse {
            content: Some(Content::BodyJson(json.into())),
        }))
    }

    pub(crate) fn respond(self, answer: Result<HandleResponse, Status>) -> HandleRequest {
        // The caller may have given up.
        let _ = self.answer.send(answer);
        self.request
    }

    /// Waits until the connector has cancelled the call.
    pub(crate) async fn cancelled(&mut self) {
        super::soon(self.answer.closed()).await;
    }
}
