//! What a call can end with, and the one place that says which gRPC status that is.
//!
//! The contracts in `proto/` list codes and reasons. Reasons never change.

use channel_store::StoreError;
use prost::Message;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt, pb};

/// The domain of every `ErrorInfo`, in both contracts: it is chat that says so.
const DOMAIN: &str = "chat.v1";
/// Metadata of `ErrorInfo` with the reason `LATE`: the time of the server that refused, in milliseconds since 1970.
const NOW: &str = "now";
/// Metadata of `ErrorInfo` with the reason `POSITION_MISMATCH`: where the log ends.
const EPOCH: &str = "epoch";
const OFFSET: &str = "offset";
/// Metadata of `ErrorInfo` with the reason `SCOPE_MISSING`.
const SCOPE: &str = "scope";
/// Metadata of `ErrorInfo` with the reason `CHANNEL_NOT_ALLOWED`.
const FIELD: &str = "field";

/// Why a call was not answered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// Fields of the request are wrong. Nothing was done.
    #[error("{}", Listed(.0))]
    Invalid(Vec<Violation>),
    /// The store refused the call or did not answer.
    #[error(transparent)]
    Store(StoreError),
    /// The store knows no channel of this name. Nothing was done.
    #[error(
        "nothing was published in this channel and it has no member, or it has expired or was deleted since"
    )]
    ChannelNotFound,
    /// No connector with this name lives. Nothing was done.
    #[error(
        "no connector with this name, or no such incarnation of it, lives: ListConnectors shows those that do"
    )]
    ConnectorNotFound,
    /// The session is in as many channels as it may be. Nothing was done.
    #[error("the session is in as many channels as a session may be: remove it from one first")]
    TooManyChannels,
    /// As many tokens of the user are revoked one by one as may be. Nothing was done.
    #[error(
        "100 tokens of this user are revoked one by one already: revoke those that were made before some time instead"
    )]
    TooManyRevoked,
    /// The session has left, and the leave has not landed yet.
    #[error(
        "the session has left, but the others are not told yet: its connector goes on until they are; ask again to learn when"
    )]
    LeavePending,
    /// The session's connector could not do it in time.
    #[error(
        "the session's connector could not do this in time, so it may be done or not: it is safe to try again"
    )]
    SessionUnavailable,
    /// Chat has too much to do. Nothing was done.
    #[error("chat has too much to do at once, and nothing was done: try again later")]
    Overloaded,
    /// The connection was given more bytes of pages than it may be given in this time. Nothing was done.
    #[error(
        "this connection was given as many bytes of pages as it may be given (--page-rate): try again in {} ms",
        wait.as_millis() + 1
    )]
    RateLimited {
        /// When the next page may be asked for.
        wait: Duration,
    },
    /// A send stream is ended because it was not used and another one needs its place. Everything on it was answered.
    #[error(
        "this stream was idle and another one needs its place: open a new one when there is something to send"
    )]
    StreamIdle,
    /// A watch is ended because this chat ends. Everything up to the places that were told has been given.
    #[error("this chat ends: watch again on another one, from your stored places")]
    ShuttingDown,
    /// A watch is ended because its connection has become too old. Everything up to the places that were told has been given.
    #[error(
        "this connection is older than --max-connection-age: watch again over a new one, from your stored places"
    )]
    ConnectionTooOld,
    /// More channels begin with the prefix than one watch may follow.
    #[error(
        "more than {most} channels would be watched: watch them by longer prefixes, with several calls"
    )]
    PrefixTooWide {
        /// The most channels of one watch.
        most: usize,
    },
    /// The caller shows no token, and no certificate that the file of tokens names.
    #[error(
        "this chat answers only to callers with a token: send the header `authorization: Bearer TOKEN`, with a token that chat's \
         operator has made, or connect with a client certificate that chat's file of tokens names"
    )]
    TokenMissing,
    /// The caller's token is in no line of the file, or not any more.
    #[error(
        "this token is not valid here: it was never added to this chat's file of tokens, or it was taken out or changed; ask \
         chat's operator for another one"
    )]
    TokenRefused,
    /// The caller's token does not allow this call. Nothing was done.
    #[error(
        "this token lacks the scope {scope}, which this call needs: ask chat's operator to add it, or use another token"
    )]
    ScopeMissing {
        /// The scope.
        scope: &'static str,
    },
    /// The caller's token allows the call only for some channels. Nothing was done.
    #[error("{}", NotAllowed(*.field))]
    ChannelNotAllowed {
        /// The path of the field in the request that names another channel. `None`: the call is not about channels.
        field: Option<&'static str>,
    },
    /// The rules of the channel allow only ephemeral messages. Nothing was done.
    #[error(
        "this channel takes only ephemeral messages, because chat's operator has set ephemeral_only for it: set ephemeral, or use \
         another channel"
    )]
    EphemeralOnly,
    /// The call was not done in time, so its outcome is unknown.
    #[error(
        "not done in time, so the outcome is unknown: it is safe to try again with the same idempotency key"
    )]
    DeadlineExceeded,
}

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field in the request, for example `session.id`.
    pub field: Cow<'static, str>,
    /// What is wrong with it.
    pub description: String,
}

