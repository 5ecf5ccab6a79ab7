//! The span that a task works on, so that it need not be an argument of every function in between.

use super::queue::is_on;
use super::span::Span;
use std::cell::RefCell;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

thread_local! {
    static CURRENT: RefCell<Option<Arc<Span>>> = const { RefCell::new(None) };
}

/// The span that the running task works on.
#[must_use]
pub fn current() -> Option<Arc<Span>> {
    if !is_on() {
        return None;
    }
    CURRENT.with_borrow(Clone::clone)
}

/// Lets a future work on a span: within it, [`current`] is that span. Tasks that the future spawns do not work on it.
pub fn within<F: Future>(span: Arc<Span>, future: F) -> Within<F> {
    Within {
        span,
        future: Box::pin(future),
    }
}

/// See [`within`].
pub struct Within<F> {
    span: Arc<Span>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _entered = Entered::into(Arc::clone(&self.span));
        self.future.as_mut().poll(context)
    }
}

/// While this lives, the thread works on a span. The one before comes back afterwards, also after a panic.
struct Entered(Option<Arc<Span>>);

impl Entered {
    fn into(span: Arc<Span>) -> Self {
        Self(CURRENT.with_borrow_mut(|current| current.replace(span)))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.0.take();
        // What was there ends outside of the borrow, because it may be the last owner of its span.
        let ended = CURRENT.with_borrow_mut(|current| mem::replace(current, before));
        drop(ended);
    }
}
