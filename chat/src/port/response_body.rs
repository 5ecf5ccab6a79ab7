//! The bytes of an answer are counted until they have left this process.
//!
//! HTTP/2 lets a caller ask for much and take nothing. So an answer is cut into pieces. HTTP/2 gets the next piece only when the
//! caller has room for it, and each piece keeps the answer's part of the bytes that all answers together may have. A caller that
//! takes no piece for too long loses its connection ([`super::connections`]).

use super::connections::{Caller, Untaken};
use super::share::Taken;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Response};
use http_body::SizeHint;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;

/// How many bytes HTTP/2 gets at once.
const PIECE: usize = 16 * 1024;

/// Holds a finished answer until the caller has taken it.
pub(crate) fn hold(
    answer: Response<Body>,
    mut taken: Taken,
    caller: &Arc<Caller>,
) -> Response<Body> {
    let (head, body) = answer.into_parts();
    let Some(Ok(collected)) = body.collect().now_or_never() else {
        // This cannot happen: unary answers are ready as a whole.
        return Status::internal("the answer was not ready").into_http();
    };
    let trailers = collected.trailers().cloned();
    let data = collected.to_bytes();
    taken.resize(data.len());
    let held = Held {
        data,
        trailers,
        answer: Arc::new(Answer {
            untaken: caller.untaken(),
            _taken: taken,
        }),
    };
    Response::from_parts(head, Body::new(UnsyncBoxBody::new(held)))
}

struct Answer {
    untaken: Untaken,
    _taken: Taken,
}

struct Held {
    data: Bytes,
    trailers: Option<HeaderMap>,
    answer: Arc<Answer>,
}

/// A part of an answer that is on its way.
struct Piece {
    data: Bytes,
    answer: Arc<Answer>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.answer.untaken.step();
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        if !self.data.is_empty() {
            let length = PIECE.min(self.data.len());
            let piece = Piece {
                data: self.data.split_to(length),
                answer: Arc::clone(&self.answer),
            };
            let data = Bytes::from_owner(piece);
            return Poll::Ready(Some(Ok(http_body::Frame::data(data))));
        }
        let trailers = self.trailers.take().map(http_body::Frame::trailers);
        Poll::Ready(trailers.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.len() as u64)
    }
}
