//! The load generator (`tests/load`) against a whole system: each of its modes runs, checks what was delivered, and
//! prints what it measured as one line of JSON.

use serde_json::Value;
use std::process::Command;
use testkit::binaries;

/// Runs the load generator, which fails if a delivery was wrong. Returns what it prints.
fn load(arguments: &str) -> Value {
    let output = Command::new(binaries::path("load"))
        .args(arguments.split(' '))
        .output()
        .expect("it starts");
    let (line, error) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments}: {error}");
    serde_json::from_slice(line).unwrap_or_else(|bad| panic!("{arguments}: {bad}: {error}"))
}

fn figure(line: &Value, of: &str, name: &str) -> f64 {
    let figure = &line[of][name];
    figure
        .as_f64()
        .unwrap_or_else(|| panic!("no {name} in {line}"))
}

#[test]
fn every_mode_of_the_load_generator_measures_and_finds_nothing_wrong() {
    let people = "--clients 40 --rooms 4 --seconds 0.3";
    let fan_out = format!("fan-out {people} --senders 2 --up standalone");
    for protocol in ["pomelo", "json"] {
        let line = load(&format!("{fan_out} --protocol {protocol}"));
        for of in ["floor", "system", "ratio"] {
            assert!(figure(&line, of, "deliveries_per_second") > 0.0, "{line}");
        }
        assert!(figure(&line, "system", "cpu_us_each_standalone") > 0.0);
    }
    let offered = "--offered 2000 --up standalone --no-floor";
    let line = load(&format!("latency {people} --churn 20 {offered}"));
    assert!(figure(&line, "system", "p99_ms") >= figure(&line, "system", "p50_ms"));
    let line = load(&format!("storm {people} --up redis --no-floor"));
    assert!(figure(&line, "system", "logins_per_second") > 0.0);
    let line = load(&format!("idle {people} --up redis --no-floor"));
    // It may be 0, because the processes may have enough free memory for so few connections.
    let _ = figure(&line, "system", "bytes_per_connection");
    assert!(figure(&line, "system", "redis_commands_per_second") > 0.0);
    let line = load(&format!("slow {people} {offered}"));
    assert!(figure(&line, "system", "p99_ms_alone") > 0.0);
}

/// It fails if a client that comes back misses a message or gets one twice, or if anybody sees it leave or join: also
/// when the grace of its old session ends.
#[test]
fn clients_that_are_all_cut_off_come_back_to_their_places_and_miss_nothing() {
    let people = "--clients 60 --rooms 6 --others 10 --stay 4 --flag=--grace=3s";
    for protocol in ["pomelo", "json"] {
        let line = load(&format!(
            "reconnect {people} --up redis --protocol {protocol}"
        ));
        for name in ["resumed", "places_kept"] {
            assert_eq!(figure(&line, "system", name), 60.0, "{line}");
        }
        for name in ["resumes_per_login", "replayed", "p99_ms_others"] {
            assert!(figure(&line, "system", name) > 0.0, "{line}");
        }
    }
}
