//! The parameters of the handlers, read as JavaScript would read them.
//!
//! The name of a room or user is `String(x)` (K7), so 4 and "4" are one. A missing or falsy value is 缺少参数 (K1). Other
//! types than strings and numbers are 参数无效 (F12). So are numbers that JavaScript can't tell from their neighbours,
//! because two users would become one.

use super::earlier_positions::EarlierPositions;
use super::recovery::{self, Recovery};
use super::secret::Secret;
use crate::access::user_id;
use bytes::Bytes;
use channel_store::{ChannelName, IdempotencyKey, Position, User, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::mem;
use wire::{Protocol, Reason, Refusal, RequestBody};

/// The largest number that JavaScript can tell from the next one, 2⁵³ − 1. Ids beyond it must be strings.
const LARGEST_EXACT: f64 = 9_007_199_254_740_991.0;

/// The parameters of a login.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Login {
    /// `userId`.
    pub user: User,
    /// `lessonId`: the channel that the session joins at once. `None`: the session begins without a channel.
    pub channel: Option<ChannelName>,
    /// `since`, `positions`: about this channel.
    pub recovery: Recovery,
    /// `positions`: about all others.
    pub earlier: EarlierPositions,
    /// `resume`: the secret from the answer to an earlier login.
    pub resume: Option<Secret>,
}

impl Login {
    /// Reads the body of a request. Only JSON clients may leave out the channel. The original refused that, as recorded
    /// (K1).
    ///
    /// # Errors
    /// [`Reason::MissingParameter`] comes before [`Reason::InvalidParameter`], whichever parameter it is about.
    pub(crate) fn parse(body: &RequestBody, protocol: Protocol) -> Result<Self, Refusal> {
        Self::parse_for(body, protocol, None)
    }

    /// The same for a user whose token was accepted, and who need not be named again. The caller compares the two.
    pub(crate) fn parse_for(
        body: &RequestBody,
        protocol: Protocol,
        known: Option<&UserId>,
    ) -> Result<Self, Refusal> {
        let mut fields = fields(body)?;
        let mut earlier = earlier_positions(&mut fields)?;
        let user = match (truthy(fields.get("userId")), known) {
            (Some(user), _) => Named::Here(user),
            (None, Some(known)) => Named::InToken(known),
            (None, None) => return Err(missing("userId")),
        };
        let channel = match (fields.get("lessonId"), protocol) {
            (None | Some(Value::Null), Protocol::Json) => None,
            (channel, _) => Some(truthy(channel).ok_or_else(|| missing("lessonId"))?),
        };
        let user = match user {
            Named::Here(user) => named_user(user)?,
            Named::InToken(id) => User {
                id: id.clone(),
                is_number: false,
            },
        };
        let channel = channel.map(|it| channel_name("lessonId", it)).transpose()?;
        let mut recovery = recovery(&fields)?;
        if channel.is_none() && matches!(recovery, Recovery::Since(_)) {
            return Err(missing("lessonId, the channel that since belongs to,"));
        }
        let here = channel.as_ref().and_then(|it| earlier.take(it));
        if let (Some(position), Recovery::Positions) = (here, &recovery) {
            recovery = Recovery::Since(position);
        }
        Ok(Self {
            user,
            channel,
            recovery,
            earlier,
            resume: resume(fields.get("resume"))?,
        })
    }
}

/// Where a login names its user.
enum Named<'a> {
    /// In the body.
    Here(&'a Value),
    /// In the token alone.
    InToken(&'a UserId),
}

/// What a name of a user must be.
const USER: &str =
    "1 to 128 bytes long, without control characters and invisible ones, and not of blanks alone";

/// `userId`: the user whom a login names. `None`: it names none.
pub(crate) fn user(body: &RequestBody) -> Result<Option<User>, Refusal> {
    let fields = fields(body)?;
    truthy(fields.get("userId")).map(named_user).transpose()
}

fn named_user(user: &Value) -> Result<User, Refusal> {
    let (id, is_number) = to_name("userId", user)?;
    let id = user_id(id).ok_or_else(|| invalid("userId", USER))?;
    Ok(User { id, is_number })
}

/// `token`: what the issuer has signed. `None`: there is none.
pub(crate) fn token(body: &RequestBody) -> Result<Option<String>, Refusal> {
    match fields(body)?.remove("token") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(token)) => Ok(Some(token)),
        Some(_) => Err(invalid("token", "a string")),
    }
}

