//! Texts about settings: the file with all defaults, the values in force, and the reference.

use super::Settings;
use super::key::Key;
use crate::cli::redact;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Values as the command line would have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) values: Vec<String>,
    /// Where they come from.
    pub(super) from: String,
}

/// The width of comments in a file.
const WIDTH: usize = 100;

/// A file with all settings. Each is commented out, so that a newer version with other defaults uses those.
pub(super) fn template<T: Settings>(keys: &[Key]) -> String {
    let name = T::command().get_name().to_owned();
    let mut text = String::new();
    comment(
        &mut text,
        &format!(
            "All settings of {name}, with their defaults. Remove the # in front of a line to change it. A flag or an environment \
             variable counts more than this file. A key is also the name of its flag and of its variable: message_limit, \
             --message-limit, {}.",
            T::NAMES.variable("message_limit")
        ),
    );
    // In TOML, whatever follows the head of a table is in it. So the keys that are in no table come first.
    let mut keys: Vec<&Key> = keys.iter().collect();
    keys.sort_by_key(|key| key.in_table().0.map(str::to_owned));
    let mut before = (None, None);
    for key in keys {
        let (table, name) = key.in_table();
        let place = (table.map(str::to_owned), key.heading.clone());
        if place != before {
            if let Some(heading) = &key.heading {
                let _ = write!(text, "\n# --- {heading} ---\n");
            }
            if let Some(table) = table.filter(|it| before.0.as_deref() != Some(it)) {
                let _ = write!(text, "\n[{table}]\n");
            }
            before = place;
        }
        text.push('\n');
        comment(&mut text, &key.help);
        if !key.choices.is_empty() {
            comment(&mut text, &format!("One of: {}", key.choices.join(", ")));
        }
        let _ = match (&key.default[..], key.is_list) {
            ([], true) => writeln!(text, "#{name} = []"),
            ([], false) => writeln!(
                text,
                "# Not set by default.\n#{name} = \"{}\"",
                key.value_name
            ),
            (values, _) => writeln!(text, "#{name} = {}", value(key, values)),
        };
    }
    text + &T::EXAMPLES.concat()
}

/// The settings in force.
pub(super) fn show<T: Settings>(keys: &[Key], values: &BTreeMap<String, Shown>) -> String {
    let mut keys: Vec<&Key> = keys.iter().collect();
    keys.sort_by_key(|key| key.in_table().0.map(str::to_owned));
    let mut text = String::new();
    let mut before = None;
    for key in keys {
        let (table, name) = key.in_table();
        if table != before {
            let _ = write!(text, "\n[{}]\n", table.unwrap_or_default());
            before = table;
        }
        let Some(Shown { values, from }) = values.get(&key.path) else {
            continue;
        };
        let _ = match values.is_empty() {
            true => writeln!(text, "#{name} is not set"),
            false => writeln!(text, "{name} = {}  # {from}", value(key, values)),
        };
    }
    for (table, Shown { values, .. }) in values {
        if T::TABLES.contains(&&**table) {
            let _ = write!(text, "\n{}", values.concat());
        }
    }
    text
}

/// Tables of all settings in Markdown, for docs/configuration.md.
pub(super) fn reference<T: Settings>(keys: &[Key]) -> String {
    let mut text = String::new();
    let mut heading = None;
    for key in keys {
        if heading.as_ref() != Some(&key.heading) {
            let title = key.heading.as_deref().unwrap_or("What everybody needs");
            let _ = write!(
                text,
                "\n### {title}\n\n| key | flag, variable | default | |\n|---|---|---|---|\n"
            );
            heading = Some(key.heading.clone());
        }
        let default = match key.default.is_empty() {
            true => String::new(),
            false => format!("`{}`", value(key, &key.default)),
        };
        let sentences = key.help.split("\n\n").map(|paragraph| {
            let words: Vec<_> = paragraph.split_whitespace().collect();
            words.join(" ").trim_end_matches('.').to_owned()
        });
        let mut about = sentences.collect::<Vec<_>>().join(". ") + ".";
        if !key.choices.is_empty() {
            let _ = write!(about, " One of: {}.", key.choices.join(", "));
        }
        if T::RELOADED.contains(&&*key.id) {
            about.push_str(" **Reloaded**.");
        }
        // A bar ends a cell, and asterisks would be taken for emphasis.
        let about = about.replace('|', "\\|");
        let _ = writeln!(
            text,
            "| `{}` | `--{}`<br>`{}` | {default} | {about} |",
            key.path, key.flag, key.variable
        );
    }
    text
}

/// A value as TOML has it. Passwords are hidden.
fn value(key: &Key, values: &[String]) -> String {
    let shown = values.iter().map(|value| {
        let value = if key.is_secret {
            redact(value)
        } else {
            value.clone()
        };
        let is_bare = value == "true"
            || value == "false"
            || value.parse::<i64>().is_ok()
            || value.parse::<f64>().is_ok();
        match is_bare {
            true => value,
            false => toml::Value::String(value).to_string(),
        }
    });
    let shown: Vec<_> = shown.collect();
    match (key.is_list, &shown[..]) {
        (false, [one]) => one.clone(),
        (_, all) => format!("[{}]", all.join(", ")),
    }
}

/// Writes lines of a comment.
fn comment(text: &mut String, what: &str) {
    for paragraph in what.split("\n\n") {
        let mut width = 0;
        for word in paragraph.split_whitespace() {
            if width == 0 || width + 1 + word.len() > WIDTH {
                let begin = if width == 0 { "# " } else { "\n# " };
                text.push_str(begin);
                width = 1;
            } else {
                text.push(' ');
            }
            text.push_str(word);
            width += 1 + word.len();
        }
        text.push('\n');
    }
}
