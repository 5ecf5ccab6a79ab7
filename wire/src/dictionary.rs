//! Pomelo's route dictionary: numbers in place of routes that both sides know.
//!
//! The first codes are those of the original's handlers, ordered by name. So its clients are told what the original
//! told them (hybriddict-01). An operator's own routes follow. A client that still has this version of the dictionary
//! is not sent it again (hybriddict-12).

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
    /// The routes by their codes. The first one has code 1.
    routes: Vec<Box<str>>,
    version: String,
    /// What the answer to a handshake says about the dictionary.
    described: String,
}

/// Why a file cannot be used as a dictionary.
#[derive(Debug, thiserror::Error)]
pub enum DictionaryError {
    /// The file cannot be read.
    #[error("can't read {0}: {1}")]
    Read(PathBuf, #[source] std::io::Error),
    /// The file is not a JSON array of strings.
    #[error("{0} is not a JSON array of routes: {1}")]
    Json(PathBuf, #[source] serde_json::Error),
    /// An entry cannot be a route, or is there twice.
    #[error("{0:?} is not a route, or is there twice")]
    Route(String),
    /// There are more routes than codes.
    #[error("more than {LIMIT} routes")]
    TooMany,
}

impl Dictionary {
    /// Makes a dictionary of the original's handlers and of the routes in an operator's file. Like the original's
    /// `config/dictionary.json`, the file holds a JSON array of strings.
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

    /// Makes a dictionary of the original's handlers and of these routes.
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
        // Made as in the original. So a client may keep its dictionary when it moves between the original and this
        // server.
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

    /// What a client is told in the `sys` of a handshake's answer. `known` is the version of the dictionary that the
    /// client has, if it has one.
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
    fn the_operators_routes_come_after_the_originals() {
        let dictionary = Dictionary::new(vec!["onMessage".to_owned()]).unwrap();
        assert_eq!(dictionary.code("chat.handler.send"), Some(1));
        assert_eq!(dictionary.code("connector.handler.login"), Some(2));
        assert_eq!(dictionary.code("onMessage"), Some(3));
        assert_eq!(dictionary.route(3), Some("onMessage"));
        assert_eq!(dictionary.route(0), None);
        assert_eq!(dictionary.route(4), None);
    }

    #[test]
    fn a_client_that_knows_the_version_gets_no_dictionary() {
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
    fn an_invalid_or_repeated_route_is_refused() {
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
