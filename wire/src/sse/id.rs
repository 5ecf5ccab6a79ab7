//! The ids of events: where a session is in all its channels, and the secret with which it comes back.
//!
//! A browser keeps the id of the last event alone, and shows it when it connects again (`Last-Event-ID`). So each id has to hold
//! everything. It claims nothing that a client of `/ws` could not claim in its login, as `resume` and `since`, and is checked like
//! those. So it is not signed, and a forged one gains nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use channel_store::{ChannelName, Epoch, Position};
use std::fmt::Write;

/// The longest id in bytes. As a header, it still fits into the 8 KiB that proxies take for one.
const LIMIT: usize = 7 << 10;
/// The most channels of a session.
const CHANNELS: usize = 100;
/// The bytes of a secret: 128 bits in base64.
const SECRET: usize = 22;
/// The longest epoch in bytes.
const EPOCH: usize = 64;
/// The bytes that epoch, offset and separators take at most in what the stores make.
const PLACE: usize = 40;
/// Offsets from here on are no longer exact in JavaScript.
const OFFSET_END: u64 = 1 << 53;

/// The first byte of the id of a stream that goes on.
const OPEN: char = 's';
/// The first byte of an id after which nothing comes: the client must not come back on its own.
const ENDED: char = 'e';

/// What the id of an event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventId {
    /// The secret of the session, in base64.
    pub secret: String,
    /// Where the session is in each of its channels.
    pub positions: Vec<(ChannelName, Position)>,
    /// The stream was ended for good: the client must not come back on its own.
    pub is_last: bool,
}

impl EventId {
    /// Reads an id. `None`: no stream of ours has such ids.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LIMIT {
            return None;
        }
        let mut parts = text.split('~');
        let head = parts.next()?;
        let (is_last, secret) = match head.strip_prefix(OPEN) {
            Some(secret) => (false, secret),
            None => (true, head.strip_prefix(ENDED)?),
        };
        let is_base64 = |it: u8| it.is_ascii_alphanumeric() || it == b'-' || it == b'_';
        if secret.len() != SECRET || !secret.bytes().all(is_base64) {
            return None;
        }
        let mut positions: Vec<(ChannelName, Position)> = Vec::new();
        while let Some(name) = parts.next() {
            let name = String::from_utf8(URL_SAFE_NO_PAD.decode(name).ok()?).ok()?;
            let channel = ChannelName::new(name).ok()?;
            let epoch = parts.next().filter(|it| it.len() <= EPOCH)?;
            if !epoch.bytes().all(is_of_epoch) {
                return None;
            }
            let offset = number(parts.next()?)?;
            let is_twice = positions.iter().any(|(known, _)| *known == channel);
            if is_twice || positions.len() == CHANNELS {
                return None;
            }
            let epoch = Epoch::new(epoch);
            positions.push((channel, Position { epoch, offset }));
        }
        Some(Self {
            secret: secret.to_owned(),
            positions,
            is_last,
        })
    }
}

/// Reads an offset as it is written here: nothing but digits, and no more of them than needed.
fn number(text: &str) -> Option<u64> {
    let is_plain =
        text.bytes().all(|it| it.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    let number = text.parse().ok().filter(|_| is_plain)?;
    (number < OFFSET_END).then_some(number)
}

/// The stores make epochs of letters and digits. Anything else is written as `-`, and then the position is of no known epoch.
fn is_of_epoch(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

/// True if the ids of a session in these channels stay within the limit.
pub fn fits<'a>(channels: impl IntoIterator<Item = &'a ChannelName>) -> bool {
    let place = |channel: &ChannelName| channel.as_str().len().div_ceil(3) * 4 + PLACE;
    let places: usize = channels.into_iter().map(place).sum();
    1 + SECRET + places <= LIMIT
}

/// A channel in the ids that a stream writes.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) channel: Box<str>,
    /// Everything up to the offset, as it stands in ids.
    written: String,
    /// Where the epoch begins in that.
    epoch_from: usize,
    offset: u64,
}

impl Place {
    pub(super) fn new(channel: &str, epoch: &str, offset: u64) -> Self {
        let mut written = "~".to_owned();
        URL_SAFE_NO_PAD.encode_string(channel, &mut written);
        written.push('~');
        let mut place = Self {
            channel: channel.into(),
            epoch_from: written.len(),
            written,
            offset,
        };
        place.write_epoch(epoch);
        place
    }

    fn write_epoch(&mut self, epoch: &str) {
        self.written.truncate(self.epoch_from);
        let known = |it: char| u8::try_from(it).is_ok_and(is_of_epoch);
        let written = epoch.chars().map(|it| if known(it) { it } else { '-' });
        self.written.extend(written);
        self.written.push('~');
    }

