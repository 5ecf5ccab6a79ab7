//! The command line of a service with its environment variables, the file, and the subcommands of `config`.

use super::file::{ConfigFile, Entry};
use super::key::{FILE, Key, keys};
use super::text::{self, Shown};
use super::{Settings, SettingsError};
use crate::cli::brief;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, value_parser};
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;

/// What the arguments ask for.
pub(super) enum Asked<T> {
    /// The service, with these settings.
    Service(Loaded<T>),
    /// This text.
    Text(String),
}

/// Settings, and what they are made of.
pub(super) struct Loaded<T> {
    pub(super) settings: T,
    /// The values by their keys, as `config show` prints them.
    pub(super) values: BTreeMap<String, Shown>,
    /// The file, if there is one.
    pub(super) file: Option<PathBuf>,
}

/// The command line with the names of the environment variables.
pub(super) fn command<T: Settings>() -> Command {
    let command = T::grouped().mut_args(|argument| {
        if argument.get_long().is_none() {
            return argument;
        }
        let variable = T::NAMES.variable(argument.get_id().as_str());
        argument.env(variable)
    });
    let file = Arg::new(FILE)
        .long(FILE)
        .env(T::NAMES.variable(FILE))
        .global(true)
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help_heading("Process")
        .help("A file with settings, in TOML. `config default` prints one with all settings");
    let of_file = |name: &'static str, about: &'static str| Command::new(name).about(about);
    let config = Command::new("config")
        .about("Prints or checks settings, and does not start the service")
        .subcommand_required(true)
        .subcommand(of_file("default", "Prints a file with all settings, their defaults and what they mean"))
        .subcommand(of_file(
            "reference",
            "Prints what all settings mean, as tables in Markdown",
        ))
        .subcommand(
            of_file("check", "Checks a file, and says what is wrong with it")
                .arg(Arg::new("FILE").required(true).value_parser(value_parser!(PathBuf))),
        )
        .subcommand(of_file("show", "Prints all settings that would be used, and where each comes from. Passwords are hidden"));
    command.arg(file).subcommand(config)
}

pub(super) fn read<T: Settings>(arguments: &[OsString]) -> Result<Asked<T>, SettingsError> {
    let command = command::<T>();
    let keys = keys::<T>(&command);
    let is_brief = arguments.iter().any(|argument| argument == "-h");
    let given = if is_brief {
        brief(command.clone())
    } else {
        command.clone()
    };
    // Only for the name of the file: what else is wrong is reported below.
    let early = given
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(arguments);
    let mut path = early.ok().and_then(|it| file_of(&it));
    let mut matches = given.try_get_matches_from(arguments)?;
    let asked = matches.subcommand().filter(|(name, _)| *name == "config");
    let asked = asked.and_then(|(_, asked)| asked.subcommand());
    match asked {
        Some(("default", _)) => return Ok(Asked::Text(text::template::<T>(&keys))),
        Some(("reference", _)) => return Ok(Asked::Text(text::reference::<T>(&keys))),
        Some(("check", asked)) => path = asked.get_one::<PathBuf>("FILE").cloned(),
        _ => {}
    }
    let is_check = matches!(asked, Some(("check", _)));
    let is_show = matches!(asked, Some(("show", _)));
    let file = path.as_deref().map(ConfigFile::read).transpose()?;
    let entries = match &file {
        Some(file) => checked_entries::<T>(file, &keys, &command)?,
        None => Vec::new(),
    };
    if file.is_some() {
        let merged = entries.iter().fold(command, |command, entry| {
            let values = entry.values.clone();
            command.mut_arg(&entry.key.id, |argument| argument.default_values(values))
        });
        matches = merged.try_get_matches_from(arguments)?;
    }
    let mut values = shown(&keys, &entries, &matches);
    if let Some(file) = &file {
        values.extend(file.table_texts(T::TABLES)?);
    }
    let mut settings = T::from_arg_matches_mut(&mut without_config(matches))?;
    settings.take(match &file {
        Some(file) => file.tables()?,
        None => T::Tables::default(),
    });
    settings
        .check()
        .map_err(|it| SettingsError::arguments(&it))?;
    if is_check {
        return Ok(Asked::Text("The file is right.\n".to_owned()));
    }
    if is_show {
        return Ok(Asked::Text(text::show::<T>(&keys, &values)));
    }
    Ok(Asked::Service(Loaded {
        settings,
        values,
        file: path,
    }))
}

fn file_of(matches: &ArgMatches) -> Option<PathBuf> {
    matches.try_get_one::<PathBuf>(FILE).ok().flatten().cloned()
}

/// A service with subcommands of its own would not know this one.
fn without_config(mut matches: ArgMatches) -> ArgMatches {
    if matches.subcommand_name() == Some("config") {
        matches.remove_subcommand();
    }
    matches
}

/// The entries of a file whose values the flags would take.
fn checked_entries<'a, T: Settings>(
    file: &ConfigFile,
    keys: &'a [Key],
    command: &Command,
) -> Result<Vec<Entry<'a>>, SettingsError> {
    let entries = file.entries(keys, T::TABLES)?;
    for Entry { key, values, line } in &entries {
        if key.is_switch {
            continue;
        }
        let flags = values.iter().map(|value| format!("--{}={value}", key.flag));
        let arguments = std::iter::once(String::new()).chain(flags);
        if let Err(error) = command.clone().try_get_matches_from(arguments) {
            let reason = reason(&error);
            return Err(file.at(*line, &format!("{}: {reason}", key.path)));
        }
    }
    Ok(entries)
}

/// Why a value can't be used, without the name of the flag.
fn reason(error: &clap::Error) -> String {
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => format!("{value:?} can't be used: "),
        _ => String::new(),
    };
    if let Some(source) = error.source() {
        return format!("{value}{source}");
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) => format!("{value}expected {}", valid.join(", ")),
        _ => crate::cli::one_line(error),
    }
}

/// The values that are in force, and where each comes from.
fn shown(keys: &[Key], entries: &[Entry<'_>], matches: &ArgMatches) -> BTreeMap<String, Shown> {
    let shown = keys.iter().map(|key| {
        let values = matches.try_get_raw(&key.id).ok().flatten();
        let values: Vec<_> = values
            .into_iter()
            .flatten()
            .map(|it| it.to_string_lossy().into_owned())
            .collect();
        let in_file = entries.iter().find(|entry| entry.key.id == key.id);
        let from = match (matches.value_source(&key.id), in_file) {
            (Some(ValueSource::CommandLine), _) => format!("--{}", key.flag),
            (Some(ValueSource::EnvVariable), _) => key.variable.clone(),
            (_, Some(entry)) => format!("the file, line {}", entry.line),
            _ => "default".to_owned(),
        };
        // The flag of a switch has no value.
        let values = match key.is_switch {
            true => Vec::from([matches.get_flag(&key.id).to_string()]),
            false => values,
        };
        (key.path.clone(), Shown { values, from })
    });
    shown.collect()
}
