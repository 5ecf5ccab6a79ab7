//! Command lines: what is wrong with one is said in one line.

use clap::Parser;
use clap::error::{Error, ErrorKind};
use std::process;
use std::time::Duration;

/// The exit code of a command line that can't be understood (`EX_USAGE` of sysexits).
pub const USAGE: i32 = 64;

/// Reads the arguments and, where the service declares it, the environment.
///
/// A wrong one ends the process with [`USAGE`] and one line on stderr; `--help` and `--version` print and end it too.
#[must_use]
pub fn parse<T: Parser>() -> T {
    T::try_parse().unwrap_or_else(|error| {
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            error.exit();
        }
        eprintln!("{}: {}", T::command().get_name(), one_line(&error));
        process::exit(USAGE);
    })
}

/// Clap's first paragraph says what is wrong; usage and tips follow after a blank line.
fn one_line(error: &Error) -> String {
    let text = error.render().to_string();
    let paragraph: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let line = paragraph.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line} (try --help)")
}

/// Reads a time such as `500ms`, `10s`, `5m` or `24h`; for clap's `value_parser`.
///
/// # Errors
/// One line that shows what was expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let milliseconds = match &text[number.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(milliseconds))
        .filter(|&total| total > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a time such as 500ms, 10s, 5m or 24h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Arguments {
        #[arg(long)]
        port: u16,
    }

    fn complaint(arguments: &[&str]) -> String {
        one_line(&Arguments::try_parse_from(arguments).unwrap_err())
    }

    #[test]
    fn a_wrong_argument_is_one_line_that_names_it() {
        let line = complaint(&["service", "--port", "http"]);
        assert!(
            line.starts_with("invalid value 'http' for '--port <PORT>'"),
            "{line}"
        );
        assert!(line.ends_with("(try --help)"), "{line}");
        assert!(!line.contains('\n'));
    }

    #[test]
    fn a_missing_argument_is_one_line_that_names_it() {
        let line = complaint(&["service"]);
        assert!(line.contains("--port <PORT>"), "{line}");
        assert!(!line.contains('\n'));
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        for wrong in [
            "",
            "5",
            "s",
            "0s",
            "-1s",
            "1.5s",
            "5 s",
            "5哈",
            "18446744073709551615h",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
