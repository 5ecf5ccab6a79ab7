//! The calls of back ends over plain HTTP, beside gRPC and at the same port: calls as JSON (`connect` and `codec`, with `query` for
//! those by GET and `events` for streams) and grpc-web.
//!
//! Every call goes to the services that gRPC's calls go to, inside all of their bounds. `json` converts messages by the
//! descriptors of the contract, so a new method needs nothing here.

mod codec;
mod connect;
mod contract;
mod cors;
mod errors;
mod events;
mod json;
mod query;
#[cfg(test)]
mod tests;
mod transcode;

pub(crate) use contract::Contract;
pub(crate) use transcode::Transcoded;

use crate::port::gate::{Protocol, protocol};
use cors::{From, Origins};
use errors::error;
use futures_util::future::{BoxFuture, Either};
use http::{Request, Response, StatusCode, Version};
use std::convert::Infallible;
use std::future;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, Service};

/// Puts a [`Web`] before a server's services.
#[derive(Clone)]
pub(crate) struct WebLayer {
    contract: Arc<Contract>,
    origins: Origins,
}

impl WebLayer {
    /// `origins`: those of the pages whose scripts may call.
    pub(crate) fn new(contract: Contract, origins: &[String]) -> Self {
        Self {
            contract: Arc::new(contract),
            origins: Origins::new(origins),
        }
    }
}

impl<S: Clone> Layer<S> for WebLayer {
    type Service = Web<S>;

    fn layer(&self, inner: S) -> Web<S> {
        Web {
            web: GrpcWebLayer::new().layer(inner.clone()),
            inner,
            layer: self.clone(),
        }
    }
}

/// See [`WebLayer`].
#[derive(Clone)]
pub(crate) struct Web<S> {
    inner: S,
    web: GrpcWebService<S>,
    layer: WebLayer,
}

type Answered = BoxFuture<'static, Result<Response<Body>, Infallible>>;
type Refused = future::Ready<Result<Response<Body>, Infallible>>;

impl<S> Service<Request<Body>> for Web<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Either<Answered, Refused>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        ready!(self.inner.poll_ready(cx))?;
        Service::<Request<Body>>::poll_ready(&mut self.web, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let protocol = protocol(request.headers());
        if protocol == Protocol::Grpc && request.version() == Version::HTTP_2 {
            return Either::Left(self.inner.call(request));
        }
        Either::Right(match self.begin(protocol, request) {
            Ok(answered) => Either::Left(answered),
            Err(refused) => Either::Right(future::ready(Ok(*refused))),
        })
    }
}

impl<S> Web<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    /// Begins a call over HTTP.
    ///
    /// # Errors
    /// The answer to a request that is no call.
    fn begin(
        &mut self,
        protocol: Protocol,
        request: Request<Body>,
    ) -> Result<Answered, Box<Response<Body>>> {
        let contract = Arc::clone(&self.layer.contract);
        let by_get = connect::is_read(&contract, &request);
        let origin = match self.layer.origins.of(request.headers()) {
            From::Program if by_get && !self.layer.origins.may_be_read_without(&request) => {
                let words = "a call by GET that names no origin must come to an IP address, to localhost, to a name without a dot, or \
                             to the host of an origin in chat's --allowed-origins: any page could make such a call; use POST";
                return Err(Box::new(error(
                    &contract,
                    &Status::permission_denied(words),
                )));
            }
            From::Program => None,
            From::Refused => {
                let words = "pages of this origin may not call; chat's --allowed-origins names those that may";
                return Err(Box::new(error(
                    &contract,
                    &Status::permission_denied(words),
                )));
            }
            From::Allowed(origin) if cors::is_preflight(&request) => {
                return Err(Box::new(cors::preflight(origin)));
            }
            From::Allowed(origin) => Some(origin),
        };
        let allow = move |answer: &mut Response<Body>| {
            if by_get {
                cors::is_for_this_caller(answer.headers_mut());
            }
            if let Some(origin) = origin {
                cors::allow(answer.headers_mut(), origin);
            }
        };
        let called: Answered = match protocol {
            Protocol::Grpc => {
                let words = "gRPC needs HTTP/2; over HTTP/1.1 send JSON with content-type application/json, or grpc-web";
                let mut refused = error(&contract, &Status::new(Code::Unimplemented, words));
                *refused.status_mut() = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
                return Err(Box::new(refused));
            }
            // Connectors' calls, health and reflection are for gRPC alone.
            Protocol::GrpcWeb if contract.method(request.uri().path()).is_some() => {
                Box::pin(self.web.call(request))
            }
            Protocol::GrpcWeb | Protocol::Other => match connect::call(&contract, request) {
                Ok(request) => {
                    let answer = self.inner.call(request);
                    Box::pin(async move { Ok(connect::answer(&contract, answer.await?)) })
                }
                Err(mut refused) => {
                    allow(&mut refused);
                    return Err(refused);
                }
            },
        };
        Ok(Box::pin(async move {
            let mut answer = called.await?;
            allow(&mut answer);
            Ok(answer)
        }))
    }
}
