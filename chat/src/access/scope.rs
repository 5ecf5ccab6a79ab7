//! What a token may allow.

use std::fmt;

/// A group of calls. `calls.rs` has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// To publish in channels.
    Send,
    /// To read and follow channels, and to see who their members are.
    Read,
    /// To make somebody a member of a channel, and to end that.
    Members,
    /// To see users who are connected, to push to them, and to disconnect them.
    Users,
    /// To see the connectors.
    Nodes,
    /// To do what destroys something: to delete and trim channels, and to drain connectors.
    Admin,
    /// To be a connector.
    Connector,
}

impl Scope {
    pub(crate) const ALL: [Self; 7] = [
        Self::Send,
        Self::Read,
        Self::Members,
        Self::Users,
        Self::Nodes,
        Self::Admin,
        Self::Connector,
    ];

    /// Its name in the file of tokens, and in errors.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Read => "read",
            Self::Members => "members",
            Self::Users => "users",
            Self::Nodes => "nodes",
            Self::Admin => "admin",
            Self::Connector => "connector",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }

    /// All names, for people.
    pub(crate) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
