//! The bytes of requests are counted while they are kept here, before anything has decoded them.

use super::share::{Holding, Share, Taken};
use crate::error::{Error, too_large};
use bytes::{Buf, Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;

/// Bytes before each gRPC message: a flag and the length.
const PREFIX: usize = 5;

/// Reads the body of a unary request to its end. A body of more than `limit` bytes is refused, and so is one that exceeds the
/// caller's part of what all requests together may hold. The caller bounds the time.
pub(crate) async fn whole(
    mut body: Body,
    limit: usize,
    share: &Arc<Share>,
    by: &Arc<Holding>,
) -> Result<(Body, Vec<Taken>), Error> {
    let mut parts: Vec<Bytes> = Vec::new();
    let mut taken = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        // The caller has gone or has broken the rules of HTTP/2, so nobody reads this.
        let frame = frame.map_err(|_| Error::invalid("request", "did not come to its end"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length += data.len();
        if length > limit + PREFIX {
            return Err(too_large(limit));
        }
        taken.push(share.take(by, data.len()).ok_or(Error::Overloaded)?);
        parts.push(data);
    }
    let data = if parts.len() > 1 {
        let mut all = BytesMut::with_capacity(length);
        for part in parts {
            all.extend_from_slice(&part);
        }
        all.freeze()
    } else {
        parts.pop().unwrap_or_default()
    };
    Ok((Body::new(Full::new(data)), taken))
}

/// The body of a stream. The bytes of a message that has not come as a whole are counted.
pub(crate) struct Metered {
    body: Body,
    share: Arc<Share>,
    by: Arc<Holding>,
    /// The part of the next message's prefix that has come.
    prefix: BytesMut,
    /// Bytes of the present message that are still to come.
    missing: usize,
    /// The part of it that is kept meanwhile.
    taken: Option<Taken>,
}

impl Metered {
    pub(crate) fn new(body: Body, share: Arc<Share>, by: Arc<Holding>) -> Self {
        Self {
            body,
            share,
            by,
            prefix: BytesMut::new(),
            missing: 0,
            taken: None,
        }
    }

    /// Counts the messages in the next bytes. False if the caller would keep more than its part.
    fn follow(&mut self, mut data: &[u8]) -> bool {
        let mut kept = 0;
        while !data.is_empty() {
            if self.missing == 0 {
                let length = (PREFIX - self.prefix.len()).min(data.len());
                self.prefix.extend_from_slice(&data[..length]);
                data.advance(length);
                if self.prefix.len() < PREFIX {
                    break;
                }
                let mut prefix = self.prefix.split();
                prefix.advance(1);
                self.missing = prefix.get_u32() as usize;
                self.taken = None;
                kept = 0;
                continue;
            }
            let length = self.missing.min(data.len());
            data.advance(length);
            self.missing -= length;
            kept += length;
            if self.missing == 0 {
                self.taken = None;
                kept = 0;
            }
        }
        if kept == 0 {
            return true;
        }
        match &mut self.taken {
            Some(taken) => taken.grow(kept),
            None => {
                self.taken = self.share.take(&self.by, kept);
                self.taken.is_some()
            }
        }
    }
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
            && !self.follow(data)
        {
            return Poll::Ready(Some(Err(Error::Overloaded.into())));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.extend(vec![7; length as usize]);
        bytes
    }

    fn metered(total: usize) -> (Metered, Arc<Holding>) {
        let by = Arc::<Holding>::default();
        let metered = Metered::new(Body::empty(), Share::new(total), Arc::clone(&by));
        (metered, by)
    }

    #[test]
    fn of_an_unfinished_message_only_the_buffered_part_counts() {
        let (mut metered, by) = metered(1_000);
        let bytes = [message(3), message(0), message(100), message(8)].concat();
        for piece in [1, 2, 3, 7, 50, bytes.len()] {
            for part in bytes.chunks(piece) {
                assert!(metered.follow(part));
                assert!(by.amount() <= 100);
            }
            assert_eq!(by.amount(), 0, "pieces of {piece}");
        }
        assert!(metered.follow(&message(100)[..65]));
        assert_eq!(by.amount(), 60);
        drop(metered);
        assert_eq!(by.amount(), 0);
    }

    #[test]
    fn a_caller_whose_unfinished_messages_are_too_large_is_refused() {
        let (mut metered, _) = metered(100);
        let bytes = message(1_000);
        assert!(metered.follow(&bytes[..30]));
        assert!(metered.follow(&bytes[30..50]));
        assert!(!metered.follow(&bytes[50..100]));
    }
}
