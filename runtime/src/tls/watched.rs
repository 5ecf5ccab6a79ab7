//! What is made of files, and made again when they change.

use super::pem::{Contents, LARGEST, TlsError};
use crate::files::{Change, FileWatch, read_all};
use parking_lot::RwLock;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

/// Something that is made of files. While this lives, the files are watched.
pub(super) struct Watched<T> {
    current: Arc<RwLock<Arc<T>>>,
    _watching: AbortOnDropHandle<()>,
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the files, makes something of them, and then watches them. `what` names it in the log. Needs a tokio runtime.
    pub(super) fn begin(
        what: &'static str,
        files: Vec<PathBuf>,
        build: impl Fn(&[Contents<'_>]) -> Result<T, TlsError> + Send + 'static,
    ) -> Result<Self, TlsError> {
        let watch = FileWatch::open(what, files.clone(), LARGEST)?;
        let first = made(&files, watch.contents(), &build)?;
        let current = Arc::new(RwLock::new(Arc::new(first)));
        let watching = follow(what, files, watch, Arc::clone(&current), build);
        Ok(Self {
            current,
            _watching: AbortOnDropHandle::new(tokio::spawn(watching)),
        })
    }

    /// What was made of the files when they could be used last.
    pub(super) fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read())
    }
}

/// Makes it again after each change. Each change is logged once, whether the new content can be used or not.
async fn follow<T>(
    what: &'static str,
    files: Vec<PathBuf>,
    mut watch: FileWatch,
    current: Arc<RwLock<Arc<T>>>,
    build: impl Fn(&[Contents<'_>]) -> Result<T, TlsError>,
) {
    loop {
        let Change::Contents(contents) = watch.changed().await else {
            continue;
        };
        match made(&files, &contents, &build) {
            Ok(made) => {
                *current.write() = Arc::new(made);
                tracing::info!("the {what} has changed; new connections get the new one");
            }
            Err(error) => tracing::error!(
                %error,
                "the {what} has changed, but can't be used; new connections still get the old one. \
                 Repair the files: they are read again and again"
            ),
        }
    }
}

/// Makes something of what the files hold.
fn made<T>(
    files: &[PathBuf],
    contents: &[Vec<u8>],
    build: impl Fn(&[Contents<'_>]) -> Result<T, TlsError>,
) -> Result<T, TlsError> {
    let contents = files.iter().zip(contents);
    let contents: Vec<_> = contents
        .map(|(file, bytes)| Contents { file, bytes })
        .collect();
    build(&contents)
}

/// Makes something of files once, without watching them.
pub(super) fn once<T>(
    files: &[PathBuf],
    build: impl Fn(&[Contents<'_>]) -> Result<T, TlsError>,
) -> Result<T, TlsError> {
    made(files, &read_all(files, LARGEST)?, build)
}
