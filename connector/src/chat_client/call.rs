//! How long calls take at most, and what their failures mean.

use crate::grpc::words;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{RpcStatusExt, StatusExt, pb};

/// The longest time that a call spends with one endpoint.
pub(crate) const TRY: Duration = Duration::from_secs(1);
/// A client's request is answered within two seconds after it was received. Chat gets this much of that time, and the
/// rest is for the way back.
pub(crate) const CALL: Duration = Duration::from_millis(1_900);

/// Why a call brought no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Chat refused the first attempt, and nothing was done.
    #[error("refused: {reason}")]
    Refused {
        /// The reason, as the contracts list it.
        reason: String,
    },
    /// The deadline of a join was over at the first attempt, and nothing was done.
    #[error("too late by the clock of the store's server")]
    Late {
        /// The time of that clock, in milliseconds since 1970.
        now: u64,
    },
    /// No endpoint was up, so nothing was sent.
    #[error("no chat endpoint is reachable")]
    Unreachable,
    /// The call was sent, and not answered in time. It may have been done, or may still be done.
    #[error("unanswered")]
    Unknown,
}

/// An answer, and whether another copy of the request may still be under way.
#[derive(Debug)]
pub struct Answered<T> {
    /// Chat's answer.
    pub answer: T,
    /// False if the first attempt was answered. Then there is no other copy.
    pub repeated: bool,
}

/// True if nothing was done, and repeating the call elsewhere can't help.
pub(super) fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::AlreadyExists
            | Code::Unimplemented
    ) || is_full(status)
}

/// True if the store refused to write because it is out of memory.
pub(super) fn is_full(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted && reason(status) == "STORE_FULL"
}

/// The error for a final refusal of the first attempt.
pub(super) fn refusal(status: &Status) -> CallError {
    let info = status.get_details_error_info();
    let late = info.filter(|info| info.reason == "LATE");
    let now = late.and_then(|info| info.metadata.get("now")?.parse().ok());
    match now {
        Some(now) => CallError::Late { now },
        None => CallError::Refused {
            reason: reason(status),
        },
    }
}

/// The reason of a refusal inside a stream.
pub(super) fn reason_of(status: &pb::Status) -> String {
    let info = status.get_details_error_info();
    info.map_or_else(
        || format!("{:?}", Code::from(status.code)),
        |info| info.reason,
    )
}

/// Why a chat does not take calls of this connector, in words for an operator.
pub(super) fn trouble(status: &Status) -> String {
    let text = match &*reason(status) {
        "TOKEN_MISSING" => {
            "it wants a token, and this connector has none: make one with `chat token create NAME --scopes connector`, and set \
             --chat-token-file; or put a line with a name in this connector's certificate into that chat's --api-tokens-file"
        }
        "TOKEN_REFUSED" => {
            "this connector's token is refused: it is not in this chat's --api-tokens-file, or not any more; put another one into \
             --chat-token-file, which is read again when it changes"
        }
        "SCOPE_MISSING" => {
            "this connector's token is refused: its line in this chat's --api-tokens-file lacks the scope connector"
        }
        _ => return words(status),
    };
    text.to_owned()
}

pub(super) fn reason(status: &Status) -> String {
    status
        .get_details_error_info()
        .map_or_else(|| format!("{:?}", status.code()), |info| info.reason)
}
