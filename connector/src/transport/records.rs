//! The borders of the records of TLS in a stream of bytes.
//!
//! rustls keeps a record until all of it has come, and does not say how much it keeps. So a client could make the connector
//! hold bytes that nobody counts. This counts them.

/// The bytes before the content of each record: its type, its version, and its length.
const HEADER: usize = 5;

/// Follows a stream of records.
#[derive(Debug, Default)]
pub(crate) struct Records {
    header: [u8; HEADER],
    /// The bytes of the present record that have come. Zero between two records.
    seen: usize,
}

impl Records {
    /// Notes the next bytes of the stream.
    pub(crate) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let missing = match self.seen.checked_sub(HEADER) {
                None => HEADER - self.seen,
                Some(content) => self.length() - content,
            };
            let (part, rest) = bytes.split_at(missing.min(bytes.len()));
            if self.seen < HEADER {
                self.header[self.seen..][..part.len()].copy_from_slice(part);
            }
            self.seen += part.len();
            bytes = rest;
            if self.seen >= HEADER && self.seen - HEADER == self.length() {
                self.seen = 0;
            }
        }
    }

    /// The bytes of a record of which more must come.
    pub(crate) fn unfinished(&self) -> usize {
        self.seen
    }

    /// The length of the present record's content.
    fn length(&self) -> usize {
        usize::from(u16::from_be_bytes([self.header[3], self.header[4]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_an_unfinished_record_are_counted_however_they_come() {
        let record = |length: u16| {
            let mut record = vec![23, 3, 3];
            record.extend(length.to_be_bytes());
            record.resize(HEADER + usize::from(length), 7);
            record
        };
        let stream = [record(0), record(1), record(300), record(16_384)].concat();
        let mut ends = vec![0];
        for length in [0, 1, 300, 16_384] {
            ends.push(ends[ends.len() - 1] + HEADER + length);
        }
        for step in [1, 2, 3, 7, 100, 5_000, stream.len()] {
            let (mut records, mut sent) = (Records::default(), 0);
            for part in stream.chunks(step) {
                records.follow(part);
                sent += part.len();
                let begun = ends.iter().rfind(|end| **end <= sent).unwrap();
                assert_eq!(records.unfinished(), sent - begun, "step {step}, at {sent}");
            }
        }
    }
}
