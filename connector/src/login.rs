//! The parameters of `connector.handler.login`, as JavaScript would read them.
//!
//! A room or user is named by `String(x)` (K7), so 4 and "4" are one; what is missing or falsy is 缺少参数 (K1); other
//! types than strings and numbers are 参数无效 (F12).

use crate::codec::RequestBody;
use crate::recovery::Recovery;
use channel_store::{ChannelName, User, UserId};
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

/// What is wrong with a login's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoginError {
    /// One is missing or falsy.
    #[error("缺少参数")]
    Missing,
    /// One is of another type, too long, or holds control characters.
    #[error("参数无效")]
    Invalid,
}

impl Login {
    /// Reads a request's body.
    ///
    /// # Errors
    /// [`LoginError::Missing`] comes before [`LoginError::Invalid`], whichever parameter it is.
    pub(crate) fn parse(body: &RequestBody) -> Result<Self, LoginError> {
        let fields: Map<String, Value> = match body {
            RequestBody::Object(json) => {
                serde_json::from_slice(json).map_err(|_| LoginError::Invalid)?
            }
            RequestBody::Empty | RequestBody::Unusable => Map::new(),
        };
        let user = truthy(fields.get("userId")).ok_or(LoginError::Missing)?;
        let channel = truthy(fields.get("lessonId")).ok_or(LoginError::Missing)?;
        let (id, is_number) = to_name(user).ok_or(LoginError::Invalid)?;
        let (channel, _) = to_name(channel).ok_or(LoginError::Invalid)?;
        let id = UserId::new(id).map_err(|_| LoginError::Invalid)?;
        let channel = ChannelName::new(channel).map_err(|_| LoginError::Invalid)?;
        let recovery = Recovery::parse(&fields).ok_or(LoginError::Invalid)?;
        Ok(Self {
            user: User { id, is_number },
            channel,
            recovery,
        })
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

    fn parse(json: &'static str) -> Result<Login, LoginError> {
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
                assert_eq!(Login::parse(&body), Err(LoginError::Missing), "{json}");
            }
        }
        assert_eq!(parse("{}"), Err(LoginError::Missing));
        assert_eq!(Login::parse(&RequestBody::Empty), Err(LoginError::Missing));
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
            assert_eq!(Login::parse(&body), Err(LoginError::Invalid), "{json}");
        }
    }
}
