//! The file `config/redis.json` of a project on Pomelo, as it is.
//!
//! ```json
//! {
//!   "development": { "host": "127.0.0.1", "port": 6379 },
//!   "production": { "host": "10.0.0.5", "port": 6379, "password": "…", "db": "5" }
//! }
//! ```
//!
//! Like Pomelo, this takes a file without such parts as a whole.

use crate::files;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::Path;

/// The most bytes of a file.
pub const LARGEST: u64 = 1 << 20;

/// Where Redis is, and how to log in there.
const KNOWN: [&str; 5] = ["host", "port", "password", "auth_pass", "db"];
/// Options of pomelo-globalchannel-plugin that stand beside them, and what is in their place here.
const IGNORED: [(&str, &str); 2] = [
    ("prefix", "the keys of this system begin with --prefix"),
    ("cleanOnStartUp", "no start removes members"),
];

/// What the file says.
#[derive(Clone, PartialEq, Eq)]
pub struct PomeloRedis {
    host: String,
    port: u16,
    password: Option<String>,
    database: u32,
    /// The keys that have no effect here: one line each, with the file and the place.
    pub ignored: Vec<String>,
}

impl PomeloRedis {
    /// Reads the part of the file for this environment, such as `production`.
    ///
    /// # Errors
    /// One line that names the file and the place in it. No value is shown, because it may be the password.
    pub fn read(file: &Path, env: Option<&str>) -> Result<Self, String> {
        let name = file.display();
        let root = json(file)?;
        Self::of(&root, env, &format!("{name}: ")).map_err(|error| format!("{name}: {error}"))
    }

    fn of(root: &Value, env: Option<&str>, file: &str) -> Result<Self, String> {
        let (part, path) = part(root, env, &KNOWN)?;
        let is_known = |key: &&String| {
            KNOWN.contains(&key.as_str()) || IGNORED.iter().any(|(it, _)| it == key)
        };
        if let Some(key) = part.keys().find(|key| !is_known(key)) {
            let known = KNOWN.join(", ");
            return Err(format!("{path}{key} means nothing here: known are {known}"));
        }
        let ignored = IGNORED.iter().filter(|(key, _)| part.contains_key(*key));
        let passwords = ["password", "auth_pass"].map(|key| (key, part.get(key)));
        let password = match passwords {
            [(_, Some(_)), (_, Some(_))] => {
                return Err(format!(
                    "{path}password and {path}auth_pass are the same: keep one of them"
                ));
            }
            [(key, Some(value)), _] | [_, (key, Some(value))] => match value {
                Value::Null => None,
                Value::String(text) if text.is_empty() => None,
                Value::String(text) => Some(text.clone()),
                _ => {
                    return Err(format!("{path}{key}: expected text, in quotation marks"));
                }
            },
            _ => None,
        };
        let host = match part.get("host") {
            None => "127.0.0.1",
            Some(Value::String(host)) if is_host(host) => host,
            Some(_) => {
                return Err(format!(
                    "{path}host: expected the name or address of a host"
                ));
            }
        };
        let port = number(part.get("port"), 6379)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port > 0);
        Ok(Self {
            host: host.to_owned(),
            port: port.ok_or_else(|| format!("{path}port: expected a number from 1 to 65535"))?,
            password,
            database: number(part.get("db"), 0)
                .ok_or_else(|| format!("{path}db: expected the number of a database"))?,
            ignored: ignored
                .map(|(key, instead)| format!("{file}{path}{key} has no effect: {instead}"))
                .collect(),
        })
    }

    /// The same as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        let login = match &self.password {
            Some(password) => format!(":{}@", encoded(password)),
            None => String::new(),
        };
        let Self {
            host,
            port,
            database,
            ..
        } = self;
        let host = match host.contains(':') {
            true => format!("[{host}]"),
            false => host.clone(),
        };
        format!("redis://{login}{host}:{port}/{database}")
    }

    /// True if there is a password.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }
}

/// Reads a file of Pomelo, which holds JSON.
///
/// # Errors
/// One line that names the file and the line in it.
pub fn json(file: &Path) -> Result<Value, String> {
    let name = file.display();
    let content =
        files::read(file, LARGEST).map_err(|error| format!("{name} can't be read: {error}"))?;
    // Node takes a byte order mark, too.
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&content);
    serde_json::from_slice(content).map_err(|error| format!("{name}: it is not JSON: {error}"))
}

