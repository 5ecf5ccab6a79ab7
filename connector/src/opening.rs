//! The beginning of a client's socket: the TLS handshake, if the port has a certificate, and the first byte after it.

use crate::http::{HttpIo, HttpStream};
use crate::transport::pass::Pass;
use runtime::tls::{HANDSHAKE, ServerTls, may_be_http, refuse_http};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::AsyncBufRead;
use tokio::net::TcpStream;

/// The protocols that clients may name in a handshake. HTTP/2 is not among them, because a WebSocket begins with HTTP/1.1.
pub(crate) const ALPN: &[&[u8]] = &[b"http/1.1"];
/// What a client should use that speaks HTTP where TLS is expected.
const ADVICE: &str = "use https:// or wss://, and not http";

/// Returns the socket and the first byte that the client has sent, which can still be read. `None` if the client is gone, or
/// does not speak TLS although it has to. The caller bounds the time.
pub(crate) async fn open(
    stream: TcpStream,
    pass: &Arc<Pass>,
    tls: Option<&ServerTls>,
) -> Option<(HttpIo, u8)> {
    let mut first = [0];
    if stream.peek(&mut first).await.ok()? == 0 {
        return None;
    }
    match (tls, first[0]) {
        (None, first) => {
            let stream = HttpStream::new(stream, Arc::clone(pass));
            Some((HttpIo::Left(stream), first))
        }
        // Boxed, so that the task of a plain socket stays small.
        (Some(tls), HANDSHAKE) => Box::pin(shake_hands(stream, pass, tls)).await,
        (Some(_), first) => {
            tracing::debug!("a client does not speak TLS");
            if may_be_http(first) {
                Box::pin(refuse_http(stream, ADVICE)).await;
            }
            None
        }
    }
}

async fn shake_hands(stream: TcpStream, pass: &Arc<Pass>, tls: &ServerTls) -> Option<(HttpIo, u8)> {
    let stream = HttpStream::below_tls(stream, Arc::clone(pass));
    let accepted = tls.acceptor().accept(stream).await;
    let mut stream = match accepted {
        Ok(stream) => Box::new(stream),
        Err(error) => {
            tracing::debug!(%error, "a TLS handshake failed");
            return None;
        }
    };
    // What HTTP may hold above the socket is bounded as it is without TLS.
    stream.get_mut().1.set_buffer_limit(Some(16 << 10));
    let first = poll_fn(|context| {
        let buffer = Pin::new(&mut *stream).poll_fill_buf(context);
        buffer.map_ok(|bytes| bytes.first().copied())
    });
    let first = first.await.ok()??;
    Some((HttpIo::Right(stream), first))
}
