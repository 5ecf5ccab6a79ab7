//! Patterns of routes, and which of them matches a route.

use crate::grpc::{AddressError, uri};
use channel_store::{CONNECTOR_ROUTES, NameError, ON_MESSAGE, Route, STORE_ROUTES};
use http::Uri;
use runtime::tls::TlsError;
use std::collections::HashMap;

/// The most patterns of a connector.
const MOST: usize = 64;
/// The connector answers all routes that begin so, those of later versions included.
const OWN_HANDLERS: [&str; 2] = ["chat.handler.", "connector.handler."];

/// A value of `--route` that can't be used. No message shows a user or a password.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// There is no `=`, or nothing before it.
    #[error("{0:?} is not a pattern and an address, such as game.*=http://127.0.0.1:5001")]
    NoPair(String),
    /// The pattern is no route, or no beginning of one.
    #[error("the pattern {pattern:?} {error}")]
    NoRoute {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        #[source]
        error: NameError,
    },
    /// There is a `*` that is not the last character.
    #[error(
        "the pattern {0:?} has a * before its end; only the last character may be one, as in game.*"
    )]
    Star(String),
    /// The server uses a route that the pattern matches.
    #[error(
        "the pattern {pattern:?} could match {own}, which the server itself uses; choose routes of your own, such as game.*"
    )]
    Own {
        /// The pattern.
        pattern: String,
        /// What it could match.
        own: String,
    },
    /// Two handlers would be responsible for the same routes.
    #[error("the pattern {0:?} is given twice; which handler should answer?")]
    Twice(String),
    /// A file with certificates can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The bound on patterns is reached.
    #[error(
        "there are {0} patterns, and {MOST} are allowed; use longer prefixes with * for several routes"
    )]
    TooMany(usize),
    /// The address can't be used.
    #[error("the address for {pattern:?}: {error}")]
    Address {
        /// The pattern.
        pattern: String,
        /// What is wrong with the address.
        #[source]
        error: AddressError,
    },
}

/// What routes a handler answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// This one.
    Exact(Box<str>),
    /// All that begin so.
    Prefix(Box<str>),
}

/// A pattern, and the address of the handler.
#[derive(Debug)]
pub(super) struct Setting {
    pattern: Pattern,
    pub(super) uri: Uri,
}

/// Reads all values of `--route`.
///
/// # Errors
/// [`RouteError`] names the first value that can't be used.
pub(super) fn parse(values: &[String]) -> Result<Vec<Setting>, RouteError> {
    if values.len() > MOST {
        return Err(RouteError::TooMany(values.len()));
    }
    let mut settings: Vec<Setting> = Vec::new();
    for value in values {
        let setting = Setting::parse(value)?;
        if settings.iter().any(|it| it.pattern == setting.pattern) {
            return Err(RouteError::Twice(setting.pattern.text()));
        }
        settings.push(setting);
    }
    Ok(settings)
}

impl Setting {
    fn parse(value: &str) -> Result<Self, RouteError> {
        let no_pair = || RouteError::NoPair(runtime::cli::redact(value));
        let (text, address) = value.split_once('=').ok_or_else(no_pair)?;
        if text.is_empty() || text.contains("://") {
            return Err(no_pair());
        }
        let pattern = Pattern::parse(text)?;
        let uri = uri(address).map_err(|error| RouteError::Address {
            pattern: text.to_owned(),
            error,
        })?;
        Ok(Self { pattern, uri })
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, RouteError> {
        let prefix = text.strip_suffix('*');
        let fixed = prefix.unwrap_or(text);
        if fixed.contains('*') {
            return Err(RouteError::Star(text.to_owned()));
        }
        let pattern = match prefix {
            Some(prefix) => Self::Prefix(prefix.into()),
            None => Self::Exact(text.into()),
        };
        if let Some(own) = pattern.own() {
            let pattern = text.to_owned();
            return Err(RouteError::Own { pattern, own });
        }
        // The prefix of "*" is empty, but matches the server's own routes, so it does not come this far.
        Route::new(fixed).map_err(|error| RouteError::NoRoute {
            pattern: text.to_owned(),
            error,
        })?;
        Ok(pattern)
    }

    /// The server's own routes that it could match.
    fn own(&self) -> Option<String> {
        let handlers = OWN_HANDLERS.iter().find(|own| match self {
            Self::Exact(route) => route.starts_with(**own),
            Self::Prefix(prefix) => prefix.starts_with(**own) || own.starts_with(&**prefix),
        });
        // A request under the route of a push would be taken for a push.
        let pushes = [&CONNECTOR_ROUTES[..], &STORE_ROUTES, &[ON_MESSAGE]];
        let pushes = pushes.concat().into_iter().find(|own| match self {
            Self::Exact(route) => **route == **own,
            Self::Prefix(prefix) => own.starts_with(&**prefix),
        });
        let handlers = handlers.map(|own| format!("{own}*"));
        handlers.or_else(|| pushes.map(str::to_owned))
    }

    /// As the operator writes it.
    fn text(&self) -> String {
        match self {
            Self::Exact(route) => route.to_string(),
            Self::Prefix(prefix) => format!("{prefix}*"),
        }
    }
}

/// Finds what a route leads to.
pub(super) struct Table<T> {
    exact: HashMap<Box<str>, T>,
    /// The longest first.
    prefixes: Vec<(Box<str>, T)>,
}

impl<T> Table<T> {
    /// What each pattern leads to.
    pub(super) fn new(entries: impl IntoIterator<Item = (Setting, T)>) -> Self {
        let mut exact = HashMap::new();
        let mut prefixes = Vec::new();
        for (Setting { pattern, .. }, to) in entries {
            match pattern {
                Pattern::Exact(route) => drop(exact.insert(route, to)),
                Pattern::Prefix(prefix) => prefixes.push((prefix, to)),
            }
        }
        prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self { exact, prefixes }
    }

