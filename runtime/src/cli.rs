//! Command lines. A mistake in one is reported in one line.

use clap::error::{Error, ErrorKind};
use clap::{Command, Parser};
use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::process::{self, ExitCode};
use std::time::Duration;

/// The exit code of a command line that can't be understood (`EX_USAGE` of sysexits).
pub const USAGE: u8 = 64;

/// A command line whose help has headings: first what everybody needs, then the rest by topic.
pub trait Grouped: Parser {
    /// The arguments that come first, by their names in the code.
    const FIRST: &'static [&'static str];
    /// Headings, and the arguments below each. All others come below "More".
    const GROUPS: &'static [(&'static str, &'static [&'static str])];

    /// The command line with its headings.
    #[must_use]
    fn grouped() -> Command {
        Self::command().mut_args(|argument| {
            let id = argument.get_id().as_str();
            if Self::FIRST.contains(&id) {
                return argument.help_heading(None::<&str>);
            }
            let group = Self::GROUPS.iter().find(|(_, ids)| ids.contains(&id));
            argument.help_heading(group.map_or(MORE, |(heading, _)| heading))
        })
    }
}

/// The heading for arguments in no group.
const MORE: &str = "More";

/// Reads the arguments of a command beside the service itself. The first one is the name of the command.
///
/// A mistake ends the process with [`USAGE`] and one line on stderr. `--help` and `--version` print and end the process, too.
#[must_use]
pub fn parse_from<T: Parser>(arguments: impl IntoIterator<Item = OsString>) -> T {
    T::try_parse_from(arguments).unwrap_or_else(|error| {
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                | ErrorKind::DisplayVersion
        ) {
            error.exit();
        }
        let name = T::command().get_name().to_owned();
        eprintln!("{name}: {} (try --help)", one_line(&error));
        process::exit(USAGE.into());
    })
}

/// For arguments that turn out to be wrong after [`parse_from`]. Writes the reason to stderr, in one line, and returns the
/// exit code for `main`.
#[must_use]
pub fn refuse<T: Parser>(reason: impl Display) -> ExitCode {
    let reason = redact(&reason.to_string());
    eprintln!("{}: {reason} (try --help)", T::command().get_name());
    ExitCode::from(USAGE)
}

/// Keeps the first sentence of each argument's help, and leaves out the environment.
pub(crate) fn brief(command: Command) -> Command {
    let command = command.term_width(0);
    command.mut_args(|argument| {
        let help = argument.get_help().map(ToString::to_string);
        let argument = argument.hide_env(true).hide_possible_values(true);
        match help {
            Some(help) => argument.help(first_sentence(&help).to_owned()),
            None => argument,
        }
    })
}

fn first_sentence(help: &str) -> &str {
    let end = [". ", "; ", ": ", "\n"]
        .iter()
        .filter_map(|end| help.find(end));
    help[..end.min().unwrap_or(help.len())].trim_end_matches('.')
}

