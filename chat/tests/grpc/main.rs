//! Chat as its callers see it: over a real socket, with a real client, on a store that does what the test says.
#![expect(
    clippy::unwrap_used,
    reason = "a test's helper fails as the test itself does"
)]

mod calls;
mod errors;
mod history;
mod hostile;
mod in_process;
mod overload;
mod serving;
mod stream;
mod support;
mod users;
