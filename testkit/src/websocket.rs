//! The client's side of RFC 6455 for tests. It checks what the server sends, and it can misbehave in the ways that
//! tests need: it can stop reading, reset the connection, and send bytes that are not a frame.

mod frames;

pub use frames::{
    BINARY, CLOSE, COMPRESSED, Head, PING, PONG, TEXT, accept_key, append_masked, deflate, encode,
    frame, inflate, masked, upgrade_request,
};

use base64::Engine;
use bytes::{Buf, Bytes, BytesMut};
use flate2::Decompress;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// The code that RFC 6455 uses for a close without a code.
pub const NO_CODE: u16 = 1005;

const READ_SIZE: usize = 64 * 1024;
/// The server's answer to an offer of compression.
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// If compression was agreed, messages of at least this many bytes must be compressed, and smaller ones must not.
const THRESHOLD: usize = 256;

/// The options of a connection.
#[derive(Debug, Default, Clone, Copy)]
pub struct Terms {
    /// The size of the receive buffer: how many bytes the kernel takes for a client that does not read.
    pub receive_buffer: Option<u32>,
    /// True if the client offers permessage-deflate. The server must accept it, and the client compresses all its
    /// messages.
    pub deflates: bool,
    /// The address that a proxy would name as the client's.
    pub forwarded_for: Option<IpAddr>,
}

/// A complete frame from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// [`TEXT`], [`BINARY`], [`CLOSE`], [`PING`] or [`PONG`].
    pub opcode: u8,
    /// The payload, inflated.
    pub payload: Bytes,
}

impl Frame {
    /// The code and the reason of a close frame.
    #[must_use]
    pub fn close(&self) -> (u16, String) {
        let mut payload = self.payload.clone();
        if payload.remaining() < 2 {
            return (NO_CODE, String::new());
        }
        let code = payload.get_u16();
        (code, String::from_utf8_lossy(&payload).into_owned())
    }
}

/// The sending half.
pub struct Writer {
    stream: OwnedWriteHalf,
    deflates: bool,
}

/// The receiving half.
pub struct Reader {
    stream: OwnedReadHalf,
    buffer: BytesMut,
    deflates: bool,
}

/// Connects and upgrades the connection.
///
/// # Errors
/// The error of the socket; `InvalidData` if the server refuses the upgrade or answers it wrongly.
pub async fn connect(
    address: SocketAddr,
    path: &str,
    terms: Terms,
) -> io::Result<(Writer, Reader)> {
    let deflates = terms.deflates;
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = terms.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    let mut stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    let key = base64::engine::general_purpose::STANDARD.encode(fastrand::u128(..).to_be_bytes());
    let mut request = upgrade_request(address, path, &key);
    if deflates {
        let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
        request.truncate(request.len() - 2);
        request.push_str(offer);
    }
    if let Some(client) = terms.forwarded_for {
        request.truncate(request.len() - 2);
        request.push_str(&format!("X-Forwarded-For: {client}\r\n\r\n"));
    }
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = BytesMut::new();
    let head = loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(refused(
                "the server closed the connection instead of upgrading it",
            ));
        }
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break buffer.split_to(end + 4);
        }
    };
    let extension = if deflates { AGREED } else { "" };
    check_upgrade(&String::from_utf8_lossy(&head), &key, extension)?;
    let (read, write) = stream.into_split();
    let reader = Reader {
        stream: read,
        buffer,
        deflates,
    };
    let stream = write;
    Ok((Writer { stream, deflates }, reader))
}

fn check_upgrade(head: &str, key: &str, extension: &str) -> io::Result<()> {
    let mut lines = head.lines();
    if !lines
        .next()
        .is_some_and(|line| line.starts_with("HTTP/1.1 101 "))
    {
        return Err(refused(head));
    }
    let headers: Vec<_> = lines.filter_map(|line| line.split_once(':')).collect();
    let header = |name: &str| {
        let found = headers
            .iter()
            .find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value.trim())
    };
    let right = header("sec-websocket-accept") == accept_key(key)
        && header("upgrade").eq_ignore_ascii_case("websocket")
        && header("connection").eq_ignore_ascii_case("upgrade")
        && header("sec-websocket-extensions") == extension;
    if right { Ok(()) } else { Err(refused(head)) }
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Writer {
    /// Sends one masked frame, which is a whole message.
    ///
    /// # Errors
    /// The error of the socket.
    pub async fn frame(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        if self.deflates && opcode < CLOSE {
            return self
                .bytes(&encode(opcode | COMPRESSED, &deflate(payload)))
                .await;
        }
        self.bytes(&encode(opcode, payload)).await
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// The error of the socket.
    pub async fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Ends the sending direction with a TCP FIN.
    ///
    /// # Errors
    /// The error of the socket.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// From now on, dropping both halves resets the TCP connection.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn reset_on_drop(&self) -> io::Result<()> {
        self.stream.as_ref().set_zero_linger()
    }
}

impl Reader {
    /// The next frame; `None` at the end of the connection.
    ///
    /// # Errors
    /// The error of the socket; `InvalidData` if the server breaks RFC 6455, or fragments a message, which it has no
    /// reason to do.
    pub async fn frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = decode(&mut self.buffer, self.deflates)? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_SIZE);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(refused("the connection ended within a frame"))
                };
            }
        }
    }
}

/// Decodes the frames that a server has written. All of them must be complete.
///
/// # Errors
/// `InvalidData` if the server broke RFC 6455, or the last frame is not complete.
pub fn decode_all(bytes: &[u8]) -> io::Result<Vec<Frame>> {
    let mut buffer = BytesMut::from(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = decode(&mut buffer, false)? {
        frames.push(frame);
    }
    if buffer.is_empty() {
        Ok(frames)
    } else {
        Err(refused("the last frame is not complete"))
    }
}

/// Removes one frame from the beginning of the buffer, if it is complete.
fn decode(buffer: &mut BytesMut, deflates: bool) -> io::Result<Option<Frame>> {
    let Some(head) = Head::of(buffer) else {
        return Ok(None);
    };
    let opcode = head.opcode();
    let is_compressed = deflates && opcode < CLOSE && head.first & COMPRESSED != 0;
    if head.first & 0xf0 & !(COMPRESSED * u8::from(is_compressed)) != 0x80 {
        return Err(refused("a fragment, or reserved bits set"));
    }
    if !matches!(opcode, TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(refused("an unknown opcode"));
    }
    if head.masked {
        return Err(refused("a masked frame from a server"));
    }
    if !head.is_shortest() || (opcode >= CLOSE && head.payload > 125) {
        return Err(refused("a length that RFC 6455 does not allow"));
    }
    let length =
        usize::try_from(head.payload).map_err(|_| refused("a frame larger than the memory"))?;
    if buffer.len() - head.size < length {
        return Ok(None);
    }
    buffer.advance(head.size);
    let mut payload = buffer.split_to(length).freeze();
    if is_compressed {
        let message = inflate(&mut Decompress::new(false), &payload);
        payload = message
            .ok_or_else(|| refused("the payload is not deflated"))?
            .into();
    }
    if deflates && opcode < CLOSE && is_compressed != (payload.len() >= THRESHOLD) {
        return Err(refused(
            "a small message is compressed, or a large one is not",
        ));
    }
    Ok(Some(Frame { opcode, payload }))
}
