//! Models of the log, of membership, of logins and of deletions, and a search through all of their states.
//!
//! Tests that run the real code cannot show what is true of all orders of a few commands. So the protocols are written
//! once more here, as sets of steps on small states, and every history within some bounds is followed. The right rules
//! keep all promises. Each rule that is switched off breaks a promise, and the shortest history that breaks it is printed.
//!
//! `README.md` says what is covered, and what is not.

mod deletion;
mod detached;
mod log;
mod logins;
mod membership;
mod named;
mod scenarios;
mod search;

pub use scenarios::{Scenario, Size, all as scenarios};
pub use search::{Report, Violation};
