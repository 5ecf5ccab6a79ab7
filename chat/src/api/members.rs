//! Detached members come and go, and everybody is listed.

use super::pages::{Arguments, WRONG_TOKEN, page_size};
use crate::calls::fields::Violations;
use crate::calls::{Calls, shown};
use crate::error::Error;
use channel_store::{ChannelName, Join, Leave, Membership, User};
use proto::chat::v1::{
    JoinRequest, JoinResponse, LeaveRequest, LeaveResponse, ListMembersRequest,
    ListMembersResponse, Member,
};

pub(super) async fn join(calls: &Calls, request: JoinRequest) -> Result<JoinResponse, Error> {
    let (channel, user) = member(request.channel, request.user, request.user_is_number)?;
    let join = Join {
        channel,
        user,
        membership: Membership::Detached,
        deadline: None,
        replaces: Vec::new(),
        repairs: None,
    };
    let joined = calls.join(join).await?;
    Ok(JoinResponse {
        position: Some(shown(&joined.position)),
        published: joined.published,
    })
}

pub(super) async fn leave(calls: &Calls, request: LeaveRequest) -> Result<LeaveResponse, Error> {
    let (channel, user) = member(request.channel, request.user, request.user_is_number)?;
    let leave = Leave {
        channel,
        user,
        membership: Membership::Detached,
        fence: false,
    };
    let left = calls.leave(leave).await?;
    Ok(LeaveResponse { left })
}

fn member(channel: String, user: String, is_number: bool) -> Result<(ChannelName, User), Error> {
    let mut wrong = Violations::default();
    let channel = wrong.check("channel", ChannelName::new(channel));
    let user = wrong.user(user, is_number);
    channel.zip(user).ok_or_else(|| wrong.into())
}

pub(super) async fn list(
    calls: &Calls,
    request: ListMembersRequest,
) -> Result<ListMembersResponse, Error> {
    let mut wrong = Violations::default();
    let arguments = Arguments::of(&[b"ListMembers", request.channel.as_bytes()]);
    let channel = wrong.check("channel", ChannelName::new(request.channel));
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
