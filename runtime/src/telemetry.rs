//! Logs.
//!
//! They go to stderr, as text or as one JSON object a line. `RUST_LOG` says how much is logged. Each event is one line,
//! whatever it contains, and a line that comes too often is held back.

use crate::log::{Escaping, Form, Limited, RateLimit, WINDOW, fields};
use std::io::{self, IsTerminal};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LogSettings {
    /// Text for people, json for machines
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// The level of what is logged, and levels of parts, such as info,connector::session=debug. Without it RUST_LOG counts, which is
    /// written in the same way
    #[arg(long, value_parser = filter, value_name = "FILTER")]
    pub log_filter: Option<String>,
}

/// The ids of these settings, for the groups of the help.
pub const LOG: &[&str] = &["log_format", "log_filter"];

fn filter(text: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{error}; expected one such as info,connector=debug"
        )),
    }
}

/// What is logged unless `RUST_LOG` says otherwise. These libraries warn each time that a peer does something wrong.
/// What matters to us comes back as an error. To see a library's warnings, name it in `RUST_LOG` (`h2=debug`).
const DEFAULTS: &str =
    "info,h2=error,hyper=error,hyper_util=error,tonic=error,tower=error,rustls=error";

/// The target of lines that say who has done what. Their lines at "info" have no limit, because a log with holes proves nothing.
/// `RUST_LOG=info,audit=off` turns them off.
pub const AUDIT: &str = "audit";

/// The log's format and limit, once it has begun.
static RUNNING: OnceLock<Log> = OnceLock::new();

struct Log {
    format: LogFormat,
    limit: Arc<RateLimit>,
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Begins to log. A second call changes nothing, so all tests may call it.
pub fn init(settings: &LogSettings) {
    let format = settings.log_format;
    let (filter, handle) = reload::Layer::new(settings.filter());
    let colours = format == LogFormat::Text && io::stderr().is_terminal();
    let form = match format {
        LogFormat::Text => Form::Text { colours },
        LogFormat::Json => Form::Json,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || Escaping::new(io::stderr(), form))
        .with_ansi(colours);
    let lines = match format {
        LogFormat::Text => lines.fmt_fields(fields()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let limit = RateLimit::new();
    // The filter comes first, because a handle to it knows the type of everything below it.
    let subscriber = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(Limited(Arc::clone(&limit)));
    if subscriber.try_init().is_ok() {
        let _ = RUNNING.set(Log {
            format,
            limit,
            filter: handle,
        });
    } else {
        tracing::debug!("logging was set up before");
    }
}

/// Logs as much as these settings say from now on. The format stays.
pub fn set_filter(settings: &LogSettings) {
    let Some(log) = RUNNING.get() else { return };
    if let Err(error) = log.filter.reload(settings.filter()) {
        tracing::error!(%error, "the log's filter stays as it is");
    }
}

impl LogSettings {
    fn filter(&self) -> EnvFilter {
        let asked = self.log_filter.clone();
        let asked = asked.or_else(|| std::env::var(EnvFilter::DEFAULT_ENV).ok());
        EnvFilter::builder().parse_lossy(directives(&asked.unwrap_or_default()))
    }
}

/// Puts the defaults before what was asked for. Of two directives for the same target the later one counts, and one
/// that names a target counts more than one that does not.
fn directives(asked: &str) -> String {
    if asked.trim().is_empty() {
        DEFAULTS.to_owned()
    } else {
        format!("{DEFAULTS},{asked}")
    }
}

/// The format of the log, once it has begun.
pub(crate) fn log_format() -> Option<LogFormat> {
    RUNNING.get().map(|log| log.format)
}

/// Reports how many lines were held back until now because they came too often. To be called at the end of a process.
pub(crate) fn report_all_held_back() {
    report_held_back(Instant::now() + WINDOW);
}

/// Reports the lines that were held back in windows that are over by `now`.
fn report_held_back(now: Instant) {
    let Some(log) = RUNNING.get() else { return };
    for held_back in log.limit.take(now) {
        tracing::warn!(
            lines = held_back.lines,
            of = held_back.target,
            like = held_back.message,
            "lines were held back because they came too often"
        );
    }
}

/// Reports what the log has held back, again and again. Never returns.
pub(crate) async fn keep_reporting() {
    let mut interval = tokio::time::interval(Duration::from_secs(5));
    loop {
        interval.tick().await;
        report_held_back(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_log_little_unless_they_are_named() {
        let filter = |asked: &str| {
            let filter = EnvFilter::builder().parse_lossy(directives(asked));
            filter.to_string()
        };
        let has = |asked, directive: &str| {
            let filter = filter(asked);
            let mut all = filter.split(',');
            assert!(all.any(|it| it == directive), "{filter} lacks {directive}");
        };
        has("", "info");
        has("", "h2=error");
        has("debug", "debug");
        has("debug", "h2=error");
        has("h2=debug", "h2=debug");
        has("h2=debug", "info");
    }

    #[test]
    fn setting_up_logging_twice_is_harmless() {
        init(&LogSettings::default());
        init(&LogSettings {
            log_format: LogFormat::Json,
            log_filter: None,
        });
    }
}
