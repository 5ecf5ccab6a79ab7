//! Tells unsolicited messages of a server from its answers.
//!
//! A node of a cluster sends `sunsubscribe` without being asked when a slot moves to another node. The `redis` crate would
//! take that for the answer to the oldest command, and from then on match every answer with the wrong command. So this
//! stream gives the word a capital letter on the way in. The crate then passes it on as a push which answers nothing. A
//! `sunsubscribe` that is an answer stands within the answer of a transaction (see `connection.rs`) and is left as it is.
//!
//! A connection for subscriptions alone would not make this unnecessary: it needs commands, too, which check the server's
//! lifetime on the very connection that brings the publications.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The kind of push that the unsolicited word becomes.
pub(super) const DROPPED: &str = "Sunsubscribe";
/// No other kind of push has this length and begins with the same letter.
const LENGTH: u64 = DROPPED.len() as u64;

/// A byte stream to a node of a cluster.
pub(super) struct Unsolicited<S> {
    stream: S,
    frames: Frames,
}

impl<S> Unsolicited<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            frames: Frames::default(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unsolicited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.frames.pass(&mut buffer.filled_mut()[before..]);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unsolicited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Follows a RESP3 stream: knows what the next byte is part of.
#[derive(Default)]
struct Frames {
    /// How many values of the present frame are still to come.
    values: u64,
    /// True if the next value is the kind of a push.
    kind: bool,
    /// The present line: its first byte, and the number after it.
    line: Option<(u8, u64)>,
    /// How many bytes of content are still to come, including the line end after them.
    raw: u64,
    /// True if the next byte begins a word that may have to be marked.
    marked: bool,
}

impl Frames {
    /// Follows some bytes and marks the word where it is unsolicited.
    fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let passed = if self.raw > 0 {
                if std::mem::take(&mut self.marked) && bytes[0] == b's' {
                    bytes[0] = b'S';
                }
                let passed = bytes
                    .len()
                    .min(usize::try_from(self.raw).unwrap_or(usize::MAX));
                self.raw -= passed as u64;
                passed
            } else {
                self.byte(bytes[0]);
                1
            };
            bytes = &mut bytes[passed..];
        }
    }

    /// Takes one byte of a line.
    fn byte(&mut self, byte: u8) {
        match (&mut self.line, byte) {
            (None, first) => self.line = Some((first, 0)),
            (Some((_, number)), b'0'..=b'9') => {
                *number = number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            }
            // `$-1` and `*-1` are null values, without content.
            (Some((first, _)), b'-') if matches!(first, b'$' | b'*') => *first = b'_',
            (Some((first, number)), b'\n') => {
                let (first, number) = (*first, *number);
                self.line = None;
                self.end_of_line(first, number);
            }
            _ => {}
        }
    }

    fn end_of_line(&mut self, first: u8, number: u64) {
        let begins_frame = self.values == 0;
        let is_kind = std::mem::take(&mut self.kind);
        self.values = self.values.saturating_sub(1);
        match first {
            b'$' | b'=' | b'!' => {
                self.raw = number.saturating_add(2);
                self.marked = is_kind && number == LENGTH;
            }
            b'*' | b'~' => self.values = self.values.saturating_add(number),
            b'>' => {
                self.values = self.values.saturating_add(number);
                self.kind = begins_frame;
            }
            b'%' => self.values = self.values.saturating_add(number.saturating_mul(2)),
            // Attributes come before the value that they belong to.
            b'|' => {
                let attributes = number.saturating_mul(2).saturating_add(1);
                self.values = self.values.saturating_add(attributes);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"+OK\r\n>3\r\n$12\r\nsunsubscribe\r\n$8\r\ngc:{4}:t\r\n:0\r\n\
        $31\r\n>3\r\n$12\r\nsunsubscribe\r\n:1\r\n1234\r\n\
        *2\r\n$-1\r\n%1\r\n+a\r\n*1\r\n$12\r\nsunsubscribe\r\n\
        >3\r\n$10\r\nssubscribe\r\n$1\r\nx\r\n:1\r\n\
        *-1\r\n_\r\n#t\r\n,1.5\r\n-MOVED 7 127.0.0.1:12\r\n\
        >3\r\n$8\r\nsmessage\r\n$1\r\nx\r\n$12\r\nsunsubscribe\r\n\
        *1\r\n>3\r\n$12\r\nsunsubscribe\r\n$1\r\nx\r\n:0\r\n\
        |1\r\n+k\r\n+v\r\n:5\r\n>3\r\n$12\r\nsunsubscribe\r\n$1\r\nx\r\n:0\r\n:12\r\n";

    #[test]
    fn only_the_kind_of_a_push_is_marked_however_the_stream_is_split() {
        let text = std::str::from_utf8(STREAM).unwrap();
        // The first and the last one are pushes; the others are content.
        let word = ">3\r\n$12\r\nsunsubscribe\r\n";
        let mut expected = STREAM.to_vec();
        for at in [text.find(word).unwrap(), text.rfind(word).unwrap()] {
            expected[at + 9] = b'S';
        }
        for size in 1..STREAM.len() {
            let mut bytes = STREAM.to_vec();
            let mut frames = Frames::default();
            for piece in bytes.chunks_mut(size) {
                frames.pass(piece);
            }
            assert_eq!(bytes, expected, "in pieces of {size}");
            assert_eq!((frames.values, frames.raw), (0, 0));
        }
    }
}
