//! Who may log in: the tokens of issuers that the operator names.
//!
//! `settings` has what the operator says, `verifier` checks tokens, `keeper` keeps the keys of an issuer fresh, and
//! `claims` is what a token says. The cryptography is that of `ring`.

mod algorithm;
mod claims;
mod der;
mod fetch;
mod grants;
mod jws;
mod keeper;
mod keys;
mod pattern;
mod rejected;
mod rights;
mod settings;
mod verifier;

pub use algorithm::Algorithm;
pub use claims::Claims;
pub(crate) use claims::user_id;
pub use grants::Grants;
pub use keys::KeyError;
pub use pattern::PatternError;
pub use rejected::Rejected;
pub use rights::{Right, Rights};
pub use settings::{AuthSettings, IssuerSettings, Mode};
pub use verifier::{IssuerError, Verifier};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
