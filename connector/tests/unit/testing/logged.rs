//! Records what is logged.

use parking_lot::Mutex;
use std::fmt::Debug;
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing::{Event, Level, Metadata, Subscriber};

/// Records the lines of one level that this thread logs, until it is dropped.
pub(crate) struct Logged {
    messages: Arc<Mutex<Vec<String>>>,
    _guard: DefaultGuard,
}

impl Logged {
    pub(crate) fn at(level: Level) -> Self {
        let messages = Arc::<Mutex<Vec<String>>>::default();
        let recorder = Recorder {
            level,
            messages: Arc::clone(&messages),
        };
        Self {
            messages,
            _guard: set_default(recorder),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.messages.lock().len()
    }

    /// The messages of the lines, without other fields.
    pub(crate) fn messages(&self) -> Vec<String> {
        self.messages.lock().clone()
    }
}

struct Recorder {
    level: Level,
    messages: Arc<Mutex<Vec<String>>>,
}

/// Finds the message of an event.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == self.level
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        self.messages.lock().push(message.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
