//! A process with all doors locked.

use super::tokens::{PUBLIC, Pair, SECRET, SHARED};
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use tempfile::TempDir;
use testkit::binaries;
use testkit::service::Standalone;

/// Who may do what. "open" has no rule.
const RULES: &str = "
[[channel]]
match = 'closed'
join = 'nobody'

[[channel]]
match = 'granted:*'
join = 'grant'
send = 'grant'
history = 'grant'
members = 'grant'

[[channel]]
match = 'mute'
send = 'nobody'
history = 'nobody'
members = 'nobody'

[[channel]]
match = 'inbox:{user}'

[[channel]]
match = 'inbox:*'
join = 'nobody'
";

/// The page that may connect from elsewhere.
pub(crate) const PAGE: &str = "https://page.example";

pub(crate) struct Locked {
    standalone: Standalone,
    pub(crate) pair: Pair,
    _folder: TempDir,
    tokens: Vec<(String, String)>,
}

impl Locked {
    /// Starts it with these tokens of back ends: names, scopes and patterns of channels.
    pub(crate) async fn start(tokens: &[(&str, &str, Option<&str>)], flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let pair = Pair::new();
        fs::write(path("secret"), SECRET).expect("written");
        fs::write(path("jwks"), pair.set().to_string()).expect("written");
        let issuers = format!(
            "[[connector.auth.issuer]]\nissuer = '{SHARED}'\naudience = ['chat']\nalgorithms = ['HS256']\nsecret_file = '{}'\n\
             [[connector.auth.issuer]]\nissuer = '{PUBLIC}'\naudience = ['chat']\nalgorithms = ['EdDSA']\njwks_file = '{}'\n",
            path("secret"),
            path("jwks"),
        );
        fs::write(path("config"), issuers + RULES).expect("written");
        let (mut lines, mut made) = (String::new(), Vec::new());
        for (name, scopes, channels) in tokens {
            let mut command = Command::new(binaries::path("chat"));
            command.args(["token", "create", name, "--scopes", scopes]);
            if let Some(channels) = channels {
                command.args(["--channels", channels]);
            }
            let printed = command.output().expect("it starts").stdout;
            let printed = String::from_utf8(printed).expect("text");
            let (token, line) = printed.split_once('\n').expect("two lines");
            lines.push_str(line);
            made.push(((*name).to_owned(), token.to_owned()));
        }
        fs::write(path("tokens"), lines).expect("written");
        let (config, file) = (path("config"), path("tokens"));
        let own = [
            "--config",
            &config,
            "--auth-mode",
            "jwt",
            "--allowed-origins",
            PAGE,
        ];
        let mut flags = [flags, &own].concat();
        if !tokens.is_empty() {
            flags.extend(["--api-tokens-file", &file]);
        }
        Self {
            standalone: Standalone::with(&flags).await,
            pair,
            _folder: folder,
            tokens: made,
        }
    }

    /// Where clients connect to.
    pub(crate) fn clients(&self) -> SocketAddr {
        self.standalone.address()
    }

    /// Where back ends connect to.
    pub(crate) fn back_ends(&self) -> SocketAddr {
        self.standalone.grpc()
    }

    /// The token of a back end. One of an unknown name is none of this process.
    pub(crate) fn token(&self, name: &str) -> String {
        let found = self.tokens.iter().find(|(known, _)| known == name);
        found.map_or_else(|| format!("gct_{name:x<43}"), |(_, token)| token.clone())
    }

    /// What the process has logged.
    pub(crate) fn log(&self) -> String {
        self.standalone.lines().join("\n")
    }
}