/// The part of a file of Pomelo for an environment, and its path with a dot behind it. A file that has no such part is taken as a whole
/// if it has one of these keys.
///
/// # Errors
/// What is missing, and what there is instead.
pub fn part<'a>(
    root: &'a Value,
    env: Option<&str>,
    keys: &[&str],
) -> Result<(&'a Map<String, Value>, String), String> {
    let Value::Object(root) = root else {
        return Err("expected an object, in braces".to_owned());
    };
    let of_env = env.and_then(|env| Some((root.get(env)?, env)));
    if let Some((part, env)) = of_env {
        let Value::Object(part) = part else {
            return Err(format!("{env}: expected an object, in braces"));
        };
        return Ok((part, format!("{env}.")));
    }
    if root.keys().any(|key| keys.contains(&key.as_str())) {
        return Ok((root, String::new()));
    }
    let parts: Vec<_> = root.keys().map(String::as_str).collect();
    let there = match parts.is_empty() {
        true => "nothing".to_owned(),
        false => parts.join(", "),
    };
    Err(match env {
        Some(env) => format!("it has no {env}. It has {there}"),
        None => format!("say with --env which part of it counts. It has {there}"),
    })
}

/// A number, which may be written as text.
fn number(value: Option<&Value>, default: u32) -> Option<u32> {
    match value {
        None | Some(Value::Null) => Some(default),
        Some(Value::Number(number)) => u32::try_from(number.as_u64()?).ok(),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    }
}

fn is_host(host: &str) -> bool {
    let allowed = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '-' | '_' | ':');
    !host.is_empty() && host.chars().all(allowed)
}

/// A password as it may stand in a URL.
fn encoded(password: &str) -> String {
    let mut text = String::new();
    for byte in password.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(byte.into());
            }
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(root: &Value, env: Option<&str>) -> Result<String, String> {
        PomeloRedis::of(root, env, "").map(|redis| redis.url())
    }

    #[test]
    fn the_part_of_the_environment_counts() {
        let root = json!({
            "development": { "host": "127.0.0.1", "port": 6379 },
            "production": { "host": "10.0.0.5", "port": "6380", "password": "a/b:c@d%é", "db": "5" },
        });
        let url = |env| read(&root, Some(env)).unwrap();
        assert_eq!(url("development"), "redis://127.0.0.1:6379/0");
        assert_eq!(
            url("production"),
            "redis://:a%2Fb%3Ac%40d%25%C3%A9@10.0.0.5:6380/5"
        );
        let error = read(&root, Some("staging")).unwrap_err();
        assert_eq!(error, "it has no staging. It has development, production");
        let error = read(&root, None).unwrap_err();
        assert!(error.starts_with("say with --env"), "{error}");
    }

    #[test]
    fn a_file_without_parts_counts_as_a_whole() {
        let root = json!({ "host": "::1", "db": 2, "auth_pass": "x", "password_": 1 });
        let error = read(&root, None).unwrap_err();
        assert!(error.starts_with("password_ means nothing"), "{error}");
        let root = json!({ "host": "::1", "db": 2, "auth_pass": "x" });
        for env in [None, Some("production")] {
            assert_eq!(read(&root, env).unwrap(), "redis://:x@[::1]:6379/2");
        }
        let without = json!({ "port": 1, "password": "", "db": null });
        assert_eq!(read(&without, None).unwrap(), "redis://127.0.0.1:1/0");
    }

    #[test]
    fn a_mistake_is_told_with_its_place_and_without_the_password() {
        for (part, place) in [
            (json!({ "pasword": "s3cret" }), "production.pasword"),
            (json!({ "password": ["s3cret"] }), "production.password"),
            (
                json!({ "password": "s3cret", "auth_pass": "s3cret" }),
                "production.password",
            ),
            (
                json!({ "password": "s3cret", "port": 70_000 }),
                "production.port",
            ),
            (
                json!({ "password": "s3cret", "port": "s3cret" }),
                "production.port",
            ),
            (json!({ "password": "s3cret", "db": -1 }), "production.db"),
            (json!({ "host": "s3cret@host" }), "production.host"),
            (json!("s3cret"), "production"),
        ] {
            let error = read(&json!({ "production": part }), Some("production")).unwrap_err();
            assert!(error.starts_with(place), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_no_json_is_named_with_the_line_and_without_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("redis.json");
        std::fs::write(&file, "{\n  \"password\": \"s3cret\" \"port\": 1\n}").unwrap();
        let error = PomeloRedis::read(&file, None).err().unwrap();
        assert!(error.starts_with(&file.display().to_string()), "{error}");
        assert!(error.contains("line 2"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
        let missing = PomeloRedis::read(&folder.path().join("none.json"), None);
        assert!(missing.err().unwrap().contains("can't be read"));
        std::fs::write(&file, "\u{feff}{\"host\":\"a\"}").unwrap();
        let read = PomeloRedis::read(&file, None).ok().unwrap();
        assert_eq!(read.url(), "redis://a:6379/0");
    }
}
