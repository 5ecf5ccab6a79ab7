//! A page of a channel's members: steps of a scan of the hash of users.
//!
//! A small hash comes as a whole, whatever number is asked for; then the page is cut from it, by name. A larger one is
//! scanned by its buckets, which hold one user on average, or none, or a few: so a page takes some steps until it is about
//! as long as asked.

use super::connection::Connection;
use super::keys::Key;
use super::reply::{number, strange, text};
use crate::name::UserId;
use crate::{MembersPage, StoreError};
use redis::{Pipeline, Value};
use std::collections::BTreeMap;

/// Steps of the scan for one page at most: buckets may be nearly empty, when many have left at once.
const STEPS: usize = 8;
/// Begins the token of a page that was cut from the whole, before the last name on it; a scan's token is its cursor.
const AFTER: char = '@';

/// Where a page begins.
enum Start<'a> {
    Cursor(u64),
    After(&'a str),
}

impl<'a> Start<'a> {
    fn parse(token: Option<&'a str>) -> Option<Self> {
        match token {
            None => Some(Self::Cursor(0)),
            Some(token) => match token.strip_prefix(AFTER) {
                Some(name) => Some(Self::After(name)),
                // 0 would be the first page again.
                None => token.parse().ok().filter(|it| *it > 0).map(Self::Cursor),
            },
        }
    }
}

/// Reads one page over one connection.
pub(super) async fn members(
    connection: &Connection,
    users: Key<'_>,
    token: Option<&str>,
    limit: usize,
) -> Result<MembersPage, StoreError> {
    let limit = limit.max(1);
    let start = Start::parse(token).ok_or(StoreError::BadPageToken)?;
    let (mut cursor, after) = match start {
        Start::Cursor(cursor) => (cursor, None),
        Start::After(name) => (0, Some(name)),
    };
    let begins = cursor == 0;
    let mut found = BTreeMap::new();
    let mut total = 0;
    for _ in 0..STEPS {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("HLEN").arg(&users);
        let scan = pipeline.cmd("HSCAN").arg(&users).arg(cursor);
        scan.arg("COUNT")
            .arg(limit.saturating_sub(found.len()).max(1));
        let replies = connection.request(&pipeline, 0, 2).await?;
        let [length, step] = &replies[..] else {
            return Err(strange());
        };
        total = number(length).ok_or_else(strange)?;
        let came_whole = cursor == 0;
        cursor = scanned(step, &mut found).ok_or_else(strange)?;
        if cursor == 0 {
            if begins && came_whole {
                return Ok(cut(found, after, limit, total));
            }
            break;
        }
        if found.len() + limit / 16 >= limit {
            break;
        }
    }
    // A page that was to be cut from the whole, and the hash has grown meanwhile: its scan begins again.
    Ok(MembersPage {
        members: found.into_iter().collect(),
        users: total,
        next: Some(cursor).filter(|it| *it > 0).map(|it| it.to_string()),
    })
}

/// A page of all users: those after a name.
fn cut(all: BTreeMap<UserId, u32>, after: Option<&str>, limit: usize, users: u64) -> MembersPage {
    let is_after = |user: &UserId| after.is_none_or(|after| user.as_str() > after);
    let mut rest = all.into_iter().filter(|(user, _)| is_after(user));
    let members: Vec<_> = rest.by_ref().take(limit).collect();
    let last = members.last().filter(|_| rest.next().is_some());
    let next = last.map(|(user, _)| format!("{AFTER}{user}"));
    MembersPage {
        members,
        users,
        next,
    }
}

/// Takes in what a step has brought, and answers where to go on.
fn scanned(reply: &Value, found: &mut BTreeMap<UserId, u32>) -> Option<u64> {
    let Value::Array(fields) = reply else {
        return None;
    };
    let [cursor, Value::Array(pairs)] = &fields[..] else {
        return None;
    };
    for pair in pairs.chunks_exact(2) {
        let user = UserId::new(text(&pair[0])?).ok()?;
        found.insert(user, u32::try_from(number(&pair[1])?).ok()?);
    }
    number(cursor)
}
