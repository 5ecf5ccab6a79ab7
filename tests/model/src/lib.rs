//! A model of membership and logins, and a search through all of its states.

mod detached;
mod logins;
mod membership;
mod scenarios;
mod search;

pub use scenarios::{Scenario, Size, all as scenarios};
pub use search::{Report, Violation};
