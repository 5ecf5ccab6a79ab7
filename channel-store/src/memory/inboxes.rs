//! Letters between the connectors and chats of this process.

use super::shared::Shared;
use crate::error::StoreError;
use crate::inbox::{Inbox, Inboxes, Letter};
use crate::name::Incarnation;
use async_trait::async_trait;

/// Slots are used and dropped without the lock, because that wakes the receiver's task.
#[async_trait]
impl Inboxes for Shared {
    async fn post(&self, to: &Incarnation, content: &[u8]) -> Result<bool, StoreError> {
        let (slot, sent) = self.with(|state| {
            let slot = state.inboxes.get(to).cloned();
            (slot, state.context.clock.milliseconds(to.as_str()))
        });
        let Some(slot) = slot.filter(|it| !it.is_closed()) else {
            return Ok(false);
        };
        slot.put(Letter {
            sent,
            content: content.to_vec(),
        });
        Ok(true)
    }

    fn open(&self, name: &Incarnation) -> Inbox {
        let (slot, inbox) = Inbox::new();
        let unused: Vec<_> = self.with(|state| {
            let closed = state.inboxes.extract_if(|_, slot| slot.is_closed());
            let mut unused: Vec<_> = closed.map(|(_, slot)| slot).collect();
            unused.extend(state.inboxes.insert(name.clone(), slot));
            unused
        });
        drop(unused);
        inbox
    }
}
