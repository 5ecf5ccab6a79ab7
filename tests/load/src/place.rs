//! A client's place in its room: the position and the secret with which it comes back, and what it is told about them.

use crate::order::Faults;
use crate::protocol::{LOGIN, Received};
use memchr::memmem;
use std::time::Duration;

/// The pause before a login is tried again whose refusal names none.
const PAUSE: Duration = Duration::from_secs(1);

/// What a client keeps for the time when its connection is lost. All of it is empty until its first login is answered.
#[derive(Debug, Default)]
pub(crate) struct Place {
    secret: String,
    epoch: String,
    offset: u64,
}

/// What all clients that keep their places were told.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Told {
    /// Everybody has joined and nobody leaves, so nobody must be told of another join or leave.
    pub(crate) all_joined: bool,
    /// Logins that were answered with "try later".
    pub(crate) put_off: u64,
    /// Logins that were answered with another error.
    pub(crate) refused: u64,
    /// Clients that came back and were told that they miss nothing.
    pub(crate) recovered: u64,
    /// Pushes that the answers to these clients have announced.
    pub(crate) replayed: u64,
    /// Clients that came back and were told of their own join, so that their place was not kept.
    pub(crate) joined_again: u64,
}

impl Place {
    /// True if the client has logged in before, so that its next login takes its place again.
    pub(crate) fn is_taken(&self) -> bool {
        !self.secret.is_empty()
    }

