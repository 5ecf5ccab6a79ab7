//! Everything that is refused at a locked door, in one table for each kind of door. Each row has what a stranger tries and the answer to
//! it, and next to it the same by somebody who has the right.

mod back_ends;
mod bytes;
mod clients;
mod sessions;
pub(crate) mod system;
pub(crate) mod tokens;

use serde_json::Value;

/// What a row found: its name, and what is wrong with it. Empty if it went as expected.
#[derive(Default)]
struct Findings {
    rows: usize,
    wrong: Vec<String>,
}

impl Findings {
    /// One row: what came of the attempt that is to be refused, and of the one that is to be let in.
    fn row(&mut self, name: &str, refused: Result<(), String>, allowed: Result<(), String>) {
        self.rows += 1;
        let wrong = [("is not refused", refused), ("is not let in", allowed)];
        for (what, result) in wrong {
            if let Err(error) = result {
                self.wrong.push(format!("{name}: {what}: {error}"));
            }
        }
    }

    fn check(self, at_least: usize) {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
        assert!(self.rows >= at_least, "only {} rows", self.rows);
        println!("{} rows", self.rows);
    }
}

/// That an answer has this code, and that reason if it is one that names reasons.
fn has(answer: &Value, code: u64, reason: &str) -> Result<(), String> {
    let says = answer["reason"].as_str();
    if answer["code"] == code && says.is_none_or(|it| it == reason) {
        Ok(())
    } else {
        Err(format!("{answer}, not {code} {reason}"))
    }
}

/// That an answer is a refusal for this reason, if it names one.
fn is_refused(answer: &Value, reason: &str) -> Result<(), String> {
    match answer["code"].as_u64() {
        Some(code) if code != 0 && code != 200 => has(answer, code, reason),
        _ => Err(answer.to_string()),
    }
}

/// That an answer is an ok.
fn is_ok(answer: &Value) -> Result<(), String> {
    if answer["code"] == 0 || answer["code"] == 200 {
        Ok(())
    } else {
        Err(answer.to_string())
    }
}
