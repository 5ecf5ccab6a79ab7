//! What a session may do in a channel.

use std::fmt;

/// One thing that a session may do in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Join it, and stay in it.
    Join,
    /// Send and publish.
    Send,
    /// Read its log.
    History,
    /// List its members.
    Members,
}

impl Right {
    /// All rights.
    pub const ALL: [Self; 4] = [Self::Join, Self::Send, Self::History, Self::Members];

    /// The right of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|right| right.name() == name)
    }

    /// Its name in settings, tokens and refusals.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Send => "send",
            Self::History => "history",
            Self::Members => "members",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Join => 1,
            Self::Send => 2,
            Self::History => 4,
            Self::Members => 8,
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of rights in one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// No right.
    pub const NONE: Self = Self(0);
    /// All rights.
    pub const ALL: Self = Self(15);
    /// Not a right: the hook is asked about each message.
    const ASKED: u8 = 16;

    /// These rights, and one more.
    #[must_use]
    pub const fn with(self, right: Right) -> Self {
        Self(self.0 | right.bit())
    }

    /// True if this right is among them.
    #[must_use]
    pub const fn has(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// The rights that are in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The rights that are in one of the two sets.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These rights without those of the other set.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The same rights, and the hook is asked about each message.
    pub(super) const fn asking(self) -> Self {
        Self(self.0 | Self::ASKED)
    }

    /// True if the hook is asked about each message.
    pub(crate) const fn asks(self) -> bool {
        self.0 & Self::ASKED != 0
    }
}
