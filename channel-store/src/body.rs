//! Bodies: one JSON object each, checked and stamped in one pass over its bytes.
//!
//! No tree is built and nothing is allocated but the stamped copy, because every message passes here. What is not
//! `userId` goes through byte for byte: `1.0` stays `1.0`, and escapes stay as the client wrote them (a stated departure
//! from `JSON.parse` and `JSON.stringify`, CONTRACT).
//!
//! The grammar is RFC 8259, strictly, with limits so that every member's parser can read what is passed on: nesting ends at
//! [`DEPTH_LIMIT`] (section 9), a number must have a double that is near it (section 6: `1e999` has none), and half of a
//! surrogate pair (section 8.2) is accepted, because people cut texts in the middle of an emoji, but is passed on as U+FFFD.

use std::ops::Range;

/// The most objects and arrays that may lie in each other, the body itself included.
pub const DEPTH_LIMIT: usize = 64;

/// The largest limit that an operator may set for the bytes of a body. A package of Pomelo's has less than 16 MiB, and
/// characters beyond U+FFFF are sent to its clients in three times as many bytes.
pub const LARGEST_BODY: u64 = 4 << 20;

/// A number without an exponent that has fewer digits is within the range of a double, which ends at 1.8e308.
const LONGEST_IN_RANGE: usize = 308;

const USER_ID: &[u8] = b"\"userId\"";

/// Why bytes are no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// No JSON value, or more than one.
    #[error("not JSON")]
    NotJson,
    /// A JSON value, but another one.
    #[error("not a JSON object")]
    NotObject,
    /// Nested deeper than [`DEPTH_LIMIT`]. What follows was not looked at.
    #[error("nested deeper than {DEPTH_LIMIT} levels")]
    TooDeep,
    /// A number is beyond the range of a double, so many parsers refuse it. What follows was not looked at.
    #[error("a number is beyond the range of a double")]
    NumberTooLarge,
}

/// Checks that the bytes are one JSON object. Whitespace around it is allowed.
///
/// # Errors
/// [`BodyError`] says what they are instead.
pub fn check(body: &[u8]) -> Result<(), BodyError> {
    scan(trim(body), |_| {}).map(drop)
}

/// The body with `user_json` as the object's `userId` (CONTRACT, "Who is told what"). All spellings of the key count: its
/// first place gets the value, further ones go with their comma. Without any, it becomes the last member.
///
/// `user_json` is one JSON value, as [`User::json`](crate::User::json) makes it.
///
/// # Errors
/// As [`check`].
pub fn stamp(body: &[u8], user_json: &str) -> Result<Vec<u8>, BodyError> {
    let body = trim(body);
    let mut stamped = Vec::with_capacity(body.len() + user_json.len() + USER_ID.len() + 2);
    let mut copied = 0;
    let mut is_empty = true;
    let mut is_stamped = false;
    let text = scan(body, |member| {
        is_empty = false;
        if !is_user_id(&body[member.key.clone()]) {
            return;
        }
        if is_stamped {
            stamped.extend_from_slice(&body[copied..member.comma]);
        } else {
            stamped.extend_from_slice(&body[copied..member.key.start]);
            stamped.extend_from_slice(USER_ID);
            stamped.extend_from_slice(&body[member.key.end..member.value.start]);
            stamped.extend_from_slice(user_json.as_bytes());
            is_stamped = true;
        }
        copied = member.value.end;
    })?;
    if text == Text::HasHalfPairs {
        return stamp(&replace_half_pairs(body), user_json);
    }
    let brace = body.len() - 1;
    stamped.extend_from_slice(&body[copied..brace]);
    if !is_stamped {
        if !is_empty {
            stamped.push(b',');
        }
        stamped.extend_from_slice(USER_ID);
        stamped.push(b':');
        stamped.extend_from_slice(user_json.as_bytes());
    }
    stamped.push(b'}');
    Ok(stamped)
}

