//! The patrol: compares what the store says with what is known here, place by place, and puts the difference right.
//!
//! Every place of the index has its turn, so many in a second however many members there are. Places under suspicion
//! come at once: all of them after the store has lost the lease or begins another lifetime, a channel when its
//! subscription had to be confirmed again, its log begins an epoch, or a member is told that it is none. While a server
//! lives its data doesn't change behind our back, but for a flush, which only takes: so equal numbers under a lifetime
//! that was verified mean equal sessions, and only otherwise they are listed.

use super::roster::Membership;
use super::{Lease, Tenure};
use crate::chat::{CallError, Chat};
use channel_store::{ChannelName, DroppedBy, Generation, Place, SessionId, StoreError, User};
use futures_util::stream::{self, StreamExt};
use metrics::{counter, describe_counter};
use proto::v1::LeaveRequest;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// Looks at places in turn, so many in so long, however many members there are.
pub(super) const LOOKS: usize = 20;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Looks at suspects, at once.
const SUSPECTS: usize = 500;
/// Channels that are compared at once, and calls for all of them.
const COMPARED: usize = 16;
pub(super) const CALLS: usize = 64;
/// After something that did not work.
const RETRY: Duration = Duration::from_millis(500);

const REPAIRS: &str = "connector_repairs_total";

/// What is to be done about a channel.
enum Repair {
    /// It is a member, and not listed.
    Join(Arc<Membership>),
    /// It is listed, and over.
    Leave(SessionId, User),
}

pub(super) fn describe() {
    describe_counter!(
        REPAIRS,
        "Differences between the store and this connector's sessions, put right"
    );
}

