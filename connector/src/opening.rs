//! The beginning of a client's socket: the TLS handshake, if the port has a certificate, and the first byte after it.

use crate::http::{HttpIo, HttpStream};
use crate::transport::pass::Pass;
use runtime::tls::ServerTls;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncBufRead;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The protocols that clients may name in a handshake. HTTP/2 is not among them, because a WebSocket begins with HTTP/1.1.
pub(crate) const ALPN: &[&[u8]] = &[b"http/1.1"];
/// The first byte of TLS: the type of the record that a handshake begins with.
const HANDSHAKE: u8 = 22;
/// The answer to a client that speaks HTTP where TLS is expected.
const NOT_ENCRYPTED: &str = "HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 66\r\n\
    Connection: close\r\n\
    \r\n\
    This port speaks TLS alone: use https:// or wss://, and not http.\n";
/// How long that client may take to read the answer.
const LINGER: Duration = Duration::from_secs(1);

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
            if first >= b' ' {
                Box::pin(refuse(stream)).await;
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

/// Tells a client that speaks HTTP what is wrong.
async fn refuse(stream: TcpStream) {
    let answer = async {
        stream.writable().await?;
        // So little always fits into a fresh socket.
        stream.try_write(NOT_ENCRYPTED.as_bytes())?;
        drop(socket2::SockRef::from(&stream).shutdown(std::net::Shutdown::Write));
        // If the request were not read, closing the socket would reset it, and the client could lose the answer.
        let mut request = [0; 1 << 10];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut request) {
                Ok(0) => return io::Result::Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    };
    let _ = timeout(LINGER, answer).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_says_its_own_length() {
        let (head, body) = NOT_ENCRYPTED.split_once("\r\n\r\n").unwrap();
        let length = format!("Content-Length: {}", body.len());
        assert!(head.contains(&length), "{length}");
    }
}