fn resume(secret: Option<&Value>) -> Result<Option<Secret>, Refusal> {
    match secret {
        None | Some(Value::Null) => Ok(None),
        Some(secret) => {
            let read = secret.as_str().and_then(Secret::parse);
            let what = "the secret from the answer to an earlier login";
            read.map(Some).ok_or_else(|| invalid("resume", what))
        }
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
    /// Reads the body of a request. The errors are those of [`Login::parse`].
    pub(crate) fn parse(body: &RequestBody) -> Result<Self, Refusal> {
        let fields = fields(body)?;
        Ok(Self {
            channel: channel(&fields)?.ok_or_else(|| missing("channel"))?,
            recovery: recovery(&fields)?,
        })
    }
}

/// A channel to leave.
pub(crate) fn leave_channel(body: &RequestBody) -> Result<ChannelName, Refusal> {
    channel(&fields(body)?)?.ok_or_else(|| missing("channel"))
}

/// The parameters of a list of members.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListMembers {
    /// `channel`; `None`: that of the login.
    pub channel: Option<ChannelName>,
    /// `pageSize`; 0: the default of chat.
    pub page_size: u32,
    /// `pageToken` from the page before.
    pub page_token: String,
}

impl ListMembers {
    /// Reads the body of a request. The errors are those of [`Login::parse`].
    pub(crate) fn parse(body: &RequestBody) -> Result<Self, Refusal> {
        let fields = fields(body)?;
        let page_token = match fields.get("pageToken") {
            None | Some(Value::Null) => "",
            Some(token) => token
                .as_str()
                .ok_or_else(|| invalid("pageToken", "a string"))?,
        };
        Ok(Self {
            channel: channel(&fields)?,
            page_size: page_size(&fields)?,
            page_token: page_token.to_owned(),
        })
    }
}

/// The parameters of a read of a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ReadHistory {
    /// `channel`; `None`: that of the login.
    pub channel: Option<ChannelName>,
    /// `newestFirst`.
    pub newest_first: bool,
    /// `from`: the page follows this position, or stands before it.
    pub from: Option<Position>,
    /// `pageSize`; 0: the default.
    pub page_size: u32,
}

impl ReadHistory {
    /// Reads the body of a request. The errors are those of [`Login::parse`].
    pub(crate) fn parse(body: &RequestBody) -> Result<Self, Refusal> {
        let fields = fields(body)?;
        let from = match fields.get("from") {
            None | Some(Value::Null) => None,
            Some(from) => Some(recovery::position(from).ok_or_else(|| invalid("from", POSITION))?),
        };
        let newest_first = flag("newestFirst", fields.get("newestFirst"))?;
        // Nothing stands before offset 0, and no publication has an empty epoch. But ("", 0) is allowed: it is the end
        // of a channel without a life.
        let is_nowhere = |from: &Position| {
            from.epoch.as_str().is_empty() && from.offset > 0 || newest_first && from.offset == 0
        };
        if from.as_ref().is_some_and(is_nowhere) {
            return Err(invalid("from", "a position that a publication can have"));
        }
        Ok(Self {
            channel: channel(&fields)?,
            newest_first,
            from,
            page_size: page_size(&fields)?,
        })
    }
}

/// The parameters of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    /// `channel`; `None`: that of the login.
    pub channel: Option<ChannelName>,
    /// `body`: a JSON object.
    pub body: Bytes,
    /// `key`.
    pub key: Option<Box<str>>,
    /// `excludeSelf`.
    pub exclude_self: bool,
    /// `ephemeral`.
    pub ephemeral: bool,
}

