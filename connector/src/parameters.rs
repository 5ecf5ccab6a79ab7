//! The parameters of the handlers, as JavaScript would read them.
//!
//! A room or user is named by `String(x)` (K7), so 4 and "4" are one; what is missing or falsy is 缺少参数 (K1); other
//! types than strings and numbers are 参数无效 (F12).

use crate::codec::RequestBody;
use crate::recovery::{self, Recovery};
use bytes::Bytes;
use channel_store::{ChannelName, IdempotencyKey, Position, User, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Who wants to log in, and where to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Login {
    /// `userId`.
    pub user: User,
    /// `lessonId`: the channel that the session joins at once.
    pub channel: ChannelName,
    /// `since`, `positions`.
    pub recovery: Recovery,
}

/// What is wrong with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParameterError {
    /// One is missing or falsy.
    #[error("缺少参数")]
    Missing,
    /// One is of another type, too long, or holds control characters.
    #[error("参数无效")]
    Invalid,
    /// The idempotency key is none.
    #[error("invalid key")]
    Key,
}

impl Login {
    /// Reads a request's body.
    ///
    /// # Errors
    /// [`ParameterError::Missing`] comes before [`ParameterError::Invalid`], whichever parameter it is.
    pub(crate) fn parse(body: &RequestBody) -> Result<Self, ParameterError> {
        let fields = fields(body)?;
        let user = truthy(fields.get("userId")).ok_or(ParameterError::Missing)?;
        let channel = truthy(fields.get("lessonId")).ok_or(ParameterError::Missing)?;
        let (id, is_number) = to_name(user).ok_or(ParameterError::Invalid)?;
        let (channel, _) = to_name(channel).ok_or(ParameterError::Invalid)?;
        let id = UserId::new(id).map_err(|_| ParameterError::Invalid)?;
        let channel = ChannelName::new(channel).map_err(|_| ParameterError::Invalid)?;
        let recovery = Recovery::parse(&fields).ok_or(ParameterError::Invalid)?;
        Ok(Self {
            user: User { id, is_number },
            channel,
            recovery,
        })
    }
}

/// A channel to join.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct JoinChannel {
    /// `channel`.
    pub channel: ChannelName,
    /// `since`, `positions`.
    pub recovery: Recovery,
}

impl JoinChannel {
    /// As [`Login::parse`].
    pub(crate) fn parse(body: &RequestBody) -> Result<Self, ParameterError> {
        let fields = fields(body)?;
        Ok(Self {
            channel: channel(&fields)?.ok_or(ParameterError::Missing)?,
            recovery: Recovery::parse(&fields).ok_or(ParameterError::Invalid)?,
        })
    }
}

/// A channel to leave.
pub(crate) fn leave_channel(body: &RequestBody) -> Result<ChannelName, ParameterError> {
    channel(&fields(body)?)?.ok_or(ParameterError::Missing)
}

/// Whose members to list. Where no channel is named, it is the one of the login.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListMembers {
    /// `channel`.
    pub channel: Option<ChannelName>,
    /// `page_size`; 0: as many as is usual.
    pub page_size: u32,
    /// `page_token` of the page before.
    pub page_token: String,
}

impl ListMembers {
    /// As [`Login::parse`].
    pub(crate) fn parse(body: &RequestBody) -> Result<Self, ParameterError> {
        let fields = fields(body)?;
        let page_token = match fields.get("page_token") {
            None | Some(Value::Null) => "",
            Some(token) => token.as_str().ok_or(ParameterError::Invalid)?,
        };
        Ok(Self {
            channel: channel(&fields)?,
            page_size: page_size(&fields)?,
            page_token: page_token.to_owned(),
        })
    }
}

/// What to read of a log. Where no channel is named, it is the one of the login.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ReadHistory {
    /// `channel`.
    pub channel: Option<ChannelName>,
    /// `newest_first`.
    pub newest_first: bool,
    /// `from`: what follows it, or stands before it.
    pub from: Option<Position>,
    /// `page_size`; 0: as many as is usual.
    pub page_size: u32,
}

