//! What stands between an event and the line of the log: characters that would fake a line are escaped, and a line that is
//! repeated without end is held back and counted.

mod escape;
mod limit;

pub(crate) use escape::{Escaping, Form};
pub(crate) use limit::{Limited, RateLimit, WINDOW};