impl Publish {
    /// Reads the body of a request. The errors are those of [`Login::parse`]. The message itself is not parsed.
    pub(crate) fn parse(body: &RequestBody) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Parts<'a> {
            channel: Option<Value>,
            #[serde(borrow)]
            body: Option<&'a RawValue>,
            key: Option<Value>,
            exclude_self: Option<Value>,
            ephemeral: Option<Value>,
        }
        let RequestBody::Object(json) = body else {
            return Err(missing("body"));
        };
        let parts: Parts<'_> = serde_json::from_slice(json).map_err(|_| unreadable())?;
        let key = match parts.key {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => key(Some(text.into()))?,
            Some(_) => return Err(Reason::InvalidKey.into()),
        };
        let exclude_self = flag("excludeSelf", parts.exclude_self.as_ref())?;
        let ephemeral = flag("ephemeral", parts.ephemeral.as_ref())?;
        let channel = named(parts.channel.as_ref())?;
        let body = parts.body.ok_or_else(|| missing("body"))?;
        match RequestBody::new(body.get().as_bytes()) {
            RequestBody::Object(body) => Ok(Self {
                channel,
                body,
                key,
                exclude_self,
                ephemeral,
            }),
            RequestBody::Empty | RequestBody::Unusable => Err(invalid("body", "an object")),
        }
    }
}

/// Why an ephemeral message with a key is refused.
pub(crate) fn ephemeral_with_key() -> Refusal {
    Refusal::because(
        Reason::InvalidParameter,
        "A message that is ephemeral can't have a key: it is not kept, so a second copy of it would not be noticed.",
    )
}

/// Checks the idempotency key that a client gave, in the request or in its body.
pub(crate) fn key(key: Option<Box<str>>) -> Result<Option<Box<str>>, Refusal> {
    match key {
        Some(key) if IdempotencyKey::new(&*key).is_err() => Err(Reason::InvalidKey.into()),
        key => Ok(key),
    }
}

const POSITION: &str = r#"a position such as {"epoch":"7f3a","offset":17}"#;

fn missing(name: &str) -> Refusal {
    Refusal::because(
        Reason::MissingParameter,
        format!("{name} is missing or empty."),
    )
}

fn invalid(name: &str, what: &str) -> Refusal {
    Refusal::because(Reason::InvalidParameter, format!("{name} must be {what}."))
}

fn unreadable() -> Refusal {
    Refusal::because(
        Reason::InvalidParameter,
        "The parameters can't be read: one holds half of a surrogate pair, or is given twice.",
    )
}

fn fields(body: &RequestBody) -> Result<Map<String, Value>, Refusal> {
    match body {
        RequestBody::Object(json) => serde_json::from_slice(json).map_err(|_| unreadable()),
        RequestBody::Empty | RequestBody::Unusable => Ok(Map::new()),
    }
}

fn recovery(fields: &Map<String, Value>) -> Result<Recovery, Refusal> {
    Recovery::parse(fields).ok_or_else(|| {
        let message = format!("positions must be true or false, and since must be {POSITION}.");
        Refusal::because(Reason::InvalidParameter, message)
    })
}

/// Takes the positions out of the parameters of a login, and leaves the wish to be told positions there.
fn earlier_positions(fields: &mut Map<String, Value>) -> Result<EarlierPositions, Refusal> {
    let Some(positions @ Value::Object(_)) = fields.get_mut("positions") else {
        return Ok(EarlierPositions::default());
    };
    let positions = mem::replace(positions, Value::Bool(true));
    let read = positions.as_object().and_then(EarlierPositions::parse);
    read.ok_or_else(|| {
        let what =
            format!("true, false, or an object that gives at most 100 channels {POSITION} each");
        invalid("positions", &what)
    })
}

fn channel(fields: &Map<String, Value>) -> Result<Option<ChannelName>, Refusal> {
    named(fields.get("channel"))
}

/// `None`: no channel is named.
fn named(channel: Option<&Value>) -> Result<Option<ChannelName>, Refusal> {
    let channel = truthy(channel).map(|it| channel_name("channel", it));
    channel.transpose()
}

fn channel_name(parameter: &str, value: &Value) -> Result<ChannelName, Refusal> {
    let (name, _) = to_name(parameter, value)?;
    let limits = "1 to 256 bytes long, without control characters";
    ChannelName::new(name).map_err(|_| invalid(parameter, limits))
}