    pub(super) fn epoch(&self) -> &str {
        self.written[self.epoch_from..].trim_end_matches('~')
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Moves it.
    pub(super) fn set(&mut self, epoch: &str, offset: u64) {
        if self.epoch() != epoch {
            self.write_epoch(epoch);
        }
        self.offset = offset;
    }
}

/// Appends an id.
pub(super) fn write(secret: &str, places: &[Place], is_last: bool, out: &mut String) {
    out.push(if is_last { ENDED } else { OPEN });
    out.push_str(secret);
    for place in places {
        out.push_str(&place.written);
        // Writing to a string cannot fail.
        let _ = write!(out, "{}", place.offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "8Qp1v0Zc2mXyT7aBd3fGhA";

    fn named(name: &str) -> ChannelName {
        ChannelName::new(name).unwrap()
    }

    fn written(places: &[Place], is_last: bool) -> String {
        let mut out = String::new();
        write(SECRET, places, is_last, &mut out);
        out
    }

    #[test]
    fn an_id_is_read_as_it_was_written() {
        let mut places = vec![
            Place::new("garden", "7f3a", 17),
            Place::new("哈哈 ~&=", "", 0),
        ];
        places[0].set("9c41", 18);
        for is_last in [false, true] {
            let text = written(&places, is_last);
            // Each of its characters may stand in a header and in a URL.
            let plain = |it: u8| it.is_ascii_alphanumeric() || b"-_~".contains(&it);
            assert!(text.bytes().all(plain), "{text}");
            let id = EventId::parse(&text).unwrap();
            let at = |epoch, offset| Position {
                epoch: Epoch::new(epoch),
                offset,
            };
            assert_eq!(id.secret, SECRET);
            assert_eq!(id.is_last, is_last);
            assert_eq!(
                id.positions,
                [
                    (named("garden"), at("9c41", 18)),
                    (named("哈哈 ~&="), at("", 0))
                ]
            );
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let good = written(&[Place::new("garden", "7f3a", 17)], false);
        assert!(EventId::parse(&good).is_some());
        let long = Place::new("garden", &"e".repeat(65), 1);
        let many: Vec<_> = (0..=CHANNELS)
            .map(|number| Place::new(&number.to_string(), "e", 1))
            .collect();
        for other in [
            "",
            "1",
            "42",
            &good[1..],
            &format!("x{}", &good[1..]),
            &format!("{good}~"),
            &format!("{good}~Z2FyZGVu~7f3a"),
            &format!("{good}~Z2FyZGVu~7f3a~18"),
            &format!("{good}8 "),
            &format!("s{SECRET}A"),
            &format!("s{}", &SECRET[1..]),
            &format!("s{}+", &SECRET[1..]),
            &format!("s{SECRET}~~e~1"),
            &format!("s{SECRET}~Z2FyZGVu=~e~1"),
            // A control character, and bytes that are no UTF-8.
            &format!("s{SECRET}~Cg~e~1"),
            &format!("s{SECRET}~_w~e~1"),
            &format!("s{SECRET}~Z2FyZGVu~e.1~1"),
            &format!("s{SECRET}~Z2FyZGVu~e~-1"),
            &format!("s{SECRET}~Z2FyZGVu~e~+1"),
            &format!("s{SECRET}~Z2FyZGVu~e~01"),
            &format!("s{SECRET}~Z2FyZGVu~e~"),
            &format!("s{SECRET}~Z2FyZGVu~e~9007199254740992"),
            &written(&[long], false),
            &written(&many, false),
            &format!("s{}", "~".repeat(LIMIT)),
        ] {
            assert_eq!(EventId::parse(other), None, "{other}");
        }
        assert!(EventId::parse(&written(&many[1..], false)).is_some());
    }

    #[test]
    fn a_hundred_channels_with_usual_names_fit_and_the_longest_id_is_read() {
        let usual: Vec<_> = (0..CHANNELS)
            .map(|it| named(&format!("game:room:{it:010}")))
            .collect();
        assert!(fits(&usual));
        let epoch = "0123456789abcdef01234";
        let places: Vec<_> = usual
            .iter()
            .map(|it| Place::new(it.as_str(), epoch, OFFSET_END - 1))
            .collect();
        let text = written(&places, true);
        assert!(text.len() <= LIMIT, "{}", text.len());
        assert_eq!(EventId::parse(&text).unwrap().positions.len(), CHANNELS);
        let long: Vec<_> = (0..20).map(|it| named(&format!("{it:0256}"))).collect();
        assert!(fits(&long[..18]));
        assert!(!fits(&long));
    }

    #[test]
    fn an_epoch_that_no_store_makes_becomes_one_that_is_unknown() {
        let text = written(&[Place::new("garden", "a~b.c", 1)], false);
        let id = EventId::parse(&text).unwrap();
        assert_eq!(id.positions[0].1.epoch.as_str(), "a-b-c");
    }
}
