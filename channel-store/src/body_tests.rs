use super::*;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;

fn stamped(body: &str) -> String {
    String::from_utf8(stamp(body.as_bytes(), "\"me\"").unwrap()).unwrap()
}

fn nested(depth: usize) -> String {
    let inner = depth - 1;
    format!("{{\"a\":{}{}}}", "[".repeat(inner), "]".repeat(inner))
}

#[test]
fn a_user_id_in_the_clients_body_is_replaced_in_place_k1() {
    assert_eq!(
        stamped(r#"{"type":1,"userId":"you","content":"哈哈"}"#),
        r#"{"type":1,"userId":"me","content":"哈哈"}"#
    );
    assert_eq!(
        stamped(r#"{"userId" : {"a":[1,{"userId":2}]} }"#),
        r#"{"userId" : "me" }"#
    );
}

#[test]
fn in_a_body_without_a_user_id_it_comes_last_k1() {
    assert_eq!(
        stamped(r#"{"type":1,"content":"哈哈"}"#),
        r#"{"type":1,"content":"哈哈","userId":"me"}"#
    );
    assert_eq!(stamped("{}"), r#"{"userId":"me"}"#);
    assert_eq!(stamped("{ }"), r#"{ "userId":"me"}"#);
    // A userId in a nested object stays as it is.
    assert_eq!(
        stamped(r#"{"a":{"userId":1}}"#),
        r#"{"a":{"userId":1},"userId":"me"}"#
    );
}

#[test]
fn escaped_spellings_and_duplicates_of_the_key_count() {
    assert_eq!(stamped(r#"{"\u0075serId":1}"#), r#"{"userId":"me"}"#);
    assert_eq!(
        stamped(r#"{"\u0075\u0073\u0065\u0072\u0049\u0064":1,"userId":2}"#),
        r#"{"userId":"me"}"#
    );
    assert_eq!(
        stamped(r#"{"userId":1, "userId":2 ,"a":3,"user\u0049d":[4]}"#),
        r#"{"userId":"me" ,"a":3}"#
    );
    // Keys that are almost `userId`.
    for other in [
        "userid",
        "userIdx",
        "xuserId",
        r"\u0175serId",
        r"userI\u0064x",
        r"\\u0075serId",
        r"userId\u0022",
        r"userId\u0022x",
        "",
        r"\u0075",
    ] {
        let body = format!(r#"{{"{other}":1}}"#);
        assert_eq!(stamped(&body), format!(r#"{{"{other}":1,"userId":"me"}}"#));
    }
}

#[test]
fn every_other_byte_is_passed_on_verbatim() {
    assert_eq!(
        stamped(" \r\n{ \"a\" :\t1.0 , \"b\":\"\\/\\u00e9\", \"a\":9e99 }\n "),
        "{ \"a\" :\t1.0 , \"b\":\"\\/\\u00e9\", \"a\":9e99 ,\"userId\":\"me\"}"
    );
}

#[test]
fn the_error_says_what_is_wrong_with_the_bytes() {
    for (body, error) in [
        (&b""[..], BodyError::NotJson),
        (b" ", BodyError::NotJson),
        (b"{", BodyError::NotJson),
        (b"{}x", BodyError::NotJson),
        (b"{}{}", BodyError::NotJson),
        (b"{\"a\":1,}", BodyError::NotJson),
        (b"{\"a\":01}", BodyError::NotJson),
        (b"{\"a\":\"\n\"}", BodyError::NotJson),
        (b"{\"a\":\"\\x\"}", BodyError::NotJson),
        (b"\x0c{}", BodyError::NotJson),
        (b"\xef\xbb\xbf{}", BodyError::NotJson),
        (b"[1,", BodyError::NotJson),
        (b"[{}]", BodyError::NotObject),
        (b"null", BodyError::NotObject),
        (b" -0.5e+1 ", BodyError::NotObject),
        (b"{\"a\":\"\xff\"}", BodyError::NotUtf8),
    ] {
        assert_eq!(
            check(body),
            Err(error),
            "{:?}",
            body.escape_ascii().to_string()
        );
        assert_eq!(stamp(body, "1"), Err(error));
        assert_eq!(without_half_pairs(body.into()), Err(error));
    }
}

#[test]
fn half_of_a_surrogate_pair_is_passed_on_as_a_replacement_character() {
    for (body, expected) in [
        (r#"{"a":"\ud83d"}"#, r#"{"a":"\ufffd","userId":"me"}"#),
        (r#"{"a":"\uDE00x"}"#, r#"{"a":"\ufffdx","userId":"me"}"#),
        (
            r#"{"a":"\ud83d\ud83d\ude00\ude00"}"#,
            r#"{"a":"\ufffd\ud83d\ude00\ufffd","userId":"me"}"#,
        ),
        (
            r#"{"\udbff":[{"b":"\ud83d\n\\ud83d"}],"userId":1}"#,
            r#"{"\ufffd":[{"b":"\ufffd\n\\ud83d"}],"userId":"me"}"#,
        ),
        (
            r#"{"a":"\ud7ff\ue000"}"#,
            r#"{"a":"\ud7ff\ue000","userId":"me"}"#,
        ),
    ] {
        assert_eq!(check(body.as_bytes()), Ok(()));
        assert_eq!(stamped(body), expected);
        let without = without_half_pairs(body.into()).unwrap();
        assert_eq!(stamp(&without, "\"me\"").unwrap(), expected.as_bytes());
        serde_json::from_slice::<Value>(&without).unwrap();
        // Numbers that every parser reads, even a strict one.
        serde_json::from_str::<Value>(&stamped(body)).unwrap();
    }
}

#[test]
fn a_number_beyond_the_range_of_a_double_is_refused() {
    let digits = "9".repeat(309);
    for number in [
        "1e999",
        "-1E+309",
        "[0,2e308]",
        &digits,
        &format!("-{digits}.5"),
    ] {
        let body = format!(r#"{{"a":{number}}}"#);
        let refused = Err(BodyError::NumberTooLarge);
        assert_eq!(check(body.as_bytes()), refused, "{number}");
        assert!(stamp(body.as_bytes(), "1").is_err());
    }
    let digits = "9".repeat(308);
    let fraction = format!("0.{}", "1".repeat(400));
    for number in ["1e308", "1e-999", "9007199254740993", &digits, &fraction] {
        let body = format!(r#"{{"a":{number}}}"#);
        assert_eq!(check(body.as_bytes()), Ok(()), "{number}");
    }
}

#[test]
fn nesting_beyond_the_limit_is_refused() {
    assert_eq!(check(nested(DEPTH_LIMIT).as_bytes()), Ok(()));
    assert_eq!(
        check(nested(DEPTH_LIMIT + 1).as_bytes()),
        Err(BodyError::TooDeep)
    );
    assert_eq!(
        check("[".repeat(1 << 20).as_bytes()),
        Err(BodyError::TooDeep)
    );
}

/// Text that is often JSON, and almost JSON otherwise.
fn jsonish() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        4 => prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"", "\\", " ", "\n", "0", "1", "-", "+", ".", "e", "E", "true", "false",
            "null", "\\u", "\"userId\":", "\"a\":", "\"\\u0075serId\":", "\\ud800", "{}", "[]", "\"\"", "1.5e-3",
            "longer than eight bytes", "\u{0}", "\u{1f}", "\u{7f}", "哈哈", "😀", "\u{c}", "\u{feff}",
        ]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    let soup = prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat());
    // JSON with at most one character replaced.
    let bent = (
        objectish(),
        any::<prop::sample::Index>(),
        prop::option::of(any::<char>()),
    )
        .prop_map(|(text, at, with)| {
            let mut chars: Vec<char> = text.chars().collect();
            if let Some(with) = with {
                let at = at.index(chars.len());
                chars[at] = with;
            }
            chars.into_iter().collect()
        });
    prop_oneof![soup, bent]
}

/// The text of a JSON object with duplicate and escaped keys and whitespace.
fn objectish() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| serde_json::to_string(&n).unwrap()),
        any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap()),
    ];
    let key = prop_oneof![
        Just("\"userId\"".to_owned()),
        Just("\"user\\u0049d\"".to_owned()),
        "[a-c]".prop_map(|key| format!("\"{key}\"")),
        any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap()),
    ];
    let space = || prop::sample::select(vec!["", "", "", " ", "\n\t"]);
    let member = move |value: BoxedStrategy<String>| {
        (space(), key.clone(), space(), value, space())
            .prop_map(|(a, key, b, value, c)| format!("{a}{key}{b}:{b}{value}{c}"))
    };
    let object = move |value: BoxedStrategy<String>| {
        prop::collection::vec(member.clone()(value), 0..5)
            .prop_map(|members| format!("{{{}}}", members.join(",")))
    };
    let value = {
        let object = object.clone();
        leaf.prop_recursive(3, 16, 4, move |value| {
            prop_oneof![
                prop::collection::vec(value.clone(), 0..4)
                    .prop_map(|values| format!("[{}]", values.join(" , "))),
                object.clone()(value.boxed()),
            ]
        })
    };
    object(value.boxed())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Compares with a pass of serde_json that builds no tree: it also accepts lone surrogates and huge exponents.
    #[test]
    fn check_agrees_with_serde_json(text in jsonish()) {
        if check(text.as_bytes()) == Err(BodyError::NumberTooLarge) {
            prop_assert!(serde_json::from_str::<Value>(&text).is_err());
            return Ok(());
        }
        let expected = match serde_json::from_str::<&RawValue>(&text) {
            Err(_) => Err(BodyError::NotJson),
            Ok(value) if value.get().starts_with('{') => Ok(()),
            Ok(_) => Err(BodyError::NotObject),
        };
        prop_assert_eq!(check(text.as_bytes()), expected);
        prop_assert_eq!(stamp(text.as_bytes(), "1").map(drop), expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = check(&bytes);
        let _ = stamp(&bytes, "1");
    }

    #[test]
    fn a_stamped_body_is_the_body_with_another_user_id(text in objectish(), user in "[a-z\"\\\\]{1,9}") {
        let user_json = serde_json::to_string(&user).unwrap();
        let stamped = String::from_utf8(stamp(text.as_bytes(), &user_json).unwrap()).unwrap();
        let mut expected: Value = serde_json::from_str(&text).unwrap();
        expected["userId"] = Value::String(user);
        prop_assert_eq!(serde_json::from_str::<Value>(&stamped).unwrap(), expected);
        // A second stamp changes nothing, because there is exactly one `userId` now.
        prop_assert_eq!(stamp(stamped.as_bytes(), &user_json).unwrap(), stamped.as_bytes());
    }

    #[test]
    fn the_plain_run_ends_at_the_same_byte_as_with_a_simple_search(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let special = |b: &u8| *b == b'"' || *b == b'\\' || *b < 0x20;
        prop_assert_eq!(plain(&bytes), bytes.iter().position(special).unwrap_or(bytes.len()));
    }
}
