//! The tokens that are valid now, and the certificates that take the place of one. The file is looked at again and again, so that a token can be added, changed or taken away
//! while chat runs.

use super::file::{Credential, FileError, Hash, Line, parse};
use parking_lot::{Mutex, RwLock};
use runtime::files::read;
use runtime::tls::ClientCertificate;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// The most bytes of the file.
const FILE_BYTES: u64 = 1 << 20;
/// A file that has changed is read again after this pause. It counts once two readings are the same, because an editor may be
/// writing it.
const SETTLE: Duration = Duration::from_millis(100);
/// A file that changes all the time is given up after so many readings until the next look.
const READINGS: usize = 5;

/// One token, or a certificate in its place. A change of its line makes another one of it.
pub(super) struct Token {
    pub(super) line: Line,
    /// Told when it is not valid any more.
    pub(super) revoked: CancellationToken,
}

/// All tokens of a file.
pub(super) struct Tokens {
    path: PathBuf,
    /// How long a search takes may tell something about hashes that are here. But a caller can't choose the hash of what it
    /// presents, and from a whole hash nobody could find the token. So the search need not take the same time always. The names in
    /// certificates are no secrets.
    valid: RwLock<HashMap<Credential, Arc<Token>>>,
    /// What the last look has found.
    last: Mutex<Found>,
}

/// What a look at the file has found.
#[derive(PartialEq, Eq)]
enum Found {
    Text(Vec<u8>),
    Nothing(String),
}

/// The file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It says something that cannot be understood.
    #[error("{}, {error}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What.
        error: FileError,
    },
    /// It names no token.
    #[error(
        "{} has no token in it, so nobody could call: make one with `chat token create`",
        path.display()
    )]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("path", &self.path).finish()
    }
}

impl Tokens {
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, OpenError> {
        let path = path.to_owned();
        let text = match read(&path, FILE_BYTES) {
            Ok(text) => text,
            Err(error) => return Err(OpenError::Unreadable { path, error }),
        };
        let lines = match lines_of(&text) {
            Ok(lines) => lines,
            Err(error) => return Err(OpenError::Wrong { path, error }),
        };
        if lines.is_empty() {
            return Err(OpenError::Empty { path });
        }
        let tokens = Self {
            path,
            valid: RwLock::default(),
            last: Mutex::new(Found::Text(text)),
        };
        tokens.replace(lines);
        Ok(Arc::new(tokens))
    }

    /// The token that a caller has shown. `None` if it is not valid.
    pub(super) fn find(&self, shown: &str) -> Option<Arc<Token>> {
        let hash = Hash::of(shown)?;
        self.valid.read().get(&Credential::Token(hash)).cloned()
    }

    /// What counts for a caller with this certificate: the line of its common name, or else of the first of its other names that
    /// has one. `None` if there is no such line.
    pub(super) fn find_certificate(&self, shown: &ClientCertificate) -> Option<Arc<Token>> {
        let valid = self.valid.read();
        let mut names = shown.names().map(|it| Credential::Subject(it.to_owned()));
        names.find_map(|name| valid.get(&name).cloned())
    }

    /// True if a line is for certificates.
    pub(super) fn names_certificates(&self) -> bool {
        let valid = self.valid.read();
        valid.keys().any(|it| matches!(it, Credential::Subject(_)))
    }

    /// Takes these lines in place of the present ones. A token whose line has not changed stays the same one.
    fn replace(&self, lines: Vec<Line>) {
        let mut valid = self.valid.write();
        let mut before = std::mem::take(&mut *valid);
        for line in lines {
            let credential = line.credential.clone();
            let token = match before.remove(&credential) {
                Some(token) if token.line == line => token,
                changed => {
                    if let Some(changed) = changed {
                        before.insert(credential.clone(), changed);
                    }
                    Arc::new(Token {
                        line,
                        revoked: CancellationToken::new(),
                    })
                }
            };
            valid.insert(credential, token);
        }
        drop(valid);
        for token in before.values() {
            token.revoked.cancel();
        }
    }

    /// Looks at the file, and takes what has changed. What cannot be used leaves everything as it was.
    async fn look(self: &Arc<Self>) {
        let found = self.find_settled().await;
        {
            let mut last = self.last.lock();
            if *last == found {
                return;
            }
            *last = found;
        }
        let path = self.path.display();
        let lines = match &*self.last.lock() {
            Found::Nothing(error) => Err(error.clone()),
            Found::Text(text) => lines_of(text).map_err(|error| error.to_string()),
        };
        match lines {
            Err(error) => {
                tracing::error!(%path, error, "the file of tokens cannot be used: the tokens of before stay valid");
            }
            Ok(lines) => {
                let tokens = lines.len();
                self.replace(lines);
                if tokens == 0 {
                    tracing::warn!(%path, "the file of tokens has no token in it any more: nobody may call");
                } else {
                    tracing::info!(%path, tokens, "the file of tokens has changed");
                }
            }
        }
    }

    /// What is in the file, once two readings of it are the same.
    async fn find_settled(self: &Arc<Self>) -> Found {
        let mut found = self.read_aside().await;
        if found == *self.last.lock() {
            return found;
        }
        for _ in 0..READINGS {
            tokio::time::sleep(SETTLE).await;
            let again = self.read_aside().await;
            if again == found {
                return found;
            }
            found = again;
        }
        Found::Nothing("it changes all the time".to_owned())
    }

    /// Reads the file on a thread that may wait.
    async fn read_aside(&self) -> Found {
        let path = self.path.clone();
        match spawn_blocking(move || read(&path, FILE_BYTES)).await {
            Ok(Ok(text)) => Found::Text(text),
            Ok(Err(error)) => Found::Nothing(error.to_string()),
            Err(error) => Found::Nothing(error.to_string()),
        }
    }
}

fn lines_of(text: &[u8]) -> Result<Vec<Line>, FileError> {
    let text = std::str::from_utf8(text).map_err(|error| FileError {
        line: 1 + text[..error.valid_up_to()]
            .iter()
            .filter(|it| **it == b'\n')
            .count(),
        wrong: "this is no text in UTF-8".to_owned(),
    })?;
    parse(text)
}

/// Looks at the file in this interval, for as long as the tokens are used.
pub(super) fn keep_looking(tokens: &Arc<Tokens>, every: Duration) {
    let tokens: Weak<Tokens> = Arc::downgrade(tokens);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(every).await;
            let Some(tokens) = tokens.upgrade() else {
                return;
            };
            tokens.look().await;
        }
    });
}
