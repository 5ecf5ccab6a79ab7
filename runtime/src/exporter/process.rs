//! What the operating system knows of the process, under the names that Prometheus' own libraries use.
//!
//! It is asked when the metrics are. Whatever the system does not tell is left at 0.

use crate::descriptors;
use rustix::time::{ClockId, clock_gettime};
use std::fmt::Write;
use std::fs;
use std::sync::OnceLock;

static BEGUN: OnceLock<f64> = OnceLock::new();

/// Notes when the process has begun.
pub(super) fn begin() {
    BEGUN.get_or_init(super::now);
}

/// Writes the metrics.
pub(super) fn render(out: &mut String) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limit = descriptors::limit_now();
    let begun = BEGUN.get().copied().unwrap_or_default();
    for (name, kind, help, value) in [
        (
            "process_cpu_seconds_total",
            "counter",
            "Time that the process has spent on processors",
            cpu,
        ),
        (
            "process_open_fds",
            "gauge",
            "File descriptors that are open",
            descriptors::open_now() as f64,
        ),
        (
            "process_max_fds",
            "gauge",
            "File descriptors that the process may have open",
            limit as f64,
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Memory that the process occupies",
            1_024.0 * number(&status, "VmRSS:"),
        ),
        (
            "process_threads",
            "gauge",
            "Threads of the process",
            number(&status, "Threads:"),
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "When the process has begun, in seconds since 1970",
            begun,
        ),
    ] {
        let _ = writeln!(
            out,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
        );
    }
}

/// The number behind this word in `/proc/self/status`.
fn number(status: &str, word: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(word));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    fn value(name: &str) -> f64 {
        let mut out = String::new();
        render(&mut out);
        let mut lines = out.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap().parse().unwrap()
    }

    #[test]
    fn memory_descriptors_time_and_threads_are_those_of_this_process() {
        begin();
        assert!(value("process_threads") >= 1.0);
        let more = vec![1_u8; 64 << 20];
        let memory = value("process_resident_memory_bytes");
        assert!(memory > f64::from(32 << 20), "{memory}");
        black_box(more);
        let before = value("process_open_fds");
        let files: Vec<_> = (0..100)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        // Other tests of this process open and close some, too.
        assert!(value("process_open_fds") > before + 50.0);
        drop(files);
        assert_eq!(value("process_max_fds"), descriptors::limit_now() as f64);
        let cpu = value("process_cpu_seconds_total");
        while value("process_cpu_seconds_total") <= cpu {}
        assert!(value("process_start_time_seconds") > 1.7e9);
    }
}
