//! The answers to requests, and the one place that writes them in the client's protocol.

use super::secret::Secret;
use crate::metering::RequestUnderWay;
use crate::transport::Connection;
use std::borrow::Cow;
use std::sync::Arc;
use wire::Refusal;

pub(super) const LOGGED_IN: &str = r#"{"code":0,"message":"登录成功"}"#;
pub(super) const SENT: &str = r#"{"message":"发送成功","code":0}"#;
pub(super) const DONE: &str = r#"{"code":0}"#;

/// The answer to a login, with the secret if the client gets one, and with the seconds until its token expires if it has
/// shown one.
pub(super) fn logged_in(secret: Option<&Secret>, ttl: Option<u64>) -> Cow<'static, str> {
    if secret.is_none() && ttl.is_none() {
        return LOGGED_IN.into();
    }
    let members = LOGGED_IN.strip_suffix('}').unwrap_or(LOGGED_IN);
    let secret = secret.map(|secret| format!(r#","resume":"{secret}""#));
    let ttl = ttl.map(|ttl| format!(r#","ttl":{ttl}"#));
    let (secret, ttl) = (secret.unwrap_or_default(), ttl.unwrap_or_default());
    format!("{members}{secret}{ttl}}}").into()
}

/// The body of a positive answer, which is the same in every protocol, or the refusal.
pub(super) type Answer = Result<Cow<'static, str>, Refusal>;

/// Answers a request that is measured, and counts it.
pub(super) fn conclude(
    mut measured: RequestUnderWay,
    connection: &Arc<Connection>,
    id: Option<u64>,
    answer: Answer,
) {
    measured.answered(&answer);
    reply(connection, id, answer);
}

/// Answers a request in the client's protocol. A request without an id is a notification, which is not answered.
pub(super) fn reply(connection: &Arc<Connection>, id: Option<u64>, answer: Answer) {
    if let Err(refusal) = &answer
        && let Some(step) = traces::current()
    {
        step.fail(refusal.reason().name());
    }
    let Some(id) = id else {
        return;
    };
    let body = answer.unwrap_or_else(|refusal| refusal.body(connection.format().protocol()));
    connection.reply(id, body.as_bytes());
}
