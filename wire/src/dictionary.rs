//! Pomelo's route dictionary: a number in place of a route that both sides know.
//!
//! The first codes are those of the original's handlers, in the order of their names, so that its clients are told what it
//! told them (hybriddict-01); an operator's own routes follow. A client that comes back with the version that it has kept is not
//! told again (hybriddict-12).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use channel_store::Route;
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The original's handlers.
const HANDLERS: [&str; 2] = ["chat.handler.send", "connector.handler.login"];
/// Codes have two bytes.
const LIMIT: usize = u16::MAX as usize;

/// Routes and their codes, the same for all clients of a connector.
#[derive(Debug)]
pub struct Dictionary {
    codes: HashMap<Box<str>, u16>,
    /// Of code 1 and up.
    routes: Vec<Box<str>>,
    version: String,
    /// What a handshake's answer tells of it.
    described: String,
}

/// A file that is no dictionary.
#[derive(Debug, thiserror::Error)]
pub enum DictionaryError {
    /// It can't be read.
    #[error("can't read {0}: {1}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It is no JSON array of strings.
    #[error("{0} is no JSON array of routes: {1}")]
    Json(PathBuf, #[source] serde_json::Error),
    /// One of them can't be a route.
    #[error("{0:?} is no route, or stands there twice")]
    Route(String),
    /// More than there are codes.
    #[error("more than {LIMIT} routes")]
    TooMany,
}

impl Dictionary {
    /// The original's handlers, then the routes in an operator's file, a JSON array of strings as in the original's
    /// `config/dictionary.json`.
    ///
    /// # Errors
    /// [`DictionaryError`].
    pub fn load(file: Option<&Path>) -> Result<Self, DictionaryError> {
        let own = match file {
            None => Vec::new(),
            Some(path) => {
                let text = fs::read_to_string(path)
                    .map_err(|error| DictionaryError::Read(path.to_owned(), error))?;
                serde_json::from_str(&text)
                    .map_err(|error| DictionaryError::Json(path.to_owned(), error))?
            }
        };
        Self::new(own)
    }

    /// The original's handlers, then these.
    ///
    /// # Errors
    /// [`DictionaryError::Route`], [`DictionaryError::TooMany`].
    pub fn new(own: Vec<String>) -> Result<Self, DictionaryError> {
        let mut codes = HashMap::new();
        let mut routes: Vec<Box<str>> = Vec::new();
        for route in HANDLERS.map(str::to_owned).into_iter().chain(own) {
            let code = u16::try_from(routes.len() + 1).map_err(|_| DictionaryError::TooMany)?;
            if Route::new(&*route).is_err() || codes.insert(route.as_str().into(), code).is_some() {
                return Err(DictionaryError::Route(route));
            }
            routes.push(route.into());
        }
        let numbered = || {
            routes
                .iter()
                .map(|route| Value::from(&**route))
                .zip(1_u16..)
        };
        let codes_of = object(numbered().map(|(route, code)| format!("{route}:{code}")));
        let routes_of = object(numbered().map(|(route, code)| format!("\"{code}\":{route}")));
        // As the original made it, so that a client knows its version again whichever of the two it meets.
        let version = STANDARD.encode(md5::compute(&codes_of).0);
        let described = format!(
            r#""dict":{codes_of},"routeToCode":{codes_of},"codeToRoute":{routes_of},"dictVersion":"{version}","#
        );
        Ok(Self {
            codes,
            routes,
            version,
            described,
        })
    }

    /// The route of a code that a client used.
    #[must_use]
    pub(crate) fn route(&self, code: u16) -> Option<&str> {
        let index = usize::from(code).checked_sub(1)?;
        self.routes.get(index).map(|route| &**route)
    }

    /// The code of a route, if it has one.
    #[must_use]
    pub(crate) fn code(&self, route: &str) -> Option<u16> {
        self.codes.get(route).copied()
    }

    /// What a client is told in the `sys` of a handshake's answer, that knows this version, or none.
    #[must_use]
    pub(crate) fn describe(&self, known: Option<&str>) -> String {
        let news = if known == Some(&*self.version) {
            ""
        } else {
            &self.described
        };
        format!("{news}\"useDict\":true")
    }
}

/// Two dictionaries are the same if they give the same codes.
impl PartialEq for Dictionary {
    fn eq(&self, other: &Self) -> bool {
        self.routes == other.routes
    }
}

impl Eq for Dictionary {}

fn object(members: impl Iterator<Item = String>) -> String {
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_routes_follow_the_originals() {
        let dictionary = Dictionary::new(vec!["onMessage".to_owned()]).unwrap();
        assert_eq!(dictionary.code("chat.handler.send"), Some(1));
        assert_eq!(dictionary.code("connector.handler.login"), Some(2));
        assert_eq!(dictionary.code("onMessage"), Some(3));
        assert_eq!(dictionary.route(3), Some("onMessage"));
        assert_eq!(dictionary.route(0), None);
        assert_eq!(dictionary.route(4), None);
    }

    #[test]
    fn who_knows_the_version_is_told_no_more_than_that_there_is_one() {
        let dictionary = Dictionary::new(Vec::new()).unwrap();
        let version = "/uVrhf6Y8uL+8gH0WKKH/w==";
        assert_eq!(dictionary.describe(Some(version)), r#""useDict":true"#);
        for known in [None, Some("zzz")] {
            assert_eq!(
                dictionary.describe(known),
                format!(
                    r#""dict":{{"chat.handler.send":1,"connector.handler.login":2}},"routeToCode":{{"chat.handler.send":1,"connector.handler.login":2}},"codeToRoute":{{"1":"chat.handler.send","2":"connector.handler.login"}},"dictVersion":"{version}","useDict":true"#
                )
            );
        }
    }

    #[test]
    fn what_is_no_route_or_stands_there_twice_is_refused() {
        for own in ["", "chat.handler.send", "a\u{0}b"] {
            let refused = Dictionary::new(vec![own.to_owned()]);
            assert!(matches!(refused, Err(DictionaryError::Route(route)) if route == own));
        }
        let many = (0..LIMIT).map(|number| format!("route{number}")).collect();
        assert!(matches!(
            Dictionary::new(many),
            Err(DictionaryError::TooMany)
        ));
    }
}
