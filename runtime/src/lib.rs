//! Process plumbing that every service of this system shares, so that each `main` is a short list of steps: arguments,
//! telemetry, sockets, signals and drain, readiness, and the admin HTTP port.
//!
//! Nothing here knows what a channel is.

/// Messages are small and short-lived, and many: with this allocator they cost a third of what they cost with glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod admin;
pub mod backoff;
pub mod cli;
pub mod descriptors;
pub mod families;
pub mod huge_pages;
pub mod lifecycle;
pub mod listen;
mod log;
pub mod readiness;
pub mod redis_timeout;
pub mod telemetry;

pub use backoff::Backoff;
pub use lifecycle::Shutdown;
pub use readiness::Readiness;
pub use telemetry::{LogFormat, Metrics};
