//! Tests chat over a real socket with a real client. The store does what the test says.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may panic, like the test itself"
)]

mod access;
mod ages;
mod audit;
mod calls;
mod console;
mod errors;
mod get;
mod history;
mod hostile;
mod in_process;
mod log;
mod many;
mod overload;
mod restrictions;
mod rules;
mod serving;
mod stream;
mod support;
mod users;
mod watch;
mod web;
