//! Tokens of users, for systems that ask for them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// The key that signs tokens, and the time at which they end.
static ISSUER: OnceLock<(hmac::Key, u64)> = OnceLock::new();

/// From now on logins show tokens that are signed with this secret.
pub(crate) fn use_secret(secret: &[u8]) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    // Set once, at the start.
    let _ = ISSUER.set((key, now.as_secs() + 24 * 3_600));
}

/// The token of a user, if logins show tokens.
pub(crate) fn of(user: u32) -> Option<String> {
    let (key, ends) = ISSUER.get()?;
    let claims =
        format!(r#"{{"iss":"https://load.example","aud":"chat","sub":"u{user}","exp":{ends}}}"#);
    let [header, claims] = [r#"{"alg":"HS256"}"#, &claims].map(|it| URL_SAFE_NO_PAD.encode(it));
    let signed = format!("{header}.{claims}");
    let tag = URL_SAFE_NO_PAD.encode(hmac::sign(key, signed.as_bytes()));
    Some(format!("{signed}.{tag}"))
}