/// True for `"userId"`, quotes included, whichever of its letters are written as `\u` escapes. (No other escape makes a
/// letter.)
fn is_user_id(key: &[u8]) -> bool {
    if key == USER_ID {
        return true;
    }
    let mut rest = key;
    for &letter in USER_ID {
        rest = match rest {
            [first, rest @ ..] if *first == letter => rest,
            [b'\\', b'u', b'0', b'0', high, low, rest @ ..]
                if hex(*high) << 4 | hex(*low) == u32::from(letter) =>
            {
                rest
            }
            _ => return false,
        };
    }
    rest.is_empty()
}

fn hex(digit: u8) -> u32 {
    char::from(digit).to_digit(16).unwrap_or_default()
}

fn is_whitespace(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_whitespace(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_whitespace(*last)
    {
        bytes = rest;
    }
    bytes
}

/// One member of the outermost object, by where its parts stand.
struct Member {
    /// The comma before it; for the first member, its key.
    comma: usize,
    /// With its quotes.
    key: Range<usize>,
    value: Range<usize>,
}

/// What a body's strings hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Whole,
    /// At least one escape is half of a surrogate pair.
    HasHalfPairs,
}

/// The body with `\ufffd`, which has as many bytes, in place of each escape that is half of a surrogate pair.
fn replace_half_pairs(body: &[u8]) -> Vec<u8> {
    let mut replaced = body.to_vec();
    let mut at = 0;
    while let Some(rest) = body.get(at..).filter(|rest| !rest.is_empty()) {
        at += match (rest[0], surrogate(rest)) {
            (b'\\', Some(Half::High)) if surrogate(&rest[ESCAPE..]) == Some(Half::Low) => {
                2 * ESCAPE
            }
            (b'\\', Some(_)) => {
                replaced[at..at + ESCAPE].copy_from_slice(br"\ufffd");
                ESCAPE
            }
            // Whatever is escaped, it is no backslash that begins another escape.
            (b'\\', None) => 2,
            _ => 1,
        };
    }
    replaced
}

/// Bytes of an escape like `\ud83d`.
const ESCAPE: usize = 6;

/// Which half of a surrogate pair an escape is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    High,
    Low,
}

/// What the bytes begin with, if it is an escape for half of a surrogate pair.
fn surrogate(bytes: &[u8]) -> Option<Half> {
    let [b'\\', b'u', b'd' | b'D', second, third, fourth, ..] = bytes else {
        return None;
    };
    let is_escape = third.is_ascii_hexdigit() && fourth.is_ascii_hexdigit();
    match second {
        b'8' | b'9' | b'a' | b'b' | b'A' | b'B' if is_escape => Some(Half::High),
        b'c'..=b'f' | b'C'..=b'F' if is_escape => Some(Half::Low),
        _ => None,
    }
}

/// Checks that `body`, trimmed, is one object, and tells of its members.
fn scan(body: &[u8], on_member: impl FnMut(Member)) -> Result<Text, BodyError> {
    if simdutf8::basic::from_utf8(body).is_err() {
        return Err(BodyError::NotUtf8);
    }
    let mut scanner = Scanner {
        body,
        at: 0,
        text: Text::Whole,
    };
    let is_object = scanner.peek() == Some(b'{');
    if is_object {
        scanner.object(1, on_member)?;
    } else {
        scanner.value(0)?;
    }
    match (scanner.at == body.len(), is_object) {
        (true, true) => Ok(scanner.text),
        (true, false) => Err(BodyError::NotObject),
        (false, _) => Err(BodyError::NotJson),
    }
}

/// A place in JSON text. Every method stands at the first byte of what it is named for and goes behind its last.
struct Scanner<'a> {
    body: &'a [u8],
    at: usize,
    /// What the strings behind this place hold.
    text: Text,
}

