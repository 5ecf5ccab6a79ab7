//! What a client asks about positions when it logs in or joins, and what it is answered (CONTRACT, "Recovery").

use crate::hub::Resume;
use channel_store::{Epoch, Position};
use serde_json::{Map, Value};

/// The most bytes of an epoch, which is opaque to clients and made by us.
const EPOCH_LIMIT: usize = 64;
/// Offsets from here on are no longer exact in JavaScript.
const OFFSET_END: u64 = 1 << 53;

/// `since` and `positions` in the body of a login or join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Neither: replies and pushes stay as the original's.
    Unwanted,
    /// `"positions":true`: to be told positions, from now on.
    Positions,
    /// `"since":{"epoch":…,"offset":…}`: to be given what followed.
    Since(Position),
}

impl Recovery {
    /// Reads a body's fields; `None` if they are of another form.
    pub(crate) fn parse(fields: &Map<String, Value>) -> Option<Self> {
        let positions = match fields.get("positions") {
            None | Some(Value::Null) => false,
            Some(positions) => positions.as_bool()?,
        };
        match fields.get("since") {
            None | Some(Value::Null) if positions => Some(Self::Positions),
            None | Some(Value::Null) => Some(Self::Unwanted),
            Some(since) => position(since).map(Self::Since),
        }
    }

    /// True if the client wants to know where it stands.
    pub(crate) fn is_wanted(&self) -> bool {
        *self != Self::Unwanted
    }
}

/// A position as clients give it; `None` if it is of another form.
pub(crate) fn position(json: &Value) -> Option<Position> {
    let epoch = json.get("epoch")?.as_str()?;
    let offset = json.get("offset")?.as_u64()?;
    (epoch.len() <= EPOCH_LIMIT && offset < OFFSET_END).then(|| Position {
        epoch: Epoch::new(epoch),
        offset,
    })
}

/// Where a client stands that has asked for it; nothing is added to the reply of one that has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// Where it is when it has been given what it missed.
    position: Position,
    /// Nothing is missing in what it gets.
    recovered: bool,
    /// How many publications it is given up to that position.
    replayed: u64,
}

impl Recovered {
    /// Of a client without a position: it begins here.
    pub(crate) fn fresh(start: &Position) -> Self {
        Self {
            position: start.clone(),
            recovered: false,
            replayed: 0,
        }
    }

    /// Of a client that was judged, where its join found the log's end.
    pub(crate) fn resumed(resume: &Resume, end: &Position) -> Self {
        Self {
            position: end.clone(),
            recovered: resume.lost.is_none(),
            replayed: end.offset.saturating_sub(resume.start.offset),
        }
    }

    /// Adds it to a reply, which is a JSON object with members.
    pub(crate) fn add_to(&self, reply: &str) -> String {
        let members = reply.strip_suffix('}').unwrap_or(reply);
        let Self {
            position,
            recovered,
            replayed,
        } = self;
        let epoch = Value::from(position.epoch.as_str());
        let offset = position.offset;
        format!(
            r#"{members},"position":{{"epoch":{epoch},"offset":{offset}}},"recovered":{recovered},"replayed":{replayed}}}"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Moved;

    fn parse(json: &str) -> Option<Recovery> {
        Recovery::parse(&serde_json::from_str(json).unwrap())
    }

    fn at(epoch: &str, offset: u64) -> Position {
        let epoch = Epoch::new(epoch);
        Position { epoch, offset }
    }

    #[test]
    fn who_asks_for_nothing_gets_nothing_more() {
        for json in [
            "{}",
            r#"{"positions":false}"#,
            r#"{"positions":null,"since":null}"#,
        ] {
            assert_eq!(parse(json), Some(Recovery::Unwanted), "{json}");
        }
    }

    #[test]
    fn a_position_is_read_with_or_without_the_wish_to_be_told() {
        assert_eq!(parse(r#"{"positions":true}"#), Some(Recovery::Positions));
        let since = Some(Recovery::Since(at("e1", 17)));
        for json in [
            r#"{"since":{"epoch":"e1","offset":17}}"#,
            r#"{"since":{"offset":17,"epoch":"e1"},"positions":true}"#,
        ] {
            assert_eq!(parse(json), since, "{json}");
        }
    }

    #[test]
    fn what_is_no_position_is_refused() {
        let long = format!(r#"{{"since":{{"epoch":"{}","offset":1}}}}"#, "e".repeat(65));
        for json in [
            r#"{"positions":1}"#,
            r#"{"since":17}"#,
            r#"{"since":{"offset":17}}"#,
            r#"{"since":{"epoch":"e1"}}"#,
            r#"{"since":{"epoch":1,"offset":17}}"#,
            r#"{"since":{"epoch":"e1","offset":-1}}"#,
            r#"{"since":{"epoch":"e1","offset":1.5}}"#,
            r#"{"since":{"epoch":"e1","offset":9007199254740992}}"#,
            &long,
        ] {
            assert_eq!(parse(json), None, "{json}");
        }
    }

    #[test]
    fn a_reply_tells_where_the_client_will_be_and_what_comes_until_then() {
        let resume = Resume {
            start: at("e1", 17),
            lost: None,
        };
        let recovered = Recovered::resumed(&resume, &at("e2", 19));
        assert_eq!(
            recovered.add_to(r#"{"code":0}"#),
            r#"{"code":0,"position":{"epoch":"e2","offset":19},"recovered":true,"replayed":2}"#
        );
        let resume = Resume {
            lost: Some(Moved::Trimmed),
            ..resume
        };
        let recovered = Recovered::resumed(&resume, &at("e2", 19));
        assert!(recovered.add_to("{}").contains(r#""recovered":false"#));
    }
}
