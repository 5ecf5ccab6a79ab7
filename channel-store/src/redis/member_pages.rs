//! A page of a channel's members: some steps of a scan of the hash of users.
//!
//! Redis returns a small hash as a whole, whatever number is asked for. Then the page is cut from it, by name. A larger hash
//! is scanned bucket by bucket, and a bucket may hold no user, one, or a few. So a page takes some steps until it is about
//! as long as was asked for.

use super::keys::ChannelKeys;
use super::net::{Connection, array, number, text, unexpected_reply};
use crate::error::StoreError;
use crate::membership::{MembersPage, PresentUser};
use crate::name::UserId;
use crate::user_info::UserInfo;
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

/// Users with the number of their sessions.
type Counts = BTreeMap<UserId, u32>;

/// A page without what is known of its users.
struct Page {
    counts: Counts,
    /// How many users are in the channel.
    users: u64,
    next: Option<String>,
    /// True if something is known of any user of the channel.
    has_infos: bool,
}

/// Reads one page over one connection.
pub(super) async fn members_page(
    connection: &Connection,
    keys: &ChannelKeys,
    token: Option<&str>,
    limit: usize,
) -> Result<MembersPage, StoreError> {
    let page = scan(connection, keys, token, limit.max(1)).await?;
    let mut infos = Value::Array(Vec::new());
    if page.has_infos && !page.counts.is_empty() {
        let mut command = redis::cmd("HMGET");
        command.arg(keys.infos());
        for user in page.counts.keys() {
            command.arg(user.as_str());
        }
        infos = connection.request_one(command).await?;
    }
    let mut infos = array(&infos).ok_or_else(unexpected_reply)?.iter();
    let members = page.counts.into_iter().map(|(id, sessions)| {
        let info = infos.next().and_then(text);
        let info = info.map(UserInfo::new).transpose();
        Ok(PresentUser {
            id,
            sessions,
            info: info.map_err(|_| unexpected_reply())?,
        })
    });
    Ok(MembersPage {
        members: members.collect::<Result<_, StoreError>>()?,
        users: page.users,
        next: page.next,
    })
}

/// Scans for users until there are about as many as was asked for.
async fn scan(
    connection: &Connection,
    keys: &ChannelKeys,
    token: Option<&str>,
    limit: usize,
) -> Result<Page, StoreError> {
    let users = keys.users();
    let start = Start::parse(token).ok_or(StoreError::BadPageToken)?;
    let (mut cursor, after) = match start {
        Start::Cursor(cursor) => (cursor, None),
        Start::After(name) => (0, Some(name)),
    };
    let begins = cursor == 0;
    let mut found = BTreeMap::new();
    let (mut total, mut has_infos) = (0, false);
    for _ in 0..STEPS {
        let mut pipeline = Pipeline::with_capacity(3);
        pipeline.cmd("HLEN").arg(&users);
        pipeline.cmd("HLEN").arg(keys.infos());
        let scan = pipeline.cmd("HSCAN").arg(&users).arg(cursor);
        scan.arg("COUNT")
            .arg(limit.saturating_sub(found.len()).max(1));
        let replies = connection.request(&pipeline).await?;
        let [length, infos, step] = &replies[..] else {
            return Err(unexpected_reply());
        };
        total = number(length).ok_or_else(unexpected_reply)?;
        has_infos |= number(infos).ok_or_else(unexpected_reply)? > 0;
        let came_whole = cursor == 0;
        cursor = scanned(step, &mut found).ok_or_else(unexpected_reply)?;
        if cursor == 0 {
            if begins && came_whole {
                let (counts, next) = cut(found, after, limit);
                return Ok(Page {
                    counts,
                    users: total,
                    next,
                    has_infos,
                });
            }
            break;
        }
        if found.len() + limit / 16 >= limit {
            break;
        }
    }
    // If an earlier page was cut from the whole hash, and the hash has grown meanwhile, its scan begins again here.
    Ok(Page {
        counts: found,
        users: total,
        next: Some(cursor).filter(|it| *it > 0).map(|it| it.to_string()),
        has_infos,
    })
}

/// Cuts a page from all users: those after a name. Also returns the token of the next page.
fn cut(all: Counts, after: Option<&str>, limit: usize) -> (Counts, Option<String>) {
    let is_after = |user: &UserId| after.is_none_or(|after| user.as_str() > after);
    let mut rest = all.into_iter().filter(|(user, _)| is_after(user));
    let page: Counts = rest.by_ref().take(limit).collect();
    let last = page.keys().next_back().filter(|_| rest.next().is_some());
    let next = last.map(|user| format!("{AFTER}{user}"));
    (page, next)
}

/// Adds what a step of the scan has brought, and returns the cursor for the next step.
fn scanned(reply: &Value, found: &mut Counts) -> Option<u64> {
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
