//! Detached members come and go, and everybody is listed.

use super::pages::{Arguments, WRONG_TOKEN, page_size};
use crate::access::Permit;
use crate::calls::fields::Violations;
use crate::calls::{Calls, shown};
use crate::error::Error;
use channel_store::{ChannelName, Join, Leave, Membership, User};
use proto::chat::v1::{
    JoinRequest, JoinResponse, LeaveRequest, LeaveResponse, ListMembersRequest,
    ListMembersResponse, Member,
};
use proto::time;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    let (Some((channel, user)), Some(stay)) = (member, ttl) else {
        return Err(wrong.into());
    };
    let join = Join {
        channel,
        user,
        membership: Membership::Detached,
        deadline: None,
        replaces: Vec::new(),
        repairs: None,
        stay: Some(stay),
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
    let size = page_size(request.page_size);
    let page = calls.members(&channel, token.as_deref(), size).await?;
    let member = |(user, sessions): (channel_store::UserId, u32)| Member {
        user: user.as_str().to_owned(),
        sessions,
    };
    Ok(ListMembersResponse {
        members: page.members.into_iter().map(member).collect(),
        next_page_token: page.next.map(|it| arguments.seal(&it)).unwrap_or_default(),
        total_users: page.users,
    })
}
