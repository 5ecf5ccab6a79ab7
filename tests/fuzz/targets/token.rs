//! Whatever a client shows as its token. Nobody can forge one, and the claims of one that the issuer has signed are bounded,
//! however strange the issuer is.
//!
//! The bytes are taken for a token as they are. Then the part up to the first line feed becomes a header, and the rest the claims of
//! a token that is signed with the issuer's secret.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use connector::access::{IssuerSettings, Verifier};
use libfuzzer_sys::fuzz_target;
use ring::hmac;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// The claims of the corpus are valid at this time.
const NOW: Duration = Duration::from_secs(1_800_000_000);

static VERIFIER: LazyLock<Arc<Verifier>> = LazyLock::new(|| {
    let file = std::env::temp_dir().join(format!("fuzz-token-{}", std::process::id()));
    std::fs::write(&file, SECRET).expect("the folder for temporary files can be written");
    let settings = format!(
        r#"{{"issuer": "i", "audience": ["a"], "algorithms": ["HS256"], "secret_file": {file:?}}}"#
    );
    let settings: IssuerSettings = serde_json::from_str(&settings).expect("valid settings");
    let verifier = Verifier::open(&[settings], Duration::from_secs(30)).expect("a secret");
    std::fs::remove_file(file).expect("it was just written");
    verifier
});

fn signed(header: &[u8], claims: &[u8]) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
    let mut token = format!("{header}.{claims}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let tag = hmac::sign(&key, token.as_bytes());
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(tag));
    token
}

fuzz_target!(|bytes: &[u8]| {
    let now = SystemTime::UNIX_EPOCH + NOW;
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(VERIFIER.verify(text, now).is_err(), "nobody can forge one");
    }
    let line = bytes.iter().position(|it| *it == b'\n');
    let (header, claims) = match line {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (&br#"{"alg":"HS256"}"#[..], bytes),
    };
    if let Ok(claims) = VERIFIER.verify(&signed(header, claims), now) {
        assert!((1..=128).contains(&claims.user.as_str().len()));
        assert!(claims.expires + 30 > NOW.as_secs(), "it is still valid");
        assert!(claims.channels.len() <= 100);
        assert!(claims.id.is_none_or(|id| id.len() <= 256));
    }
});
