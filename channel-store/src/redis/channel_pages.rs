//! A page of a list of channels: some steps through the parts of the directory.
//!
//! The parts come one after the other, and within a part the channels come in the order of their names. A channel is in one
//! part for ever. So a channel that is there the whole time is met exactly once. What is met is shown only if the channel
//! itself exists, and is taken out of the directory if the store knows nothing of it.

use super::directory::{Directory, Entry, PartPage};
use super::summaries::{Seen, Summaries};
use crate::directory::{ChannelsPage, DIRECTORY_PARTS};
use crate::error::StoreError;

/// The most steps for one page. If nothing is found, they are enough for all parts.
const STEPS: usize = 8;
/// The most parts that one step reads at once.
const PARTS_AT_ONCE: usize = 16;
/// A part is asked for so many channels at least.
const FEWEST: usize = 16;

/// Where a page begins: in this part, after this name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Start {
    part: usize,
    after: Option<String>,
}

impl Start {
    fn parse(token: &str) -> Option<Self> {
        let (part, after) = match token.split_once(':') {
            Some((part, after)) => (part, Some(after.to_owned())),
            None => (token, None),
        };
        let part = part.parse().ok().filter(|it| *it < DIRECTORY_PARTS)?;
        Some(Self { part, after })
    }

    fn token(&self) -> String {
        match &self.after {
            Some(after) => format!("{}:{after}", self.part),
            None => self.part.to_string(),
        }
    }
}

/// Reads one page.
pub(super) async fn channels_page(
    directory: &Directory,
    summaries: &Summaries<'_>,
    prefix: &str,
    token: Option<&str>,
    limit: usize,
) -> Result<ChannelsPage, StoreError> {
    let limit = limit.max(1);
    let mut start = match token {
        Some(token) => Start::parse(token).ok_or(StoreError::BadPageToken)?,
        None => Start::default(),
    };
    // A token is only a text, and a place before the prefix would show names that do not begin with it.
    if start
        .after
        .as_ref()
        .is_some_and(|it| !it.starts_with(prefix))
    {
        return Err(StoreError::BadPageToken);
    }
    let (mut found, mut ended) = (Vec::new(), Vec::new());
    let mut parts_at_once = 1;
    for _ in 0..STEPS {
        let last = (start.part + parts_at_once).min(DIRECTORY_PARTS);
        let parts: Vec<usize> = (start.part..last).collect();
        let wanted = limit - found.len();
        let of_each = wanted.div_ceil(parts.len()).max(FEWEST).min(wanted);
        let after = start.after.as_deref();
        let pages = directory.read(&parts, prefix, after, of_each).await?;
        let met = cut(pages, wanted, &mut start);
        let names: Vec<_> = met.iter().map(|(channel, _)| channel.clone()).collect();
        for (entry, seen) in met.into_iter().zip(summaries.of(&names).await?) {
            match seen {
                Seen::Exists(summary) => found.push((entry.0, summary)),
                Seen::Deleted => {}
                Seen::Nothing => ended.push(entry),
            }
        }
        if start.part == last {
            // Nothing more is in these parts. If a part holds few of the channels, so do the others.
            parts_at_once = (2 * parts_at_once).min(PARTS_AT_ONCE);
        }
        if found.len() == limit || start.part == DIRECTORY_PARTS {
            break;
        }
    }
    if !ended.is_empty()
        && let Err(error) = directory.forget(&ended).await
    {
        tracing::debug!(%error, "channels that have ended stay in the directory for now");
    }
    Ok(ChannelsPage {
        channels: found,
        next: (start.part < DIRECTORY_PARTS).then(|| start.token()),
    })
}

/// The first `wanted` channels of these parts, which begin at `start`. Moves `start` to where the next step begins.
fn cut(pages: Vec<PartPage>, wanted: usize, start: &mut Start) -> Vec<Entry> {
    let mut met: Vec<Entry> = Vec::new();
    for PartPage { mut entries, next } in pages {
        let room = wanted - met.len();
        if entries.len() > room {
            entries.truncate(room);
            if let Some((last, _)) = entries.last() {
                start.after = Some(last.as_str().to_owned());
            }
            met.append(&mut entries);
            return met;
        }
        met.append(&mut entries);
        if next.is_some() {
            start.after = next;
            return met;
        }
        *start = Start {
            part: start.part + 1,
            after: None,
        };
    }
    met
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ChannelName;

    fn page(names: &[&str], next: Option<&str>) -> PartPage {
        let entry = |name: &&str| (ChannelName::new(*name).unwrap(), "1".to_owned());
        PartPage {
            entries: names.iter().map(entry).collect(),
            next: next.map(str::to_owned),
        }
    }

    fn at(part: usize, after: Option<&str>) -> Start {
        let after = after.map(str::to_owned);
        Start { part, after }
    }

    #[test]
    fn a_step_goes_on_where_the_one_before_has_stopped() {
        let pages = || {
            vec![
                page(&["a", "b"], None),
                page(&[], None),
                page(&["c", "d"], Some("d")),
            ]
        };
        for (wanted, met, next) in [
            (1, 1, at(5, Some("a"))),
            (2, 2, at(7, None)),
            (3, 3, at(7, Some("c"))),
            (4, 4, at(7, Some("d"))),
            (9, 4, at(7, Some("d"))),
        ] {
            let mut start = at(5, Some("0"));
            let entries = cut(pages(), wanted, &mut start);
            // Nothing is taken of the third part, but its first name is not passed over.
            let next = if wanted == 2 { at(7, None) } else { next };
            assert_eq!((entries.len(), start), (met, next), "{wanted}");
        }
        let mut start = at(5, None);
        assert_eq!(cut(vec![page(&["a"], None)], 9, &mut start).len(), 1);
        assert_eq!(start, at(6, None));
    }

    #[test]
    fn a_token_names_the_place_and_no_other_text_does() {
        for start in [at(0, None), at(63, Some("a:b")), at(7, Some(""))] {
            assert_eq!(Start::parse(&start.token()), Some(start));
        }
        for wrong in ["", "64", "x", "-1:a", ":a"] {
            assert_eq!(Start::parse(wrong), None, "{wrong}");
        }
    }
}
