//! The token that this connector shows to chats, which may want one. It stands in a file, and is read again when the file changes,
//! so that it can be replaced while clients are connected.

use crate::grpc::{GrpcService, TransportError};
use futures_util::future::{BoxFuture, FutureExt};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request, Response};
use parking_lot::Mutex;
use runtime::files::{Change, FileWatch, LOOK};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::body::Body;
use tower::Service;
use tower::util::BoxCloneSyncService;

/// If a chat refuses the token, the file is looked at again at once, but not more often than this.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// The most bytes of the file.
const FILE_BYTES: u64 = 4 << 10;

/// Why a file cannot be used that does not hold a token alone.
const NO_TOKEN: &str =
    "it must hold one token and nothing else: the first line that `chat token create` prints";

/// The token of a connector.
pub struct ChatToken {
    path: PathBuf,
    header: Mutex<HeaderValue>,
    doubted: Notify,
}

/// The file of the token cannot be used. No message shows what is in it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct TokenError {
    path: PathBuf,
    reason: String,
}

impl fmt::Debug for ChatToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatToken")
            .field("path", &self.path)
            .finish()
    }
}

impl ChatToken {
    /// Reads the token, and reads it again whenever the file changes, for as long as this is used. A tokio runtime must be
    /// running.
    ///
    /// # Errors
    /// [`TokenError`] if the file cannot be read, or does not hold a token alone.
    pub fn open(path: &Path) -> Result<Arc<Self>, TokenError> {
        let (watch, header) = Self::read(path)?;
        let token = Arc::new(Self {
            path: path.to_owned(),
            header: Mutex::new(header),
            doubted: Notify::new(),
        });
        tokio::spawn(keep_looking(Arc::downgrade(&token), watch));
        Ok(token)
    }

    /// Checks that the file can be used now.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn check(path: &Path) -> Result<(), TokenError> {
        Self::read(path).map(drop)
    }

    /// Reads the file once, and returns what watches it and the header with the token.
    fn read(path: &Path) -> Result<(FileWatch, HeaderValue), TokenError> {
        let wrong = |reason| TokenError {
            path: path.to_owned(),
            reason,
        };
        let files = Vec::from([path.to_owned()]);
        let watch = FileWatch::open("file of the token for chats", files, FILE_BYTES);
        let watch = watch.map_err(|error| {
            wrong(match error.error.kind() {
                // So much is no token.
                ErrorKind::FileTooLarge => NO_TOKEN.to_owned(),
                _ => format!("cannot read it: {}", error.error),
            })
        })?;
        let header = watch.contents().first().map(|content| header(content));
        let header = header.unwrap_or_else(|| Err(NO_TOKEN.to_owned()));
        Ok((watch, header.map_err(wrong)?))
    }

    /// A service that shows the token with each call.
    pub(super) fn shown_to(self: &Arc<Self>, chat: GrpcService) -> GrpcService {
        BoxCloneSyncService::new(Showing {
            chat,
            token: Arc::clone(self),
        })
    }

    /// Takes what is in the file now. A file that cannot be used leaves the token as it was.
    fn take(&self, content: &[u8]) {
        let path = self.path.display();
        match header(content) {
            Ok(header) => {
                let mut shown = self.header.lock();
                if *shown != header {
                    *shown = header;
                    tracing::info!(%path, "the token for chats has changed");
                }
            }
            Err(reason) => {
                tracing::error!(%path, reason, "the file of the token for chats cannot be used: the token of before is shown");
            }
        }
    }
}

/// Looks at the file in the usual interval, and sooner while a chat refuses the token.
async fn keep_looking(token: Weak<ChatToken>, mut watch: FileWatch) {
    while let Some(token) = token.upgrade() {
        let _ = timeout(LOOK, token.doubted.notified()).await;
        if let Some(Change::Contents(contents)) = watch.look().await {
            contents.iter().for_each(|content| token.take(content));
        }
        drop(token);
        sleep(LOOK_AGAIN).await;
    }
}

/// The header that shows the token in a file with this content.
///
/// # Errors
/// Why there is none, without what is in the file.
fn header(content: &[u8]) -> Result<HeaderValue, String> {
    let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8")?;
    let mut words = text.split_whitespace();
    let (Some(token), None) = (words.next(), words.next()) else {
        return Err(NO_TOKEN.to_owned());
    };
    let header = HeaderValue::try_from(format!("Bearer {token}"));
    let mut header = header.map_err(|_| "it holds something that is no token")?;
    // So no library shows it in a log.
    header.set_sensitive(true);
    Ok(header)
}

/// A chat to which the token is shown with each call.
#[derive(Clone)]
struct Showing {
    chat: GrpcService,
    token: Arc<ChatToken>,
}

impl Service<Request<Body>> for Showing {
    type Response = Response<Body>;
    type Error = TransportError;
    type Future = BoxFuture<'static, Result<Response<Body>, TransportError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.chat.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let header = self.token.header.lock().clone();
        request.headers_mut().insert(AUTHORIZATION, header);
        let token = Arc::clone(&self.token);
        let answer = self.chat.call(request);
        async move {
            let answer = answer.await?;
            if is_refused(answer.headers()) {
                token.doubted.notify_one();
            }
            Ok(answer)
        }
        .boxed()
    }
}

/// True if a chat does not know the caller.
fn is_refused(headers: &HeaderMap) -> bool {
    let status = headers.get("grpc-status");
    status.is_some_and(|it| Code::from_bytes(it.as_bytes()) == Code::Unauthenticated)
}
