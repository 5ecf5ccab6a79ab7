//! A page of history: read in short stretches, so that neither the store nor the answer ever holds much at once.

use crate::calls::position;
use crate::error::Error;
use crate::json;
use channel_store::{
    ChannelName, ChannelStore, Continuity, Epoch, HistoryRange, Position, Publication,
};
use proto::v1;
use proto::v1::publication::Content;

/// Publications that are asked of the store at once; it ends an answer early by bytes.
const STRETCH: usize = 256;
/// Bytes of publications after which a page ends. Callers take messages of 4 MiB, unless they say otherwise.
const PAGE_BYTES: usize = 1024 * 1024;
/// The same where bodies come as `Struct`, in which they take several times their bytes.
const STRUCT_PAGE_BYTES: usize = 256 * 1024;
/// The longest id of an epoch that is looked at.
const EPOCH_BYTES: usize = 64;

/// Which page of whose history.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) channel: ChannelName,
    pub(crate) range: HistoryRange,
    pub(crate) size: usize,
    /// 0: as many as there may be.
    pub(crate) bytes: usize,
    pub(crate) body_as_struct: bool,
}

pub(crate) async fn page(
    store: &dyn ChannelStore,
    asked: Asked,
) -> Result<v1::HistoryResponse, Error> {
    let mut range = asked.range;
    let most = if asked.body_as_struct {
        STRUCT_PAGE_BYTES
    } else {
        PAGE_BYTES
    };
    let mut budget = match asked.bytes {
        0 => most,
        bytes => bytes.min(most),
    };
    let mut publications = Vec::new();
    let mut told = None;
    let goes_on = loop {
        let limit = STRETCH.min(asked.size - publications.len());
        let stretch = store.history(&asked.channel, &range, limit).await?;
        let is_exact = stretch.continuity == Continuity::Contiguous;
        if !is_exact && !publications.is_empty() {
            // It has changed in between: the next page begins by saying so.
            break true;
        }
        if !is_exact || told.is_none() {
            told = Some((stretch.continuity, position(&stretch.position)));
        }
        let mut reached_early = false;
        let mut reached = stretch.position;
        for publication in &stretch.entries {
            let bytes = publication.payload.as_bytes().len();
            if bytes > budget && !publications.is_empty() {
                reached_early = true;
                break;
            }
            budget = budget.saturating_sub(bytes);
            reached = publication.position.clone();
            if is_newest_first(&range) {
                reached.offset = reached.offset.saturating_sub(1);
            }
            publications.push(shown(publication, asked.body_as_struct));
        }
        range = after_or_up_to(is_newest_first(&range), reached);
        let is_full = reached_early || budget == 0 || publications.len() == asked.size;
        if is_full || !stretch.more {
            break stretch.more || reached_early;
        }
    };
    let (standing, position) = told.unzip();
    Ok(v1::HistoryResponse {
        publications,
        next_page_token: if goes_on {
            bound(&asked.channel, &token(&range))
        } else {
            String::new()
        },
        standing: standing
            .map_or(v1::Standing::Unspecified, |standing| match standing {
                Continuity::Contiguous => v1::Standing::Exact,
                Continuity::Diverged => v1::Standing::Diverged,
                Continuity::Trimmed => v1::Standing::Trimmed,
                Continuity::Unknown => v1::Standing::Unknown,
            })
            .into(),
        position,
    })
}

fn is_newest_first(range: &HistoryRange) -> bool {
    matches!(range, HistoryRange::Newest | HistoryRange::UpTo(_))
}

fn after_or_up_to(newest_first: bool, position: Position) -> HistoryRange {
    if newest_first {
        HistoryRange::UpTo(position)
    } else {
        HistoryRange::After(position)
    }
}

fn shown(publication: &Publication, body_as_struct: bool) -> v1::Publication {
    let payload = &publication.payload;
    let body = payload.body();
    let as_struct = if body_as_struct {
        json::parse(body)
    } else {
        None
    };
    v1::Publication {
        position: Some(position(&publication.position)),
        time: i64::try_from(publication.time).unwrap_or(i64::MAX),
        route: payload.route().to_owned(),
        user: payload.sender().to_owned(),
        content: Some(match as_struct {
            Some(body) => Content::Body(body),
            None => Content::BodyJson(payload.as_bytes().slice_ref(body)),
        }),
        exclude_self: payload.excluded().is_some(),
    }
}

/// From where the caller wants to read.
///
/// # Errors
/// Which field is wrong, and how.
pub(crate) fn range(
    newest_first: bool,
    from: Option<v1::Position>,
) -> Result<HistoryRange, (&'static str, String)> {
    let Some(v1::Position { epoch, offset }) = from else {
        return Ok(if newest_first {
            HistoryRange::Newest
        } else {
            HistoryRange::Oldest
        });
    };
    // A channel that is not known ends at offset 0 of the empty epoch.
    if epoch.len() > EPOCH_BYTES || epoch.is_empty() && offset > 0 {
        return Err(("from.epoch", format!("must have 1 to {EPOCH_BYTES} bytes")));
    }
    // What stands before a publication is what stands up to the one before it.
    let offset = offset.checked_sub(u64::from(newest_first)).ok_or_else(|| {
        let error = "must be at least 1 with newest_first: nothing stands before 0";
        ("from.offset", error.to_owned())
    })?;
    let position = Position {
        epoch: Epoch::new(&epoch),
        offset,
    };
    Ok(after_or_up_to(newest_first, position))
}

/// The text of a range that begins at a position; opaque to callers.
fn token(range: &HistoryRange) -> String {
    match range {
        HistoryRange::After(it) => format!("after:{}:{}", it.offset, it.epoch.as_str()),
        HistoryRange::UpTo(it) => format!("upto:{}:{}", it.offset, it.epoch.as_str()),
        HistoryRange::Oldest | HistoryRange::Newest => String::new(),
    }
}

/// A token that is good for one channel only.
pub(crate) fn bound(channel: &ChannelName, token: &str) -> String {
    let channel = channel.as_str();
    format!("{}:{channel}:{token}", channel.len())
}

/// The token that was bound to this channel; `None` if it is another's, or none of ours.
pub(crate) fn unbound<'a>(channel: &ChannelName, token: &'a str) -> Option<&'a str> {
    let channel = channel.as_str();
    // With its length, so that no other channel's name and token look the same.
    let (length, rest) = token.split_once(':')?;
    if length != channel.len().to_string() {
        return None;
    }
    rest.strip_prefix(channel)?.strip_prefix(':')
}

/// The range that a token stands for, which was given for pages of this channel, and of this direction if one is asked
/// for; `None` if it is none of ours.
pub(crate) fn range_of(
    channel: &ChannelName,
    newest_first: bool,
    token: &str,
) -> Option<HistoryRange> {
    let range = range_of_token(unbound(channel, token)?)?;
    (is_newest_first(&range) || !newest_first).then_some(range)
}

fn range_of_token(token: &str) -> Option<HistoryRange> {
    let (direction, rest) = token.split_once(':')?;
    let (offset, epoch) = rest.split_once(':')?;
    let newest_first = match direction {
        "after" => false,
        "upto" => true,
        _ => return None,
    };
    let position = Position {
        epoch: Epoch::new(epoch),
        offset: offset.parse().ok()?,
    };
    (epoch.len() <= EPOCH_BYTES).then(|| after_or_up_to(newest_first, position))
}
