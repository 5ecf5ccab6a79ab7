//! Which tokens are accepted, and how keys change.

mod hostile;
mod keeping;

use super::testing::{AUDIENCE, SECRET, Signer, claims, file, jwks, now, settings};
use super::*;
use channel_store::UserInfo;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// A verifier for tokens of these keys.
fn verifier(algorithms: &[Algorithm], keys: &[(&str, &Signer)]) -> Arc<Verifier> {
    let directory = TempDir::new().unwrap();
    let issuer = IssuerSettings {
        jwks_file: Some(file(&directory, "jwks.json", jwks(keys).as_bytes())),
        ..settings(algorithms)
    };
    Verifier::open(&[issuer], Duration::from_secs(30)).unwrap()
}

fn accepted(verifier: &Verifier, token: &str) -> Claims {
    verifier.verify(token, SystemTime::now()).unwrap()
}

#[test]
fn tokens_of_every_algorithm_are_accepted_from_jwks_and_pem() {
    for (signer, algorithm) in [
        (Signer::ed25519(), Algorithm::EdDSA),
        (Signer::p256(), Algorithm::ES256),
        (Signer::p384(), Algorithm::ES384),
        (Signer::rsa(), Algorithm::RS256),
        (Signer::rsa(), Algorithm::PS512),
    ] {
        let directory = TempDir::new().unwrap();
        let pem = IssuerSettings {
            public_key_file: Some(file(&directory, "key.pem", signer.pem().as_bytes())),
            ..settings(&[algorithm])
        };
        let pem = Verifier::open(&[pem], Duration::ZERO).unwrap();
        let set = verifier(&[algorithm], &[("k", &signer)]);
        let header = json!({"alg": algorithm.to_string()});
        let token = signer.token_with(&header, &claims("ann", &json!({})));
        for verifier in [&pem, &set] {
            assert_eq!(
                accepted(verifier, &token).user.as_str(),
                "ann",
                "{algorithm}"
            );
        }
    }
}

#[test]
fn a_secret_and_the_one_before_it_are_accepted() {
    let directory = TempDir::new().unwrap();
    let (new, old) = (b"new secret, which is long enough\n", [b'o'; 32]);
    let issuer = IssuerSettings {
        secret_file: Some(file(&directory, "new", new)),
        previous_secret_file: Some(file(&directory, "old", &old)),
        ..settings(&[Algorithm::HS256, Algorithm::HS512])
    };
    let verifier = Verifier::open(&[issuer], Duration::ZERO).unwrap();
    for (secret, algorithm, is_accepted) in [
        (&new[..32], "HS256", true),
        (&new[..32], "HS512", true),
        (&new[..32], "HS384", false),
        (&old, "HS256", true),
        (SECRET, "HS256", false),
    ] {
        let signer = Signer::Secret(secret.to_vec());
        let token = signer.token_with(&json!({"alg": algorithm}), &claims("ann", &json!({})));
        let verified = verifier.verify(&token, SystemTime::now());
        assert_eq!(verified.is_ok(), is_accepted, "{algorithm} {verified:?}");
    }
}

