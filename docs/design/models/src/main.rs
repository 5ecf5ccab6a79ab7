//! Runs the searches, and prints a line for each. See `README.md` for the options.

use model::{Scenario, Size, scenarios};
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let (mut with_traces, mut sizes, mut limit) = (false, vec![Size::Small], 60_000_000);
    let mut filter = String::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--trace" => with_traces = true,
            "--large" => sizes = vec![Size::Large],
            "--all" => sizes = vec![Size::Small, Size::Large],
            "--limit" => match arguments.next().and_then(|number| number.parse().ok()) {
                Some(number) => limit = number,
                None => {
                    eprintln!("--limit wants a number of states");
                    return ExitCode::from(64);
                }
            },
            _ => filter = argument,
        }
    }
    println!(
        "{:<62} {:>10} {:>11} {:>5} {:>7} {:>6}  outcome  [bounds]",
        "scenario", "states", "steps", "depth", "rest", "s"
    );
    let (mut count, mut states, mut unexpected) = (0, 0, 0);
    let chosen = scenarios().into_iter();
    for scenario in chosen.filter(|it| sizes.contains(&it.size) && it.name.contains(&filter)) {
        count += 1;
        let (explored, is_expected) = run(&scenario, limit, with_traces);
        states += if scenario.holds { explored } else { 0 };
        unexpected += usize::from(!is_expected);
    }
    println!("{count} scenarios, {states} states under the right rules, {unexpected} unexpected");
    if unexpected > 0 {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(scenario: &Scenario, limit: usize, with_traces: bool) -> (usize, bool) {
    let began = Instant::now();
    let report = scenario.search(limit);
    let is_expected = scenario.expects(&report);
    let outcome = match (&report.violation, report.complete) {
        (Some(violation), _) => format!("FAILS: {}", violation.what),
        (None, true) => "holds".to_owned(),
        (None, false) => "no violation up to the limit".to_owned(),
    };
    let mark = if is_expected { "" } else { "  <-- UNEXPECTED" };
    println!(
        "{:<62} {:>10} {:>11} {:>5} {:>7} {:>6.1}  {outcome}  [{}]{mark}",
        scenario.name,
        report.states,
        report.steps,
        report.depth,
        report.at_rest,
        began.elapsed().as_secs_f32(),
        scenario.bounds
    );
    if let Some(violation) = report.violation.filter(|_| with_traces || !is_expected) {
        for line in violation.trace {
            println!("      {line}");
        }
    }
    (report.states, is_expected)
}
