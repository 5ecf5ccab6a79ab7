//! Runs many seeds, each on whichever thread is free.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs all seeds, and returns when they are done.
pub(crate) fn in_parallel(seeds: Range<u64>, run: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    run(seed);
                }
            });
        }
    });
}
