//! Fetches keys over HTTP. The address comes from the settings, never from a token.

use super::keys::LARGEST;
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use runtime::tls::{ClientFiles, TlsError};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::task::AbortOnDropHandle;

/// How long all of it may take.
const TIME: Duration = Duration::from_secs(5);
/// What is offered in a handshake.
const ALPN: &[&[u8]] = &[b"http/1.1"];

/// Why there is no answer with keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("cannot connect to {0}: {1}")]
    Connect(String, io::Error),
    #[error("jwks_ca_file: {0}")]
    Trust(TlsError),
    #[error(
        "no connection with TLS to {0}: {1}. If its certificate is from an authority of your own, jwks_ca_file must name that authority"
    )]
    Handshake(String, io::Error),
    #[error("{0} does not speak HTTP: {1}")]
    Http(String, hyper::Error),
    #[error("{0} answers with {1}; expected 200, because redirections are not followed")]
    Status(String, StatusCode),
    #[error("the answer of {0} is longer than 256 KiB, or broke off")]
    Answer(String),
    #[error("{0} did not answer within 5 s")]
    Late(String),
}

/// Fetches what is served at a URL, of at most [`LARGEST`] bytes. `trust` has the authorities of servers with https.
pub(super) async fn fetch(uri: &Uri, trust: &ClientFiles) -> Result<Vec<u8>, FetchError> {
    let name = uri.to_string();
    let late = FetchError::Late(name.clone());
    timeout(TIME, fetch_now(uri, trust, name))
        .await
        .unwrap_or(Err(late))
}

async fn fetch_now(uri: &Uri, trust: &ClientFiles, name: String) -> Result<Vec<u8>, FetchError> {
    let is_encrypted = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri
        .port_u16()
        .unwrap_or(if is_encrypted { 443 } else { 80 });
    let connected = TcpStream::connect((host, port)).await;
    let stream = connected.map_err(|error| FetchError::Connect(name.clone(), error))?;
    if is_encrypted {
        // The files are read each time, so that a new authority counts from the next fetch on.
        let tls = trust.connector(ALPN).map_err(FetchError::Trust)?;
        let server = ServerName::try_from(host.to_owned()).map_err(io::Error::other);
        let stream = async { tls.connect(server?, stream).await }.await;
        let stream = stream.map_err(|error| FetchError::Handshake(name.clone(), error))?;
        return ask(uri, stream, name).await;
    }
    ask(uri, stream, name).await
}

async fn ask(
    uri: &Uri,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    name: String,
) -> Result<Vec<u8>, FetchError> {
    let http = |error| FetchError::Http(name.clone(), error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    // Ends with this function, whatever the other side does.
    let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Answer(name.clone()))?;
    let response = sender.send_request(request).await.map_err(http)?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(name, response.status()));
    }
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let body = body.map_err(|_| FetchError::Answer(name))?;
    Ok(body.to_bytes().to_vec())
}
