//! Which of the things that a feed brings belong to traces that are kept.

use crate::name::ChannelName;
use std::sync::Arc;
use traces::{Kind, Span, TraceContext};

/// Says that something belongs to a trace that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traced {
    /// The offset of a publication. `None`: the next ephemeral message.
    pub offset: Option<u64>,
    /// The step that has brought it.
    pub context: TraceContext,
}

/// Begins the step "feed" in each of these traces. Returns the steps, which last until they are dropped, and what the sink of the feed
/// is told. Both are empty if this process does not trace.
pub(crate) fn arrive(channel: &ChannelName, marks: &[Traced]) -> (Vec<Arc<Span>>, Vec<Traced>) {
    let arrived = marks.iter().filter_map(|mark| {
        let span = Span::child(Some(mark.context), "feed", Kind::Consumer)?;
        span.set("channel", channel.as_str());
        let context = span.context();
        Some((span, Traced { context, ..*mark }))
    });
    arrived.unzip()
}
