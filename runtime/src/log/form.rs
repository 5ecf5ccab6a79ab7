//! The two forms of a line.

/// What the escapes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `\u{202e}`, as in Rust.
    Text {
        /// The log's own colours stay.
        colours: bool,
    },
    /// `\u202e`, as in JSON, where such characters stand only within strings.
    Json,
}
