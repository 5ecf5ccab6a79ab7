//! One step of a trace.

use super::context::{Parent, TraceContext};
use super::queue::{self, is_on, keeps};
use parking_lot::Mutex;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The most bytes of a text in a span.
const TEXT: usize = 256;
/// The most values that a span has.
const VALUES: usize = 16;

/// What part a span has in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It answers a request.
    Server,
    /// It calls somebody and waits for the answer.
    Client,
    /// It takes a message that somebody has sent without waiting.
    Consumer,
    /// It is a step within a process.
    Internal,
}

/// One value that tells more about a span. A text is cut at 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(shortened(text))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

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

/// A span that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its trace and its own number.
    pub context: TraceContext,
    /// The number of the span that has caused it.
    pub parent: Option<[u8; 8]>,
    /// What it is about.
    pub name: &'static str,
    /// Its part in a call.
    pub kind: Kind,
    /// When it began, since 1970.
    pub began: Duration,
    /// How long it took.
    pub took: Duration,
    /// What else is known of it.
    pub values: Vec<(&'static str, Value)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

impl Ended {
    /// About how many bytes it takes.
    pub(crate) fn size(&self) -> usize {
        let values = self.values.iter().map(|(_, value)| match value {
            Value::Text(text) => 64 + text.len(),
            Value::Number(_) => 64,
        });
        let error = self.error.as_ref().map_or(0, String::len);
        mem::size_of::<Self>() + values.sum::<usize>() + error
    }
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

/// The beginning of a text.
fn shortened(text: &str) -> String {
    let mut end = text.len().min(TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let text = format!("a{}", "哈".repeat(TEXT));
        let short = shortened(&text);
        assert!(short.len() <= TEXT && short.len() > TEXT - 3, "{short}");
        assert_eq!(shortened("short"), "short");
    }
}
