//! Why a token is rejected. The log says it; the client is told only whether the token is invalid, has expired, or cannot
//! be checked at present.

use wire::Reason;

/// Why a token is rejected. No text shows a part of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The client has shown no token.
    #[error("the client has sent no token")]
    Missing,
    /// Longer than any token should be.
    #[error("the token has more than 8 KiB")]
    TooLong,
    /// Not three parts.
    #[error("the token is not three parts of base64url with dots between them")]
    Form,
    /// The header is not an object.
    #[error("the header of the token is not a JSON object in which no member is given twice")]
    Header,
    /// The header holds something that is not allowed there.
    #[error("the header of the token has a \"{0}\" that is not accepted")]
    HeaderMember(&'static str),
    /// Signed in another way.
    #[error("the token is not signed with one of the algorithms of its issuer")]
    Algorithm,
    /// The claims are not an object.
    #[error("the claims of the token are not a JSON object in which no member is given twice")]
    Claims,
    /// An issuer that is not configured.
    #[error("the issuer of the token (\"iss\") is not configured")]
    UnknownIssuer,
    /// The issuer has no keys at the moment.
    #[error("there are no keys of the issuer, so its tokens cannot be checked")]
    NoKeys,
    /// The token names a key that the issuer does not have.
    #[error("the issuer has no key with the id (\"kid\") of the token")]
    UnknownKey,
    /// The token names no key.
    #[error("the token has no \"kid\", and several keys of its issuer fit")]
    WhichKey,
    /// Forged, or signed with another key.
    #[error("the signature of the token is wrong")]
    Signature,
    /// A claim is missing.
    #[error("the token has no claim \"{0}\"")]
    MissingClaim(String),
    /// A claim has a wrong type, or is too long.
    #[error("the claim \"{0}\" of the token cannot be used")]
    Claim(String),
    /// Meant for others.
    #[error("the token is meant for another audience (\"aud\")")]
    Audience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not begun.
    #[error("the token is not valid yet (\"nbf\" or \"iat\"): is a clock wrong?")]
    NotYet,
    /// The token of another user.
    #[error("the token belongs to another user than the one that the client names")]
    OtherUser,
}

impl Rejected {
    /// What the client is told.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Expired => Reason::TokenExpired,
            // Nobody knows whether it is valid, and that may change soon.
            Self::NoKeys => Reason::Unavailable,
            _ => Reason::TokenInvalid,
        }
    }
}
