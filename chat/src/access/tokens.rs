//! The tokens that are valid now, and the certificates that take the place of one. The file is watched, so that a token can be added,
//! changed or taken away while chat runs.

use super::file::{Credential, FileError, Hash, Line, parse};
use parking_lot::RwLock;
use runtime::files::{Change, FileWatch, ReadError};
use runtime::tls::ClientCertificate;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// The most bytes of the file.
const FILE_BYTES: u64 = 1 << 20;

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
    _watching: AbortOnDropHandle<()>,
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
    /// Reads the file once, and returns what watches it and its lines.
    pub(super) fn read(path: &Path) -> Result<(FileWatch, Vec<Line>), OpenError> {
        let path = path.to_owned();
        let watch = FileWatch::open("file of tokens", Vec::from([path.clone()]), FILE_BYTES);
        let watch = watch
            .map_err(|ReadError { file, error }| OpenError::Unreadable { path: file, error })?;
        let text = watch.contents().concat();
        let lines = match lines_of(&text) {
            Ok(lines) => lines,
            Err(error) => return Err(OpenError::Wrong { path, error }),
        };
        if lines.is_empty() {
            return Err(OpenError::Empty { path });
        }
        Ok((watch, lines))
    }

    /// Reads the file, and looks at it in this interval for as long as the tokens are used. A tokio runtime must be running.
    pub(super) fn open(path: &Path, look_every: Duration) -> Result<Arc<Self>, OpenError> {
        let (watch, lines) = Self::read(path)?;
        let watch = watch.every(look_every);
        let tokens = Arc::new_cyclic(|tokens| Self {
            path: path.to_owned(),
            valid: RwLock::default(),
            _watching: AbortOnDropHandle::new(tokio::spawn(follow(Weak::clone(tokens), watch))),
        });
        tokens.replace(lines);
        Ok(tokens)
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

    /// Takes what is in the file now. What cannot be used leaves everything as it was.
    fn take(&self, text: &[u8]) {
        let path = self.path.display();
        match lines_of(text) {
            Err(error) => {
                tracing::error!(%path, %error, "the file of tokens cannot be used: the tokens of before stay valid");
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
}

/// Takes what the file holds whenever that has changed.
async fn follow(tokens: Weak<Tokens>, mut watch: FileWatch) {
    loop {
        let Change::Contents(contents) = watch.changed().await else {
            continue;
        };
        let Some(tokens) = tokens.upgrade() else {
            return;
        };
        tokens.take(&contents.concat());
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
