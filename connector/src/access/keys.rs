//! The keys of an issuer, read from a set of JSON web keys, from PEM, or from secrets.

use super::algorithm::{Algorithm, Material};
use super::der;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;

/// The most bytes that a file or an answer with keys may have.
pub(super) const LARGEST: usize = 256 << 10;
/// The most keys of a set.
const MOST: usize = 100;
/// A secret is at least as long as the shortest digest (RFC 7518, section 3.2).
const SHORTEST_SECRET: usize = 32;
/// The bytes of the shortest modulus that is accepted: 2,048 bits.
const SHORTEST_MODULUS: usize = 256;

/// Why keys cannot be used. It never shows a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is longer than anything with keys should be.
    #[error("there are more than 256 KiB; expected only keys")]
    TooLong,
    /// A set of keys cannot be read.
    #[error("this is not a set of JSON web keys (RFC 7517): expected an object with \"keys\"")]
    NoSet,
    /// A set has no key that fits.
    #[error("the set has no key for the algorithms of the issuer ({algorithms})")]
    NoneFits {
        /// The algorithms of the issuer.
        algorithms: String,
    },
    /// A set has too many keys.
    #[error("the set has more than {MOST} keys")]
    TooMany,
    /// Not a public key as PEM.
    #[error(
        "this is not a public key as PEM: expected -----BEGIN PUBLIC KEY-----, with a key of RSA (2048 bits or more), P-256, P-384 or Ed25519"
    )]
    NoPublicKey,
    /// A public key for another algorithm.
    #[error("the key does not fit the algorithms of the issuer ({algorithms})")]
    DoesNotFit {
        /// The algorithms of the issuer.
        algorithms: String,
    },
    /// A secret that is a key in truth.
    #[error(
        "the secret is a key as PEM. Anybody who knows a public key could sign with it: use public_key_file for it, and an algorithm that is not HS"
    )]
    SecretIsPem,
    /// A secret that can be guessed.
    #[error("the secret has fewer than {SHORTEST_SECRET} bytes, so it could be guessed")]
    ShortSecret,
}

/// A key of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    pub(super) material: Material,
}

impl Key {
    /// True if the key is meant for this algorithm.
    pub(super) fn serves(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|only| only == algorithm) && self.material.fits(algorithm)
    }
}

/// The keys of an issuer at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// True for a set of JSON web keys, in which a token names its key.
    is_named: bool,
}

/// The keys that may have signed a token.
pub(super) enum Candidates<'a> {
    /// One of these.
    Keys(Vec<&'a Key>),
    /// The token names a key that is not in the set.
    Unknown,
    /// The token names no key, and several fit.
    Several,
}

impl KeySet {
    /// Reads a set of JSON web keys. Keys that serve no algorithm of the issuer are left out, as RFC 7517 wants it.
    pub(super) fn of_jwks(json: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        if json.len() > LARGEST {
            return Err(KeyError::TooLong);
        }
        let set: JwkSet = serde_json::from_slice(json).map_err(|_| KeyError::NoSet)?;
        if set.keys.len() > MOST {
            return Err(KeyError::TooMany);
        }
        let keys = set.keys.into_iter();
        let keys = keys.filter_map(|key| serde_json::from_value::<Jwk>(key).ok()?.into_key());
        let serves = |key: &Key| algorithms.iter().any(|it| key.serves(*it));
        let keys: Vec<_> = keys.filter(serves).collect();
        if keys.is_empty() {
            let algorithms = list(algorithms);
            return Err(KeyError::NoneFits { algorithms });
        }
        Ok(Self {
            keys,
            is_named: true,
        })
    }

    /// Reads one public key as PEM.
    pub(super) fn of_pem(text: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        if text.len() > LARGEST {
            return Err(KeyError::TooLong);
        }
        let material = std::str::from_utf8(text).ok().and_then(public_key);
        let material = material.filter(is_strong).ok_or(KeyError::NoPublicKey)?;
        if !algorithms.iter().all(|it| material.fits(*it)) {
            let algorithms = list(algorithms);
            return Err(KeyError::DoesNotFit { algorithms });
        }
        Ok(Self::unnamed([material]))
    }

