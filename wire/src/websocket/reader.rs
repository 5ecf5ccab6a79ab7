//! Reads a client's frames.
//!
//! A [`Reader`] takes the bytes of a socket and calls back with whole messages. Payloads are unmasked in place, and a
//! message that came in one piece is never copied. Between messages the reader has no buffer. It refuses what the RFC
//! forbids. It refuses a message that is longer than its limit before it looks at the payload, so no message takes more
//! space than that.

use super::{Opcode, deflate};
use crate::Error;
use std::cell::Cell;

/// The longest header: two bytes, eight of an extended length, four of the mask.
const HEADER_LIMIT: usize = 14;

/// What a client has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message. Text is UTF-8, unless the reader takes any bytes for text.
    Message(&'a [u8]),
    /// A ping, which has to be answered with the same payload.
    Ping(&'a [u8]),
    /// A pong, which may answer no ping at all.
    Pong,
    /// The payload of a close frame: a code and a reason that are allowed (section 7.4), or nothing. This is the last
    /// event.
    Close(&'a [u8]),
}

/// Reads one client's frames.
#[derive(Debug)]
pub struct Reader {
    limit: usize,
    /// Messages may come compressed.
    inflates: bool,
    /// Text need not be UTF-8.
    takes_any_text: bool,
    is_closed: bool,
    partial: Option<Box<Partial>>,
}

/// What is not complete after a read.
#[derive(Debug, Default)]
struct Partial {
    /// The beginning of a header.
    header: [u8; HEADER_LIMIT],
    header_length: usize,
    /// The frame whose payload is not complete.
    frame: Option<Frame>,
    /// The payload so far, if that frame is a control frame.
    control: Vec<u8>,
    /// The message that is not complete. Control frames may come between its frames.
    message: Option<Message>,
    /// Bytes that were not looked at yet.
    unread: Vec<u8>,
}

impl Reader {
    /// A reader for messages of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            inflates: false,
            takes_any_text: false,
            is_closed: false,
            partial: None,
        }
    }

    /// A reader for a connection with permessage-deflate. The limit holds for compressed and for inflated messages.
    #[must_use]
    pub fn inflating(limit: usize) -> Self {
        Self {
            inflates: true,
            ..Self::new(limit)
        }
    }

    /// The bytes that are kept between two reads.
    #[must_use]
    pub fn held(&self) -> usize {
        let partial = self.partial.as_ref();
        partial.map_or(0, |partial| {
            let message = partial.message.as_ref();
            size_of::<Partial>()
                + partial.control.capacity()
                + partial.unread.capacity()
                + message.map_or(0, |message| message.bytes.capacity())
        })
    }

    /// The same, for a binary protocol that some clients send in text frames: a text need not be UTF-8.
    #[must_use]
    pub fn taking_any_text(self) -> Self {
        Self {
            takes_any_text: true,
            ..self
        }
    }

    /// Takes the next bytes of the connection, unmasks them in place, and calls `on` for each event. Everything after a
    /// close frame or an error is ignored.
    ///
    /// # Errors
    /// [`Error::Frame`], [`Error::Utf8`] and [`Error::TooBig`] are reasons to close the connection. The events before
    /// are valid.
    pub fn feed(&mut self, bytes: &mut [u8], mut on: impl FnMut(Event<'_>)) -> Result<(), Error> {
        self.end_with(|reader| reader.read(bytes, &mut on, &|| false))
    }

    /// Like [`feed`](Self::feed), but stops after the message with which more than `most` bytes of messages were found.
    /// If messages are compressed, very many fit into one read. The rest is kept until [`resume`](Self::resume) is
    /// called.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn feed_some(
        &mut self,
        bytes: &mut [u8],
        most: usize,
        mut on: impl FnMut(Event<'_>),
    ) -> Result<(), Error> {
        let given = Cell::new(0);
        let mut count = |event: Event<'_>| {
            if let Event::Message(message) = event {
                given.set(given.get() + message.len());
            }
            on(event);
        };
        self.end_with(|reader| reader.read(bytes, &mut count, &|| given.get() > most))
    }

    /// Bytes that were fed and not looked at.
    #[must_use]
    pub fn unread(&self) -> usize {
        let partial = self.partial.as_ref();
        partial.map_or(0, |partial| partial.unread.len())
    }

    /// Goes on with what was not looked at.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn resume(&mut self, most: usize, on: impl FnMut(Event<'_>)) -> Result<(), Error> {
        let mut bytes = std::mem::take(&mut self.partial().unread);
        self.feed_some(&mut bytes, most, on)
    }

    fn end_with(&mut self, read: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        let result = read(self);
        if result.is_err() {
            self.is_closed = true;
        }
        if self.is_closed || self.partial.as_ref().is_some_and(|it| it.is_over()) {
            self.partial = None;
        }
        result
    }

    fn read(
        &mut self,
        mut bytes: &mut [u8],
        on: &mut impl FnMut(Event<'_>),
        is_enough: &impl Fn() -> bool,
    ) -> Result<(), Error> {
        while !bytes.is_empty() && !self.is_closed {
            let Some((mut frame, payload)) = self.frame(bytes)? else {
                return Ok(());
            };
            let length = frame.left.min(payload.len());
            let (piece, rest) = payload.split_at_mut(length);
            bytes = rest;
            frame.unmask(piece);
            if frame.opcode.is_control() {
                self.control(&frame, piece, on)?;
            } else {
                self.data(&frame, piece, on)?;
            }
            if frame.left > 0 {
                self.partial().frame = Some(frame);
            }
            if !bytes.is_empty() && is_enough() && !self.is_closed {
                self.partial().unread = bytes.to_vec();
                return Ok(());
            }
        }
        Ok(())
    }

    /// The frame that continues or begins here, and the bytes after its header. `None` if the header is not complete.
    fn frame<'a>(&mut self, bytes: &'a mut [u8]) -> Result<Option<(Frame, &'a mut [u8])>, Error> {
        let mut stored = 0;
        let mut header = [0; HEADER_LIMIT];
        if let Some(partial) = &mut self.partial {
            if let Some(frame) = partial.frame.take() {
                return Ok(Some((frame, bytes)));
            }
            stored = std::mem::take(&mut partial.header_length);
            header = partial.header;
        }
        let parsed = if stored == 0 {
            Frame::parse(bytes, self.inflates)?
        } else {
            let length = bytes.len().min(HEADER_LIMIT - stored);
            header[stored..stored + length].copy_from_slice(&bytes[..length]);
            Frame::parse(&header[..stored + length], self.inflates)?
        };
        let Some((frame, length)) = parsed else {
            let partial = self.partial();
            partial.header = header;
            partial.header_length = stored + bytes.len();
            partial.header[stored..partial.header_length].copy_from_slice(bytes);
            return Ok(None);
        };
        self.admit(&frame)?;
        Ok(Some((frame, &mut bytes[length - stored..])))
    }

    /// Checks that a new frame may come now, and that its message stays within the limit.
    fn admit(&self, frame: &Frame) -> Result<(), Error> {
        let message = self.partial.as_ref().and_then(|it| it.message.as_ref());
        match (frame.opcode, message) {
            (Opcode::Continuation, None) | (Opcode::Text | Opcode::Binary, Some(_)) => {
                return Err(Error::Frame);
            }
            _ => {}
        }
        let before = message.map_or(0, |it| it.bytes.len());
        if !frame.opcode.is_control() && before.saturating_add(frame.left) > self.limit {
            return Err(Error::too_big(self.limit));
        }
        Ok(())
    }

    /// Handles the next piece of a message.
    fn data(
        &mut self,
        frame: &Frame,
        piece: &[u8],
        on: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Error> {
        let is_last = frame.is_final && frame.left == 0;
        let begun = self.partial.as_mut().and_then(|it| it.message.take());
        if is_last && begun.is_none() {
            let is_text = self.is_text(frame);
            if frame.is_compressed {
                return self.inflate(piece, is_text, on);
            }
            if is_text && simdutf8::basic::from_utf8(piece).is_err() {
                return Err(Error::Utf8);
            }
            on(Event::Message(piece));
            return Ok(());
        }
        let mut message = begun.unwrap_or_else(|| Message {
            is_text: self.is_text(frame),
            is_compressed: frame.is_compressed,
            ..Message::default()
        });
        message.append(piece, frame.left);
        message.check(is_last)?;
        if is_last && message.is_compressed {
            return self.inflate(&message.bytes, message.is_text, on);
        }
        if is_last {
            on(Event::Message(&message.bytes));
        } else {
            self.partial().message = Some(message);
        }
        Ok(())
    }

    /// True if the frame begins a message that has to be UTF-8.
    fn is_text(&self, frame: &Frame) -> bool {
        frame.opcode == Opcode::Text && !self.takes_any_text
    }

    fn inflate(
        &self,
        compressed: &[u8],
        is_text: bool,
        on: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Error> {
        deflate::inflate(compressed, self.limit, |message| {
            if is_text && simdutf8::basic::from_utf8(message).is_err() {
                return Err(Error::Utf8);
            }
            on(Event::Message(message));
            Ok(())
        })
    }

    /// Handles the next piece of a control frame.
    fn control(
        &mut self,
        frame: &Frame,
        piece: &[u8],
        on: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Error> {
        if frame.left > 0 {
            self.partial().control.extend_from_slice(piece);
            return Ok(());
        }
        let mut begun = self
            .partial
            .as_mut()
            .map(|it| std::mem::take(&mut it.control))
            .unwrap_or_default();
        let payload = if begun.is_empty() {
            piece
        } else {
            begun.extend_from_slice(piece);
            &begun
        };
        match frame.opcode {
            Opcode::Ping => on(Event::Ping(payload)),
            Opcode::Pong => on(Event::Pong),
            _ => {
                check_close(payload)?;
                self.is_closed = true;
                on(Event::Close(payload));
            }
        }
        Ok(())
    }

    fn partial(&mut self) -> &mut Partial {
        self.partial.get_or_insert_default()
    }
}

impl Partial {
    fn is_over(&self) -> bool {
        self.header_length == 0
            && self.frame.is_none()
            && self.message.is_none()
            && self.unread.is_empty()
    }
}

/// A frame whose header is known.
#[derive(Debug)]
struct Frame {
    opcode: Opcode,
    is_final: bool,
    /// Whether it begins a compressed message.
    is_compressed: bool,
    /// Rotated, so that it begins with the byte for the next piece.
    mask: [u8; 4],
    /// The bytes of the payload that are still to come.
    left: usize,
}

impl Frame {
    /// The frame that begins here, and the length of its header. `None` if more bytes are needed. A fault is refused
    /// with the first byte that shows it.
    fn parse(bytes: &[u8], inflates: bool) -> Result<Option<(Self, usize)>, Error> {
        let &[first, ref rest @ ..] = bytes else {
            return Ok(None);
        };
        let is_final = first & 0x80 != 0;
        // The three reserved bits are for extensions. permessage-deflate marks the first frame of a compressed message
        // with one of them (RFC 7692, section 6).
        let is_compressed = inflates && first & 0x70 == 0x40;
        let is_reserved = first & 0x70 != 0 && !is_compressed;
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(Error::Frame)?;
        let begins = matches!(opcode, Opcode::Text | Opcode::Binary);
        if is_reserved || is_compressed && !begins || opcode.is_control() && !is_final {
            return Err(Error::Frame);
        }
        let &[second, ref rest @ ..] = rest else {
            return Ok(None);
        };
        let is_masked = second & 0x80 != 0;
        let short = second & 0x7f;
        if !is_masked || opcode.is_control() && short > 125 {
            return Err(Error::Frame);
        }
        let length_bytes = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some((extended, rest)) = rest.split_at_checked(length_bytes) else {
            return Ok(None);
        };
        let Some(&mask) = rest.first_chunk() else {
            return Ok(None);
        };
        let left = match short {
            126 | 127 => extended
                .iter()
                .fold(0_u64, |length, &byte| length << 8 | u64::from(byte)),
            _ => short.into(),
        };
        let frame = Self {
            opcode,
            is_final,
            is_compressed,
            mask,
            left: usize::try_from(left).unwrap_or(usize::MAX),
        };
        Ok(Some((frame, 2 + length_bytes + mask.len())))
    }

    /// Unmasks the payload's next bytes, eight at a time (section 5.3).
    fn unmask(&mut self, piece: &mut [u8]) {
        let [a, b, c, d] = self.mask;
        let mask = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
        let (words, rest) = piece.as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ mask).to_ne_bytes();
        }
        for (byte, mask) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
            *byte ^= mask;
        }
        self.mask.rotate_left(piece.len() % 4);
        self.left -= piece.len();
    }
}

