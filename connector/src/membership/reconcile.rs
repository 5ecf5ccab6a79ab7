//! The reconciler: compares the store with what is known here, place by place, and repairs the difference.
//!
//! Every place of the index gets its turn, a fixed number each second however many members there are. Suspected places
//! come at once: all of them after the store has lost the lease or begun another lifetime, and a channel when its
//! subscription was confirmed again, its log begins an epoch, or a send was refused as not from a member. Within one
//! server lifetime only a flush changes data behind our back, and it only removes. So equal numbers mean equal
//! sessions, if they were compared under this lifetime before. Otherwise the sessions are listed.

use super::incarnation::HeldLease;
use super::lease_keeper::{CALLS, LeaseKeeper};
use super::logins::Logins;
use super::members::Membership;
use super::reconcile_logins::Findings;
use crate::chat_client::{CALL, CallError, Chat};
use crate::metering::count_repair;
use channel_store::{
    ChannelName, DroppedBy, IndexEntry, Place, Presence, ServerLifetime, SessionId, Shard,
    StoreError, User, UserId,
};
use futures_util::FutureExt;
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use proto::chat::v1::ListMembersRequest;
use runtime::backoff::pause;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// The most places with sessions that are looked at in each interval.
pub(super) const LOOKS: usize = 20;
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The most suspected places of one shard that are looked at in one round.
const SUSPECTS: usize = 500;
/// The most channels that are compared at once.
const COMPARED: usize = 16;
/// The pause after something that did not work.
const RETRY: Duration = Duration::from_millis(500);

/// How a difference is repaired.
enum Repair {
    /// The member is missing in the store.
    Join(Arc<Membership>),
    /// The session is listed in the store, but is over. The number is that of the leave that ends it.
    Leave(SessionId, User, u64),
}

impl LeaseKeeper {
    /// Reconciles until the future is dropped, when the incarnation is over. Each shard of the store has rounds of its
    /// own, one after the other, so a shard that is away delays no look at another one.
    pub(super) async fn reconcile(
        &self,
        lease: &Arc<HeldLease>,
        chat: &Chat,
        logins: &Logins,
    ) -> Infallible {
        let mut turn = interval(LOOK_INTERVAL);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting: BTreeMap<Shard, BTreeSet<Place>> = BTreeMap::new();
        let (mut rounds, mut busy) = (FuturesUnordered::new(), BTreeSet::new());
        loop {
            let places = tokio::select! {
                biased;
                _ = turn.tick() => {
                    let may = |place: &Place| {
                        let shard = self.leases.shard(place);
                        !busy.contains(&shard) && !waiting.contains_key(&shard)
                    };
                    lease.index.lock().due(Instant::now(), LOOKS, may)
                }
                suspects = lease.suspects.some(SUSPECTS) => lease.index.lock().among(&suspects),
                Some((shard, again)) = rounds.next() => {
                    busy.remove(&shard);
                    again
                }
            };
            for place in places {
                let shard = self.leases.shard(&place);
                waiting.entry(shard).or_default().insert(place);
            }
            let idle = waiting.keys().filter(|it| !busy.contains(*it));
            for shard in idle.copied().collect::<Vec<_>>() {
                let mut places = waiting.remove(&shard).unwrap_or_default();
                if let Some(rest) = places.iter().nth(SUSPECTS).cloned() {
                    waiting.insert(shard, places.split_off(&rest));
                }
                let round = self.reconcile_some(lease, chat, logins, places);
                rounds.push(round.map(move |again| (shard, again)));
                busy.insert(shard);
            }
        }
    }

    /// One round of looks. Returns the places that must be looked at again, after a pause if there are any.
    async fn reconcile_some(
        &self,
        lease: &Arc<HeldLease>,
        chat: &Chat,
        logins: &Logins,
        places: BTreeSet<Place>,
    ) -> Vec<Place> {
        let places: Vec<_> = places.into_iter().collect();
        let (channels, users) = lease.index.lock().known(&places);
        let (channels, users) = tokio::join!(
            self.reconcile_channels(lease, chat, logins, channels),
            self.reconcile_users(lease, logins, users),
        );
        let channels = channels.into_iter().map(Place::Channel);
        let users = users.into_iter().map(Place::User);
        let again: Vec<_> = channels.chain(users).collect();
        if !again.is_empty() {
            pause(RETRY).await;
        }
        again
    }

