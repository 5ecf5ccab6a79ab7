//! The file of tokens, and tokens as they are written.
//!
//! The file has a line for each token: its name, its SHA-256 in hexadecimal digits, its scopes, and perhaps patterns of
//! channels. In place of the SHA-256 there may be a name in the certificates of callers. A token itself is never in it. No error
//! repeats what the file says, because somebody may have put a token there by mistake.

use super::scope::Scope;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use channel_store::matches_pattern;
use ring::digest::{SHA256, digest};
use std::collections::BTreeSet;
use std::fmt;

/// What every token begins with, so that people and scanners of secrets can tell what it is.
const BEGINNING: &str = "gct_";
/// The random bytes of a token.
const RANDOM: usize = 32;
/// The same in base64.
const WRITTEN: usize = 43;
/// The most bytes of a name.
const NAME: usize = 64;
/// What stands before a name in certificates.
const SUBJECT: &str = "subject=";
/// The most bytes of a name in certificates.
const SUBJECT_BYTES: usize = 256;

/// The SHA-256 of a token.
///
/// A token is 256 random bits. So a plain SHA-256 hides it as well as a slow hash of passwords would: nobody can try all tokens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Hash([u8; 32]);

impl Hash {
    /// The hash of a token. `None` if this is no text that [`new_token`] could have made: then it cannot be in any file.
    pub(super) fn of(token: &str) -> Option<Self> {
        let random = token.strip_prefix(BEGINNING)?;
        let is_base64 = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_');
        if random.len() != WRITTEN || !random.bytes().all(is_base64) {
            return None;
        }
        let hash = digest(&SHA256, token.as_bytes());
        hash.as_ref().try_into().ok().map(Self)
    }

    fn parse(hex: &str) -> Option<Self> {
        let mut hash = [0; 32];
        if hex.len() != 2 * hash.len() || !hex.is_ascii() {
            return None;
        }
        for (byte, digits) in hash.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).ok()?;
            if digits.starts_with('+') {
                return None;
            }
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self(hash))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A token that nobody has had before.
pub(super) fn new_token(random: [u8; RANDOM]) -> String {
    format!("{BEGINNING}{}", BASE64_URL_SAFE_NO_PAD.encode(random))
}

/// What a caller shows, so that a line counts for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Credential {
    /// A token with this hash.
    Token(Hash),
    /// A certificate with this name.
    Subject(String),
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(hash) => hash.fmt(f),
            Self::Subject(name) => write!(f, "{SUBJECT}\"{name}\""),
        }
    }
}

/// What a caller may do, as its line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) credential: Credential,
    pub(super) scopes: BTreeSet<Scope>,
    /// Empty: all channels.
    pub(super) patterns: Vec<String>,
}

impl Line {
    /// True if the token may name this channel.
    pub(super) fn allows(&self, channel: &str) -> bool {
        let mut patterns = self.patterns.iter();
        self.patterns.is_empty() || patterns.any(|it| matches_pattern(it, channel))
    }

    /// True if the token may name every channel that begins so.
    ///
    /// Such channels may end with anything. So a pattern matches all of them if it ends with a star, which stands for
    /// whatever follows, and matches the prefix itself.
    pub(super) fn allows_prefix(&self, prefix: &str) -> bool {
        let mut patterns = self.patterns.iter();
        self.patterns.is_empty()
            || patterns.any(|it| it.ends_with('*') && matches_pattern(it, prefix))
    }
}

/// The line as it stands in the file.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scopes: Vec<_> = self.scopes.iter().map(|it| it.name()).collect();
        write!(f, "{} {} {}", self.name, self.credential, scopes.join(","))?;
        if !self.patterns.is_empty() {
            write!(f, " {}", self.patterns.join(","))?;
        }
        Ok(())
    }
}

/// What cannot be understood in a file of tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {wrong}")]
pub struct FileError {
    /// The number of the line. The first one is 1.
    pub line: usize,
    /// What is wrong with it, and what is expected.
    pub wrong: String,
}

/// Reads the text of a file.
pub(super) fn parse(text: &str) -> Result<Vec<Line>, FileError> {
    let mut lines: Vec<Line> = Vec::new();
    for (place, text) in text.lines().enumerate() {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let failed = |wrong| FileError {
            line: place + 1,
            wrong,
        };
        let line = parse_line(text).map_err(failed)?;
        for earlier in &lines {
            if earlier.name == line.name {
                let wrong = "the name stands in an earlier line, too: give each token a name of its own, so that logs can tell \
                             them apart";
                return Err(failed(wrong.to_owned()));
            }
            if earlier.credential == line.credential {
                let wrong = match line.credential {
                    Credential::Token(_) => {
                        "the same token stands in an earlier line, too: make another one with `chat token create`"
                    }
                    Credential::Subject(_) => {
                        "the same name of certificates stands in an earlier line, too: put all scopes into one line"
                    }
                };
                return Err(failed(wrong.to_owned()));
            }
        }
        lines.push(line);
    }
    Ok(lines)
}

