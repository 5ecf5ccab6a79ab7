//! Reads a message from JSON. What is wrong is said with the field in which it stands.
//!
//! It is stricter than protobuf's own readers where they would lose something: a field or a key that comes twice is refused,
//! and so is a whole number of a `Struct` that a double cannot hold.

use super::reader::{PATH_LENGTH, Reader, Step, each_key};
use super::scalar::{Scalar, TakeScalar, expected};
use super::structs::{Anything, Items, Object};
use prost::Message;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::web) struct Wrong {
    /// The path of the field, with names as in the .proto file, for example `body.items[3]`. `None`: the text as a whole.
    pub(in crate::web) field: Option<String>,
    pub(in crate::web) description: String,
}

/// The message's protobuf encoding.
///
/// # Errors
/// [`Wrong`], for the first field that is wrong.
pub(in crate::web) fn read(message: &MessageDescriptor, json: &[u8]) -> Result<Vec<u8>, Wrong> {
    let whole = |description: String| Wrong {
        field: None,
        description,
    };
    if json.is_empty() {
        return Err(whole(
            "is empty; a request without fields is the JSON object {}".to_owned(),
        ));
    }
    let json = std::str::from_utf8(json).map_err(|error| {
        whole(format!(
            "is not UTF-8: byte {} is wrong",
            error.valid_up_to()
        ))
    })?;
    let mut reader = Reader::new(json.len());
    let mut parser = serde_json::Deserializer::from_str(json);
    let read = Content(&mut reader, message).deserialize(&mut parser);
    match read.and_then(|()| parser.end()) {
        Ok(()) => Ok(reader.out),
        Err(error) => Err(Wrong {
            // The path is left as it was where the error came up.
            field: reader.path(),
            description: error.to_string(),
        }),
    }
}

/// The fields of a message, from an object.
struct Content<'r>(&'r mut Reader, &'r MessageDescriptor);

impl<'de> DeserializeSeed<'de> for Content<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Content<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let Self(reader, message) = self;
        let mut seen = HashSet::new();
        let mut chosen: Vec<(String, String)> = Vec::new();
        while let Some(name) = object.next_key::<Cow<'de, str>>()? {
            let field = message
                .get_field_by_json_name(&name)
                .or_else(|| message.get_field_by_name(&name));
            let known = field.as_ref().map(FieldDescriptor::name);
            let shown =
                known.map_or_else(|| name.chars().take(PATH_LENGTH).collect(), str::to_owned);
            reader.path.push(Step::Name(shown));
            let Some(field) = field else {
                let known: Vec<_> = message.fields().map(|it| it.name().to_owned()).collect();
                return Err(A::Error::custom(format!(
                    "there is no such field; {} has {}",
                    message.name(),
                    if known.is_empty() {
                        "none".to_owned()
                    } else {
                        known.join(", ")
                    }
                )));
            };
            if !seen.insert(field.number()) {
                return Err(A::Error::custom("is given twice"));
            }
            let is_set = object.next_value_seed(Field(reader, &field))?;
            if let Some(choice) = field.containing_oneof().filter(|_| is_set) {
                let other = chosen.iter().find(|(of, _)| of == choice.name());
                if let Some((_, other)) = other {
                    let error = format!("give either {other} or {}, not both", field.name());
                    return Err(A::Error::custom(error));
                }
                chosen.push((choice.name().to_owned(), field.name().to_owned()));
            }
            reader.path.pop();
        }
        Ok(())
    }
}

/// A field's value. The result is false for null, which stands for a field that is not set.
struct Field<'r>(&'r mut Reader, &'r FieldDescriptor);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        let kind = self.1.kind();
        let takes_null = kind
            .as_message()
            .is_some_and(|it| it.full_name() == "google.protobuf.Value");
        if takes_null && !self.1.is_list() && !self.1.is_map() {
            One(self.0, self.1.number(), &kind).deserialize(json)?;
            return Ok(true);
        }
        json.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&expected(&self.1.kind()))
    }

    fn visit_none<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        let Self(reader, field) = self;
        let kind = field.kind();
        match &kind {
            Kind::Message(entry) if field.is_map() => {
                json.deserialize_any(Entries(reader, field.number(), entry))?;
            }
            kind if field.is_list() => json.deserialize_any(List(reader, field.number(), kind))?,
            kind => One(reader, field.number(), kind).deserialize(json)?,
        }
        Ok(true)
    }
}

/// The items of a repeated field.
struct List<'r>(&'r mut Reader, u32, &'r Kind);

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self(reader, number, kind) = self;
        for index in 0.. {
            reader.path.push(Step::Index(index));
            let item = items.next_element_seed(One(reader, number, kind))?;
            reader.path.pop();
            if item.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// The entries of a map.
struct Entries<'r>(&'r mut Reader, u32, &'r MessageDescriptor);

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        let Self(reader, number, entry) = self;
        let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        let (key_kind, value_kind) = (key.kind(), value.kind());
        each_key(reader, object, |reader, name, object| {
            reader.message(number, |reader| {
                let scalar = match (&key_kind, name) {
                    (Kind::Bool, "true") => Scalar::Bool(true),
                    (Kind::Bool, "false") => Scalar::Bool(false),
                    (_, name) => Scalar::Text(Cow::Borrowed(name)),
                };
                let written = reader.scalar(key.number(), &key_kind, &scalar);
                written.map_err(A::Error::custom)?;
                object.next_value_seed(One(reader, value.number(), &value_kind))
            })
        })
    }
}

/// One value, written as the field of this number.
struct One<'r>(&'r mut Reader, u32, &'r Kind);

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        let Self(reader, number, kind) = self;
        let Kind::Message(message) = kind else {
            let scalar = json.deserialize_any(TakeScalar(kind))?;
            return reader
                .scalar(number, kind, &scalar)
                .map_err(D::Error::custom);
        };
        let text = |json: D| {
            let scalar = json.deserialize_any(TakeScalar(kind))?;
            let wrong = || D::Error::custom(format!("expected {}", expected(kind)));
            Ok((scalar.text().ok_or_else(wrong)?.to_owned(), wrong()))
        };
        match message.full_name() {
            "google.protobuf.Timestamp" => {
                let (text, wrong) = text(json)?;
                let time: prost_types::Timestamp = text.parse().map_err(|_| wrong)?;
                reader.bytes(number, &time.encode_to_vec());
                Ok(())
            }
            "google.protobuf.Duration" => {
                let (text, wrong) = text(json)?;
                let time: prost_types::Duration = text.parse().map_err(|_| wrong)?;
                reader.bytes(number, &time.encode_to_vec());
                Ok(())
            }
            "google.protobuf.Value" => {
                reader.message(number, |reader| json.deserialize_any(Anything(reader)))
            }
            "google.protobuf.Struct" => {
                reader.message(number, |reader| json.deserialize_any(Object(reader)))
            }
            "google.protobuf.ListValue" => {
                reader.message(number, |reader| json.deserialize_any(Items(reader)))
            }
            _ => reader.message(number, |reader| Content(reader, message).deserialize(json)),
        }
    }
}
