//! Settings that change while the process runs.

use super::command::{Asked, Loaded, read};
use super::file::{ConfigFile, LARGEST};
use super::text::Shown;
use super::{Settings, SettingsError};
use crate::exporter;
use crate::families::{Family, register};
use crate::files::{Change, FileWatch};
use crate::telemetry;
use metrics::gauge;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::future::pending;
use std::marker::PhantomData;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

const SUCCESSFUL: &str = "settings_last_reload_successful";
const SUCCESS_TIME: &str = "settings_last_reload_success_timestamp_seconds";

const FAMILIES: &[Family] = &[
    Family::gauge(
        SUCCESSFUL,
        "1, or 0 if the settings were read again last with a mistake, so that older ones are in force",
    ),
    Family::gauge(
        SUCCESS_TIME,
        "When the settings were read last without a mistake, in seconds since 1970",
    ),
];

/// The settings were read, with or without a mistake.
fn note_read(is_good: bool) {
    gauge!(SUCCESSFUL).set(f64::from(u8::from(is_good)));
    if is_good {
        gauge!(SUCCESS_TIME).set(exporter::now());
    }
}

/// Where the settings of a process come from, so that they can be read again.
pub struct Source<T> {
    arguments: Vec<OsString>,
    file: Option<ConfigFile>,
    running: Running,
    settings: PhantomData<fn() -> T>,
}

/// What is in force.
#[derive(Default)]
pub(super) struct Running {
    /// The values by their keys: those of the start, and the latest ones of settings that need no restart.
    values: BTreeMap<String, Shown>,
    /// The values that a restart would bring, as the log has said. `None`: the key would be gone.
    waiting: BTreeMap<String, Option<Vec<String>>>,
    /// What the log has warned of.
    warnings: Vec<String>,
}

/// What other settings change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// The keys whose values take effect now.
    pub(super) applied: Vec<String>,
    /// All keys whose values need a restart.
    pub(super) restart: Vec<String>,
    /// One of those was not told before.
    pub(super) is_new: bool,
}

/// The latest settings. The first value is not new.
pub type Reloading<T> = watch::Receiver<Arc<T>>;

/// Settings that never change.
pub fn fixed<T>(settings: T) -> Reloading<T> {
    watch::channel(Arc::new(settings)).1
}

impl<T: Settings> Source<T> {
    pub(super) fn new(arguments: Vec<OsString>) -> Self {
        Self {
            arguments,
            file: None,
            running: Running::default(),
            settings: PhantomData,
        }
    }

    pub(super) fn holding(self, loaded: Loaded<T>) -> (T, Self) {
        let Loaded {
            settings,
            values,
            file,
        } = loaded;
        let this = Self {
            running: Running::of(values),
            file,
            ..self
        };
        (settings, this)
    }

    pub(super) fn read(&self) -> Result<Asked<T>, SettingsError> {
        read(&self.arguments, None)
    }

    /// Keeps settings up to date as long as the handle lives. What should be looked at in them is logged. Needs a tokio runtime around
    /// it.
    pub fn follow(mut self, settings: T) -> (Reloading<T>, AbortOnDropHandle<()>) {
        self.running.warn(settings.warnings());
        register(FAMILIES);
        note_read(true);
        let (latest, reloading) = watch::channel(Arc::new(settings));
        let task = tokio::spawn(self.reload(latest));
        (reloading, AbortOnDropHandle::new(task))
    }

