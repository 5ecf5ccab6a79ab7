//! Counts the instructions for a message on the hot paths, so that a change that makes one more expensive is noticed
//! here and not in production. Times would depend on the load of the machine. Instructions, counted by `valgrind
//! --tool=callgrind`, are the same in every run within a per cent.
//!
//! `cargo test --release --workspace --test costs -- --nocapture` prints the present counts.

mod workloads;

use std::process::Command;
use workloads::{NAMES, Workload};

/// The instructions for each message, as they were when somebody last changed them on purpose. A count may be a tenth
/// higher. If it is more than a quarter lower, the new count must be written down here.
const COSTS: [(&str, u64); NAMES.len()] = [
    ("decode-pomelo", 2_552),
    ("decode-json", 4_818),
    ("push-pomelo", 1_108),
    ("push-json", 2_304),
    ("deliver-to-10", 6_780),
    ("publish", 17_547),
];

const WORKLOAD: &str = "COSTS_WORKLOAD";
const CALLS: &str = "COSTS_CALLS";
/// The share of messages that are traced. Not set: the process does not trace.
const RATIO: &str = "COSTS_RATIO";

#[test]
fn no_message_costs_more_instructions_than_before() {
    let counted: Vec<_> = std::thread::scope(|scope| {
        let counting = COSTS.map(|(name, expected)| {
            let counting = scope.spawn(move || instructions_per_message(name));
            (name, expected, counting)
        });
        let counted = counting.map(|(name, expected, counting)| {
            (
                name,
                expected,
                counting.join().expect("the counting thread ends"),
            )
        });
        counted.into()
    });
    for (name, _, count) in &counted {
        println!("    (\"{name}\", {count}),");
    }
    for (name, expected, count) in counted {
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

/// Ninety-nine of a hundred messages have no trace. They must not pay for the last one.
#[test]
fn a_message_costs_hardly_more_where_some_are_traced() {
    let count = |ratio: Option<&'static str>| {
        std::thread::spawn(move || instructions_with("publish", ratio))
    };
    let counting = [None, Some("0"), Some("0.01")].map(count);
    let [off, none, some] = counting.map(|it| it.join().expect("the counting thread ends"));
    println!("publish: {off} instructions, {none} while nothing is traced, {some} with 1 % traced");
    assert!(
        none <= off + off / 50,
        "{none} instructions, and {off} if the process does not trace"
    );
    assert!(
        some <= off + off / 10,
        "{some} instructions, and {off} if the process does not trace"
    );
}

/// Not a test: the tests above run this under callgrind, in the same program.
#[test]
#[ignore = "the other test runs it, with a workload in the environment"]
fn workload() {
    let Ok(name) = std::env::var(WORKLOAD) else {
        return;
    };
    let calls = std::env::var(CALLS)
        .ok()
        .and_then(|calls| calls.parse().ok());
    if let Ok(ratio) = std::env::var(RATIO) {
        traces::begin(ratio.parse().expect("a share"));
    }
    let mut workload = Workload::named(&name);
    for _ in 0..calls.expect("a number") {
        (workload.run)();
    }
}

/// Compares a number of calls with twice as many, so that the start of the program does not count.
fn instructions_per_message(name: &str) -> u64 {
    let calls = 600 / Workload::messages_of(name);
    let [once, twice] = [calls, 2 * calls].map(|calls| instructions(name, calls, None));
    (twice - once) / (calls * Workload::messages_of(name))
}

/// The same with this share of messages traced, and with more messages, because few of them are.
fn instructions_with(name: &str, ratio: Option<&str>) -> u64 {
    let calls = 6_000 / Workload::messages_of(name);
    let [once, twice] = [calls, 2 * calls].map(|calls| instructions(name, calls, ratio));
    (twice - once) / (calls * Workload::messages_of(name))
}

fn instructions(name: &str, calls: u64, ratio: Option<&str>) -> u64 {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["--exact", "workload", "--ignored", "--test-threads=1"])
        .env(WORKLOAD, name)
        .env(CALLS, calls.to_string())
        .envs(ratio.map(|ratio| (RATIO, ratio)))
        .output()
        .expect("valgrind is missing: install it, or run ./tests/run, which does");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {text}");
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    count.unwrap_or_else(|| panic!("callgrind prints no count: {text}"))
}
