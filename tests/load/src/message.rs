//! The content of a message: its sender, its number among the messages of this sender, and when it was due.
//!
//! `{"content":"#00017000000042000000123456789…"}`: digits of fixed width behind a mark, so that one search finds them
//! in the frames of every protocol.

/// Ends with the mark. Nothing else in a frame contains that character.
const HEAD: &[u8] = b"{\"content\":\"#";
const TAIL: &[u8] = b"\"}";
const SENDER: usize = 5;
const NUMBER: usize = 9;
const TIME: usize = 15;

/// The shortest message in bytes.
pub(crate) const SHORTEST: usize = HEAD.len() + SENDER + NUMBER + TIME + TAIL.len();

/// What distinguishes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The number of the sender, at most 99,999.
    pub(crate) sender: u32,
    /// The number of the message among those of its sender, from 0.
    pub(crate) number: u32,
    /// When the message was due, in nanoseconds since the start of the generator.
    pub(crate) due: u64,
}

impl Stamp {
    /// Appends the message, padded to `length` bytes.
    pub(crate) fn write(self, length: usize, out: &mut Vec<u8>) {
        let from = out.len();
        out.extend_from_slice(HEAD);
        digits(self.sender.into(), SENDER, out);
        digits(self.number.into(), NUMBER, out);
        digits(self.due, TIME, out);
        out.resize((from + length.max(SHORTEST)) - TAIL.len(), b'x');
        out.extend_from_slice(TAIL);
    }

    /// Finds the stamp in a frame.
    pub(crate) fn read(frame: &[u8]) -> Option<Self> {
        let mark = memchr::memchr(b'#', frame)? + 1;
        let text = frame.get(mark..mark + SENDER + NUMBER + TIME)?;
        let (sender, rest) = text.split_at(SENDER);
        let (number, time) = rest.split_at(NUMBER);
        Some(Self {
            sender: u32::try_from(value(sender)?).ok()?,
            number: u32::try_from(value(number)?).ok()?,
            due: value(time)?,
        })
    }
}

fn digits(mut value: u64, width: usize, out: &mut Vec<u8>) {
    let from = out.len();
    out.resize(from + width, b'0');
    for digit in out[from..].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn value(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value: u64, digit| {
        digit
            .is_ascii_digit()
            .then(|| value * 10 + u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_that_was_written_is_found_again_within_a_frame() {
        let stamp = Stamp {
            sender: 17,
            number: 42,
            due: 123_456_789,
        };
        let mut frame = b"{\"route\":\"onMessage\",\"body\":".to_vec();
        stamp.write(128, &mut frame);
        assert_eq!(frame.len(), 28 + 128);
        frame.extend_from_slice(b"}");
        assert_eq!(Stamp::read(&frame), Some(stamp));
        assert!(serde_json::from_slice::<serde_json::Value>(&frame).is_ok());
        assert_eq!(Stamp::read(b"{\"content\":\"#123\"}"), None);
    }
}