/// A message that comes in pieces.
#[derive(Debug, Default)]
struct Message {
    bytes: Vec<u8>,
    /// Whether it has to be UTF-8.
    is_text: bool,
    is_compressed: bool,
    /// How much of a text is known to be UTF-8.
    checked: usize,
}

impl Message {
    /// Doubles the space when more is needed, but takes no more than the `left` bytes of the frame can fill. So a
    /// length that is only claimed costs nothing, and the limit holds for the space, too.
    fn append(&mut self, piece: &[u8], left: usize) {
        let length = self.bytes.len() + piece.len();
        if length > self.bytes.capacity() {
            let space = length.max(2 * self.bytes.capacity()).min(length + left);
            self.bytes.reserve_exact(space - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
    }

    /// Refuses a text with the first piece that cannot be part of UTF-8 (section 8.1).
    fn check(&mut self, is_last: bool) -> Result<(), Error> {
        // A compressed text is checked when it is inflated.
        if !self.is_text || self.is_compressed {
            return Ok(());
        }
        match simdutf8::compat::from_utf8(&self.bytes[self.checked..]) {
            Ok(_) => self.checked = self.bytes.len(),
            Err(error) if error.error_len().is_some() || is_last => return Err(Error::Utf8),
            Err(error) => self.checked += error.valid_up_to(),
        }
        Ok(())
    }
}

/// Checks the payload of a close frame: nothing, or a code that an endpoint may send (section 7.4) and a reason in
/// UTF-8.
fn check_close(payload: &[u8]) -> Result<(), Error> {
    let Some((&code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() {
            Ok(())
        } else {
            Err(Error::Frame)
        };
    };
    if !matches!(u16::from_be_bytes(code), 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Error::Frame);
    }
    match simdutf8::basic::from_utf8(reason) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Utf8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_grows_with_what_arrives_and_never_beyond_the_limit() {
        const LIMIT: usize = 1000;
        let mut reader = Reader::new(LIMIT);
        let mut frames = vec![0x01, 0x80 | 126, 0x02, 0x58, 0, 0, 0, 0];
        frames.extend([b'x'; 600]);
        frames.extend([0x80, 0x80 | 126, 0x01, 0x90, 0, 0, 0, 0]);
        frames.extend([b'x'; 400]);
        let last = frames.len() - 1;
        for (at, byte) in frames.iter_mut().enumerate() {
            let mut length = None;
            let read = reader.feed(std::slice::from_mut(byte), |event| {
                if let Event::Message(message) = event {
                    length = Some(message.len());
                }
            });
            assert_eq!(read, Ok(()));
            assert_eq!(length, (at == last).then_some(LIMIT));
            let message = reader.partial.as_ref().and_then(|it| it.message.as_ref());
            let space = message.map_or(0, |it| it.bytes.capacity());
            assert!(space <= LIMIT.min(2 * at), "{space} bytes after {at}");
        }
        assert!(reader.partial.is_none(), "an idle reader has no buffer");
    }
}
