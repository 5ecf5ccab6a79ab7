//! What a message costs on the hot paths, in instructions: a change that makes one dearer shows here and not in
//! production. Times would tell the machine's mood; instructions, counted by `valgrind --tool=callgrind`, are the same
//! in every run, give or take a per cent.
//!
//! `cargo test --release --workspace --test costs -- --nocapture` prints what is counted now.

mod workloads;

use std::process::Command;
use workloads::{NAMES, Workload};

/// Instructions for each message, as measured when they were last meant to change. A count may be a tenth above; one
/// that is more than a quarter below is to be written down here.
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

#[test]
fn a_message_costs_no_more_instructions_than_it_did() {
    let counted: Vec<_> = std::thread::scope(|scope| {
        let counting = COSTS.map(|(name, expected)| {
            let counting = scope.spawn(move || instructions_per_message(name));
            (name, expected, counting)
        });
        let counted = counting.map(|(name, expected, counting)| {
            (name, expected, counting.join().expect("it is counted"))
        });
        counted.into()
    });
    for (name, _, count) in &counted {
        println!("    (\"{name}\", {count}),");
    }
    for (name, expected, count) in counted {
        assert!(
            count <= expected + expected / 10,
            "{name}: {count} instructions for each message, were {expected}; if that is meant, write it into COSTS"
        );
        assert!(
            count >= expected - expected / 4,
            "{name}: {count} instructions for each message, were {expected}: write it into COSTS, so that it stays"
        );
    }
}

/// Not a test of its own: what the one above runs, in this very program, under callgrind.
#[test]
#[ignore = "run by the other test, with a workload in the environment"]
fn workload() {
    let Ok(name) = std::env::var(WORKLOAD) else {
        return;
    };
    let calls = std::env::var(CALLS)
        .ok()
        .and_then(|calls| calls.parse().ok());
    let mut workload = Workload::named(&name);
    for _ in 0..calls.expect("a number") {
        (workload.run)();
    }
}

/// What twice as many calls cost more, so that starting costs nothing.
fn instructions_per_message(name: &str) -> u64 {
    let calls = 600 / Workload::messages_of(name);
    let [once, twice] = [calls, 2 * calls].map(|calls| instructions(name, calls));
    (twice - once) / (calls * Workload::messages_of(name))
}

fn instructions(name: &str, calls: u64) -> u64 {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["--exact", "workload", "--ignored", "--test-threads=1"])
        .env(WORKLOAD, name)
        .env(CALLS, calls.to_string())
        .output()
        .expect("valgrind is missing: install it, or run ./tests/run, which does");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {text}");
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    count.unwrap_or_else(|| panic!("callgrind says no count: {text}"))
}
