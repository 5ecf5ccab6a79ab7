//! Issuers for tests: they sign tokens, and show their keys.

use super::settings::IssuerSettings;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA512, RsaKeyPair,
};
use ring::{hmac, rsa};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::SystemTime;

pub(crate) const ISSUER: &str = "https://id.example";
pub(crate) const AUDIENCE: &str = "chat";
/// A secret of 64 bytes.
pub(crate) const SECRET: &[u8] =
    b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Signs tokens.
pub(crate) enum Signer {
    Secret(Vec<u8>),
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl Signer {
    pub(crate) fn secret() -> Self {
        Self::Secret(SECRET.to_vec())
    }

    pub(crate) fn ed25519() -> Self {
        let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap())
    }

    pub(crate) fn p256() -> Self {
        let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pair = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(kind, pair.as_ref(), &random).unwrap())
    }

    pub(crate) fn p384() -> Self {
        let (random, kind) = (SystemRandom::new(), &ECDSA_P384_SHA384_FIXED_SIGNING);
        let pair = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self::P384(EcdsaKeyPair::from_pkcs8(kind, pair.as_ref(), &random).unwrap())
    }

    /// A key that is used in these tests alone, because `ring` makes none.
    pub(crate) fn rsa() -> Self {
        let pair = include_bytes!("../../tests/unit/testing/rsa.pk8");
        Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(pair).unwrap()))
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Secret(secret) => {
                let digest = match algorithm {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                let tag = hmac::sign(&hmac::Key::new(digest, secret), message);
                tag.as_ref().to_vec()
            }
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Self::P256(pair) | Self::P384(pair) => {
                pair.sign(&random, message).unwrap().as_ref().to_vec()
            }
            Self::Rsa(pair) => {
                let padding: &dyn ring::signature::RsaEncoding = match algorithm {
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, message, &mut signature)
                    .unwrap();
                signature
            }
        }
    }

    /// The algorithm that is used unless a header says otherwise.
    fn algorithm(&self) -> &'static str {
        match self {
            Self::Secret(_) => "HS256",
            Self::Ed25519(_) => "EdDSA",
            Self::P256(_) => "ES256",
            Self::P384(_) => "ES384",
            Self::Rsa(_) => "RS256",
        }
    }

    /// A token with these members added to its header, and with exactly these claims.
    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let mut whole = json!({"alg": self.algorithm(), "typ": "JWT", "kid": "k"});
        for (name, value) in header.as_object().unwrap() {
            whole[name] = value.clone();
        }
        self.raw(&whole.to_string(), &claims.to_string())
    }

    /// A token with these texts as header and claims. The signature is made by the `alg` of the header, if that is known.
    pub(crate) fn raw(&self, header: &str, claims: &str) -> String {
        let parsed: Value = serde_json::from_str(header).unwrap_or_default();
        let algorithm = parsed["alg"].as_str().unwrap_or(self.algorithm());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.sign(algorithm, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token of [`ISSUER`] for this user, which is valid for an hour, with these claims in addition.
    pub(crate) fn token(&self, user: &str, more: &Value) -> String {
        self.token_with(&json!({}), &claims(user, more))
    }

    /// The public key as a JSON web key with this id.
    pub(crate) fn jwk(&self, id: &str) -> Value {
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let curve = |name: &str, pair: &EcdsaKeyPair, length: usize| {
            let point = pair.public_key().as_ref();
            let (x, y) = point[1..].split_at(length);
            json!({"kty": "EC", "crv": name, "x": encoded(x), "y": encoded(y), "kid": id})
        };
        match self {
            Self::Secret(secret) => json!({"kty": "oct", "k": encoded(secret), "kid": id}),
            Self::Ed25519(pair) => {
                let x = encoded(pair.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": id})
            }
            Self::P256(pair) => curve("P-256", pair, 32),
            Self::P384(pair) => curve("P-384", pair, 48),
            Self::Rsa(pair) => {
                let key = rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "n": encoded(&key.n), "e": encoded(&key.e), "kid": id})
            }
        }
    }

    /// The public key as PEM.
    pub(crate) fn pem(&self) -> String {
        let prefix: &[u8] = match self {
            Self::Ed25519(_) => &[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0],
            Self::P256(_) => &[
                0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86,
                0x48, 0xce, 0x3d, 3, 1, 7, 3, 0x42, 0,
            ],
            Self::P384(_) => &[
                0x30, 0x76, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81,
                4, 0, 0x22, 3, 0x62, 0,
            ],
            Self::Rsa(_) => &[
                0x30, 0x82, 1, 0x22, 0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1,
                5, 0, 3, 0x82, 1, 0x0f, 0,
            ],
            Self::Secret(_) => panic!("a secret has no public key"),
        };
        let key = match self {
            Self::Ed25519(pair) => pair.public_key().as_ref(),
            Self::P256(pair) | Self::P384(pair) => pair.public_key().as_ref(),
            Self::Rsa(pair) => pair.public_key().as_ref(),
            Self::Secret(_) => &[],
        };
        let der = [prefix, key].concat();
        let base64 = STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n")
    }
}

fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// The claims of a token of [`ISSUER`] for this user, which is valid for an hour.
pub(crate) fn claims(user: &str, more: &Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": user,
        "iat": now(),
        "exp": now() + 3_600,
    });
    for (name, value) in more.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    super::claims::seconds_since_1970(SystemTime::now())
}

/// Settings of [`ISSUER`] without keys.
pub(crate) fn settings(algorithms: &[super::Algorithm]) -> IssuerSettings {
    IssuerSettings {
        issuer: ISSUER.to_owned(),
        audience: vec![AUDIENCE.to_owned(), "other".to_owned()],
        algorithms: algorithms.to_vec(),
        jwks_file: None,
        jwks_url: None,
        jwks_ca_file: None,
        public_key_file: None,
        secret_file: None,
        previous_secret_file: None,
        user_claim: "sub".to_owned(),
    }
}

/// A file with this content, which lives as long as the directory.
pub(crate) fn file(directory: &tempfile::TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A set of these keys.
pub(crate) fn jwks(keys: &[(&str, &Signer)]) -> String {
    let keys: Vec<_> = keys.iter().map(|(id, signer)| signer.jwk(id)).collect();
    json!({ "keys": keys }).to_string()
}
