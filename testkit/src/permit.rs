//! Bounds how many tests run at the same time: as many as there are cores. Tests that measure time or load run alone.

use std::sync::LazyLock;
use tokio::sync::{Semaphore, SemaphorePermit};

static CORES: LazyLock<u32> = LazyLock::new(|| {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1))
});
static PERMITS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(*CORES as usize));

/// Permission to run. The next test gets it when this is dropped.
pub struct Permit {
    _permits: SemaphorePermit<'static>,
}

impl Permit {
    /// Waits until a core is free.
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
        Self::take(*CORES).await
    }

    async fn take(cores: u32) -> Self {
        let permits = PERMITS.acquire_many(cores).await;
        Self {
            _permits: permits.expect("nobody closes the semaphore"),
        }
    }
}
