//! What everybody in a channel may know of a user.

use crate::body::{self, BodyError};
use std::fmt;
use std::sync::Arc;

/// The most bytes of a [`UserInfo`].
pub const LARGEST_INFO: usize = 1_024;

/// A JSON object about a user, for example a name and a picture. It is public: onJoin shows it to the members of a channel, and
/// lists of members have it.
#[derive(Clone, PartialEq, Eq)]
pub struct UserInfo(Arc<str>);

/// Why a text can't be a [`UserInfo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InfoError {
    /// It has more than [`LARGEST_INFO`] bytes.
    #[error("must have at most {LARGEST_INFO} bytes as JSON")]
    TooLarge,
    /// It is no body.
    #[error("is {0}")]
    NotObject(#[from] BodyError),
}

impl UserInfo {
    /// Checks the text. Half of a surrogate pair becomes U+FFFD, as in bodies. Everything else stays byte for byte.
    ///
    /// # Errors
    /// [`InfoError`].
    pub fn new(json: impl Into<Vec<u8>>) -> Result<Self, InfoError> {
        let json = json.into();
        if json.len() > LARGEST_INFO {
            return Err(InfoError::TooLarge);
        }
        let json = body::without_half_pairs(json)?;
        let text = str::from_utf8(&json).map_err(|_| BodyError::NotUtf8)?;
        Ok(Self(text.trim_ascii().into()))
    }

    /// The JSON object.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for UserInfo {
    /// Never shows the object, because log files must not hold what users say about themselves.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_at_most_a_kibibyte_is_taken_as_it_is() {
        let kept = |json: &str| UserInfo::new(json).map(|it| it.as_str().to_owned());
        assert_eq!(
            kept(r#"{"z":1.0,"a":"安"}"#).unwrap(),
            r#"{"z":1.0,"a":"安"}"#
        );
        assert_eq!(kept(" {}\n").unwrap(), "{}");
        assert_eq!(kept(r#"{"a":"\ud83d"}"#).unwrap(), r#"{"a":"\ufffd"}"#);
        let of = |length: usize| format!(r#"{{"a":"{}"}}"#, "x".repeat(length - 8));
        assert!(kept(&of(LARGEST_INFO)).is_ok());
        assert_eq!(kept(&of(LARGEST_INFO + 1)), Err(InfoError::TooLarge));
        assert_eq!(kept("[]"), Err(BodyError::NotObject.into()));
        assert_eq!(kept("{"), Err(BodyError::NotJson.into()));
    }
}
