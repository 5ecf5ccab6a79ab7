//! The fields of a line of text: `key=value`, so that a reader sees where each value ends.
//!
//! Values may come from outside. If one with a blank or a quote stood there as it is, it could look like several fields.

use std::fmt::{self, Debug};
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// Writes the fields of an event.
pub(crate) fn fields() -> impl for<'a> FormatFields<'a> + Send + Sync + 'static {
    debug_fn(write_field).delimited(" ")
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    match field.name() {
        "message" => write!(writer, "{value:?}"),
        name => {
            let name = name.strip_prefix("r#").unwrap_or(name);
            if writer.has_ansi_escapes() {
                write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?;
            } else {
                write!(writer, "{name}=")?;
            }
            writer.write_str(&shown(format!("{value:?}")))
        }
    }
}

/// A value as it stands in a line: as it is, or in quotes, with a backslash before what would end it.
pub(crate) fn shown(text: String) -> String {
    if is_plain(&text) || is_quoted(&text) {
        text
    } else {
        format!("{text:?}")
    }
}

/// True if nobody can take it for more than one value.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|it| !it.is_whitespace() && !it.is_control() && !matches!(it, '"' | '\\' | '='))
}

/// True if it is in quotes already, as texts of the code are.
fn is_quoted(text: &str) -> bool {
    let inner = text.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    let Some(inner) = inner else { return false };
    let mut is_escaped = false;
    for c in inner.chars() {
        if !is_escaped && c == '"' || c.is_control() {
            return false;
        }
        is_escaped = !is_escaped && c == '\\';
    }
    !is_escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::io;
    use std::sync::Arc;
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written of the events that `log` logs, without time and target.
    fn written(log: impl FnOnce()) -> String {
        let written = Written::default();
        let copy = written.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || copy.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .fmt_fields(fields());
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, log);
        let bytes = written.0.lock();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    #[test]
    fn a_value_with_quotes_or_blanks_is_one_value() {
        let from_outside = r#"a" level="ERROR b=c\"#;
        let line = written(|| {
            tracing::info!(
                text = from_outside,
                shown = %from_outside,
                list = ?["a", "b c"],
                plain = %"a:b-1,2",
                name = "lin",
                number = 7,
                empty = %"",
                "joined \"{}\"",
                4
            );
        });
        let quoted = r#""a\" level=\"ERROR b=c\\""#;
        assert_eq!(
            line,
            format!(
                r#"INFO joined "4" text={quoted} shown={quoted} list="[\"a\", \"b c\"]" plain=a:b-1,2 name="lin" number=7 empty="""#
            )
        );
    }

    #[test]
    fn only_a_whole_text_in_quotes_is_taken_as_it_is() {
        for whole in [r#""""#, r#""a b""#, r#""a \" b""#, r#""a\\""#] {
            assert_eq!(shown(whole.to_owned()), whole);
        }
        for (part, quoted) in [
            (r#"""#, r#""\"""#),
            (r#""a" b="c""#, r#""\"a\" b=\"c\"""#),
            (r#""a\""#, r#""\"a\\\"""#),
            ("\"a\nb\"", r#""\"a\nb\"""#),
        ] {
            assert_eq!(shown(part.to_owned()), quoted);
        }
    }
}