impl Lease {
    /// Goes on until the incarnation is found dead.
    pub(super) async fn patrol(&self, tenure: &Arc<Tenure>, chat: &Chat) -> Infallible {
        let mut turn = interval(LOOK_INTERVAL);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let places = tokio::select! {
                biased;
                _ = turn.tick() => tenure.index.lock().due(Instant::now(), LOOKS),
                suspects = self.suspects.some(SUSPECTS) => suspects,
            };
            let failed = match self.look(tenure, chat, &places).await {
                Ok(failed) => failed,
                Err(error) => {
                    tracing::debug!(%error, "no look");
                    places
                }
            };
            if !failed.is_empty() {
                self.suspects.extend(failed);
                sleep(RETRY.mul_f64(0.5 + fastrand::f64())).await;
            }
        }
    }

    /// Answers what is still to be put right.
    async fn look(
        &self,
        tenure: &Arc<Tenure>,
        chat: &Chat,
        places: &[Place],
    ) -> Result<Vec<Place>, StoreError> {
        let channels = tenure.index.lock().channels(places);
        if channels.is_empty() {
            return Ok(Vec::new());
        }
        let looks = self.leases.look(&tenure.incarnation, &channels).await?;
        if looks.iter().any(|look| look.tombstoned) {
            // Its death itself was lost, but not here.
            tenure.condemned.notify_one();
            return Ok(Vec::new());
        }
        let mut doubtful = Vec::new();
        let mut empty = Vec::new();
        for (channel, look) in channels.into_iter().zip(looks) {
            self.meet(tenure, &look.generation);
            let known = tenure.roster.lock().members(&channel).len();
            let mut index = tenure.index.lock();
            let place = Place::Channel(channel.clone());
            if index.is_as_known(&place, &look, known) {
                empty.extend(index.looked(Instant::now(), place, &look));
            } else {
                doubtful.push((channel, look.generation));
            }
        }
        if !empty.is_empty() {
            // What this leaves behind is unknown to the index here, and found at the next renewal.
            let (incarnation, by) = (&tenure.incarnation, DroppedBy::Owner);
            self.leases.index_drop(incarnation, &empty, by).await?;
        }
        if doubtful.is_empty() {
            return Ok(Vec::new());
        }
        // Index first: whoever joins again must be found if this process ends.
        if !self.renew(tenure).await? {
            tenure.condemned.notify_one();
            return Ok(Vec::new());
        }
        let settled = stream::iter(doubtful).map(async |(channel, generation)| {
            let is_settled = self.settle(tenure, chat, &channel, generation).await;
            (!is_settled).then_some(Place::Channel(channel))
        });
        let settled = settled.buffer_unordered(COMPARED);
        Ok(settled.filter_map(async |failed| failed).collect().await)
    }

    /// Another lifetime of a server may have begun on older data, wherever that server is asked.
    /// True if this one was not known.
    pub(super) fn meet(&self, tenure: &Arc<Tenure>, generation: &Generation) -> bool {
        let mut generations = tenure.generations.lock();
        let is_new = generations.insert(generation.clone()) && generations.len() > 1;
        if is_new {
            self.suspects.extend(tenure.index.lock().places());
        }
        is_new
    }

    /// Compares session by session, and repairs; false if that did not work.
    async fn settle(
        &self,
        tenure: &Arc<Tenure>,
        chat: &Chat,
        channel: &ChannelName,
        generation: Generation,
    ) -> bool {
        let mut repairs = match self.compare(tenure, channel).await {
            Ok(repairs) => repairs,
            Err(error) => {
                tracing::debug!(%error, %channel, "not compared");
                return false;
            }
        };
        let repaired = stream::iter(repairs.drain(..)).map(async |repair| {
            let _permit = self.calls.acquire().await;
            match repair {
                Repair::Join(membership) => join_again(chat, &membership).await,
                Repair::Leave(session, user) => {
                    let leave = LeaveRequest {
                        channel: channel.to_string(),
                        user: user.id.to_string(),
                        user_is_number: user.is_number,
                        session: Some(tenure.wire_session(&session, tenure.next_operation())),
                        fence: true,
                    };
                    is_done(chat.leave(leave).await, "ghost")
                }
            }
        });
        let repaired = repaired.buffer_unordered(CALLS);
        let is_settled = repaired.fold(true, async |all, it| all && it).await;
        if is_settled {
            let place = Place::Channel(channel.clone());
            tenure.index.lock().verified(&place, generation);
        }
        is_settled
    }

    async fn compare(
        &self,
        tenure: &Arc<Tenure>,
        channel: &ChannelName,
    ) -> Result<Vec<Repair>, StoreError> {
        // Before the list: who joins meanwhile is on it, or is no concern of this look.
        let members = tenure.roster.lock().members(channel);
        let listed = self.leases.list(&tenure.incarnation, channel).await?;
        let missing = members
            .into_iter()
            .filter(|membership| !listed.contains_key(membership.session()));
        let mut repairs: Vec<_> = missing.map(Repair::Join).collect();
        // After it: who is known by now was on its way.
        let roster = tenure.roster.lock();
        let over = (listed.iter()).filter(|(session, _)| !roster.knows(channel, session));
        repairs.extend(over.map(|(session, user)| Repair::Leave(session.clone(), user.clone())));
        Ok(repairs)
    }
}

async fn join_again(chat: &Chat, membership: &Membership) -> bool {
    let Some(join) = membership.join_again() else {
        return true;
    };
    match chat.join(join).await {
        Err(CallError::Refused { reason }) if reason == "CONNECTOR_DEAD" => {
            membership.condemn();
            true
        }
        // Its leave was faster.
        Err(CallError::Refused { reason }) if reason == "STALE_OPERATION" => true,
        joined => is_done(joined, "lost"),
    }
}

fn is_done<T>(called: Result<T, CallError>, reason: &'static str) -> bool {
    match called {
        Ok(_) => counter!(REPAIRS, "reason" => reason).increment(1),
        Err(error) => {
            tracing::debug!(%error, reason, "not repaired");
            return false;
        }
    }
    true
}