/// Hides users and passwords: in each URL of the text, everything before the `@`.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        // A password may hold a slash or a comma by mistake, so the URL ends only at a blank or a quote.
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`'));
        let (url, following) = after.split_at(end.unwrap_or(after.len()));
        match url.rsplit_once('@') {
            Some((_, host)) => {
                shown.push_str("***@");
                shown.push_str(host);
            }
            None => shown.push_str(url),
        }
        rest = following;
    }
    shown + rest
}

/// Keeps clap's first paragraph, which says what is wrong. Usage and tips follow after a blank line.
pub(crate) fn one_line(error: &Error) -> String {
    let text = error.render().to_string();
    let paragraph: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let line = paragraph.join(" ");
    plain(&redact(line.strip_prefix("error: ").unwrap_or(&line)))
}

/// What Rust says about a number that can't be read, in other words.
pub(crate) fn plain(text: &str) -> String {
    let words = [
        ("invalid digit found in string", "expected a whole number"),
        (
            "cannot parse integer from empty string",
            "expected a whole number",
        ),
        (
            "number too large to fit in target type",
            "the number is too large",
        ),
        (
            "number too small to fit in target type",
            "the number is too small",
        ),
    ];
    words.iter().fold(text.to_owned(), |text, (rust, plain)| {
        text.replace(rust, plain)
    })
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

/// Reads a share of a whole, above 0 and at most 1, such as `0.5`; for clap's `value_parser`.
///
/// # Errors
/// One line that shows what was expected.
pub fn share(text: &str) -> Result<f64, String> {
    let share = text
        .parse::<f64>()
        .ok()
        .filter(|it| *it > 0.0 && *it <= 1.0);
    share.ok_or_else(|| "expected a share above 0 and at most 1, such as 0.5".to_owned())
}

/// Reads an origin as browsers write it: a scheme, a host and perhaps a port; or `*`. For clap's `value_parser`.
///
/// # Errors
/// One line that shows what was expected.
pub fn origin(text: &str) -> Result<String, String> {
    let wrong = "expected an origin as browsers write it, such as https://admin.example.org or http://127.0.0.1:8080, or *";
    let is_right = text == "*"
        || text.split_once("://").is_some_and(|(scheme, rest)| {
            let scheme_is_right = scheme.bytes().all(|it| it.is_ascii_lowercase());
            let allowed =
                |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || b"-._:[]".contains(&it);
            !scheme.is_empty() && scheme_is_right && !rest.is_empty() && rest.bytes().all(allowed)
        });
    if is_right {
        Ok(text.to_owned())
    } else {
        Err(wrong.to_owned())
    }
}

/// Reads a whole number within bounds; for clap's `value_parser`.
///
/// The parser fails with one line that shows what was expected.
pub fn number<T: TryFrom<u64>>(
    allowed: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse::<u64>().ok();
        let number = number.filter(|it| allowed.contains(it));
        number
            .and_then(|it| T::try_from(it).ok())
            .ok_or_else(|| format!("expected {} to {}", allowed.start(), allowed.end()))
    }
}

/// Reads the beginning of all keys in Redis; for clap's `value_parser`. It goes into keys as it is, so it must not look like a hash tag
/// or a pattern.
///
/// # Errors
/// One line that shows what was expected.
pub fn prefix(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=64).contains(&text.len()) && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 64 letters, digits, dots, underscores or hyphens".to_owned())
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Reads a number of bytes within bounds, such as `1048576`, `512KiB`, `1MiB` or `2GiB`; for clap's `value_parser`.
///
/// The parser fails with one line that shows what was expected.
pub fn bytes<T: TryFrom<u64>>(
    allowed: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "" | "B" => Some(1),
            "KiB" => Some(KIB),
            "MiB" => Some(MIB),
            "GiB" => Some(GIB),
            _ => None,
        };
        let number = digits.parse::<u64>().ok();
        let bytes = number
            .zip(unit)
            .and_then(|(number, unit)| number.checked_mul(unit));
        let Some(bytes) = bytes else {
            return Err(
                "expected a number of bytes, such as 1048576, 512KiB, 1MiB or 2GiB".to_owned(),
            );
        };
        let fits = Some(bytes).filter(|bytes| allowed.contains(bytes));
        fits.and_then(|bytes| T::try_from(bytes).ok())
            .ok_or_else(|| {
                let (least, most) = (size(*allowed.start()), size(*allowed.end()));
                format!("expected {least} to {most}")
            })
    }
}

/// A number of bytes as [`bytes`] reads it, with the largest unit that is exact.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
    let exact = units
        .into_iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    exact.map_or_else(
        || bytes.to_string(),
        |(unit, name)| format!("{}{name}", bytes / unit),
    )
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
        assert!(!line.contains('\n'));
    }

    #[test]
    fn a_missing_argument_is_one_line_that_names_it() {
        let line = complaint(&["service"]);
        assert!(line.contains("--port <PORT>"), "{line}");
        assert!(!line.contains('\n'));
    }

    /// Looks after things.
    #[derive(Debug, Parser)]
    struct Service {
        /// Where it listens. Port 0: any free one
        #[arg(long, env = "SERVICE_LISTEN", default_value = "127.0.0.1:1")]
        listen: String,
        /// How much; more is slower
        #[arg(long, default_value_t = 5)]
        much: u32,
        /// A new one
        #[arg(long)]
        new: bool,
    }

    impl Grouped for Service {
        const FIRST: &'static [&'static str] = &["listen"];
        const GROUPS: &'static [(&'static str, &'static [&'static str])] = &[("Limits", &["much"])];
    }

    #[test]
    fn help_is_grouped_and_its_short_form_has_one_line_for_each_argument() {
        let long = Service::grouped().render_long_help().to_string();
        let place = |text: &str| {
            long.find(text)
                .unwrap_or_else(|| panic!("no {text} in {long}"))
        };
        assert!(place("--listen") < place("Limits:"));
        assert!(place("Limits:") < place("--much"));
        assert!(place("--much") < place("More:"));
        assert!(place("More:") < place("--new"));

        let short = brief(Service::grouped()).render_help().to_string();
        let line = short.lines().find(|line| line.contains("--listen"));
        let line = line.expect("the help has this line");
        assert!(
            line.ends_with("Where it listens [default: 127.0.0.1:1]"),
            "{short}"
        );
        assert!(short.contains("How much [default: 5]"), "{short}");
        assert!(!short.contains("SERVICE_LISTEN"), "{short}");
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

    #[test]
    fn a_prefix_cannot_change_the_meaning_of_a_key() {
        for wrong in ["", "{a}", "a:b", "a*", "哈"] {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
        assert_eq!(prefix("gc-2.test_a"), Ok("gc-2.test_a".to_owned()));
    }

    #[test]
    fn a_number_has_bounds() {
        let read = number::<u16>(1..=100_000);
        assert_eq!(read("1"), Ok(1));
        assert_eq!(read("65535"), Ok(65_535));
        for wrong in ["", "0", "-1", "1.5", "1 ", "65536", "100001", "x"] {
            assert_eq!(read(wrong).unwrap_err(), "expected 1 to 100000", "{wrong}");
        }
    }

    #[test]
    fn a_number_that_is_none_is_refused_in_plain_words() {
        for number in ["http", "", "5x"] {
            let line = complaint(&["service", "--port", number]);
            assert!(line.ends_with(": expected a whole number"), "{line}");
        }
        assert_eq!(
            plain("number too large to fit in target type"),
            "the number is too large"
        );
    }

    #[test]
    fn a_size_has_a_unit_or_is_in_bytes() {
        let read = bytes::<u32>(64..=16 * MIB);
        for (text, expected) in [
            ("64", 64),
            ("64B", 64),
            ("512KiB", 512 << 10),
            ("16MiB", 16 << 20),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        for wrong in [
            "",
            "KiB",
            "1GB",
            "1 MiB",
            "1.5MiB",
            "-1",
            "1mib",
            "99999999999999999999",
            "哈",
        ] {
            let error = read(wrong).unwrap_err();
            assert!(
                error.contains("such as 1048576, 512KiB"),
                "{wrong}: {error}"
            );
        }
        for wrong in ["63", "17MiB", "17179869183GiB"] {
            assert_eq!(read(wrong).unwrap_err(), "expected 64 to 16MiB", "{wrong}");
        }
        assert!(read("18446744073709551615GiB").is_err());
        assert_eq!(size(128 << 10), "128KiB");
        assert_eq!(size(1_000), "1000");
    }

    #[test]
    fn passwords_in_urls_are_never_shown() {
        for (text, shown) in [
            ("redis://u:p@h:1/2", "redis://***@h:1/2"),
            ("redis://:p/w@h", "redis://***@h"),
            (
                "invalid 'http://a@b' and \"x://c:d@e,x://f:g@h\"",
                "invalid 'http://***@b' and \"x://***@h\"",
            ),
            ("http://127.0.0.1:4001", "http://127.0.0.1:4001"),
            ("mail me@here", "mail me@here"),
        ] {
            assert_eq!(redact(text), shown);
        }
        let line = complaint(&["service", "redis://:secret@host"]);
        assert!(!line.contains("secret"), "{line}");
    }
}
