//! Blocks users, and revokes tokens.
//!
//! What is forbidden is written first, and only then are sessions looked for. So each login either finds it and is refused, or it
//! was entered before and is found. A connector that gets no command sees it at its next look at the user.

use super::connectors::{Asked, Connectors};
use super::disconnect::{closed, reason};
use super::search::{Search, Wanted};
use crate::access::Permit;
use crate::calls::fields::Violations;
use crate::error::Error;
use channel_store::{ChannelStore, Restricted, Restriction, Restrictions, TokenId, UserId, When};
use prost_types::{Duration as WireDuration, Timestamp};
use proto::chat::v1::block_user_request::End;
use proto::chat::v1::revoke_tokens_request::Which;
use proto::chat::v1::{
    BlockUserRequest, BlockUserResponse, ClosedSession, GetRestrictionsRequest,
    GetRestrictionsResponse, RevokeTokensRequest, RevokeTokensResponse, UnblockUserRequest,
    UnblockUserResponse,
};
use proto::connector::v1::RestrictAction;
use proto::connector::v1::command::Action;
use proto::connector::v1::command_answer::Outcome;
use proto::time;
use std::ops::RangeInclusive;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a block may last that is given as a duration.
const BLOCK: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY.saturating_mul(36_500);
/// How long a revocation may be remembered, and how long it is unless the caller says so.
const REMEMBER: RangeInclusive<Duration> = Duration::from_secs(1)..=DAY.saturating_mul(366);
const REMEMBERED: Duration = DAY.saturating_mul(30);
/// By how much the caller's clock may be ahead.
const AHEAD: Duration = Duration::from_secs(60);
/// The most bytes of a token's `jti`, as connectors accept it.
const JTI_BYTES: usize = 256;
/// The last millisecond of the year 9999, which is the last that a timestamp can say.
const LAST: u64 = 253_402_300_799_999;

pub(super) async fn block(
    store: &dyn ChannelStore,
    connectors: &Connectors,
    permit: &Permit,
    request: BlockUserRequest,
) -> Result<BlockUserResponse, Error> {
    let mut wrong = Violations::of(permit);
    let user = wrong.user(request.user, false);
    let until = match request.end {
        Some(End::Until(until)) => wrong.check("until", future(&until)).map(When::At),
        Some(End::Duration(it)) => {
            let duration = duration(&it, &BLOCK, "must be positive, and at most 36,500 days");
            wrong.check("duration", duration).map(When::After)
        }
        None => wrong.check("end", Err("one of until and duration is required")),
    };
    let reason = wrong.check("reason", reason(request.reason));
    let (Some(user), Some(until), Some(reason)) = (user, until, reason) else {
        return Err(wrong.into());
    };
    let user = user.id;
    let change = Restriction::Block { until, reason };
    let restrictions = restrict(store, &user, &change).await?;
    // The store's clock decides, and it may be ahead of this one.
    let Some(block) = &restrictions.block else {
        let error = "must be in the future: by the clock of the store it is over";
        return Err(Error::invalid("until", error));
    };
    let until = Some(time::timestamp(block.until));
    let (closed, unanswered_connectors) = close(connectors, user, &restrictions).await?;
    Ok(BlockUserResponse {
        until,
        closed,
        unanswered_connectors,
    })
}

pub(super) async fn unblock(
    store: &dyn ChannelStore,
    permit: &Permit,
    request: UnblockUserRequest,
) -> Result<UnblockUserResponse, Error> {
    let mut wrong = Violations::of(permit);
    let Some(user) = wrong.user(request.user, false) else {
        return Err(wrong.into());
    };
    restrict(store, &user.id, &Restriction::Unblock).await?;
    Ok(UnblockUserResponse {})
}

