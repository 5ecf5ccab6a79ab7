//! Places where the store may have lost something of this connector. The reconciler looks at them before their turn.

use channel_store::Place;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use tokio::sync::Notify;

/// The places to look at. Each stands here once, however often it is added.
#[derive(Default)]
pub struct Suspects {
    places: Mutex<BTreeSet<Place>>,
    grown: Notify,
}

impl Suspects {
    pub(crate) fn add(&self, place: Place) {
        self.extend([place]);
    }

    pub(crate) fn extend(&self, places: impl IntoIterator<Item = Place>) {
        self.places.lock().extend(places);
        self.grown.notify_one();
    }

    /// Takes up to `most` places. Waits until there is one.
    pub(crate) async fn some(&self, most: usize) -> Vec<Place> {
        loop {
            {
                let mut places = self.places.lock();
                if !places.is_empty() {
                    let rest = places.iter().nth(most).cloned();
                    let later = rest.map(|rest| places.split_off(&rest)).unwrap_or_default();
                    return std::mem::replace(&mut *places, later).into_iter().collect();
                }
            }
            self.grown.notified().await;
        }
    }
}
