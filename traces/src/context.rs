//! Where a span stands: its trace and its own number, as other processes are told.

/// A span of a trace that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    pub(crate) trace: u128,
    pub(crate) span: u64,
}

/// What a caller says about the trace that its request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// The caller's span.
    pub context: TraceContext,
    /// True if the caller keeps this trace.
    pub is_sampled: bool,
}

impl TraceContext {
    /// A span of a trace that begins here.
    pub(crate) fn new() -> Self {
        Self {
            // 0 is no number of a trace, nor of a span.
            trace: fastrand::u128(1..),
            span: fastrand::u64(1..),
        }
    }

    /// Another span of the same trace.
    pub(crate) fn next(self) -> Self {
        Self {
            span: fastrand::u64(1..),
            ..self
        }
    }

    /// The trace, as OTLP has it.
    #[must_use]
    pub fn trace_id(self) -> [u8; 16] {
        self.trace.to_be_bytes()
    }

    /// The span, as OTLP has it.
    #[must_use]
    pub fn span_id(self) -> [u8; 8] {
        self.span.to_be_bytes()
    }

    /// The trace as people write it: 32 digits.
    #[must_use]
    pub fn trace_text(self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The value of the header `traceparent` (<https://www.w3.org/TR/trace-context/>), which says that this trace is kept.
    #[must_use]
    pub fn traceparent(self) -> String {
        format!("00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

impl Parent {
    /// Reads a `traceparent`. `None`: it is none, and is passed over, as the specification wants it. A later version may have more
    /// fields at the end.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let version = hex(fields.next()?, 2)?;
        let trace = hex(fields.next()?, 32)?;
        let span = hex(fields.next()?, 16)?;
        let flags = hex(fields.next()?, 2)?;
        let is_of_this_form = match version {
            0 => fields.next().is_none(),
            0xff => false,
            _ => true,
        };
        if !is_of_this_form || trace == 0 || span == 0 {
            return None;
        }
        Some(Self {
            context: TraceContext {
                trace,
                span: u64::try_from(span).ok()?,
            },
            is_sampled: flags & 1 == 1,
        })
    }

    /// The caller's span, if the caller keeps its trace.
    #[must_use]
    pub fn sampled(self) -> Option<TraceContext> {
        self.is_sampled.then_some(self.context)
    }
}

/// Reads so many lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |it: u8| it.is_ascii_digit() || (b'a'..=b'f').contains(&it);
    if text.len() != digits || !text.bytes().all(is_digit) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_read_as_it_was_written() {
        let context = TraceContext::new();
        let parent = Parent::parse(&context.traceparent());
        assert_eq!(parent.and_then(Parent::sampled), Some(context));
        let parent = Parent::parse(EXAMPLE).unwrap();
        assert_eq!(parent.context.traceparent(), EXAMPLE);
        assert_eq!(
            parent.context.trace_text(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        assert_eq!(
            parent.context.span_id(),
            [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 2, 0xb7]
        );
    }

    #[test]
    fn a_caller_that_does_not_keep_its_trace_says_so() {
        let parent = Parent::parse(&EXAMPLE.replace("-01", "-00")).unwrap();
        assert!(!parent.is_sampled);
        assert_eq!(parent.sampled(), None);
        // Other flags mean something else.
        let parent = Parent::parse(&EXAMPLE.replace("-01", "-02")).unwrap();
        assert!(!parent.is_sampled);
    }

    #[test]
    fn later_versions_are_read_and_what_is_no_traceparent_is_passed_over() {
        assert!(Parent::parse(&EXAMPLE.replace("00-4", "01-4")).is_some());
        assert!(Parent::parse(&EXAMPLE.replace("00-4", "cc-4").replace("-01", "-01-x")).is_some());
        for wrong in [
            "",
            "-",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Parent::parse(wrong), None, "{wrong}");
        }
    }
}
