//! A chat that answers what the test says, in the same process or behind a socket.

use crate::chat_client::{Answered, ChatService, TransportError};
use futures_util::Stream;
use futures_util::stream::poll_fn;
use prost::Message;
use proto::chat::v1::chat_service_server::{ChatService as BackEnds, ChatServiceServer};
use proto::chat::v1::{
    self as back_ends, HistoryRequest, HistoryResponse, ListMembersRequest, ListMembersResponse,
    Position,
};
use proto::connector::v1::send_outcome::Outcome;
use proto::connector::v1::session_service_server::{SessionService, SessionServiceServer};
use proto::connector::v1::{
    JoinRequest, JoinResponse, LeaveRequest, LeaveResponse, ProbeRequest, ProbeResponse,
    SendOutcome, SendStreamRequest, SendStreamResponse, SessionMessage,
};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use tokio::sync::{mpsc, oneshot};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt, pb};
use tower::util::{BoxCloneSyncService, MapErr};

/// A call that waits for the test's answer.
pub(crate) struct Call<Q, A> {
    pub(crate) request: Q,
    /// `None`: the task that serves the call panics.
    answer: oneshot::Sender<Option<Result<A, Status>>>,
}

/// A call that has reached the chat.
pub(crate) enum Called {
    Join(Call<JoinRequest, JoinResponse>),
    Leave(Call<LeaveRequest, LeaveResponse>),
    Stream(Call<Streaming<SendStreamRequest>, Answers>),
    Members(Call<ListMembersRequest, ListMembersResponse>),
    History(Call<HistoryRequest, HistoryResponse>),
    Probe(Call<ProbeRequest, ProbeResponse>),
}

type Answers = mpsc::UnboundedReceiver<Result<SendStreamResponse, Status>>;

/// The test's side of a chat.
pub(crate) struct Instance {
    calls: mpsc::UnboundedReceiver<Called>,
    pub(crate) service: ChatService,
}

/// The chat's side of a stream.
pub(crate) struct Sends {
    requests: Streaming<SendStreamRequest>,
    answers: mpsc::UnboundedSender<Result<SendStreamResponse, Status>>,
    read: VecDeque<SessionMessage>,
}

#[derive(Clone)]
pub(crate) struct Fake(mpsc::UnboundedSender<Called>);

/// An instance, and the service that it is called by.
pub(crate) fn fake() -> (Routes, mpsc::UnboundedReceiver<Called>) {
    let (sender, calls) = mpsc::unbounded_channel();
    let fake = Fake(sender);
    let service = Routes::new(SessionServiceServer::new(fake.clone()));
    (service.add_service(ChatServiceServer::new(fake)), calls)
}

impl Fake {
    async fn ask<Q, A>(
        &self,
        request: Q,
        called: impl FnOnce(Call<Q, A>) -> Called,
    ) -> Result<A, Status> {
        let (answer, answered) = oneshot::channel();
        let gone = || Status::unavailable("the instance is gone");
        self.0
            .send(called(Call { request, answer }))
            .map_err(|_| gone())?;
        let answer = answered.await.map_err(|_| gone())?;
        answer.expect("the test says that this is a bug")
    }
}

#[tonic::async_trait]
impl SessionService for Fake {
    type SendStreamStream = Pin<Box<dyn Stream<Item = Result<SendStreamResponse, Status>> + Send>>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let answer = self.ask(request.into_inner(), Called::Join).await;
        answer.map(Response::new)
    }

    async fn leave(
        &self,
        request: Request<LeaveRequest>,
    ) -> Result<Response<LeaveResponse>, Status> {
        let answer = self.ask(request.into_inner(), Called::Leave).await;
        answer.map(Response::new)
    }

    async fn send_stream(
        &self,
        request: Request<Streaming<SendStreamRequest>>,
    ) -> Result<Response<Self::SendStreamStream>, Status> {
        let mut answers = self.ask(request.into_inner(), Called::Stream).await?;
        Ok(Response::new(Box::pin(poll_fn(move |context| {
            answers.poll_recv(context)
        }))))
    }

    async fn probe(
        &self,
        request: Request<ProbeRequest>,
    ) -> Result<Response<ProbeResponse>, Status> {
        let answer = self.ask(request.into_inner(), Called::Probe).await;
        answer.map(Response::new)
    }
}

