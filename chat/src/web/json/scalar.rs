//! JSON values that are neither objects nor lists, and what fields expect of them.

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{EnumDescriptor, Kind};
use serde::de::{Error, Visitor};
use std::borrow::Cow;
use std::fmt;

/// What must stand in the JSON for a value of this kind.
pub(super) fn expected(kind: &Kind) -> Cow<'static, str> {
    Cow::Borrowed(match kind {
        Kind::String => "a string",
        Kind::Bytes => "a string with base64",
        Kind::Bool => "true or false",
        Kind::Double | Kind::Float => "a number",
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "a whole number of 32 bits",
        Kind::Uint32 | Kind::Fixed32 => "a whole number from 0 to 4294967295",
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            "a whole number of 64 bits, as a string if it is large"
        }
        Kind::Uint64 | Kind::Fixed64 => {
            "a whole number from 0 to 18446744073709551615, as a string if it is large"
        }
        Kind::Enum(values) => return Cow::Owned(format!("one of {}", names(values))),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => "a time such as \"2026-01-31T12:00:00Z\"",
            "google.protobuf.Duration" => "a duration such as \"1.5s\"",
            "google.protobuf.ListValue" => "a list",
            _ => "an object",
        },
    })
}

fn names(values: &EnumDescriptor) -> String {
    let names: Vec<_> = values.values().map(|it| it.name().to_owned()).collect();
    names.join(", ")
}

/// Both alphabets, with padding or without.
pub(super) fn from_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) {
        URL_SAFE
    } else {
        STANDARD
    };
    GeneralPurpose::new(&alphabet, config).decode(text)
}

/// A JSON value that is neither an object nor a list nor null.
pub(super) enum Scalar<'a> {
    Bool(bool),
    Whole(i128),
    Float(f64),
    Text(Cow<'a, str>),
}

impl Scalar<'_> {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number, as a number or as a text.
    pub(super) fn whole(&self) -> Option<i128> {
        match self {
            Self::Bool(_) => None,
            Self::Whole(number) => Some(*number),
            Self::Float(number) => (number.fract() == 0.0 && number.abs() <= u64::MAX as f64)
                .then_some(*number as i128),
            Self::Text(text) => text.parse().ok(),
        }
    }

    pub(super) fn float(&self) -> Option<f64> {
        match self {
            Self::Bool(_) => None,
            Self::Whole(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            Self::Text(text) => match &**text {
                "NaN" => Some(f64::NAN),
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                text => text.parse().ok().filter(|it: &f64| it.is_finite()),
            },
        }
    }
}

/// Takes a [`Scalar`]; everything else is an error that says what is expected.
pub(super) struct TakeScalar<'k>(pub(super) &'k Kind);

impl<'de> Visitor<'de> for TakeScalar<'_> {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&expected(self.0))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Whole(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Whole(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Float(value))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }
}
