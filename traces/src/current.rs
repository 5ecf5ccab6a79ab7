//! The span that a task works on, so that it need not be an argument of every function in between.

use super::queue::is_on;
use super::span::Span;
use std::sync::Arc;
use tokio::task_local;

task_local! {
    static CURRENT: Arc<Span>;
}

/// The span that the running task works on.
#[must_use]
pub fn current() -> Option<Arc<Span>> {
    if !is_on() {
        return None;
    }
    CURRENT.try_with(Arc::clone).ok()
}

/// Lets a future work on a span: within it, [`current`] is that span. Tasks that the future spawns do not work on it.
pub fn within<F: Future>(span: Arc<Span>, future: F) -> impl Future<Output = F::Output> {
    // Boxed, so that callers stay small: most of what they do has no span.
    CURRENT.scope(span, Box::pin(future))
}
