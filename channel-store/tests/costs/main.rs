//! Counts what the client of Redis costs for a message, in instructions. See [`testkit::costs`].
//!
//! `cargo test --release --workspace --test costs -- --nocapture` prints the present counts.

mod fake;
mod workloads;

use testkit::costs::{Cost, Plan, assert_costs, run_workload};
use workloads::{TOGETHER, Workload};

/// The instructions for each message. The fake Redis in this process has a share in them, which is the same in every run.
const COSTS: [Cost; 3] = [
    ("redis-publish", 53_750),
    ("redis-publish-together", 14_160),
    ("redis-push", 10_170),
];

#[test]
fn no_message_costs_the_client_of_redis_more_instructions_than_before() {
    assert_costs(&COSTS, plan);
}

/// How the workload of this name is counted.
fn plan(name: &str) -> Plan {
    let messages = if name == "redis-publish" { 1 } else { TOGETHER };
    let messages = u64::try_from(messages).expect("few");
    Plan {
        calls: 600 / messages,
        messages,
    }
}

/// Not a test: the test above runs this under callgrind, in the same program.
#[test]
#[ignore = "the other test runs it, with a workload in the environment"]
fn workload() {
    run_workload(|name| Workload::named(name).run);
}
