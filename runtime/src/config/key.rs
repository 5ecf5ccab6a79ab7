//! What is known of a setting from its declaration.

use super::Settings;
use clap::{Arg, ArgAction, Command};

/// The id of the argument that names the file.
pub(super) const FILE: &str = "config";

/// How the keys and the environment variables of a service are called.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// The beginning of its environment variables, such as `CONNECTOR`.
    pub prefix: &'static str,
    /// The services that are parts of this one, if it is several in one process.
    pub parts: &'static [Part],
}

/// A service that is a part of another one. Its settings have the variables that they have when it runs alone, and in the file
/// they stand in a table of its own.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The beginning of its environment variables.
    pub prefix: &'static str,
    /// The name of its table.
    pub table: &'static str,
    /// The ids of its settings.
    pub ids: &'static [&'static [&'static str]],
}

impl Names {
    /// For a service without parts.
    #[must_use]
    pub const fn of(prefix: &'static str) -> Self {
        Self { prefix, parts: &[] }
    }

    fn part(&self, id: &str) -> Option<&Part> {
        let mut parts = self.parts.iter();
        parts.find(|part| part.ids.iter().any(|ids| ids.contains(&id)))
    }

    /// The key in the file.
    pub(super) fn key(&self, id: &str) -> String {
        match self.part(id) {
            Some(part) => format!("{}.{id}", part.table),
            None => id.to_owned(),
        }
    }

    /// The environment variable: upper case, with two underscores between a table and a key.
    pub(super) fn variable(&self, id: &str) -> String {
        let prefix = self.part(id).map_or(self.prefix, |part| part.prefix);
        format!("{prefix}_{}", id.replace('.', "__").to_uppercase())
    }
}

/// A setting.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) id: String,
    /// Its key in the file, with a dot after the name of a table.
    pub(super) path: String,
    pub(super) flag: String,
    pub(super) variable: String,
    pub(super) help: String,
    pub(super) heading: Option<String>,
    pub(super) default: Vec<String>,
    /// What a value is, such as `FILE`.
    pub(super) value_name: String,
    /// The values that it can have, if there are few.
    pub(super) choices: Vec<String>,
    /// True: it is on or off, and its flag has no value.
    pub(super) is_switch: bool,
    /// It can have several values.
    pub(super) is_list: bool,
    /// It may hold a password, which must not be shown.
    pub(super) is_secret: bool,
}

impl Key {
    fn of(argument: &Arg, names: &Names) -> Option<Self> {
        let id = argument.get_id().as_str();
        let flag = argument.get_long()?;
        let action = argument.get_action();
        if id == FILE || matches!(action, ArgAction::Help | ArgAction::Version) {
            return None;
        }
        let help = argument.get_long_help().or(argument.get_help());
        let choices = argument.get_possible_values();
        let is_switch = matches!(action, ArgAction::SetTrue);
        Some(Self {
            id: id.to_owned(),
            path: names.key(id),
            flag: flag.to_owned(),
            variable: names.variable(id),
            help: help.map(ToString::to_string).unwrap_or_default(),
            heading: argument.get_help_heading().map(str::to_owned),
            default: match is_switch {
                true => Vec::from(["false".to_owned()]),
                false => {
                    let values = argument.get_default_values().iter();
                    values.map(|it| it.to_string_lossy().into_owned()).collect()
                }
            },
            choices: match is_switch {
                true => Vec::new(),
                false => choices.iter().map(|it| it.get_name().to_owned()).collect(),
            },
            value_name: argument
                .get_value_names()
                .into_iter()
                .flatten()
                .map(ToString::to_string)
                .next()
                .unwrap_or_default(),
            is_switch,
            is_list: matches!(action, ArgAction::Append)
                || argument.get_value_delimiter().is_some(),
            is_secret: argument.is_hide_env_values_set(),
        })
    }

    /// The table, if it is in one, and the key in it.
    pub(super) fn in_table(&self) -> (Option<&str>, &str) {
        match self.path.rsplit_once('.') {
            Some((table, key)) => (Some(table), key),
            None => (None, &self.path),
        }
    }
}

/// All settings of a command line: first those that everybody needs, then group by group.
pub(super) fn keys<T: Settings>(command: &Command) -> Vec<Key> {
    let arguments = command.get_arguments();
    let mut keys: Vec<_> = arguments.filter_map(|it| Key::of(it, &T::NAMES)).collect();
    keys.sort_by_key(|key| {
        let mut groups = T::GROUPS.iter();
        let group = groups.position(|(heading, _)| key.heading.as_deref() == Some(heading));
        group.map_or(usize::from(key.heading.is_some()) * usize::MAX, |it| it + 1)
    });
    keys
}
