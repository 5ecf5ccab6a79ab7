//! The processor time that processes and threads have used, read from `/proc`.

use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Adds up the processor time of the services and of the thread that makes the load.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    processes: Vec<PathBuf>,
    thread: Option<PathBuf>,
}

impl Meter {
    /// A meter of these processes, each with all its threads.
    #[must_use]
    pub fn of(processes: &[u32]) -> Self {
        let tasks = processes
            .iter()
            .map(|id| PathBuf::from(format!("/proc/{id}/task")));
        Self {
            processes: tasks.collect(),
            thread: None,
        }
    }

    /// The same meter with the thread that calls this.
    ///
    /// # Panics
    /// If there is no `/proc`.
    #[must_use]
    pub fn with_this_thread(&self) -> Self {
        let thread = std::fs::read_link("/proc/thread-self").expect("Linux has it");
        Self {
            processes: self.processes.clone(),
            thread: Some(Path::new("/proc").join(thread)),
        }
    }

    /// The processor time of all of them so far. Threads that have ended no longer count.
    #[must_use]
    pub fn used(&self) -> Duration {
        let processes = self.processes.iter().flat_map(|tasks| {
            let tasks = std::fs::read_dir(tasks).into_iter().flatten().flatten();
            tasks.map(|task| on_a_processor(&task.path()))
        });
        let thread = self.thread.iter().map(|thread| on_a_processor(thread));
        processes.chain(thread).sum()
    }
}

/// The first number in `schedstat`: nanoseconds on a processor. `stat` counts in steps of 10 ms, which is too coarse
/// here.
fn on_a_processor(task: &Path) -> Duration {
    let statistics = std::fs::read_to_string(task.join("schedstat"));
    let nanoseconds = statistics.ok().and_then(|text| {
        let first = text.split(' ').next()?;
        first.parse().ok()
    });
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}

/// The processor time that a load had used at certain moments after its beginning.
#[derive(Debug, Clone, Default)]
pub struct Curve {
    points: Vec<(Duration, Duration)>,
}

impl Curve {
    /// Adds a point. Points must come in order of time.
    pub fn add(&mut self, since_begin: Duration, used: Duration) {
        self.points.push((since_begin, used));
    }

    /// The processor time in all.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.points.last().map_or(Duration::ZERO, |(_, used)| *used)
    }

    /// The processor time at a moment: on the straight line between the points around it.
    #[must_use]
    pub fn at(&self, moment: Duration) -> Duration {
        let mut before = (Duration::ZERO, Duration::ZERO);
        for &(time, used) in &self.points {
            if moment < time {
                let share = (moment - before.0).as_secs_f64() / (time - before.0).as_secs_f64();
                return before.1 + used.saturating_sub(before.1).mul_f64(share);
            }
            before = (time, used);
        }
        before.1
    }
}

/// Measures processor time from a moment on.
#[derive(Debug, Clone)]
pub struct Since {
    meter: Meter,
    begin: Instant,
    before: Duration,
}

impl Since {
    /// Begins to measure now.
    #[must_use]
    pub fn now(meter: Meter) -> Self {
        Self {
            begin: Instant::now(),
            before: meter.used(),
            meter,
        }
    }

    /// The time that has passed, and the processor time that was used meanwhile.
    #[must_use]
    pub fn read(&self) -> (Duration, Duration) {
        let used = self.meter.used().saturating_sub(self.before);
        (self.begin.elapsed(), used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_a_line_between_its_points() {
        let [one, two, four] = [1, 2, 4].map(Duration::from_millis);
        let mut curve = Curve::default();
        curve.add(two, four);
        curve.add(four, four);
        assert_eq!(curve.at(one), two);
        assert_eq!(curve.at(two), four);
        assert_eq!(curve.at(four + one), four);
        assert_eq!(curve.total(), four);
    }

    #[test]
    fn a_thread_that_computes_is_seen_to_use_a_processor() {
        let since = Since::now(Meter::default().with_this_thread());
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let (_, used) = since.read();
        assert!(used > Duration::from_millis(2), "{used:?}");
    }
}
