//! The audit log: who has written what, and who was refused. It never holds a message or a token.
//!
//! Lines of callers with a token have no limit, because a log with holes proves nothing. Strangers could fill the disk, so their
//! lines are limited as all other lines are.

use super::tokens::Token;
use crate::error::Error;
use crate::port::ending::follow;
use crate::port::gate::{Protocol, protocol};
use http::{HeaderMap, Response};
use parking_lot::Mutex;
use proto::codes;
use runtime::tls::ClientCertificate;
use std::net::SocketAddr;
use std::sync::Arc;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// How many different channels and users of a call are named. If there are more, the line says so.
const NAMES: usize = 8;
/// The most characters of what a stranger has written that stand in the log.
const EXCERPT: usize = 64;

/// What is noted of one call until its end.
pub(super) struct Record {
    token: Arc<Token>,
    method: &'static str,
    peer: Option<SocketAddr>,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    channels: Names,
    users: Names,
    /// How many times the call has named a channel for which the token is not.
    denied: u32,
}

/// The first names that were noted.
#[derive(Default)]
struct Names {
    first: Vec<Box<str>>,
    are_more: bool,
}

impl Names {
    fn note(&mut self, name: &str) {
        if self.first.iter().any(|it| **it == *name) {
            return;
        }
        if self.first.len() < NAMES {
            self.first.push(name.into());
        } else {
            self.are_more = true;
        }
    }
}

impl Record {
    pub(super) fn new(
        token: Arc<Token>,
        method: &'static str,
        peer: Option<SocketAddr>,
    ) -> Arc<Self> {
        Arc::new(Self {
            token,
            method,
            peer,
            noted: Mutex::default(),
        })
    }

    pub(super) fn note_channel(&self, name: &str) {
        self.noted.lock().channels.note(name);
    }

    /// Notes that the call has named a channel for which its token is not. A call with many messages goes on after that.
    pub(super) fn note_denied(&self) {
        let mut noted = self.noted.lock();
        noted.denied = noted.denied.saturating_add(1);
    }

    pub(super) fn note_user(&self, name: &str) {
        self.noted.lock().users.note(name);
    }

    /// Writes the line.
    pub(super) fn write(&self, code: &'static str, reason: Option<&str>) {
        let noted = self.noted.lock();
        tracing::info!(
            target: runtime::AUDIT,
            token = self.token.line.name,
            method = self.method,
            channels = ?noted.channels.first,
            more_channels = noted.channels.are_more.then_some(true),
            users = ?noted.users.first,
            more_users = noted.users.are_more.then_some(true),
            peer = self.peer.map(tracing::field::display),
            denied = (noted.denied > 0).then_some(noted.denied),
            code,
            reason,
            "call"
        );
    }
}

/// Notes that somebody was refused who has no valid token, and no certificate that the file of tokens names.
pub(super) fn refused_stranger(
    path: &str,
    peer: Option<SocketAddr>,
    certificate: Option<&ClientCertificate>,
    error: &Error,
) {
    let (code, reason) = error.code_and_reason();
    let excerpt = |text: &str| text.chars().take(EXCERPT).collect::<String>();
    let method = excerpt(path.trim_start_matches('/'));
    tracing::warn!(
        target: runtime::AUDIT,
        method,
        certificate = certificate.and_then(|it| it.names().next()).map(excerpt),
        peer = peer.map(tracing::field::display),
        code = codes::name(code),
        reason,
        "refused"
    );
}

/// A call that is under way. Its line is written when it ends, however it ends.
pub(super) struct Audited {
    record: Arc<Record>,
    /// Only a refusal is noted.
    only_refusals: bool,
    /// `Cancelled` until the end is known: it stays so if the caller goes away before.
    code: Code,
    /// Why it was refused, if it was.
    reason: Option<String>,
}

impl Audited {
    pub(super) fn begin(record: Arc<Record>, writes: bool, lasts: bool) -> Self {
        if writes && lasts {
            record.write("BEGUN", None);
        }
        Self {
            record,
            only_refusals: !writes,
            code: Code::Cancelled,
            reason: None,
        }
    }

    pub(super) fn follow(mut self, answer: Response<Body>) -> Response<Body> {
        // An answer in JSON is made once its call has ended. Nobody reads its trailers.
        let is_whole = protocol(answer.headers()) == Protocol::Other;
        if self.only_refusals || is_whole {
            if !self.note_end(answer.headers()) && is_whole {
                self.code = Code::Ok;
            }
            return answer;
        }
        follow(answer, move |headers| self.note_end(headers))
    }

    fn note_end(&mut self, headers: &HeaderMap) -> bool {
        let status = Status::from_header_map(headers);
        if let Some(status) = &status {
            self.code = status.code();
            self.reason = status.get_details_error_info().map(|it| it.reason);
        }
        status.is_some()
    }
}

impl Drop for Audited {
    fn drop(&mut self) {
        let is_refusal = matches!(self.code, Code::PermissionDenied | Code::Unauthenticated);
        if is_refusal || !self.only_refusals {
            self.record
                .write(codes::name(self.code), self.reason.as_deref());
        }
    }
}
