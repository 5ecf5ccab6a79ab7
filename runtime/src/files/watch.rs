//! Files that change while the process runs.
//!
//! Everything that reads such files does it with [`FileWatch`], so one rule holds for all of them: new content counts when two looks,
//! one after the other, have found the same. An editor or a script may write a file in several steps, and what stands there in between
//! could lack a rule or a token that was meant to stay.

use super::read_with_time;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

/// How often files are looked at. A change counts at the second look that finds it, so after two to three seconds at most. Reading is
/// cheap, and finds every kind of change: a file that is written or replaced, and a symbolic link that leads elsewhere now, as
/// Kubernetes swaps a mounted secret.
pub const LOOK: Duration = Duration::from_secs(1);

/// A file can't be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {error}", file.display())]
pub struct ReadError {
    /// The file.
    pub file: PathBuf,
    /// Why not.
    pub error: io::Error,
}

/// Reads files, none of which may have more than `most` bytes.
///
/// # Errors
/// [`ReadError`] names the first one that can't be read.
pub fn read_all(files: &[PathBuf], most: u64) -> Result<Vec<Vec<u8>>, ReadError> {
    let contents = files.iter().map(|file| {
        super::read(file, most).map_err(|error| ReadError {
            file: file.clone(),
            error,
        })
    });
    contents.collect()
}

/// What has changed.
#[derive(PartialEq, Eq)]
pub enum Change {
    /// The files have new contents, in the order of the files. Whether they can be used is for the caller to judge, and to log.
    Contents(Vec<Vec<u8>>),
    /// A file is gone, can't be read, or is empty although it was not. What was read before stays in force. This has been logged.
    Lost(String),
    /// That is over, and the contents are those that were handed out last. This has been logged.
    Back,
}

/// Watches files that belong together, such as a certificate and its key: all of them must be quiet before new contents are handed
/// out.
pub struct FileWatch {
    what: &'static str,
    files: Arc<[PathBuf]>,
    most: u64,
    interval: Duration,
    next: Instant,
    /// What was handed out last.
    held: Vec<Vec<u8>>,
    /// What the last look has found.
    last: Option<Vec<Found>>,
    /// Why the files can't be used now, as it was logged.
    lost: Option<String>,
}

/// A file at one moment.
#[derive(PartialEq, Eq)]
struct Found {
    content: Result<Vec<u8>, String>,
    modified: Option<SystemTime>,
}

impl Found {
    fn of(file: &Path, most: u64) -> Self {
        match read_with_time(file, most) {
            Ok((content, modified)) => Self {
                content: Ok(content),
                modified,
            },
            Err(error) => Self {
                content: Err(error.to_string()),
                modified: None,
            },
        }
    }
}

/// Nothing but blanks and line breaks stands in it.
fn is_empty(content: &[u8]) -> bool {
    content.trim_ascii().is_empty()
}

impl FileWatch {
    /// Reads the files, none of which may have more than `most` bytes. `what` names them in the log, such as "file of tokens".
    ///
    /// # Errors
    /// [`ReadError`] names the first file that can't be read.
    pub fn open(what: &'static str, files: Vec<PathBuf>, most: u64) -> Result<Self, ReadError> {
        let contents = read_all(&files, most)?;
        Ok(Self::holding(what, files, most, contents))
    }

    /// The same for files that were read before. These are their contents.
    #[must_use]
    pub fn holding(
        what: &'static str,
        files: Vec<PathBuf>,
        most: u64,
        contents: Vec<Vec<u8>>,
    ) -> Self {
        Self {
            what,
            files: files.into(),
            most,
            interval: LOOK,
            next: Instant::now() + LOOK,
            held: contents,
            last: None,
            lost: None,
        }
    }

    /// Looks at the files in this interval instead of [`LOOK`].
    #[must_use]
    pub fn every(self, interval: Duration) -> Self {
        Self {
            interval,
            next: Instant::now() + interval,
            ..self
        }
    }

    /// The contents that were handed out last, in the order of the files.
    #[must_use]
    pub fn contents(&self) -> &[Vec<u8>] {
        &self.held
    }

    /// Looks at the files in its interval until something has changed. If this is dropped before it is ready, nothing is lost. Needs a
    /// tokio runtime.
    pub async fn changed(&mut self) -> Change {
        loop {
            sleep_until(self.next).await;
            if let Some(change) = self.look().await {
                return change;
            }
        }
    }

