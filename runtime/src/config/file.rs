//! The configuration file.

use super::SettingsError;
use super::key::Key;
use super::text::Shown;
use crate::files;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The most bytes of a file.
pub(super) const LARGEST: u64 = 1 << 20;
/// A name that is so much like a known one is taken for a slip. 1.0: the same.
const LIKENESS: f64 = 0.8;

/// What a file says about one setting.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) key: &'a Key,
    /// As they would be written on the command line.
    pub(super) values: Vec<String>,
    pub(super) line: usize,
}

/// A file and its text.
#[derive(Debug)]
pub(super) struct ConfigFile {
    /// As the operator gave it.
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl ConfigFile {
    pub(super) fn read(path: PathBuf) -> Result<Self, SettingsError> {
        match files::read(&path, LARGEST) {
            Ok(content) => Self::of(path, content),
            Err(error) => {
                let name = path.display();
                Err(SettingsError::file(&format!(
                    "{name}: can't be read: {error}"
                )))
            }
        }
    }

    /// A file that was read already.
    pub(super) fn of(path: PathBuf, content: Vec<u8>) -> Result<Self, SettingsError> {
        String::from_utf8(content)
            .map_err(|_| SettingsError::file(&format!("{}: it is not UTF-8", path.display())))
            .map(|text| Self { path, text })
    }

    /// The name of the file in front of a message about it.
    pub(super) fn error(&self, message: &str) -> SettingsError {
        SettingsError::file(&format!("{}: {message}", self.path.display()))
    }

    /// The line of the file in front of a message about it.
    pub(super) fn at(&self, line: usize, message: &str) -> SettingsError {
        SettingsError::file(&format!("{}, line {line}: {message}", self.path.display()))
    }

    fn line(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or(&self.text);
        before.bytes().filter(|it| *it == b'\n').count() + 1
    }

    /// What the file says of `keys`. The tables with these names are left to [`tables`](Self::tables).
    pub(super) fn entries<'a>(
        &self,
        keys: &'a [Key],
        tables: &[&str],
    ) -> Result<Vec<Entry<'a>>, SettingsError> {
        let root = DeTable::parse(&self.text).map_err(|error| self.not_toml(&error))?;
        let mut entries = Vec::new();
        self.walk(root.get_ref(), "", keys, tables, &mut entries)?;
        Ok(entries)
    }

    fn walk<'a>(
        &self,
        table: &DeTable<'_>,
        prefix: &str,
        keys: &'a [Key],
        tables: &[&str],
        entries: &mut Vec<Entry<'a>>,
    ) -> Result<(), SettingsError> {
        for (name, value) in table {
            let path = match prefix {
                "" => name.get_ref().to_string(),
                _ => format!("{prefix}.{}", name.get_ref()),
            };
            let line = self.line(name.span().start);
            if tables.contains(&&*path) {
                let DeValue::Array(_) = value.get_ref() else {
                    return Err(self.at(line, &one_of_many(&path)));
                };
                continue;
            }
            if let Some(key) = keys.iter().find(|key| key.path == path) {
                let values = values(key, value);
                let values = values.map_err(|it| self.at(line, &format!("{path}: {it}")))?;
                entries.push(Entry { key, values, line });
                continue;
            }
            let below = format!("{path}.");
            let is_table = keys.iter().any(|it| it.path.starts_with(&below))
                || tables.iter().any(|it| it.starts_with(&below));
            match value.get_ref() {
                DeValue::Table(table) if is_table => {
                    self.walk(table, &path, keys, tables, entries)?;
                }
                _ if is_table => return Err(self.at(line, &format!("{path}: expected a table"))),
                _ => return Err(self.at(line, &unknown(&path, keys, tables))),
            }
        }
        Ok(())
    }

    /// The tables that no flag can express.
    pub(super) fn tables<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        toml::from_str(&self.text).map_err(|error| self.not_toml(&error))
    }

    /// The same as text, for people.
    pub(super) fn table_texts(
        &self,
        tables: &[&str],
    ) -> Result<Vec<(String, Shown)>, SettingsError> {
        let root: toml::Table = self.tables()?;
        let found = tables.iter().filter_map(|path| {
            let mut value = toml::Value::Table(root.clone());
            for name in path.split('.') {
                value = value.get(name)?.clone();
            }
            let mut whole = value;
            for name in path.rsplit('.') {
                whole = toml::Table::from_iter([(name.to_owned(), whole)]).into();
            }
            let shown = Shown {
                values: Vec::from([toml::to_string(&whole).ok()?]),
                from: "the file".to_owned(),
            };
            Some(((*path).to_owned(), shown))
        });
        Ok(found.collect())
    }

    fn not_toml(&self, error: &toml::de::Error) -> SettingsError {
        let line = error.span().map_or(1, |span| self.line(span.start));
        self.at(line, &plain(&error.message().replace('\n', ", ")))
    }
}

