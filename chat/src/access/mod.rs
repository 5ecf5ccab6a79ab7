//! Who may call chat: bearer tokens from a file, and what each of them allows. The file may also name certificates of callers, each
//! of which then counts as a token.
//!
//! A token has scopes, which say which calls it allows (`calls` is the table), and it may have patterns of channels. The file
//! (`file`) holds only hashes, and `tokens` watches it. `bearer` is the layer that lets a call in, before
//! anything looks at its body. What the token allows goes with the request as a `Permit`, and the fields of the request are
//! checked against it where they are checked anyway (`calls/fields.rs`). `audit` notes who has written what.
//!
//! Without a file of tokens everybody may call, and nothing of this costs anything. Calls within the process are never checked.

mod audit;
mod bearer;
mod calls;
mod create;
mod file;
mod permit;
mod scope;
pub mod settings;
mod tokens;

pub use create::create_token;
pub use file::FileError;
pub use settings::AccessSettings;
pub use tokens::OpenError;

pub(crate) use bearer::BearerLayer;
pub(crate) use permit::Permit;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokens::Tokens;

/// Who may call. The default lets everybody do everything. Clones share the tokens.
#[derive(Debug, Clone, Default)]
pub struct Access(Option<Arc<Tokens>>);

impl Access {
    /// Lets only callers in that show a token of this file. The file is read again whenever it has changed, and is looked at
    /// in this interval for as long as a clone of this lives. A tokio runtime must be running.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be read, or says something that cannot be understood, or names no token.
    pub fn by_tokens(file: &Path, look_every: Duration) -> Result<Self, OpenError> {
        Ok(Self(Some(Tokens::open(file, look_every)?)))
    }

    /// Checks that this file of tokens can be used now.
    ///
    /// # Errors
    /// [`OpenError`], as for [`by_tokens`](Self::by_tokens).
    pub fn check(file: &Path) -> Result<(), OpenError> {
        Tokens::read(file).map(drop)
    }

    /// True if a line of the file is for callers with a certificate. Such a line has no use at a port that asks for none.
    #[must_use]
    pub fn names_certificates(&self) -> bool {
        self.0.as_ref().is_some_and(|it| it.names_certificates())
    }

    /// True if everybody may call.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }
}
