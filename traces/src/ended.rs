//! What is told of a span that is over.

use super::context::TraceContext;
use std::mem;
use std::time::Duration;

/// The most bytes of a text in a span.
const TEXT: usize = 256;

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

/// The beginning of a text.
pub(crate) fn shortened(text: &str) -> String {
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
