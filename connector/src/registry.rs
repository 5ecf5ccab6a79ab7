//! Who is logged in: one login for each user, if the operator wants that.

use async_trait::async_trait;
use channel_store::{SessionId, UserId};
use parking_lot::Mutex;
use std::collections::HashMap;

/// What a registry said to a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// The user is this session's now.
    Yes,
    /// Another session has the user: 用户已登录.
    Taken,
}

/// The registry can't answer; the login's outcome is unknown.
#[derive(Debug, thiserror::Error)]
#[error("the user registry is unavailable: {0}")]
pub struct RegistryError(pub String);

/// Keeps at most one session for each user.
#[async_trait]
pub trait UserRegistry: Send + Sync + 'static {
    /// Takes the user for a session, if no other session has them.
    ///
    /// # Errors
    /// [`RegistryError`]: close the session as if it had been registered.
    async fn login(&self, user: &UserId, session: &SessionId) -> Result<Registered, RegistryError>;

    /// Gives the user back if, and only if, this session has them.
    fn close(&self, user: &UserId, session: &SessionId);
}

/// Judges by the sessions of this connector alone, as the original did.
#[derive(Default)]
pub struct LocalRegistry {
    sessions: Mutex<HashMap<UserId, SessionId>>,
}

#[async_trait]
impl UserRegistry for LocalRegistry {
    async fn login(&self, user: &UserId, session: &SessionId) -> Result<Registered, RegistryError> {
        let mut sessions = self.sessions.lock();
        if sessions.contains_key(user) {
            return Ok(Registered::Taken);
        }
        sessions.insert(user.clone(), session.clone());
        Ok(Registered::Yes)
    }

    fn close(&self, user: &UserId, session: &SessionId) {
        let mut sessions = self.sessions.lock();
        if sessions.get(user) == Some(session) {
            sessions.remove(user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_late_close_of_an_old_session_does_not_remove_a_newer_one() {
        let registry = LocalRegistry::default();
        let user = UserId::new("u").unwrap();
        let (old, new) = (
            SessionId::new("old").unwrap(),
            SessionId::new("new").unwrap(),
        );
        assert_eq!(registry.login(&user, &old).await.unwrap(), Registered::Yes);
        assert_eq!(
            registry.login(&user, &new).await.unwrap(),
            Registered::Taken
        );
        registry.close(&user, &old);
        assert_eq!(registry.login(&user, &new).await.unwrap(), Registered::Yes);
        registry.close(&user, &old);
        assert_eq!(
            registry.login(&user, &old).await.unwrap(),
            Registered::Taken
        );
    }
}
