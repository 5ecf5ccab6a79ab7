//! The layer that lets a call in only with a token, or with a certificate that the file of tokens names. It stands before the
//! bounds of calls and before everything that reads a body, so that a caller who may not call costs nothing.

use super::Access;
use super::audit::{Audited, Record, refused_stranger};
use super::calls::{About, Call, Needs, needs};
use super::permit::Permit;
use super::tokens::{Token, Tokens};
use crate::error::Error;
use crate::metering;
use crate::port::connections::Caller;
use futures_util::future::{self, BoxFuture, Either};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use proto::codes;
use runtime::tls::ClientCertificate;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// The scheme of the header, and the blank behind it.
const SCHEME: &str = "bearer ";

/// Puts a [`Bearer`] before a server's services.
#[derive(Clone)]
pub(crate) struct BearerLayer(Access);

impl BearerLayer {
    pub(crate) fn new(access: Access) -> Self {
        Self(access)
    }
}

impl<S> Layer<S> for BearerLayer {
    type Service = Bearer<S>;

    fn layer(&self, inner: S) -> Bearer<S> {
        Bearer {
            inner,
            access: self.0.clone(),
        }
    }
}

/// See [`BearerLayer`].
#[derive(Clone)]
pub(crate) struct Bearer<S> {
    inner: S,
    access: Access,
}

type Answered = BoxFuture<'static, Result<Response<Body>, Infallible>>;
type Refused = future::Ready<Result<Response<Body>, Infallible>>;

impl<S> Service<Request<Body>> for Bearer<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Either<Answered, Refused>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(tokens) = &self.access.0 else {
            return Either::Left(self.inner.call(request));
        };
        Either::Right(match let_in(tokens, &mut request) {
            Ok(None) => return Either::Left(self.inner.call(request)),
            Ok(Some(audited)) => {
                let answer = self.inner.call(request);
                Either::Left(Box::pin(async move { Ok(audited.follow(answer.await?)) }))
            }
            Err(error) => {
                metering::refused(&error);
                let refused = Status::from(error).into_http();
                Either::Right(future::ready(Ok(refused)))
            }
        })
    }
}

/// Gives a request what its token allows. `None` if the call is not noted.
///
/// # Errors
/// Why the call is refused. That is noted in the audit log.
fn let_in(tokens: &Tokens, request: &mut Request<Body>) -> Result<Option<Audited>, Error> {
    let path = request.uri().path();
    let needs = needs(path);
    let caller = Caller::of(request.extensions());
    let peer = caller.and_then(|it| it.peer());
    if needs == Needs::Nothing {
        return Ok(None);
    }
    if needs == Needs::AnyTokenFromElsewhere && is_here(peer) {
        return Ok(None);
    }
    let certificate = request.extensions().get::<Arc<ClientCertificate>>();
    let certificate = certificate.map(|it| &**it);
    let token = match find(tokens, request.headers(), certificate) {
        Ok(token) => token,
        Err(error) => {
            refused_stranger(path, peer, certificate, &error);
            return Err(error);
        }
    };
    // Nothing behind this needs it, and so it cannot get into a log there.
    request.headers_mut().remove(AUTHORIZATION);
    let Needs::Call(call) = needs else {
        return Ok(None);
    };
    let record = may_make(&token, call, peer)?;
    let permit = Permit::new(token, Arc::clone(&record));
    request.extensions_mut().insert(permit);
    let lasts = call.name.ends_with("/SendStream");
    Ok(Some(Audited::begin(record, call.writes, lasts)))
}

/// The line that counts for a caller. A token wins over a certificate, also one that is not valid: a caller that shows a token means
/// that token, and must not be somebody else if it was taken out.
fn find(
    tokens: &Tokens,
    headers: &HeaderMap,
    certificate: Option<&ClientCertificate>,
) -> Result<Arc<Token>, Error> {
    if headers.contains_key(AUTHORIZATION) {
        let shown = shown(headers).ok_or(Error::TokenMissing)?;
        return tokens.find(shown).ok_or(Error::TokenRefused);
    }
    let of_certificate = certificate.and_then(|it| tokens.find_certificate(it));
    of_certificate.ok_or(Error::TokenMissing)
}

/// True if the caller is on the same machine.
fn is_here(peer: Option<SocketAddr>) -> bool {
    peer.is_some_and(|it| it.ip().to_canonical().is_loopback())
}

/// What is noted of a call from now on.
///
/// # Errors
/// The token does not allow this call, whatever its request says.
fn may_make(
    token: &Arc<Token>,
    call: &Call,
    peer: Option<SocketAddr>,
) -> Result<Arc<Record>, Error> {
    let record = Record::new(Arc::clone(token), call.name, peer);
    let refuse = |error: Error| {
        let (code, reason) = error.code_and_reason();
        record.write(codes::name(code), Some(reason));
        Err(error)
    };
    if !call.scopes.iter().any(|it| token.line.scopes.contains(it)) {
        let first = call.scopes.first().map_or("", |it| it.name());
        return refuse(Error::ScopeMissing { scope: first });
    }
    if call.about == About::Others && !token.line.patterns.is_empty() {
        return refuse(Error::ChannelNotAllowed { field: None });
    }
    Ok(record)
}

/// The token in the headers. `None` if there is none, or none that can be read.
fn shown(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    // Which of two counts could be seen differently by a proxy.
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case(SCHEME) && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_behind_the_word_bearer_in_a_single_header() {
        let read = |values: &[&'static str]| {
            let headers = values.iter().map(|it| (AUTHORIZATION, it.parse().unwrap()));
            let headers: HeaderMap = headers.collect();
            shown(&headers).map(str::to_owned)
        };
        for right in ["Bearer a.b", "bearer a.b", "BEARER  a.b "] {
            assert_eq!(read(&[right]).as_deref(), Some("a.b"), "{right:?}");
        }
        for wrong in [
            "",
            "a.b",
            "Bearer",
            "Bearer ",
            "Basic a.b",
            "Bearera.b",
            "哈",
        ] {
            assert_eq!(read(&[wrong]), None, "{wrong:?}");
        }
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["Bearer a", "Bearer b"]), None);
    }

    #[test]
    fn only_a_loopback_address_is_on_the_same_machine() {
        for (address, here) in [
            ("127.0.0.1:1", true),
            ("127.8.0.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("10.0.0.1:1", false),
            ("[::ffff:10.0.0.1]:1", false),
            ("0.0.0.0:1", false),
        ] {
            let peer = address.parse().unwrap();
            assert_eq!(is_here(Some(peer)), here, "{address}");
        }
        assert!(!is_here(None));
    }
}