#[test]
fn a_valid_token_says_who_the_user_is_and_what_it_may_do() {
    let signer = Signer::p256();
    let verifier = verifier(&[Algorithm::ES256], &[("k", &signer)]);
    let more = json!({
        "aud": ["somebody", AUDIENCE],
        "exp": now() as f64 + 60.75,
        "jti": "id",
        "channels": ["a", "b", "a"],
        "caps": [{"channels": ["game:*"], "allow": ["send", "a right of tomorrow"]}],
        "info": {"name": "安"},
        "unknown": {"deep": [1, 2, 3]},
    });
    let claims = accepted(&verifier, &signer.token("ann", &more));
    assert_eq!(claims.expires, now() + 60);
    assert_eq!(claims.id.as_deref(), Some("id"));
    let channels: Vec<_> = claims.channels.iter().map(|it| it.as_str()).collect();
    assert_eq!(channels, ["a", "b"]);
    let info = claims.info.as_ref().map(UserInfo::as_str);
    assert_eq!(info, Some(r#"{"name":"安"}"#));
    let channel = |name: &str| channel_store::ChannelName::new(name).unwrap();
    for (right, name, expected) in [
        (Right::Send, "game:1", true),
        (Right::Join, "game:1", false),
        (Right::Send, "game", false),
        (Right::Join, "a", true),
        (Right::Send, "a", false),
    ] {
        let allowed = claims.grants.allow(right, &channel(name));
        assert_eq!(allowed, expected, "{right} {name}");
    }
}

#[test]
fn a_clock_that_is_25_seconds_off_is_no_trouble_and_one_that_is_90_seconds_off_is() {
    let signer = Signer::p256();
    let verifier = verifier(&[Algorithm::ES256], &[("k", &signer)]);
    let token = signer.token("ann", &json!({"exp": now() + 60, "nbf": now()}));
    let at = |seconds: i64| {
        let now = SystemTime::now();
        let time = match u64::try_from(seconds) {
            Ok(later) => now + Duration::from_secs(later),
            Err(_) => now - Duration::from_secs(seconds.unsigned_abs()),
        };
        verifier.verify(&token, time).map(|_| ())
    };
    assert_eq!(at(-25), Ok(()));
    assert_eq!(at(60 + 25), Ok(()));
    assert_eq!(at(-90), Err(Rejected::NotYet));
    assert_eq!(at(60 + 90), Err(Rejected::Expired));
}

#[test]
fn a_user_may_be_named_by_another_claim_and_by_a_number() {
    let signer = Signer::p256();
    let directory = TempDir::new().unwrap();
    let keys = jwks(&[("k", &signer)]);
    let issuer = IssuerSettings {
        jwks_file: Some(file(&directory, "jwks.json", keys.as_bytes())),
        user_claim: "uid".to_owned(),
        ..settings(&[Algorithm::ES256])
    };
    let verifier = Verifier::open(&[issuer], Duration::ZERO).unwrap();
    for (uid, expected) in [
        (json!(17), Some("17")),
        (json!("17"), Some("17")),
        (json!(9_007_199_254_740_991_u64), Some("9007199254740991")),
        (json!(9_007_199_254_740_992_u64), None),
        (json!(1.5), None),
        (json!(true), None),
        (json!(""), None),
        (json!(" \u{a0} "), None),
        (json!("admin\u{200b}"), None),
        (json!("\u{202e}nimda"), None),
        (json!("x".repeat(129)), None),
        (json!(null), None),
    ] {
        let token = signer.token("ann", &json!({"uid": uid}));
        let verified = verifier.verify(&token, SystemTime::now());
        let user = verified.as_ref().ok().map(|it| it.user.as_str());
        assert_eq!(user, expected, "{uid}");
    }
}

#[test]
fn settings_that_would_let_the_wrong_ones_in_are_refused() {
    let directory = TempDir::new().unwrap();
    let pem = file(&directory, "pem", Signer::p256().pem().as_bytes());
    let key = file(&directory, "secret", SECRET);
    let short = file(&directory, "short", b"too short for a secret");
    let set = jwks(&[("k", &Signer::p256())]);
    let set = file(&directory, "jwks.json", set.as_bytes());
    let empty = file(&directory, "empty.json", br#"{"keys":[]}"#);
    let large = file(&directory, "large.json", &vec![b' '; 300 << 10]);
    let (hs, es) = ([Algorithm::HS256], [Algorithm::ES256]);
    let secret = |algorithms: &[Algorithm], file| IssuerSettings {
        secret_file: Some(file),
        ..settings(algorithms)
    };
    let public = |algorithms: &[Algorithm], file| IssuerSettings {
        public_key_file: Some(file),
        ..settings(algorithms)
    };
    let fetched = |url: &str| IssuerSettings {
        jwks_url: Some(url.to_owned()),
        ..settings(&es)
    };
    let trusting = |url: &str, ca: &Path| IssuerSettings {
        jwks_ca_file: Some(ca.to_owned()),
        ..fetched(url)
    };
    let keys = |file| IssuerSettings {
        jwks_file: Some(file),
        ..settings(&es)
    };
    for (issuer, expected) in [
        (secret(&hs, pem.clone()), "Anybody who knows a public key"),
        (secret(&hs, short), "fewer than 32 bytes"),
        (secret(&es, key.clone()), "need public keys"),
        (public(&hs, pem.clone()), "need secret_file"),
        (public(&[Algorithm::EdDSA], pem.clone()), "does not fit"),
        (public(&es, key.clone()), "not a public key as PEM"),
        (keys(empty), "no key for the algorithms"),
        (keys(large), "more than 262144 bytes"),
        (keys(key.clone()), "not a set of JSON web keys"),
        (keys(directory.path().join("nowhere")), "cannot read"),
        (trusting("http://id.example", &pem), "jwks_ca_file needs"),
        (trusting("https://id.example", &key), "jwks_ca_file: "),
        (fetched("ftp://id.example"), "jwks_url must be"),
        (fetched("https://u:p@id.example/keys"), "jwks_url must be"),
        (settings(&es), "exactly one of"),
        (
            IssuerSettings {
                jwks_file: Some(set.clone()),
                ..public(&es, pem.clone())
            },
            "exactly one of",
        ),
        (
            IssuerSettings {
                audience: vec![],
                ..keys(set.clone())
            },
            "audience is empty",
        ),
        (
            IssuerSettings {
                algorithms: vec![],
                ..keys(set.clone())
            },
            "algorithms is empty",
        ),
        (
            IssuerSettings {
                issuer: String::new(),
                ..keys(set.clone())
            },
            "issuer is empty",
        ),
        (
            IssuerSettings {
                user_claim: String::new(),
                ..keys(set.clone())
            },
            "user_claim is",
        ),
        (
            IssuerSettings {
                previous_secret_file: Some(key),
                ..keys(set.clone())
            },
            "needs secret_file",
        ),
    ] {
        let shown = format!("{issuer:?}");
        let error = Verifier::open(&[issuer], Duration::ZERO).err();
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{shown}: {error}");
        assert!(!error.contains("0123456789abcdef"), "{error}");
    }
    let twice = [keys(set.clone()), keys(set)];
    let error = Verifier::open(&twice, Duration::ZERO).err().unwrap();
    assert!(error.to_string().contains("named twice"), "{error}");
    assert!(Verifier::open(&[], Duration::ZERO).is_err());
    let unknown =
        toml::from_str::<IssuerSettings>("issuer = 'i'\naudience = ['a']\nalgorithms = ['none']");
    assert!(unknown.is_err(), "none is no algorithm");
}
