//! Detached members come and go, and everybody is listed.

use super::pages::{Arguments, WRONG_TOKEN, page_size};
use crate::access::Permit;
use crate::calls::fields::{Body, Violations};
use crate::calls::{Calls, shown};
use crate::error::Error;
use channel_store::{ChannelName, Join, LARGEST_INFO, Leave, Membership, PresentUser, User};
use proto::chat::v1::member::About;
use proto::chat::v1::{
    JoinRequest, JoinResponse, LeaveRequest, LeaveResponse, ListMembersRequest,
    ListMembersResponse, Member, join_request,
};
use proto::{json, time};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The most bytes of a page of members, about. The largest page fits, whatever is known of its users.
const PAGE_BYTES: usize = 2 << 20;

/// What a member takes in a page besides its name and its info.
const AROUND: usize = 40;

/// What a member takes at most.
const LARGEST_MEMBER: usize = 128 + LARGEST_INFO + AROUND;

/// How long a detached membership may last.
const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

pub(super) async fn join(
    calls: &Calls,
    permit: &Permit,
    request: JoinRequest,
) -> Result<JoinResponse, Error> {
    let mut wrong = Violations::of(permit);
    let member = member(
        &mut wrong,
        request.channel,
        request.user,
        request.user_is_number,
    );
    let ttl = match request.ttl {
        None => Some(calls.store.detached_life()),
        Some(ttl) => wrong.check("ttl", read_ttl(&ttl)),
    };
    let info = wrong.info(request.about.map(|about| match about {
        join_request::About::Info(info) => Body::Struct(info),
        join_request::About::InfoJson(json) => Body::Json(json),
    }));
    let (Some((channel, user)), Some(stay), Some(info)) = (member, ttl, info) else {
        return Err(wrong.into());
    };
    let join = Join {
        info,
        stay: Some(stay),
        ..Join::new(channel, user, Membership::Detached)
    };
    let joined = calls.join(join).await?;
    let ends = SystemTime::now().checked_add(stay);
    let ends = ends.and_then(|ends| ends.duration_since(UNIX_EPOCH).ok());
    let ends = ends.and_then(|ends| u64::try_from(ends.as_millis()).ok());
    Ok(JoinResponse {
        position: Some(shown(&joined.position)),
        published: joined.published,
        expire_time: ends.map(time::timestamp),
    })
}

fn read_ttl(ttl: &prost_types::Duration) -> Result<Duration, &'static str> {
    let ttl = time::duration(ttl).filter(|ttl| TTL.contains(ttl));
    ttl.ok_or("must be a duration from one second to 24 hours")
}

pub(super) async fn leave(
    calls: &Calls,
    permit: &Permit,
    request: LeaveRequest,
) -> Result<LeaveResponse, Error> {
    let mut wrong = Violations::of(permit);
    let member = member(
        &mut wrong,
        request.channel,
        request.user,
        request.user_is_number,
    );
    let (channel, user) = member.ok_or(wrong)?;
    let leave = Leave {
        channel,
        user,
        membership: Membership::Detached,
        fence: false,
    };
    let left = calls.leave(leave).await?;
    Ok(LeaveResponse { left })
}

fn member(
    wrong: &mut Violations,
    channel: String,
    user: String,
    is_number: bool,
) -> Option<(ChannelName, User)> {
    let channel = wrong.channel("channel", channel);
    let user = wrong.user(user, is_number);
    channel.zip(user)
}

pub(super) async fn list(
    calls: &Calls,
    permit: &Permit,
    request: ListMembersRequest,
) -> Result<ListMembersResponse, Error> {
    let mut wrong = Violations::of(permit);
    let arguments = Arguments::of(&[b"ListMembers", request.channel.as_bytes()]);
    let channel = wrong.channel("channel", request.channel);
    let token = wrong.optional("page_token", request.page_token, |token| {
        let token = arguments.open(&token).map(str::to_owned);
        token.ok_or_else(|| WRONG_TOKEN.to_owned())
    });
    let (Some(channel), Some(token)) = (channel, token) else {
        return Err(wrong.into());
    };
    let (size, as_struct) = (page_size(request.page_size), request.info_as_struct);
    let room = match request.page_bytes as usize {
        0 => PAGE_BYTES,
        asked => asked.min(PAGE_BYTES),
    };
    // A user who joins and leaves meanwhile may be in two parts of the page.
    let (mut members, mut taken, mut token) = (BTreeMap::new(), 0, token);
    let total_users = loop {
        // As many as fit, whatever is known of them. If that were fewer than are wanted, there may be room for more afterwards.
        let fitting = (room.saturating_sub(taken) / LARGEST_MEMBER).max(1);
        let wanted = size - members.len();
        let page = calls.members(&channel, token.as_deref(), wanted.min(fitting));
        let page = page.await?;
        for user in page.members {
            let info = user.info.as_ref().map_or(0, |it| it.as_str().len());
            taken += user.id.as_str().len() + info + AROUND;
            members.insert(user.id.clone(), shown_member(user, as_struct));
        }
        token = page.next;
        let is_full = members.len() >= size || taken + LARGEST_MEMBER > room;
        if is_full || token.is_none() || fitting >= wanted {
            break page.users;
        }
    };
    Ok(ListMembersResponse {
        members: members.into_values().collect(),
        next_page_token: token.map(|it| arguments.seal(&it)).unwrap_or_default(),
        total_users,
    })
}

fn shown_member(user: PresentUser, as_struct: bool) -> Member {
    let about = user.info.map(|info| {
        let object = Some(info.as_str()).filter(|_| as_struct);
        match object.and_then(|json| json::parse(json.as_bytes())) {
            Some(object) => About::Info(object),
            None => About::InfoJson(info.as_str().to_owned().into()),
        }
    });
    Member {
        user: user.id.as_str().to_owned(),
        sessions: user.sessions,
        about,
    }
}
