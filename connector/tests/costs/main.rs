//! Counts the instructions on the hot paths of a connector: those of a message, and those of a session that begins and ends. See
//! [`testkit::costs`].
//!
//! `cargo test --release --workspace --test costs -- --nocapture` prints the present counts.

mod session;
mod workloads;

use testkit::costs::{Cost, Plan, assert_costs, instructions_per_message, run_workload};
use workloads::{NAMES, Workload};

/// The instructions for each message, login, or end of a session.
const COSTS: [Cost; NAMES.len() + 2] = [
    ("decode-pomelo", 2_552),
    ("decode-json", 4_818),
    ("push-pomelo", 1_108),
    ("push-json", 2_304),
    ("deliver-to-10", 6_780),
    ("publish", 17_547),
    ("login", 170_600),
    ("end", 140_500),
];

/// The share of messages that are traced. Not set: the process does not trace.
const RATIO: &str = "COSTS_RATIO";

#[test]
fn no_message_and_no_login_costs_more_instructions_than_before() {
    assert_costs(&COSTS, plan);
}

/// Ninety-nine of a hundred messages have no trace. They must not pay for the last one.
#[test]
fn a_message_costs_hardly_more_where_some_are_traced() {
    let count = |ratio: Option<&'static str>| {
        let name = "publish";
        // More messages than elsewhere, because few of them are traced.
        let plan = Plan {
            calls: 10 * plan(name).calls,
            ..plan(name)
        };
        std::thread::spawn(move || {
            let environment = ratio.map(|ratio| (RATIO, ratio));
            instructions_per_message(name, plan, environment.as_slice())
        })
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

/// How the workload of this name is counted.
fn plan(name: &str) -> Plan {
    let messages = Workload::messages_of(name);
    let calls = match name {
        // Each of them costs as much as dozens of messages.
        "login" | "end" => session::CALLS,
        _ => 600 / messages,
    };
    Plan { calls, messages }
}

/// Not a test: the tests above run this under callgrind, in the same program.
#[test]
#[ignore = "the other tests run it, with a workload in the environment"]
fn workload() {
    if let Ok(ratio) = std::env::var(RATIO) {
        traces::begin(ratio.parse().expect("a share"));
    }
    run_workload(|name| match name {
        "login" => session::login(),
        "end" => session::end(),
        _ => Workload::named(name).run,
    });
}