    /// What a login says about the place, to be added to its body.
    pub(crate) fn parameters(&self) -> String {
        if !self.is_taken() {
            return r#","positions":true"#.to_owned();
        }
        let Self {
            secret,
            epoch,
            offset,
        } = self;
        format!(r#","resume":"{secret}","since":{{"epoch":"{epoch}","offset":{offset}}}"#)
    }

    /// Takes what this user was told, in this text.
    pub(crate) fn take(
        &mut self,
        user: u32,
        received: Received<'_>,
        text: &[u8],
        told: &mut Told,
        faults: &mut Faults,
    ) {
        match received {
            Received::Answer(LOGIN, true) => self.logged_in(text, told, faults),
            Received::Answer(LOGIN, false) if number(text, b"\"code\":") == Some(429) => {
                told.put_off += 1;
            }
            // The swarm tries again, and does not count this as a fault of other modes.
            Received::Answer(LOGIN, false) => {
                told.refused += 1;
                faults.refused += 1;
            }
            Received::Message(_) => self.advance(text, faults),
            Received::Joined(who) => {
                self.advance(text, faults);
                faults.false_joins += u64::from(told.all_joined);
                told.joined_again += u64::from(told.all_joined && who == user);
            }
            Received::Left => {
                self.advance(text, faults);
                faults.false_leaves += u64::from(told.all_joined);
            }
            Received::Other if memmem::find(text, b"onPosition").is_some() => {
                self.go_to(text);
                let is_whole = memmem::find(text, b"\"reason\":\"new-epoch\"").is_some();
                faults.lost += u64::from(!is_whole);
            }
            _ => {}
        }
    }

    fn logged_in(&mut self, text: &[u8], told: &mut Told, faults: &mut Faults) {
        if self.is_taken() {
            // The position stays that of the last push, because those that were missed are still to come.
            let recovered = memmem::find(text, b"\"recovered\":true").is_some();
            told.recovered += u64::from(recovered);
            faults.lost += u64::from(!recovered);
            told.replayed += number(text, b"\"replayed\":").unwrap_or(0);
        } else {
            self.go_to(text);
            self.secret = word(text, b"\"resume\":\"").unwrap_or_default();
            // Without a secret or a position nobody can come back.
            faults.refused += u64::from(self.secret.is_empty() || self.epoch.is_empty());
        }
    }

    fn go_to(&mut self, text: &[u8]) {
        self.epoch = word(text, b"\"epoch\":\"").unwrap_or_default();
        self.offset = number(text, b"\"offset\":").unwrap_or(0);
    }

    /// Takes a push. Its offset must be the next one.
    fn advance(&mut self, text: &[u8], faults: &mut Faults) {
        let offset = number(text, b"\"offset\":").unwrap_or(0);
        faults.disordered += u64::from(offset != self.offset + 1);
        self.offset = self.offset.max(offset);
    }
}

/// The time that the refusal of a login asks its client to wait.
pub(crate) fn pause(refusal: &[u8]) -> Duration {
    number(refusal, b"\"retryAfterMs\":").map_or(PAUSE, Duration::from_millis)
}

/// The number after this name.
fn number(text: &[u8], name: &[u8]) -> Option<u64> {
    let rest = &text[memmem::find(text, name)? + name.len()..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

/// The text after this name, up to its quotation mark. What is read in this way is never escaped.
fn word(text: &[u8], name: &[u8]) -> Option<String> {
    let rest = &text[memmem::find(text, name)? + name.len()..];
    let end = memchr::memchr(b'"', rest)?;
    String::from_utf8(rest[..end].to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Stamp;

    const LOGGED_IN: &[u8] =
        br#"{"id":1,"body":{"code":0,"resume":"s3","position":{"epoch":"7f","offset":4},"recovered":false,"replayed":0}}"#;
    const MESSAGE: Received<'_> = Received::Message(Stamp {
        sender: 0,
        number: 0,
        due: 0,
    });

    /// The place of a client that has logged in and was told these things since then, and the faults.
    fn after(news: &[(Received<'_>, &str)]) -> (Place, Told, Faults) {
        let (mut place, mut faults) = (Place::default(), Faults::default());
        let mut told = Told::default();
        assert_eq!(place.parameters(), r#","positions":true"#);
        let login = Received::Answer(LOGIN, true);
        place.take(7, login, LOGGED_IN, &mut told, &mut faults);
        told.all_joined = true;
        for (received, text) in news {
            place.take(7, *received, text.as_bytes(), &mut told, &mut faults);
        }
        (place, told, faults)
    }

    #[test]
    fn a_client_comes_back_with_its_secret_and_the_position_of_its_last_push() {
        let (place, _, faults) = after(&[(MESSAGE, r#"{"offset":5}"#)]);
        let expected = r#","resume":"s3","since":{"epoch":"7f","offset":5}"#;
        assert_eq!(place.parameters(), expected);
        assert!(faults.is_clean());
    }

    #[test]
    fn a_hole_a_repetition_and_a_loss_that_is_told_are_found() {
        let (_, _, faults) = after(&[(MESSAGE, r#"{"offset":6}"#), (MESSAGE, r#"{"offset":6}"#)]);
        assert_eq!(faults.disordered, 2);
        let lost = r#"{"route":"onPosition","body":{"epoch":"8a","offset":9,"reason":"trimmed"}}"#;
        let (place, _, faults) = after(&[(Received::Other, lost)]);
        assert_eq!((place.offset, faults.lost), (9, 1));
        let answer = (Received::Answer(LOGIN, true), r#"{"recovered":false}"#);
        assert_eq!(after(&[answer]).2.lost, 1);
    }

    #[test]
    fn joins_and_leaves_of_those_who_were_never_away_are_false() {
        let news = [
            (Received::Joined(7), r#"{"offset":5}"#),
            (Received::Left, r#"{"offset":6}"#),
        ];
        let (_, told, faults) = after(&news);
        assert_eq!((faults.false_joins, faults.false_leaves), (1, 1));
        assert_eq!(told.joined_again, 1);
    }

    #[test]
    fn a_login_that_is_put_off_is_no_fault_and_says_how_long_to_wait() {
        let refused = Received::Answer(LOGIN, false);
        let later = r#"{"id":1,"body":{"code":429,"retryAfterMs":1200}}"#;
        let (_, told, faults) = after(&[(refused, later)]);
        assert_eq!((told.put_off, faults.refused), (1, 0));
        assert_eq!(pause(later.as_bytes()), Duration::from_millis(1200));
        let (_, told, faults) = after(&[(refused, r#"{"code":500}"#)]);
        assert_eq!((told.refused, faults.refused), (1, 1));
        assert_eq!(pause(br#"{"code":500}"#), PAUSE);
    }
}
