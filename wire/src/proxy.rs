//! The header of the PROXY protocol, versions 1 and 2, with which a proxy says who is behind it.

use ppp::{v1, v2};
use std::net::{IpAddr, SocketAddr};

/// The beginning of both versions is at least this long.
const BEGINNING: usize = 12;
/// The longest header of version 1, with the end of its line.
const LONGEST_V1: usize = 107;
/// The fixed part of a header of version 2, with the length of the rest at its end.
const HEAD_V2: usize = 16;
/// The longest rest that is accepted. Proxies add some hundred bytes at most.
const LONGEST_V2: usize = 4 << 10;

/// What the bytes so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The beginning of a header, of which at least this many bytes are missing. Read no more than these, because what follows the
    /// header belongs to the client.
    Missing(usize),
    /// A whole header. `None`: the proxy speaks for itself, as in a health check, or does not know the client.
    Client(Option<SocketAddr>),
}

/// The bytes are no header of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no header of the PROXY protocol")]
pub struct NoHeader;

/// Judges all bytes of a connection so far.
///
/// # Errors
/// [`NoHeader`], also for a header that is longer than any proxy needs.
pub fn read(bytes: &[u8]) -> Result<Progress, NoHeader> {
    if bytes.len() < BEGINNING {
        return Ok(Progress::Missing(BEGINNING - bytes.len()));
    }
    if bytes.starts_with(v2::PROTOCOL_PREFIX) {
        read_v2(bytes)
    } else {
        read_v1(bytes)
    }
}

fn read_v1(bytes: &[u8]) -> Result<Progress, NoHeader> {
    if !bytes.starts_with(b"PROXY ") || bytes.len() > LONGEST_V1 {
        return Err(NoHeader);
    }
    if !bytes.ends_with(b"\r\n") {
        // Its length is not known before its end.
        return match bytes.len() {
            LONGEST_V1 => Err(NoHeader),
            _ => Ok(Progress::Missing(1)),
        };
    }
    let header = v1::Header::try_from(bytes).map_err(|_| NoHeader)?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(it) => client(it.source_address, it.source_port),
        v1::Addresses::Tcp6(it) => client(it.source_address, it.source_port),
        v1::Addresses::Unknown => Progress::Client(None),
    })
}

fn read_v2(bytes: &[u8]) -> Result<Progress, NoHeader> {
    let Some(head) = bytes.first_chunk::<HEAD_V2>() else {
        return Ok(Progress::Missing(HEAD_V2 - bytes.len()));
    };
    let rest = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if rest > LONGEST_V2 {
        return Err(NoHeader);
    }
    match (HEAD_V2 + rest).checked_sub(bytes.len()) {
        None => return Err(NoHeader),
        Some(0) => {}
        Some(missing) => return Ok(Progress::Missing(missing)),
    }
    let header = v2::Header::try_from(bytes).map_err(|_| NoHeader)?;
    Ok(match (header.command, header.addresses) {
        (v2::Command::Local, _) => Progress::Client(None),
        (_, v2::Addresses::IPv4(it)) => client(it.source_address, it.source_port),
        (_, v2::Addresses::IPv6(it)) => client(it.source_address, it.source_port),
        (_, v2::Addresses::Unix(_) | v2::Addresses::Unspecified) => Progress::Client(None),
    })
}

fn client(address: impl Into<IpAddr>, port: u16) -> Progress {
    Progress::Client(Some(SocketAddr::new(address.into(), port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as much as is asked for, as a connection does. Returns the client, and what is left of the bytes.
    fn read_from(bytes: &[u8]) -> Result<(Option<SocketAddr>, &[u8]), NoHeader> {
        let mut taken = 0;
        loop {
            match read(&bytes[..taken])? {
                Progress::Client(client) => return Ok((client, &bytes[taken..])),
                Progress::Missing(missing) => taken += missing,
            }
            if taken > bytes.len() {
                return Err(NoHeader);
            }
        }
    }

    fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let head = [0x20 | command, family];
        [v2::PROTOCOL_PREFIX, &head, &length, body].concat()
    }

    #[test]
    fn both_versions_name_the_client_and_leave_its_bytes() {
        let v4 = [198, 51, 100, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
        let ports = [0x12, 0x34, 0, 80];
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 16], &ports].concat();
        let with_more = [&v4[..], &[4, 0, 2, b'o', b'k']].concat();
        for (header, expected) in [
            (
                &b"PROXY TCP4 198.51.100.7 10.0.0.1 4660 80\r\n"[..],
                Some("198.51.100.7:4660"),
            ),
            (
                b"PROXY TCP6 2001:db8::7 ::1 4660 80\r\n",
                Some("[2001:db8::7]:4660"),
            ),
            (b"PROXY UNKNOWN\r\n", None),
            (&version_2(1, 0x11, &v4), Some("198.51.100.7:4660")),
            (&version_2(1, 0x21, &v6), Some("[2001:db8::7]:4660")),
            (&version_2(1, 0x11, &with_more), Some("198.51.100.7:4660")),
            (&version_2(0, 0, &[]), None),
        ] {
            let bytes = [header, b"GET / HTTP/1.1"].concat();
            let (client, left) =
                read_from(&bytes).unwrap_or_else(|error| panic!("{header:?}: {error}"));
            assert_eq!(
                client.map(|it| it.to_string()).as_deref(),
                expected,
                "{header:?}"
            );
            assert_eq!(left, b"GET / HTTP/1.1");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = [b"PROXY TCP4 ", &[b'1'; 200][..]].concat();
        let huge = [v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0xff, 0xff], &[0; 70_000]].concat();
        for header in [
            &b"GET /ws HTTP/1.1\r\n\r\n"[..],
            b"\x01\0\0\x05hello world",
            b"PROXY TCP4 1.2.3 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 198.51.100.7 10.0.0.1 99999 2\r\n",
            b"PROXY \r\n      ",
            &long,
            &huge,
            &version_2(1, 0x11, &[1, 2, 3]),
            &version_2(7, 0x11, &[0; 12]),
            b"PRO",
        ] {
            assert_eq!(read_from(header), Err(NoHeader), "{header:?}");
        }
    }
}
