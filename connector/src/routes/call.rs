//! One handler of the operator, as requests of clients reach it.

use crate::grpc;
use crate::metering::OperatorCall;
use crate::operator::{Failure, Object, ObjectError, Service, object, within, words};
use prost::Message;
use proto::route::v1::handle_response::Content;
use proto::route::v1::route_handler_client::RouteHandlerClient;
use proto::route::v1::{HandleRequest, HandleResponse};
use std::sync::Arc;
use tokio::time::Instant;
use tonic::{Code, Status};

/// The fields of an answer around its JSON take fewer bytes than this.
const AROUND_JSON: usize = 16;

/// Why a call brought no reply for the client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The handler has as many calls under way as it may. Nothing was sent.
    #[error("{}", Failure::Overloaded)]
    Overloaded,
    /// There is no connection to the handler. Nothing was sent.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// The call was sent, and has no answer. It may have been done, or may still be done.
    #[error("no answer: {0}")]
    Unanswered(String),
    /// The handler does not know the route. Nothing was done.
    #[error("it does not know the route ({0})")]
    UnknownRoute(String),
    /// The handler has failed, or its answer can't be passed on. A part of the request may have been done.
    #[error("{0}")]
    Failed(String),
}

impl From<ObjectError> for CallError {
    fn from(error: ObjectError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Overloaded => Self::Overloaded,
            Failure::Unreachable(why) => Self::Unreachable(why),
            Failure::Late => Self::Unanswered(failure.to_string()),
            Failure::Status(status) => of_status(&status),
        }
    }
}

/// What a status means that is not one of a missing connection.
fn of_status(status: &Status) -> CallError {
    let words = words(status);
    if grpc::is_of_the_network(status) {
        return CallError::Unanswered(words);
    }
    match status.code() {
        Code::DeadlineExceeded => CallError::Unanswered(words),
        Code::Unimplemented => CallError::UnknownRoute(words),
        code => CallError::Failed(format!("{code:?}: {words}")),
    }
}

/// One handler of the operator.
pub(crate) struct Target {
    service: Arc<Service>,
    /// The most bytes of a reply.
    limit: usize,
}

impl Target {
    /// A reply may have `limit` bytes.
    pub(super) fn new(service: Arc<Service>, limit: usize) -> Arc<Self> {
        Arc::new(Self { service, limit })
    }

    /// Calls the handler, once. The reply is one JSON object.
    ///
    /// # Errors
    /// [`CallError`]. It is logged here.
    pub(crate) async fn call(
        &self,
        request: HandleRequest,
        deadline: Instant,
    ) -> Result<String, CallError> {
        let mut measured = OperatorCall::of_handler();
        let route = request.route.clone();
        let answer = self.ask(request, deadline).await;
        measured.outcome = match &answer {
            Ok(_) => "answered",
            Err(CallError::Overloaded) => "overloaded",
            Err(CallError::Unreachable(_)) => "unavailable",
            Err(CallError::Unanswered(_)) => "unanswered",
            Err(CallError::UnknownRoute(_) | CallError::Failed(_)) => "failed",
        };
        let handler = self.service.name();
        match &answer {
            Ok(_) => {}
            // The outage itself is logged once, when an attempt to connect fails.
            Err(error @ CallError::Unreachable(_)) => {
                tracing::debug!(handler, route, %error, "a handler is not called");
            }
            Err(error) => tracing::warn!(handler, route, %error, "a handler gives no reply"),
        }
        answer
    }

    async fn ask(&self, request: HandleRequest, deadline: Instant) -> Result<String, CallError> {
        let bytes = request.encoded_len();
        let limit = self.limit;
        let answer = self.service.call(bytes, deadline, |service| {
            let request = within(request.clone(), deadline);
            let client = RouteHandlerClient::new(service);
            let mut client = client.max_decoding_message_size(limit + AROUND_JSON);
            async move { client.handle(request).await }
        });
        let HandleResponse { content } = answer.await?;
        if request.notify {
            return Ok(String::new());
        }
        let content = content.map(|content| match content {
            Content::Body(object) => Object::Struct(object),
            Content::BodyJson(json) => Object::Json(json),
        });
        Ok(object(content, limit)?)
    }
}

#[cfg(test)]
impl Target {
    /// The service behind it.
    pub(super) fn service(&self) -> &Service {
        &self.service
    }
}