impl ReadHistory {
    /// As [`Login::parse`].
    pub(crate) fn parse(body: &RequestBody) -> Result<Self, ParameterError> {
        let fields = fields(body)?;
        let from = match fields.get("from") {
            None | Some(Value::Null) => None,
            Some(from) => Some(recovery::position(from).ok_or(ParameterError::Invalid)?),
        };
        let newest_first = flag(fields.get("newest_first"))?;
        // Nothing stands before the beginning, and no epoch is without a name; but a channel without a life ends at
        // the empty one's offset 0.
        let is_nowhere = |from: &Position| {
            from.epoch.as_str().is_empty() && from.offset > 0 || newest_first && from.offset == 0
        };
        if from.as_ref().is_some_and(is_nowhere) {
            return Err(ParameterError::Invalid);
        }
        Ok(Self {
            channel: channel(&fields)?,
            newest_first,
            from,
            page_size: page_size(&fields)?,
        })
    }
}

/// A message and what is to become of it. Where no channel is named, it is for the one of the login.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    /// `channel`.
    pub channel: Option<ChannelName>,
    /// `body`: an object.
    pub body: Bytes,
    /// `key`.
    pub key: Option<Box<str>>,
    /// `exclude_self`.
    pub exclude_self: bool,
}

impl Publish {
    /// As [`Login::parse`]; the message itself is not looked into.
    pub(crate) fn parse(body: &RequestBody) -> Result<Self, ParameterError> {
        #[derive(Deserialize)]
        struct Parts<'a> {
            channel: Option<Value>,
            #[serde(borrow)]
            body: Option<&'a RawValue>,
            key: Option<Value>,
            exclude_self: Option<Value>,
        }
        let RequestBody::Object(json) = body else {
            return Err(ParameterError::Missing);
        };
        let parts: Parts<'_> = serde_json::from_slice(json).map_err(|_| ParameterError::Invalid)?;
        let key = match parts.key {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => key(Some(text.into()))?,
            Some(_) => return Err(ParameterError::Key),
        };
        let exclude_self = flag(parts.exclude_self.as_ref())?;
        let channel = named(parts.channel.as_ref())?;
        let body = parts.body.ok_or(ParameterError::Missing)?;
        match RequestBody::new(body.get().as_bytes()) {
            RequestBody::Object(body) => Ok(Self {
                channel,
                body,
                key,
                exclude_self,
            }),
            RequestBody::Empty | RequestBody::Unusable => Err(ParameterError::Invalid),
        }
    }
}

/// A client's own idempotency key for a message, wherever in the request it stands.
pub(crate) fn key(key: Option<Box<str>>) -> Result<Option<Box<str>>, ParameterError> {
    let is_key = |key: &str| IdempotencyKey::new(key).is_ok();
    match key {
        Some(key) if !is_key(&key) => Err(ParameterError::Key),
        key => Ok(key),
    }
}

fn fields(body: &RequestBody) -> Result<Map<String, Value>, ParameterError> {
    match body {
        RequestBody::Object(json) => {
            serde_json::from_slice(json).map_err(|_| ParameterError::Invalid)
        }
        RequestBody::Empty | RequestBody::Unusable => Ok(Map::new()),
    }
}

fn channel(fields: &Map<String, Value>) -> Result<Option<ChannelName>, ParameterError> {
    named(fields.get("channel"))
}

/// `None`: none is named.
fn named(channel: Option<&Value>) -> Result<Option<ChannelName>, ParameterError> {
    let Some(channel) = truthy(channel) else {
        return Ok(None);
    };
    let (name, _) = to_name(channel).ok_or(ParameterError::Invalid)?;
    let name = ChannelName::new(name).map_err(|_| ParameterError::Invalid)?;
    Ok(Some(name))
}

fn flag(value: Option<&Value>) -> Result<bool, ParameterError> {
    match value {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value.as_bool().ok_or(ParameterError::Invalid),
    }
}

