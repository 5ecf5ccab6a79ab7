//! What a request knows of the certificate of its caller.

use crate::config::Limits;
use crate::port::connections::{Connections, Socket, Timeouts};
use crate::port::gate::GateLayer;
use http::{Request, Response};
use parking_lot::Mutex;
use rcgen::{CertificateParams, DnType, KeyPair};
use runtime::tls::{ClientCertificate, ClientFiles, ClientTls, ServerFiles, ServerTls};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::body::Body;
use tonic::transport::server::Connected;
use tower::{Layer, ServiceExt, service_fn};

const TIMEOUTS: Timeouts = Timeouts {
    greeting: Duration::from_secs(2),
    idle: Duration::from_secs(60),
    answer: Duration::from_secs(60),
};

/// A certificate that is its own authority, so that it can stand at both ends.
fn certificate(folder: &tempfile::TempDir) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["games.test".to_owned()]).unwrap();
    parameters
        .distinguished_name
        .push(DnType::CommonName, "games");
    let made = parameters.self_signed(&key).unwrap();
    let paths = (folder.path().join("pem"), folder.path().join("key"));
    std::fs::write(&paths.0, made.pem()).unwrap();
    std::fs::write(&paths.1, key.serialize_pem()).unwrap();
    paths
}

fn port(folder: &tempfile::TempDir) -> Arc<ServerTls> {
    let (certificate, key) = certificate(folder);
    let client_ca = Some(certificate.clone());
    let files = ServerFiles {
        certificate,
        key,
        client_ca,
    };
    ServerTls::begin("certificate of a test", files, &[b"h2"]).unwrap()
}

/// A caller, and its connection at the port.
async fn connected(tls: &ServerTls) -> (TcpStream, Socket) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap());
    let (stream, accepted) = tokio::join!(stream, listener.accept());
    let (accepted, peer) = accepted.unwrap();
    let connections = Connections::new(1, TIMEOUTS, None);
    let socket = connections.admit(accepted, peer, Some(tls)).unwrap();
    (stream.unwrap(), socket)
}

#[tokio::test]
async fn the_names_in_the_certificate_of_a_caller_are_in_the_extensions_of_its_requests() {
    let folder = tempfile::tempdir().unwrap();
    let tls = port(&folder);
    let (pem, key) = (folder.path().join("pem"), folder.path().join("key"));
    let files = ClientFiles {
        ca: Some(pem.clone()),
        identity: Some((pem, key)),
    };
    let client = ClientTls::begin(files, &[b"h2"]).unwrap().connector();
    let (stream, mut socket) = connected(&tls).await;
    let caller = socket.connect_info();
    assert_eq!(caller.certificate(), None);
    let name = ServerName::try_from("games.test").unwrap();
    let greet = async {
        let mut stream = client.connect(name, stream).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0").await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    let mut greeting = [0; 14];
    let (_client, read) = tokio::join!(greet, socket.read_exact(&mut greeting));
    assert_eq!((read.unwrap(), &greeting), (14, b"PRI * HTTP/2.0"));

    let seen = Arc::new(Mutex::new(None));
    let inner = service_fn({
        let seen = Arc::clone(&seen);
        move |request: Request<Body>| {
            let certificate = request.extensions().get::<Arc<ClientCertificate>>();
            *seen.lock() = certificate.cloned();
            async { Ok::<_, Infallible>(Response::new(Body::empty())) }
        }
    });
    let mut request = Request::new(Body::empty());
    request.extensions_mut().insert(caller);
    let gate = GateLayer::new(&Limits::default()).layer(inner);
    gate.oneshot(request).await.unwrap();
    let seen = seen.lock().take().unwrap();
    assert_eq!(seen.common_name.as_deref(), Some("games"));
    assert_eq!(seen.dns_names, ["games.test"]);
}

/// The paused time goes on by itself while nothing else happens.
#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_go_on_ends_with_the_time_for_a_greeting() {
    let folder = tempfile::tempdir().unwrap();
    let tls = port(&folder);
    let (mut stream, mut socket) = connected(&tls).await;
    stream.write_all(&[22, 3, 1, 1, 0]).await.unwrap();
    let error = socket.read_u8().await.unwrap_err();
    assert!(
        error.to_string().contains("neither spoke HTTP/2"),
        "{error}"
    );
}

#[tokio::test]
async fn a_caller_that_speaks_http_without_tls_is_told_so_in_http() {
    let folder = tempfile::tempdir().unwrap();
    let tls = port(&folder);
    for (request, is_told) in [
        (
            "POST /chat.v1.ChatService/Send HTTP/1.1\r\nhost: chat\r\n\r\n",
            true,
        ),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false),
    ] {
        let (mut stream, mut socket) = connected(&tls).await;
        let ask = async {
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // Without an answer the socket may be reset.
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        let answered = async move {
            let error = socket.read_u8().await.unwrap_err();
            drop(socket);
            error.to_string()
        };
        let (answer, error) = tokio::join!(ask, answered);
        assert_eq!(answer.starts_with("HTTP/1.1 400 "), is_told, "{answer}");
        assert_eq!(answer.contains("This port speaks TLS alone"), is_told);
        assert_eq!(error.contains("without TLS"), is_told, "{error}");
    }
}

/// The paused time goes on by itself while nothing else happens.
#[tokio::test(start_paused = true)]
async fn a_caller_that_says_nothing_is_ended_with_the_time_for_a_greeting_also_with_tls() {
    let folder = tempfile::tempdir().unwrap();
    let tls = port(&folder);
    let (_stream, mut socket) = connected(&tls).await;
    let error = socket.read_u8().await.unwrap_err();
    assert!(
        error.to_string().contains("neither spoke HTTP/2"),
        "{error}"
    );
}
