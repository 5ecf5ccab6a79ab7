//! Hears of channels that begin: each part of the directory has a topic on which new names are published.

use super::keys::Keys;
use super::net::{Listener, Subscriptions};
use crate::directory::DIRECTORY_PARTS;
use crate::name::ChannelName;
use crate::server::FeedConnection;
use crate::watch::{BirthSlot, Births};
use parking_lot::Mutex;
use std::sync::Arc;

/// Hears one part.
struct PartListener {
    part: usize,
    heard: Arc<Heard>,
}

/// What all parts have in common.
struct Heard {
    slot: BirthSlot,
    /// Which parts were confirmed once.
    confirmed: Mutex<[bool; DIRECTORY_PARTS]>,
}

/// Subscribes to all parts.
pub(super) fn hear_births(subscriptions: &Subscriptions, keys: &Keys) -> Births {
    let (slot, births) = Births::new();
    let heard = Arc::new(Heard {
        slot,
        confirmed: Mutex::new([false; DIRECTORY_PARTS]),
    });
    subscriptions.unsubscribe_closed();
    for part in 0..DIRECTORY_PARTS {
        let topic = keys.of_directory(part).births().to_string();
        let heard = Arc::clone(&heard);
        subscriptions.subscribe(topic, Arc::new(PartListener { part, heard }));
    }
    births
}

impl Listener for PartListener {
    /// While a part was never confirmed, a reader of the directory could miss births, so it is not told to read yet.
    fn subscribed(&self, _: &FeedConnection) {
        let Heard { slot, confirmed } = &*self.heard;
        let are_all_confirmed = {
            let mut confirmed = confirmed.lock();
            confirmed[self.part] = true;
            confirmed.iter().all(|it| *it)
        };
        if are_all_confirmed {
            slot.missed();
        }
    }

    fn message(&self, _: &FeedConnection, content: Vec<u8>) {
        let name = String::from_utf8(content).ok();
        // Another text is no name of a channel.
        if let Some(name) = name.and_then(|name| ChannelName::new(name).ok()) {
            self.heard.slot.put(name);
        }
    }

    fn is_closed(&self) -> bool {
        self.heard.slot.is_closed()
    }
}
