//! The algorithms of signatures, and keys that check them. The cryptography is that of `ring`.

use ring::hmac;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use std::fmt;

/// An algorithm with which a token may be signed (RFC 7518, section 3.1; RFC 8037). `none` is not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    HS256,
    /// HMAC with SHA-384.
    HS384,
    /// HMAC with SHA-512.
    HS512,
    /// RSA, PKCS #1 1.5, with SHA-256.
    RS256,
    /// RSA, PKCS #1 1.5, with SHA-384.
    RS384,
    /// RSA, PKCS #1 1.5, with SHA-512.
    RS512,
    /// RSA, PSS, with SHA-256.
    PS256,
    /// RSA, PSS, with SHA-384.
    PS384,
    /// RSA, PSS, with SHA-512.
    PS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

impl Algorithm {
    const ALL: [Self; 12] = [
        Self::HS256,
        Self::HS384,
        Self::HS512,
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// The algorithm of this name, which is compared byte by byte. `None` for `none`, in every spelling.
    pub(super) fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|algorithm| algorithm.to_string() == name)
    }

    /// True if the issuer signs with a secret that it shares.
    pub(super) fn is_symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What checks a signature. `Debug` shows only its kind.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Material {
    /// A shared secret.
    Secret(Vec<u8>),
    /// The modulus and the exponent, big-endian, without zeros in front.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// An uncompressed point of P-256.
    P256(Vec<u8>),
    /// An uncompressed point of P-384.
    P384(Vec<u8>),
    /// A public key of Ed25519.
    Ed25519(Vec<u8>),
}

impl Material {
    /// True if signatures of this algorithm are made with keys of this kind. This keeps a public key from being taken for
    /// a shared secret.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                matches!(self, Self::Secret(_))
            }
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => matches!(self, Self::Rsa { .. }),
            Algorithm::ES256 => matches!(self, Self::P256(_)),
            Algorithm::ES384 => matches!(self, Self::P384(_)),
            Algorithm::EdDSA => matches!(self, Self::Ed25519(_)),
        }
    }

    /// True if this is the signature of `message`. Secrets are compared in constant time.
    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.fits(algorithm) {
            return false;
        }
        match self {
            Self::Secret(secret) => {
                let digest = match algorithm {
                    Algorithm::HS384 => hmac::HMAC_SHA384,
                    Algorithm::HS512 => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::verify(&hmac::Key::new(digest, secret), message, signature).is_ok()
            }
            Self::Rsa { n, e } => {
                let parameters: &signature::RsaParameters = match algorithm {
                    Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => &signature::RSA_PKCS1_2048_8192_SHA256,
                };
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, message, signature).is_ok()
            }
            Self::P256(point) => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                .verify(message, signature)
                .is_ok(),
            Self::P384(point) => UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point)
                .verify(message, signature)
                .is_ok(),
            Self::Ed25519(key) => UnparsedPublicKey::new(&signature::ED25519, key)
                .verify(message, signature)
                .is_ok(),
        }
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "a secret",
            Self::Rsa { .. } => "an RSA key",
            Self::P256(_) => "a key of P-256",
            Self::P384(_) => "a key of P-384",
            Self::Ed25519(_) => "a key of Ed25519",
        })
    }
}
