//! A hook of the operator that answers what the test says, in the same process or behind a socket.

use crate::access::{AccessControl, Hook, HookSettings, Rules};
use crate::grpc::{GrpcService, TransportError};
use crate::operator::Service;
use channel_rules::ChannelRule;
use proto::access::v1::access_hook_server::{AccessHook, AccessHookServer};
use proto::access::v1::{
    AuthorizeChannelsRequest, AuthorizeChannelsResponse, AuthorizeSendRequest,
    AuthorizeSendResponse, ChannelAnswer, LoginRequest, LoginResponse, RefreshRequest,
    RefreshResponse,
};
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};
use tower::util::{BoxCloneSyncService, MapErr};

/// A call that waits for the test's answer.
#[derive(Debug)]
pub(crate) struct Call<Q, A> {
    pub(crate) request: Q,
    answer: oneshot::Sender<Result<A, Status>>,
}

impl<Q, A> Call<Q, A> {
    pub(crate) fn answer(self, answer: A) -> Q {
        self.respond(Ok(answer))
    }

    pub(crate) fn respond(self, answer: Result<A, Status>) -> Q {
        // The caller may have given up.
        let _ = self.answer.send(answer);
        self.request
    }

    /// Waits until the connector has cancelled the call.
    pub(crate) async fn cancelled(&mut self) {
        super::soon(self.answer.closed()).await;
    }
}

/// A call that has reached the hook.
#[derive(Debug)]
pub(crate) enum Asked {
    Login(Call<LoginRequest, LoginResponse>),
    Refresh(Call<RefreshRequest, RefreshResponse>),
    Channels(Call<AuthorizeChannelsRequest, AuthorizeChannelsResponse>),
    Send(Call<AuthorizeSendRequest, AuthorizeSendResponse>),
}

/// The test's side of a hook.
pub(crate) struct Operator(mpsc::UnboundedReceiver<Asked>);

pub(crate) struct Fake(mpsc::UnboundedSender<Asked>);

impl Fake {
    async fn ask<Q, A>(
        &self,
        request: Request<Q>,
        asked: impl FnOnce(Call<Q, A>) -> Asked,
    ) -> Result<Response<A>, Status> {
        let (answer, answered) = oneshot::channel();
        let request = request.into_inner();
        let gone = || Status::internal("the test is over");
        let call = asked(Call { request, answer });
        self.0.send(call).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?.map(Response::new)
    }
}

#[tonic::async_trait]
impl AccessHook for Fake {
    async fn login(&self, it: Request<LoginRequest>) -> Result<Response<LoginResponse>, Status> {
        self.ask(it, Asked::Login).await
    }

    async fn refresh(
        &self,
        it: Request<RefreshRequest>,
    ) -> Result<Response<RefreshResponse>, Status> {
        self.ask(it, Asked::Refresh).await
    }

    async fn authorize_channels(
        &self,
        it: Request<AuthorizeChannelsRequest>,
    ) -> Result<Response<AuthorizeChannelsResponse>, Status> {
        self.ask(it, Asked::Channels).await
    }

    async fn authorize_send(
        &self,
        it: Request<AuthorizeSendRequest>,
    ) -> Result<Response<AuthorizeSendResponse>, Status> {
        self.ask(it, Asked::Send).await
    }
}

/// Picks one kind of call.
macro_rules! kind {
    ($name:ident, $variant:ident, $request:ty, $response:ty) => {
        pub(crate) async fn $name(&mut self) -> Call<$request, $response> {
            match self.next().await {
                Asked::$variant(call) => call,
                other => panic!("another call: {other:?}"),
            }
        }
    };
}

impl Operator {
    /// A hook, and the server that it is called by.
    pub(crate) fn new() -> (Self, AccessHookServer<Fake>) {
        let (sender, calls) = mpsc::unbounded_channel();
        (Self(calls), AccessHookServer::new(Fake(sender)))
    }

    /// A hook in this process. Without a socket, time can be paused.
    pub(crate) fn in_process() -> (Self, GrpcService) {
        let (operator, server) = Self::new();
        let service = MapErr::new(server, |never: Infallible| TransportError::new(never));
        (operator, BoxCloneSyncService::new(service))
    }

    pub(crate) async fn next(&mut self) -> Asked {
        super::soon(self.0.recv())
            .await
            .expect("the connector is there")
    }

    kind!(login, Login, LoginRequest, LoginResponse);
    kind!(refresh, Refresh, RefreshRequest, RefreshResponse);
    kind!(
        channels,
        Channels,
        AuthorizeChannelsRequest,
        AuthorizeChannelsResponse
    );
    kind!(send, Send, AuthorizeSendRequest, AuthorizeSendResponse);

    pub(crate) async fn nobody_calls(&mut self) {
        super::let_run().await;
        assert!(self.0.try_recv().is_err(), "the connector asks the hook");
    }
}

impl Call<AuthorizeChannelsRequest, AuthorizeChannelsResponse> {
    /// Allows what is asked about in these channels, and nothing in the others, for so many seconds.
    pub(crate) fn allow(self, channels: &[&str], seconds: i64) -> AuthorizeChannelsRequest {
        let questions = self.request.channels.iter();
        let allowed = questions.filter(|it| channels.contains(&&*it.channel));
        let allowed = allowed.map(|question| ChannelAnswer {
            channel: question.channel.clone(),
            allowed: question.rights.clone(),
        });
        let answer = AuthorizeChannelsResponse {
            channels: allowed.collect(),
            cache_ttl: Some(prost_types::Duration { seconds, nanos: 0 }),
        };
        self.answer(answer)
    }
}

pub(crate) fn rules(toml: &str) -> Rules {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        channel: Vec<ChannelRule>,
    }
    let File { channel } = toml::from_str(toml).unwrap();
    Rules::new(&channel).unwrap()
}

/// A message may have so many bytes in these tests.
pub(crate) const LIMIT: usize = 1 << 10;

/// A connector that asks this hook, about logins, too, if that is wanted.
pub(crate) fn asking(
    service: GrpcService,
    in_flight: u32,
    is_for_logins: bool,
    toml: &str,
) -> Arc<AccessControl> {
    let settings = HookSettings {
        in_flight,
        ..HookSettings::default()
    };
    let service = Service::in_process("access", service, in_flight as usize);
    let hook = Hook::in_process(service, &settings, is_for_logins, LIMIT);
    AccessControl::with_hook(hook, is_for_logins, rules(toml))
}

/// How long a decision may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(1);
