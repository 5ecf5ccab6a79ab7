//! What a channel store promises, and what must become of it when Redis fails.
//!
//! One binary: the suite of both implementations, and what only one of them can do.

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod redis;
#[cfg(test)]
mod support;
