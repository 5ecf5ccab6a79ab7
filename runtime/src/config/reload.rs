//! Settings that change while the process runs.

use super::command::{Asked, Loaded, read};
use super::file::LARGEST;
use super::text::Shown;
use super::{Settings, SettingsError};
use crate::files;
use crate::telemetry;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

/// How often the file is looked at. With the time in which sessions notice new rules this stays below a second.
const LOOK: Duration = Duration::from_millis(700);

/// Where the settings of a process come from, so that they can be read again.
pub struct Source<T> {
    arguments: Vec<OsString>,
    values: BTreeMap<String, Shown>,
    file: Option<PathBuf>,
    settings: PhantomData<fn() -> T>,
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
            values: BTreeMap::new(),
            file: None,
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
            values,
            file,
            ..self
        };
        (settings, this)
    }

    pub(super) fn read(&self) -> Result<Asked<T>, SettingsError> {
        read(&self.arguments)
    }

    /// Keeps settings up to date as long as the handle lives. Needs a tokio runtime around it.
    pub fn follow(self, settings: T) -> (Reloading<T>, AbortOnDropHandle<()>) {
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
        let file = self.file.clone();
        let content = || {
            file.as_ref()
                .and_then(|file| files::read(file, LARGEST).ok())
        };
        let mut before = content();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                received = hangup.recv() => received.is_some(),
                _ = look.tick() => false,
            };
            let now = content();
            if !asked && (now == before || now.is_none()) {
                continue;
            }
            before = now;
            match self.read() {
                Ok(Asked::Service(loaded)) => self.take(loaded, &latest),
                Ok(Asked::Text(_)) => {}
                Err(error) => tracing::error!(%error, "the settings stay as they are"),
            }
        }
    }

    /// The keys whose values are other ones now: those that take effect at once, and those that need a restart.
    pub(super) fn changed<'a>(
        &'a self,
        now: &'a BTreeMap<String, Shown>,
    ) -> (Vec<&'a str>, Vec<&'a str>) {
        let keys: BTreeSet<_> = now.keys().chain(self.values.keys()).collect();
        let value =
            |values: &BTreeMap<String, Shown>, key: &str| Some(values.get(key)?.values.clone());
        let keys = keys.into_iter().map(String::as_str);
        let changed = keys.filter(|key| value(now, key) != value(&self.values, key));
        changed.partition(|key| {
            let mut reloaded = T::RELOADED.iter();
            reloaded.any(|id| T::NAMES.key(id) == *key || id == key)
        })
    }

    /// The values that are in force.
    #[cfg(test)]
    pub(super) fn values(&self) -> &BTreeMap<String, Shown> {
        &self.values
    }

    pub(super) fn take(&mut self, loaded: Loaded<T>, latest: &watch::Sender<Arc<T>>) {
        let Loaded {
            settings, values, ..
        } = loaded;
        let (reloaded, restart) = self.changed(&values);
        if !restart.is_empty() {
            tracing::warn!(
                settings = restart.join(", "),
                "changed settings that need a restart"
            );
        }
        telemetry::set_filter(settings.log());
        tracing::info!(changed = reloaded.join(", "), "settings reloaded");
        self.values = values;
        latest.send_replace(Arc::new(settings));
    }
}
