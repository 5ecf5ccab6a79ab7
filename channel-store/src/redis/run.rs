//! Runs: how publications look in the log and on a channel's topic.

use crate::publication::{Ephemeral, Epoch, Payload, Position, Publication};
use crate::traced::Traced;
use bytes::Bytes;
use traces::Parent;

/// Reads the id of an entry: offset and time.
pub(super) fn entry_id(id: &str) -> Option<(u64, u64)> {
    let (offset, time) = id.split_once('-')?;
    Some((offset.parse().ok()?, time.parse().ok()?))
}

/// The first byte of a message of the topic that is no run, but one ephemeral message.
const EPHEMERAL: u8 = b'~';

/// The first byte of a message that says which parts of the next one belong to traces that are kept.
const TRACED: u8 = b'^';

/// What a message of the topic brings.
#[derive(Debug)]
pub(super) enum Brought {
    Run(Run),
    Ephemeral(Ephemeral),
    /// See [`marks`].
    Marks(Vec<Traced>),
}

impl Brought {
    /// Reads a message. If it is of the `known` epoch, it shares that one's text.
    pub(super) fn parse(bytes: Vec<u8>, known: Option<&Epoch>) -> Option<Self> {
        match bytes.first() {
            Some(&EPHEMERAL) => ephemeral(&bytes.into(), known).map(Self::Ephemeral),
            Some(&TRACED) => Some(Self::Marks(marks(&bytes))),
            _ => Run::parse(bytes, known).map(Self::Run),
        }
    }

    /// The epoch of everything in it that has one.
    pub(super) fn epoch(&self) -> Option<&Epoch> {
        match self {
            Self::Run(run) => Some(run.epoch()),
            Self::Ephemeral(ephemeral) => Some(&ephemeral.place.epoch),
            Self::Marks(_) => None,
        }
    }
}

/// Reads `~epoch offset milliseconds`, a newline and the payload. Its epoch is empty if the channel had none. A reader that
/// knows runs only passes it over, because it has no id of an entry.
fn ephemeral(bytes: &Bytes, known: Option<&Epoch>) -> Option<Ephemeral> {
    let end = bytes.iter().position(|&b| b == b'\n')?;
    let head = std::str::from_utf8(&bytes[1..end]).ok()?;
    let (epoch, rest) = head.split_once(' ')?;
    let (offset, time) = rest.split_once(' ')?;
    Some(Ephemeral {
        place: Position {
            epoch: epoch_of(epoch, known),
            offset: offset.parse().ok()?,
        },
        time: time.parse().ok()?,
        payload: Payload::parse(bytes.slice(end + 1..))?,
    })
}

/// Reads `^epoch`, then ` offset traceparent` for each publication, or ` ~ traceparent` for an ephemeral message, and a newline. What
/// can't be read is passed over: then a trace has fewer steps. A reader that knows no marks passes the whole message over, because it
/// has no id of an entry.
fn marks(bytes: &[u8]) -> Vec<Traced> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let mut words = text.trim_end().split(' ').skip(1);
    let mut marks = Vec::new();
    while let (Some(place), Some(traceparent)) = (words.next(), words.next()) {
        let offset = match place {
            "~" => None,
            place => match place.parse() {
                Ok(offset) => Some(offset),
                Err(_) => continue,
            },
        };
        if let Some(context) = Parent::parse(traceparent).and_then(Parent::sampled) {
            marks.push(Traced { offset, context });
        }
    }
    marks
}

fn epoch_of(text: &str, known: Option<&Epoch>) -> Epoch {
    known
        .filter(|known| known.as_str() == text)
        .cloned()
        .unwrap_or_else(|| Epoch::new(text))
}

/// Publications that follow one another in the log, as one message of the topic brings them. The message holds
/// `epoch offset-milliseconds` of the first one, the lengths of all but the last, a newline, and the payloads one after
/// the other.
#[derive(Debug)]
pub(super) struct Run {
    /// The position of the next one.
    position: Position,
    time: u64,
    lengths: Bytes,
    /// The payloads that are left. `None`: there are no more publications.
    payloads: Option<Bytes>,
}

impl Run {
    /// Reads a message. If it is of the `known` epoch, the publications share that one's text.
    pub(super) fn parse(bytes: Vec<u8>, known: Option<&Epoch>) -> Option<Self> {
        let bytes = Bytes::from(bytes);
        let end = bytes.iter().position(|&b| b == b'\n')?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let (epoch, rest) = head.split_once(' ')?;
        let id = rest.split(' ').next()?;
        let (offset, time) = entry_id(id)?;
        Some(Self {
            position: Position {
                epoch: epoch_of(epoch, known),
                offset,
            },
            time,
            lengths: bytes.slice(end - (rest.len() - id.len())..end),
            payloads: Some(bytes.slice(end + 1..)),
        })
    }

    /// The epoch of all of them.
    pub(super) fn epoch(&self) -> &Epoch {
        &self.position.epoch
    }

    fn next_payload(&mut self) -> Option<Bytes> {
        let mut payloads = self.payloads.take()?;
        if self.lengths.is_empty() {
            return Some(payloads);
        }
        // There is a space before each length.
        let lengths = self.lengths.split_off(1);
        let digits = lengths.iter().take_while(|byte| **byte != b' ').count();
        let length = std::str::from_utf8(&lengths[..digits]).ok()?.parse().ok()?;
        self.lengths = lengths.slice(digits..);
        if payloads.len() < length {
            return None;
        }
        let payload = payloads.split_to(length);
        self.payloads = Some(payloads);
        Some(payload)
    }
}