impl Scanner<'_> {
    /// A value with `depth` objects and arrays around it.
    fn value(&mut self, depth: usize) -> Result<(), BodyError> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'{') => self.object(depth + 1, |_| {}),
            Some(b'[') => self.array(depth + 1),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => self.number(),
        }
    }

    fn object(&mut self, depth: usize, mut on_member: impl FnMut(Member)) -> Result<(), BodyError> {
        self.open(depth)?;
        if self.eat(b'}') {
            return Ok(());
        }
        let mut comma = self.at;
        loop {
            let key = self.string()?;
            self.whitespace();
            self.expect(b':')?;
            self.whitespace();
            let start = self.at;
            self.value(depth)?;
            let value = start..self.at;
            on_member(Member { comma, key, value });
            self.whitespace();
            comma = self.at;
            match self.next()? {
                b',' => self.whitespace(),
                b'}' => return Ok(()),
                _ => return Err(BodyError::NotJson),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), BodyError> {
        self.open(depth)?;
        if self.eat(b']') {
            return Ok(());
        }
        loop {
            self.value(depth)?;
            self.whitespace();
            match self.next()? {
                b',' => self.whitespace(),
                b']' => return Ok(()),
                _ => return Err(BodyError::NotJson),
            }
        }
    }

    /// The bracket that opens the object or array number `depth`, and whitespace.
    fn open(&mut self, depth: usize) -> Result<(), BodyError> {
        if depth > DEPTH_LIMIT {
            return Err(BodyError::TooDeep);
        }
        self.at += 1;
        self.whitespace();
        Ok(())
    }

    fn string(&mut self) -> Result<Range<usize>, BodyError> {
        let start = self.at;
        self.expect(b'"')?;
        loop {
            self.at += plain(&self.body[self.at..]);
            match self.next()? {
                b'"' => return Ok(start..self.at),
                b'\\' => self.escape()?,
                _ => return Err(BodyError::NotJson),
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<(), BodyError> {
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => {
                let escape = &self.body[self.at - 2..];
                match surrogate(escape) {
                    None => {}
                    Some(Half::High) if surrogate(&escape[ESCAPE..]) == Some(Half::Low) => {
                        self.at += ESCAPE;
                    }
                    Some(_) => self.text = Text::HasHalfPairs,
                }
                for _ in 0..4 {
                    if !self.next()?.is_ascii_hexdigit() {
                        return Err(BodyError::NotJson);
                    }
                }
                Ok(())
            }
            _ => Err(BodyError::NotJson),
        }
    }

    fn number(&mut self) -> Result<(), BodyError> {
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            if !self.eat(b'+') {
                self.eat(b'-');
            }
            self.digits()?;
        } else if self.at - start < LONGEST_IN_RANGE {
            return Ok(());
        }
        let number = str::from_utf8(&self.body[start..self.at]).map_err(|_| BodyError::NotUtf8)?;
        match number.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(()),
            _ => Err(BodyError::NumberTooLarge),
        }
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<(), BodyError> {
        if !self.next()?.is_ascii_digit() {
            return Err(BodyError::NotJson);
        }
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), BodyError> {
        if !self.body[self.at..].starts_with(word) {
            return Err(BodyError::NotJson);
        }
        self.at += word.len();
        Ok(())
    }

    fn whitespace(&mut self) {
        while self.peek().is_some_and(is_whitespace) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, BodyError> {
        let byte = self.peek().ok_or(BodyError::NotJson)?;
        self.at += 1;
        Ok(byte)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let is_it = self.peek() == Some(byte);
        self.at += usize::from(is_it);
        is_it
    }

    fn expect(&mut self, byte: u8) -> Result<(), BodyError> {
        if self.eat(byte) {
            Ok(())
        } else {
            Err(BodyError::NotJson)
        }
    }
}

/// How many bytes stand before the first quote, backslash or control character; eight at a time.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // The lowest byte that is below `limit` (at most 128) has its high bit set; those above it may be wrong.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGH;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let found = quote | backslash | below(word, 0x20);
        if found != 0 {
            return index * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    words.len() * 8 + rest.iter().position(special).unwrap_or(rest.len())
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
