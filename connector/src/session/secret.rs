//! The secret by which a client that comes back shows that the session it replaces was its own.

use crate::random::unguessable;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use channel_store::Proof;
use ring::digest::{SHA256, digest};
use std::fmt;

/// 128 random bits.
const BYTES: usize = 16;

/// What a client was given at its login, and shows at the next one. It stays the same over resumes, so that an answer that
/// is lost costs nothing. The store keeps a hash of it only.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret([u8; BYTES]);

impl Secret {
    /// A new one.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        unguessable().map(Self)
    }

    /// Reads what `Display` writes; `None` if the text is of another form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; BYTES];
        let read = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes);
        (read == Ok(BYTES)).then_some(Self(bytes))
    }

    /// What the store knows it by.
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

/// It is not to be read in any log.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_it_was_written_and_no_other_text_is_one() {
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
    fn the_proof_is_the_beginning_of_the_secrets_sha_256() {
        // From `head -c 16 /dev/zero | sha256sum`.
        let zeros = Secret([0; BYTES]);
        assert_eq!(
            zeros.proof().to_string(),
            "374708fff7719dd5979ec875d56cd228"
        );
        assert_ne!(Secret([1; BYTES]).proof(), zeros.proof());
    }
}
