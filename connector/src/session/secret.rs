//! The secret by which a client shows that it had the session which it now replaces.

use crate::random::unguessable;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use channel_store::Proof;
use ring::digest::{SHA256, digest};
use std::fmt;

/// 128 random bits.
const BYTES: usize = 16;

/// A client gets a secret with the answer to its login, and shows it at the next login. The secret stays the same over
/// all later logins, so a lost answer does no harm. The store keeps only a hash of it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret([u8; BYTES]);

impl Secret {
    /// Draws a new secret.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        unguessable().map(Self)
    }

    /// Reads what `Display` writes; `None` if the text is malformed.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; BYTES];
        let read = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes);
        (read == Ok(BYTES)).then_some(Self(bytes))
    }

    /// The part of its hash by which the store recognizes the secret.
    pub(crate) fn proof(&self) -> Proof {
        let hash = digest(&SHA256, &self.0);
        let mut cut = [0; BYTES];
        cut.iter_mut()
            .zip(hash.as_ref())
            .for_each(|(to, from)| *to = *from);
        Proof::new(cut)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// Prints no secret, so that none gets into a log.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_can_be_parsed_again_and_other_texts_are_refused() {
        let secret = Secret::random().unwrap();
        let text = secret.to_string();
        assert_eq!(text.len(), 22);
        assert_eq!(Secret::parse(&text), Some(secret.clone()));
        for other in [
            &text[1..],
            &format!("{text}A"),
            &format!("{text}=="),
            "",
            "äöü",
            &"/".repeat(22),
        ] {
            assert_eq!(Secret::parse(other), None, "{other}");
        }
        assert!(!format!("{secret:?}").contains(&text));
    }

    #[test]
    fn the_proof_is_the_beginning_of_the_sha_256_of_the_secret() {
        // From `head -c 16 /dev/zero | sha256sum`.
        let zeros = Secret([0; BYTES]);
        assert_eq!(
            zeros.proof().to_string(),
            "374708fff7719dd5979ec875d56cd228"
        );
        assert_ne!(Secret([1; BYTES]).proof(), zeros.proof());
    }
}