    /// Reads the settings again at each SIGHUP, and when the file has changed. All or nothing: if there is a mistake, it is logged
    /// and the settings stay. The log says what has changed, and what needs a restart. Never returns.
    async fn reload(mut self, latest: watch::Sender<Arc<T>>) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else {
            tracing::error!("SIGHUP can't be received: settings are not reloaded");
            return;
        };
        let mut file = self.file.take().map(|ConfigFile { path, text }| {
            let contents = Vec::from([text.into_bytes()]);
            FileWatch::holding("file of settings", Vec::from([path]), LARGEST, contents)
        });
        loop {
            let (content, is_asked) = next(&mut hangup, file.as_mut()).await;
            let read = match content {
                Ok(content) => read(&self.arguments, content),
                Err(error) => Err(SettingsError::File(error)),
            };
            note_read(read.is_ok());
            match read {
                Ok(Asked::Service(loaded)) => self.take(loaded, &latest, is_asked),
                Ok(Asked::Text { .. } | Asked::Health(_)) => {}
                Err(error) => tracing::error!(%error, "the settings stay as they are"),
            }
        }
    }

    fn take(&mut self, loaded: Loaded<T>, latest: &watch::Sender<Arc<T>>, is_asked: bool) {
        let Loaded {
            settings, values, ..
        } = loaded;
        let Changes {
            applied,
            restart,
            is_new,
        } = self.running.take::<T>(&values);
        if !restart.is_empty() && (is_new || is_asked) {
            tracing::warn!(
                settings = restart.join(", "),
                "changed settings that need a restart"
            );
        }
        self.running.warn(settings.warnings());
        if !applied.is_empty() {
            telemetry::set_filter(settings.log());
            tracing::info!(changed = applied.join(", "), "settings reloaded");
            latest.send_replace(Arc::new(settings));
        } else if is_asked && restart.is_empty() {
            tracing::info!("SIGHUP: the settings are those that run already");
        }
    }
}

/// Returns at the next SIGHUP, and when the file has other contents: these contents, if there is a file, and whether it was a SIGHUP.
async fn next(
    hangup: &mut Signal,
    mut file: Option<&mut FileWatch>,
) -> (Result<Option<Vec<u8>>, String>, bool) {
    let is_asked = tokio::select! {
        Some(()) = hangup.recv() => true,
        contents = changed(file.as_deref_mut()) => return (Ok(contents), false),
    };
    let contents = match file {
        Some(file) => file.now().await.map(|it| it.into_iter().next()),
        None => Ok(None),
    };
    (contents, is_asked)
}

/// The new content of the file.
async fn changed(file: Option<&mut FileWatch>) -> Option<Vec<u8>> {
    let Some(file) = file else {
        return pending().await;
    };
    loop {
        if let Change::Contents(contents) = file.changed().await {
            return contents.into_iter().next();
        }
    }
}

impl Running {
    pub(super) fn of(values: BTreeMap<String, Shown>) -> Self {
        Self {
            values,
            ..Self::default()
        }
    }

    /// Takes the values of settings that need no restart, and notes those that need one.
    pub(super) fn take<T: Settings>(&mut self, values: &BTreeMap<String, Shown>) -> Changes {
        let mut changes = Changes::default();
        let mut waiting = BTreeMap::new();
        let keys: BTreeSet<_> = values.keys().chain(self.values.keys()).cloned().collect();
        for key in keys {
            let new = values.get(&key);
            let value_of = |shown: Option<&Shown>| shown.map(|it| it.values.clone());
            if value_of(new) == value_of(self.values.get(&key)) {
                continue;
            }
            let mut reloaded = T::RELOADED.iter();
            if !reloaded.any(|id| T::NAMES.key(id) == *key || *id == key) {
                let value = value_of(new);
                changes.is_new |= self.waiting.get(&key) != Some(&value);
                changes.restart.push(key.clone());
                waiting.insert(key, value);
                continue;
            }
            changes.applied.push(key.clone());
            match new {
                Some(shown) => self.values.insert(key, shown.clone()),
                None => self.values.remove(&key),
            };
        }
        self.waiting = waiting;
        changes
    }

    /// Logs warnings that were not logged before.
    fn warn(&mut self, warnings: Vec<String>) {
        for warning in &warnings {
            if !self.warnings.contains(warning) {
                tracing::warn!("{warning}");
            }
        }
        self.warnings = warnings;
    }
}
