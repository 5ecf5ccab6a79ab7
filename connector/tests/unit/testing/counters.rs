//! A recorder that remembers counters, gauges, and how many observations histograms have.

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The name of a counter, and the values of its labels.
type Series = (String, Vec<String>);

/// Counters and gauges by name and by the values of their labels.
#[derive(Default)]
pub(crate) struct Counters(Mutex<HashMap<Series, Arc<AtomicU64>>>);

impl Counters {
    /// The sum of all series of this name.
    pub(crate) fn get(&self, name: &str) -> u64 {
        let counters = self.0.lock();
        let series = counters.iter().filter(|((it, _), _)| it == name);
        series.map(|(_, it)| it.load(Ordering::Relaxed)).sum()
    }

    /// All series of this name that are not 0, by the values of their labels.
    pub(crate) fn series(&self, name: &str) -> BTreeMap<Vec<String>, u64> {
        let counters = self.0.lock();
        let series = counters.iter().filter(|((it, _), _)| it == name);
        let series = series.map(|((_, labels), it)| (labels.clone(), it.load(Ordering::Relaxed)));
        series.filter(|(_, count)| *count > 0).collect()
    }

    pub(crate) fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.get(name))
    }

    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        let labels = key.labels().map(|label| label.value().to_owned());
        let series = (key.name().to_owned(), labels.collect());
        self.0.lock().entry(series).or_default().clone()
    }
}

/// Counts observations, whatever their values.
struct Observations(Arc<AtomicU64>);

impl HistogramFn for Observations {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Observations(self.cell(key))))
    }
}
