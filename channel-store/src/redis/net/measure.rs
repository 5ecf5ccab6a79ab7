//! How long calls to Redis take, by the script that they call.
//!
//! A call is measured where it is sent, so none can be forgotten. Its script is recognised by the hash in the command. A
//! pipeline counts once, under its first command: its commands are sent in one piece, and are over together.

use metrics::{Counter, Histogram, counter, describe_counter, describe_histogram, histogram};
use redis::{Arg, Pipeline, Script, Value};
use std::sync::Arc;
use tokio::time::Instant;

const DURATION: &str = "redis_call_duration_seconds";
const FAILED: &str = "redis_calls_failed_total";
/// The label of everything that is no script.
const OTHER: &str = "other";

/// Measures the calls of scripts.
pub(crate) struct Measures {
    /// By the beginning of each script's hash, in order.
    scripts: Vec<(u64, Measure)>,
    other: Measure,
}

/// The series of one script.
struct Measure {
    took: Histogram,
    failed: Counter,
}

impl Measure {
    fn of(script: &'static str) -> Self {
        let failed = counter!(FAILED, "script" => script);
        failed.increment(0);
        Self {
            took: histogram!(DURATION, "script" => script),
            failed,
        }
    }
}

impl Measures {
    /// Creates all series, at 0. The scripts have these names.
    pub(crate) fn new(scripts: &[(&'static str, &'static Script)]) -> Arc<Self> {
        describe_histogram!(
            DURATION,
            "From sending a call to Redis to its answer, by the first script in it"
        );
        describe_counter!(
            FAILED,
            "Calls to Redis that were refused, or not answered in time, by the first script in them"
        );
        let scripts = scripts.iter();
        let mut scripts: Vec<_> = scripts
            .map(|(name, script)| (beginning(script.get_hash().as_bytes()), Measure::of(name)))
            .collect();
        scripts.sort_unstable_by_key(|(hash, _)| *hash);
        Arc::new(Self {
            scripts,
            other: Measure::of(OTHER),
        })
    }

    /// A call begins now.
    pub(super) fn begin(&self, pipeline: &Pipeline) -> Measured<'_> {
        Measured {
            measure: self.of(pipeline),
            begun: Instant::now(),
        }
    }

    fn of(&self, pipeline: &Pipeline) -> &Measure {
        let mut arguments = pipeline
            .cmd_iter()
            .next()
            .into_iter()
            .flat_map(|command| command.args_iter());
        let (Some(Arg::Simple(b"EVALSHA")), Some(Arg::Simple(hash))) =
            (arguments.next(), arguments.next())
        else {
            return &self.other;
        };
        let found = (self.scripts).binary_search_by_key(&beginning(hash), |(hash, _)| *hash);
        let found = found.ok().and_then(|place| self.scripts.get(place));
        found.map_or(&self.other, |(_, measure)| measure)
    }
}

/// A hash is 40 digits. The first eight of them tell scripts apart.
fn beginning(hash: &[u8]) -> u64 {
    let first = hash.first_chunk::<8>();
    first.map_or(0, |first| u64::from_be_bytes(*first))
}

/// A call under way. One that is given up is not counted, because nobody waits for its answer.
pub(super) struct Measured<'a> {
    measure: &'a Measure,
    begun: Instant,
}

impl Measured<'_> {
    /// There are these answers.
    pub(super) fn answered(self, replies: &[Value]) {
        self.measure.took.record(self.begun.elapsed());
        if matches!(replies.first(), Some(Value::ServerError(_))) {
            self.measure.failed.increment(1);
        }
    }

    /// There is no answer.
    pub(super) fn failed(self) {
        self.measure.failed.increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::scripts::SCRIPTS;
    use super::*;
    use metrics::{CounterFn, Gauge, Key, KeyName, Metadata, Recorder, SharedString, Unit};
    use parking_lot::Mutex;
    use std::collections::BTreeMap;
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Counts what was recorded, by family and script.
    #[derive(Default)]
    struct Recorded(Mutex<BTreeMap<(String, String), Arc<Count>>>);

    #[derive(Default)]
    struct Count(AtomicU64);

    impl CounterFn for Count {
        fn increment(&self, value: u64) {
            self.0.fetch_add(value, Ordering::Relaxed);
        }

        fn absolute(&self, _: u64) {}
    }

    impl metrics::HistogramFn for Count {
        fn record(&self, _: f64) {
            self.increment(1);
        }
    }

    impl Recorded {
        fn cell(&self, key: &Key) -> Arc<Count> {
            let script = key.labels().map(|it| it.value().to_owned()).collect();
            let series = (key.name().to_owned(), script);
            self.0.lock().entry(series).or_default().clone()
        }

        fn get(&self, family: &str, script: &str) -> u64 {
            let series = (family.to_owned(), script.to_owned());
            self.0.lock()[&series].0.load(Ordering::Relaxed)
        }
    }

    impl Recorder for Recorded {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.cell(key))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(self.cell(key))
        }
    }

    fn calling(script: &Script) -> Pipeline {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("EVALSHA").arg(script.get_hash()).arg(0);
        pipeline
    }

    #[test]
    fn each_call_counts_under_its_first_script_and_everything_else_as_other() {
        let recorded = Recorded::default();
        let scripts: Vec<_> = SCRIPTS.named().collect();
        let measures = metrics::with_local_recorder(&recorded, || Measures::new(&scripts));
        let mut both = calling(&SCRIPTS.join);
        both.cmd("EVALSHA").arg(SCRIPTS.leave.get_hash()).arg(0);
        measures.begin(&both).answered(&[Value::Okay, Value::Okay]);
        measures.begin(&calling(&SCRIPTS.leave)).failed();
        let mut info = Pipeline::new();
        info.cmd("INFO").arg("memory");
        measures.begin(&info).answered(&[Value::Okay]);
        measures.begin(&Pipeline::new()).answered(&[]);
        let _given_up = measures.begin(&both);
        for (script, answered, failed) in [("join", 1, 0), ("leave", 0, 1), ("other", 2, 0)] {
            assert_eq!(recorded.get(DURATION, script), answered, "{script}");
            assert_eq!(recorded.get(FAILED, script), failed, "{script}");
        }
    }

    #[test]
    fn no_two_scripts_are_taken_for_one_another() {
        let scripts: Vec<_> = SCRIPTS.named().collect();
        let beginnings = scripts
            .iter()
            .map(|(_, it)| beginning(it.get_hash().as_bytes()));
        assert_eq!(beginnings.collect::<BTreeSet<_>>().len(), scripts.len());
    }
}