    /// Looks at the files at once. `None`: nothing has changed, or this look is the first one that has found it. Needs a tokio runtime.
    pub async fn look(&mut self) -> Option<Change> {
        let found = self.find().await?;
        if self.last.as_ref() != Some(&found) {
            self.last = Some(found);
            return None;
        }
        match self.usable(&found) {
            Err(reason) if self.lost.as_ref() == Some(&reason) => None,
            Err(reason) => {
                tracing::error!(
                    error = reason,
                    "the {} can't be used: what was read before stays in force",
                    self.what
                );
                self.lost = Some(reason.clone());
                Some(Change::Lost(reason))
            }
            Ok(contents) if contents == self.held => {
                self.lost.take()?;
                tracing::info!("the {} is as it was before", self.what);
                Some(Change::Back)
            }
            Ok(contents) => {
                self.lost = None;
                self.held.clone_from(&contents);
                Some(Change::Contents(contents))
            }
        }
    }

    /// The contents of this moment, because somebody says that they are complete. They are handed out, also if they are those of before.
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// Why the files can't be used, as in [`Change::Lost`]. It is for the caller to log.
    pub async fn now(&mut self) -> Result<Vec<Vec<u8>>, String> {
        let found = self.find().await;
        let found = found.ok_or("the task that reads it was broken off")?;
        let usable = self.usable(&found);
        self.last = Some(found);
        match usable {
            Ok(contents) => {
                self.lost = None;
                self.held.clone_from(&contents);
                Ok(contents)
            }
            Err(reason) => {
                self.lost = Some(reason.clone());
                Err(reason)
            }
        }
    }

    /// Reads the files on a thread that may wait. `None`: the runtime ends.
    async fn find(&mut self) -> Option<Vec<Found>> {
        let (files, most) = (Arc::clone(&self.files), self.most);
        let finding = spawn_blocking(move || {
            let files = files.iter();
            files.map(|file| Found::of(file, most)).collect()
        });
        let found = finding.await.ok();
        self.next = Instant::now() + self.interval;
        found
    }

    /// The contents of the files, if all of them can be used.
    fn usable(&self, found: &[Found]) -> Result<Vec<Vec<u8>>, String> {
        let files = self.files.iter().zip(found).zip(&self.held);
        let contents = files.map(|((file, found), held)| match &found.content {
            Err(error) => Err(format!("cannot read {}: {error}", file.display())),
            Ok(content) if is_empty(content) && !is_empty(held) => Err(format!(
                "{} is empty now, which is taken for a mistake",
                file.display()
            )),
            Ok(content) => Ok(content.clone()),
        });
        contents.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use tempfile::TempDir;

    /// Some files, and what watches them.
    struct Scene {
        folder: TempDir,
        watch: FileWatch,
    }

    impl Scene {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let paths = files.iter().map(|(name, content)| {
                let path = folder.path().join(name);
                fs::write(&path, content).unwrap();
                path
            });
            let paths = paths.collect();
            let watch = FileWatch::open("file of a test", paths, 100).unwrap();
            Self { folder, watch }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str, content: &str) {
            fs::write(self.path(name), content).unwrap();
        }

        /// What a look has found, in words.
        async fn look(&mut self) -> Option<String> {
            Some(match self.watch.look().await? {
                Change::Contents(contents) => {
                    let texts = contents
                        .into_iter()
                        .map(|it| String::from_utf8(it).unwrap());
                    texts.collect::<Vec<_>>().join("|")
                }
                Change::Lost(reason) => reason,
                Change::Back => "back".to_owned(),
            })
        }

        /// The same at the second of two looks.
        async fn settled(&mut self) -> Option<String> {
            assert_eq!(self.look().await, None, "one look is not enough");
            self.look().await
        }

        /// What two looks have found.
        async fn settled_again(&mut self) -> Option<String> {
            let first = self.look().await;
            first.or(self.look().await)
        }
    }

    #[tokio::test]
    async fn content_is_handed_out_when_two_looks_have_found_the_same() {
        let mut scene = Scene::new(&[("a", "one")]);
        assert_eq!(scene.settled().await, None);
        scene.write("a", "half");
        assert_eq!(scene.look().await, None);
        scene.write("a", "half and the rest");
        assert_eq!(scene.settled().await.as_deref(), Some("half and the rest"));
        assert_eq!(scene.watch.contents(), [b"half and the rest"]);
        assert_eq!(scene.settled_again().await, None, "it is handed out once");
    }