struct Listed<'a>(&'a [Violation]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Violation { field, description }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{field}: {description}")?;
        }
        Ok(())
    }
}

struct NotAllowed(Option<&'static str>);

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(field) => write!(
                f,
                "{field}: this token is not for such channels; it is only for those that its line in chat's file of tokens names"
            ),
            None => f.write_str(
                "this token is only for some channels, and this call is not about channels: use a token without patterns",
            ),
        }
    }
}

impl Error {
    /// A single wrong field.
    pub(crate) fn invalid(
        field: impl Into<Cow<'static, str>>,
        description: impl fmt::Display,
    ) -> Self {
        let (field, description) = (field.into(), description.to_string());
        Self::Invalid(vec![Violation { field, description }])
    }

    /// All reasons.
    pub(crate) const REASONS: &[&str] = &[
        "INVALID_ARGUMENT",
        "CHANNEL_NOT_FOUND",
        "CONNECTOR_NOT_FOUND",
        "TOO_MANY_CHANNELS",
        "TOO_MANY_REVOKED_TOKENS",
        "LEAVE_PENDING",
        "SESSION_UNAVAILABLE",
        "OVERLOADED",
        "RATE_LIMITED",
        "STREAM_IDLE",
        "SHUTTING_DOWN",
        "CONNECTION_TOO_OLD",
        "PREFIX_TOO_WIDE",
        "TOKEN_MISSING",
        "TOKEN_REFUSED",
        "SCOPE_MISSING",
        "CHANNEL_NOT_ALLOWED",
        "EPHEMERAL_ONLY",
        "DEADLINE_EXCEEDED",
        "STORE_UNAVAILABLE",
        "STORE_FULL",
        "NOT_MEMBER",
        "POSITION_MISMATCH",
        "IDEMPOTENCY_KEY_REUSED",
        "STALE_OPERATION",
        "LATE",
        "CONNECTOR_DEAD",
        "CHANNEL_DELETED",
    ];