fn flag(name: &str, value: Option<&Value>) -> Result<bool, Refusal> {
    match value {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value
            .as_bool()
            .ok_or_else(|| invalid(name, "true or false")),
    }
}

/// Chat gives at most 1,000 entries a page.
fn page_size(fields: &Map<String, Value>) -> Result<u32, Refusal> {
    match fields.get("pageSize") {
        None | Some(Value::Null) => Ok(0),
        Some(size) => match size.as_u64() {
            Some(size @ 1..=1_000) => Ok(size as u32),
            _ => Err(invalid("pageSize", "an integer from 1 to 1000")),
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

/// `String(x)`, and whether the value was a number.
fn to_name(parameter: &str, value: &Value) -> Result<(String, bool), Refusal> {
    match value {
        Value::String(text) => Ok((text.clone(), false)),
        Value::Number(number) => {
            let number = number
                .as_f64()
                .filter(|number| number.abs() <= LARGEST_EXACT);
            let number = number.ok_or_else(|| {
                let what = "a string, because numbers beyond 9007199254740991 are not exact";
                invalid(parameter, what)
            })?;
            Ok((ryu_js::Buffer::new().format_finite(number).to_owned(), true))
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            Err(invalid(parameter, "a string or a number"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use channel_store::Epoch;
    use serde_json::json;

    /// Parses a login of one of the original's clients.
    fn parse(json: &str) -> Result<Login, Reason> {
        reason(Login::parse(&object(json), Protocol::Pomelo))
    }

    fn reason<T>(parsed: Result<T, Refusal>) -> Result<T, Reason> {
        parsed.map_err(|refusal| refusal.reason())
    }

    #[test]
    fn numbers_and_strings_name_the_same_room_and_user_k7() {
        for (json, user, is_number, channel) in [
            (r#"{"userId":"xialei","lessonId":4}"#, "xialei", false, "4"),
            (r#"{"userId":5,"lessonId":"4"}"#, "5", true, "4"),
            (r#"{"userId":5.0,"lessonId":4e0}"#, "5", true, "4"),
            (r#"{"userId":1e-7,"lessonId":-0.5}"#, "1e-7", true, "-0.5"),
            (
                r#"{"userId":9007199254740991,"lessonId":-9007199254740991}"#,
                "9007199254740991",
                true,
                "-9007199254740991",
            ),
            (r#"{"userId":1,"userId":2,"lessonId":1}"#, "2", true, "1"),
        ] {
            let login = parse(json).unwrap();
            assert_eq!(login.user.id.as_str(), user, "{json}");
            assert_eq!(login.user.is_number, is_number, "{json}");
            assert_eq!(login.channel, Some(named(channel)), "{json}");
        }
    }

    #[test]
    fn falsy_parameters_count_as_missing_k1() {
        for value in ["0", "-0", "0.0", r#""""#, "null", "false"] {
            for json in [
                format!(r#"{{"userId":{value},"lessonId":1}}"#),
                format!(r#"{{"userId":1,"lessonId":{value}}}"#),
                format!(r#"{{"userId":true,"lessonId":{value}}}"#),
            ] {
                assert_eq!(parse(&json), Err(Reason::MissingParameter), "{json}");
            }
        }
        assert_eq!(parse("{}"), Err(Reason::MissingParameter));
        assert_eq!(
            reason(Login::parse(&RequestBody::Empty, Protocol::Pomelo)),
            Err(Reason::MissingParameter)
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
            assert_eq!(parse(&json), Err(Reason::InvalidParameter), "{json}");
        }
    }

    #[test]
    fn numbers_that_are_not_exact_are_refused_as_ids() {
        for number in [
            "9007199254740992",
            "9007199254740993",
            "-9007199254740992",
            "12345678901234567890",
            "1e21",
        ] {
            let refused = Login::parse(
                &object(&format!(r#"{{"userId":{number},"lessonId":1}}"#)),
                Protocol::Json,
            );
            let said = refused.unwrap_err().body(Protocol::Json).into_owned();
            assert!(said.contains("userId must be a string"), "{said}");
            for refused in [
                parse(&format!(r#"{{"userId":"u","lessonId":{number}}}"#)).map(drop),
                reason(leave_channel(&object(&format!(
                    r#"{{"channel":{number}}}"#
                ))))
                .map(drop),
            ] {
                assert_eq!(refused, Err(Reason::InvalidParameter), "{number}");
            }
            let position = json!({"epoch": "e", "offset": 0}).to_string();
            let position = position.replace('0', number);
            for name in ["since", "from"] {
                let body = object(&format!(r#"{{"channel":4,"{name}":{position}}}"#));
                let refused = match name {
                    "since" => reason(JoinChannel::parse(&body)).map(drop),
                    _ => reason(ReadHistory::parse(&body)).map(drop),
                };
                assert_eq!(refused, Err(Reason::InvalidParameter), "{name}: {number}");
            }
        }
    }

    #[test]
    fn json_clients_may_log_in_without_a_channel() {
        let parse = |json| reason(Login::parse(&object(json), Protocol::Json));
        for json in [r#"{"userId":"u"}"#, r#"{"userId":"u","lessonId":null}"#] {
            assert_eq!(parse(json).unwrap().channel, None, "{json}");
        }
        for json in [
            r#"{"lessonId":null}"#,
            r#"{"userId":"u","lessonId":""}"#,
            r#"{"userId":"u","lessonId":0}"#,
            r#"{"userId":"u","since":{"epoch":"e","offset":1}}"#,
        ] {
            assert_eq!(parse(json), Err(Reason::MissingParameter), "{json}");
        }
    }

    #[test]
    fn a_secret_of_another_form_is_refused() {
        let parse = |resume: Value| {
            let body = json!({"userId": "u", "resume": resume}).to_string();
            reason(Login::parse(&object(&body), Protocol::Json)).map(|login| login.resume)
        };
        let secret = Secret::random().unwrap();
        assert_eq!(parse(secret.to_string().into()), Ok(Some(secret)));
        assert_eq!(parse(Value::Null), Ok(None));
        for other in [json!(""), json!("secret"), json!(7), json!({})] {
            assert_eq!(parse(other), Err(Reason::InvalidParameter));
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
            assert_eq!(leave_channel(&object(json)).unwrap(), named("4"), "{json}");
            let join = JoinChannel::parse(&object(json)).unwrap();
            assert_eq!(join.channel, named("4"), "{json}");
        }
        for (json, expected) in [
            ("{}", Reason::MissingParameter),
            (r#"{"channel":0}"#, Reason::MissingParameter),
            (r#"{"channel":[]}"#, Reason::InvalidParameter),
            (r#"{"channel":"a\u0000"}"#, Reason::InvalidParameter),
        ] {
            assert_eq!(
                reason(leave_channel(&object(json))),
                Err(expected),
                "{json}"
            );
            let join = reason(JoinChannel::parse(&object(json)));
            assert_eq!(join, Err(expected), "{json}");
        }
        let since = r#"{"channel":4,"since":{"epoch":7,"offset":1}}"#;
        let refused = reason(JoinChannel::parse(&object(since)));
        assert_eq!(refused, Err(Reason::InvalidParameter));
    }

    #[test]
    fn a_login_may_say_where_the_client_was_in_each_channel() {
        let json = r#"{"userId":"u","lessonId":4,"positions":{"4":{"epoch":"e","offset":2},"a":{"epoch":"e","offset":7}}}"#;
        let Login {
            recovery,
            mut earlier,
            ..
        } = parse(json).unwrap();
        let at = |offset| Position {
            epoch: Epoch::new("e"),
            offset,
        };
        assert_eq!(recovery, Recovery::Since(at(2)));
        assert_eq!(earlier.take(&named("4")), None, "it counts already");
        assert_eq!(earlier.take(&named("a")), Some(at(7)));
        let since = r#"{"userId":"u","lessonId":4,"since":{"epoch":"e","offset":9},"positions":{"4":{"epoch":"e","offset":2}}}"#;
        assert_eq!(parse(since).unwrap().recovery, Recovery::Since(at(9)));
        let none = r#"{"userId":"u","lessonId":4,"positions":{}}"#;
        assert_eq!(parse(none).unwrap().recovery, Recovery::Positions);
        for positions in [r#"{"a":7}"#, r#"[{"epoch":"e","offset":2}]"#, r#""a""#] {
            let json = format!(r#"{{"userId":"u","lessonId":4,"positions":{positions}}}"#);
            assert_eq!(parse(&json), Err(Reason::InvalidParameter), "{positions}");
        }
        let join = r#"{"channel":4,"positions":{"4":{"epoch":"e","offset":2}}}"#;
        let refused = reason(JoinChannel::parse(&object(join)));
        assert_eq!(refused, Err(Reason::InvalidParameter), "a join is for one");
    }

    #[test]
    fn a_message_is_taken_without_changes() {
        let json = r#"{"key":"k","excludeSelf":true,"body":{"n": 1.0, "n":2},"channel":4}"#;
        let publish = Publish {
            channel: Some(named("4")),
            body: Bytes::from_static(br#"{"n": 1.0, "n":2}"#),
            key: Some("k".into()),
            exclude_self: true,
            ephemeral: false,
        };
        assert_eq!(reason(Publish::parse(&object(json))), Ok(publish));
        let least = Publish {
            channel: None,
            body: Bytes::from_static(b"{}"),
            key: None,
            exclude_self: false,
            ephemeral: false,
        };
        let nulls = r#"{"body":{},"channel":null,"key":null,"excludeSelf":null}"#;
        for json in [r#"{"body":{}}"#, nulls] {
            let parsed = reason(Publish::parse(&object(json)));
            assert_eq!(parsed.as_ref(), Ok(&least), "{json}");
        }
    }

    #[test]
    fn a_message_without_a_body_or_with_parts_of_other_types_is_refused() {
        for body in [RequestBody::Empty, object("{}"), object(r#"{"body":null}"#)] {
            assert_eq!(reason(Publish::parse(&body)), Err(Reason::MissingParameter));
        }
        let long = format!(r#"{{"body":{{}},"key":"{}"}}"#, "k".repeat(129));
        for json in [
            r#"{"body":[]}"#,
            r#"{"body":1}"#,
            r#"{"body":{},"excludeSelf":1}"#,
            r#"{"body":{},"channel":{}}"#,
        ] {
            let refused = reason(Publish::parse(&object(json)));
            assert_eq!(refused, Err(Reason::InvalidParameter), "{json}");
        }
        for json in [r#"{"body":{},"key":1}"#, r#"{"body":{},"key":""}"#, &long] {
            let refused = reason(Publish::parse(&object(json)));
            assert_eq!(refused, Err(Reason::InvalidKey), "{json}");
        }
    }

    #[test]
    fn page_sizes_are_bounded() {
        let members = |json| reason(ListMembers::parse(&object(json)));
        let history = |json| reason(ReadHistory::parse(&object(json)));
        assert_eq!(members("{}").unwrap().page_size, 0);
        assert_eq!(members(r#"{"pageSize":1000}"#).unwrap().page_size, 1_000);
        for json in [
            r#"{"pageSize":0}"#,
            r#"{"pageSize":1001}"#,
            r#"{"pageSize":-1}"#,
            r#"{"pageSize":1.5}"#,
            r#"{"pageSize":"9"}"#,
        ] {
            assert_eq!(members(json), Err(Reason::InvalidParameter), "{json}");
            assert_eq!(history(json), Err(Reason::InvalidParameter), "{json}");
        }
        let token = members(r#"{"pageToken":1}"#);
        assert_eq!(token, Err(Reason::InvalidParameter));
    }

    #[test]
    fn history_can_be_read_from_several_starting_points() {
        let history = |json| reason(ReadHistory::parse(&object(json)));
        let from = history(r#"{"from":{"epoch":"e","offset":0}}"#).unwrap();
        assert_eq!(from.from.unwrap().offset, 0);
        assert!(!from.newest_first);
        for json in [
            r#"{"from":{"epoch":"e","offset":0},"newestFirst":true}"#,
            r#"{"from":{"epoch":"","offset":1}}"#,
            r#"{"from":{"epoch":"e"}}"#,
            r#"{"from":7}"#,
            r#"{"newestFirst":1}"#,
        ] {
            assert_eq!(history(json), Err(Reason::InvalidParameter), "{json}");
        }
    }
}