/// What is wrong if a table of a list is written like a single one.
fn one_of_many(path: &str) -> String {
    format!("write [[{path}]], with two brackets on both sides, because there may be several")
}

/// What serde says, without the words of Rust: `invalid type: string "5", expected i64`.
fn plain(message: &str) -> String {
    let message = message
        .replace("missing field ", "a key is missing: ")
        .replace("unknown field ", "unknown key ")
        .replace("unknown variant ", "unknown value ");
    let beginnings = ["invalid type: ", "invalid value: "];
    let is_type = beginnings.iter().find_map(|it| message.strip_prefix(it));
    let Some((found, expected)) = is_type.and_then(|it| it.rsplit_once(", expected ")) else {
        return message;
    };
    let kinds = [
        ("string ", ""),
        ("integer ", ""),
        ("floating point ", ""),
        ("boolean ", ""),
        ("map", "a table"),
        ("sequence", "a list"),
    ];
    let found = kinds.iter().find_map(|(kind, word)| {
        let rest = found.strip_prefix(kind)?;
        Some(format!("{word}{rest}"))
    });
    let expected = match expected {
        "a string" | "string or map" => "text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a table",
        it if it.starts_with("struct ") => "a table",
        "i64" | "i32" | "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        "f32" | "f64" => "a number",
        other => other,
    };
    match found {
        Some(found) => format!("{found} can't be used: expected {expected}"),
        None => format!("expected {expected}"),
    }
}

fn values(key: &Key, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, String> {
    match value.get_ref() {
        DeValue::Array(array) if key.is_list => {
            let all = array.iter().map(|it| scalar(key, it.get_ref()));
            all.collect()
        }
        DeValue::Array(_) => Err("expected one value, not a list".to_owned()),
        one => scalar(key, one).map(|it| Vec::from([it])),
    }
}

fn scalar(key: &Key, value: &DeValue<'_>) -> Result<String, String> {
    match (key.is_switch, value) {
        (_, DeValue::Boolean(on)) if key.is_switch => Ok(on.to_string()),
        (true, _) => Err("expected true or false".to_owned()),
        (false, DeValue::String(text)) => Ok(text.to_string()),
        (false, DeValue::Integer(number)) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        (false, DeValue::Float(number)) => Ok(number.as_str().to_owned()),
        (false, other) => {
            let kind = other.type_str();
            Err(format!(
                "expected text or a number, not a value of type {kind}"
            ))
        }
    }
}

fn unknown(path: &str, keys: &[Key], tables: &[&str]) -> String {
    let known = keys
        .iter()
        .map(|key| &*key.path)
        .chain(tables.iter().copied());
    let likeness = |known: &str| strsim::jaro_winkler(path, known);
    let nearest = known.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest.filter(|it| likeness(it) >= LIKENESS) {
        Some(nearest) => format!("{path} is no setting: did you mean {nearest}?"),
        None => format!("{path} is no setting: `config default` prints all of them"),
    }
}
