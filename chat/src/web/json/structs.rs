//! Any JSON, as `google.protobuf.Struct` and its like hold it.

use super::reader::{Reader, Step, each_key};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The content of a `google.protobuf.Struct`: a map from names to values.
pub(super) struct Object<'r>(pub(super) &'r mut Reader);

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        each_key(self.0, object, |reader, name, object| {
            reader.message(1, |reader| {
                reader.bytes(1, name.as_bytes());
                object.next_value_seed(Member(reader, 2))
            })
        })
    }
}

/// The content of a `google.protobuf.ListValue`.
pub(super) struct Items<'r>(pub(super) &'r mut Reader);

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for index in 0.. {
            self.0.path.push(Step::Index(index));
            let item = items.next_element_seed(Member(self.0, 1))?;
            self.0.path.pop();
            if item.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// A `google.protobuf.Value`, written as the field of this number.
struct Member<'r>(&'r mut Reader, u32);

impl<'de> DeserializeSeed<'de> for Member<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        self.0
            .message(self.1, |reader| json.deserialize_any(Anything(reader)))
    }
}

/// The content of a `google.protobuf.Value`.
pub(super) struct Anything<'r>(pub(super) &'r mut Reader);

impl<'de> Visitor<'de> for Anything<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.varint(1, 0);
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.0.varint(4, value.into());
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.0.exact(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.0.exact(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.0.fixed64(2, value.to_le_bytes());
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.bytes(3, text.as_bytes());
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<(), A::Error> {
        self.0.message(5, |reader| Object(reader).visit_map(object))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<(), A::Error> {
        self.0.message(6, |reader| Items(reader).visit_seq(items))
    }
}

impl Reader {
    /// Writes a whole number as the double of a `Value`. A double that is another number would change what the caller said.
    fn exact<E: Error>(&mut self, value: i128) -> Result<(), E> {
        let double = value as f64;
        if double as i128 != value {
            return Err(E::custom(format!(
                "a double cannot hold {value}: write it as a string, or give the whole body as body_json"
            )));
        }
        self.fixed64(2, double.to_le_bytes());
        Ok(())
    }
}
