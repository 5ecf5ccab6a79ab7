//! The settings of `[auth]`, and of each `[[auth.issuer]]`.

use super::algorithm::Algorithm;
use super::hook::HookSettings;
use channel_rules::{ChannelRule, ChannelTable};
use clap::ValueEnum;
use runtime::cli::duration;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// They need no proof. A client logs in under any name
    Open,
    /// They show a signed token (JWT) of an issuer that is configured
    Jwt,
    /// The operator's own service is asked about each login: the hook
    Hook,
}

/// The settings of `[auth]` that are one value each.
#[derive(Debug, Clone, clap::Args)]
pub struct AuthSettings {
    /// How clients prove who they are. With jwt, [[auth.issuer]] in the configuration file names the issuers of their tokens. With hook, the service at auth.hook.target decides
    #[arg(
        id = "auth.mode",
        long = "auth-mode",
        value_enum,
        default_value = "open",
        value_name = "MODE"
    )]
    pub mode: Mode,

    /// How far the clocks of issuers and connectors may differ, from 0s to 5m
    #[arg(id = "auth.leeway", long = "auth-leeway", default_value = "30s", value_parser = short, value_name = "TIME")]
    pub leeway: Duration,

    /// How long a session whose token has expired stays open, from 0s to 5m. Within this time it may refresh its token
    #[arg(
        id = "auth.expiry_grace",
        long = "auth-expiry-grace",
        default_value = "25s",
        value_parser = short,
        value_name = "TIME"
    )]
    pub expiry_grace: Duration,

    /// How the operator's hook is asked.
    #[command(flatten)]
    pub hook: HookSettings,

    /// `[[auth.issuer]]`: the issuers of tokens.
    #[arg(skip)]
    pub issuers: Vec<IssuerSettings>,

    /// `[[channel]]`: the rules of channels.
    #[arg(skip)]
    pub channels: Vec<ChannelRule>,
}

/// What no flag can express: the issuers and the rules, as they stand in the configuration file.
#[derive(Debug, Default, Deserialize)]
pub struct AccessTables {
    #[serde(default)]
    auth: AuthTable,
    #[serde(default)]
    channel: Vec<ChannelRule>,
}

#[derive(Debug, Default, Deserialize)]
struct AuthTable {
    #[serde(default)]
    issuer: Vec<IssuerSettings>,
}

impl AccessTables {
    /// The names of the tables.
    pub const NAMES: &'static [&'static str] = &["auth.issuer", ChannelTable::NAME];
    /// An example of the first one, in comments.
    pub const EXAMPLE: &'static str = r#"
# --- Issuers of tokens, for auth.mode = "jwt" (docs/access.md) ---

#[[auth.issuer]]
#issuer = "https://id.example"
#audience = ["chat"]
#algorithms = ["EdDSA", "ES256"]
#jwks_url = "https://id.example/jwks.json"

"#;
}

impl AuthSettings {
    /// Takes the tables of the configuration file.
    pub fn take(&mut self, tables: AccessTables) {
        self.issuers = tables.auth.issuer;
        self.channels = tables.channel;
    }
}

/// Reads a time that may be zero, up to five minutes.
fn short(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s") {
        return Ok(Duration::ZERO);
    }
    let time = duration(text).ok();
    let time = time.filter(|time| *time <= Duration::from_secs(300));
    time.ok_or_else(|| "expected a time from 0s to 5m, such as 30s".to_owned())
}

/// An issuer whose tokens are accepted: `[[auth.issuer]]`.
///
/// Exactly one of `jwks_file`, `jwks_url`, `public_key_file` and `secret_file` says where its keys are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct IssuerSettings {
    /// What its tokens have as `iss`.
    pub issuer: String,
    /// What its tokens have as `aud`: at least one of these.
    pub audience: Vec<String>,
    /// The algorithms with which its tokens may be signed. A token never chooses another one.
    pub algorithms: Vec<Algorithm>,
    /// A file with a set of public keys (RFC 7517, section 5). It is read again when it changes.
    pub jwks_file: Option<PathBuf>,
    /// Where a set of public keys is served, with http or https.
    pub jwks_url: Option<String>,
    /// A file with the authorities that may have certified the server of `jwks_url`, as PEM, instead of the public ones.
    pub jwks_ca_file: Option<PathBuf>,
    /// A file with one public key as PEM, for the algorithms that are not HS.
    pub public_key_file: Option<PathBuf>,
    /// A file with a secret that the issuer shares, for HS256, HS384 and HS512.
    pub secret_file: Option<PathBuf>,
    /// The secret before that one. Tokens that were signed with it are still accepted.
    pub previous_secret_file: Option<PathBuf>,
    /// The claim that names the user.
    #[serde(default = "subject")]
    pub user_claim: String,
}

fn subject() -> String {
    "sub".to_owned()
}
