//! Which version of HTTP a connection speaks, and how far it has come with its greeting.

/// What every connection in HTTP/2 begins with. Another connection is one in HTTP/1.1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of the head of the frame that must follow the preface.
const FRAME_HEAD: usize = 9;

/// What a connection speaks, and how far it has come with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Version {
    /// So many bytes have come, and all of them are [`PREFACE`]'s.
    Unknown { seen: usize },
    /// So many bytes have come since there was a call.
    Http1 { without_call: usize },
    /// So many bytes of the greeting are still to come.
    Http2 { missing: usize },
}

impl Version {
    /// Takes note of bytes that have come. `has_call`: a call is under way, so that these may be the bytes of its body.
    pub(super) fn follow(&mut self, bytes: &[u8], has_call: impl FnOnce() -> bool) {
        match self {
            Self::Unknown { seen } => {
                let length = bytes.len().min(PREFACE.len() - *seen);
                if bytes[..length] != PREFACE[*seen..*seen + length] {
                    let without_call = *seen + bytes.len();
                    *self = Self::Http1 { without_call };
                } else if *seen + length < PREFACE.len() {
                    *seen += length;
                } else {
                    let missing = FRAME_HEAD.saturating_sub(bytes.len() - length);
                    *self = Self::Http2 { missing };
                }
            }
            Self::Http1 { without_call } if has_call() => *without_call = 0,
            Self::Http1 { without_call } => *without_call += bytes.len(),
            Self::Http2 { missing } => *missing = missing.saturating_sub(bytes.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_is_told_from_http1_however_the_bytes_are_cut() {
        let greeting = [PREFACE, &[0; FRAME_HEAD]].concat();
        for size in [1, 2, 7, 24, 25, greeting.len()] {
            let mut version = Version::Unknown { seen: 0 };
            for part in greeting.chunks(size) {
                assert_ne!(version, Version::Http2 { missing: 0 });
                version.follow(part, || false);
            }
            assert_eq!(version, Version::Http2 { missing: 0 }, "pieces of {size}");

            let request = b"PRI / HTTP/1.1\r\nhost: chat\r\n\r\n";
            let mut version = Version::Unknown { seen: 0 };
            for part in request.chunks(size) {
                version.follow(part, || false);
            }
            let without_call = request.len();
            assert_eq!(version, Version::Http1 { without_call }, "pieces of {size}");
            version.follow(b"GET", || true);
            assert_eq!(version, Version::Http1 { without_call: 0 });
        }
    }
}