    /// Takes shared secrets. A line break at the end of a file does not belong to its secret.
    pub(super) fn of_secrets(secrets: &[Vec<u8>]) -> Result<Self, KeyError> {
        let secrets = secrets.iter().map(|secret| {
            let secret = secret.trim_ascii_end();
            if secret.windows(11).any(|part| part == b"-----BEGIN ") {
                return Err(KeyError::SecretIsPem);
            }
            if secret.len() < SHORTEST_SECRET {
                return Err(KeyError::ShortSecret);
            }
            if secret.len() > LARGEST {
                return Err(KeyError::TooLong);
            }
            Ok(Material::Secret(secret.to_vec()))
        });
        let secrets = secrets.collect::<Result<Vec<_>, _>>()?;
        Ok(Self::unnamed(secrets))
    }

    fn unnamed(materials: impl IntoIterator<Item = Material>) -> Self {
        let keys = materials.into_iter().map(|material| Key {
            id: None,
            algorithm: None,
            material,
        });
        Self {
            keys: keys.collect(),
            is_named: false,
        }
    }

    /// The keys that may have signed a token that names this key and this algorithm.
    pub(super) fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> Candidates<'_> {
        let serving = self.keys.iter().filter(|key| key.serves(algorithm));
        match id {
            _ if !self.is_named => Candidates::Keys(serving.collect()),
            Some(id) => {
                let named: Vec<_> = serving
                    .filter(|key| key.id.as_deref() == Some(id))
                    .collect();
                if named.is_empty() {
                    Candidates::Unknown
                } else {
                    Candidates::Keys(named)
                }
            }
            None => match serving.collect::<Vec<_>>() {
                none if none.is_empty() => Candidates::Unknown,
                one if one.len() == 1 => Candidates::Keys(one),
                _ => Candidates::Several,
            },
        }
    }
}

fn list(algorithms: &[Algorithm]) -> String {
    let names: Vec<_> = algorithms.iter().map(ToString::to_string).collect();
    names.join(", ")
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

/// The members of a JSON web key that matter here (RFC 7517, section 4; RFC 7518, section 6; RFC 8037, section 2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    /// `None` if no token can be signed with it: a key for encryption, of another kind, or too weak. A secret in a set is
    /// left out, too: sets are public.
    fn into_key(self) -> Option<Key> {
        let is_for_signatures = self.usage.as_deref().is_none_or(|it| it == "sig")
            && (self.key_ops.as_ref()).is_none_or(|it| it.iter().any(|it| it == "verify"));
        if !is_for_signatures {
            return None;
        }
        let algorithm = match &self.alg {
            Some(name) => Some(Algorithm::named(name)?),
            None => None,
        };
        let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        let point = |length: usize| {
            let (x, y) = (bytes(&self.x)?, bytes(&self.y)?);
            let is_point = x.len() == length && y.len() == length;
            is_point.then(|| [&[4][..], &x, &y].concat())
        };
        let material = match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => Material::Rsa {
                n: without_zeros(&bytes(&self.n)?),
                e: without_zeros(&bytes(&self.e)?),
            },
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("OKP", Some("Ed25519")) => {
                Material::Ed25519(bytes(&self.x).filter(|x| x.len() == 32)?)
            }
            _ => return None,
        };
        is_strong(&material).then_some(Key {
            id: self.kid,
            algorithm,
            material,
        })
    }
}

fn is_strong(material: &Material) -> bool {
    !matches!(material, Material::Rsa { n, .. } if n.len() < SHORTEST_MODULUS)
}

fn without_zeros(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number[zeros..].to_vec()
}

/// Reads `-----BEGIN PUBLIC KEY-----` (RFC 7468, section 13).
fn public_key(text: &str) -> Option<Material> {
    let (_, rest) = text.split_once("-----BEGIN PUBLIC KEY-----")?;
    let (base64, _) = rest.split_once("-----END PUBLIC KEY-----")?;
    let base64: String = base64.split_ascii_whitespace().collect();
    der::public_key(&STANDARD.decode(base64).ok()?)
}
