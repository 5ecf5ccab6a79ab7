//! Traces: which are kept, and how they reach a collector of OpenTelemetry.
//!
//! The spans come from the crate `traces`, which queues them. `export` sends them over OTLP/gRPC, from a task of its own. So
//! nobody ever waits for a collector, and what a collector cannot take is dropped and counted.

mod export;
mod otlp;
mod settings;
#[cfg(test)]
mod tests;

pub use export::Exporting;
pub use settings::{TRACES, TraceError, TraceSettings};
