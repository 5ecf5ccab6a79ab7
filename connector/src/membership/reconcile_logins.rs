//! Compares the entries of users in the store with the logins of this connector, and repairs the difference.

use super::logins::Logins;
use super::registration::Registration;
use crate::metering::count_repair;
use channel_store::{
    Claim, Claimed, EntryState, Incarnation, Place, SessionId, StoreError, UserEntries, UserId,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a look at users has found.
#[derive(Default)]
pub(crate) struct Findings {
    /// Sessions whose entries are missing, or whose rivals are not marked as they should be.
    pub(super) claims: Vec<Arc<Registration>>,
    /// Lingering sessions whose entries do not say so.
    pub(super) lingering: Vec<Arc<Registration>>,
    /// Entries of this incarnation whose sessions are over.
    pub(super) over: Vec<(UserId, SessionId)>,
    /// Incarnations that should look at these users.
    pub(super) hints: BTreeSet<(Incarnation, UserId)>,
    /// Other incarnations that have entries of these users.
    pub(super) others: BTreeSet<(Incarnation, UserId)>,
}

impl Findings {
    /// True if there is something to claim.
    pub(crate) fn wants_claims(&self) -> bool {
        !self.claims.is_empty()
    }
}

impl Logins {
    /// Compares the entries of a user with the sessions here. A session whose entry is marked gives way at once, and one that is
    /// forbidden is closed.
    pub(crate) fn compare(
        &self,
        incarnation: &Incarnation,
        user: &UserId,
        look: &UserEntries,
        findings: &mut Findings,
    ) {
        let (entries, restrictions) = (&look.entries, &look.restrictions);
        let sessions = self.known.lock().get(user).cloned().unwrap_or_default();
        let policy = *self.in_force.lock();
        for (session, registration) in sessions.all() {
            let Some(registration) = registration.upgrade() else {
                continue;
            };
            if let Some(forbidden) = registration.forbidden_by(restrictions) {
                // Its chat has asked for it, and the command was lost.
                registration.close_forbidden(&forbidden);
                continue;
            }
            if let Some(reason) = self.marked(&registration, entries) {
                // This also closes a session that does not know yet that it is logged in, because nothing will tell it
                // later.
                registration.close(reason);
                continue;
            }
            let Some(claim) = registration.present(incarnation, policy) else {
                continue;
            };
            let own = entries.iter().find(|entry| entry.session == *session);
            if registration.state.lock().lingers {
                // A lingering session claims nothing any more.
                if own.is_some_and(|own| own.state == EntryState::Live) {
                    findings.lingering.push(registration);
                }
                continue;
            }
            let others = entries.iter().filter(|entry| entry.session != *session);
            let mut is_marked = true;
            for other in others {
                let is_superseded = other.state == EntryState::Superseded;
                is_marked &= is_superseded || !other.gives_way_to(&claim);
                let whose = (other.incarnation.clone(), user.clone());
                // Only the connector of the better entry gets a hint. If both sent hints to each other, they would
                // never stop.
                if other.outranks(&claim) {
                    findings.hints.insert(whose.clone());
                }
                // Also if the entry gives way. A store that fell back may have brought back only this entry. If its
                // connector is dead, nothing else would lead to it.
                if other.incarnation != *incarnation {
                    findings.others.insert(whose);
                }
            }
            // An entry with another rank does not count: after a loss of data, a late copy of the login has written it.
            let is_entered = own.is_some_and(|own| own.login_rank == claim.login_rank);
            if !is_entered || !is_marked {
                findings.claims.push(registration);
            }
        }
        let own = entries.iter().filter(|it| it.incarnation == *incarnation);
        let over = own.filter(|entry| !sessions.contains(&entry.session));
        let over = over.map(|entry| (user.clone(), entry.session.clone()));
        findings.over.extend(over);
    }

    /// Repairs what was found. True: all of it is repaired.
    ///
    /// # Errors
    /// Those of [`UserRegistry::claim`].
    pub(crate) async fn settle(&self, findings: Findings) -> Result<bool, StoreError> {
        let Findings {
            claims,
            lingering,
            over,
            mut hints,
            others,
        } = findings;
        let (mut is_settled, policy) = (true, *self.in_force.lock());
        let logins = claims.iter();
        let logins: Vec<_> = logins.filter_map(|it| it.claim(policy)).collect();
        let answers = match claims.first() {
            Some(registration) => {
                self.claim_in_time(&registration.guard, logins.clone())
                    .await?
            }
            None => Vec::new(),
        };
        for (claimed, Claim { login, .. }) in answers.into_iter().zip(&logins) {
            match claimed {
                Ok(Claimed {
                    forbidden: Some(forbidden),
                    ..
                }) => {
                    let mut sessions = claims.iter();
                    if let Some(one) = sessions.find(|it| it.session == login.session) {
                        one.close_forbidden(&forbidden);
                    }
                }
                Ok(Claimed {
                    superseded, better, ..
                }) => {
                    count_repair("login-lost");
                    let concerned = superseded.into_iter().chain(better);
                    hints.extend(concerned.map(|it| (it, login.user.clone())));
                }
                Err(StoreError::ConnectorDead) => {
                    if let Some(registration) = claims.first() {
                        registration.guard.found_dead();
                    }
                }
                // The session has ended meanwhile.
                Err(StoreError::StaleOperation) => {}
                Err(error) => {
                    tracing::debug!(%error, "login not claimed");
                    is_settled = false;
                }
            }
        }
        for registration in lingering {
            self.linger(&registration).await?;
        }
        for (user, session) in over {
            self.users.close(&user, &session, true).await?;
            count_repair("login-ghost");
        }
        self.hint(hints).await;
        for (incarnation, user) in others {
            let seen_to = self.restore_lease(&incarnation, &Place::User(user)).await;
            is_settled &= seen_to
                .inspect_err(|error| tracing::debug!(%error, %incarnation, "lease not restored"))
                .is_ok();
        }
        Ok(is_settled)
    }
}