/// Chat takes at most 1,000.
fn page_size(fields: &Map<String, Value>) -> Result<u32, ParameterError> {
    match fields.get("page_size") {
        None | Some(Value::Null) => Ok(0),
        Some(size) => match size.as_u64() {
            Some(size @ 1..=1_000) => Ok(size as u32),
            _ => Err(ParameterError::Invalid),
        },
    }
}

fn truthy(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Bool(true) | Value::Array(_) | Value::Object(_) => true,
    })
}

/// `String(x)`, and whether it was a number.
fn to_name(value: &Value) -> Option<(String, bool)> {
    match value {
        Value::String(text) => Some((text.clone(), false)),
        Value::Number(number) => {
            let number = number.as_f64().filter(|number| number.is_finite())?;
            Some((ryu_js::Buffer::new().format_finite(number).to_owned(), true))
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &'static str) -> Result<Login, ParameterError> {
        Login::parse(&RequestBody::Object(json.into()))
    }

    #[test]
    fn numbers_and_strings_name_one_room_and_one_user_k7() {
        for (json, user, is_number, channel) in [
            (r#"{"userId":"xialei","lessonId":4}"#, "xialei", false, "4"),
            (r#"{"userId":5,"lessonId":"4"}"#, "5", true, "4"),
            (r#"{"userId":5.0,"lessonId":4e0}"#, "5", true, "4"),
            (r#"{"userId":1e21,"lessonId":-0.5}"#, "1e+21", true, "-0.5"),
            (
                r#"{"userId":12345678901234567890,"lessonId":1}"#,
                "12345678901234567000",
                true,
                "1",
            ),
            (r#"{"userId":1,"userId":2,"lessonId":1}"#, "2", true, "1"),
        ] {
            let login = parse(json).unwrap();
            assert_eq!(login.user.id.as_str(), user, "{json}");
            assert_eq!(login.user.is_number, is_number, "{json}");
            assert_eq!(login.channel.as_str(), channel, "{json}");
        }
    }

    #[test]
    fn what_is_missing_or_falsy_is_missing_k1() {
        for value in ["0", "-0", "0.0", r#""""#, "null", "false"] {
            for json in [
                format!(r#"{{"userId":{value},"lessonId":1}}"#),
                format!(r#"{{"userId":1,"lessonId":{value}}}"#),
                format!(r#"{{"userId":true,"lessonId":{value}}}"#),
            ] {
                let body = RequestBody::Object(json.clone().into());
                assert_eq!(Login::parse(&body), Err(ParameterError::Missing), "{json}");
            }
        }
        assert_eq!(parse("{}"), Err(ParameterError::Missing));
        assert_eq!(
            Login::parse(&RequestBody::Empty),
            Err(ParameterError::Missing)
        );
    }

    #[test]
    fn other_types_and_oversized_names_are_invalid_f12() {
        let long = "x".repeat(5_000);
        for value in [
            "true",
            "{}",
            "[]",
            "[1]",
            "1e400",
            r#""a\u0000b""#,
            &format!("\"{long}\""),
        ] {
            let json = format!(r#"{{"userId":"u","lessonId":{value}}}"#);
            let body = RequestBody::Object(json.clone().into());
            assert_eq!(Login::parse(&body), Err(ParameterError::Invalid), "{json}");
        }
    }

    fn object(json: &str) -> RequestBody {
        RequestBody::Object(Bytes::copy_from_slice(json.as_bytes()))
    }

    fn named(name: &str) -> ChannelName {
        ChannelName::new(name).unwrap()
    }

    #[test]
    fn a_channel_is_named_like_a_room_and_must_be_named_to_join_or_leave() {
        for json in [
            r#"{"channel":4}"#,
            r#"{"channel":"4"}"#,
            r#"{"channel":4.0}"#,
        ] {
            assert_eq!(leave_channel(&object(json)), Ok(named("4")), "{json}");
            let join = JoinChannel::parse(&object(json)).unwrap();
            assert_eq!(join.channel, named("4"), "{json}");
        }
        for (json, expected) in [
            ("{}", ParameterError::Missing),
            (r#"{"channel":0}"#, ParameterError::Missing),
            (r#"{"channel":[]}"#, ParameterError::Invalid),
            (r#"{"channel":"a\u0000"}"#, ParameterError::Invalid),
        ] {
            assert_eq!(leave_channel(&object(json)), Err(expected), "{json}");
            assert_eq!(JoinChannel::parse(&object(json)), Err(expected), "{json}");
        }
        let since = r#"{"channel":4,"since":{"epoch":7,"offset":1}}"#;
        let refused = JoinChannel::parse(&object(since));
        assert_eq!(refused, Err(ParameterError::Invalid));
    }

    #[test]
    fn a_message_is_taken_as_it_stands() {
        let json = r#"{"key":"k","exclude_self":true,"body":{"n": 1.0, "n":2},"channel":4}"#;
        let publish = Publish {
            channel: Some(named("4")),
            body: Bytes::from_static(br#"{"n": 1.0, "n":2}"#),
            key: Some("k".into()),
            exclude_self: true,
        };
        assert_eq!(Publish::parse(&object(json)), Ok(publish));
        let least = Publish {
            channel: None,
            body: Bytes::from_static(b"{}"),
            key: None,
            exclude_self: false,
        };
        let nulls = r#"{"body":{},"channel":null,"key":null,"exclude_self":null}"#;
        for json in [r#"{"body":{}}"#, nulls] {
            assert_eq!(Publish::parse(&object(json)).as_ref(), Ok(&least), "{json}");
        }
    }

    #[test]
    fn a_message_without_a_body_or_with_parts_of_other_types_is_refused() {
        for body in [RequestBody::Empty, object("{}"), object(r#"{"body":null}"#)] {
            assert_eq!(Publish::parse(&body), Err(ParameterError::Missing));
        }
        let long = format!(r#"{{"body":{{}},"key":"{}"}}"#, "k".repeat(129));
        for json in [
            r#"{"body":[]}"#,
            r#"{"body":1}"#,
            r#"{"body":{},"exclude_self":1}"#,
            r#"{"body":{},"channel":{}}"#,
        ] {
            let refused = Publish::parse(&object(json));
            assert_eq!(refused, Err(ParameterError::Invalid), "{json}");
        }
        for json in [r#"{"body":{},"key":1}"#, r#"{"body":{},"key":""}"#, &long] {
            let refused = Publish::parse(&object(json));
            assert_eq!(refused, Err(ParameterError::Key), "{json}");
        }
    }

    #[test]
    fn pages_have_bounds() {
        let members = |json| ListMembers::parse(&object(json));
        let history = |json| ReadHistory::parse(&object(json));
        assert_eq!(members("{}").unwrap().page_size, 0);
        assert_eq!(members(r#"{"page_size":1000}"#).unwrap().page_size, 1_000);
        for json in [
            r#"{"page_size":0}"#,
            r#"{"page_size":1001}"#,
            r#"{"page_size":-1}"#,
            r#"{"page_size":1.5}"#,
            r#"{"page_size":"9"}"#,
        ] {
            assert_eq!(members(json), Err(ParameterError::Invalid), "{json}");
            assert_eq!(history(json), Err(ParameterError::Invalid), "{json}");
        }
        let token = members(r#"{"page_token":1}"#);
        assert_eq!(token, Err(ParameterError::Invalid));
    }

    #[test]
    fn history_is_read_from_somewhere() {
        let history = |json| ReadHistory::parse(&object(json));
        let from = history(r#"{"from":{"epoch":"e","offset":0}}"#).unwrap();
        assert_eq!(from.from.unwrap().offset, 0);
        assert!(!from.newest_first);
        for json in [
            r#"{"from":{"epoch":"e","offset":0},"newest_first":true}"#,
            r#"{"from":{"epoch":"","offset":1}}"#,
            r#"{"from":{"epoch":"e"}}"#,
            r#"{"from":7}"#,
            r#"{"newest_first":1}"#,
        ] {
            assert_eq!(history(json), Err(ParameterError::Invalid), "{json}");
        }
    }
}
