//! The logins of all users, and the hints that connectors give one another.

use super::shared::{Shared, State};
use crate::error::StoreError;
use crate::name::{Incarnation, SessionId, UserId};
use crate::registry::{
    Claim, Claimed, EntryState, HINTS, Hints, LoggedIn, Login, LoginPolicy, UserEntries,
    UserRegistry,
};
use async_trait::async_trait;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

impl State {
    /// The present, and until when a tombstone stands that is set now.
    fn times(&self) -> (Instant, Instant) {
        (self.context.now.instant, self.context.tombstone_end())
    }
}

#[async_trait]
impl UserRegistry for Shared {
    async fn login(&self, login: &Login, dead: &[Incarnation]) -> Result<LoggedIn, StoreError> {
        self.with(|state| {
            let (now, until) = state.times();
            let clock = state.context.clock.milliseconds(login.user.as_str());
            state.users.with_user(&login.user, now, |user, last_rank| {
                user.check(login, clock, now)?;
                if let Some(forbidden) = user.forbid(login, clock) {
                    return Ok(LoggedIn::Forbidden(forbidden));
                }
                for incarnation in dead {
                    user.reap(incarnation, now, until);
                }
                Ok(user.login(login, clock, last_rank))
            })
        })
    }

    async fn claim(
        &self,
        claims: &[Claim],
    ) -> Result<Vec<Result<Claimed, StoreError>>, StoreError> {
        let claim = |claim: &Claim| {
            let (login, lifetime) = (&claim.login, claim.login_rank);
            self.with(|state| {
                let (now, _) = state.times();
                let clock = state.context.clock.milliseconds(login.user.as_str());
                state.users.with_user(&login.user, now, |user, last_rank| {
                    user.check(login, clock, now)?;
                    if let Some(forbidden) = user.forbid(login, clock) {
                        return Ok(Claimed {
                            forbidden: Some(forbidden),
                            ..Claimed::default()
                        });
                    }
                    *last_rank = (*last_rank).max(lifetime);
                    Ok(user.claim(claim))
                })
            })
        };
        Ok(claims.iter().map(claim).collect())
    }

    async fn linger(&self, user: &UserId, session: &SessionId) -> Result<(), StoreError> {
        self.with(|state| {
            let (now, _) = state.times();
            state.users.with_user(user, now, |user, _| {
                let entry = user.entries.get_mut(session);
                if let Some(entry) = entry.filter(|it| it.state == EntryState::Live) {
                    entry.state = EntryState::Lingering;
                }
            });
        });
        Ok(())
    }

    async fn close(
        &self,
        user: &UserId,
        session: &SessionId,
        fence: bool,
    ) -> Result<(), StoreError> {
        self.with(|state| {
            let (now, until) = state.times();
            state.users.with_user(user, now, |user, _| {
                user.close(session, fence.then_some(until), now);
            });
        });
        Ok(())
    }

    async fn reap(&self, user: &UserId, incarnation: &Incarnation) -> Result<u64, StoreError> {
        Ok(self.with(|state| {
            let (now, until) = state.times();
            let users = &mut state.users;
            users.with_user(user, now, |user, _| user.reap(incarnation, now, until))
        }))
    }

    async fn entries(
        &self,
        incarnation: &Incarnation,
        users: &[UserId],
    ) -> Result<Vec<UserEntries>, StoreError> {
        Ok(self.with(|state| {
            let (now, _) = state.times();
            let look = |name: &UserId| {
                let clock = state.context.clock.milliseconds(name.as_str());
                state.users.with_user(name, now, |user, _| UserEntries {
                    entries: user.entries.values().cloned().collect(),
                    restrictions: user.held.in_force(clock),
                    tombstoned: user.refuses(incarnation, now),
                    lifetime: state.context.server.lifetime.clone(),
                })
            };
            users.iter().map(look).collect()
        }))
    }

    async fn propose_policy(
        &self,
        policy: LoginPolicy,
        lasts: Duration,
    ) -> Result<LoginPolicy, StoreError> {
        Ok(self.with(|state| {
            let (now, _) = state.times();
            match &mut state.users.policy {
                Some((held, until)) if *held != policy && *until > now => *held,
                held => {
                    *held = Some((policy, now + lasts));
                    policy
                }
            }
        }))
    }
}

/// Senders of hints are used and dropped without the lock, because that wakes the receiver's task.
#[async_trait]
impl Hints for Shared {
    async fn hint(&self, incarnation: &Incarnation, user: &UserId) -> Result<(), StoreError> {
        let listener = self.with(|state| state.listeners.get(incarnation).cloned());
        if let Some(listener) = listener {
            // The hint is lost if the listener is gone or does not keep up. That is allowed: hints only save time.
            let _ = listener.try_send(user.clone());
        }
        Ok(())
    }

    fn listen(&self, incarnation: &Incarnation) -> mpsc::Receiver<UserId> {
        let (sender, receiver) = mpsc::channel(HINTS);
        let unused: Vec<_> = self.with(|state| {
            let listeners = &mut state.listeners;
            let closed = listeners.extract_if(|_, listener| listener.is_closed());
            let mut unused: Vec<_> = closed.map(|(_, listener)| listener).collect();
            unused.extend(listeners.insert(incarnation.clone(), sender));
            unused
        });
        drop(unused);
        receiver
    }
}
