//! Bounds around every call of chat's own services: how many calls at once, how many bytes of requests and answers, and how
//! long a call may take. A call beyond a bound is refused with a proper status.
//!
//! A call counts from the moment when its whole request is there until its answer is there. So a caller that sends half a
//! request takes no place from others; the bytes that it has sent count meanwhile. A send stream bounds itself, and
//! [`super::streams`] bounds how many there are.
//!
//! These are not tower's layers for load shedding, concurrency and timeouts, because every bound here is shared fairly among
//! callers ([`super::share`]), bytes are bounded as well as calls, the time of a call includes the arrival of its request, and a
//! caller may ask for less time.

use super::connections::Caller;
use super::request_body::{self, Metered};
use super::response_body;
use super::share::{Share, Taken};
use crate::access::Permit;
use crate::config::Limits;
use crate::error::{Error, of_transport};
use crate::metering;
use futures_util::future::BoxFuture;
use http::{Extensions, HeaderMap, Request, Response};
use http_body::Body as _;
use runtime::pace::Rate;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

/// How many bytes an answer without a page counts before it is there.
const SMALL_ANSWER: usize = 1024;
/// The same for the outcomes of a batch.
const BATCH_ANSWER: usize = 32 * 1024;
/// The same for those of a broadcast.
const BROADCAST_ANSWER: usize = 256 * 1024;
/// The same for a page of members.
const MEMBERS_ANSWER: usize = 256 * 1024;
/// The same for a page of channels, or the members of many channels counted.
const CHANNELS_ANSWER: usize = 384 * 1024;
/// The same for a page of history, without its last message.
const HISTORY_ANSWER: usize = 1024 * 1024;

/// The methods whose answers are pages. A connection is given only so many bytes of them in a second.
const PAGES: [&str; 4] = ["History", "ListMembers", "ListChannels", "ListSessions"];

/// The methods that ask connectors may take this much longer than others. A connector has a second to answer, and then its
/// lease is read.
const ASKING: Duration = Duration::from_secs(2);
/// The services with such methods.
const ASKS: [&str; 2] = ["/chat.v1.UserService/", "/chat.v1.NodeService/"];

/// When a unary call ends, whether it is done or not. It is among the extensions of the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(pub(crate) Instant);

impl Deadline {
    pub(crate) fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().copied()
    }
}

/// Guards the service inside.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    inner: S,
    bounds: Arc<Bounds>,
}

/// The bounds that all of chat's services share.
pub(crate) struct Bounds {
    calls: Arc<Share>,
    requests: Arc<Share>,
    answers: Arc<Share>,
    call_time: Duration,
    frame_limit: usize,
    message_limit: usize,
    page_rate: Option<Rate>,
    /// The caller of requests that come without a connection.
    in_process: Arc<Caller>,
}

impl Bounds {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            calls: Share::new(limits.calls),
            requests: Share::new(limits.requests_total),
            answers: Share::new(limits.answers_total),
            call_time: limits.call_time,
            frame_limit: limits.frame(),
            message_limit: limits.message,
            page_rate: limits.page_rate,
            in_process: Caller::in_process(),
        })
    }
}

impl<S> Guarded<S> {
    pub(crate) fn new(inner: S, bounds: &Arc<Bounds>) -> Self {
        Self {
            inner,
            bounds: Arc::clone(bounds),
        }
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let bounds = Arc::clone(&self.bounds);
        let time = grpc_timeout(request.headers());
        let mut most = bounds.call_time;
        let path = request.uri().path();
        if ASKS.iter().any(|service| path.starts_with(service)) {
            most += ASKING;
        }
        let time = time.map_or(most, |asked| asked.min(most));
        // Counted from here and not from the first poll, so that tonic's own timer, which answers another status, comes second.
        let deadline = Instant::now() + time;
        // This service was polled ready, so it is used for the call. Its clone, which need not be ready, stays.
        let left = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, left);
        let caller =
            Caller::of(request.extensions()).unwrap_or_else(|| Arc::clone(&bounds.in_process));
        Box::pin(async move {
            let answered = match request.uri().path().rsplit('/').next() {
                Some("SendStream") => bounds.stream(inner, request, &caller, deadline).await,
                Some("Watch") => bounds.watch(inner, request, &caller, deadline).await,
                _ => bounds.unary(inner, request, &caller, deadline).await,
            };
            Ok(answered.unwrap_or_else(refuse))
        })
    }
}

