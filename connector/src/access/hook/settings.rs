//! The settings of `[auth.hook]`.

use crate::call_settings::used;
use crate::operator::CALLS;
use http::Uri;
use runtime::cli::duration;
use runtime::tls::{ClientFiles, TlsError};
use std::path::PathBuf;
use std::time::Duration;

/// How the operator's hook is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct HookSettings {
    /// The gRPC service that is asked with auth.mode = "hook", and by rules of channels that say "hook", such as http://access:5001. Its
    /// name is resolved again every 10 s
    #[arg(
        id = "auth.hook.target",
        long = "auth-hook-target",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub target: Option<String>,

    /// PEM file with the certificate authorities of a hook with an https:// address, instead of the public ones
    #[arg(id = "auth.hook.ca", long = "auth-hook-ca", value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// How long a decision of the hook may take, from 10ms to 2s
    #[arg(
        id = "auth.hook.timeout",
        long = "auth-hook-timeout",
        default_value = "1s",
        value_parser = timeout,
        value_name = "TIME"
    )]
    pub timeout: Duration,

    /// How many calls of the hook may be under way. Further ones are refused at once
    #[arg(
        id = "auth.hook.in_flight",
        long = "auth-hook-in-flight",
        default_value_t = CALLS as u32,
        value_parser = clap::value_parser!(u32).range(1..=100_000),
        value_name = "NUMBER"
    )]
    pub in_flight: u32,
}

impl Default for HookSettings {
    fn default() -> Self {
        Self {
            target: None,
            ca: None,
            timeout: Duration::from_secs(1),
            in_flight: CALLS as u32,
        }
    }
}

impl HookSettings {
    /// The files if the hook at this address is called over TLS.
    pub(super) fn files(&self, uri: &Uri) -> Result<Option<ClientFiles>, TlsError> {
        let files = ClientFiles {
            ca: self.ca.clone(),
            identity: None,
        };
        let uris = std::slice::from_ref(uri);
        used(files, uris, "--auth-hook-ca", "--auth-hook-target")
    }
}

/// Reads a time that leaves room for the rest of a request, which has two seconds.
fn timeout(text: &str) -> Result<Duration, String> {
    let allowed = Duration::from_millis(10)..=Duration::from_secs(2);
    let time = duration(text).ok().filter(|time| allowed.contains(time));
    time.ok_or_else(|| "expected a time from 10ms to 2s, such as 1s".to_owned())
}
