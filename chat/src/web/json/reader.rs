//! The message that is being written, and the place in the JSON that is being read.

use super::scalar::{Scalar, expected, from_base64};
use super::wire::{WireType, put_length_before, put_tag, put_varint};
use prost_reflect::Kind;
use serde::de::{Error, MapAccess};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write;

/// The deepest nesting of messages that protobuf's decoders take. Each object in a `Struct` is three messages.
const MOST_MESSAGES: usize = 100;
/// The most characters of a field's path in an error.
pub(super) const PATH_LENGTH: usize = 200;

pub(super) struct Reader {
    pub(super) out: Vec<u8>,
    pub(super) path: Vec<Step>,
    /// How many messages are open, one in another.
    messages: usize,
}

pub(super) enum Step {
    Name(String),
    Index(usize),
}

impl Reader {
    /// `length`: that of the JSON.
    pub(super) fn new(length: usize) -> Self {
        Self {
            out: Vec::with_capacity(length),
            path: Vec::new(),
            messages: 0,
        }
    }

    /// Where it stands in the JSON. `None`: outside of all fields.
    pub(super) fn path(&self) -> Option<String> {
        let mut path = String::new();
        for step in &self.path {
            let written = match step {
                Step::Name(name) if path.is_empty() => write!(path, "{name}"),
                Step::Name(name) => write!(path, ".{name}"),
                Step::Index(index) => write!(path, "[{index}]"),
            };
            if written.is_err() || path.len() > PATH_LENGTH {
                break;
            }
        }
        let end = path.char_indices().nth(PATH_LENGTH);
        if let Some((end, _)) = end {
            path.truncate(end);
            path.push('…');
        }
        (!path.is_empty()).then_some(path)
    }

    /// Writes a message as the value of a field. `inside` writes its fields.
    pub(super) fn message<E: Error>(
        &mut self,
        number: u32,
        inside: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.messages == MOST_MESSAGES {
            return Err(E::custom(
                "is nested too deeply for protobuf, which takes about 30 objects in each other; body_json takes more",
            ));
        }
        self.messages += 1;
        put_tag(&mut self.out, number, WireType::Bytes);
        let from = self.out.len();
        inside(self)?;
        put_length_before(&mut self.out, from);
        self.messages -= 1;
        Ok(())
    }

    pub(super) fn bytes(&mut self, number: u32, bytes: &[u8]) {
        put_tag(&mut self.out, number, WireType::Bytes);
        put_varint(&mut self.out, bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    pub(super) fn varint(&mut self, number: u32, value: u64) {
        put_tag(&mut self.out, number, WireType::Varint);
        put_varint(&mut self.out, value);
    }

    pub(super) fn fixed64(&mut self, number: u32, value: [u8; 8]) {
        put_tag(&mut self.out, number, WireType::Fixed64);
        self.out.extend_from_slice(&value);
    }

    pub(super) fn fixed32(&mut self, number: u32, value: [u8; 4]) {
        put_tag(&mut self.out, number, WireType::Fixed32);
        self.out.extend_from_slice(&value);
    }
}

impl Reader {
    /// Writes a value that JSON has as a text, a number, true or false.
    pub(super) fn scalar(
        &mut self,
        number: u32,
        kind: &Kind,
        scalar: &Scalar<'_>,
    ) -> Result<(), String> {
        let expected = || format!("expected {}", expected(kind));
        match kind {
            Kind::String => self.bytes(number, scalar.text().ok_or_else(expected)?.as_bytes()),
            Kind::Bytes => {
                let text = scalar.text().ok_or_else(expected)?;
                let bytes = from_base64(text).map_err(|error| format!("not base64: {error}"))?;
                self.bytes(number, &bytes);
            }
            Kind::Bool => match scalar {
                Scalar::Bool(value) => self.varint(number, u64::from(*value)),
                _ => return Err(expected()),
            },
            Kind::Enum(values) => {
                let value = match scalar.text() {
                    Some(name) => values.get_value_by_name(name).map(|value| value.number()),
                    None => scalar.whole().and_then(|it| it.try_into().ok()),
                };
                let value: i32 = value.ok_or_else(expected)?;
                self.varint(number, i64::from(value).cast_unsigned());
            }
            Kind::Double => {
                let value = scalar.float().ok_or_else(expected)?;
                self.fixed64(number, value.to_le_bytes());
            }
            Kind::Float => {
                let value = scalar.float().ok_or_else(expected)? as f32;
                self.fixed32(number, value.to_le_bytes());
            }
            _ => {
                let value = scalar.whole().ok_or_else(expected)?;
                self.whole(number, kind, value).ok_or_else(expected)?;
            }
        }
        Ok(())
    }

    /// Writes a whole number. `None` if it is out of range.
    fn whole(&mut self, number: u32, kind: &Kind, value: i128) -> Option<()> {
        match kind {
            Kind::Int32 => {
                let value = i32::try_from(value).ok()?;
                self.varint(number, i64::from(value).cast_unsigned());
            }
            Kind::Int64 => self.varint(number, i64::try_from(value).ok()?.cast_unsigned()),
            Kind::Uint32 => self.varint(number, u32::try_from(value).ok()?.into()),
            Kind::Uint64 => self.varint(number, u64::try_from(value).ok()?),
            Kind::Sint32 => {
                let value = i32::try_from(value).ok()?;
                self.varint(
                    number,
                    ((value << 1) ^ (value >> 31)).cast_unsigned().into(),
                );
            }
            Kind::Sint64 => {
                let value = i64::try_from(value).ok()?;
                self.varint(number, ((value << 1) ^ (value >> 63)).cast_unsigned());
            }
            Kind::Fixed32 => self.fixed32(number, u32::try_from(value).ok()?.to_le_bytes()),
            Kind::Sfixed32 => self.fixed32(number, i32::try_from(value).ok()?.to_le_bytes()),
            Kind::Fixed64 => self.fixed64(number, u64::try_from(value).ok()?.to_le_bytes()),
            Kind::Sfixed64 => self.fixed64(number, i64::try_from(value).ok()?.to_le_bytes()),
            _ => return None,
        }
        Some(())
    }
}

/// Goes through the keys of an object, each of which may come once.
pub(super) fn each_key<'de, A: MapAccess<'de>>(
    reader: &mut Reader,
    mut object: A,
    mut then: impl FnMut(&mut Reader, &str, &mut A) -> Result<(), A::Error>,
) -> Result<(), A::Error> {
    let mut seen = HashSet::new();
    while let Some(name) = object.next_key::<Cow<'de, str>>()? {
        let shown = name.chars().take(PATH_LENGTH).collect();
        reader.path.push(Step::Name(shown));
        if seen.contains(&name) {
            return Err(A::Error::custom("is given twice"));
        }
        then(reader, &name, &mut object)?;
        seen.insert(name);
        reader.path.pop();
    }
    Ok(())
}
