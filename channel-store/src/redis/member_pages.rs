//! A page of a channel's members: some steps of a scan of the hash of users.
//!
//! Redis returns a small hash as a whole, whatever number is asked for. Then the page is cut from it, by name. A larger hash
//! is scanned bucket by bucket, and a bucket may hold no user, one, or a few. So a page takes some steps until it is about
//! as long as was asked for.

use super::keys::Key;
use super::net::{Connection, number, text, unexpected_reply};
use crate::error::StoreError;
use crate::membership::MembersPage;
use crate::name::UserId;
use redis::{Pipeline, Value};
use std::collections::BTreeMap;

/// The most steps of the scan for one page. Many buckets may be empty after many users have left at once.
const STEPS: usize = 8;
/// Begins the token of a page that was cut from the whole hash. The last name on that page follows it. The token of a scan is
/// its cursor.
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
                // Cursor 0 would be the first page again.
                None => token.parse().ok().filter(|it| *it > 0).map(Self::Cursor),
            },
        }
    }
}

/// Reads one page over one connection.
pub(super) async fn members_page(
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
        let replies = connection.request(&pipeline).await?;
        let [length, step] = &replies[..] else {
            return Err(unexpected_reply());
        };
        total = number(length).ok_or_else(unexpected_reply)?;
        let came_whole = cursor == 0;
        cursor = scanned(step, &mut found).ok_or_else(unexpected_reply)?;
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
    // If an earlier page was cut from the whole hash, and the hash has grown meanwhile, its scan begins again here.
    Ok(MembersPage {
        members: found.into_iter().collect(),
        users: total,
        next: Some(cursor).filter(|it| *it > 0).map(|it| it.to_string()),
    })
}

/// Cuts a page from all users: those after a name.
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

/// Adds what a step of the scan has brought, and returns the cursor for the next step.
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
