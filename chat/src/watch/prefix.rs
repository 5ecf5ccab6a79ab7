//! Channels that begin: one process hears of all of them, and each watcher of a prefix of its own.

use channel_store::{Birth, Births, ChannelName};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// The most names that wait for one watcher.
const NAMES: usize = 4_096;

/// All watchers of prefixes.
#[derive(Default)]
pub(super) struct Ears {
    ears: Mutex<Heard>,
    numbers: AtomicU64,
}

#[derive(Default)]
struct Heard {
    ears: HashMap<u64, Arc<Heap>>,
    /// True once all births are heard. Then a reader of the directory misses none.
    begun: bool,
}

/// What one watcher has not taken yet.
struct Heap {
    prefix: String,
    names: Mutex<Names>,
    grown: Notify,
}

#[derive(Default)]
struct Names {
    names: VecDeque<ChannelName>,
    /// True if the directory must be read, because births may be missing.
    missed: bool,
}

/// One watcher's ear, until it is dropped.
pub(super) struct Ear {
    number: u64,
    heap: Arc<Heap>,
    ears: Arc<Ears>,
}

impl Ears {
    /// Hears of channels that begin and have this prefix. The first that it tells is [`Birth::Missed`].
    pub(super) fn add(self: &Arc<Self>, prefix: String) -> Ear {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut heard = self.ears.lock();
        let heap = Arc::new(Heap {
            prefix,
            names: Mutex::new(Names {
                names: VecDeque::new(),
                missed: heard.begun,
            }),
            grown: Notify::new(),
        });
        heard.ears.insert(number, Arc::clone(&heap));
        drop(heard);
        Ear {
            number,
            heap,
            ears: Arc::clone(self),
        }
    }

    fn tell(&self, birth: &Birth) {
        let mut heard = self.ears.lock();
        heard.begun |= *birth == Birth::Missed;
        for heap in heard.ears.values() {
            heap.put(birth);
        }
    }
}

impl Heap {
    fn put(&self, birth: &Birth) {
        let mut waiting = self.names.lock();
        match birth {
            Birth::Of(name) if !name.as_str().starts_with(&self.prefix) => return,
            Birth::Of(name) if waiting.names.len() < NAMES => {
                waiting.names.push_back(name.clone());
            }
            Birth::Of(_) | Birth::Missed => waiting.missed = true,
        }
        drop(waiting);
        self.grown.notify_one();
    }
}

impl Ear {
    pub(super) fn prefix(&self) -> &str {
        &self.heap.prefix
    }

    /// What comes next. It may be cancelled.
    pub(super) async fn next(&self) -> Birth {
        loop {
            {
                let mut waiting = self.heap.names.lock();
                if std::mem::take(&mut waiting.missed) {
                    return Birth::Missed;
                }
                if let Some(name) = waiting.names.pop_front() {
                    return Birth::Of(name);
                }
            }
            self.heap.grown.notified().await;
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let heap = self.ears.ears.lock().ears.remove(&self.number);
        drop(heap);
    }
}

/// Tells all watchers of prefixes what is heard.
pub(super) async fn hear(mut births: Births, ears: Arc<Ears>) {
    loop {
        let birth = births.next().await;
        ears.tell(&birth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_watcher_hears_of_its_prefix_and_reads_the_directory_first() {
        let ears = Arc::<Ears>::default();
        let birth = |name: &str| Birth::Of(ChannelName::new(name).unwrap());
        let early = ears.add("a".into());
        ears.tell(&birth("a1"));
        ears.tell(&Birth::Missed);
        ears.tell(&birth("b1"));
        ears.tell(&birth("a2"));
        assert_eq!(early.next().await, Birth::Missed);
        assert_eq!(early.next().await, birth("a1"));
        assert_eq!(early.next().await, birth("a2"));
        let late = ears.add(String::new());
        assert_eq!(late.next().await, Birth::Missed);
        ears.tell(&birth("b2"));
        assert_eq!(late.next().await, birth("b2"));
        drop((early, late));
        assert!(ears.ears.lock().ears.is_empty());
    }

    #[tokio::test]
    async fn a_watcher_that_takes_no_names_for_long_reads_the_directory_again() {
        let ears = Arc::<Ears>::default();
        let ear = ears.add(String::new());
        for n in 0..2 * NAMES {
            ears.tell(&Birth::Of(ChannelName::new(n.to_string()).unwrap()));
        }
        assert_eq!(ear.heap.names.lock().names.len(), NAMES);
        assert_eq!(ear.next().await, Birth::Missed);
    }
}
