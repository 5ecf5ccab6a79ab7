//! Lists of channels.

use super::channel::Channel;
use super::shared::State;
use crate::directory::ChannelsPage;
use crate::name::ChannelName;
use std::ops::Bound;

/// Every page token begins with this.
const TOKEN: &str = "after:";
/// The most channels that one page looks at for each one that was asked for, because some are not to be shown.
const LOOKS: usize = 4;

/// How many names to look at for a page.
pub(super) fn most_looks(limit: usize) -> usize {
    LOOKS.saturating_mul(limit.max(1))
}

impl State {
    /// Names that begin with a prefix, in their order, from a page token on. `None` if the token is not one of this store's.
    pub(super) fn names_from(
        &self,
        prefix: &str,
        token: Option<&str>,
        most: usize,
    ) -> Option<Vec<ChannelName>> {
        let after = match token {
            None => None,
            Some(token) => Some(token.strip_prefix(TOKEN)?),
        };
        Some(self.names_after(prefix, after, most))
    }

    /// Names that begin with a prefix, in their order: all, or those after a name.
    pub(super) fn names_after(
        &self,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Vec<ChannelName> {
        let begin = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let names = self.names.range::<str, _>((begin, Bound::Unbounded));
        let names = names.take_while(|name| name.as_str().starts_with(prefix));
        names.take(most).cloned().collect()
    }

    /// A page of the channels with these names: all that were found, or as many as a page looks at.
    pub(super) fn channels_page(&mut self, names: &[ChannelName], limit: usize) -> ChannelsPage {
        let mut channels = Vec::new();
        let mut looked = 0;
        for name in names {
            if channels.len() == limit.max(1) {
                break;
            }
            looked += 1;
            let summary = self.in_known(name, Channel::summary).flatten();
            channels.extend(summary.map(|summary| (name.clone(), summary)));
        }
        let may_go_on = looked < names.len() || looked == most_looks(limit);
        let last = names[..looked].last().filter(|_| may_go_on);
        ChannelsPage {
            channels,
            next: last.map(|last| format!("{TOKEN}{last}")),
        }
    }
}
