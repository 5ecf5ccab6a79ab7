//! Who may log in, and what sessions may do: the tokens of issuers that the operator names, the rules of channels, and the operator's
//! own hook.
//!
//! Sessions ask `control`. `settings` has what the operator says, `rules` are those of channels, `verifier` checks tokens, `keeper` keeps
//! the keys of an issuer fresh, and `claims` is what a token says. `hook` asks the operator's service. The cryptography is that of `ring`.

mod algorithm;
mod claims;
mod control;
mod der;
mod fetch;
mod grants;
mod hook;
mod issuer_error;
mod jws;
mod keeper;
mod keys;
mod rejected;
mod rights;
mod rules;
mod settings;
mod verifier;

pub use algorithm::Algorithm;
pub use claims::Claims;
pub(crate) use claims::user_id;
pub(crate) use control::ttl;
pub use control::{AccessControl, AccessError};
pub use grants::Grants;
pub(crate) use hook::{CHANNELS, Hook, HookError};
pub use hook::{HookSettings, HookSettingsError};
pub use issuer_error::IssuerError;
pub(crate) use jws::LARGEST_TOKEN;
pub use keys::KeyError;
pub use rejected::Rejected;
pub use rights::{Right, Rights};
pub use rules::{RuleError, Rules};
pub use settings::{AccessTables, AuthSettings, IssuerSettings, Mode};
pub use verifier::Verifier;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
