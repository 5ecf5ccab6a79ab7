//! The bytes of protobuf messages: tags, varints and lengths.

/// The bytes end in the middle of a field, or have a form that no encoder writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are not a protobuf message")]
pub(in crate::web) struct Broken;

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
}

/// The kinds of values, as tags number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WireType {
    Varint = 0,
    Fixed64 = 1,
    Bytes = 2,
    Fixed32 = 5,
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: WireType) {
    put_varint(out, u64::from(number) << 3 | wire_type as u64);
}

/// Puts the length of everything behind `from` in front of it.
pub(super) fn put_length_before(out: &mut Vec<u8>, from: usize) {
    let mut length = Vec::with_capacity(5);
    put_varint(&mut length, (out.len() - from) as u64);
    out.splice(from..from, length);
}

pub(super) fn take_varint(wire: &mut &[u8]) -> Result<u64, Broken> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = wire.split_first().ok_or(Broken)?;
        *wire = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Broken)
}

fn take<const N: usize>(wire: &mut &[u8]) -> Result<[u8; N], Broken> {
    let (taken, rest) = wire.split_first_chunk().ok_or(Broken)?;
    *wire = rest;
    Ok(*taken)
}

pub(super) fn take_value<'a>(wire: &mut &'a [u8], wire_type: u64) -> Result<Value<'a>, Broken> {
    Ok(match wire_type {
        0 => Value::Varint(take_varint(wire)?),
        1 => Value::Fixed64(take(wire)?),
        2 => {
            let length = usize::try_from(take_varint(wire)?).map_err(|_| Broken)?;
            let (taken, rest) = wire.split_at_checked(length).ok_or(Broken)?;
            *wire = rest;
            Value::Bytes(taken)
        }
        5 => Value::Fixed32(take(wire)?),
        _ => return Err(Broken),
    })
}

/// The fields of a message in the order of its bytes.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = take_varint(&mut self.0).and_then(|tag| {
            let number = u32::try_from(tag >> 3).map_err(|_| Broken)?;
            Ok((number, take_value(&mut self.0, tag & 7)?))
        });
        if field.is_err() {
            // Nothing behind a broken field can be read.
            self.0 = &[];
        }
        Some(field)
    }
}
