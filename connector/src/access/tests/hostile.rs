//! Tokens that must not be accepted, each with the reason that the log gives.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The header of a token that would be accepted.
const HEADER: &str = r#"{"alg":"ES256","kid":"k"}"#;

fn text(more: &Value) -> String {
    claims("ann", more).to_string()
}

/// A token of `signer` with this added to its header.
fn header(signer: &Signer, more: &Value) -> String {
    signer.token_with(more, &claims("ann", &json!({})))
}

#[test]
fn hostile_tokens_are_refused_with_the_right_reason_in_the_log() {
    let (signer, other, rsa) = (Signer::p256(), Signer::p256(), Signer::rsa());
    let keys = [("k", &signer), ("second", &other), ("rsa", &rsa)];
    let verifier = verifier(&[Algorithm::ES256, Algorithm::RS256], &keys);
    let good = signer.token("ann", &json!({}));
    assert_eq!(accepted(&verifier, &good).user.as_str(), "ann");
    let parts: Vec<&str> = good.split('.').collect();
    let (first, second, third) = (parts[0], parts[1], parts[2]);
    let encoded = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let with = |more: &Value| signer.token("ann", more);
    let raw = |header: &str, claims: &str| signer.raw(header, claims);
    let claim = |name: &str| Rejected::Claim(name.to_owned());
    let missing = |name: &str| Rejected::MissingClaim(name.to_owned());
    let none = encoded(r#"{"alg":"none"}"#);
    // Anybody who knows the public key could sign with it, if it were taken for a secret.
    let public = Signer::Secret(signer.pem().into_bytes());
    let flipped = {
        let last = if third.starts_with('A') { "B" } else { "A" };
        format!("{first}.{second}.{last}{}", &third[1..])
    };
    let caps = |caps: Value| with(&json!({ "caps": caps }));
    let many: Vec<String> = (0..501).map(|at| at.to_string()).collect();

    let table: Vec<(&str, String, Rejected)> = vec![
        // The form.
        ("an empty token", String::new(), Rejected::Form),
        ("one part", "abc".to_owned(), Rejected::Form),
        ("two parts", format!("{first}.{second}"), Rejected::Form),
        ("dots alone", "..".to_owned(), Rejected::Form),
        ("four parts", format!("{good}.{third}"), Rejected::Form),
        (
            "five parts, as an encrypted token has",
            format!("{good}.{third}.{third}"),
            Rejected::Form,
        ),
        ("no signature", format!("{first}.{second}."), Rejected::Form),
        ("padding", format!("{good}="), Rejected::Form),
        (
            "the other base64",
            format!("{first}.{second}.{third}+/"),
            Rejected::Form,
        ),
        ("blanks around", format!(" {good}\n"), Rejected::Form),
        ("a byte of zero", format!("{good}\0"), Rejected::Form),
        (
            "letters that are not ASCII",
            format!("{first}.{second}.签名"),
            Rejected::Form,
        ),
        (
            "8 KiB and more",
            with(&json!({"x": "y".repeat(8_000)})),
            Rejected::TooLong,
        ),
        ("a megabyte", "a".repeat(1 << 20), Rejected::TooLong),
        // The header.
        (
            "a header that is no object",
            raw("[]", "{}"),
            Rejected::Header,
        ),
        ("a header that is no JSON", raw("{", "{}"), Rejected::Header),
        (
            "two algorithms",
            raw(r#"{"alg":"ES256","alg":"ES256"}"#, &text(&json!({}))),
            Rejected::Header,
        ),
        (
            "two algorithms, one escaped",
            raw(r#"{"alg":"ES256","\u0061lg":"none"}"#, &text(&json!({}))),
            Rejected::Header,
        ),
        (
            "no algorithm",
            raw(r#"{"kid":"k"}"#, &text(&json!({}))),
            Rejected::Algorithm,
        ),
        (
            "the algorithm none",
            format!("{none}.{second}.{third}"),
            Rejected::Algorithm,
        ),
        (
            "the algorithm none without a signature",
            format!("{none}.{second}."),
            Rejected::Form,
        ),
        (
            "the algorithm nOnE",
            header(&signer, &json!({"alg": "nOnE"})),
            Rejected::Algorithm,
        ),
        (
            "another spelling",
            header(&signer, &json!({"alg": "es256"})),
            Rejected::Algorithm,
        ),
        (
            "an algorithm that is no text",
            header(&signer, &json!({"alg": 7})),
            Rejected::Algorithm,
        ),
        (
            "an algorithm that the issuer does not use",
            header(&signer, &json!({"alg": "ES384"})),
            Rejected::Algorithm,
        ),
        (
            "the public key taken for a secret",
            header(&public, &json!({"alg": "HS256"})),
            Rejected::Algorithm,
        ),
        (
            "the algorithm of another key",
            header(&signer, &json!({"alg": "RS256"})),
            Rejected::UnknownKey,
        ),
        (
            "crit",
            header(&signer, &json!({"crit": ["exp"]})),
            Rejected::HeaderMember("crit"),
        ),
        (
            "an empty crit",
            header(&signer, &json!({"crit": []})),
            Rejected::HeaderMember("crit"),
        ),
        (
            "jku",
            header(&other, &json!({"jku": "http://evil.example/"})),
            Rejected::HeaderMember("jku"),
        ),
        (
            "jwk",
            header(&other, &json!({"jwk": other.jwk("k")})),
            Rejected::HeaderMember("jwk"),
        ),
        (
            "x5u",
            header(&other, &json!({"x5u": "http://evil.example/"})),
            Rejected::HeaderMember("x5u"),
        ),
        (
            "x5c",
            header(&other, &json!({"x5c": ["AAAA"]})),
            Rejected::HeaderMember("x5c"),
        ),
        (
            "b64",
            header(&signer, &json!({"b64": false})),
            Rejected::HeaderMember("b64"),
        ),
        (
            "a compressed token",
            header(&signer, &json!({"zip": "DEF"})),
            Rejected::HeaderMember("zip"),
        ),
        (
            "a nested token",
            signer.raw(r#"{"alg":"ES256","kid":"k","cty":"JWT"}"#, &good),
            Rejected::HeaderMember("cty"),
        ),
        (
            "a nested token without cty",
            signer.raw(HEADER, &good),
            Rejected::Claims,
        ),
        (
            "a token for a log-out",
            header(&signer, &json!({"typ": "logout+jwt"})),
            Rejected::HeaderMember("typ"),
        ),
        (
            "a type that is no text",
            header(&signer, &json!({"typ": 1})),
            Rejected::HeaderMember("typ"),
        ),
        (
            "an id of a key that is no text",
            header(&signer, &json!({"kid": 1})),
            Rejected::HeaderMember("kid"),
        ),
        (
            "a key that is not known",
            header(&signer, &json!({"kid": "../../etc/passwd"})),
            Rejected::UnknownKey,
        ),
        (
            "no key, and several fit",
            raw(r#"{"alg":"ES256"}"#, &text(&json!({}))),
            Rejected::WhichKey,
        ),
        // The signature.
        (
            "a signature of another key",
            header(&other, &json!({})),
            Rejected::Signature,
        ),
        ("a signature that was changed", flipped, Rejected::Signature),
        (
            "a signature that is too short",
            format!("{first}.{second}.AAAA"),
            Rejected::Signature,
        ),
        (
            "a signature of zeros",
            format!("{first}.{second}.{}", URL_SAFE_NO_PAD.encode([0; 64])),
            Rejected::Signature,
        ),
        (
            "other claims",
            format!(
                "{first}.{}.{third}",
                encoded(&text(&json!({"sub": "admin"})))
            ),
            Rejected::Signature,
        ),
        (
            "another header",
            format!(
                "{}.{second}.{third}",
                encoded(r#"{"kid":"k","alg":"ES256"}"#)
            ),
            Rejected::Signature,
        ),
        // The claims.
        (
            "claims that are no object",
            raw(HEADER, "7"),
            Rejected::Claims,
        ),
        (
            "claims that are no JSON",
            raw(HEADER, "{"),
            Rejected::Claims,
        ),
        (
            "a user twice",
            raw(HEADER, r#"{"sub":"ann","sub":"admin"}"#),
            Rejected::Claims,
        ),
        (
            "nested too deep",
            raw(
                HEADER,
                &format!(r#"{{"x":{}{}}}"#, "[".repeat(2_000), "]".repeat(2_000)),
            ),
            Rejected::Claims,
        ),
        (
            "no issuer",
            with(&json!({"iss": null})),
            Rejected::UnknownIssuer,
        ),
        (
            "another issuer",
            with(&json!({"iss": "https://evil.example"})),
            Rejected::UnknownIssuer,
        ),
        (
            "an issuer with a slash at the end",
            with(&json!({"iss": "https://id.example/"})),
            Rejected::UnknownIssuer,
        ),
        (
            "a list of issuers",
            with(&json!({"iss": ["https://id.example"]})),
            Rejected::UnknownIssuer,
        ),
        ("no audience", with(&json!({"aud": null})), missing("aud")),
        (
            "another audience",
            with(&json!({"aud": "CHAT"})),
            Rejected::Audience,
        ),
        (
            "an empty list of audiences",
            with(&json!({"aud": []})),
            Rejected::Audience,
        ),
        (
            "an audience that is an object",
            with(&json!({"aud": {"chat": true}})),
            claim("aud"),
        ),
        (
            "a list with a number",
            with(&json!({"aud": ["chat", 1]})),
            claim("aud"),
        ),
        ("no user", with(&json!({"sub": null})), missing("sub")),
        (
            "a user that is a list",
            with(&json!({"sub": ["ann"]})),
            claim("sub"),
        ),
        (
            "a user with an invisible character",
            with(&json!({"sub": "ann\u{200b}"})),
            claim("sub"),
        ),
        (
            "a user of blanks",
            with(&json!({"sub": "  "})),
            claim("sub"),
        ),
        ("no end", with(&json!({"exp": null})), missing("exp")),
        (
            "an end that is a text",
            with(&json!({"exp": "9999999999"})),
            claim("exp"),
        ),
        (
            "an end beyond all numbers",
            with(&json!({"exp": 1e300})),
            claim("exp"),
        ),
        (
            "an end before 1970",
            with(&json!({"exp": -1})),
            claim("exp"),
        ),
        (
            "an end that is true",
            with(&json!({"exp": true})),
            claim("exp"),
        ),
        (
            "an old token",
            with(&json!({"exp": now() - 31})),
            Rejected::Expired,
        ),
        (
            "an old token of another audience",
            with(&json!({"exp": 1, "aud": "x"})),
            Rejected::Audience,
        ),
        (
            "a token for tomorrow",
            with(&json!({"nbf": now() + 3_000})),
            Rejected::NotYet,
        ),
        (
            "a token made tomorrow",
            with(&json!({"iat": now() + 3_000})),
            Rejected::NotYet,
        ),
        (
            "a start that is a text",
            with(&json!({"nbf": "now"})),
            claim("nbf"),
        ),
        (
            "a long id",
            with(&json!({"jti": "x".repeat(257)})),
            claim("jti"),
        ),
        (
            "an id that is a number",
            with(&json!({"jti": 1})),
            claim("jti"),
        ),
        (
            "channels that are a text",
            with(&json!({"channels": "room"})),
            claim("channels"),
        ),
        (
            "101 channels",
            with(&json!({"channels": vec!["a"; 101]})),
            claim("channels"),
        ),
        (
            "a channel without a name",
            with(&json!({"channels": [""]})),
            claim("channels"),
        ),
        (
            "a channel that is a number",
            with(&json!({"channels": [4]})),
            claim("channels"),
        ),
        ("grants that are an object", caps(json!({})), claim("caps")),
        (
            "a grant with an unknown member",
            caps(json!([{"channels": [], "allow": [], "until": 1}])),
            claim("caps"),
        ),
        (
            "a grant that gives channels twice",
            raw(
                HEADER,
                &text(&json!({})).replace(
                    "{\"aud\"",
                    "{\"caps\":[{\"channels\":[],\"allow\":[]},7],\"aud\"",
                ),
            ),
            claim("caps"),
        ),
        (
            "a grant for a channel without a name",
            caps(json!([{"channels": ["a*b", ""], "allow": []}])),
            claim("caps"),
        ),
        (
            "501 patterns",
            caps(json!([{"channels": many, "allow": []}])),
            claim("caps"),
        ),
        (
            "info that is a text",
            with(&json!({"info": "x"})),
            claim("info"),
        ),
        (
            "a kilobyte of info",
            with(&json!({"info": {"x": "y".repeat(1_024)}})),
            claim("info"),
        ),
    ];
    assert!(table.len() >= 40);
    for (what, token, expected) in &table {
        let refused = verifier.verify(token, SystemTime::now());
        assert_eq!(refused.as_ref().err(), Some(expected), "{what}");
        let words = expected.to_string();
        assert!(!words.contains(second), "{what}: the log shows no token");
        let is_expired = matches!(expected, Rejected::Expired);
        let reason = if is_expired {
            wire::Reason::TokenExpired
        } else {
            wire::Reason::TokenInvalid
        };
        assert_eq!(expected.reason(), reason, "{what}");
    }
}

#[test]
fn a_token_is_checked_with_the_keys_of_its_own_issuer_alone() {
    let (ours, theirs) = (Signer::p256(), Signer::p256());
    let directory = TempDir::new().unwrap();
    let issuer = |name: &str, signer: &Signer| IssuerSettings {
        issuer: name.to_owned(),
        jwks_file: Some(file(&directory, name, jwks(&[("k", signer)]).as_bytes())),
        ..settings(&[Algorithm::ES256])
    };
    let issuers = [issuer("ours", &ours), issuer("theirs", &theirs)];
    let verifier = Verifier::open(&issuers, Duration::ZERO).unwrap();
    for (signer, name, expected) in [
        (&ours, "ours", None),
        (&theirs, "theirs", None),
        (&theirs, "ours", Some(Rejected::Signature)),
        (&ours, "theirs", Some(Rejected::Signature)),
    ] {
        let token = signer.token("ann", &json!({"iss": name}));
        let refused = verifier.verify(&token, SystemTime::now()).err();
        assert_eq!(refused, expected, "{name}");
    }
}

/// Random changes of a valid token never crash the check, and none is accepted.
#[test]
fn no_change_of_a_token_is_accepted() {
    let signer = Signer::p256();
    let verifier = verifier(&[Algorithm::ES256], &[("k", &signer)]);
    let good = signer.token("ann", &json!({"channels": ["a"]}));
    let mut random = fastrand::Rng::with_seed(17);
    for _ in 0..3_000 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..3) {
                0 => bytes[at] = b"ABCDwxyz0189-_.="[random.usize(..16)],
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, random.alphanumeric() as u8),
            }
        }
        let token = String::from_utf8(bytes).unwrap();
        if token != good {
            let verified = verifier.verify(&token, SystemTime::now());
            assert!(verified.is_err(), "{token}");
        }
    }
}
