//! How many tests run at once: as many as there are cores, and those that measure time or load run alone.

use std::sync::LazyLock;
use tokio::sync::{Semaphore, SemaphorePermit};

static CORES: LazyLock<u32> = LazyLock::new(|| {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1))
});
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(*CORES as usize));

/// Leave to run, until dropped.
pub struct Turn {
    _permits: SemaphorePermit<'static>,
}

impl Turn {
    /// Waits for a core.
    ///
    /// # Panics
    /// Never: the semaphore is not closed.
    pub async fn shared() -> Self {
        Self::take(1).await
    }

    /// Waits until no other test runs, and lets none begin.
    ///
    /// # Panics
    /// Never: the semaphore is not closed.
    pub async fn alone() -> Self {
        Self::take(*CORES).await
    }

    async fn take(cores: u32) -> Self {
        let permits = TURNS.acquire_many(cores).await;
        Self {
            _permits: permits.expect("nobody closes the semaphore"),
        }
    }
}
