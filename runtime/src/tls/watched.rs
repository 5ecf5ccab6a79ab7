//! What is made of files, and made again when they change.

use super::expiry::{self, Expiry, Role};
use super::pem::{Contents, LARGEST, TlsError};
use crate::files::{Change, FileWatch, read_all};
use parking_lot::RwLock;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// Something that is made of files. While this lives, the files are watched.
pub(super) struct Watched<T> {
    current: Arc<RwLock<Arc<T>>>,
    _watching: AbortOnDropHandle<()>,
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the files, makes something of them, and then watches them. `what` names it in the log. Files that have a role hold
    /// certificates, whose end is watched, too. Needs a tokio runtime.
    pub(super) fn begin(
        what: &'static str,
        files: Vec<(PathBuf, Option<Role>)>,
        build: impl Fn(&[Contents<'_>]) -> Result<T, TlsError> + Send + 'static,
    ) -> Result<Self, TlsError> {
        let (files, roles): (Vec<_>, Vec<_>) = files.into_iter().unzip();
        let watch = FileWatch::open(what, files.clone(), LARGEST)?;
        let first = made(&files, watch.contents(), &build)?;
        let mut expiries = roles.into_iter().map(|it| it.map(Expiry::of)).collect();
        read_expiries(&mut expiries, &files, watch.contents());
        let current = Arc::new(RwLock::new(Arc::new(first)));
        let watching = follow(what, (files, expiries), watch, Arc::clone(&current), build);
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

/// When the certificates end that the files hold. `None` for a key.
type Expiries = Vec<Option<Expiry>>;

fn read_expiries(expiries: &mut Expiries, files: &[PathBuf], contents: &[Vec<u8>]) {
    for ((expiry, file), bytes) in expiries.iter_mut().zip(files).zip(contents) {
        if let Some(expiry) = expiry {
            expiry.read(&Contents { file, bytes });
        }
    }
}

/// Makes it again after each change. Each change is logged once, whether the new content can be used or not.
async fn follow<T>(
    what: &'static str,
    (files, mut expiries): (Vec<PathBuf>, Expiries),
    mut watch: FileWatch,
    current: Arc<RwLock<Arc<T>>>,
    build: impl Fn(&[Contents<'_>]) -> Result<T, TlsError>,
) {
    loop {
        let change = tokio::select! {
            change = watch.changed() => change,
            () = sleep(expiry::LOOK) => {
                for (file, expiry) in files.iter().zip(&mut expiries) {
                    if let Some(expiry) = expiry {
                        expiry.look(file, SystemTime::now());
                    }
                }
                continue;
            }
        };
        let Change::Contents(contents) = change else {
            continue;
        };
        match made(&files, &contents, &build) {
            Ok(made) => {
                *current.write() = Arc::new(made);
                read_expiries(&mut expiries, &files, &contents);
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
