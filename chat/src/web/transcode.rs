//! Stands before a gRPC service, behind all bounds. The bodies of calls that came over HTTP are turned into gRPC's frames here,
//! and the answers back.

use super::codec::Codec;
use super::connect::Form;
use super::events::{Events, PREFIX};
use super::json;
use crate::error::Error;
use crate::metering;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use std::convert::Infallible;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

/// Turns the bodies of the service inside. Calls over gRPC pass as they are.
#[derive(Clone)]
pub(crate) struct Transcoded<S>(S);

impl<S> Transcoded<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self(inner)
    }
}

impl<S: NamedService> NamedService for Transcoded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Transcoded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(form) = request.extensions_mut().remove::<Form>() else {
            return Either::Left(self.0.call(request));
        };
        let called = framed(&form, request).map(|request| self.0.call(request));
        Either::Right(Box::pin(async move {
            let answer = match called {
                Ok(answer) => answer.await?,
                Err(error) => {
                    metering::refused(&error);
                    return Ok(Status::from(error).into_http());
                }
            };
            if Status::from_header_map(answer.headers()).is_some() {
                return Ok(answer);
            }
            if let Some(framing) = form.framing {
                let mut answer =
                    answer.map(|body| Body::new(Events::new(body, framing, form.method)));
                let content_type = framing.content_type();
                answer.headers_mut().insert(CONTENT_TYPE, content_type);
                return Ok(answer);
            }
            let answer = unframed(&form, answer).await;
            Ok(answer.unwrap_or_else(Status::into_http))
        }))
    }
}

/// The request with its message in gRPC's frame.
fn framed(form: &Form, request: Request<Body>) -> Result<Request<Body>, Error> {
    let (head, body) = request.into_parts();
    // The bounds around this have read the whole body.
    let body = body.collect().now_or_never().and_then(Result::ok);
    let body = body.ok_or_else(|| Error::invalid("request", "did not come to its end"))?;
    let mut message = body.to_bytes();
    if form.codec == Codec::Json {
        let read = json::read(&form.method.input, &message);
        message = read
            .map_err(|wrong| {
                let field = wrong.field.unwrap_or_else(|| "request".to_owned());
                Error::invalid(field, wrong.description)
            })?
            .into();
    }
    let length = u32::try_from(message.len());
    let length = length.map_err(|_| Error::invalid("request", "is too large for gRPC"))?;
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put(message);
    let body = Body::new(Full::new(frame.freeze()));
    Ok(Request::from_parts(head, body))
}

/// The answer with its message as the caller reads it. The trailers stay, because they have the status.
async fn unframed(form: &Form, answer: Response<Body>) -> Result<Response<Body>, Status> {
    let (mut head, body) = answer.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned();
    if let Some(status) = trailers.as_ref().and_then(Status::from_header_map)
        && status.code() != tonic::Code::Ok
    {
        return Err(status);
    }
    let mut message = body.to_bytes();
    if message.len() < PREFIX {
        return Err(Status::internal("there is no answer"));
    }
    message = message.split_off(PREFIX);
    if form.codec == Codec::Json {
        let json = json::write(&form.method.output, message);
        message = json.map(Bytes::from).map_err(|error| {
            Status::internal(format!("the answer cannot be written as JSON: {error}"))
        })?;
    }
    head.headers.insert(CONTENT_TYPE, form.codec.content_type());
    head.headers.insert(CONTENT_LENGTH, message.len().into());
    let body = Full::new(message).with_trailers(async move { trailers.map(Ok) });
    Ok(Response::from_parts(head, Body::new(body)))
}
