//! Tokens of clients, good ones and forged ones.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// The issuer that shares a secret with connectors.
pub(crate) const SHARED: &str = "https://shared.example";
/// The issuer whose public key connectors have.
pub(crate) const PUBLIC: &str = "https://public.example";
pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a time after 1970").as_secs()
}

/// The claims of a good token of the issuer with the secret.
pub(crate) fn claims(user: &str) -> Value {
    json!({"iss": SHARED, "aud": "chat", "sub": user, "exp": now() + 3_600})
}

/// The claims with some of them replaced, or left out where they are null.
pub(crate) fn with(mut claims: Value, changes: &Value) -> Value {
    let fields = claims.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    claims
}

fn encoded(header: &Value, claims: &Value) -> String {
    let [header, claims] = [header, claims].map(|it| URL_SAFE_NO_PAD.encode(it.to_string()));
    format!("{header}.{claims}")
}

/// A token with the code of a secret.
pub(crate) fn with_secret(secret: &[u8], header: &Value, claims: &Value) -> String {
    let text = encoded(header, claims);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// A token with the secret that connectors know.
pub(crate) fn shared(claims: &Value) -> String {
    with_secret(SECRET, &json!({"alg": "HS256"}), claims)
}

/// A token without any signature.
pub(crate) fn unsigned(claims: &Value) -> String {
    format!("{}.", encoded(&json!({"alg": "none"}), claims))
}

/// The key of the other issuer.
pub(crate) struct Pair(Ed25519KeyPair);

impl Pair {
    pub(crate) fn new() -> Self {
        let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self(Ed25519KeyPair::from_pkcs8(pair.as_ref()).expect("a key"))
    }

    pub(crate) fn public(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    pub(crate) fn set(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.public());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one", "x": x}]})
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let text = encoded(header, claims);
        let signature = self.0.sign(text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
