//! Traces: what one request causes in all processes, as a tree of [`Span`]s with the time that each took.
//!
//! A process traces nothing before [`begin`]. Until then every call here is one branch. After that, most requests have no span,
//! because only a share of them is kept. So there is a span only where somebody will see it: functions return `None` for all
//! others, and nothing is allocated.
//!
//! This crate knows neither a network nor a format. It collects spans that have ended in a bounded queue, and the process takes them
//! from there ([`take`]).

mod context;
mod current;
mod ended;
mod queue;
mod span;

pub use context::{Parent, TraceContext};
pub use current::{current, within};
pub use ended::{Ended, Kind, Value};
pub use queue::{begin, dropped, filled, is_on, take};
pub use span::Span;