impl Bounds {
    async fn unary<S>(
        &self,
        mut inner: S,
        request: Request<Body>,
        caller: &Arc<Caller>,
        deadline: Instant,
    ) -> Result<Response<Body>, Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let method = request.uri().path().rsplit('/').next();
        let is_page = method.is_some_and(|it| PAGES.contains(&it));
        let page_rate = self
            .page_rate
            .filter(|_| is_page && !caller.is_in_process());
        // Connectors read for their clients, each of which has a rate of its own.
        let page_rate = page_rate.filter(|_| !Permit::of(request.extensions()).is_for_connectors());
        let reserve = match method {
            Some("History") => HISTORY_ANSWER + self.message_limit,
            Some("BatchSend") => BATCH_ANSWER,
            Some("Broadcast") => BROADCAST_ANSWER,
            Some("ListChannels" | "CountMembers") => CHANNELS_ANSWER,
            Some("ListSessions") => HISTORY_ANSWER,
            Some(
                "ListMembers" | "BatchGetPresence" | "PushToUsers" | "Disconnect" | "AddToChannel"
                | "RemoveFromChannel" | "BlockUser" | "RevokeTokens" | "ListConnectors",
            ) => MEMBERS_ANSWER,
            _ => SMALL_ANSWER,
        };
        let (mut head, body) = request.into_parts();
        head.extensions.insert(Deadline(deadline));
        let whole = request_body::whole(body, self.frame_limit, &self.requests, &caller.requests);
        let (body, _bytes) = timeout_at(deadline, whole).await.map_err(late)??;
        if let Some(rate) = &page_rate {
            let taken = caller.pages.lock().take(rate, Instant::now());
            taken.map_err(|wait| Error::RateLimited { wait })?;
        }
        let _place = take(&self.calls, caller)?;
        let reserved = self.answers.taken(&caller.answers, reserve);
        let reserved: Taken = timeout_at(deadline, reserved).await.map_err(late)?;
        let answer = inner.call(Request::from_parts(head, body));
        let answer = timeout_at(deadline, answer).await.map_err(late)?;
        let Ok(answer) = answer;
        if let Some(status) = Status::from_header_map(answer.headers()) {
            return Ok(of_transport(status, self.frame_limit).into_http());
        }
        let answer = response_body::hold(answer, reserved, caller);
        if let Some(rate) = &page_rate {
            let bytes = u32::try_from(answer.body().size_hint().lower()).unwrap_or(u32::MAX);
            caller.pages.lock().charge(rate, bytes, Instant::now());
        }
        Ok(answer)
    }

    /// A watch has a request as a unary call has, and an answer that lasts. It is bounded by [`crate::watch`].
    async fn watch<S>(
        &self,
        mut inner: S,
        request: Request<Body>,
        caller: &Arc<Caller>,
        deadline: Instant,
    ) -> Result<Response<Body>, Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let (head, body) = request.into_parts();
        let whole = request_body::whole(body, self.frame_limit, &self.requests, &caller.requests);
        let (body, _bytes) = timeout_at(deadline, whole).await.map_err(late)??;
        let _place = take(&self.calls, caller)?;
        let Ok(answer) = timeout_at(deadline, inner.call(Request::from_parts(head, body)))
            .await
            .map_err(late)?;
        Ok(match Status::from_header_map(answer.headers()) {
            Some(status) => of_transport(status, self.frame_limit).into_http(),
            None => answer,
        })
    }

    async fn stream<S>(
        &self,
        mut inner: S,
        request: Request<Body>,
        caller: &Arc<Caller>,
        deadline: Instant,
    ) -> Result<Response<Body>, Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let request = request.map(|body| {
            let metered = Metered::new(
                body,
                Arc::clone(&self.requests),
                Arc::clone(&caller.requests),
            );
            Body::new(metered)
        });
        let Ok(answer) = timeout_at(deadline, inner.call(request))
            .await
            .map_err(late)?;
        Ok(match Status::from_header_map(answer.headers()) {
            Some(status) => of_transport(status, self.frame_limit).into_http(),
            None => answer,
        })
    }
}

fn take(calls: &Arc<Share>, caller: &Arc<Caller>) -> Result<Taken, Error> {
    calls.take(&caller.calls, 1).ok_or(Error::Overloaded)
}

fn late(_: tokio::time::error::Elapsed) -> Error {
    Error::DeadlineExceeded
}

fn refuse(error: Error) -> Response<Body> {
    metering::refused(&error);
    Status::from(error).into_http()
}

/// How long the caller is willing to wait: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_of_a_caller_is_parsed_in_the_form_of_grpc() {
        let read = |text: &str| {
            let value = text.parse().unwrap();
            grpc_timeout(&HeaderMap::from_iter([(
                "grpc-timeout".parse().unwrap(),
                value,
            )]))
        };
        assert_eq!(read("100m"), Some(Duration::from_millis(100)));
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        assert_eq!(
            read("99999999H"),
            Some(Duration::from_secs(359_999_996_400))
        );
        assert_eq!(read("5u"), Some(Duration::from_micros(5)));
        for wrong in ["", "5", "S", "-1S", "1.5S", "123456789S", "5x", "+5S"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }
}
