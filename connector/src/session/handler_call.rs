//! Requests for the handlers of the operator.

use super::replies::Answer;
use super::{Handlers, Session, parameters};
use crate::metering::count_late_handler_request;
use crate::routes::CallError;
use bytes::Bytes;
use proto::route::v1::HandleRequest;
use tokio::time::Instant;
use wire::{Reason, Refusal, Request, RequestBody};

impl Handlers {
    /// Passes a request to the handler for its route, and waits for the reply.
    ///
    /// `None`: the connector has ended the connection, or the socket has broken. Then the call is cancelled, or not even
    /// begun. What a client sent before it closed in the usual way is carried out, as everything else is (K3).
    pub(super) async fn call_handler(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Option<Answer> {
        let Some(target) = self.services.routes.find(&request.route) else {
            return Some(Err(Reason::UnknownRoute.into()));
        };
        let Some(session) = &self.session else {
            return Some(Err(Reason::NotLoggedIn.into()));
        };
        let call = match self.handle_request(session, request) {
            Ok(call) => call,
            Err(refusal) => return Some(Err(refusal)),
        };
        if Instant::now() >= deadline {
            count_late_handler_request();
            return Some(Err(Reason::Unavailable.into()));
        }
        tokio::select! {
            biased;
            _ = self.connection.closed() => None,
            reply = target.call(call, deadline) => Some(match reply {
                Ok(json) => Ok(json.into()),
                Err(error) => Err(refusal(&error)),
            }),
        }
    }

    fn handle_request(
        &self,
        session: &Session,
        request: &Request,
    ) -> Result<HandleRequest, Refusal> {
        let body = match &request.body {
            RequestBody::Object(body) => body.clone(),
            RequestBody::Empty => Bytes::from_static(b"{}"),
            RequestBody::Unusable => return Err(Reason::InvalidBody.into()),
        };
        let key = parameters::key(request.key.clone())?;
        let channels = session.channels.iter();
        let mut channels: Vec<_> = channels
            .map(|joined| joined.membership.channel().to_string())
            .collect();
        channels.sort_unstable();
        Ok(HandleRequest {
            route: request.route.to_string(),
            body_json: body,
            user: session.user.id.to_string(),
            user_is_number: session.user.is_number,
            session: session.id.to_string(),
            request: session.window.next_key(),
            idempotency_key: key.map(String::from).unwrap_or_default(),
            notify: request.id.is_none(),
            connector: self.services.routes.connector().to_owned(),
            protocol: self.connection.format().name().to_owned(),
            channels,
        })
    }
}

/// What the client is told. Nothing of the handler's own words reaches it.
fn refusal(error: &CallError) -> Refusal {
    match error {
        CallError::Overloaded => Reason::TryLater,
        CallError::Unreachable(_) => Reason::Unavailable,
        CallError::Unanswered(_) => Reason::UnknownOutcome,
        CallError::UnknownRoute(_) => Reason::UnknownRoute,
        CallError::Failed(_) => Reason::HandlerFailed,
    }
    .into()
}
