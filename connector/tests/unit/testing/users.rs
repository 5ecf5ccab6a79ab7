//! A registry of users whose store may be away.

use async_trait::async_trait;
use channel_store::{
    Claim, Claimed, Incarnation, LoggedIn, Login, LoginPolicy, SessionId, StoreError, UserEntries,
    UserId, UserRegistry,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How the store of the registry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Answers,
    /// Calls get no answer until it is back.
    IsSilent,
    /// Calls fail at once.
    IsLost,
}

/// Passes calls on while the store answers.
pub(crate) struct Users {
    users: Arc<dyn UserRegistry>,
    store: watch::Sender<Store>,
}

impl Users {
    pub(crate) fn new(users: Arc<dyn UserRegistry>) -> Arc<Self> {
        let store = watch::Sender::new(Store::Answers);
        Arc::new(Self { users, store })
    }

    /// From now on the store is like this.
    pub(crate) fn store(&self, is: Store) {
        self.store.send_replace(is);
    }

    async fn answering(&self) -> Result<&dyn UserRegistry, StoreError> {
        let mut store = self.store.subscribe();
        let store = store.wait_for(|it| *it != Store::IsSilent).await;
        match store.as_deref() {
            Ok(Store::Answers) => Ok(&*self.users),
            _ => Err(StoreError::Unavailable("it is lost".into())),
        }
    }
}

#[async_trait]
impl UserRegistry for Users {
    async fn login(&self, login: &Login, dead: &[Incarnation]) -> Result<LoggedIn, StoreError> {
        self.answering().await?.login(login, dead).await
    }

    async fn claim(
        &self,
        claims: &[Claim],
    ) -> Result<Vec<Result<Claimed, StoreError>>, StoreError> {
        self.answering().await?.claim(claims).await
    }

    async fn linger(&self, user: &UserId, of: &SessionId) -> Result<(), StoreError> {
        self.answering().await?.linger(user, of).await
    }

    async fn close(&self, user: &UserId, of: &SessionId, fence: bool) -> Result<(), StoreError> {
        self.answering().await?.close(user, of, fence).await
    }

    async fn reap(&self, user: &UserId, who: &Incarnation) -> Result<u64, StoreError> {
        self.answering().await?.reap(user, who).await
    }

    async fn entries(
        &self,
        who: &Incarnation,
        users: &[UserId],
    ) -> Result<Vec<UserEntries>, StoreError> {
        self.answering().await?.entries(who, users).await
    }

    async fn propose_policy(
        &self,
        policy: LoginPolicy,
        lasts: Duration,
    ) -> Result<LoginPolicy, StoreError> {
        self.answering().await?.propose_policy(policy, lasts).await
    }
}
