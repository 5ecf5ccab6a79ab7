//! Keeps the log readable, whatever clients send. Characters that would fake a line are escaped, values that would fake a field are
//! in quotes, and a line that is repeated too often is held back and counted. Each line says what it is about.

mod about;
mod escape;
mod form;
mod limit;
mod values;

pub use about::{About, about, name_process};

pub(crate) use escape::Escaping;
pub(crate) use form::Form;
pub(crate) use limit::{Limited, RateLimit, WINDOW};
pub(crate) use values::fields;