    /// The gRPC status code, and the reason that tells errors of one code apart.
    #[must_use]
    pub fn code_and_reason(&self) -> (Code, &'static str) {
        match self {
            Self::Invalid(_) | Self::Store(StoreError::BadPageToken) => {
                (Code::InvalidArgument, "INVALID_ARGUMENT")
            }
            Self::ChannelNotFound => (Code::NotFound, "CHANNEL_NOT_FOUND"),
            Self::ConnectorNotFound => (Code::NotFound, "CONNECTOR_NOT_FOUND"),
            Self::TooManyChannels => (Code::FailedPrecondition, "TOO_MANY_CHANNELS"),
            Self::TooManyRevoked => (Code::ResourceExhausted, "TOO_MANY_REVOKED_TOKENS"),
            Self::LeavePending => (Code::Unavailable, "LEAVE_PENDING"),
            Self::SessionUnavailable => (Code::Unavailable, "SESSION_UNAVAILABLE"),
            Self::Overloaded => (Code::ResourceExhausted, "OVERLOADED"),
            Self::RateLimited { .. } => (Code::ResourceExhausted, "RATE_LIMITED"),
            Self::StreamIdle => (Code::Unavailable, "STREAM_IDLE"),
            Self::ShuttingDown => (Code::Unavailable, "SHUTTING_DOWN"),
            Self::ConnectionTooOld => (Code::Unavailable, "CONNECTION_TOO_OLD"),
            Self::PrefixTooWide { .. } => (Code::ResourceExhausted, "PREFIX_TOO_WIDE"),
            Self::TokenMissing => (Code::Unauthenticated, "TOKEN_MISSING"),
            Self::TokenRefused => (Code::Unauthenticated, "TOKEN_REFUSED"),
            Self::ScopeMissing { .. } => (Code::PermissionDenied, "SCOPE_MISSING"),
            Self::ChannelNotAllowed { .. } => (Code::PermissionDenied, "CHANNEL_NOT_ALLOWED"),
            Self::EphemeralOnly => (Code::FailedPrecondition, "EPHEMERAL_ONLY"),
            Self::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            Self::Store(StoreError::Unavailable(_)) => (Code::Unavailable, "STORE_UNAVAILABLE"),
            Self::Store(StoreError::Full) => (Code::ResourceExhausted, "STORE_FULL"),
            Self::Store(StoreError::NotMember) => (Code::FailedPrecondition, "NOT_MEMBER"),
            Self::Store(StoreError::PositionMismatch { .. }) => {
                (Code::Aborted, "POSITION_MISMATCH")
            }
            Self::Store(StoreError::KeyReused) => (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED"),
            Self::Store(StoreError::StaleOperation) => {
                (Code::FailedPrecondition, "STALE_OPERATION")
            }
            Self::Store(StoreError::Late { .. }) => (Code::FailedPrecondition, "LATE"),
            Self::Store(StoreError::ChannelDeleted) => {
                (Code::FailedPrecondition, "CHANNEL_DELETED")
            }
            Self::Store(StoreError::ConnectorDead) => (Code::FailedPrecondition, "CONNECTOR_DEAD"),
        }
    }

    /// How long a caller should wait before it tries again, if waiting helps.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded
            | Self::LeavePending
            | Self::SessionUnavailable
            | Self::Store(StoreError::Unavailable(_)) => Some(Duration::from_secs(1)),
            Self::RateLimited { wait } => Some(*wait),
            Self::Store(StoreError::Full) => Some(Duration::from_secs(5)),
            _ => None,
        }
    }

    /// True if it may have been done all the same. Then it must not be answered as a refusal.
    pub(crate) fn outcome_is_unknown(&self) -> bool {
        matches!(
            self,
            Self::DeadlineExceeded
                | Self::SessionUnavailable
                | Self::Store(StoreError::Unavailable(_))
        )
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::BadPageToken => Self::invalid("page_token", error),
            other => Self::Store(other),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, reason) = error.code_and_reason();
        let metadata = match &error {
            // A connector that finds its lease alive tries again with a deadline by this clock.
            Error::Store(StoreError::Late { now }) => vec![(NOW, now.to_string())],
            // A sender may look at what has come in between, and try again at this end.
            Error::Store(StoreError::PositionMismatch { end }) => vec![
                (EPOCH, end.epoch.as_str().to_owned()),
                (OFFSET, end.offset.to_string()),
            ],
            Error::ScopeMissing { scope } => vec![(SCOPE, (*scope).to_owned())],
            Error::ChannelNotAllowed { field: Some(field) } => vec![(FIELD, (*field).to_owned())],
            _ => Vec::new(),
        };
        let metadata = metadata.into_iter().map(|(key, it)| (key.to_owned(), it));
        let metadata: HashMap<_, _> = metadata.collect();
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        if let Error::Invalid(violations) = &error {
            let fields = violations
                .iter()
                .map(|wrong| FieldViolation::new(wrong.field.as_ref(), wrong.description.as_str()));
            details.set_bad_request(fields.collect::<Vec<_>>());
        }
        if let Some(wait) = error.retry_after() {
            details.set_retry_info(Some(wait));
        }
        Self::with_error_details(code, error.to_string(), details)
    }
}

/// The same status as a message, for an answer inside a stream.
impl From<Error> for pb::Status {
    fn from(error: Error) -> Self {
        let status = Status::from(error);
        // The details of a rich status are such a message as a whole.
        Self::decode(status.details()).unwrap_or_else(|_| Self {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Vec::new(),
        })
    }
}

/// A request that is larger than any message may make it.
pub(crate) fn too_large(frame_limit: usize) -> Error {
    Error::invalid("request", format!("must have at most {frame_limit} bytes"))
}

/// The status of a request that tonic itself cannot decode, as this service says it. Chat uses neither code elsewhere.
pub(crate) fn of_transport(status: Status, frame_limit: usize) -> Status {
    match status.code() {
        Code::OutOfRange => too_large(frame_limit).into(),
        // The decoder's own words repeat the way down to the place, level by level.
        Code::Internal if status.message().contains("recursion limit") => {
            let description = "is nested too deeply: a body may have 32 objects inside each other";
            Error::invalid("request", description).into()
        }
        Code::Internal => Error::invalid("request", status.message()).into(),
        _ => status,
    }
}

/// The service could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The contracts' descriptors cannot be shown.
    #[error("server reflection failed")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The contract's descriptors cannot be read.
    #[error("the contract's descriptors cannot be read")]
    Contract(#[from] prost_reflect::DescriptorError),
}
