//! JSON as JavaScript prints it, for bodies that are a `Struct` in the contracts and for users whose id is a number.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

/// The deepest nesting of objects and lists that every protobuf decoder takes: each level is three messages, and many decoders
/// take a hundred.
const STRUCT_DEPTH: usize = 25;

/// A number that JSON does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must not hold NaN or Infinity")]
pub struct NotFinite;

/// The object as JSON, with sorted keys. Whole numbers below 1e21 are printed without a fraction, as in JavaScript.
///
/// It recurses as deep as the value is nested. Protobuf's decoder bounds that at 100 messages.
///
/// # Errors
/// [`NotFinite`].
pub fn render(object: &Struct) -> Result<Vec<u8>, NotFinite> {
    let mut json = String::new();
    push_object(&mut json, object)?;
    Ok(json.into_bytes())
}

/// The JSON object as a `Struct`. `None` if it cannot be one: it has a number beyond a double's range or half of a surrogate
/// pair, or is nested deeper than protobuf's decoders take.
#[must_use]
pub fn parse(json: &[u8]) -> Option<Struct> {
    let serde_json::Value::Object(object) = serde_json::from_slice(json).ok()? else {
        return None;
    };
    to_struct(object, STRUCT_DEPTH)
}

fn to_struct(object: serde_json::Map<String, serde_json::Value>, depth: usize) -> Option<Struct> {
    let fields = object.into_iter();
    let fields = fields.map(|(key, value)| Some((key, to_value(value, depth)?)));
    Some(Struct {
        fields: fields.collect::<Option<_>>()?,
    })
}

fn to_value(value: serde_json::Value, depth: usize) -> Option<Value> {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64()?),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(list) => {
            let inside = depth.checked_sub(1)?;
            let values = list.into_iter().map(|value| to_value(value, inside));
            Kind::ListValue(ListValue {
                values: values.collect::<Option<_>>()?,
            })
        }
        serde_json::Value::Object(object) => {
            Kind::StructValue(to_struct(object, depth.checked_sub(1)?)?)
        }
    };
    Some(Value { kind: Some(kind) })
}

/// True if JavaScript's `String(x)` prints a finite number so. Then it is a JSON number, too.
#[must_use]
pub fn is_number(text: &str) -> bool {
    text.parse::<f64>()
        .is_ok_and(|number| number.is_finite() && ryu_js::Buffer::new().format(number) == text)
}

fn push_object(json: &mut String, object: &Struct) -> Result<(), NotFinite> {
    json.push('{');
    // Sorted, because it is a BTreeMap.
    for (index, (key, value)) in object.fields.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        push_string(json, key);
        json.push(':');
        push_value(json, value)?;
    }
    json.push('}');
    Ok(())
}

fn push_list(json: &mut String, list: &ListValue) -> Result<(), NotFinite> {
    json.push('[');
    for (index, value) in list.values.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        push_value(json, value)?;
    }
    json.push(']');
    Ok(())
}

fn push_value(json: &mut String, value: &Value) -> Result<(), NotFinite> {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => json.push_str("null"),
        Some(Kind::BoolValue(value)) => json.push_str(if *value { "true" } else { "false" }),
        Some(Kind::NumberValue(number)) if number.is_finite() => {
            json.push_str(ryu_js::Buffer::new().format(*number));
        }
        Some(Kind::NumberValue(_)) => return Err(NotFinite),
        Some(Kind::StringValue(text)) => push_string(json, text),
        Some(Kind::StructValue(object)) => push_object(json, object)?,
        Some(Kind::ListValue(list)) => push_list(json, list)?,
    }
    Ok(())
}

fn push_string(json: &mut String, text: &str) {
    json.push_str(&serde_json::Value::from(text).to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(kind: Kind) -> Value {
        Value { kind: Some(kind) }
    }

    fn object<const N: usize>(fields: [(&str, Kind); N]) -> Struct {
        let fields = fields.map(|(key, kind)| (key.to_owned(), value(kind)));
        Struct {
            fields: fields.into(),
        }
    }

    fn number(number: f64) -> Result<String, NotFinite> {
        let json = render(&object([("n", Kind::NumberValue(number))]))?;
        let json = String::from_utf8(json).unwrap();
        Ok(json[5..json.len() - 1].to_owned())
    }

    #[test]
    fn numbers_are_printed_as_javascript_does() {
        for (given, printed) in [
            (5.0, "5"),
            (-0.0, "0"),
            (0.1, "0.1"),
            (-12.5, "-12.5"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
            (1e21, "1e+21"),
            (1e-7, "1e-7"),
        ] {
            assert_eq!(number(given).as_deref(), Ok(printed));
        }
        for given in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(number(given), Err(NotFinite));
        }
    }

    #[test]
    fn keys_are_sorted_and_strings_are_escaped_only_where_json_requires_it() {
        let list = ListValue {
            values: vec![value(Kind::BoolValue(true)), Value { kind: None }],
        };
        let object = object([
            ("z", Kind::StringValue("哈哈".into())),
            ("a\"", Kind::StringValue("\u{1}\n\\/".into())),
            ("m", Kind::ListValue(list)),
            ("o", Kind::StructValue(object([]))),
            ("n", Kind::NullValue(0)),
        ]);
        assert_eq!(
            String::from_utf8(render(&object).unwrap()).unwrap(),
            r#"{"a\"":"\u0001\n\\/","m":[true,null],"n":null,"o":{},"z":"哈哈"}"#
        );
    }

    #[test]
    fn only_numbers_in_the_form_that_javascript_prints_are_accepted() {
        for yes in ["0", "5", "-1", "1.5", "1e+21", "1e-7", "9007199254740992"] {
            assert!(is_number(yes), "{yes}");
        }
        for no in [
            "",
            "five",
            "+5",
            "05",
            "5.0",
            "-0",
            "1e5",
            "1e21",
            ".5",
            "5.",
            " 5",
            "NaN",
            "Infinity",
            "inf",
            "0x5",
            "1e999",
            "9007199254740993",
        ] {
            assert!(!is_number(no), "{no}");
        }
    }
}
