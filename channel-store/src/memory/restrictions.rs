//! Changes what is forbidden to users.

use super::shared::Shared;
use super::store::MemoryStore;
use crate::error::StoreError;
use crate::name::UserId;
use crate::restrictions::{Restricted, Restriction, UserRestrictions};
use async_trait::async_trait;

impl Shared {
    fn restrict(&self, user: &UserId, change: &Restriction) -> Restricted {
        self.with(|state| {
            let now = state.context.now.instant;
            let clock = state.context.clock.milliseconds(user.as_str());
            let users = &mut state.users;
            users.with_user(user, now, |user, _| user.held.restrict(change, clock))
        })
    }
}

#[async_trait]
impl UserRestrictions for MemoryStore {
    async fn restrict(
        &self,
        user: &UserId,
        change: &Restriction,
    ) -> Result<Restricted, StoreError> {
        Ok(self.shared.restrict(user, change))
    }
}
