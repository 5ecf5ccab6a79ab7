//! Lists of names in requests, checked.

use crate::calls::fields::{Violations, session_id};
use channel_store::{SessionId, UserId};
use std::collections::HashSet;

/// The most names in a list.
pub(super) const MOST: usize = 1_000;

/// A list of users that must not be empty.
pub(super) fn users(wrong: &mut Violations, names: &[String]) -> Option<Vec<UserId>> {
    if !(1..=MOST).contains(&names.len()) {
        let error = format!("1 to {MOST} users are needed, not {}", names.len());
        return wrong.check("users", Err(error));
    }
    some_users(wrong, "users", names)
}

/// Each of them once.
pub(super) fn some_users(
    wrong: &mut Violations,
    field: &'static str,
    names: &[String],
) -> Option<Vec<UserId>> {
    let mut seen = HashSet::with_capacity(names.len());
    let users = names.iter().enumerate().map(|(place, name)| {
        let user = UserId::new(name.as_str()).map_err(|error| format!("number {place} {error}"))?;
        if seen.insert(name) {
            Ok(user)
        } else {
            Err(format!(
                "number {place} is the same as an earlier one: name each user once"
            ))
        }
    });
    let users = users.collect::<Result<_, _>>();
    wrong.check(field, users)
}

/// Ids of sessions.
pub(super) fn sessions(
    wrong: &mut Violations,
    field: &'static str,
    ids: &[String],
) -> Option<Vec<SessionId>> {
    if ids.len() > MOST {
        return wrong.check(field, Err(format!("must have at most {MOST} entries")));
    }
    let sessions = ids.iter().enumerate().map(|(place, id)| {
        session_id(id.clone()).map_err(|error| format!("number {place} {error}"))
    });
    let sessions = sessions.collect::<Result<_, _>>();
    wrong.check(field, sessions)
}
