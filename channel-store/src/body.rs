//! Bodies. Each one is a JSON object, which is checked and gets its sender in one pass over its bytes.
//!
//! Every message passes here, so no tree is built, and nothing is allocated except the copy with the sender. Everything but
//! `userId` stays byte for byte: `1.0` stays `1.0`, and escapes stay as the client wrote them. The original, which used
//! `JSON.parse` and `JSON.stringify`, changed them.
//!
//! The grammar is strictly that of RFC 8259, with limits so that the parser of every member can read the result. Nesting
//! ends at [`DEPTH_LIMIT`] (section 9). A number must have a double that is near it (section 6): `1e999` has none. Half of a
//! surrogate pair (section 8.2) is accepted, because people cut texts in the middle of an emoji, but becomes U+FFFD.

use std::ops::Range;

/// The most objects and arrays that may be nested, including the body itself.
pub const DEPTH_LIMIT: usize = 64;

/// The largest limit that an operator may set for the bytes of a body. A package of Pomelo's has less than 16 MiB, and
/// characters beyond U+FFFF are sent to its clients in three times as many bytes.
pub const LARGEST_BODY: u64 = 4 << 20;

/// A number without an exponent that has fewer digits is within the range of a double, which ends at 1.8e308.
const LONGEST_IN_RANGE: usize = 308;

const USER_ID: &[u8] = b"\"userId\"";

/// Why bytes can't be a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The bytes are not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// They are no JSON value, or more than one.
    #[error("not JSON")]
    NotJson,
    /// They are a JSON value, but no object.
    #[error("not a JSON object")]
    NotObject,
    /// They are nested deeper than [`DEPTH_LIMIT`]. The rest was not checked.
    #[error("nested deeper than {DEPTH_LIMIT} levels")]
    TooDeep,
    /// A number is beyond the range of a double, so many parsers would refuse it. The rest was not checked.
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

/// Checks bytes that become a body without a sender, and replaces each escape for half of a surrogate pair by `\ufffd`, because
/// some parsers refuse one. Everything else stays byte for byte.
///
/// # Errors
/// Those of [`check`].
pub fn without_half_pairs(body: Vec<u8>) -> Result<Vec<u8>, BodyError> {
    match scan(trim(&body), |_| {})? {
        Text::Whole => Ok(body),
        Text::HasHalfPairs => Ok(replace_half_pairs(&body)),
    }
}

/// Returns the body with `user_json` as the object's `userId`. All spellings of the key count. The first one gets the value, and
/// further ones are removed with their comma. If there is none, it becomes the last member.
///
/// `user_json` is one JSON value, as [`User::json`](crate::User::json) makes it.
///
/// # Errors
/// Those of [`check`].
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

/// True for `"userId"` with its quotes, also if some of its letters are written as `\u` escapes. (No other escape makes a
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

/// Where the parts of one member of the outermost object are.
struct Member {
    /// The comma before it. For the first member, it is the key.
    comma: usize,
    /// The key with its quotes.
    key: Range<usize>,
    value: Range<usize>,
}

/// What the strings of a body hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Whole,
    /// There is an escape that is half of a surrogate pair.
    HasHalfPairs,
}

/// Replaces each escape that is half of a surrogate pair by `\ufffd`, which has as many bytes.
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
            // Whatever is escaped, that byte does not begin another escape.
            (b'\\', None) => 2,
            _ => 1,
        };
    }
    replaced
}

/// The number of bytes of an escape like `\ud83d`.
const ESCAPE: usize = 6;

/// Which half of a surrogate pair an escape is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    High,
    Low,
}

/// Which half it is, if the bytes begin with an escape for half of a surrogate pair.
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

/// Checks that `body` is one object, without whitespace around it, and reports its members.
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

/// A place in JSON text. Every method begins at the first byte of what it is named for, and ends after its last byte.
struct Scanner<'a> {
    body: &'a [u8],
    at: usize,
    /// What the strings before this place hold.
    text: Text,
}

impl Scanner<'_> {
    /// A value that is nested in `depth` objects and arrays.
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

    /// At least one digit.
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

/// How many bytes come before the first quote, backslash or control character. It checks eight bytes at a time.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // The lowest byte that is below `limit` (at most 128) has its high bit set. The bits of higher bytes may be wrong.
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
