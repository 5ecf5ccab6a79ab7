//! Writes a message as JSON. The bytes come from this process' own encoder, which puts the items of a repeated field next to
//! each other.

use super::wire::{Broken, Fields, Value, take_value};
use crate::calls::json as bodies;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use prost_types::{Any, Duration, ListValue, Struct, Timestamp, value};

/// The message's JSON. Fields that are not set are left out. Names are those of the canonical mapping, in lowerCamelCase.
///
/// # Errors
/// [`Broken`]. This cannot happen with a message that this process has encoded.
pub(in crate::web) fn write(message: &MessageDescriptor, wire: &[u8]) -> Result<Vec<u8>, Broken> {
    let mut json = Vec::with_capacity(wire.len() * 2);
    put_message(&mut json, message, wire)?;
    Ok(json)
}

/// The JSON of the message inside, without its type. `None` if the type is unknown or the message cannot be read.
pub(in crate::web) fn write_any(pool: &DescriptorPool, any: &Any) -> Option<Vec<u8>> {
    let message = pool.get_message_by_name(name_of(any))?;
    write(&message, &any.value).ok()
}

/// The full name of the type inside.
fn name_of(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

fn put_message(json: &mut Vec<u8>, message: &MessageDescriptor, wire: &[u8]) -> Result<(), Broken> {
    match message.full_name() {
        "google.protobuf.Timestamp" => {
            let time = Timestamp::decode(wire).map_err(|_| Broken)?;
            put_text(json, &time.to_string());
        }
        "google.protobuf.Duration" => {
            let time = Duration::decode(wire).map_err(|_| Broken)?;
            put_text(json, &time.to_string());
        }
        "google.protobuf.Struct" => {
            let object = Struct::decode(wire).map_err(|_| Broken)?;
            json.extend(bodies::render(&object).map_err(|_| Broken)?);
        }
        "google.protobuf.Value" => {
            let value = prost_types::Value::decode(wire).map_err(|_| Broken)?;
            json.extend(bodies::render_value(&value).map_err(|_| Broken)?);
        }
        "google.protobuf.ListValue" => {
            let list = ListValue::decode(wire).map_err(|_| Broken)?;
            let kind = Some(value::Kind::ListValue(list));
            let value = prost_types::Value { kind };
            json.extend(bodies::render_value(&value).map_err(|_| Broken)?);
        }
        "google.protobuf.Any" => {
            let any = Any::decode(wire).map_err(|_| Broken)?;
            let known = message.parent_pool().get_message_by_name(name_of(&any));
            json.extend_from_slice(b"{\"@type\":");
            put_text(json, &any.type_url);
            match known {
                Some(known) => put_fields(json, &known, &any.value, true)?,
                None => {
                    json.extend_from_slice(b",\"value\":");
                    put_text(json, &BASE64_STANDARD.encode(&any.value));
                }
            }
            json.push(b'}');
        }
        _ => {
            json.push(b'{');
            put_fields(json, message, wire, false)?;
            json.push(b'}');
        }
    }
    Ok(())
}

/// `after`: something stands in the object already.
fn put_fields(
    json: &mut Vec<u8>,
    message: &MessageDescriptor,
    wire: &[u8],
    mut after: bool,
) -> Result<(), Broken> {
    // The repeated field whose list or object is not closed yet.
    let mut open: Option<(u32, u8)> = None;
    for field in Fields(wire) {
        let (number, value) = field?;
        let Some(field) = message.get_field(number) else {
            continue;
        };
        if let Some((_, end)) = open.take_if(|(open, _)| *open != number) {
            json.push(end);
        }
        if open.is_some() {
            json.push(b',');
        } else {
            if after {
                json.push(b',');
            }
            put_text(json, field.json_name());
            json.push(b':');
            let brackets = match () {
                () if field.is_map() => Some((b'{', b'}')),
                () if field.is_list() => Some((b'[', b']')),
                () => None,
            };
            if let Some((begin, end)) = brackets {
                json.push(begin);
                open = Some((number, end));
            }
        }
        after = true;
        put_field(json, &field, value)?;
    }
    if let Some((_, end)) = open {
        json.push(end);
    }
    Ok(())
}

/// One value, one entry of a map, or packed items of a list.
fn put_field(json: &mut Vec<u8>, field: &FieldDescriptor, value: Value<'_>) -> Result<(), Broken> {
    let kind = field.kind();
    match (&kind, value) {
        (Kind::Message(entry), Value::Bytes(wire)) if field.is_map() => {
            put_entry(json, entry, wire)
        }
        (kind, Value::Bytes(mut packed))
            if field.is_list()
                && !matches!(kind, Kind::Message(_) | Kind::String | Kind::Bytes) =>
        {
            let mut first = true;
            while !packed.is_empty() {
                if !std::mem::take(&mut first) {
                    json.push(b',');
                }
                put_value(json, kind, take_value(&mut packed, wire_type(kind))?)?;
            }
            Ok(())
        }
        (kind, value) => put_value(json, kind, value),
    }
}

fn put_entry(json: &mut Vec<u8>, entry: &MessageDescriptor, wire: &[u8]) -> Result<(), Broken> {
    let (mut key, mut value) = (None, None);
    for field in Fields(wire) {
        match field? {
            (1, it) => key = Some(it),
            (2, it) => value = Some(it),
            _ => {}
        }
    }
    let kind = entry.map_entry_key_field().kind();
    let mut name = Vec::new();
    put_value(&mut name, &kind, key.unwrap_or(zero(&kind)))?;
    if name.first() == Some(&b'"') {
        json.extend(name);
    } else {
        json.push(b'"');
        json.extend(name);
        json.push(b'"');
    }
    json.push(b':');
    let kind = entry.map_entry_value_field().kind();
    put_value(json, &kind, value.unwrap_or(zero(&kind)))
}

/// The value of a field that an encoder has left out.
fn zero(kind: &Kind) -> Value<'static> {
    match wire_type(kind) {
        0 => Value::Varint(0),
        1 => Value::Fixed64([0; 8]),
        5 => Value::Fixed32([0; 4]),
        _ => Value::Bytes(&[]),
    }
}

