//! The messages of a stream, as lines of JSON or as Server-Sent Events.

use super::connect::Framing;
use super::contract::Method;
use super::json;
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tonic::body::Body;
use tonic::{Code, Status};

/// A flag and the length, before each message of gRPC.
pub(super) const PREFIX: usize = 5;

/// A body of gRPC as the caller reads it. What has come from the service is given on at once, and nothing is asked of the service
/// before the caller has taken it. The trailers stay, because they have the status.
pub(super) struct Events {
    body: Body,
    framing: Framing,
    method: Arc<Method>,
    /// The part of the next message that has come.
    part: BytesMut,
    /// Given on after the error that stands in them.
    trailers: Option<HeaderMap>,
}

impl Events {
    pub(super) fn new(body: Body, framing: Framing, method: Arc<Method>) -> Self {
        Self {
            body,
            framing,
            method,
            part: BytesMut::new(),
            trailers: None,
        }
    }

    /// All messages that are complete.
    fn written(&mut self) -> Result<Bytes, Status> {
        let mut written = BytesMut::new();
        while let Some(mut prefix) = self.part.get(1..PREFIX) {
            let length = prefix.get_u32() as usize;
            if self.part.len() < PREFIX + length {
                break;
            }
            self.part.advance(PREFIX);
            let message = self.part.split_to(length).freeze();
            let json = json::write(&self.method.output, message).map_err(|error| {
                Status::internal(format!("a message cannot be written as JSON: {error}"))
            })?;
            self.framing.put(&mut written, &json);
        }
        Ok(written.freeze())
    }
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)?) else {
                return Poll::Ready(None);
            };
            let frame = match frame.into_data() {
                Ok(data) => {
                    self.part.extend_from_slice(&data);
                    let written = self.written()?;
                    if written.is_empty() {
                        continue;
                    }
                    Frame::data(written)
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    match Status::from_header_map(&trailers) {
                        Some(status) if status.code() != Code::Ok => {
                            let mut error = BytesMut::new();
                            let types = self.method.output.parent_pool();
                            self.framing.put_error(&mut error, types, &status);
                            self.trailers = Some(trailers);
                            Frame::data(error.freeze())
                        }
                        _ => Frame::trailers(trailers),
                    }
                }
            };
            return Poll::Ready(Some(Ok(frame)));
        }
    }
}
