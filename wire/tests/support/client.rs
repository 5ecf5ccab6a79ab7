//! A client's bytes, written apart from the product.

/// A client's frame.
pub(crate) fn masked(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let length = payload.len();
    if length < 126 {
        bytes.push(0x80 + length as u8);
    } else if length < 65_536 {
        bytes.push(0x80 + 126);
        bytes.extend((length as u16).to_be_bytes());
    } else {
        bytes.push(0x80 + 127);
        bytes.extend((length as u64).to_be_bytes());
    }
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .enumerate()
            .map(|(at, byte)| byte ^ mask[at % 4]),
    );
    bytes
}

/// A Pomelo package.
pub(crate) fn package(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(&(body.len() as u32).to_be_bytes()[1..]);
    bytes.extend(body);
    bytes
}