fn parse_line(text: &str) -> Result<Line, String> {
    let (name, rest) = word(text);
    let (credential, rest) = match rest.strip_prefix(SUBJECT) {
        Some(rest) => subject(rest)?,
        None => {
            let (hash, rest) = word(rest);
            (Hash::parse(hash).map(Credential::Token), rest)
        }
    };
    let (scopes, patterns) = word(rest);
    if scopes.is_empty() {
        let wrong = "expected a name, the SHA-256 of a token, scopes, and perhaps patterns of channels, with blanks between them; \
                     `chat token create` prints such a line";
        return Err(wrong.to_owned());
    }
    let credential = credential.ok_or(
        "the second word is no SHA-256 of 64 hexadecimal digits; the token itself must not stand here",
    )?;
    line(name, credential, scopes.split(','), patterns.split(','))
}

/// The name in certificates that stands behind `subject=`, and what follows it. A name with blanks stands in quotation marks.
fn subject(text: &str) -> Result<(Option<Credential>, &str), String> {
    let quoted = text.strip_prefix('"').and_then(|it| it.split_once('"'));
    let (name, rest) = quoted.unwrap_or_else(|| word(text));
    let follows = rest.is_empty() || quoted.is_none() || rest.starts_with(char::is_whitespace);
    let is_plain = !name.contains(|it: char| it == '"' || it.is_control());
    if !follows || !is_plain || !(1..=SUBJECT_BYTES).contains(&name.len()) {
        return Err(format!(
            "behind {SUBJECT} must stand a name in certificates of 1 to {SUBJECT_BYTES} bytes, in quotation marks if it has blanks"
        ));
    }
    Ok((
        Some(Credential::Subject(name.to_owned())),
        rest.trim_start(),
    ))
}

/// The first word of a text, and what follows it.
fn word(text: &str) -> (&str, &str) {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start())
}

