//! Finds the connectors that hold sessions of users, round by round.
//!
//! A session may log in, or move to another connector, while connectors are being asked. So the users are looked at again after
//! the answers, and connectors are asked about the sessions that were not there before.

use super::connectors::{Connectors, names};
use crate::error::Error;
use channel_store::{EntryState, Incarnation, SessionId, UserId};
use proto::connector::v1::UserSessions;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;
use tokio::time::sleep;

/// The most looks.
const ROUNDS: usize = 3;
/// The pause before a session is asked again that is still logging in.
const LOGIN: Duration = Duration::from_millis(100);

/// Sessions of one user that are searched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of them.
    All,
    /// These.
    Some(BTreeSet<SessionId>),
}

/// The sessions that each incarnation is asked about.
pub(super) type Targets = BTreeMap<Incarnation, Vec<UserSessions>>;

/// A search for sessions.
pub(super) struct Search<'a> {
    connectors: &'a Connectors,
    wanted: BTreeMap<UserId, Wanted>,
    /// Sessions about which nobody is asked any more.
    seen: HashSet<SessionId>,
    /// Incarnations that have not answered. They are not asked again.
    unanswered: BTreeSet<Incarnation>,
    rounds: usize,
    is_to_wait: bool,
    /// Sessions count, too, whose clients are gone and which are members for a while longer.
    with_lingering: bool,
}

impl<'a> Search<'a> {
    pub(super) fn new(connectors: &'a Connectors, wanted: BTreeMap<UserId, Wanted>) -> Self {
        Self {
            connectors,
            wanted,
            seen: HashSet::new(),
            unanswered: BTreeSet::new(),
            rounds: 0,
            is_to_wait: false,
            with_lingering: false,
        }
    }

    /// The same, also for sessions whose clients are gone and which are members for a while longer.
    pub(super) fn with_lingering(
        connectors: &'a Connectors,
        wanted: BTreeMap<UserId, Wanted>,
    ) -> Self {
        Self {
            with_lingering: true,
            ..Self::new(connectors, wanted)
        }
    }

    /// Nobody is to be asked about this session, because it was dealt with.
    pub(super) fn has_seen(&mut self, session: SessionId) {
        self.seen.insert(session);
    }

    /// The session is to be asked about again in the next round.
    pub(super) fn again(&mut self, session: &str) {
        self.is_to_wait |= self.seen.remove(session);
    }

    /// The user is not looked at any more.
    pub(super) fn leave_out(&mut self, user: &str) {
        self.wanted.remove(user);
    }

    /// This incarnation has not answered.
    pub(super) fn is_unanswered(&mut self, incarnation: Incarnation) {
        self.unanswered.insert(incarnation);
    }

    /// Looks at the users, and says whom to ask about which sessions. `None`: the search is over.
    pub(super) async fn next(&mut self) -> Result<Option<Targets>, Error> {
        if self.rounds == ROUNDS || self.wanted.is_empty() {
            return Ok(None);
        }
        if std::mem::take(&mut self.is_to_wait) {
            sleep(LOGIN).await;
        }
        let is_first = self.rounds == 0;
        self.rounds += 1;
        let users: Vec<_> = self.wanted.keys().cloned().collect();
        let looks = self.connectors.look(&users).await?;
        let mut targets = Targets::new();
        for (user, entries) in users.iter().zip(looks) {
            let wanted = self.wanted.get(user);
            let mut of_user: BTreeMap<Incarnation, Vec<String>> = BTreeMap::new();
            for entry in entries {
                let is_wanted = match wanted {
                    Some(Wanted::All) => true,
                    Some(Wanted::Some(sessions)) => sessions.contains(&entry.session),
                    None => false,
                };
                // The client of a lingering session is gone.
                let is_gone = entry.state == EntryState::Lingering && !self.with_lingering;
                if !is_wanted
                    || is_gone
                    || self.unanswered.contains(&entry.incarnation)
                    || !self.seen.insert(entry.session.clone())
                {
                    continue;
                }
                let sessions = of_user.entry(entry.incarnation).or_default();
                sessions.push(entry.session.to_string());
            }
            for (incarnation, mut sessions) in of_user {
                // The first time, sessions count that have no entry, too: they are logging in, or the store has lost it.
                if is_first && wanted == Some(&Wanted::All) {
                    sessions.clear();
                }
                targets.entry(incarnation).or_default().push(UserSessions {
                    user: user.to_string(),
                    sessions,
                });
            }
        }
        Ok((!targets.is_empty()).then_some(targets))
    }

    /// The names of the connectors that have not answered.
    pub(super) fn unanswered(&self) -> Vec<String> {
        names(&self.unanswered)
    }
}
