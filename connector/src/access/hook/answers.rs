//! What the hook's answers mean, checked before anybody goes by them.

use super::error::HookError;
use crate::access::claims::{CHANNELS, Claims, NEVER, user_id};
use crate::access::grants::{Grant, Grants};
use crate::access::rights::{Right, Rights};
use crate::operator::{Object, ObjectError, object};
use bytes::Bytes;
use channel_store::{ChannelName, UserInfo};
use proto::access::v1::authorize_send_response::Content;
use proto::access::v1::{
    AuthorizeChannelsResponse, AuthorizeSendResponse, Denial, Denied, Granted, login_response,
    refresh_response,
};
use proto::json;
use std::collections::HashMap;
use std::time::Duration;
use wire::Reason;

/// How long an answer about channels may be gone by, unless it says something else.
const TTL: Duration = Duration::from_secs(30);
/// The bounds of that.
const SHORTEST_TTL: Duration = Duration::from_secs(1);
const LONGEST_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// The most characters of the hook's words in the log.
const LOGGED: usize = 200;

/// Why an answer can't be used, in words.
type Unusable = String;

/// The outcome of `Login` or of `Refresh`.
pub(super) enum Outcome {
    Granted(Granted),
    Denied(Denied),
}

impl From<login_response::Outcome> for Outcome {
    fn from(outcome: login_response::Outcome) -> Self {
        match outcome {
            login_response::Outcome::Granted(granted) => Self::Granted(granted),
            login_response::Outcome::Denied(denied) => Self::Denied(denied),
        }
    }
}

impl From<refresh_response::Outcome> for Outcome {
    fn from(outcome: refresh_response::Outcome) -> Self {
        match outcome {
            refresh_response::Outcome::Granted(granted) => Self::Granted(granted),
            refresh_response::Outcome::Denied(denied) => Self::Denied(denied),
        }
    }
}

/// Who gets in. `now` is in seconds since 1970.
pub(super) fn claims(
    outcome: Option<impl Into<Outcome>>,
    now: u64,
) -> Result<Result<Claims, HookError>, Unusable> {
    let outcome = outcome.ok_or("the answer has neither granted nor denied")?;
    match outcome.into() {
        Outcome::Granted(granted) => of_granted(granted, now).map(Ok),
        Outcome::Denied(denied) => Ok(Err(of_denied(&denied))),
    }
}

fn of_granted(granted: Granted, now: u64) -> Result<Claims, Unusable> {
    let Granted {
        user,
        ttl,
        caps,
        channels,
        info,
    } = granted;
    let user = user_id(user).ok_or("the user of the answer is no name that a user may have")?;
    let expires = match ttl {
        None => NEVER,
        Some(ttl) => {
            let seconds = u64::try_from(ttl.seconds).ok().filter(|it| *it > 0);
            let seconds = seconds.ok_or("the ttl of the answer is shorter than a second")?;
            now.saturating_add(seconds)
        }
    };
    if channels.len() > CHANNELS {
        let named = channels.len();
        return Err(format!(
            "the answer names {named} channels, and {CHANNELS} are allowed"
        ));
    }
    let mut names = Vec::with_capacity(channels.len());
    for name in channels {
        let name = ChannelName::new(name);
        let name = name.map_err(|error| format!("a channel of the answer {error}"))?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let caps = caps
        .into_iter()
        .map(|cap| (cap.channels, rights(&cap.allow)));
    let grants = Grants::of(caps);
    let mut grants =
        grants.ok_or("the caps of the answer have a pattern that is none, or over 500")?;
    if !names.is_empty() {
        grants.push(Grant::join(&names));
    }
    let info = info.map(|info| json::render(&info)).transpose();
    let info = info.map_err(|error| format!("the info of the answer {error}"))?;
    let info = info.map(UserInfo::new).transpose();
    let info = info.map_err(|error| format!("the info of the answer {error}"))?;
    Ok(Claims {
        user,
        issuer: "hook".to_owned(),
        expires,
        issued: Some(now),
        id: None,
        channels: names,
        grants,
        info,
    })
}

fn of_denied(denied: &Denied) -> HookError {
    let told = match denied.denial() {
        Denial::Unspecified | Denial::Unauthenticated => Reason::TokenInvalid,
        Denial::Expired => Reason::TokenExpired,
        Denial::Forbidden => Reason::NotAllowed,
    };
    HookError::Denied {
        told,
        reason: denied.reason.chars().take(LOGGED).collect(),
    }
}

/// Those that are known here.
fn rights(named: &[i32]) -> Rights {
    use proto::access::v1::Right as Named;
    let known = named
        .iter()
        .filter_map(|right| match Named::try_from(*right) {
            Ok(Named::Join) => Some(Right::Join),
            Ok(Named::Send) => Some(Right::Send),
            Ok(Named::History) => Some(Right::History),
            Ok(Named::Members) => Some(Right::Members),
            Ok(Named::Unspecified) | Err(_) => None,
        });
    known.fold(Rights::NONE, Rights::with)
}

/// The same as the contract names them.
pub(super) fn named(rights: Rights) -> Vec<i32> {
    use proto::access::v1::Right as Named;
    let rights = Right::ALL.into_iter().filter(|right| rights.has(*right));
    let named = rights.map(|right| match right {
        Right::Join => Named::Join,
        Right::Send => Named::Send,
        Right::History => Named::History,
        Right::Members => Named::Members,
    });
    named.map(i32::from).collect()
}

/// What a session may do in channels, and for how long that holds.
#[derive(Debug)]
pub(crate) struct Decided {
    allowed: HashMap<String, Rights>,
    pub(crate) ttl: Duration,
}

impl Decided {
    /// What is allowed in a channel. Nothing, if the answer does not have it.
    pub(crate) fn allowed(&self, channel: &ChannelName) -> Rights {
        let allowed = self.allowed.get(channel.as_str());
        allowed.copied().unwrap_or(Rights::NONE)
    }
}

pub(super) fn decided(answer: AuthorizeChannelsResponse) -> Result<Decided, Unusable> {
    let ttl = match answer.cache_ttl {
        None => TTL,
        Some(ttl) => {
            let ttl = Duration::try_from(ttl);
            let ttl = ttl.map_err(|_| "the cache_ttl of the answer is negative")?;
            ttl.clamp(SHORTEST_TTL, LONGEST_TTL)
        }
    };
    let answers = answer.channels.into_iter();
    Ok(Decided {
        allowed: answers
            .map(|it| (it.channel, rights(&it.allowed)))
            .collect(),
        ttl,
    })
}

/// What is sent instead of a message. `None`: the message itself.
pub(super) fn sent(
    answer: AuthorizeSendResponse,
    limit: usize,
) -> Result<Result<Option<Bytes>, HookError>, ObjectError> {
    if !answer.allowed {
        return Ok(Err(HookError::Denied {
            told: Reason::NotAllowed,
            reason: "the message is not allowed".to_owned(),
        }));
    }
    let content = answer.content.map(|content| match content {
        Content::Body(object) => Object::Struct(object),
        Content::BodyJson(json) => Object::Json(json),
    });
    match content {
        None => Ok(Ok(None)),
        changed => Ok(Ok(Some(object(changed, limit)?.into()))),
    }
}
