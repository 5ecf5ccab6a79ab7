//! Bounds around every call: how many at once, and for how long. What is beyond is refused with a proper status.
//!
//! A call counts until its answer begins. That of a send stream begins at once, so that its life counts for nothing
//! here; it bounds itself, and [`crate::calls`] bounds how many there are.

use crate::config::Limits;
use crate::error::{Error, of_transport};
use crate::metering;
use futures_util::future::{BoxFuture, ready};
use http::{HeaderMap, Request, Response};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

/// Guards the service inside.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    free: Arc<Semaphore>,
    call_time: Duration,
    frame_limit: usize,
}

impl<S> Guarded<S> {
    pub(crate) fn new(inner: S, limits: &Limits) -> Self {
        Self {
            inner,
            free: Arc::new(Semaphore::new(limits.calls)),
            call_time: limits.call_time,
            frame_limit: limits.frame(),
        }
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Ok(place) = Arc::clone(&self.free).try_acquire_owned() else {
            return Box::pin(ready(Ok(refuse(Error::Overloaded))));
        };
        let patience = grpc_timeout(request.headers());
        let patience = patience.map_or(self.call_time, |asked| asked.min(self.call_time));
        // Begun here and not at the first poll: tonic's own timer, which knows another status, must come second.
        let answer = tokio::time::timeout(patience, self.inner.call(request));
        let frame_limit = self.frame_limit;
        Box::pin(async move {
            let answer = answer.await;
            drop(place);
            let Ok(answer) = answer else {
                return Ok(refuse(Error::DeadlineExceeded));
            };
            let answer = answer?;
            Ok(match Status::from_header_map(answer.headers()) {
                Some(status) => of_transport(status, frame_limit).into_http(),
                None => answer,
            })
        })
    }
}

fn refuse(error: Error) -> Response<Body> {
    metering::refused(&error);
    Status::from(error).into_http()
}

/// What the caller is willing to wait (gRPC over HTTP/2, "Timeout"): at most eight digits and a unit.
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
    fn a_callers_timeout_is_read_as_grpc_writes_it() {
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
