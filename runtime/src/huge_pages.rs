//! Switches off huge pages.
//!
//! With transparent huge pages the kernel clears 2 MiB when a process touches the first byte of them. A process that
//! takes a lot of memory at once stands still meanwhile. docs/performance.md ("Where the time goes") has the
//! measurements. Redis gives the same advice for the same reason.

/// Tells the kernel to give this process only small pages from now on. If the system refuses, nothing changes. On a
/// system without huge pages this does nothing.
pub fn avoid() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages could not be switched off");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn transparent_huge_pages_are_disabled() {
        super::avoid();
        assert!(rustix::thread::transparent_huge_pages_are_disabled().unwrap());
    }
}
