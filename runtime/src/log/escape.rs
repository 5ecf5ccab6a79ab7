//! Characters that change how a line is shown, or begin another one, are written as escapes.
//!
//! Names of users and channels come from outside. One with a line break would fake a line, one with a control sequence
//! would recolour a terminal, and one with a bidirectional override would show other text than is there.

use super::about::add_to;
use super::form::Form;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Writes whole lines: each call of `write` holds one event, as `tracing_subscriber::fmt` makes them.
pub(crate) struct Escaping<W> {
    inner: W,
    form: Form,
}

impl<W> Escaping<W> {
    pub(crate) fn new(inner: W, form: Form) -> Self {
        Self { inner, form }
    }
}

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = event.strip_suffix(b"\n").unwrap_or(event);
        let text = String::from_utf8_lossy(line);
        let mut escaped = escape(&text, self.form).into_owned();
        add_to(&mut escaped, self.form);
        if line.len() < event.len() {
            escaped.push('\n');
        }
        self.inner.write_all(escaped.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn escape(text: &str, form: Form) -> Cow<'_, str> {
    if !text.chars().any(|c| must_be_escaped(c, form)) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match form {
            _ if !must_be_escaped(c, form) => escaped.push(c),
            Form::Text { .. } if matches!(c, '\n' | '\r' | '\t') => {
                escaped.extend(c.escape_default());
            }
            Form::Text { .. } => escaped.extend(c.escape_unicode()),
            Form::Json => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String does not fail.
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
        }
    }
    Cow::Owned(escaped)
}

fn must_be_escaped(c: char, form: Form) -> bool {
    if c.is_ascii() {
        let is_colour = c == '\u{1b}' && form == (Form::Text { colours: true });
        return c.is_ascii_control() && !is_colour;
    }
    matches!(
        c.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Form = Form::Text { colours: false };

    fn written(event: &str, form: Form) -> String {
        let mut bytes = Vec::new();
        Escaping::new(&mut bytes, form)
            .write_all(event.as_bytes())
            .unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_event_is_one_line_whatever_it_contains() {
        let event = "joined user=a\n2026 ERROR forged\r\u{85}\u{2028}\n";
        let line = "joined user=a\\n2026 ERROR forged\\r\\u{85}\\u{2028}\n";
        assert_eq!(written(event, PLAIN), line);
    }

    #[test]
    fn invisible_and_bidirectional_characters_are_escaped() {
        assert_eq!(
            written("a\u{200b}b\u{202e}c\u{1b}[31m哈é\n", PLAIN),
            "a\\u{200b}b\\u{202e}c\\u{1b}[31m哈é\n"
        );
    }

    #[test]
    fn the_logs_own_colours_are_kept_on_a_terminal() {
        let line = "\u{1b}[32m INFO\u{1b}[0m ready\n";
        assert_eq!(written(line, Form::Text { colours: true }), line);
    }

    #[test]
    fn a_line_of_json_is_not_changed() {
        let value = "a\u{200b}\u{202e}\u{e0041}\u{85}";
        let line = written(&format!("{{\"user\":\"{value}\"}}\n"), Form::Json);
        let expected = "{\"user\":\"a\\u200b\\u202e\\udb40\\udc41\\u0085\"}\n";
        assert_eq!(line, expected);
    }
}
