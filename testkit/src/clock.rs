//! A clock of its own for a process: a test sets the time of day while the process runs. Monotonic time stays right.
//!
//! The process preloads a small library, which is compiled when it is first needed. libfaketime can't be used: it
//! allocates memory when it reads its file, and Redis' allocator asks for the time.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const SOURCE: &str = include_str!("clock/clock.c");

/// The advice for a machine without a compiler.
const MISSING: &str = "install a C compiler, or run ./tests/run, which does";

/// A clock that can be set.
pub struct Clock {
    directory: TempDir,
    file: File,
}

impl Clock {
    /// A clock that shows the right time.
    ///
    /// # Panics
    /// If there is no C compiler.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let source = directory.path().join("clock.c");
        fs::write(&source, SOURCE).expect("the test can write into its own directory");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]);
        compiler.arg(directory.path().join("clock.so")).arg(source);
        let compiled = compiler.status();
        assert!(compiled.is_ok_and(|it| it.success()), "{MISSING}");
        let file = File::create(directory.path().join("wrong-by"));
        let clock = Self {
            directory,
            file: file.expect("the test can write into its own directory"),
        };
        clock.set(0);
        clock
    }

    /// From now on the clock is wrong by this many seconds.
    ///
    /// # Panics
    /// If the file of the clock can't be written.
    pub fn set(&self, seconds: i64) {
        let microseconds = seconds * i64::try_from(Duration::from_secs(1).as_micros()).unwrap_or(0);
        let written = self.file.write_all_at(&microseconds.to_ne_bytes(), 0);
        written.expect("the test can write into its own file");
    }

    /// Lets a process that is about to start use this clock.
    pub(crate) fn give_to(&self, command: &mut Command) {
        let path = |name: &str| -> PathBuf { self.directory.path().join(name) };
        command.env("LD_PRELOAD", path("clock.so"));
        command.env("CLOCK_FILE", path("wrong-by"));
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
