//! gRPC services that the operator wrote: how a connector finds one, calls it, and bounds what it costs.
//!
//! Each service has bounds and connections of its own, so one that hangs costs nobody anything but its own callers. What is asked,
//! and what an answer means, is up to the caller: `routes` for handlers, `access` for the hook.

mod connecting;
mod object;
mod places;
mod service;

pub(crate) use object::{Object, ObjectError, object};
#[cfg(test)]
pub(crate) use places::BYTES;
pub(crate) use places::CALLS;
pub(crate) use service::{Failure, Service, keep_resolving, within, words};
