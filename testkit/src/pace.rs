//! Time that takes the load of the machine into account.
//!
//! On a machine whose cores have other work, too, everything takes longer, and a test that measures time must not fail
//! for that reason. So limits are not compared with the passed time, but with the share of it in which a thread could
//! have run: while four threads want to run on two cores, a second counts as half a second. On an idle machine a second
//! counts in full.
//!
//! A thread reads every few milliseconds how many threads want to run, from `/proc/loadavg`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use std::time::{Duration, Instant};
//! use testkit::pace;
//!
//! let began = Instant::now();
//! let answer = pace::timeout(Duration::from_secs(1), async { 42 }).await;
//! assert_eq!(answer, Ok(42));
//! assert!(pace::since(began) <= began.elapsed());
//! # }
//! ```

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::error::Elapsed;

const INTERVAL: Duration = Duration::from_millis(10);

/// Each second counts as at least this share of a second, however busy the machine is. Otherwise a test that hangs
/// would never end.
const LEAST: f64 = 0.05;

/// Moments, and how much of the time has counted until then. Between two moments time counts evenly.
static MOMENTS: LazyLock<Mutex<Vec<(Instant, Duration)>>> = LazyLock::new(|| {
    std::thread::Builder::new()
        .name("pace".into())
        .spawn(watch)
        .expect("a thread starts");
    Mutex::new(vec![(Instant::now(), Duration::ZERO)])
});

/// Starts to watch the load of the machine, if nobody has done so.
pub fn start() {
    LazyLock::force(&MOMENTS);
}

/// How much of the time since this moment counts. Time before the first call of this module counts in full.
#[must_use]
pub fn since(begin: impl Into<Instant>) -> Duration {
    between(begin, Instant::now())
}

/// How much of the time between two moments counts.
#[must_use]
pub fn between(begin: impl Into<Instant>, end: impl Into<Instant>) -> Duration {
    let moments = MOMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let (begin, end) = (begin.into(), end.into());
    let (first, _) = moments[0];
    counted(&moments, end).saturating_sub(counted(&moments, begin))
        + end.min(first).saturating_duration_since(begin)
}

/// Like tokio's function of this name, but only time that counts is compared with the limit.
///
/// # Errors
/// If the future takes longer.
pub async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    let begin = Instant::now();
    let mut future = std::pin::pin!(future);
    loop {
        let left = limit.saturating_sub(since(begin));
        let answer = tokio::time::timeout(left, &mut future).await;
        if answer.is_ok() || left.is_zero() {
            return answer;
        }
    }
}

/// How much has counted from the first moment until this one.
fn counted(moments: &[(Instant, Duration)], at: Instant) -> Duration {
    let after = moments.partition_point(|(moment, _)| *moment <= at);
    let Some(before) = after.checked_sub(1) else {
        return Duration::ZERO;
    };
    let (begin, counted) = moments[before];
    let passed = at.duration_since(begin);
    match moments.get(after) {
        Some((end, until)) => {
            let share = passed.as_secs_f64() / end.duration_since(begin).as_secs_f64();
            counted + (*until - counted).mul_f64(share)
        }
        // The load of this moment is not known yet, so time counts in full, but for one interval at most.
        None => counted + passed.min(INTERVAL),
    }
}

fn watch() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = |running: usize| (cores as f64 / running.max(1) as f64).clamp(LEAST, 1.0);
    let mut before = share(running());
    loop {
        std::thread::sleep(INTERVAL);
        let now = share(running());
        let mut moments = MOMENTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&(begin, counted)) = moments.last() {
            let end = Instant::now();
            let passed = end.duration_since(begin);
            moments.push((end, counted + passed.mul_f64(f64::midpoint(before, now))));
        }
        before = now;
    }
}

/// How many threads of the machine want to run now, without this one.
fn running() -> usize {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = load
        .split(' ')
        .nth(3)
        .and_then(|field| field.split('/').next());
    let running = running.and_then(|number| number.parse().ok());
    usize::saturating_sub(running.unwrap_or(1), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_two_moments_time_counts_evenly() {
        let begin = Instant::now();
        let ms = Duration::from_millis;
        let moments = [
            (begin, ms(0)),
            (begin + ms(10), ms(10)),
            (begin + ms(30), ms(20)),
        ];
        assert_eq!(counted(&moments, begin), ms(0));
        assert_eq!(counted(&moments, begin + ms(5)), ms(5));
        assert_eq!(counted(&moments, begin + ms(20)), ms(15));
        assert_eq!(counted(&moments, begin + ms(30)), ms(20));
        // After the last moment, time counts for one interval at most.
        assert_eq!(counted(&moments, begin + ms(35)), ms(25));
        assert_eq!(counted(&moments, begin + ms(90)), ms(20) + INTERVAL);
    }

    #[test]
    fn on_a_busy_machine_time_counts_less() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        start();
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 * cores {
                scope.spawn(|| while begin.elapsed() < Duration::from_millis(500) {});
            }
        });
        let (counted, passed) = (since(begin), begin.elapsed());
        assert!(counted < passed / 2, "{counted:?} of {passed:?}");
    }

    #[tokio::test]
    async fn a_future_that_takes_too_long_is_given_up() {
        let forever = std::future::pending::<()>();
        assert!(timeout(Duration::from_millis(20), forever).await.is_err());
    }
}
