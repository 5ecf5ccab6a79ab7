//! What is made of files, and made again when they change.

use super::pem::{self, Contents, TlsError};
use parking_lot::RwLock;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::task::AbortOnDropHandle;

/// How often the files are read again. Reading them is cheap, and finds every kind of change: a file that is written or
/// replaced, and a symbolic link to another one, as Kubernetes swaps a mounted secret.
const LOOK: Duration = Duration::from_secs(5);

/// The bytes of all files, or why one can't be read.
type Seen = Result<Vec<Vec<u8>>, TlsError>;

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
        let seen = read(&files);
        let current = Arc::new(RwLock::new(Arc::new(made(&files, &seen, &build)?)));
        let watching = tokio::spawn(watch(what, files, seen, Arc::clone(&current), build));
        Ok(Self {
            current,
            _watching: AbortOnDropHandle::new(watching),
        })
    }

    /// What was made of the files when they could be used last.
    pub(super) fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read())
    }
}

/// Looks at the files again and again. Each change is logged once, whether the new content can be used or not.
async fn watch<T>(
    what: &'static str,
    files: Vec<PathBuf>,
    mut seen: Seen,
    current: Arc<RwLock<Arc<T>>>,
    build: impl Fn(&[Contents<'_>]) -> Result<T, TlsError>,
) {
    let files: Arc<[PathBuf]> = files.into();
    let mut look = interval_at(Instant::now() + LOOK, LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let reading = Arc::clone(&files);
        let Ok(now) = spawn_blocking(move || read(&reading)).await else {
            continue;
        };
        if now == seen {
            continue;
        }
        seen = now;
        match made(&files, &seen, &build) {
            Ok(made) => {
                *current.write() = Arc::new(made);
                tracing::info!("the {what} has changed; new connections get the new one");
            }
            Err(error) => tracing::error!(
                %error,
                "the {what} has changed, but can't be used; new connections still get the old one. \
                 Repair the files: they are read again every {} s",
                LOOK.as_secs()
            ),
        }
    }
}

fn read(files: &[PathBuf]) -> Seen {
    files.iter().map(|file| pem::read(file)).collect()
}

/// Makes something of what was read.
fn made<T>(
    files: &[PathBuf],
    seen: &Seen,
    build: impl Fn(&[Contents<'_>]) -> Result<T, TlsError>,
) -> Result<T, TlsError> {
    let contents: Vec<_> = (files.iter().zip(seen.as_ref().map_err(Clone::clone)?))
        .map(|(file, bytes)| Contents { file, bytes })
        .collect();
    build(&contents)
}

/// Makes something of files once, without watching them.
pub(super) fn once<T>(
    files: &[PathBuf],
    build: impl Fn(&[Contents<'_>]) -> Result<T, TlsError>,
) -> Result<T, TlsError> {
    made(files, &read(files), build)
}
