//! What is forbidden to users, in Redis. Its key is in the slot of the user's logins, whose scripts look at it.

use super::call::call;
use super::keys::Keys;
use super::net::{Pinned, array, number, text, unavailable, unexpected_reply};
use super::publish::Replicas;
use super::scripts::SCRIPTS;
use crate::error::StoreError;
use crate::name::UserId;
use crate::restrictions::{
    Block, Forbidden, REVOKED_TOKENS, Restricted, Restriction, Restrictions, TokenId, When,
};
use redis::{Cmd, Pipeline, Value};

/// Makes a change. `pinned` are connections for publishers, because a wait for replicas holds up its connection.
pub(super) async fn restrict(
    keys: &Keys,
    replicas: Replicas,
    pinned: &Pinned,
    user: &UserId,
    change: &Restriction,
) -> Result<Restricted, StoreError> {
    let keys = keys.of_user(user);
    let (_, connection) = pinned.owner(|| keys.restrictions().to_string())?;
    let mut pipeline = Pipeline::with_capacity(2);
    let mut command = call(&SCRIPTS.restrict, &[keys.restrictions()]);
    add_change(&mut command, change);
    pipeline.add_command(command);
    replicas.wait(&mut pipeline);
    let replies = connection.request(&pipeline).await?;
    if replicas.count > 0 {
        let reached = replies.last().and_then(number);
        if reached.ok_or_else(unexpected_reply)? < u64::from(replicas.count) {
            return Err(unavailable("too few replicas have the change"));
        }
    }
    let fields = replies.first().and_then(array);
    let fields = fields.ok_or_else(unexpected_reply)?;
    if let [only] = fields
        && text(only) == Some("full")
    {
        return Ok(Restricted::TooMany);
    }
    let restrictions = restrictions(fields).ok_or_else(unexpected_reply)?;
    Ok(Restricted::Yes(restrictions))
}

fn add_change(command: &mut Cmd, change: &Restriction) {
    match change {
        Restriction::Block { until, reason } => {
            command.arg("block").arg(written(*until)).arg(reason);
        }
        Restriction::Unblock => drop(command.arg("unblock")),
        Restriction::RevokeIssuedBefore { before, until } => {
            let before = written(*before);
            command.arg("before").arg(before).arg(written(*until));
        }
        Restriction::RevokeToken { id, until } => {
            let (id, until) = (id.to_string(), written(*until));
            command.arg("token").arg(id).arg(until).arg(REVOKED_TOKENS);
        }
    }
}

/// A time as `restrict.lua` takes it.
fn written(when: When) -> String {
    match when {
        When::At(time) => time.to_string(),
        When::After(duration) => format!("+{}", duration.as_millis()),
    }
}

/// Reads what is in force, as `restrictions.lua` lists it.
pub(super) fn restrictions(fields: &[Value]) -> Option<Restrictions> {
    let [ends, reason, before, revoked @ ..] = fields else {
        return None;
    };
    let time = |value: &Value| match text(value)? {
        "" => Some(None),
        time => Some(Some(time.parse().ok()?)),
    };
    let reason = text(reason)?;
    let block = time(ends)?.map(|until| Block {
        until,
        reason: reason.to_owned(),
    });
    let revoked = revoked.iter().map(|id| TokenId::parse(text(id)?));
    Some(Restrictions {
        block,
        issued_before: time(before)?,
        revoked: revoked.collect::<Option<_>>()?,
    })
}

/// Reads the reply of `restrictions.lua` that refuses a login or claim.
pub(super) fn forbidden(word: &str, rest: &[Value]) -> Option<Forbidden> {
    match (word, rest) {
        ("blocked", [until, reason]) => Some(Forbidden::Blocked(Block {
            until: text(until)?.parse().ok()?,
            reason: text(reason)?.to_owned(),
        })),
        ("revoked", []) => Some(Forbidden::TokenRevoked),
        _ => None,
    }
}
