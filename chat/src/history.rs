//! A page of history: read in short stretches, so that neither the store nor the answer ever holds much at once.

use crate::calls::position;
use crate::error::Error;
use crate::json;
use channel_store::{
    ChannelName, ChannelStore, Epoch, HistoryRange, Position, Publication, Standing,
};
use proto::v1;
use proto::v1::publication::Content;

/// Publications that are asked of the store at once.
const STRETCH: usize = 32;
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
    pub(crate) body_as_struct: bool,
}

pub(crate) async fn page(
    store: &dyn ChannelStore,
    asked: Asked,
) -> Result<v1::HistoryResponse, Error> {
    let mut range = asked.range;
    let mut budget = if asked.body_as_struct {
        STRUCT_PAGE_BYTES
    } else {
        PAGE_BYTES
    };
    let mut publications = Vec::new();
    let mut told = None;
    let goes_on = loop {
        let limit = STRETCH.min(asked.size - publications.len());
        let stretch = store.history(&asked.channel, &range, limit).await?;
        let is_exact = stretch.standing == Standing::Exact;
        if !is_exact && !publications.is_empty() {
            // It has changed in between: the next page begins by saying so.
            break true;
        }
        if !is_exact || told.is_none() {
            told = Some((stretch.standing, position(&stretch.position)));
        }
        let mut fits = true;
        let mut reached = stretch.position;
        for publication in &stretch.entries {
            let bytes = publication.payload.as_bytes().len();
            fits = bytes <= budget || publications.is_empty();
            if !fits {
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
        if !fits || !stretch.more || publications.len() == asked.size {
            break !fits || stretch.more;
        }
    };
    let (standing, position) = told.unzip();
    Ok(v1::HistoryResponse {
        publications,
        next_page_token: if goes_on {
            token(&range)
        } else {
            String::new()
        },
        standing: standing
            .map_or(v1::Standing::Unspecified, |standing| match standing {
                Standing::Head | Standing::Exact => v1::Standing::Exact,
                Standing::Diverged => v1::Standing::Diverged,
                Standing::Trimmed => v1::Standing::Trimmed,
                Standing::Unknown => v1::Standing::Unknown,
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
    if !(1..=EPOCH_BYTES).contains(&epoch.len()) {
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

/// The range that a token stands for; `None` if it is none of ours.
pub(crate) fn range_of(token: &str) -> Option<HistoryRange> {
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
    let is_ours = (1..=EPOCH_BYTES).contains(&epoch.len());
    is_ours.then(|| after_or_up_to(newest_first, position))
}
