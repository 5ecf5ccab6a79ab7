//! Holds back a line that is logged again and again, and later reports how often.
//!
//! Every place in the code that logs at "info" or above has a budget of its own. So no input can fill the log, however
//! often it comes, and no place uses up the budget of another. Lines below "info" have no limit, because somebody has
//! asked for them. Neither have lines of the audit log, unless they warn.

use crate::telemetry::AUDIT;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Lines that one place in the code may write in one [`WINDOW`].
const BURST: u32 = 50;
/// How long a budget lasts.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);
/// How many characters of a message are repeated in the report about lines that were held back.
const EXCERPT: usize = 120;

/// The budgets of all places that log.
pub(crate) struct RateLimit {
    places: Mutex<HashMap<Identifier, Place>>,
}

struct Place {
    began: Instant,
    written: u32,
    held_back: u64,
    metadata: &'static Metadata<'static>,
    message: String,
}

/// Lines of one place that were not written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HeldBack {
    pub(crate) lines: u64,
    pub(crate) target: &'static str,
    /// The message of one of them.
    pub(crate) message: String,
}

impl RateLimit {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            places: Mutex::default(),
        })
    }

    fn admits(&self, event: &Event<'_>, now: Instant) -> bool {
        let metadata = event.metadata();
        let is_audit = metadata.target() == AUDIT && *metadata.level() == Level::INFO;
        if *metadata.level() > Level::INFO || is_audit {
            return true;
        }
        let mut places = self.places.lock();
        let place = places
            .entry(metadata.callsite())
            .or_insert_with(|| Place::new(metadata, now));
        if place.held_back == 0 && now.duration_since(place.began) >= WINDOW {
            place.began = now;
            place.written = 0;
        }
        if place.written < BURST {
            place.written += 1;
            return true;
        }
        if place.held_back == 0 {
            place.message = Message::of(event);
        }
        place.held_back += 1;
        false
    }

    /// Returns what was held back in windows that are over by `now`, and forgets it.
    pub(crate) fn take(&self, now: Instant) -> Vec<HeldBack> {
        let mut places = self.places.lock();
        let over = places
            .values_mut()
            .filter(|place| place.held_back > 0 && now.duration_since(place.began) >= WINDOW);
        over.map(|place| {
            place.began = now;
            place.written = 0;
            HeldBack {
                lines: std::mem::take(&mut place.held_back),
                target: place.metadata.target(),
                message: std::mem::take(&mut place.message),
            }
        })
        .collect()
    }
}

impl Place {
    fn new(metadata: &'static Metadata<'static>, now: Instant) -> Self {
        Self {
            began: now,
            written: 0,
            held_back: 0,
            metadata,
            message: String::new(),
        }
    }
}

/// The beginning of an event's message.
#[derive(Default)]
struct Message(String);

impl Message {
    fn of(event: &Event<'_>) -> String {
        let mut message = Self::default();
        event.record(&mut message);
        message.0
    }
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}").chars().take(EXCERPT).collect();
        }
    }
}

/// The limit as a layer of the subscriber.
pub(crate) struct Limited(pub(crate) Arc<RateLimit>);

impl<S: Subscriber> Layer<S> for Limited {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.0.admits(event, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tracing_subscriber::layer::SubscriberExt;

    /// Counts the events that are written.
    struct Written(Arc<AtomicU32>);

    impl<S: Subscriber> Layer<S> for Written {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many of the lines that `log` logs are written, and the limit afterwards.
    fn written(log: impl Fn()) -> (u32, Arc<RateLimit>) {
        let (limit, count) = (RateLimit::new(), Arc::default());
        let subscriber = tracing_subscriber::registry()
            .with(Written(Arc::clone(&count)))
            .with(Limited(Arc::clone(&limit)));
        tracing::subscriber::with_default(subscriber, log);
        (count.load(Ordering::Relaxed), limit)
    }

    #[test]
    fn repeated_lines_are_suppressed_and_counted() {
        let (count, limit) = written(|| {
            for n in 0..BURST + 7 {
                tracing::warn!(n, "again");
            }
            tracing::warn!("another place in the code has its own budget");
        });
        assert_eq!(count, BURST + 1);

        assert_eq!(limit.take(Instant::now()), [], "the window has not ended");
        let later = Instant::now() + WINDOW;
        let expected = HeldBack {
            lines: 7,
            target: module_path!(),
            message: "again".into(),
        };
        assert_eq!(limit.take(later), [expected]);
        assert_eq!(limit.take(later + WINDOW), []);
    }

    #[test]
    fn who_has_done_what_is_always_written_and_what_strangers_do_is_not() {
        let (count, limit) = written(|| {
            for n in 0..2 * BURST {
                tracing::info!(target: AUDIT, n, "call");
            }
            for n in 0..2 * BURST {
                tracing::warn!(target: AUDIT, n, "refused");
            }
        });
        assert_eq!(count, 3 * BURST);
        let held_back = limit.take(Instant::now() + WINDOW);
        assert_eq!(held_back[0].lines, u64::from(BURST));
    }

    #[test]
    fn levels_that_were_asked_for_have_no_limit() {
        let (count, limit) = written(|| {
            for n in 0..2 * BURST {
                tracing::debug!(n, "again");
            }
        });
        assert_eq!(count, 2 * BURST);
        assert_eq!(limit.take(Instant::now() + WINDOW), []);
    }
}
