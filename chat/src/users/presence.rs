//! Who is connected, as the store knows it.

use super::connectors::Connectors;
use super::fields::users;
use crate::access::Permit;
use crate::calls::fields::Violations;
use crate::error::Error;
use channel_store::EntryState;
use proto::chat::v1::{BatchGetPresenceRequest, BatchGetPresenceResponse, Presence};

pub(super) async fn presence(
    connectors: &Connectors,
    permit: &Permit,
    request: BatchGetPresenceRequest,
) -> Result<BatchGetPresenceResponse, Error> {
    let mut wrong = Violations::of(permit);
    let Some(users) = users(&mut wrong, &request.users) else {
        return Err(wrong.into());
    };
    let looks = connectors.look(&users).await?;
    let presences = users.iter().zip(looks).map(|(user, entries)| {
        let live = entries.iter().filter(|it| it.state == EntryState::Live);
        Presence {
            user: user.to_string(),
            sessions: u32::try_from(live.count()).unwrap_or(u32::MAX),
        }
    });
    Ok(BatchGetPresenceResponse {
        presences: presences.collect(),
    })
}
