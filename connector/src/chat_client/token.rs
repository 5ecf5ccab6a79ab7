//! The token that this connector shows to chats, which may want one. It stands in a file, and is read again when the file changes,
//! so that it can be replaced while clients are connected.

use crate::grpc::{GrpcService, TransportError};
use futures_util::future::{BoxFuture, FutureExt};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request, Response};
use parking_lot::Mutex;
use runtime::files::read_text;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::body::Body;
use tower::Service;
use tower::util::BoxCloneSyncService;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// If a chat refuses the token, the file is looked at again at once, but not more often than this.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// The most bytes of the file.
const FILE_BYTES: u64 = 4 << 10;

/// The token of a connector.
pub struct ChatToken {
    path: PathBuf,
    shown: Mutex<Shown>,
    doubted: Notify,
}

struct Shown {
    header: HeaderValue,
    /// Why the file cannot be used now, if it cannot.
    trouble: Option<String>,
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
        let header = read(path).map_err(|reason| TokenError {
            path: path.to_owned(),
            reason,
        })?;
        let token = Arc::new(Self {
            path: path.to_owned(),
            shown: Mutex::new(Shown {
                header,
                trouble: None,
            }),
            doubted: Notify::new(),
        });
        tokio::spawn(keep_looking(Arc::downgrade(&token)));
        Ok(token)
    }

    /// A service that shows the token with each call.
    pub(super) fn shown_to(self: &Arc<Self>, chat: GrpcService) -> GrpcService {
        BoxCloneSyncService::new(Showing {
            chat,
            token: Arc::clone(self),
        })
    }

    /// Looks at the file. A file that cannot be used leaves the token as it was.
    async fn look(&self) {
        let path = self.path.clone();
        let found = spawn_blocking(move || read(&path)).await;
        let found = found.unwrap_or_else(|error| Err(error.to_string()));
        let path = self.path.display();
        let mut shown = self.shown.lock();
        match found {
            Ok(header) => {
                shown.trouble = None;
                if header != shown.header {
                    shown.header = header;
                    tracing::info!(%path, "the token for chats has changed");
                }
            }
            Err(reason) => {
                if shown.trouble.as_ref() != Some(&reason) {
                    tracing::error!(%path, reason, "the file of the token for chats cannot be used: the token of before is shown");
                    shown.trouble = Some(reason);
                }
            }
        }
    }
}

async fn keep_looking(token: Weak<ChatToken>) {
    while let Some(token) = token.upgrade() {
        let _ = timeout(LOOK_EVERY, token.doubted.notified()).await;
        token.look().await;
        drop(token);
        sleep(LOOK_AGAIN).await;
    }
}

/// The header that shows the token in this file.
///
/// # Errors
/// Why there is none, without what is in the file.
fn read(path: &Path) -> Result<HeaderValue, String> {
    let text = match read_text(path, FILE_BYTES) {
        // So much is no token.
        Err(error) if error.kind() == ErrorKind::FileTooLarge => String::new(),
        read => read.map_err(|error| format!("cannot read it: {error}"))?,
    };
    let mut words = text.split_whitespace();
    let (Some(token), None) = (words.next(), words.next()) else {
        let reason = "it must hold one token and nothing else: the first line that `chat token create` prints";
        return Err(reason.to_owned());
    };
    let header = HeaderValue::try_from(format!("Bearer {token}"));
    let mut header = header.map_err(|_| "it holds something that is no token".to_owned())?;
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
        let header = self.token.shown.lock().header.clone();
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
