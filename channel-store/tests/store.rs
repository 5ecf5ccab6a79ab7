//! What a channel store promises, and what must become of it when Redis fails.
//!
//! One binary: the suite of both implementations, and what only one of them can do.

#[cfg(test)]
mod acks;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod inboxes;
#[cfg(test)]
mod leases;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod probes;
#[cfg(test)]
mod redis;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod replacing;
#[cfg(test)]
mod security;
#[cfg(test)]
mod sentinel;
#[cfg(test)]
mod support;
