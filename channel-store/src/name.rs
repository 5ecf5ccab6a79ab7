//! Names. They are checked once, when they come from outside, and are cheap to clone.
//!
//! A user has at most 128 bytes, a channel 256, an idempotency key 128. No name is empty, or holds a control character or an
//! invisible one. Otherwise two names that look the same could be two users, and a name that changes the direction of text
//! would be shown as another one. Names in letters that only look similar, as full-width ones, are possible.
//! All other code takes these types and does not check them again.

use std::fmt;
use std::sync::Arc;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Why a text can't be a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("must not be empty")]
    Empty,
    /// More bytes than the name may have.
    #[error("must have at most {limit} bytes")]
    TooLong {
        /// The most bytes that such a name may have.
        limit: usize,
    },
    /// U+0000 to U+001F or U+007F to U+009F.
    #[error("must not hold control characters")]
    ControlCharacter,
    /// A character of Unicode's category Cf (zero-width, bidirectional, tags), a separator of lines, or a filler.
    #[error("must not hold invisible characters")]
    InvisibleCharacter,
}

/// Characters whose category is that of letters or marks, although they are invisible.
const FILLERS: [char; 7] = [
    '\u{34f}', '\u{115f}', '\u{1160}', '\u{17b4}', '\u{17b5}', '\u{3164}', '\u{ffa0}',
];

fn is_invisible(c: char) -> bool {
    !c.is_ascii()
        && (FILLERS.contains(&c)
            || matches!(
                c.general_category(),
                GeneralCategory::Format
                    | GeneralCategory::LineSeparator
                    | GeneralCategory::ParagraphSeparator
            ))
}

fn check(text: &str, limit: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > limit {
        return Err(NameError::TooLong { limit });
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::ControlCharacter);
    }
    if text.chars().any(is_invisible) {
        return Err(NameError::InvisibleCharacter);
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $limit:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The most bytes that this name may have.
            pub const LIMIT: usize = $limit;

            /// Checks a text from outside.
            ///
            /// # Errors
            /// [`NameError`] says what is wrong with it.
            pub fn new(text: impl AsRef<str> + Into<Arc<str>>) -> Result<Self, NameError> {
                check(text.as_ref(), Self::LIMIT)?;
                Ok(Self(text.into()))
            }

            /// The name itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A named room.
    ChannelName,
    256
);
name!(
    /// A user: the same one whether the client wrote `5` or `"5"` (K7 in docs/compatibility.md).
    UserId,
    128
);
name!(
    /// A session of a connector. It is random, never used again, and unique in the cluster.
    SessionId,
    128
);
name!(
    /// A connector's name with an id that is new with each start of the process.
    Incarnation,
    256
);
name!(
    /// The name that members receive a publication under.
    Route,
    128
);
name!(
    /// A caller's own name for a message. If you retry with the same key, the message is stored once.
    IdempotencyKey,
    128
);

/// A user, and the JSON type that the client used for it. Pushes show the same type (K1 in docs/compatibility.md).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    /// The user's id.
    pub id: UserId,
    /// True if the client's JSON had a number.
    pub is_number: bool,
}

impl User {
    /// The user as the JSON value that belongs into `userId`.
    #[must_use]
    pub fn json(&self) -> String {
        let id = self.id.as_str();
        if self.is_number {
            return id.to_owned();
        }
        let mut json = String::with_capacity(id.len() + 2);
        json.push('"');
        for c in id.chars() {
            // Control characters can't be in a name, and JSON.stringify escapes nothing else.
            if matches!(c, '"' | '\\') {
                json.push('\\');
            }
            json.push(c);
        }
        json.push('"');
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_empty_too_long_or_has_control_characters_is_refused() {
        assert_eq!(UserId::new(""), Err(NameError::Empty));
        assert_eq!(UserId::new("a\nb"), Err(NameError::ControlCharacter));
        assert_eq!(UserId::new("a\u{85}"), Err(NameError::ControlCharacter));
        assert_eq!(
            UserId::new("x".repeat(129)),
            Err(NameError::TooLong { limit: 128 })
        );
        assert_eq!(UserId::new("哈".repeat(42)).unwrap().as_str().len(), 126);
    }

    #[test]
    fn a_name_with_invisible_characters_is_refused() {
        for wrong in [
            "admin\u{200b}",
            "\u{202e}nimda",
            "a\u{2066}b",
            "a\u{feff}",
            "a\u{ad}b",
            "a\u{2028}b",
            "a\u{e0041}",
            "\u{3164}",
        ] {
            assert_eq!(
                UserId::new(wrong),
                Err(NameError::InvisibleCharacter),
                "{wrong:?}"
            );
            assert!(ChannelName::new(wrong).is_err(), "{wrong:?}");
        }
        for right in ["ａｄｍｉｎ", "Zoë", "🙂\u{fe0f}", "a b", "عربي"] {
            assert_eq!(UserId::new(right).unwrap().as_str(), right);
        }
    }

    #[test]
    fn a_user_is_shown_with_the_json_type_the_client_used_k1() {
        let user = |id: &str, is_number| User {
            id: UserId::new(id).unwrap(),
            is_number,
        };
        assert_eq!(user("5", true).json(), "5");
        assert_eq!(user("5", false).json(), "\"5\"");
        assert_eq!(user(r#"a"b\c/哈"#, false).json(), r#""a\"b\\c/哈""#);
    }
}
