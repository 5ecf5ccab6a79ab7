//! Where a client was in its channels before it came back, as it says at its login.

use super::CHANNELS;
use super::recovery::position;
use channel_store::{ChannelName, Position};
use serde_json::{Map, Value};

/// The positions of a client in channels that its session has not joined yet. A token or a back end may make the session a member
/// there before the client can say where it was. Each position counts once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EarlierPositions(Vec<(ChannelName, Position)>);

impl EarlierPositions {
    /// Reads an object with a position for each name of a channel; `None` if it is malformed, or has more channels than a
    /// session may be in.
    pub(super) fn parse(fields: &Map<String, Value>) -> Option<Self> {
        if fields.len() > CHANNELS {
            return None;
        }
        let read = |(name, at): (&String, &Value)| {
            Some((ChannelName::new(name.as_str()).ok()?, position(at)?))
        };
        fields.iter().map(read).collect::<Option<_>>().map(Self)
    }

    /// Where the client was in this channel, if that did not count yet. From now on it does not count any more.
    pub(super) fn take(&mut self, channel: &ChannelName) -> Option<Position> {
        let place = self.0.iter().position(|(it, _)| it == channel)?;
        Some(self.0.swap_remove(place).1)
    }

    /// True if none counts any more.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use channel_store::Epoch;
    use serde_json::json;

    fn parse(json: &Value) -> Option<EarlierPositions> {
        EarlierPositions::parse(json.as_object().unwrap())
    }

    #[test]
    fn each_position_counts_once() {
        let mut earlier = parse(&json!({
            "a": {"epoch": "e", "offset": 7},
            "b": {"epoch": "f", "offset": 0},
        }))
        .unwrap();
        let [a, other] = ["a", "other"].map(|it| ChannelName::new(it).unwrap());
        let position = Position {
            epoch: Epoch::new("e"),
            offset: 7,
        };
        assert_eq!(earlier.take(&other), None);
        assert_eq!(earlier.take(&a), Some(position));
        assert_eq!(earlier.take(&a), None);
        assert!(!earlier.is_empty(), "there is still b");
    }

    #[test]
    fn what_is_no_position_of_a_channel_is_refused_and_so_are_too_many() {
        let at = json!({"epoch": "e", "offset": 7});
        let long = "c".repeat(257);
        for json in [
            json!({"a": 7}),
            json!({"a": null}),
            json!({"": at}),
            json!({"a\u{0}": at}),
            json!({ &*long: at }),
            json!({"a": at, "b": {"epoch": "e", "offset": -1}}),
        ] {
            assert_eq!(parse(&json), None, "{json}");
        }
        let many = |count: usize| {
            let channels = (0..count).map(|it| (it.to_string(), at.clone()));
            parse(&Value::Object(channels.collect()))
        };
        assert!(many(100).is_some());
        assert_eq!(many(101), None);
    }
}
