//! Logs and metrics.
//!
//! Logs go to stderr, as text or as one JSON object a line; `RUST_LOG` says how much. Metrics go to one recorder of the
//! process, which renders them for Prometheus.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// Begins to log. A second call changes nothing, so that tests may all call it.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was set up before");
    }
}

/// The buckets of what is named `…_seconds`: from a quarter of a millisecond to the longest wait any call may have.
const SECONDS: [f64; 13] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];
/// The buckets of what is named `…_size`: a count of things in one batch.
const SIZES: [f64; 11] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0,
];

/// The process's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// The recorder of this process, which the first call installs: what is measured earlier is lost.
    ///
    /// Somebody has to call [`Metrics::upkeep`]; [`crate::lifecycle::run`] does.
    pub fn install() -> Self {
        static INSTALLED: OnceLock<Metrics> = OnceLock::new();
        INSTALLED
            .get_or_init(|| {
                let recorder = builder()
                    .unwrap_or_else(|error| {
                        tracing::warn!(%error, "histograms have the exporter's own form");
                        PrometheusBuilder::new()
                    })
                    .build_recorder();
                let handle = recorder.handle();
                if metrics::set_global_recorder(recorder).is_err() {
                    tracing::warn!("another recorder was installed before: /metrics stays empty");
                }
                Self { handle }
            })
            .clone()
    }

    /// All metrics in Prometheus' text form.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Sorts what was measured into its buckets, again and again: without it, samples pile up until somebody scrapes.
    pub async fn upkeep(self) {
        let mut interval = tokio::time::interval(Duration::from_secs(5));
        loop {
            interval.tick().await;
            self.handle.run_upkeep();
        }
    }
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".into()), &SIZES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_rendered_with_buckets_by_its_unit() {
        Metrics::install();
        metrics::counter!("telemetry_test_total").increment(3);
        metrics::histogram!("telemetry_test_seconds").record(0.004);
        metrics::histogram!("telemetry_test_size").record(100.0);
        let text = Metrics::install().render();
        assert!(text.contains("telemetry_test_total 3"), "{text}");
        assert!(
            text.contains("telemetry_test_seconds_bucket{le=\"0.005\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("telemetry_test_size_bucket{le=\"128\"} 1"),
            "{text}"
        );
    }

    #[test]
    fn logging_may_be_set_up_twice() {
        init(LogFormat::Text);
        init(LogFormat::Json);
    }
}
