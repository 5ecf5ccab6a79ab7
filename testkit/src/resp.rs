//! A minimal client of Redis's protocol, and a function that finds the end of a frame.

use bytes::{Buf, BytesMut};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A server that does not answer within this time is taken to be frozen.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// An answer in RESP2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A simple or bulk string.
    Text(Vec<u8>),
    /// An error.
    Error(String),
    /// A number.
    Integer(i64),
    /// A list of values.
    List(Vec<Value>),
    /// No value.
    Nil,
}

impl Value {
    /// The string as text. Bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    /// The bytes of a string.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Text(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The list; empty if this is not a list.
    #[must_use]
    pub fn list(&self) -> &[Self] {
        match self {
            Self::List(list) => list,
            _ => &[],
        }
    }
}

/// A connection to one server.
pub struct Resp {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Resp {
    /// Connects.
    ///
    /// # Errors
    /// The error of the socket.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = timeout(ANSWER_TIME, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: BytesMut::new(),
        })
    }

    /// Sends a command and waits for the answer, which may be an error value.
    ///
    /// # Errors
    /// The error of the socket; `TimedOut` if there is no answer within two seconds.
    pub async fn command(&mut self, parts: &[&str]) -> io::Result<Value> {
        timeout(ANSWER_TIME, async {
            self.stream.write_all(&encode(parts)).await?;
            loop {
                if let Some(length) = frame_length(&self.buffer) {
                    return parse(&mut self.buffer.split_to(length)).ok_or_else(not_resp);
                }
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        })
        .await?
    }
}

/// Sends one command on a new connection; `None` if there is no answer.
pub async fn ask(address: SocketAddr, parts: &[&str]) -> Option<Value> {
    let mut connection = Resp::connect(address).await.ok()?;
    connection.command(parts).await.ok()
}

/// Like [`ask`], for places that can't await: it blocks the thread until the answer is there.
///
/// # Errors
/// The error of the socket. It is a time-out if the server takes longer than [`SOON`](crate::SOON).
pub fn say(address: SocketAddr, parts: &[&str]) -> io::Result<Value> {
    let mut stream = std::net::TcpStream::connect_timeout(&address, crate::SOON)?;
    stream.set_read_timeout(Some(crate::SOON))?;
    stream.set_write_timeout(Some(crate::SOON))?;
    stream.write_all(&encode(parts))?;
    let mut buffer = BytesMut::new();
    let mut piece = [0; 16 * 1024];
    loop {
        if let Some(length) = frame_length(&buffer) {
            return parse(&mut buffer.split_to(length)).ok_or_else(not_resp);
        }
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => buffer.extend_from_slice(&piece[..read]),
        }
    }
}

fn encode(parts: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", parts.len());
    for part in parts {
        bytes += &format!("${}\r\n{part}\r\n", part.len());
    }
    bytes.into_bytes()
}

fn not_resp() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the answer is not RESP2")
}

/// The length of the first frame of RESP2 or RESP3, with its line ends; `None` if it is not complete.
///
/// # Panics
/// If the bytes are not such a frame.
#[must_use]
pub fn frame_length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|window| window == b"\r\n")?;
    let end = line + 2;
    let number = || -> i64 {
        let text = std::str::from_utf8(&bytes[1..line]).unwrap_or_default();
        let number = text.parse();
        number.unwrap_or_else(|_| panic!("not the length of a frame: {text:?}"))
    };
    let parts = match bytes[0] {
        b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => return Some(end),
        b'$' | b'=' | b'!' => {
            let length = usize::try_from(number()).map_or(end, |length| end + length + 2);
            return (bytes.len() >= length).then_some(length);
        }
        b'*' | b'~' | b'>' => number(),
        b'%' => 2 * number(),
        // Attributes come before the value that they belong to.
        b'|' => 2 * number() + 1,
        other => panic!("no frame begins with {:?}", char::from(other)),
    };
    let mut length = end;
    for _ in 0..parts {
        length += frame_length(&bytes[length..])?;
    }
    Some(length)
}

/// Parses one complete frame and removes it.
fn parse(bytes: &mut BytesMut) -> Option<Value> {
    let line = bytes.windows(2).position(|window| window == b"\r\n")?;
    let head = bytes.split_to(line);
    bytes.advance(2);
    let text = String::from_utf8_lossy(&head[1..]).into_owned();
    Some(match head[0] {
        b'+' => Value::Text(head[1..].to_vec()),
        b'-' => Value::Error(text),
        b':' => Value::Integer(text.parse().ok()?),
        b'$' => match text.parse::<i64>().ok()? {
            -1 => Value::Nil,
            length => {
                let content = bytes.split_to(usize::try_from(length).ok()?);
                bytes.advance(2);
                Value::Text(content.to_vec())
            }
        },
        b'*' => match text.parse::<i64>().ok()? {
            -1 => Value::Nil,
            count => Value::List((0..count).map(|_| parse(bytes)).collect::<Option<_>>()?),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_ends_where_its_last_part_ends() {
        for frame in [
            "+OK\r\n",
            ":12\r\n",
            "_\r\n",
            "$-1\r\n",
            "$4\r\na\r\nb\r\n",
            "*-1\r\n",
            "*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
            ">3\r\n$7\r\nmessage\r\n$1\r\nt\r\n$2\r\n\r\n\r\n",
            "%1\r\n+a\r\n+b\r\n",
            "|1\r\n+a\r\n+b\r\n:1\r\n",
        ] {
            let whole = frame.as_bytes();
            for length in 0..whole.len() {
                assert_eq!(frame_length(&whole[..length]), None, "{frame:?} {length}");
            }
            let more = [whole, b"+OK\r\n"].concat();
            assert_eq!(frame_length(&more), Some(whole.len()), "{frame:?}");
        }
    }

    #[test]
    fn answers_are_parsed() {
        let mut bytes = BytesMut::from("*4\r\n$4\r\na\r\nb\r\n:-2\r\n$-1\r\n-ERR no\r\n");
        let expected = vec![
            Value::Text(b"a\r\nb".to_vec()),
            Value::Integer(-2),
            Value::Nil,
            Value::Error("ERR no".into()),
        ];
        assert_eq!(parse(&mut bytes), Some(Value::List(expected)));
    }
}
