//! The settings of who may call.

use super::{Access, LOOK_EVERY, OpenError};
use runtime::doors::{Door, INSECURE};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Who may call.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AccessSettings {
    /// File with the tokens of those who may call, one a line; `chat token create` prints such a line. It is read again when it
    /// changes
    ///
    /// Without it: everybody who reaches the port may call everything.
    #[arg(id = "api.tokens_file", long = "api-tokens-file", value_name = "FILE")]
    pub api_tokens_file: Option<PathBuf>,
}

/// The heading for who may call and ask, and the settings below it.
pub const ACCESS: (&str, &[&str]) = ("Access", &["api.tokens_file", INSECURE, "admin_hosts"]);

impl AccessSettings {
    /// Chat's port, which listens here because of this flag.
    #[must_use]
    pub fn door(&self, flag: &'static str, address: SocketAddr) -> Door {
        Door {
            flag,
            address: Some(address),
            allows: "everybody who reaches it may call everything, in the name of every user",
            guard: "--api-tokens-file",
            is_guarded: self.api_tokens_file.is_some(),
        }
    }

    /// Reads the file of tokens, if there is one. A tokio runtime must be running.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be used.
    pub fn open(&self) -> Result<Access, OpenError> {
        match &self.api_tokens_file {
            Some(file) => Access::by_tokens(file, LOOK_EVERY),
            None => Ok(Access::default()),
        }
    }
}
