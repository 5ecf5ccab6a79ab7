//! The positions that a client gives when it logs in or joins, and those that its reply tells (`docs/design/log.md`).

use crate::hub::Resume;
use channel_rules::Recover;
use channel_store::{Epoch, Position};
use serde_json::{Map, Value};

/// The longest epoch in bytes. Connectors make them, and clients must not interpret them.
const EPOCH_LIMIT: usize = 64;
/// Offsets from here on are no longer exact in JavaScript.
const OFFSET_END: u64 = 1 << 53;

/// The fields `since` and `positions` in the body of a login or join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// The client gave neither. Replies and pushes stay as the original's.
    Unwanted,
    /// `"positions":true`: the client is told positions from now on.
    Positions,
    /// `"since":{"epoch":…,"offset":…}`: the client is given what followed this position.
    Since(Position),
}

impl Recovery {
    /// Reads the fields of a body; `None` if they are malformed.
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

    /// True if the client wants to be told positions.
    pub(crate) fn is_wanted(&self) -> bool {
        *self != Self::Unwanted
    }
}

/// Reads a position as clients write it; `None` if it is malformed.
pub(crate) fn position(json: &Value) -> Option<Position> {
    let epoch = json.get("epoch")?.as_str()?;
    let offset = json.get("offset")?.as_u64()?;
    (epoch.len() <= EPOCH_LIMIT && offset < OFFSET_END).then(|| Position {
        epoch: Epoch::new(epoch),
        offset,
    })
}

/// Writes a position as clients read it.
pub(crate) fn json(position: &Position) -> String {
    let epoch = Value::from(position.epoch.as_str());
    let offset = position.offset;
    format!(r#"{{"epoch":{epoch},"offset":{offset}}}"#)
}

/// What the reply to a login or join tells about positions, if the client has asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// The client's position when it has been given everything that it missed.
    position: Position,
    /// True if the client gets everything that the channel gives to those who come back.
    recovered: bool,
    /// The number of publications that the client is given up to `position`.
    replayed: u64,
    /// Which rule has limited what the client is given.
    rule: Recover,
}

impl Recovered {
    /// For a client that begins here, because it gave no position.
    pub(crate) fn fresh(start: &Position) -> Self {
        Self {
            position: start.clone(),
            recovered: false,
            replayed: 0,
            rule: Recover::Log,
        }
    }

    /// For a client that gave a position. `end` is the end of the log that its join found.
    pub(crate) fn resumed(resume: &Resume, end: &Position) -> Self {
        Self {
            position: end.clone(),
            recovered: resume.lost.is_none(),
            replayed: end.offset.saturating_sub(resume.start.offset),
            rule: Recover::Log,
        }
    }

    /// For a client that gave a position where the rules do not give everything that was missed. It is given so many
    /// publications up to the end of the log.
    pub(crate) fn by_rule(rule: Recover, replayed: u64, end: &Position) -> Self {
        Self {
            position: end.clone(),
            recovered: rule != Recover::None,
            replayed,
            rule,
        }
    }

    /// Adds the fields to a reply, which must be a non-empty JSON object.
    pub(crate) fn add_to(&self, reply: &str) -> String {
        let members = reply.strip_suffix('}').unwrap_or(reply);
        let Self {
            position,
            recovered,
            replayed,
            rule,
        } = self;
        let position = json(position);
        let rule = match rule {
            Recover::Log => String::new(),
            Recover::Last | Recover::None => format!(r#","recover":"{rule}""#),
        };
        format!(
            r#"{members},"position":{position},"recovered":{recovered},"replayed":{replayed}{rule}}}"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::PositionReason;

    fn parse(json: &str) -> Option<Recovery> {
        Recovery::parse(&serde_json::from_str(json).unwrap())
    }

    fn at(epoch: &str, offset: u64) -> Position {
        let epoch = Epoch::new(epoch);
        Position { epoch, offset }
    }

    #[test]
    fn a_client_that_asks_for_nothing_gets_nothing_more() {
        for json in [
            "{}",
            r#"{"positions":false}"#,
            r#"{"positions":null,"since":null}"#,
        ] {
            assert_eq!(parse(json), Some(Recovery::Unwanted), "{json}");
        }
    }

    #[test]
    fn a_position_is_parsed_with_and_without_the_wish_for_positions() {
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
    fn an_invalid_position_is_refused() {
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
    fn a_reply_has_the_position_and_the_number_of_missed_publications() {
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
            lost: Some(PositionReason::Trimmed),
            ..resume
        };
        let recovered = Recovered::resumed(&resume, &at("e2", 19));
        assert!(recovered.add_to("{}").contains(r#""recovered":false"#));
    }

    #[test]
    fn a_reply_names_the_rule_that_leaves_something_out() {
        let end = at("e2", 19);
        let last = Recovered::by_rule(Recover::Last, 2, &end);
        assert_eq!(
            last.add_to(r#"{"code":0}"#),
            r#"{"code":0,"position":{"epoch":"e2","offset":19},"recovered":true,"replayed":2,"recover":"last"}"#
        );
        let none = Recovered::by_rule(Recover::None, 1, &end);
        assert_eq!(
            none.add_to(r#"{"code":0}"#),
            r#"{"code":0,"position":{"epoch":"e2","offset":19},"recovered":false,"replayed":1,"recover":"none"}"#
        );
    }
}