/// Connectors only read through the contract for back ends.
fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("connectors write as sessions"))
}

#[tonic::async_trait]
impl BackEnds for Fake {
    async fn send(
        &self,
        _: Request<back_ends::SendRequest>,
    ) -> Result<Response<back_ends::SendResponse>, Status> {
        unused()
    }

    type SendStreamStream =
        Pin<Box<dyn Stream<Item = Result<back_ends::SendStreamResponse, Status>> + Send>>;

    async fn send_stream(
        &self,
        _: Request<Streaming<back_ends::SendStreamRequest>>,
    ) -> Result<Response<Self::SendStreamStream>, Status> {
        unused()
    }

    async fn batch_send(
        &self,
        _: Request<back_ends::BatchSendRequest>,
    ) -> Result<Response<back_ends::BatchSendResponse>, Status> {
        unused()
    }

    async fn broadcast(
        &self,
        _: Request<back_ends::BroadcastRequest>,
    ) -> Result<Response<back_ends::BroadcastResponse>, Status> {
        unused()
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<back_ends::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        _: Request<back_ends::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        unused()
    }

    async fn join(
        &self,
        _: Request<back_ends::JoinRequest>,
    ) -> Result<Response<back_ends::JoinResponse>, Status> {
        unused()
    }

    async fn leave(
        &self,
        _: Request<back_ends::LeaveRequest>,
    ) -> Result<Response<back_ends::LeaveResponse>, Status> {
        unused()
    }

    async fn count_members(
        &self,
        _: Request<back_ends::CountMembersRequest>,
    ) -> Result<Response<back_ends::CountMembersResponse>, Status> {
        unused()
    }

    async fn get_channel(
        &self,
        _: Request<back_ends::GetChannelRequest>,
    ) -> Result<Response<back_ends::GetChannelResponse>, Status> {
        unused()
    }

    async fn list_channels(
        &self,
        _: Request<back_ends::ListChannelsRequest>,
    ) -> Result<Response<back_ends::ListChannelsResponse>, Status> {
        unused()
    }

    async fn trim_history(
        &self,
        _: Request<back_ends::TrimHistoryRequest>,
    ) -> Result<Response<back_ends::TrimHistoryResponse>, Status> {
        unused()
    }

    async fn delete_channel(
        &self,
        _: Request<back_ends::DeleteChannelRequest>,
    ) -> Result<Response<back_ends::DeleteChannelResponse>, Status> {
        unused()
    }

    async fn list_members(
        &self,
        request: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        let answer = self.ask(request.into_inner(), Called::Members).await;
        answer.map(Response::new)
    }

    async fn history(
        &self,
        request: Request<HistoryRequest>,
    ) -> Result<Response<HistoryResponse>, Status> {
        let answer = self.ask(request.into_inner(), Called::History).await;
        answer.map(Response::new)
    }
}

impl Instance {
    /// A chat in this process. Without a socket, time can be paused.
    pub(crate) fn new() -> Self {
        let (server, calls) = fake();
        let service = MapErr::new(server, |never: Infallible| TransportError::new(never));
        Self {
            calls,
            service: BoxCloneSyncService::new(service),
        }
    }

    pub(crate) async fn next(&mut self) -> Called {
        super::soon(self.calls.recv()).await.unwrap()
    }

    pub(crate) async fn stream_call(&mut self) -> Call<Streaming<SendStreamRequest>, Answers> {
        match self.next().await {
            Called::Stream(call) => call,
            _ => panic!("the connector makes another call than a stream"),
        }
    }

    /// Waits for a stream of the connector, and accepts it.
    pub(crate) async fn stream(&mut self) -> Sends {
        self.stream_call().await.accept()
    }

    pub(crate) async fn join(&mut self) -> Call<JoinRequest, JoinResponse> {
        match self.next().await {
            Called::Join(call) => call,
            _ => panic!("the connector makes another call than a join"),
        }
    }

    pub(crate) async fn leave(&mut self) -> Call<LeaveRequest, LeaveResponse> {
        match self.next().await {
            Called::Leave(call) => call,
            _ => panic!("the connector makes another call than a leave"),
        }
    }

