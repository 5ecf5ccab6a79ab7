//! Keeps the log readable, whatever clients send. Characters that would fake a line are escaped, and a line that is
//! repeated too often is held back and counted.

mod escape;
mod limit;

pub(crate) use escape::{Escaping, Form};
pub(crate) use limit::{Limited, RateLimit, WINDOW};
