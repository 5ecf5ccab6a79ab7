//! The settings for the way to chats.

use super::token::{ChatToken, TokenError};
use std::path::PathBuf;
use std::sync::Arc;

/// How this connector shows chats who it is.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ChatAccess {
    /// File with the token that this connector shows to chats, if they want one. It is read again when it changes
    ///
    /// `chat token create NAME --scopes connector` makes one. The file holds the token alone.
    #[arg(long, value_name = "FILE")]
    pub chat_token_file: Option<PathBuf>,
}

impl ChatAccess {
    /// Checks that the file of the token can be used now, if there is one.
    ///
    /// # Errors
    /// One line that names the flag.
    pub fn check(&self) -> Result<(), String> {
        let checked = self.chat_token_file.as_deref().map(ChatToken::check);
        let checked = checked.transpose().map(drop);
        checked.map_err(|error| format!("--chat-token-file: {error}"))
    }

    /// Reads the token, if there is one. A tokio runtime must be running.
    ///
    /// # Errors
    /// [`TokenError`] if the file cannot be used.
    pub fn open(&self) -> Result<Option<Arc<ChatToken>>, TokenError> {
        let file = self.chat_token_file.as_deref();
        file.map(ChatToken::open).transpose()
    }
}
