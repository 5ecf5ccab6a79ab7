//! Sessions join channels and leave them.

use crate::calls::fields::{Body, Violations, session_id};
use crate::calls::{Calls, shown};
use crate::error::Error;
use channel_store::{
    self as store, ChannelName, Epoch, Incarnation, Join, Leave, Membership, PREDECESSORS,
    Predecessor,
};
use proto::connector::v1::{
    Beginning, JoinRequest, JoinResponse, LeaveRequest, LeaveResponse, Session,
};
use proto::time::milliseconds;

/// Stores that count in doubles, as the scripts of Redis do, cannot tell larger numbers apart.
const LAST_OPERATION: u64 = (1 << 53) - 1;

pub(super) async fn join(calls: &Calls, request: JoinRequest) -> Result<JoinResponse, Error> {
    let joined = calls.join(check_join(request)?).await?;
    Ok(JoinResponse {
        position: Some(shown(&joined.position)),
        published: joined.published,
        trimmed: joined.trimmed,
        life: joined.life.as_str().to_owned(),
        deletion: joined.deletion.as_str().to_owned(),
    })
}

pub(super) async fn leave(calls: &Calls, request: LeaveRequest) -> Result<LeaveResponse, Error> {
    let left = calls.leave(check_leave(request)?).await?;
    Ok(LeaveResponse { left })
}

fn check_join(request: JoinRequest) -> Result<Join, Error> {
    let mut wrong = Violations::default();
    let channel = wrong.check("channel", ChannelName::new(request.channel));
    let user = wrong.user(request.user, request.user_is_number);
    let membership = membership(&mut wrong, request.session, request.operation);
    let deadline = request.deadline.map_or(Some(None), |deadline| {
        let checked = milliseconds(&deadline).ok_or("must be a time after 1970");
        wrong.check("deadline", checked).map(Some)
    });
    let replaces = predecessors(&mut wrong, request.replaces);
    let repairs = beginning(&mut wrong, request.repairs);
    let about = Some(request.info_json).filter(|it| !it.is_empty());
    let info = wrong.info(about.map(Body::Json));
    let checked = (channel, user, membership, deadline, replaces, repairs, info);
    let (
        Some(channel),
        Some(user),
        Some(membership),
        Some(deadline),
        Some(replaces),
        Some(repairs),
        Some(info),
    ) = checked
    else {
        return Err(wrong.into());
    };
    Ok(Join {
        info,
        deadline,
        replaces,
        repairs,
        ..Join::new(channel, user, membership)
    })
}

fn check_leave(request: LeaveRequest) -> Result<Leave, Error> {
    let mut wrong = Violations::default();
    let channel = wrong.check("channel", ChannelName::new(request.channel));
    let user = wrong.user(request.user, request.user_is_number);
    let membership = membership(&mut wrong, request.session, request.operation);
    match (channel, user, membership) {
        (Some(channel), Some(user), Some(membership)) => Ok(Leave {
            channel,
            user,
            membership,
            fence: request.fence,
        }),
        _ => Err(wrong.into()),
    }
}

fn membership(
    wrong: &mut Violations,
    session: Option<Session>,
    operation: u64,
) -> Option<Membership> {
    let session = wrong.check("session", session.ok_or("is required"));
    let session = session.and_then(|session| {
        let incarnation = Incarnation::new(session.incarnation);
        let incarnation = wrong.check("session.incarnation", incarnation);
        let id = wrong.check("session.id", session_id(session.id));
        incarnation.zip(id)
    });
    let operation = if operation <= LAST_OPERATION {
        Ok(operation)
    } else {
        Err(format!("must be at most {LAST_OPERATION}"))
    };
    let operation = wrong.check("operation", operation);
    let (incarnation, session) = session?;
    Some(Membership::Session {
        incarnation,
        session,
        operation: operation?,
    })
}

fn beginning(wrong: &mut Violations, named: Option<Beginning>) -> Option<Option<store::Beginning>> {
    let Some(Beginning { life, deletion }) = named else {
        return Some(None);
    };
    let life = wrong.epoch("repairs.life", &life);
    let deletion = match &*deletion {
        "" => Some(Epoch::new("")),
        named => wrong.epoch("repairs.deletion", named),
    };
    Some(Some(store::Beginning {
        life: life?,
        deletion: deletion?,
    }))
}

fn predecessors(wrong: &mut Violations, named: Vec<Session>) -> Option<Vec<Predecessor>> {
    if named.len() > PREDECESSORS {
        let error = format!("must be at most {PREDECESSORS}");
        return wrong.check("replaces", Err(error));
    }
    let predecessors = named.into_iter().map(|it| {
        let incarnation = wrong.check("replaces.incarnation", Incarnation::new(it.incarnation));
        let session = wrong.check("replaces.id", session_id(it.id));
        Some(Predecessor {
            session: session?,
            incarnation: incarnation?,
        })
    });
    predecessors.collect()
}
