//! A configuration file for services under test.

use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A file of settings. It is removed when this is dropped.
pub struct SettingsFile {
    path: PathBuf,
    _directory: TempDir,
}

impl SettingsFile {
    /// A file with this text.
    ///
    /// # Panics
    /// If it can't be written.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let file = Self {
            path: directory.path().join("settings.toml"),
            _directory: directory,
        };
        file.write(text);
        file
    }

    /// Changes the file. Services that use it notice that.
    ///
    /// # Panics
    /// If it can't be written.
    pub fn write(&self, text: &str) {
        // At once, so that nobody reads half of it.
        let new = self.path.with_extension("new");
        fs::write(&new, text).expect("written");
        fs::rename(&new, &self.path).expect("renamed");
    }

    /// The flags that make a service use it. A test has few files, so the text may stay for as long as the process lives.
    ///
    /// # Panics
    /// If its path is no text.
    #[must_use]
    pub fn flags(&self) -> [&'static str; 2] {
        let path = self.path.to_str().expect("text").to_owned();
        ["--config", path.leak()]
    }
}
