//! Metric families that are complete from the start.
//!
//! A counter that appears with its first event is of no use for alerts: Prometheus sees no increase from "absent" to 1.
//! So a crate lists its families in one place, with all values that a label may have, and [`register`]s them when its
//! service starts. docs/metrics.md lists them for people, and a test compares the two.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// What kind of number a family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows; its name ends with `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Observations in buckets; its name ends with `_seconds` or `_size`.
    Histogram,
}

/// One family: a name, and what it means.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Its name in Prometheus.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// What `# HELP` says.
    pub help: &'static str,
    /// Each label's name with all values that it may have. Every combination is there from the start.
    pub labels: &'static [(&'static str, &'static [&'static str])],
}

impl Family {
    /// A counter.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Counter,
            help,
            labels: &[],
        }
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self {
            kind: Kind::Gauge,
            ..Self::counter(name, help)
        }
    }

    /// A histogram.
    #[must_use]
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self {
            kind: Kind::Histogram,
            ..Self::counter(name, help)
        }
    }

    /// The family with these labels.
    #[must_use]
    pub const fn by(self, labels: &'static [(&'static str, &'static [&'static str])]) -> Self {
        Self { labels, ..self }
    }

    /// Every combination of its labels' values.
    fn series(&self) -> Vec<Vec<(&'static str, &'static str)>> {
        let mut all = vec![Vec::new()];
        for &(label, values) in self.labels {
            let longer = all.iter().flat_map(|series: &Vec<_>| {
                values.iter().map(|&value| {
                    let mut series = series.clone();
                    series.push((label, value));
                    series
                })
            });
            all = longer.collect();
        }
        all
    }
}

/// Describes these families and creates all of their series, at 0. A second call keeps what was counted.
///
/// [`crate::Metrics::install`] has to come first.
pub fn register(families: &[Family]) {
    for family in families {
        let &Family {
            name, kind, help, ..
        } = family;
        match kind {
            Kind::Counter => describe_counter!(name, help),
            Kind::Gauge => describe_gauge!(name, help),
            Kind::Histogram => describe_histogram!(name, help),
        }
        for labels in family.series() {
            match kind {
                Kind::Counter => counter!(name, &labels).increment(0),
                Kind::Gauge => gauge!(name, &labels).increment(0.0),
                Kind::Histogram => drop(histogram!(name, &labels)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    const COLOURS: &[&str] = &["red", "blue"];
    const SIZES: &[&str] = &["small", "large"];

    #[test]
    fn every_series_exists_before_its_first_event() {
        Metrics::install();
        register(&[
            Family::counter("families_test_total", "Things seen")
                .by(&[("colour", COLOURS), ("size", SIZES)]),
            Family::gauge("families_test_now", "Things now"),
            Family::histogram("families_test_seconds", "How long"),
        ]);
        let text = Metrics::install().render();
        for line in [
            "# HELP families_test_total Things seen",
            "# TYPE families_test_total counter",
            "families_test_total{colour=\"red\",size=\"small\"} 0",
            "families_test_total{colour=\"blue\",size=\"large\"} 0",
            "# TYPE families_test_now gauge",
            "families_test_now 0",
            "# TYPE families_test_seconds histogram",
            "families_test_seconds_bucket{le=\"0.005\"} 0",
            "families_test_seconds_count 0",
        ] {
            assert!(text.lines().any(|it| it == line), "no {line} in:\n{text}");
        }
    }
}
