//! Reads the body of a post, within bounds.

use crate::limits::Counted;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

/// A body that is too long is read up to this many times its bound. Then the connection ends.
const READ_ON: usize = 4;

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyError {
    TooBig,
    /// The connection broke off, or what came is not HTTP.
    Broken,
    /// The process holds as much as it may.
    NoRoom,
}

/// Reads a body of at most `most` bytes. The rest of a longer one is read and dropped, up to a limit, because a client
/// that is still writing would not see the answer.
pub(super) async fn read(
    body: Incoming,
    most: usize,
    counted: &mut Counted,
) -> Result<Vec<u8>, BodyError> {
    let mut body = Limited::new(body, READ_ON * most);
    let mut bytes = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
            true => BodyError::TooBig,
            false => BodyError::Broken,
        })?;
        let data = frame.into_data().unwrap_or_default();
        length += data.len();
        if length > most {
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(&data);
        }
        if !counted.set(bytes.capacity()) {
            return Err(BodyError::NoRoom);
        }
    }
    if length > most {
        return Err(BodyError::TooBig);
    }
    Ok(bytes)
}
