//! Functions that wait for a condition. A limit says when to give up, never how long something takes. On a busy machine
//! it is longer ([`pace`]).

use crate::pace;
use std::time::Duration;
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Asks until the condition is true.
///
/// # Panics
/// If it does not become true within the given time.
#[track_caller]
pub fn eventually(
    what: &str,
    time: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    some(what, time, async move || condition().await.then_some(()))
}

/// Asks until there is an answer.
///
/// # Panics
/// If there is none within the given time.
#[track_caller]
pub fn some<T>(
    what: &str,
    time: Duration,
    ask: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let answer = within(time, ask).await;
        answer.unwrap_or_else(|| panic!("{caller}: this did not happen within {time:?}: {what}"))
    }
}

/// Asks until there is an answer; `None` if there is none within the given time.
pub async fn within<T>(time: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let answer = ask().await;
        if answer.is_some() || pace::since(begin) >= time {
            return answer;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Checks for some time that something stays true. It is for what must *not* happen: there is no event to wait for.
///
/// # Panics
/// If it is false once.
pub async fn stays(what: &str, during: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + during;
    while Instant::now() < end {
        assert!(condition().await, "this is no longer true: {what}");
        tokio::time::sleep(LONGEST_PAUSE).await;
    }
}
