//! Memory comes in small pages.
//!
//! With transparent huge pages the kernel clears 2 MiB when the first byte of them is touched. A process that takes a lot
//! of memory at once stands still meanwhile: docs/performance.md ("Where the time goes") has what was measured. Redis
//! gives the same advice for the same reason.

/// Tells the kernel to give this process small pages only, from now on. A system that refuses leaves it as it was; where
/// there are no such pages, this does nothing.
pub fn avoid() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages could not be switched off");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn memory_comes_in_small_pages() {
        super::avoid();
        assert!(rustix::thread::transparent_huge_pages_are_disabled().unwrap());
    }
}
