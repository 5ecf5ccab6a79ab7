//! How the values of a rule are written.

use channel_store::Pattern;
use runtime::cli;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::ops::RangeInclusive;
use std::time::Duration;

/// The range of the bound for the bytes of a log.
const BYTES: RangeInclusive<u64> = 64 << 10..=1 << 30;
/// The most publications that a log can be set to keep.
const ENTRIES: i64 = 1_000_000;

/// A number, or a text with a unit.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number of bytes, such as 65536 or \"1MiB\""
)]
enum Size {
    Number(u64),
    Text(String),
}

pub(crate) fn pattern<'de, D: Deserializer<'de>>(from: D) -> Result<Pattern, D::Error> {
    let text = String::deserialize(from)?;
    let wrong = |error: String| D::Error::custom(format!("match = {text:?}: {error}"));
    if let Some(placeholder) = unknown_placeholder(&text) {
        return Err(wrong(format!(
            "{placeholder} stands for nothing; only {{user}} does, and for other characters in braces write *"
        )));
    }
    Pattern::new(&text).map_err(|error| wrong(error.to_string()))
}

/// The first text in braces that is not `{user}`, or a brace alone. Such a pattern would match no channel that anybody has in mind.
fn unknown_placeholder(pattern: &str) -> Option<&str> {
    let rest = pattern.split("{user}").find(|it| it.contains(['{', '}']))?;
    let begin = rest.find(['{', '}'])?;
    let from = &rest[begin..];
    let end = from.find('}').map_or(from.len(), |it| it + 1);
    from.get(..end)
}

pub(crate) fn entries<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let number = i64::deserialize(from)?;
    let allowed = u64::try_from(number)
        .ok()
        .filter(|_| (1..=ENTRIES).contains(&number));
    let wrong = || D::Error::custom(format!("entries = {number}: expected 1 to {ENTRIES}"));
    allowed.map(Some).ok_or_else(wrong)
}

pub(crate) fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    let wrong = |error| D::Error::custom(format!("{text:?}: {error}"));
    cli::duration(&text).map(Some).map_err(wrong)
}

pub(crate) fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = match Size::deserialize(from)? {
        Size::Number(number) => number.to_string(),
        Size::Text(text) => text,
    };
    let wrong = |error| D::Error::custom(format!("{text:?}: {error}"));
    cli::bytes(BYTES)(&text).map(Some).map_err(wrong)
}
