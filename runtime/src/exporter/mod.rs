//! The metrics of the process, as Prometheus reads them.
//!
//! Counters and gauges are kept by the exporter's own recorder, and histograms by `histogram`. What is known anyway, such as
//! the number of sessions, is no counter on anybody's path: it is [observed](Metrics::observe) when somebody asks.

mod histogram;
mod process;

use histogram::Histograms;
use metrics::{Counter, Gauge, Key, KeyName, Metadata, Recorder, SharedString, Unit, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// The version of this program, and how it was built.
const BUILD: &str = "build_info";
/// The commit that was built, if the build has set this variable.
const COMMIT: Option<&str> = option_env!("BUILD_COMMIT");

static INSTALLED: OnceLock<Metrics> = OnceLock::new();

/// The process's metrics. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
    histograms: Arc<Histograms>,
    observers: Arc<Mutex<Observers>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

type Observer = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Observers {
    next: u64,
    all: BTreeMap<u64, Observer>,
}

/// Something that is observed for as long as this lives.
#[must_use = "nothing is observed any more when this is dropped"]
pub struct Observing {
    observers: Arc<Mutex<Observers>>,
    key: u64,
}

impl Drop for Observing {
    fn drop(&mut self) {
        let observer = self.observers.lock().all.remove(&self.key);
        // What it holds is dropped without the lock.
        drop(observer);
    }
}

impl Metrics {
    /// The metrics of this process. The first call installs the recorder, and what was measured before is lost.
    pub fn install() -> Self {
        INSTALLED
            .get_or_init(|| {
                let others = PrometheusBuilder::new().build_recorder();
                let metrics = Self {
                    handle: others.handle(),
                    histograms: Arc::default(),
                    observers: Arc::default(),
                };
                let histograms = Arc::clone(&metrics.histograms);
                if metrics::set_global_recorder(Both { others, histograms }).is_err() {
                    tracing::warn!("another recorder was installed before: /metrics stays empty");
                }
                process::begin();
                metrics
            })
            .clone()
    }

    /// The metrics of this process, if they are measured.
    #[must_use]
    pub fn installed() -> Option<Self> {
        INSTALLED.get().cloned()
    }

    /// How many observations of a family of histograms were at most as large as each bound, all its series together. The last bound is
    /// infinite. Empty if there is no such family.
    #[must_use]
    pub fn observations(&self, family: &str) -> Vec<(f64, u64)> {
        self.histograms.observations(family)
    }

    /// Says which service this is, and which version of it.
    pub fn name_service(&self, service: &str) {
        metrics::describe_gauge!(BUILD, "Always 1; the labels say what runs here");
        let build = gauge!(
            BUILD,
            "service" => service.to_owned(),
            "version" => env!("CARGO_PKG_VERSION"),
            "commit" => COMMIT.unwrap_or("unknown")
        );
        build.set(1.0);
    }

    /// Calls this before metrics are rendered, for as long as the answer lives. It sets gauges to what is true now, and must
    /// neither wait nor take long.
    pub fn observe(&self, observer: impl Fn() + Send + Sync + 'static) -> Observing {
        let mut observers = self.observers.lock();
        let key = observers.next;
        observers.next += 1;
        observers.all.insert(key, Arc::new(observer));
        Observing {
            observers: Arc::clone(&self.observers),
            key,
        }
    }

    /// All metrics in Prometheus' text form.
    #[must_use]
    pub fn render(&self) -> String {
        let observers: Vec<_> = self.observers.lock().all.values().cloned().collect();
        for observer in observers {
            observer();
        }
        let mut text = self.handle.render();
        self.histograms.render(&mut text);
        process::render(&mut text);
        text
    }
}

/// The time for a gauge: seconds since 1970.
pub(crate) fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

/// Gives histograms to ours, and everything else to the exporter.
struct Both {
    others: PrometheusRecorder,
    histograms: Arc<Histograms>,
}

impl Recorder for Both {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.others.describe_counter(key, unit, help);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.others.describe_gauge(key, unit, help);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.histograms.describe(key.as_str(), help);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.others.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.others.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> metrics::Histogram {
        self.histograms.of(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn histograms_are_rendered_with_buckets_that_fit_their_unit() {
        Metrics::install();
        metrics::counter!("exporter_test_total").increment(3);
        metrics::histogram!("exporter_test_seconds").record(0.004);
        metrics::histogram!("exporter_test_size").record(100.0);
        let text = Metrics::install().render();
        assert!(text.contains("exporter_test_total 3"), "{text}");
        assert!(
            text.contains("exporter_test_seconds_bucket{le=\"0.005\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("exporter_test_size_bucket{le=\"128\"} 1"),
            "{text}"
        );
    }

    #[test]
    fn what_is_observed_is_true_at_the_moment_of_the_question_and_nobody_is_asked_afterwards() {
        let metrics = Metrics::install();
        let now = Arc::new(AtomicU32::new(1));
        let observed = Arc::clone(&now);
        let observing = metrics.observe(move || {
            gauge!("exporter_test_now").set(observed.load(Ordering::Relaxed));
        });
        assert!(metrics.render().contains("exporter_test_now 1\n"));
        now.store(2, Ordering::Relaxed);
        assert!(metrics.render().contains("exporter_test_now 2\n"));
        drop(observing);
        assert_eq!(Arc::strong_count(&now), 1);
        now.store(3, Ordering::Relaxed);
        assert!(metrics.render().contains("exporter_test_now 2\n"));
    }

    #[test]
    fn the_version_is_told() {
        let metrics = Metrics::install();
        metrics.name_service("test");
        let text = metrics.render();
        let line = text.lines().find(|it| it.starts_with("build_info{"));
        let line = line.expect("a line");
        let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
        assert!(
            line.contains("service=\"test\"") && line.contains(&version) && line.ends_with(" 1")
        );
    }
}
