//! Where the status of a call stands in its answer.

use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use tonic::body::Body;

/// Shows `note` where the status of a call may stand: the headers, or else the trailers after the body. `note` returns true if it has
/// found the status there. It is dropped when the answer is over, however it ends.
pub(crate) fn follow(
    answer: Response<Body>,
    mut note: impl FnMut(&HeaderMap) -> bool + Send + 'static,
) -> Response<Body> {
    if note(answer.headers()) {
        return answer;
    }
    answer.map(|body| {
        Body::new(body.map_frame(move |frame| {
            if let Some(trailers) = frame.trailers_ref() {
                note(trailers);
            }
            frame
        }))
    })
}
