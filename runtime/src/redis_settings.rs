//! Where Redis is: a URL, a file that holds the URL, or Pomelo's `redis.json`.

pub mod pomelo;

use crate::files;
use pomelo::PomeloRedis;
use std::path::{Path, PathBuf};

/// The URL if nothing else is said.
const DEFAULT: &str = "redis://127.0.0.1:6379";
/// The most bytes of a file with a URL.
const LARGEST: u64 = 4 << 10;

/// Where Redis is. The first of `redis`, `redis_file` and `redis_config` that is set counts, wherever it is set.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RedisSettings {
    /// The Redis that all chats and connectors share: redis://, redis+sentinel:// or redis-cluster://. Write rediss instead of redis for
    /// an encrypted connection
    ///
    /// Without it: what --redis-file or --redis-config says, and otherwise redis://127.0.0.1:6379.
    #[arg(long, hide_env_values = true, value_name = "URL")]
    pub redis: Option<String>,

    /// A file with the URL of --redis and nothing else. So no flag and no variable holds its password
    #[arg(long, value_name = "FILE")]
    pub redis_file: Option<PathBuf>,

    /// The file config/redis.json of a project on Pomelo, with host, port, password and db. --redis and --redis-file count more
    #[arg(long, value_name = "FILE")]
    pub redis_config: Option<PathBuf>,

    /// The part of --redis-config that counts, such as production
    #[arg(long, value_name = "NAME")]
    pub env: Option<String>,
}

impl RedisSettings {
    /// The URL. It may hold a password.
    ///
    /// # Errors
    /// One line that begins with a flag and names the file. It never shows a password.
    pub fn url(&self) -> Result<String, String> {
        let flag = self.flag();
        if let Some(url) = &self.redis {
            return Ok(url.clone());
        }
        if let Some(file) = &self.redis_file {
            return url_in(file).map_err(|error| format!("{flag}: {error}"));
        }
        if let Some(file) = &self.redis_config {
            let read = PomeloRedis::read(file, self.env.as_deref());
            return match read {
                Ok(redis) => Ok(redis.url()),
                Err(error) => Err(format!("{flag}: {error}")),
            };
        }
        Ok(DEFAULT.to_owned())
    }

    /// The flag that says where Redis is, for messages about the URL.
    #[must_use]
    pub fn flag(&self) -> &'static str {
        match self {
            Self { redis: Some(_), .. } => "--redis",
            Self {
                redis_file: Some(_),
                ..
            } => "--redis-file",
            Self {
                redis_config: Some(_),
                ..
            } => "--redis-config",
            _ => "--redis",
        }
    }

    /// What is set and has no effect: one line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let flags = [
            ("--redis", self.redis.is_some()),
            ("--redis-file", self.redis_file.is_some()),
            ("--redis-config", self.redis_config.is_some()),
        ];
        let set: Vec<_> = flags.iter().filter(|(_, is_set)| *is_set).collect();
        for (flag, _) in set.iter().skip(1) {
            warnings.push(format!("{flag} has no effect beside {}", self.flag()));
        }
        match &self.redis_config {
            Some(file) if set.len() == 1 => {
                let read = PomeloRedis::read(file, self.env.as_deref());
                warnings.extend(read.into_iter().flat_map(|redis| redis.ignored));
            }
            None if self.env.is_some() => {
                warnings.push("--env has no effect without --redis-config".to_owned());
            }
            _ => {}
        }
        warnings
    }
}

/// The only line of a file.
fn url_in(file: &Path) -> Result<String, String> {
    let name = file.display();
    let content =
        files::read(file, LARGEST).map_err(|error| format!("{name} can't be read: {error}"))?;
    let text = String::from_utf8(content).map_err(|_| format!("{name} is not UTF-8"))?;
    let url = text.trim();
    if url.is_empty() || url.contains(char::is_whitespace) {
        return Err(format!(
            "{name}: expected one URL such as {DEFAULT}, and nothing else"
        ));
    }
    Ok(url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn settings(folder: &Path) -> RedisSettings {
        let (url, config) = (folder.join("url"), folder.join("redis.json"));
        fs::write(&url, "redis://:s3cret@file\n").unwrap();
        fs::write(
            &config,
            r#"{"production":{"host":"pomelo","prefix":"POMELO"}}"#,
        )
        .unwrap();
        RedisSettings {
            redis: Some("redis://flag".to_owned()),
            redis_file: Some(url),
            redis_config: Some(config),
            env: Some("production".to_owned()),
        }
    }

    #[test]
    fn the_url_counts_more_than_its_file_and_that_more_than_the_file_of_pomelo() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path());
        assert_eq!(settings.url().unwrap(), "redis://flag");
        assert_eq!(settings.warnings().len(), 2, "{:?}", settings.warnings());
        settings.redis = None;
        assert_eq!(settings.url().unwrap(), "redis://:s3cret@file");
        let warnings = settings.warnings();
        assert_eq!(
            warnings,
            ["--redis-config has no effect beside --redis-file"]
        );
        settings.redis_file = None;
        assert_eq!(settings.url().unwrap(), "redis://pomelo:6379/0");
        let warnings = settings.warnings();
        assert!(warnings[0].contains("production.prefix"), "{warnings:?}");
        settings.redis_config = None;
        assert_eq!(settings.url().unwrap(), DEFAULT);
        let warnings = settings.warnings();
        assert_eq!(warnings, ["--env has no effect without --redis-config"]);
        assert!(RedisSettings::default().warnings().is_empty());
    }

    #[test]
    fn a_file_that_holds_no_url_is_named_and_its_words_are_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path());
        settings.redis = None;
        let file = folder.path().join("url");
        for content in ["", " \n", "redis://:s3cret@a\nredis://:s3cret@b\n"] {
            fs::write(&file, content).unwrap();
            let error = settings.url().unwrap_err();
            let begin = format!("--redis-file: {}", file.display());
            assert!(error.starts_with(&begin), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        fs::remove_file(&file).unwrap();
        let error = settings.url().unwrap_err();
        assert!(error.contains("can't be read"), "{error}");
    }
}
