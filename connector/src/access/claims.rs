//! What a token says about its user, once its signature is known to be right.

use super::grants::{Grant, Grants};
use super::jws::Unique;
use super::rejected::Rejected;
use channel_store::{ChannelName, ShownToken, TokenId, UserId, UserInfo};
use serde_json::Value;
use std::time::SystemTime;

/// The most channels that a token may name, as many as a session may be in.
pub(super) const CHANNELS: usize = 100;
/// The most bytes of `jti`.
const LARGEST_ID: usize = 256;
/// The largest number of seconds that is a time: the year 285,428,751. Beyond it JSON numbers are not exact.
const LATEST: f64 = 9_007_199_254_740_991.0;

/// The expiry of what does not expire.
pub(super) const NEVER: u64 = u64::MAX;

/// What a valid token says, or what the hook says of somebody who may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The user.
    pub user: UserId,
    /// The issuer that has signed the token, or "hook".
    pub issuer: String,
    /// `exp`: when it expires, in seconds since 1970. `u64::MAX`: never, which no token says.
    pub expires: u64,
    /// `iat`: when it was made, in seconds since 1970.
    pub issued: Option<u64>,
    /// `jti`: its id.
    pub id: Option<String>,
    /// `channels`: what a session joins at its login, each one once. A session may join them again, too.
    pub channels: Vec<ChannelName>,
    /// `caps`: what else the user may do.
    pub grants: Grants,
    /// `info`: a JSON object about the user, for everybody.
    pub info: Option<UserInfo>,
}

/// What claims are compared with.
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) audience: &'a [String],
    pub(super) user_claim: &'a str,
    /// Seconds since 1970.
    pub(super) now: u64,
    /// Seconds by which clocks may differ.
    pub(super) leeway: u64,
}

impl Claims {
    /// What decides whether the token was revoked.
    pub(crate) fn token(&self) -> ShownToken {
        ShownToken {
            issued: self.issued,
            id: self.id.as_deref().map(TokenId::of),
        }
    }

    /// Reads and checks all claims. That the token has expired is found last, so that a client is told so only if nothing
    /// else is wrong.
    pub(super) fn check(claims: &Unique, expected: &Expected<'_>) -> Result<Self, Rejected> {
        if text(claims, "iss")?.as_deref() != Some(expected.issuer) {
            return Err(Rejected::UnknownIssuer);
        }
        let is_meant = |audience: &str| expected.audience.iter().any(|it| it == audience);
        let is_for_us = match claims.get("aud") {
            Some(Value::String(one)) => is_meant(one),
            Some(Value::Array(list)) => {
                let mut texts = Vec::new();
                for one in list {
                    texts.push(one.as_str().ok_or(unusable("aud"))?);
                }
                texts.into_iter().any(is_meant)
            }
            None => return Err(Rejected::MissingClaim("aud".to_owned())),
            Some(_) => return Err(unusable("aud")),
        };
        if !is_for_us {
            return Err(Rejected::Audience);
        }
        let user = user(claims, expected.user_claim)?;
        let channels = channels(claims)?;
        let mut grants = grants(claims)?;
        if !channels.is_empty() {
            grants.push(Grant::join(&channels));
        }
        let info = info(claims)?;
        let id = text(claims, "jti")?;
        if id.as_ref().is_some_and(|id| id.len() > LARGEST_ID) {
            return Err(unusable("jti"));
        }
        let (expires, issued) = (seconds(claims, "exp")?, seconds(claims, "iat")?);
        let not_before = seconds(claims, "nbf")?;
        let expires = expires.ok_or_else(|| Rejected::MissingClaim("exp".to_owned()))?;
        let latest = expected.now.saturating_add(expected.leeway);
        if [not_before, issued]
            .into_iter()
            .flatten()
            .any(|it| it > latest)
        {
            return Err(Rejected::NotYet);
        }
        if expires.saturating_add(expected.leeway) <= expected.now {
            return Err(Rejected::Expired);
        }
        Ok(Self {
            user,
            issuer: expected.issuer.to_owned(),
            expires,
            issued,
            id,
            channels,
            grants,
            info,
        })
    }
}

fn unusable(name: &str) -> Rejected {
    Rejected::Claim(name.to_owned())
}

/// A claim that is a text, if it is there.
fn text(claims: &Unique, name: &str) -> Result<Option<String>, Rejected> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(unusable(name)),
    }
}

/// Seconds since 1970, as claims count them.
pub(super) fn seconds_since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// A claim that is a time (RFC 7519, section 2, NumericDate). Parts of a second are cut off.
fn seconds(claims: &Unique, name: &str) -> Result<Option<u64>, Rejected> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let time = value.as_f64().filter(|time| (0.0..=LATEST).contains(time));
    let time = time.ok_or_else(|| unusable(name))?;
    Ok(Some(time as u64))
}

/// The user is a string or an exact whole number. The text of the number is that of its digits.
fn user(claims: &Unique, name: &str) -> Result<UserId, Rejected> {
    let text = match claims.get(name) {
        None => return Err(Rejected::MissingClaim(name.to_owned())),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => {
            let number = number.as_i64();
            let number = number.filter(|it| it.unsigned_abs() <= LATEST as u64);
            number.ok_or_else(|| unusable(name))?.to_string()
        }
        Some(_) => return Err(unusable(name)),
    };
    user_id(text).ok_or_else(|| unusable(name))
}

/// The name of a user, unless it has characters that nobody sees: control and format characters, or blanks alone. With
/// these, one user could pass for another.
pub(crate) fn user_id(text: String) -> Option<UserId> {
    // U+2800 is a pattern of Braille without a dot.
    let is_blank = |c: char| c.is_whitespace() || c == '\u{2800}';
    if text.chars().all(is_blank) {
        return None;
    }
    UserId::new(text).ok()
}

fn channels(claims: &Unique) -> Result<Vec<ChannelName>, Rejected> {
    let list = match claims.get("channels") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= CHANNELS => list,
        Some(_) => return Err(unusable("channels")),
    };
    let mut channels = Vec::with_capacity(list.len());
    for name in list {
        let name = name.as_str().and_then(|name| ChannelName::new(name).ok());
        let name = name.ok_or_else(|| unusable("channels"))?;
        if !channels.contains(&name) {
            channels.push(name);
        }
    }
    Ok(channels)
}

fn grants(claims: &Unique) -> Result<Grants, Rejected> {
    match claims.get("caps") {
        None => Ok(Grants::default()),
        Some(caps) => Grants::parse(caps).ok_or_else(|| unusable("caps")),
    }
}

fn info(claims: &Unique) -> Result<Option<UserInfo>, Rejected> {
    let info = claims.get("info");
    let info = info.map(|info| UserInfo::new(info.to_string()));
    info.transpose().map_err(|_| unusable("info"))
}