pub(super) async fn revoke(
    store: &dyn ChannelStore,
    connectors: &Connectors,
    permit: &Permit,
    request: RevokeTokensRequest,
) -> Result<RevokeTokensResponse, Error> {
    let mut wrong = Violations::of(permit);
    let user = wrong.user(request.user, false);
    let remember = match &request.remember {
        None => Some(REMEMBERED),
        Some(it) => {
            let remember = duration(it, &REMEMBER, "must be from one second to 366 days");
            wrong.check("remember", remember)
        }
    };
    let until = When::After(remember.unwrap_or(REMEMBERED));
    let change = match request.which {
        None => Some(Restriction::RevokeIssuedBefore {
            before: When::After(Duration::ZERO),
            until,
        }),
        Some(Which::IssuedBefore(before)) => {
            let before = wrong.check("issued_before", past(&before)).map(When::At);
            before.map(|before| Restriction::RevokeIssuedBefore { before, until })
        }
        Some(Which::Jti(jti)) => {
            let fits = (1..=JTI_BYTES).contains(&jti.len());
            let error = format!("must have 1 to {JTI_BYTES} bytes");
            let id = fits.then(|| TokenId::of(&jti)).ok_or(error);
            let id = wrong.check("jti", id);
            id.map(|id| Restriction::RevokeToken { id, until })
        }
    };
    let (Some(user), Some(change), true) = (user, change, wrong.is_empty()) else {
        return Err(wrong.into());
    };
    let restrictions = restrict(store, &user.id, &change).await?;
    let (closed, unanswered_connectors) = close(connectors, user.id, &restrictions).await?;
    Ok(RevokeTokensResponse {
        closed,
        unanswered_connectors,
    })
}

pub(super) async fn get(
    connectors: &Connectors,
    permit: &Permit,
    request: GetRestrictionsRequest,
) -> Result<GetRestrictionsResponse, Error> {
    let mut wrong = Violations::of(permit);
    let Some(user) = wrong.user(request.user, false) else {
        return Err(wrong.into());
    };
    let Restrictions {
        block,
        issued_before,
        revoked,
    } = connectors.restrictions(&user.id).await?;
    Ok(GetRestrictionsResponse {
        blocked_until: block.as_ref().map(|it| time::timestamp(it.until)),
        block_reason: block.map(|it| it.reason).unwrap_or_default(),
        tokens_issued_before: issued_before.map(time::timestamp),
        revoked_tokens: u32::try_from(revoked.len()).unwrap_or(u32::MAX),
    })
}

async fn restrict(
    store: &dyn ChannelStore,
    user: &UserId,
    change: &Restriction,
) -> Result<Restrictions, Error> {
    match store.restrict(user, change).await? {
        Restricted::Yes(restrictions) => Ok(restrictions),
        Restricted::TooMany => Err(Error::TooManyRevoked),
    }
}

/// Closes the sessions of a user that are forbidden. Returns them, and the connectors that have not answered.
async fn close(
    connectors: &Connectors,
    user: UserId,
    restrictions: &Restrictions,
) -> Result<(Vec<ClosedSession>, Vec<String>), Error> {
    let block = restrictions.block.as_ref();
    let revoked = restrictions.revoked.iter();
    let action = RestrictAction {
        of: Vec::new(),
        blocked_until: block.map_or(0, |it| it.until),
        block_reason: block.map(|it| it.reason.clone()).unwrap_or_default(),
        issued_before: restrictions.issued_before.unwrap_or(0),
        revoked_tokens: revoked.map(|id| id.as_bytes().to_vec().into()).collect(),
    };
    let mut search = Search::new(connectors, [(user, Wanted::All)].into());
    let mut closed = Vec::new();
    while let Some(targets) = search.next().await? {
        let restrict = |of| {
            Action::Restrict(RestrictAction {
                of,
                ..action.clone()
            })
        };
        let commands = targets.into_iter().map(|(whose, of)| (whose, restrict(of)));
        for (incarnation, asked) in connectors.ask_all(commands).await {
            match asked {
                Asked::Answered(Outcome::Disconnected(disconnected)) => {
                    for it in disconnected.sessions {
                        closed.push(self::closed(&mut search, &incarnation, it));
                    }
                }
                Asked::Gone => {}
                Asked::Answered(_) | Asked::Unanswered => search.is_unanswered(incarnation),
            }
        }
    }
    Ok((closed, search.unanswered()))
}

fn duration(
    duration: &WireDuration,
    range: &RangeInclusive<Duration>,
    error: &'static str,
) -> Result<Duration, &'static str> {
    let duration = time::duration(duration);
    duration.filter(|it| range.contains(it)).ok_or(error)
}

fn future(time: &Timestamp) -> Result<u64, &'static str> {
    let time = time::milliseconds(time).filter(|it| *it > time::now() && *it <= LAST);
    time.ok_or("must be a time in the future, up to the year 9999")
}

fn past(time: &Timestamp) -> Result<u64, &'static str> {
    let latest = time::now() + AHEAD.as_millis() as u64;
    let time = time::milliseconds(time).filter(|it| *it <= latest);
    time.ok_or("must be a time that is not in the future: later tokens would be refused, too")
}