/// A line of these parts.
///
/// # Errors
/// What is wrong with one of them.
pub(super) fn line<'a>(
    name: &str,
    credential: Credential,
    scopes: impl Iterator<Item = &'a str>,
    patterns: impl Iterator<Item = &'a str>,
) -> Result<Line, String> {
    let allowed = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.');
    if !(1..=NAME).contains(&name.len()) || !name.chars().all(allowed) {
        let wrong =
            format!("a name must be 1 to {NAME} letters, digits, dots, hyphens or underscores");
        return Err(wrong);
    }
    if name.starts_with(BEGINNING) {
        let wrong = format!("a name must not begin with {BEGINNING}, because tokens do");
        return Err(wrong);
    }
    let scopes = scopes.map(|it| Scope::of(it.trim()));
    let scopes: Option<BTreeSet<_>> = scopes.collect();
    let scopes = scopes.ok_or_else(|| {
        let known = Scope::names();
        format!("the scopes must be some of {known}, with commas between them")
    })?;
    let patterns = patterns.map(str::trim).filter(|it| !it.is_empty());
    let patterns: Vec<_> = patterns.map(str::to_owned).collect();
    let whole = scopes
        .iter()
        .find(|it| matches!(it, Scope::Connector | Scope::Nodes));
    if let Some(scope) = whole.filter(|_| !patterns.is_empty()) {
        let wrong = format!(
            "a token with patterns of channels cannot have the scope {scope}, whose calls are about the whole system"
        );
        return Err(wrong);
    }
    Ok(Line {
        name: name.to_owned(),
        credential,
        scopes,
        patterns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u8) -> Hash {
        Hash::of(&new_token([number; RANDOM])).unwrap()
    }

    #[test]
    fn a_line_is_read_as_it_is_written() {
        let (one, two) = (hash(1), hash(2));
        let text = format!(
            "# tokens\n\ngame.1 {one} send,read game:*,a room\r\n  all\t{two}   connector  \n"
        );
        let lines = parse(&text).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].name, "game.1");
        assert_eq!(lines[0].credential, Credential::Token(one));
        assert_eq!(lines[0].scopes, [Scope::Send, Scope::Read].into());
        assert_eq!(lines[0].patterns, ["game:*", "a room"]);
        assert_eq!(lines[1].scopes, [Scope::Connector].into());
        assert_eq!(lines[1].patterns, Vec::<String>::new());
        for line in &lines {
            assert_eq!(
                parse(&line.to_string()).unwrap(),
                std::slice::from_ref(line)
            );
        }
    }

    #[test]
    fn a_name_of_certificates_may_stand_in_quotation_marks() {
        let text = "a subject=games.internal send\nb subject=\"Chess, 安\" read chess:*\nc  subject=spiffe://x/y  connector\n";
        let lines = parse(text).unwrap();
        let names: Vec<_> = lines.iter().map(|it| it.credential.clone()).collect();
        let expected = ["games.internal", "Chess, 安", "spiffe://x/y"];
        assert_eq!(names, expected.map(|it| Credential::Subject(it.to_owned())));
        assert_eq!(lines[1].patterns, ["chess:*"]);
        for line in &lines {
            assert_eq!(
                parse(&line.to_string()).unwrap(),
                std::slice::from_ref(line)
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_without_its_text() {
        let good = format!("a {} send", hash(1));
        let other = hash(2);
        let secret = new_token([7; RANDOM]);
        for (wrong, reason) in [
            ("a".to_owned(), "expected a name"),
            (format!("a {other}"), "expected a name"),
            (format!("b {secret} send"), "no SHA-256"),
            (format!("{secret} {other} send"), "must not begin with gct_"),
            (format!("b {other} {secret}"), "the scopes must be some of"),
            (format!("b {other}0 send"), "no SHA-256"),
            (format!("b +{} send", &other.to_string()[1..]), "no SHA-256"),
            (format!("b {other} send,"), "the scopes must be some of"),
            (format!("b {other} SEND"), "the scopes must be some of"),
            (format!("哈 {other} send"), "a name must be"),
            (format!("a {other} send"), "the name stands in an earlier"),
            (format!("b {} read", hash(1)), "the same token stands"),
            ("b subject=x".to_owned(), "expected a name"),
            ("b subject= send".to_owned(), "behind subject="),
            ("b subject=\"\" send".to_owned(), "behind subject="),
            ("b subject=\"x send".to_owned(), "behind subject="),
            ("b subject=\"x\"y send".to_owned(), "behind subject="),
            (
                format!("b subject={} send", "x".repeat(257)),
                "behind subject=",
            ),
            (
                "b subject=x send\nc subject=\"x\" read".to_owned(),
                "the same name of certificates",
            ),
            (
                format!("b {other} send,nodes game:*"),
                "cannot have the scope nodes",
            ),
            (
                format!("b {other} connector game:*"),
                "cannot have the scope connector",
            ),
        ] {
            let error = parse(&format!("{good}\n{wrong}\n")).unwrap_err();
            assert_eq!(error.line, 1 + wrong.lines().count(), "{wrong}");
            let text = error.to_string();
            assert!(text.contains(reason), "{wrong}: {text}");
            assert!(!text.contains(&secret), "{text}");
            assert!(!text.contains(&other.to_string()), "{text}");
        }
    }

    #[test]
    fn only_what_was_made_here_is_a_token() {
        let token = new_token([255; RANDOM]);
        assert_eq!(token.len(), BEGINNING.len() + WRITTEN);
        assert!(Hash::of(&token).is_some());
        assert_ne!(Hash::of(&token), Some(hash(1)));
        for wrong in [
            "",
            "gct_",
            "password",
            &token[1..],
            &format!("{token}A"),
            &format!("gct_{}", "+".repeat(WRITTEN)),
        ] {
            assert_eq!(Hash::of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_hash_is_the_sha_256_of_the_whole_token() {
        // printf %s gct_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA | sha256sum
        let token = "gct_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        assert_eq!(new_token([0; RANDOM]), token);
        assert_eq!(Hash::of(token).unwrap().to_string(), ZERO);
    }

    const ZERO: &str = "6f0c43b70f030a44820eddfe07f0035a552957915c39c14860506d608515cfaa";

    #[test]
    fn a_prefix_is_allowed_only_if_all_channels_that_begin_so_are() {
        let line = |patterns: &[&str]| {
            let scopes = ["read"].into_iter();
            super::line(
                "a",
                Credential::Token(hash(1)),
                scopes,
                patterns.iter().copied(),
            )
            .unwrap()
        };
        for (patterns, allowed, refused) in [
            (&[][..], &["", "game:"][..], &[][..]),
            (&["*"], &["", "game:"], &[]),
            (
                &["game:*"],
                &["game:", "game:1", "game:*"],
                &["", "game", "gam", "chess:", " game:"],
            ),
            (&["game:1"], &[], &["game:1", "game:", ""]),
            (&["*:log"], &[], &["", "a", "a:log"]),
            (&["a*b*"], &["ab", "axb", "axbc"], &["a", "", "ax"]),
            (&["lobby", "game:*"], &["game:2"], &["lobby", "l"]),
        ] {
            let line = line(patterns);
            for prefix in allowed {
                assert!(line.allows_prefix(prefix), "{patterns:?} {prefix:?}");
            }
            for prefix in refused {
                assert!(!line.allows_prefix(prefix), "{patterns:?} {prefix:?}");
            }
        }
        let line = line(&["game:*", "lobby"]);
        assert!(line.allows("game:1") && line.allows("lobby"));
        assert!(!line.allows("lobby2") && !line.allows("game"));
    }
}
