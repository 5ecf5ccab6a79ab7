//! Pomelo's packages in a plain stream, as a client without WebSocket sends them (hybrid-13). A read may end anywhere.

use super::{DATA, HANDSHAKE};
use crate::Error;

/// The bytes of a package's type and length.
const HEAD: usize = 4;

/// Finds the packages in a stream. A package that came in one piece is never copied, and between packages there is no
/// buffer.
#[derive(Debug)]
pub struct Packages {
    limit: usize,
    partial: Vec<u8>,
}

impl Packages {
    /// For packages with bodies of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            partial: Vec::new(),
        }
    }

    /// Bytes that are kept of a package that is not complete.
    #[must_use]
    pub fn held(&self) -> usize {
        self.partial.capacity()
    }

    /// Takes the next bytes of the connection, and calls `on` with each package that is complete.
    ///
    /// # Errors
    /// [`Error::Malformed`] at the first byte that cannot begin a package. [`Error::TooBig`] as soon as a package
    /// claims to be too long, so a length that is only claimed costs nothing.
    pub fn feed(&mut self, mut bytes: &[u8], mut on: impl FnMut(&[u8])) -> Result<(), Error> {
        while !self.partial.is_empty() && !bytes.is_empty() {
            let wanted = match self.length(&self.partial)? {
                None => HEAD,
                Some(length) => length,
            };
            let missing = wanted - self.partial.len();
            let (piece, rest) = bytes.split_at(missing.min(bytes.len()));
            self.partial.extend_from_slice(piece);
            bytes = rest;
            if self.length(&self.partial)? == Some(self.partial.len()) {
                on(&std::mem::take(&mut self.partial));
            }
        }
        while let Some(length) = self.length(bytes)? {
            let Some((package, rest)) = bytes.split_at_checked(length) else {
                break;
            };
            on(package);
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// The whole length of the package that begins here. `None` if its head is not complete.
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Error> {
        let Some(&kind) = bytes.first() else {
            return Ok(None);
        };
        if !(HANDSHAKE..=DATA).contains(&kind) {
            return Err(Error::Malformed);
        }
        let Some(&[_, a, b, c]) = bytes.first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > self.limit {
            return Err(Error::too_big(self.limit));
        }
        Ok(Some(HEAD + length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"\x01\0\0\x02{}\x02\0\0\0\x04\0\0\x05hello\x03\0\0\0";

    fn fed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
        let mut packages = Packages::new(5);
        let mut found = Vec::new();
        for piece in pieces {
            let fed = packages.feed(piece, |package| found.push(package.to_vec()));
            assert_eq!(fed, Ok(()));
        }
        assert!(packages.partial.is_empty(), "an idle reader has no buffer");
        found
    }

    #[test]
    fn packages_are_found_however_the_stream_is_split() {
        let whole = fed([STREAM]);
        assert_eq!(whole.concat(), STREAM);
        assert_eq!(whole.len(), 4);
        for size in 1..STREAM.len() {
            assert_eq!(fed(STREAM.chunks(size)), whole, "in pieces of {size}");
        }
    }

    #[test]
    fn a_stream_that_is_not_a_package_is_refused_at_its_first_byte() {
        for kind in [0, 5, 9, 255] {
            let mut packages = Packages::new(5);
            assert_eq!(packages.feed(&[kind], |_| {}), Err(Error::Malformed));
            let mut packages = Packages::new(5);
            let mut found = 0;
            let fed = packages.feed(&[3, 0, 0, 0, kind], |_| found += 1);
            assert_eq!((fed, found), (Err(Error::Malformed), 1));
        }
    }

    #[test]
    fn a_package_that_is_too_long_is_refused_before_its_body_comes() {
        for pieces in [
            &[&[4, 0, 0, 6][..]][..],
            &[&[4, 0], &[0, 6]],
            &[&[4, 255, 255, 255]],
        ] {
            let mut packages = Packages::new(5);
            let fed = pieces
                .iter()
                .try_for_each(|piece| packages.feed(piece, |_| {}));
            assert_eq!(fed, Err(Error::too_big(5)));
        }
    }
}
