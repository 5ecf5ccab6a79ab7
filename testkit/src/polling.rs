//! A client of Engine.IO's long polling, with requests that are written by hand.

use crate::SOON;
use crate::pace::timeout;
use bytes::BytesMut;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An HTTP connection that stays open for several requests.
pub struct Http {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Http {
    /// Connects.
    ///
    /// # Errors
    /// The error of the socket.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let buffer = BytesMut::new();
        Ok(Self { stream, buffer })
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// The error of the socket.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads the next answer: its status and its body. The head must have the length of the body.
    ///
    /// # Errors
    /// The error of the socket; `UnexpectedEof` at its end.
    pub async fn answer(&mut self) -> io::Result<(u16, String)> {
        let (status, _, body) = self.answer_with_head().await?;
        Ok((status, body))
    }

    /// The same, with the head between them.
    ///
    /// # Errors
    /// Like [`answer`](Self::answer).
    pub async fn answer_with_head(&mut self) -> io::Result<(u16, String, String)> {
        loop {
            if let Some((status, head, length)) = head(&self.buffer)
                && self.buffer.len() >= head + length
            {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let head = text(&self.buffer.split_to(head));
                return Ok((status, head, text(&self.buffer.split_to(length))));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads until these bytes have come.
    ///
    /// # Errors
    /// The error of the socket; `UnexpectedEof` at its end.
    pub async fn until(&mut self, expected: &[u8]) -> io::Result<()> {
        let is_there = |bytes: &[u8]| bytes.windows(expected.len()).any(|it| it == expected);
        while !is_there(&self.buffer) {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// What has come and was not taken.
    #[must_use]
    pub fn pending(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// Like [`answer`](Self::answer).
    pub async fn ask(&mut self, request: &str) -> io::Result<(u16, String)> {
        self.send(request.as_bytes()).await?;
        self.answer().await
    }
}

/// The status, the length of the head and the length of the body; `None` if the head is not complete.
fn head(bytes: &[u8]) -> Option<(u16, usize, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status = text.get(9..12)?.parse().ok()?;
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|length| length.trim().parse().ok());
    Some((status, end, length.unwrap_or_default()))
}

/// The request that opens a session of version 3 or 4 of Engine.IO.
#[must_use]
pub fn opening(version: u32) -> String {
    format!("GET /socket.io/?EIO={version}&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n")
}

/// A client that polls.
pub struct Poller {
    version: u32,
    path: String,
    address: SocketAddr,
    polls: Http,
}

impl Poller {
    /// Opens a session and connects it to the namespace of Socket.IO.
    ///
    /// # Errors
    /// The error of the sockets, or the text of a refusal.
    pub async fn open(address: SocketAddr, version: u32) -> io::Result<Self> {
        let mut polls = Http::connect(address).await?;
        let (status, body) = polls.ask(&opening(version)).await?;
        let id = body.split_once(r#""sid":""#);
        let id = id.and_then(|(_, rest)| Some(rest.split_once('"')?.0));
        let id = id.ok_or_else(|| io::Error::other(format!("{status}: {body}")))?;
        let poller = Self {
            path: format!("/socket.io/?EIO={version}&transport=polling&sid={id}"),
            address,
            polls,
            version,
        };
        if version == 4 {
            poller.post(&["40"]).await?;
        }
        Ok(poller)
    }

    /// Posts packets and returns the status of the answer. It uses a new socket, because the connector may have closed
    /// an idle one.
    ///
    /// # Errors
    /// The error of the socket.
    pub async fn post(&self, packets: &[&str]) -> io::Result<u16> {
        let body = if self.version == 4 {
            packets.join("\u{1e}")
        } else {
            let framed = packets
                .iter()
                .map(|packet| format!("{}:{packet}", packet.encode_utf16().count()));
            framed.collect()
        };
        let (path, length) = (&self.path, body.len());
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
        let mut http = Http::connect(self.address).await?;
        Ok(http.ask(&request).await?.0)
    }

    /// From now on it polls on a new socket.
    ///
    /// # Errors
    /// The error of the socket.
    pub async fn on_a_new_socket(&mut self) -> io::Result<()> {
        self.polls = Http::connect(self.address).await?;
        Ok(())
    }

    /// Polls once and returns the status and the body of the answer.
    ///
    /// # Errors
    /// The error of the socket.
    pub async fn poll(&mut self) -> io::Result<(u16, String)> {
        let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", self.path);
        self.polls.ask(&request).await
    }

    /// Polls until an answer contains this text.
    ///
    /// # Panics
    /// If none does in time.
    pub async fn until(&mut self, what: &str) {
        let polled =
            async { while !self.poll().await.is_ok_and(|(_, body)| body.contains(what)) {} };
        let came = timeout(SOON, polled).await;
        assert!(came.is_ok(), "a client that polls did not get {what}");
    }
}
