//! Histograms with fixed buckets.
//!
//! The exporter's own histograms keep every single observation until somebody sorts them into buckets. A busy process would
//! pile up megabytes of them between two looks. These count at once: an observation costs a search among a few bounds and two
//! additions, and a histogram has the same size for ever.

use metrics::{HistogramFn, Key, SharedString};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The buckets of times: from ten microseconds, which a script in Redis takes, to ten seconds, after which everything has been
/// given up.
const SECONDS: [f64; 19] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// The buckets of families whose names end with `_size`: a count of things in one batch.
const SIZES: [f64; 11] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0,
];
/// The sum is kept in whole billionths, because adding to an integer is one instruction. It is exact to a nanosecond, and has
/// room for five hundred years.
const BILLION: f64 = 1e9;

/// One series.
struct Histogram {
    bounds: &'static [f64],
    /// The observations in each bucket alone. The last bucket has no upper bound.
    counts: Box<[AtomicU64]>,
    billionths: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            billionths: AtomicU64::new(0),
        }
    }

    /// How many observations were at most as large as each bound. The last bound is infinite.
    fn cumulated(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let mut below = 0;
        bounds.zip(&self.counts).map(move |(bound, count)| {
            below += count.load(Ordering::Relaxed);
            (bound, below)
        })
    }

    /// Writes the series as Prometheus reads it. `labels` are as in `a="b",`: empty, or with a comma at the end.
    fn render(&self, name: &str, labels: &str, out: &mut String) {
        let mut all = 0;
        for (bound, below) in self.cumulated() {
            let bound = if bound.is_finite() {
                bound.to_string()
            } else {
                "+Inf".to_owned()
            };
            let _ = writeln!(out, "{name}_bucket{{{labels}le=\"{bound}\"}} {below}");
            all = below;
        }
        let labels = match labels.strip_suffix(',') {
            Some(labels) => format!("{{{labels}}}"),
            None => String::new(),
        };
        let sum = self.billionths.load(Ordering::Relaxed) as f64 / BILLION;
        let _ = writeln!(out, "{name}_sum{labels} {sum}\n{name}_count{labels} {all}");
    }
}

impl HistogramFn for Histogram {
    fn record(&self, value: f64) {
        // What is not a number counts as 0.
        let value = value.max(0.0);
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let billionths = (value * BILLION) as u64;
        self.billionths.fetch_add(billionths, Ordering::Relaxed);
    }
}

/// All histograms of a process.
#[derive(Default)]
pub(super) struct Histograms(Mutex<BTreeMap<String, Family>>);

#[derive(Default)]
struct Family {
    help: SharedString,
    /// By their labels, as they are written.
    series: BTreeMap<String, Arc<Histogram>>,
}

impl Histograms {
    pub(super) fn describe(&self, name: &str, help: SharedString) {
        let mut families = self.0.lock();
        families.entry(name.to_owned()).or_default().help = help;
    }

    /// The series of this key, which is made when it is asked for first.
    pub(super) fn of(&self, key: &Key) -> metrics::Histogram {
        let mut labels = String::new();
        for label in key.labels() {
            let value = label.value().replace('\\', "\\\\");
            let value = value.replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(labels, "{}=\"{value}\",", label.key());
        }
        let bounds: &[f64] = match key.name().ends_with("_size") {
            true => &SIZES,
            false => &SECONDS,
        };
        let mut families = self.0.lock();
        let family = families.entry(key.name().to_owned()).or_default();
        let series = family.series.entry(labels);
        let series = series.or_insert_with(|| Arc::new(Histogram::new(bounds)));
        metrics::Histogram::from_arc(Arc::clone(series))
    }

    /// See [`Metrics::observations`](super::Metrics::observations).
    pub(super) fn observations(&self, family: &str) -> Vec<(f64, u64)> {
        let families = self.0.lock();
        let series = families.get(family).into_iter();
        let mut all: Vec<(f64, u64)> = Vec::new();
        for histogram in series.flat_map(|it| it.series.values()) {
            for (place, (bound, below)) in histogram.cumulated().enumerate() {
                match all.get_mut(place) {
                    Some((_, sum)) => *sum += below,
                    None => all.push((bound, below)),
                }
            }
        }
        all
    }

    pub(super) fn render(&self, out: &mut String) {
        for (name, Family { help, series }) in &*self.0.lock() {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
            for (labels, histogram) in series {
                histogram.render(name, labels, out);
            }
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::Label;

    fn rendered(record: impl Fn(&metrics::Histogram)) -> String {
        let histograms = Histograms::default();
        histograms.describe("a_seconds", "How long".into());
        let labels = vec![Label::new("of", "x\"y")];
        record(&histograms.of(&Key::from_parts("a_seconds", labels)));
        let mut out = String::new();
        histograms.render(&mut out);
        out
    }

    #[test]
    fn each_observation_counts_in_every_bucket_that_reaches_it() {
        let text = rendered(|it| {
            for value in [0.000_005, 0.000_01, 0.003, 11.0] {
                it.record(value);
            }
        });
        for line in [
            "# HELP a_seconds How long",
            "# TYPE a_seconds histogram",
            "a_seconds_bucket{of=\"x\\\"y\",le=\"0.00001\"} 2",
            "a_seconds_bucket{of=\"x\\\"y\",le=\"0.0025\"} 2",
            "a_seconds_bucket{of=\"x\\\"y\",le=\"0.005\"} 3",
            "a_seconds_bucket{of=\"x\\\"y\",le=\"10\"} 3",
            "a_seconds_bucket{of=\"x\\\"y\",le=\"+Inf\"} 4",
            "a_seconds_sum{of=\"x\\\"y\"} 11.003015",
            "a_seconds_count{of=\"x\\\"y\"} 4",
        ] {
            assert!(text.lines().any(|it| it == line), "no {line} in:\n{text}");
        }
    }

    #[test]
    fn a_value_that_is_no_time_does_no_harm() {
        let text = rendered(|it| {
            it.record(f64::NAN);
            it.record(-1.0);
        });
        assert!(text.contains("a_seconds_sum{of=\"x\\\"y\"} 0\n"), "{text}");
        assert!(text.contains("a_seconds_count{of=\"x\\\"y\"} 2"), "{text}");
    }

    #[test]
    fn the_observations_of_a_family_are_those_of_all_its_series() {
        let histograms = Histograms::default();
        for (of, value) in [("x", 2.0), ("x", 3.0), ("y", 2.0), ("y", 5_000.0)] {
            let labels = vec![Label::new("of", of)];
            histograms
                .of(&Key::from_parts("a_size", labels))
                .record(value);
        }
        let seen = histograms.observations("a_size");
        assert_eq!(seen[..3], [(1.0, 0), (2.0, 2), (4.0, 3)]);
        assert_eq!(seen.last(), Some(&(f64::INFINITY, 4)));
        assert_eq!(histograms.observations("another_size"), []);
    }

    #[test]
    fn two_handles_of_one_key_count_in_one_series() {
        let histograms = Histograms::default();
        let key = Key::from_name("a_size");
        histograms.of(&key).record(1.0);
        histograms.of(&key).record(3.0);
        let mut out = String::new();
        histograms.render(&mut out);
        assert!(out.contains("a_size_bucket{le=\"1\"} 1"), "{out}");
        assert!(out.contains("a_size_count 2"), "{out}");
    }
}
