//! A model of membership, leases and logins, and a search through all of its states.
//!
//! What is true of all interleavings of a few commands is hard to see in tests that run the real thing. So the protocol is
//! written once more here, as a set of steps on small states, and every history within some bounds is followed. The right
//! rules keep all promises. Each rule that is switched off breaks one, and the shortest history that does is printed.
//!
//! `README.md` says what is covered, and what is not.

mod detached;
mod logins;
mod membership;
mod named;
mod scenarios;
mod search;

pub use scenarios::{Scenario, Size, all as scenarios};
pub use search::{Report, Violation};