    /// Returns the channels that could not be repaired.
    async fn reconcile_channels(
        &self,
        lease: &Arc<HeldLease>,
        chat: &Chat,
        logins: &Logins,
        channels: Vec<ChannelName>,
    ) -> Vec<ChannelName> {
        match self.differences(lease, chat, &channels).await {
            Ok(doubtful) => {
                let settled = stream::iter(doubtful).map(async |(channel, lifetime)| {
                    let settling = self.settle(lease, chat, logins, &channel, lifetime);
                    let is_settled = settling.await;
                    (!is_settled).then_some(channel)
                });
                let settled = settled.buffer_unordered(COMPARED);
                settled.filter_map(async |failed| failed).collect().await
            }
            Err(error) => {
                tracing::debug!(%error, "channels could not be looked at");
                channels
            }
        }
    }

    /// The channels that must be compared, with the server lifetime of the look. If there are any, the lease has been
    /// renewed and the index is whole.
    async fn differences(
        &self,
        lease: &Arc<HeldLease>,
        chat: &Chat,
        channels: &[ChannelName],
    ) -> Result<Vec<(ChannelName, ServerLifetime)>, StoreError> {
        if channels.is_empty() {
            return Ok(Vec::new());
        }
        let looks = self.leases.presence(&lease.incarnation, channels).await?;
        let overdue = channels.iter().zip(&looks).filter(|(_, look)| look.overdue);
        let overdue = stream::iter(overdue.map(|(channel, _)| channel.clone()));
        let expired = overdue.for_each_concurrent(COMPARED, async |it| expire(chat, &it).await);
        expired.await;
        let (mut doubtful, mut empty) = (Vec::new(), Vec::new());
        for (channel, look) in channels.iter().zip(looks) {
            let known = self.roster.members(&lease.incarnation, channel).len();
            let place = Place::Channel(channel.clone());
            if lease.index.lock().is_as_known(&place, &look, known) {
                empty.extend(self.looked(lease, place, &look));
            } else {
                doubtful.push((channel.clone(), look.lifetime));
            }
        }
        self.drop_entries(lease, &empty).await?;
        if !doubtful.is_empty() && !self.stands(lease).await? {
            doubtful.clear();
        }
        Ok(doubtful)
    }

    /// Returns the users that must be looked at again.
    async fn reconcile_users(
        &self,
        lease: &Arc<HeldLease>,
        logins: &Logins,
        users: Vec<UserId>,
    ) -> Vec<UserId> {
        let is_settled = self.settle_users(lease, logins, &users).await;
        if is_settled.unwrap_or_else(|error| {
            tracing::debug!(%error, "users could not be looked at");
            false
        }) {
            return Vec::new();
        }
        users
    }

    async fn settle_users(
        &self,
        lease: &Arc<HeldLease>,
        logins: &Logins,
        users: &[UserId],
    ) -> Result<bool, StoreError> {
        if users.is_empty() {
            return Ok(true);
        }
        let incarnation = &lease.incarnation;
        let looks = logins.entries(incarnation, users).await?;
        let (mut findings, mut empty) = (Findings::default(), Vec::new());
        for (user, look) in users.iter().zip(looks) {
            logins.compare(incarnation, user, &look, &mut findings);
            let own = look
                .entries
                .iter()
                .filter(|it| it.incarnation == *incarnation);
            let look = Presence {
                sessions: own.count() as u64,
                tombstoned: look.tombstoned,
                overdue: false,
                lifetime: look.lifetime,
            };
            empty.extend(self.looked(lease, Place::User(user.clone()), &look));
        }
        self.drop_entries(lease, &empty).await?;
        if findings.wants_claims() && !self.stands(lease).await? {
            return Ok(true);
        }
        logins.settle(findings).await
    }

    /// Takes the answer to a look. Returns the entry of the index that must be dropped, if any.
    fn looked(&self, lease: &Arc<HeldLease>, place: Place, look: &Presence) -> Option<IndexEntry> {
        if look.tombstoned {
            // The store has forgotten the death of the incarnation, but not at this place.
            lease.found_dead.notify_one();
        }
        lease.note_lifetime(&look.lifetime);
        lease.index.lock().looked(Instant::now(), place, look)
    }

    /// If this fails, the entries are unknown to the index here. The next renewal finds them.
    async fn drop_entries(
        &self,
        lease: &HeldLease,
        entries: &[IndexEntry],
    ) -> Result<(), StoreError> {
        if !entries.is_empty() {
            let (incarnation, by) = (&lease.incarnation, DroppedBy::Owner);
            self.leases.index_drop(incarnation, entries, by).await?;
        }
        Ok(())
    }