    pub(crate) async fn members(&mut self) -> Call<ListMembersRequest, ListMembersResponse> {
        match self.next().await {
            Called::Members(call) => call,
            _ => panic!("the connector makes another call than ListMembers"),
        }
    }

    pub(crate) async fn history(&mut self) -> Call<HistoryRequest, HistoryResponse> {
        match self.next().await {
            Called::History(call) => call,
            _ => panic!("the connector makes another call than History"),
        }
    }

    pub(crate) async fn nobody_calls(&mut self) {
        super::let_run().await;
        assert!(self.calls.try_recv().is_err(), "the connector makes a call");
    }
}

impl<Q, A> Call<Q, A> {
    pub(crate) fn answer(self, answer: Result<A, Status>) -> Q {
        // The caller may have given up.
        let _ = self.answer.send(Some(answer));
        self.request
    }

    /// Lets the task that serves the call panic. In one process this is the caller's own task.
    pub(crate) fn panic(self) {
        let _ = self.answer.send(None);
    }
}

impl Call<Streaming<SendStreamRequest>, Answers> {
    pub(crate) fn accept(self) -> Sends {
        let (answers, receiver) = mpsc::unbounded_channel();
        Sends {
            requests: self.answer(Ok(receiver)),
            answers,
            read: VecDeque::new(),
        }
    }
}

/// The answer to a join that published `onJoin` at this position.
pub(crate) fn joined(epoch: &str, offset: u64) -> JoinResponse {
    JoinResponse {
        position: Some(Position {
            epoch: epoch.into(),
            offset,
        }),
        published: true,
        trimmed: 0,
        life: "life".into(),
        deletion: String::new(),
    }
}

/// The same, as a membership takes it.
pub(crate) fn answered(repeated: bool) -> Answered<JoinResponse> {
    Answered {
        answer: joined("a", 1),
        repeated,
    }
}

impl Sends {
    /// The frame that comes next, as it is.
    pub(crate) async fn frame(&mut self) -> Option<Vec<SessionMessage>> {
        let frame = super::soon(self.requests.message()).await;
        frame.ok().flatten().map(|frame| frame.messages)
    }

    /// The key of the send that comes next.
    pub(crate) async fn next(&mut self) -> String {
        while self.read.is_empty() {
            let frame = self.frame().await.expect("the stream goes on");
            self.read.extend(frame);
        }
        self.read.pop_front().unwrap().idempotency_key
    }

    /// The keys of the next `count` sends, which stay unanswered.
    pub(crate) async fn keys(&mut self, count: usize) -> Vec<String> {
        let mut keys = Vec::new();
        while keys.len() < count {
            keys.push(self.next().await);
        }
        keys
    }

    /// Answers the next send, and returns its key.
    pub(crate) async fn take(&mut self) -> String {
        let key = self.next().await;
        self.sent();
        key
    }

    /// Answers the oldest send that has no answer: it is in the log.
    pub(crate) fn sent(&self) {
        self.answer(Outcome::Sent(Position::default()));
    }

    /// Answers the oldest send that has no answer: it is refused.
    pub(crate) fn refuse(&self, reason: &str) {
        let details = ErrorDetails::with_error_info(reason, "chat.v1", []);
        let status = Status::with_error_details(Code::FailedPrecondition, "", details);
        let status = pb::Status::decode(status.details()).unwrap();
        self.answer(Outcome::Refused(status));
    }

    fn answer(&self, outcome: Outcome) {
        let outcome = Some(outcome);
        let outcomes = vec![SendOutcome { outcome }];
        let _ = self.answers.send(Ok(SendStreamResponse { outcomes }));
    }

    /// Waits until the connector has ended the stream.
    pub(crate) async fn ended(&self) {
        super::soon(self.answers.closed()).await;
    }

    /// Ends the stream with this status.
    pub(crate) fn end(self, status: Status) {
        let _ = self.answers.send(Err(status));
    }

    /// Ends the stream as chat does when the store is full.
    pub(crate) fn full(self) {
        let details = ErrorDetails::with_error_info("STORE_FULL", "chat.v1", []);
        let code = Code::ResourceExhausted;
        self.end(Status::with_error_details(
            code,
            "the test says so",
            details,
        ));
    }

    pub(crate) fn fail(self) {
        let _ = self
            .answers
            .send(Err(Status::unavailable("the test says so")));
    }
}
