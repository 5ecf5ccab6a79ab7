//! What a channel store promises, and what it does when Redis fails.
//!
//! One binary has the suite for both implementations, and the tests for only one of them.

#[cfg(test)]
mod acks;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod conditions;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod deleting;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod ephemerals;
#[cfg(test)]
mod inboxes;
#[cfg(test)]
mod infos;
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
mod restrictions;
#[cfg(test)]
mod security;
#[cfg(test)]
mod sentinel;
#[cfg(test)]
mod support;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod watching;
