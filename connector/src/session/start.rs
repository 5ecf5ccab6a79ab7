//! Where a session begins in a channel that it has just joined: at the end of the log, or where its client was.

use super::recovery::{Recovered, Recovery};
use crate::hub::{Member, Resume};
use channel_rules::Recover;
use channel_store::{Epoch, Position, Publication};
use proto::connector::v1::JoinResponse;
use wire::PositionReason;

/// Where a new member begins.
pub(super) struct Placed {
    /// The position after which its pushes begin.
    pub(super) begin: Resume,
    /// What it is given before that, and where the client was.
    pub(super) newest: Option<(Publication, Position)>,
    /// What its reply tells about positions.
    pub(super) recovered: Option<Recovered>,
}

/// Where a new member begins, and what its reply tells about that if it has asked. `None`: the log did not answer.
pub(super) async fn place(
    member: &Member,
    recovery: &Recovery,
    rule: Recover,
    joined: &JoinResponse,
) -> Option<Placed> {
    let end = position(joined)?;
    // Right before its own onJoin, so that it gets this. If none was published, at the end of the log that the join
    // found.
    let is_announced = joined.published && end.offset > 0;
    let start = Position {
        epoch: end.epoch.clone(),
        offset: end.offset - u64::from(is_announced),
    };
    if let Recovery::Since(since) = recovery
        && rule != Recover::Log
    {
        let newest = match rule {
            Recover::Last => {
                let found = member.newest_message(&end, joined.trimmed).await;
                found
                    .inspect_err(|error| tracing::debug!(%error, "newest message not found"))
                    .ok()?
            }
            Recover::None | Recover::Log => None,
        };
        let has_it = |it: &Publication| {
            it.position.epoch == since.epoch && it.position.offset <= since.offset
        };
        let newest = newest.filter(|it| !has_it(it));
        let reached = newest.as_ref().map_or(since, |it| &it.position);
        let lost = (*reached != start).then_some(PositionReason::Skipped);
        let replayed = u64::from(newest.is_some()) + u64::from(is_announced);
        return Some(Placed {
            begin: Resume { start, lost },
            newest: newest.map(|it| (it, since.clone())),
            recovered: Some(Recovered::by_rule(rule, replayed, &end)),
        });
    }
    if let Recovery::Since(since) = recovery {
        let resumed = member.resume(since, &end, joined.trimmed).await;
        let resume = resumed
            .inspect_err(|error| tracing::debug!(%error, "position not resumed"))
            .ok()?;
        let recovered = Recovered::resumed(&resume, &end);
        return Some(Placed {
            begin: resume,
            newest: None,
            recovered: Some(recovered),
        });
    }
    let recovered = recovery.is_wanted().then(|| Recovered::fresh(&start));
    Some(Placed {
        begin: Resume { start, lost: None },
        newest: None,
        recovered,
    })
}

/// The end of the log that a join found.
pub(super) fn position(joined: &JoinResponse) -> Option<Position> {
    let position = joined.position.as_ref()?;
    Some(Position {
        epoch: Epoch::new(&position.epoch),
        offset: position.offset,
    })
}
