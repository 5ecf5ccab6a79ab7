//! Where a wrong value was given, so that a complaint names that place and not the flag that could have been used.

use super::SettingsError;
use super::file::{ConfigFile, Entry};
use super::key::Key;
use crate::cli::{one_line, plain};
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{ArgMatches, Error};
use std::error::Error as _;
use std::ffi::{OsStr, OsString};

/// Where the value of a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Flag,
    Variable,
    /// A line of the file.
    Line(usize),
    Default,
}

impl Place {
    pub(super) fn of(key: &Key, entries: &[Entry<'_>], matches: &ArgMatches) -> Self {
        let in_file = entries.iter().find(|entry| entry.key.id == key.id);
        match (matches.value_source(&key.id), in_file) {
            (Some(ValueSource::CommandLine), _) => Self::Flag,
            (Some(ValueSource::EnvVariable), _) => Self::Variable,
            (_, Some(entry)) => Self::Line(entry.line),
            _ => Self::Default,
        }
    }

    /// For people.
    pub(super) fn text(self, key: &Key) -> String {
        match self {
            Self::Flag => format!("--{}", key.flag),
            Self::Variable => key.variable.clone(),
            Self::Line(line) => format!("the file, line {line}"),
            Self::Default => "default".to_owned(),
        }
    }
}

/// A complaint about settings that were judged together. If it begins with a flag whose value was given elsewhere, that place is
/// named.
pub(super) fn complaint(
    message: &str,
    places: &[(&Key, Place)],
    file: Option<&ConfigFile>,
) -> SettingsError {
    if let (true, Some(file)) = (message.starts_with("[["), file) {
        return file.error(message);
    }
    let flag = message.strip_prefix("--").map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        rest.split_at(end.unwrap_or(rest.len()))
    });
    let found = flag.and_then(|(flag, rest)| {
        let (key, place) = places.iter().find(|(key, _)| key.flag == flag)?;
        Some((key, *place, rest))
    });
    match (found, file) {
        (Some((key, Place::Variable, rest)), _) => {
            SettingsError::arguments(&format!("{}{rest}", key.variable))
        }
        (Some((key, Place::Line(line), rest)), Some(file)) => {
            file.at(line, &format!("{}{rest}", key.path))
        }
        _ => SettingsError::arguments(message),
    }
}

/// A complaint of clap about a value that was given by an environment variable. `None`: it is about something else. `variable` looks one
/// up.
pub(super) fn of_variable(
    error: &Error,
    keys: &[Key],
    arguments: &[OsString],
    variable: impl Fn(&OsStr) -> Option<OsString>,
) -> Option<SettingsError> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    };
    let (argument, value) = (
        text(ContextKind::InvalidArg)?,
        text(ContextKind::InvalidValue)?,
    );
    let flag = argument.strip_prefix("--")?.split([' ', '=', '[']).next()?;
    let key = keys.iter().find(|key| key.flag == flag)?;
    let is_given = arguments.iter().any(|argument| {
        let argument = argument.to_string_lossy();
        let rest = argument.strip_prefix("--");
        let rest = rest.and_then(|it| it.strip_prefix(flag));
        rest.is_some_and(|it| it.is_empty() || it.starts_with('='))
    });
    // A list is judged one by one.
    let set = variable(OsStr::new(&key.variable))?;
    let is_blamed = !is_given && set.to_string_lossy().contains(value);
    is_blamed.then(|| SettingsError::arguments(&format!("{}: {}", key.variable, reason(error))))
}

/// Why a value can't be used, without the name of the flag.
pub(super) fn reason(error: &Error) -> String {
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => format!("{value:?} can't be used: "),
        _ => String::new(),
    };
    if let Some(source) = error.source() {
        return format!("{value}{}", plain(&source.to_string()));
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) => format!("{value}expected {}", valid.join(", ")),
        _ => one_line(error),
    }
}
