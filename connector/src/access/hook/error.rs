//! Why the hook has not let somebody in, or could not be asked.

use crate::grpc::AddressError;
use runtime::tls::TlsError;
use wire::Reason;

/// The settings of the hook cannot be used. One line.
#[derive(Debug, thiserror::Error)]
pub enum HookSettingsError {
    /// The address.
    #[error("auth.hook.target: {0}")]
    Target(#[from] AddressError),
    /// A file with certificates can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody could be asked.
    #[error(
        "auth.mode = \"hook\" needs the address of the hook: set auth.hook.target, such as http://access:5001"
    )]
    NoTarget,
}

/// Why there is no yes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// The hook was asked, and says no.
    #[error("the hook says no: {reason}")]
    Denied {
        /// What the client is told.
        told: Reason,
        /// The hook's own words, for the log.
        reason: String,
    },
    /// As many calls are under way as may be. Nobody was asked.
    #[error("as many calls of the hook are under way as are allowed (--auth-hook-in-flight)")]
    Overloaded,
    /// Nobody could be asked, or the answer cannot be used.
    #[error("{0}")]
    Failed(String),
}

impl HookError {
    /// What the client is told. Only a no of the hook is final.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Denied { told, .. } => *told,
            Self::Overloaded => Reason::TryLater,
            Self::Failed(_) => Reason::Unavailable,
        }
    }
}