    /// Somebody may write the same bytes again and again before the next ones.
    #[tokio::test]
    async fn a_file_whose_time_moves_is_still_being_written() {
        let mut scene = Scene::new(&[("a", "one")]);
        let touch = |scene: &Scene, seconds| {
            let file = File::options().write(true).open(scene.path("a")).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            file.set_modified(time).unwrap();
        };
        scene.write("a", "two");
        for seconds in 1..5 {
            touch(&scene, seconds);
            assert_eq!(scene.look().await, None);
        }
        assert_eq!(scene.look().await.as_deref(), Some("two"));
        touch(&scene, 9);
        assert_eq!(scene.settled_again().await, None, "the content is the same");
    }

    #[tokio::test]
    async fn a_file_that_becomes_empty_is_a_mistake_that_is_told_once() {
        let mut scene = Scene::new(&[("a", "one")]);
        for empty in ["", "\n", " \r\n\n"] {
            scene.write("a", empty);
            let told = scene.settled().await;
            if empty.is_empty() {
                assert!(
                    told.unwrap()
                        .ends_with("a is empty now, which is taken for a mistake")
                );
            } else {
                assert_eq!(told, None, "it was told before");
            }
            assert_eq!(scene.watch.contents(), [b"one"]);
        }
        scene.write("a", "one");
        assert_eq!(scene.settled().await.as_deref(), Some("back"));
        scene.write("a", "");
        assert!(scene.settled().await.is_some(), "it is told again");
        scene.write("a", "two");
        assert_eq!(scene.settled().await.as_deref(), Some("two"));
    }

    #[tokio::test]
    async fn a_file_that_was_empty_at_the_start_may_stay_so() {
        let mut scene = Scene::new(&[("a", "")]);
        assert_eq!(scene.settled().await, None);
        scene.write("a", "\n");
        assert_eq!(scene.settled().await.as_deref(), Some("\n"));
        scene.write("a", "one");
        assert_eq!(scene.settled().await.as_deref(), Some("one"));
        scene.write("a", "");
        assert!(scene.settled().await.unwrap().contains("a mistake"));
    }

    #[tokio::test]
    async fn a_file_that_is_gone_or_too_long_leaves_what_was_read_before() {
        let mut scene = Scene::new(&[("a", "one")]);
        fs::remove_file(scene.path("a")).unwrap();
        let told = scene.settled().await.unwrap();
        assert!(told.contains("a: No such file"), "{told}");
        assert_eq!(scene.settled_again().await, None, "it is told once");
        scene.write("a", &"x".repeat(101));
        let told = scene.settled().await.unwrap();
        assert!(told.contains("more than 100 bytes"), "{told}");
        assert_eq!(scene.watch.contents(), [b"one"]);
        scene.write("a", "one");
        assert_eq!(scene.settled().await.as_deref(), Some("back"));
    }

    #[tokio::test]
    async fn files_that_belong_together_are_taken_when_all_of_them_are_quiet() {
        let mut scene = Scene::new(&[("certificate", "1"), ("key", "1")]);
        scene.write("certificate", "2");
        assert_eq!(scene.look().await, None);
        scene.write("key", "2");
        assert_eq!(scene.settled().await.as_deref(), Some("2|2"));
        scene.write("key", "");
        assert!(scene.settled().await.unwrap().contains("key is empty now"));
        assert_eq!(scene.watch.contents(), [b"2", b"2"]);
    }

    #[tokio::test]
    async fn who_asks_for_the_content_of_this_moment_gets_it_at_once() {
        let mut scene = Scene::new(&[("a", "one")]);
        let now = scene.watch.now().await;
        assert_eq!(now.unwrap(), [b"one"]);
        scene.write("a", "two");
        let now = scene.watch.now().await;
        assert_eq!(now.unwrap(), [b"two"]);
        assert_eq!(scene.settled_again().await, None, "it was handed out");
        scene.write("a", "");
        assert!(scene.watch.now().await.unwrap_err().contains("a mistake"));
        assert_eq!(scene.settled_again().await, None, "it was told");
        scene.write("a", "two");
        assert_eq!(scene.settled().await.as_deref(), Some("back"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_found_within_three_seconds() {
        let scene = Scene::new(&[("a", "one")]);
        scene.write("a", "two");
        let began = Instant::now();
        let mut watch = scene.watch;
        let change = watch.changed().await;
        assert!(change == Change::Contents(vec![b"two".to_vec()]));
        assert_eq!(began.elapsed(), 2 * LOOK);
        let gone = scene.folder.path().join("b");
        let error = FileWatch::open("file of a test", vec![gone], 1).err();
        assert!(error.unwrap().to_string().contains("b: No such file"));
    }
}
