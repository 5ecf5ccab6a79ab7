//! Counts the instructions of hot paths, so that a change that makes one more expensive is noticed by a test and not in
//! production. Times would depend on the load of the machine. Instructions, counted by `valgrind --tool=callgrind`, are the
//! same in every run within a per cent.
//!
//! A test program calls [`assert_costs`], which starts the same program under callgrind once for each count. There it runs
//! a test called `workload` alone, which is `#[ignore]`d and calls [`run_workload`].

use std::process::Command;

const WORKLOAD: &str = "COSTS_WORKLOAD";
const CALLS: &str = "COSTS_CALLS";
/// Counts while this function runs, and only on its thread. What was prepared before does not count: the start of a connector measures
/// the machine's clock for a while, and does that not always with as many instructions.
const COUNTED: &str = "--toggle-collect=testkit::costs::repeat*";

/// The instructions for each message of a path, as they were when somebody last changed them on purpose.
pub type Cost = (&'static str, u64);

/// How a path is counted.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How often the path runs in the shorter one of two runs. In the longer one it runs twice as often.
    pub calls: u64,
    /// The number of messages in one call.
    pub messages: u64,
}

/// Counts all paths, prints the counts, and compares them. A count may be a tenth higher. If it is more than a quarter
/// lower, the new count must be written down, or the path could become as expensive again and nobody would notice.
///
/// # Panics
/// If a count is too high or too low, or if valgrind is missing.
pub fn assert_costs(costs: &[Cost], plan: impl Fn(&str) -> Plan + Sync) {
    let plan = &plan;
    let counted: Vec<_> = std::thread::scope(|scope| {
        let counting: Vec<_> = costs
            .iter()
            .map(|&(name, _)| scope.spawn(move || instructions_per_message(name, plan(name), &[])))
            .collect();
        let counted = counting.into_iter();
        counted
            .map(|it| it.join().expect("the counting thread ends"))
            .collect()
    });
    for ((name, _), count) in costs.iter().zip(&counted) {
        println!("    (\"{name}\", {count}),");
    }
    for ((name, expected), count) in costs.iter().zip(counted) {
        assert!(
            count <= expected + expected / 10,
            "{name}: {count} instructions for each message, expected {expected}; if this is on purpose, change COSTS"
        );
        assert!(
            count >= expected - expected / 4,
            "{name}: {count} instructions for each message, expected {expected}; write the better count into COSTS"
        );
    }
}

/// Counts one path, with further variables in the environment of its program. It compares a number of calls with twice as
/// many, so that what happens only once does not count.
///
/// # Panics
/// If valgrind is missing, or the program fails.
#[must_use]
pub fn instructions_per_message(name: &str, plan: Plan, environment: &[(&str, &str)]) -> u64 {
    let Plan { calls, messages } = plan;
    let [once, twice] =
        [calls, 2 * calls].map(|calls| instructions_of_program(name, calls, environment));
    (twice - once) / (calls * messages)
}

fn instructions_of_program(name: &str, calls: u64, environment: &[(&str, &str)]) -> u64 {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            COUNTED,
        ])
        .arg(program)
        .args(["--exact", "workload", "--ignored", "--test-threads=1"])
        .env(WORKLOAD, name)
        .env(CALLS, calls.to_string())
        .envs(environment.iter().copied())
        .output()
        .expect("valgrind is missing: install it, or run ./tests/run, which does");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {text}");
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let count: Option<u64> = collected.and_then(|(_, count)| count.trim().parse().ok());
    let count = count.filter(|count| *count > 0);
    count.unwrap_or_else(|| panic!("callgrind prints no count: {text}"))
}

/// Runs the path that the environment names, as often as it says. `prepare` makes a function that runs the path once.
/// Does nothing if the environment names no path, because then somebody runs all ignored tests.
///
/// # Panics
/// If the environment does not say how often.
pub fn run_workload(prepare: impl FnOnce(&str) -> Box<dyn FnMut()>) {
    let Ok(name) = std::env::var(WORKLOAD) else {
        return;
    };
    let calls = std::env::var(CALLS).ok();
    let calls: u64 = calls.and_then(|it| it.parse().ok()).expect("a number");
    repeat(calls, &mut *prepare(&name));
}

/// A function of its own, because callgrind knows it by its name.
#[inline(never)]
fn repeat(calls: u64, run: &mut dyn FnMut()) {
    for _ in 0..calls {
        run();
    }
}
