//! The settings of who may call.

use super::{Access, OpenError};
use crate::tls::PortSettings;
use runtime::doors::{Door, INSECURE};
use runtime::files::LOOK;
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
    /// A port with chat's services. `flag` says where it listens, and `guard` names the settings that make it ask for tokens or
    /// certificates.
    #[must_use]
    pub fn door(
        &self,
        flag: &'static str,
        guard: &'static str,
        address: SocketAddr,
        tls: &PortSettings,
    ) -> Door {
        Door {
            flag,
            address: Some(address),
            allows: "everybody who reaches it may call everything, in the name of every user",
            guard,
            is_guarded: self.api_tokens_file.is_some() || tls.client_ca.is_some(),
            is_encrypted: tls.port.certificate.is_some(),
        }
    }

    /// Checks that the file of tokens can be used now, if there is one.
    ///
    /// # Errors
    /// One line that names the flag.
    pub fn check(&self) -> Result<(), String> {
        let file = self.api_tokens_file.as_deref();
        let checked = file.map(Access::check).transpose();
        let named = |error: OpenError| format!("--api-tokens-file: {error}");
        checked.map(drop).map_err(named)
    }

    /// Reads the file of tokens, if there is one. If it names certificates and the port asks for none, that is logged. A tokio
    /// runtime must be running.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be used.
    pub fn open(&self, tls: &PortSettings) -> Result<Access, OpenError> {
        let Some(file) = &self.api_tokens_file else {
            return Ok(Access::default());
        };
        let access = Access::by_tokens(file, LOOK)?;
        if access.names_certificates() && tls.client_ca.is_none() {
            let file = file.display();
            tracing::warn!(
                %file,
                "lines with subject= have no effect, because this port asks callers for no certificate"
            );
        }
        Ok(access)
    }
}
