//! Process plumbing that every service of this system shares, so that each `main` is a short list of steps: arguments,
//! telemetry, sockets, signals and drain, readiness, and the admin HTTP port.
//!
//! Nothing here knows what a channel is.

pub mod admin;
pub mod cli;
pub mod lifecycle;
pub mod listen;
pub mod readiness;
pub mod telemetry;

pub use lifecycle::Shutdown;
pub use readiness::Readiness;
pub use telemetry::{LogFormat, Metrics};
