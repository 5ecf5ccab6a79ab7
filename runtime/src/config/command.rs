//! The command line of a service with its environment variables, the file, and the subcommands of `config`.

use super::file::{ConfigFile, Entry};
use super::key::{FILE, Key, keys};
use super::place::{Place, complaint, of_variable, reason};
use super::text::{self, Shown};
use super::{Settings, SettingsError};
use crate::cli::brief;
use crate::health::Question;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

/// The command that asks another process, its own flag, and how that is written.
const HEALTH: &str = "health";
const LIVE: &str = "live";
const OF_HEALTH: &str = "--live";

/// What the arguments ask for.
pub(super) enum Asked<T> {
    /// The service, with these settings.
    Service(Loaded<T>),
    /// To print something.
    Text {
        text: String,
        /// What should be looked at. It goes to stderr.
        warnings: Vec<String>,
    },
    /// To ask the process that runs with these settings.
    Health(Question),
}

impl<T> Asked<T> {
    fn text(text: String) -> Self {
        Self::Text {
            text,
            warnings: Vec::new(),
        }
    }
}

/// Settings, and what they are made of.
pub(super) struct Loaded<T> {
    pub(super) settings: T,
    /// The values by their keys, as `config show` prints them.
    pub(super) values: BTreeMap<String, Shown>,
    /// The file, if there is one.
    pub(super) file: Option<ConfigFile>,
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
    let health = of_file(
        HEALTH,
        "Asks the process that runs with the same settings whether it is ready. Exits with 0 or 1",
    )
    .arg(
        Arg::new(LIVE)
            .long(LIVE)
            .action(ArgAction::SetTrue)
            .help("Asks whether it runs, and not whether it is ready"),
    );
    let others = T::COMMANDS.iter().map(|(name, about)| {
        // The service itself reads what follows.
        let rest = Arg::new("rest")
            .num_args(0..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
            .hide(true);
        of_file(name, about).arg(rest)
    });
    command
        .arg(file)
        .subcommand(config)
        .subcommand(health)
        .subcommands(others)
}

/// Puts the flags that stand behind `config show` or `health` in front of it, where the command line takes them.
fn flags_first(arguments: &[OsString]) -> Vec<OsString> {
    if let [program, health, flags @ ..] = arguments
        && health == HEALTH
        && !flags.iter().any(|it| it == "-h" || it == "--help")
    {
        let (own, others): (Vec<_>, Vec<_>) = flags.iter().partition(|it| *it == OF_HEALTH);
        let all = [program]
            .into_iter()
            .chain(others)
            .chain([health])
            .chain(own);
        return all.cloned().collect();
    }
    let mut pairs = arguments.windows(2);
    let at = pairs.position(|pair| pair[0] == "config" && pair[1] == "show");
    let (before, rest) = arguments.split_at(at.unwrap_or(arguments.len()));
    let (show, flags) = rest.split_at(rest.len().min(2));
    if flags.iter().any(|it| it == "-h" || it == "--help") {
        return arguments.to_vec();
    }
    [before, flags, show].concat()
}

/// Reads what these arguments ask for. `content` is what is in the file, if that is known already.
pub(super) fn read<T: Settings>(
    arguments: &[OsString],
    content: Option<Vec<u8>>,
) -> Result<Asked<T>, SettingsError> {
    let arguments = &*flags_first(arguments);
    let command = command::<T>();
    let keys = keys::<T>(&command);
    let is_brief = arguments.iter().any(|argument| argument == "-h");
    let given = if is_brief {
        brief(command.clone())
    } else {
        command.clone()
    };
    let wrong = |error: clap::Error| {
        let blamed = of_variable(&error, &keys, arguments, |name| env::var_os(name));
        blamed.unwrap_or_else(|| error.into())
    };
    // Only for the name of the file: what else is wrong is reported below.
    let early = given
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(arguments);
    let mut path = early.ok().and_then(|it| file_of(&it));
    let mut matches = given.try_get_matches_from(arguments).map_err(wrong)?;
    let asked = match matches.subcommand() {
        Some(("config", asked)) => asked.subcommand(),
        Some((HEALTH, asked)) => Some((HEALTH, asked)),
        Some((name, _)) => {
            let program = T::command().get_name().to_owned();
            let error = format!("{name} must be the first word, as in `{program} {name}`");
            return Err(SettingsError::Arguments(error));
        }
        None => None,
    };
    match asked {
        Some(("default", _)) => return Ok(Asked::text(text::template::<T>(&keys))),
        Some(("reference", _)) => return Ok(Asked::text(text::reference::<T>(&keys))),
        Some(("check", asked)) => path = asked.get_one::<PathBuf>("FILE").cloned(),
        _ => {}
    }
    let is_check = matches!(asked, Some(("check", _)));
    let is_show = matches!(asked, Some(("show", _)));
    let live = match asked {
        Some((HEALTH, asked)) => Some(asked.get_flag(LIVE)),
        _ => None,
    };
    let file = match (path, content) {
        (Some(path), Some(content)) => Some(ConfigFile::of(path, content)?),
        (Some(path), None) => Some(ConfigFile::read(path)?),
        (None, _) => None,
    };
    let entries = match &file {
        Some(file) => checked_entries::<T>(file, &keys, &command)?,
        None => Vec::new(),
    };
    if file.is_some() {
        let merged = entries.iter().fold(command, |command, entry| {
            let values = entry.values.clone();
            command.mut_arg(&entry.key.id, |argument| argument.default_values(values))
        });
        matches = merged.try_get_matches_from(arguments).map_err(wrong)?;
    }
    let places = keys.iter();
    let places = places.map(|key| (key, Place::of(key, &entries, &matches)));
    let places: Vec<_> = places.collect();
    let mut values = shown(&places, &matches);
    if let Some(file) = &file {
        values.extend(file.table_texts(T::TABLES)?);
    }
    let mut settings = T::from_arg_matches_mut(&mut without_command(matches))?;
    if let Some(live) = live {
        // What else may be wrong with the settings by now does not matter to the process that runs.
        let admin = settings.admin();
        return Ok(Asked::Health(Question { admin, live }));
    }
    settings.take(match &file {
        Some(file) => file.tables()?,
        None => T::Tables::default(),
    });
    let checked = settings.check();
    checked.map_err(|it| complaint(&it, &places, file.as_ref()))?;
    if is_check {
        return Ok(Asked::Text {
            text: "The file is right.\n".to_owned(),
            warnings: settings.warnings(),
        });
    }
    if is_show {
        return Ok(Asked::text(text::show::<T>(&keys, &values)));
    }
    Ok(Asked::Service(Loaded {
        settings,
        values,
        file,
    }))
}

fn file_of(matches: &ArgMatches) -> Option<PathBuf> {
    matches.try_get_one::<PathBuf>(FILE).ok().flatten().cloned()
}

/// A service with subcommands of its own would not know this one.
fn without_command(mut matches: ArgMatches) -> ArgMatches {
    if matches!(matches.subcommand_name(), Some("config" | HEALTH)) {
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

/// The values that are in force, and where each comes from.
fn shown(places: &[(&Key, Place)], matches: &ArgMatches) -> BTreeMap<String, Shown> {
    let shown = places.iter().map(|(key, place)| {
        let values = matches.try_get_raw(&key.id).ok().flatten();
        let values = values
            .into_iter()
            .flatten()
            .map(|it| it.to_string_lossy().into_owned());
        // The flag of a switch has no value.
        let values = match key.is_switch {
            true => Vec::from([matches.get_flag(&key.id).to_string()]),
            false => values.collect(),
        };
        let from = place.text(key);
        (key.path.clone(), Shown { values, from })
    });
    shown.collect()
}
