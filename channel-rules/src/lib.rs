//! The rules of channels: the table `[[channel]]` of the settings. Connectors and chats read the same text, and each uses its own
//! keys.
//!
//! Connectors use who may do what, and `recover`; chats use what a log keeps. The first rule whose pattern matches a channel
//! holds, in both. [`RulesHash`] lets them see whether they have the same rules.

mod fields;
mod hash;
mod row;
mod table;

pub use hash::RulesHash;
pub use row::{ChannelRule, Recover, Who};
pub use table::{check, warnings};

use serde::Deserialize;

/// The table, as a part of a configuration file.
#[derive(Debug, Default, Deserialize)]
pub struct ChannelTable {
    /// The rules, in order.
    #[serde(default)]
    pub channel: Vec<ChannelRule>,
}

impl ChannelTable {
    /// The name of the table.
    pub const NAME: &'static str = "channel";
    /// An example of it, in comments.
    pub const EXAMPLE: &'static str = r#"
# --- Rules of channels, the same for connectors and chats; the first that matches holds (docs/access.md) ---

#[[channel]]
#match = "inbox:{user}"

#[[channel]]
#match = "inbox:*"
#join = "nobody"

#[[channel]]
#match = "game:*"
#entries = 50
#keep = "10s"
#life = "1h"
"#;
}