    /// Renews the lease and repairs the index first. Otherwise nobody would find the repaired members if this process
    /// ended now. False: the incarnation is dead.
    async fn stands(&self, lease: &Arc<HeldLease>) -> Result<bool, StoreError> {
        let stands = self.renew(lease).await?;
        if !stands {
            lease.found_dead.notify_one();
        }
        Ok(stands)
    }

    /// Compares the sessions of a channel and repairs the differences. False: that did not work.
    async fn settle(
        &self,
        lease: &Arc<HeldLease>,
        chat: &Chat,
        logins: &Logins,
        channel: &ChannelName,
        lifetime: ServerLifetime,
    ) -> bool {
        let repairs = match self.compare(lease, channel).await {
            Ok(repairs) => repairs,
            Err(error) => {
                tracing::debug!(%error, channel = channel.as_str(), "not compared");
                return false;
            }
        };
        let repaired = stream::iter(repairs).map(async |repair| {
            let _permit = self.calls.acquire().await;
            match repair {
                Repair::Join(membership) => join_again(chat, logins, &membership).await,
                Repair::Leave(session, user, operation) => {
                    let leave = lease.leave(channel, &user, &session, operation, true);
                    is_done(chat.leave(leave, Instant::now() + CALL).await, "ghost")
                }
            }
        });
        let repaired = repaired.buffer_unordered(CALLS);
        let is_settled = repaired.fold(true, async |all, it| all && it).await;
        if is_settled {
            let place = Place::Channel(channel.clone());
            lease.note_lifetime(&lifetime);
            lease.index.lock().verified(&place, lifetime);
        }
        is_settled
    }

    async fn compare(
        &self,
        lease: &Arc<HeldLease>,
        channel: &ChannelName,
    ) -> Result<Vec<Repair>, StoreError> {
        // Taken before the list is read: a session that joins meanwhile is on the list, or does not concern this look.
        let members = self.roster.members(&lease.incarnation, channel);
        // The number for the leaves of ghosts is drawn before the list is read, too. So a listed session that joins
        // again meanwhile has a higher number and stays.
        let operation = lease.next_operation();
        let listed = self.leases.list(&lease.incarnation, channel).await?;
        let missing = members
            .into_iter()
            .filter(|membership| !listed.contains_key(membership.session()));
        let mut repairs: Vec<_> = missing.map(Repair::Join).collect();
        // Taken after the list is read: by now every session that was on its way then is known here.
        let ghosts = self.roster.unknown(channel, listed).into_iter();
        repairs.extend(ghosts.map(|(session, user)| Repair::Leave(session, user, operation)));
        Ok(repairs)
    }
}

/// A detached member has stayed beyond its time, because the chat that took its join is gone. Listing the channel ends
/// it.
async fn expire(chat: &Chat, channel: &ChannelName) {
    let list = ListMembersRequest {
        channel: channel.to_string(),
        page_size: 1,
        ..ListMembersRequest::default()
    };
    if let Err(error) = chat.members(list, Instant::now() + CALL).await {
        tracing::debug!(%error, channel = channel.as_str(), "detached members were not ended");
    }
}

async fn join_again(chat: &Chat, logins: &Logins, membership: &Membership) -> bool {
    let Some(join) = membership.join_again() else {
        return true;
    };
    match membership.send(chat, join, Instant::now() + CALL).await {
        Err(CallError::Refused { reason }) if reason == "CONNECTOR_DEAD" => {
            membership.found_dead();
            true
        }
        // It is only known here that the session was a member.
        Err(CallError::Refused { reason }) if reason == "CHANNEL_DELETED" => {
            membership.was_deleted();
            true
        }
        // Its leave was faster, or another session has taken its place.
        Err(CallError::Refused { reason }) if reason == "STALE_OPERATION" => {
            let Some(registration) = membership.replaced() else {
                return true;
            };
            let displaced = logins.displace(registration).await;
            displaced
                .inspect_err(|error| tracing::debug!(%error, "could not find out why the session was replaced"))
                .is_ok()
        }
        joined => {
            if let Ok(answered) = &joined {
                membership.joined(answered);
            }
            is_done(joined, "lost")
        }
    }
}

fn is_done<T>(called: Result<T, CallError>, reason: &'static str) -> bool {
    match called {
        Ok(_) => count_repair(reason),
        Err(error) => {
            tracing::debug!(%error, reason, "not repaired");
            return false;
        }
    }
    true
}