impl Iterator for Run {
    type Item = Publication;

    /// Bytes that are no publication end the run. At worst that leaves a gap, which the next publication shows.
    fn next(&mut self) -> Option<Publication> {
        let payload = self.next_payload().and_then(Payload::parse);
        let position = self.position.clone();
        self.position.offset = self.position.offset.saturating_add(1);
        if payload.is_none() {
            self.payloads = None;
        }
        Some(Publication {
            position,
            time: self.time,
            payload: payload?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_publication_is_read() {
        let epoch = Epoch::new("e1");
        let mut run =
            Run::parse(b"e1 7-1700\nr\0u\0{\"a\":\"\n\"}".to_vec(), Some(&epoch)).unwrap();
        let publication = run.next().unwrap();
        assert!(run.next().is_none());
        assert_eq!(publication.position, Position { epoch, offset: 7 });
        assert_eq!(publication.time, 1700);
        assert_eq!(publication.payload.route(), "r");
        assert_eq!(publication.payload.body(), b"{\"a\":\"\n\"}");
    }

    #[test]
    fn a_run_is_split_by_its_lengths() {
        let run = Run::parse(b"e1 7-1700 7 8\nr\0u\0{1}q\0uu\0{2}r\0\0{}".to_vec(), None).unwrap();
        let run: Vec<_> = run
            .map(|it| {
                let body = String::from_utf8(it.payload.body().to_vec()).unwrap();
                (it.position.offset, it.payload.sender().to_owned(), body)
            })
            .collect();
        let expected = [(7, "u", "{1}"), (8, "uu", "{2}"), (9, "", "{}")];
        let expected = expected.map(|(offset, sender, body)| (offset, sender.into(), body.into()));
        assert_eq!(run, expected);
    }

    #[test]
    fn a_run_ends_at_bytes_that_are_not_a_publication() {
        for bytes in [
            "e1 7-1 99\nr\0u\0{}",
            "e1 7-1 \nr\0u\0{}",
            "e1 7-1 x\nr\0u\0{}",
            "e1 7-1 2\nr\0u\0{}",
        ] {
            assert_eq!(
                Run::parse(bytes.into(), None).unwrap().count(),
                0,
                "{bytes:?}"
            );
        }
        let run = Run::parse("e1 7-1 6\nr\0u\0{}{}".into(), None).unwrap();
        assert_eq!(run.count(), 1);
    }

    #[test]
    fn an_ephemeral_message_is_no_run_for_those_who_know_runs_only() {
        let bytes = b"~e1 7 1700\nr\0u\0{\"a\":\"\n\"}".to_vec();
        assert!(Run::parse(bytes.clone(), None).is_none());
        let Some(Brought::Ephemeral(it)) = Brought::parse(bytes, None) else {
            panic!("it is not read");
        };
        let epoch = Epoch::new("e1");
        assert_eq!(it.place, Position { epoch, offset: 7 });
        assert_eq!((it.time, it.payload.sender()), (1700, "u"));
        assert_eq!(it.payload.body(), b"{\"a\":\"\n\"}");
        let nowhere = Brought::parse(b"~ 0 1700\nr\0u\0{}".to_vec(), None).unwrap();
        assert_eq!(nowhere.epoch().map(Epoch::as_str), Some(""));
        for bytes in [
            "~",
            "~e1 7\nr\0u\0{}",
            "~e1 x 1\nr\0u\0{}",
            "~e1 7 1700\n{}",
            "~e1 7 1700",
        ] {
            assert!(Brought::parse(bytes.into(), None).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn marks_of_traces_are_read_and_are_nothing_for_those_who_do_not_know_them() {
        let trace = |n: u8| format!("00-{:032x}-{:016x}-01", u128::from(n), n);
        let (one, two) = (trace(1), trace(2));
        let of = |text: &str| match Brought::parse(text.into(), None) {
            Some(Brought::Marks(marks)) => {
                let marks = marks.into_iter();
                marks
                    .map(|it| (it.offset, it.context.traceparent()))
                    .collect()
            }
            other => panic!("{other:?}"),
        };
        let marks: Vec<_> = of(&format!("^e1 7 {one} 9 {two}\n"));
        assert_eq!(marks, [(Some(7), one.clone()), (Some(9), two.clone())]);
        assert_eq!(of(&format!("^ ~ {one}\n")), [(None, one.clone())]);
        // What is wrong hides nothing else.
        let marks = of(&format!("^e1 x {one} 8 nothing 9 {two} 10\n"));
        assert_eq!(marks, [(Some(9), two.clone())]);
        for none in ["^", "^e1", "^e1\n", "^\u{0}", "^e1 7\n"] {
            assert_eq!(of(none), [], "{none:?}");
        }
        assert!(Run::parse(format!("^e1 7 {one}\n").into(), None).is_none());
        assert!(Run::parse(format!("^ ~ {one}\n").into(), None).is_none());
    }

    #[test]
    fn a_message_that_is_not_a_run_has_no_publications() {
        for bytes in [
            "",
            "\n",
            "e1 7\nr\0u\0{}",
            "e1 x-1\nr\0u\0{}",
            "e1 7-1\n{}",
            "7-1\nr\0u\0{}",
        ] {
            let run = Run::parse(bytes.into(), None);
            assert_eq!(run.and_then(|mut run| run.next()), None, "{bytes:?}");
        }
    }
}
