//! The part of DER that a public key needs (RFC 5280, section 4.1.2.7).

use super::algorithm::Material;

const SEQUENCE: u8 = 0x30;
const OBJECT: u8 = 0x06;
const BITS: u8 = 0x03;
const INTEGER: u8 = 0x02;

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const ELLIPTIC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[0x2b, 0x81, 4, 0, 0x22];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// Reads a `SubjectPublicKeyInfo`. `None` if it cannot be read, or if no algorithm uses such a key.
pub(super) fn public_key(der: &[u8]) -> Option<Material> {
    let mut input = der;
    let mut info = read(&mut input, SEQUENCE)?;
    let mut algorithm = read(&mut info, SEQUENCE)?;
    let bits = read(&mut info, BITS)?;
    if !input.is_empty() || !info.is_empty() {
        return None;
    }
    // The first byte says how many bits of the last one do not count.
    let key = bits.strip_prefix(&[0])?;
    let kind = read(&mut algorithm, OBJECT)?;
    if kind == RSA {
        let mut key = key;
        let mut numbers = read(&mut key, SEQUENCE)?;
        let n = read(&mut numbers, INTEGER)?;
        let e = read(&mut numbers, INTEGER)?;
        // A zero in front says that a number is positive.
        let number = |bytes: &[u8]| bytes.strip_prefix(&[0]).unwrap_or(bytes).to_vec();
        let is_all = key.is_empty() && numbers.is_empty();
        return is_all.then(|| Material::Rsa {
            n: number(n),
            e: number(e),
        });
    }
    if kind == ED25519 {
        return (key.len() == 32).then(|| Material::Ed25519(key.to_vec()));
    }
    if kind != ELLIPTIC {
        return None;
    }
    let curve = read(&mut algorithm, OBJECT)?;
    match (curve, key.len()) {
        (P256, 65) => Some(Material::P256(key.to_vec())),
        (P384, 97) => Some(Material::P384(key.to_vec())),
        _ => None,
    }
}

/// Takes one value with this tag off the front, and returns its content.
fn read<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let rest = input.strip_prefix(&[tag])?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (&length, rest) = rest.split_first()?;
            (usize::from(length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *input = rest;
    Some(content)
}
