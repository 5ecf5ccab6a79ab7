//! One step of a trace.

use super::context::{Parent, TraceContext};
use super::ended::{Ended, Kind, Value, shortened};
use super::queue::{self, is_on, keeps};
use parking_lot::Mutex;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The most values that a span has.
const VALUES: usize = 16;

/// A step of a trace that is kept. It lasts until everybody who works on it has dropped it.
#[derive(Debug)]
pub struct Span {
    context: TraceContext,
    parent: Option<u64>,
    name: &'static str,
    kind: Kind,
    /// By the clock of this machine, since 1970.
    began: Duration,
    /// The clock may be set meanwhile, so the time that a span takes is not the difference of two times of it.
    since: Instant,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    values: Vec<(&'static str, Value)>,
    error: Option<String>,
}

impl Span {
    /// Begins a trace, if this one is among those that are kept.
    #[must_use]
    pub fn root(name: &'static str, kind: Kind) -> Option<Arc<Self>> {
        (is_on() && keeps()).then(|| Self::begin(TraceContext::new(), None, name, kind))
    }

    /// Begins a step that another one has caused, if that one is kept.
    #[must_use]
    pub fn child(
        parent: Option<TraceContext>,
        name: &'static str,
        kind: Kind,
    ) -> Option<Arc<Self>> {
        let parent = parent.filter(|_| is_on())?;
        Some(Self::begin(parent.next(), Some(parent.span), name, kind))
    }

    /// Begins to answer a request. The caller decides whether its trace is kept. Without a word of the caller, this does the same as
    /// [`root`](Self::root).
    #[must_use]
    pub fn of_request(parent: Option<Parent>, name: &'static str, kind: Kind) -> Option<Arc<Self>> {
        match parent {
            Some(parent) => Self::child(parent.sampled(), name, kind),
            None => Self::root(name, kind),
        }
    }

    fn begin(
        context: TraceContext,
        parent: Option<u64>,
        name: &'static str,
        kind: Kind,
    ) -> Arc<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Arc::new(Self {
            context,
            parent,
            name,
            kind,
            began: now.unwrap_or_default(),
            since: Instant::now(),
            said: Mutex::default(),
        })
    }

    /// What those are told who go on with this trace.
    #[must_use]
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// Adds a value. It must be no secret, no token and no content of a message. A span takes 16 of them.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        let mut said = self.said.lock();
        if said.values.len() < VALUES {
            said.values.push((key, value.into()));
        }
    }

    /// The step has failed. `why` is one word or a short sentence.
    pub fn fail(&self, why: &str) {
        self.said.lock().error = Some(shortened(why));
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Said { values, error } = mem::take(self.said.get_mut());
        queue::put(Ended {
            context: self.context,
            parent: self.parent.map(u64::to_be_bytes),
            name: self.name,
            kind: self.kind,
            began: self.began,
            took: self.since.elapsed(),
            values,
            error,
        });
    }
}
