//! What somebody is told who speaks HTTP to a port that speaks TLS alone.

use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The first byte of TLS: the type of the record that a handshake begins with.
pub const HANDSHAKE: u8 = 22;
/// How long the other end may take to read the answer.
const LINGER: Duration = Duration::from_secs(1);

/// True if somebody who begins with this byte may speak HTTP, and so understands an answer in it.
#[must_use]
pub fn may_be_http(first: u8) -> bool {
    first >= b' '
}

/// Answers 400, and ends the socket. `advice` says what to use instead. Takes a second at most.
pub async fn refuse_http(stream: TcpStream, advice: &str) {
    let words = format!("This port speaks TLS alone: {advice}.\n");
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{words}",
        words.len()
    );
    let answer = async {
        stream.writable().await?;
        // So little always fits into a fresh socket.
        stream.try_write(answer.as_bytes())?;
        let _ = rustix::net::shutdown(&stream, rustix::net::Shutdown::Write);
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn the_answer_to_plain_http_is_read_whole_and_says_its_own_length() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(refuse_http(stream, "use https:// and not http"));
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            body,
            "This port speaks TLS alone: use https:// and not http.\n"
        );
        let length = format!("Content-Length: {}", body.len());
        assert!(
            head.starts_with("HTTP/1.1 400 ") && head.contains(&length),
            "{head}"
        );
    }
}