fn wire_type(kind: &Kind) -> u64 {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => 1,
        Kind::String | Kind::Bytes | Kind::Message(_) => 2,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => 5,
        _ => 0,
    }
}

fn put_value(json: &mut Vec<u8>, kind: &Kind, value: Value<'_>) -> Result<(), Broken> {
    match (kind, value) {
        (Kind::Message(message), Value::Bytes(wire)) => put_message(json, message, wire)?,
        (Kind::String, Value::Bytes(text)) => {
            put_text(json, std::str::from_utf8(text).map_err(|_| Broken)?);
        }
        (Kind::Bytes, Value::Bytes(bytes)) => put_text(json, &BASE64_STANDARD.encode(bytes)),
        (Kind::Bool, Value::Varint(value)) => put(json, &(value != 0).to_string()),
        (Kind::Enum(values), Value::Varint(value)) => {
            let number = low(value).cast_signed();
            match values.get_value(number) {
                Some(value) => put_text(json, value.name()),
                None => put(json, &number.to_string()),
            }
        }
        (Kind::Int32, Value::Varint(value)) => put(json, &low(value).cast_signed().to_string()),
        (Kind::Uint32, Value::Varint(value)) => put(json, &low(value).to_string()),
        (Kind::Sint32, Value::Varint(value)) => {
            let value = low(value);
            put(
                json,
                &((value >> 1).cast_signed() ^ -(value & 1).cast_signed()).to_string(),
            );
        }
        // A double of JavaScript could not hold every number of 64 bits, so these are texts.
        (Kind::Int64, Value::Varint(value)) => put_text(json, &value.cast_signed().to_string()),
        (Kind::Uint64, Value::Varint(value)) => put_text(json, &value.to_string()),
        (Kind::Sint64, Value::Varint(value)) => {
            put_text(
                json,
                &((value >> 1).cast_signed() ^ -(value & 1).cast_signed()).to_string(),
            );
        }
        (Kind::Fixed32, Value::Fixed32(bytes)) => put(json, &u32::from_le_bytes(bytes).to_string()),
        (Kind::Sfixed32, Value::Fixed32(bytes)) => {
            put(json, &i32::from_le_bytes(bytes).to_string())
        }
        (Kind::Fixed64, Value::Fixed64(bytes)) => {
            put_text(json, &u64::from_le_bytes(bytes).to_string());
        }
        (Kind::Sfixed64, Value::Fixed64(bytes)) => {
            put_text(json, &i64::from_le_bytes(bytes).to_string());
        }
        (Kind::Float, Value::Fixed32(bytes)) => put_float(json, f32::from_le_bytes(bytes).into()),
        (Kind::Double, Value::Fixed64(bytes)) => put_float(json, f64::from_le_bytes(bytes)),
        _ => return Err(Broken),
    }
    Ok(())
}

/// The lower half, which is all that a field of 32 bits uses.
fn low(value: u64) -> u32 {
    let low = value as u32;
    low
}

fn put(json: &mut Vec<u8>, text: &str) {
    json.extend_from_slice(text.as_bytes());
}

fn put_text(json: &mut Vec<u8>, text: &str) {
    put(json, &serde_json::Value::from(text).to_string());
}

fn put_float(json: &mut Vec<u8>, number: f64) {
    match number {
        number if number.is_nan() => put_text(json, "NaN"),
        f64::INFINITY => put_text(json, "Infinity"),
        f64::NEG_INFINITY => put_text(json, "-Infinity"),
        number => put(json, ryu_js::Buffer::new().format(number)),
    }
}
