//! Settings from four places: a flag counts more than an environment variable, that more than the configuration file, and that
//! more than the default.
//!
//! A setting is declared once, as an argument of the command line. Its id is its key in the file: `message_limit`, or
//! `tls.certificate` for a key in the table `[tls]`. The name of the environment variable is made of the key, too. So the help, the
//! file that `config default` prints, and docs/configuration.md can't contradict each other.
//!
//! What no flag can express, such as a list of rules, stands in tables of the file, which serde reads
//! ([`Settings::Tables`]).

mod command;
mod file;
mod key;
mod place;
mod reload;
mod text;

pub use key::{Names, Part};
pub use reload::{Reloading, Source, fixed};

use crate::cli::{Grouped, USAGE, one_line, redact};
use crate::health::Question;
use crate::telemetry::LogSettings;
use clap::error::ErrorKind;
use command::Asked;
use serde::de::DeserializeOwned;
use std::env;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::process;

/// The settings of a service.
pub trait Settings: Grouped + Send + Sync + 'static {
    /// The keys and variables of the settings.
    const NAMES: Names;
    /// The ids of the settings that take effect at once if they change while the process runs.
    const RELOADED: &'static [&'static str];
    /// The tables of the file that no flag can express. Unknown keys at its top level must be allowed, because it is read from the
    /// whole file; those within its tables should be refused.
    type Tables: DeserializeOwned + Default;

    /// The names of these tables, such as `auth.issuer`.
    const TABLES: &'static [&'static str];

    /// Examples of these tables for the file that `config default` prints. Every line is a comment.
    const EXAMPLES: &'static [&'static str];

    /// Commands that the service reads by itself, if they are the first word: their names, and what they do.
    const COMMANDS: &'static [(&'static str, &'static str)] = &[];

    /// Takes the tables of the file, or empty ones if there is no file.
    fn take(&mut self, tables: Self::Tables);

    /// Where `/livez` and `/readyz` are served, for `health`.
    fn admin(&self) -> SocketAddr;

    /// What is logged.
    fn log(&self) -> &LogSettings;

    /// Checks settings that can only be judged together.
    ///
    /// # Errors
    /// One line that begins with the flag, as in `--queue: …`. It never shows a secret.
    fn check(&self) -> Result<(), String>;

    /// What is right, but cannot be meant: one line each. They are logged at the start and after a reload, and `config check` prints
    /// them.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Why settings can't be used: one line that says where the mistake is and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The command line or the environment is wrong.
    #[error("{0} (try --help)")]
    Arguments(String),
    /// The file is wrong, or can't be read.
    #[error("{0}")]
    File(String),
}

/// Reads the settings of this process.
///
/// A mistake ends the process with [`USAGE`] and one line on stderr. `--help`, `--version` and the subcommands of `config` print
/// what was asked for and end the process, too. `health` asks another process, and ends this one with 0 or 1.
#[must_use]
pub fn load<T: Settings>() -> (T, Source<T>) {
    let source = Source::new(env::args_os().collect());
    match source.read() {
        Ok(Asked::Service(loaded)) => source.holding(loaded),
        Ok(Asked::Text { text, warnings }) => {
            for warning in warnings {
                eprintln!("{}: warning: {warning}", T::command().get_name());
            }
            print!("{text}");
            process::exit(0);
        }
        Ok(Asked::Health(question)) => process::exit(health::<T>(question)),
        Err(error) => {
            eprintln!("{}: {error}", T::command().get_name());
            process::exit(USAGE.into());
        }
    }
}

/// Asks another process, shows what it says, and returns the exit code.
fn health<T: Settings>(question: Question) -> i32 {
    let command = T::command();
    let service = command.get_name();
    match question.ask(service) {
        Ok(words) => {
            print!("{words}");
            0
        }
        Err(words) => {
            eprintln!("{words}");
            1
        }
    }
}

/// Reads settings from these arguments, of which the first is the program's name, and from a file and the environment.
///
/// # Errors
/// [`SettingsError`].
pub fn read<T: Settings>(arguments: &[&str]) -> Result<T, SettingsError> {
    let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
    match Source::<T>::new(arguments).read()? {
        Asked::Service(loaded) => Ok(loaded.settings),
        Asked::Text { text, .. } => Err(SettingsError::Arguments(text)),
        Asked::Health(_) => Err(SettingsError::arguments("health starts no service")),
    }
}

impl From<clap::Error> for SettingsError {
    fn from(error: clap::Error) -> Self {
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => error.exit(),
            _ => Self::Arguments(one_line(&error)),
        }
    }
}

impl SettingsError {
    /// Hides users and passwords of URLs.
    fn arguments(reason: &str) -> Self {
        Self::Arguments(redact(reason))
    }

    /// As above.
    fn file(reason: &str) -> Self {
        Self::File(redact(reason))
    }
}

#[cfg(test)]
mod tests;
