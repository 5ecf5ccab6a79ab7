//! Bounds how many tests run at the same time. Tests that measure time or load run alone. The others are two for each core,
//! because they wait more than they compute.

use std::sync::LazyLock;
use tokio::sync::{Semaphore, SemaphorePermit};

static ALL: LazyLock<u32> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism();
    let cores = cores.map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    2 * cores
});
static PERMITS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(*ALL as usize));

/// Permission to run. The next test gets it when this is dropped.
pub struct Permit {
    _permits: SemaphorePermit<'static>,
}

impl Permit {
    /// Waits until one more test may run.
    ///
    /// # Panics
    /// Never: the semaphore is not closed.
    pub async fn shared() -> Self {
        Self::take(1).await
    }

    /// Waits until no other test runs. No other test begins while the permit is held.
    ///
    /// # Panics
    /// Never: the semaphore is not closed.
    pub async fn alone() -> Self {
        Self::take(*ALL).await
    }

    async fn take(permits: u32) -> Self {
        let permits = PERMITS.acquire_many(permits).await;
        Self {
            _permits: permits.expect("nobody closes the semaphore"),
        }
    }
}