    /// What the longest pattern leads to that matches this route.
    pub(super) fn find(&self, route: &str) -> Option<&T> {
        let by_prefix = || {
            let mut prefixes = self.prefixes.iter();
            let found = prefixes.find(|(prefix, _)| route.starts_with(&**prefix));
            found.map(|(_, to)| to)
        };
        self.exact.get(route).or_else(by_prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(values: &[&str]) -> Result<Vec<Setting>, String> {
        let values: Vec<_> = values.iter().map(|&value| value.to_owned()).collect();
        parse(&values).map_err(|error| error.to_string())
    }

    fn refused(values: &[&str]) -> String {
        parsed(values).expect_err("it is refused")
    }

    /// A table in which each of these patterns leads to its own text.
    fn table(patterns: &[&'static str]) -> Table<&'static str> {
        let values = patterns.iter().map(|it| format!("{it}=http://games:5001"));
        let settings = parse(&values.collect::<Vec<_>>()).unwrap();
        Table::new(settings.into_iter().zip(patterns.iter().copied()))
    }

    #[test]
    fn the_longest_pattern_wins_in_whatever_order_they_are_given() {
        let patterns = ["game.*", "game.handler.move", "game.handler.*", "shop"];
        let mut backwards = patterns;
        backwards.reverse();
        for table in [table(&patterns), table(&backwards)] {
            for (route, found) in [
                ("game.handler.move", Some("game.handler.move")),
                ("game.handler.moves", Some("game.handler.*")),
                ("game.handler.", Some("game.handler.*")),
                ("game.other", Some("game.*")),
                ("game.", Some("game.*")),
                ("game", None),
                ("shop", Some("shop")),
                ("shop.buy", None),
                ("xgame.other", None),
                ("", None),
            ] {
                assert_eq!(table.find(route).copied(), found, "{route}");
            }
        }
    }

    #[test]
    fn a_pattern_that_could_match_what_the_server_uses_is_refused() {
        for (pattern, own) in [
            ("connector.handler.login", "connector.handler.*"),
            ("connector.handler.ping", "connector.handler.*"),
            ("connector.handler.later", "connector.handler.*"),
            ("chat.handler.send", "chat.handler.*"),
            ("chat.handler.*", "chat.handler.*"),
            ("chat.handler.se*", "chat.handler.*"),
            ("chat.*", "chat.handler.*"),
            ("c*", "chat.handler.*"),
            ("*", "chat.handler.*"),
            ("onJoin", "onJoin"),
            ("onKick*", "onKick"),
            ("on*", "onAdded"),
        ] {
            let text = refused(&[&format!("{pattern}=http://games:5001")]);
            let expected = format!("the pattern {pattern:?} could match {own}, ");
            assert!(text.starts_with(&expected), "{text}");
        }
        for pattern in [
            "chat.room.*",
            "chat.handlers.*",
            "connector.other",
            "onGift",
            "onJoin.x",
        ] {
            let value = format!("{pattern}=http://games:5001");
            assert!(parsed(&[&value]).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn a_value_that_can_not_be_used_is_refused_with_what_to_do() {
        let long = format!("{}=http://games:5001", "x".repeat(129));
        for (value, says) in [
            ("", "not a pattern and an address, such as game.*=http://"),
            ("game.*", "not a pattern and an address"),
            ("=http://games:5001", "not a pattern and an address"),
            (
                "http://u:secret@games:5001?a=b",
                "not a pattern and an address",
            ),
            ("a*b=http://games:5001", "only the last character"),
            ("game.**=http://games:5001", "only the last character"),
            ("game\u{200b}.*=http://games:5001", "invisible characters"),
            (&long, "at most 128 bytes"),
            ("game.*=", "is not an address"),
            ("game.*=games:5001", "is not an address"),
            ("game.*=https://games:5001/path", "is not an address"),
            (
                "game.*=http://u:secret@games:5001",
                "no user and no password",
            ),
        ] {
            let text = refused(&[value]);
            assert!(text.contains(says), "{value}: {text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn a_pattern_that_is_given_twice_is_refused() {
        let text = refused(&[
            "game.*=http://a:1",
            "shop.*=http://a:1",
            "game.*=http://b:1",
        ]);
        assert!(text.contains("\"game.*\" is given twice"), "{text}");
        // These two differ: the longer one wins.
        assert!(parsed(&["game.=http://a:1", "game.*=http://a:1"]).is_ok());
    }

    #[test]
    fn there_may_be_sixty_four_patterns() {
        let values: Vec<_> = (0..65)
            .map(|it| format!("game{it}.*=http://games:5001"))
            .collect();
        assert_eq!(parse(&values[..64]).unwrap().len(), 64);
        let error = parse(&values).unwrap_err();
        assert!(matches!(error, RouteError::TooMany(65)), "{error}");
    }
}
