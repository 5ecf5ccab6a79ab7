//! Pages of history, and logs that are made shorter. A page is read in short stretches, so that neither the store nor the answer
//! ever holds much at once.

use super::pages::{Arguments, WRONG_TOKEN, page_size};
use crate::access::Permit;
use crate::calls::fields::{EPOCH_BYTES, Violations};
use crate::calls::{Calls, shown};
use crate::error::Error;
use channel_store::{
    ChannelName, ChannelStore, Continuity, Epoch, HistoryRange, Position, Publication,
};
use proto::chat::v1;
use proto::chat::v1::publication::Content;
use proto::json;
use proto::time::timestamp;
use std::time::Duration;
use tokio::time::Instant;

/// A page that takes longer to gather is given as it is then. Otherwise, of a hundred readers who wait for the same connections,
/// each would get its turns as slowly as all others, and none its page in time.
const GATHERED: Duration = Duration::from_millis(250);
/// How many publications are asked of the store at once. The store ends an answer early by bytes.
const STRETCH: usize = 256;
/// A page ends after so many bytes of publications. Most gRPC clients take no message above 4 MiB.
const PAGE_BYTES: usize = 1024 * 1024;
/// The same if bodies are shown as `Struct`, which takes several times their bytes.
const STRUCT_PAGE_BYTES: usize = 256 * 1024;

pub(super) async fn read(
    calls: &Calls,
    permit: &Permit,
    request: v1::HistoryRequest,
) -> Result<v1::HistoryResponse, Error> {
    page(&*calls.store, check(permit, request)?).await
}

pub(super) async fn trim(
    calls: &Calls,
    permit: &Permit,
    request: v1::TrimHistoryRequest,
) -> Result<v1::TrimHistoryResponse, Error> {
    let mut wrong = Violations::of(permit);
    let channel = wrong.channel("channel", request.channel);
    let upto = match request.position {
        None => wrong.check("position", Err("is required")),
        Some(v1::Position { epoch, offset }) => {
            let epoch = wrong.check("position.epoch", checked_epoch(&epoch, offset));
            epoch.map(|epoch| Position { epoch, offset })
        }
    };
    let (Some(channel), Some(upto)) = (channel, upto) else {
        return Err(wrong.into());
    };
    let held = calls.store.trim(&channel, &upto).await?;
    Ok(v1::TrimHistoryResponse {
        held: held.ok_or(Error::ChannelNotFound)?,
    })
}

/// Which page of which channel.
#[derive(Debug)]
struct HistoryQuery {
    channel: ChannelName,
    range: HistoryRange,
    size: usize,
    /// 0: as many as a page may have.
    bytes: usize,
    body_as_struct: bool,
    arguments: Arguments,
}

fn check(permit: &Permit, request: v1::HistoryRequest) -> Result<HistoryQuery, Error> {
    let mut wrong = Violations::of(permit);
    let arguments = arguments(&request);
    let channel = wrong.channel("channel", request.channel);
    let range = range(request.newest_first, request.from);
    let range = range.or_else(|(field, error)| wrong.check(field, Err(error)).ok_or(()));
    let token = wrong.optional("page_token", request.page_token, |token| {
        let range = arguments.open(&token);
        let range = range.and_then(|text| range_of(text, request.newest_first));
        range.ok_or_else(|| WRONG_TOKEN.to_owned())
    });
    let (Some(channel), Ok(range), Some(token)) = (channel, range, token) else {
        return Err(wrong.into());
    };
    Ok(HistoryQuery {
        channel,
        range: token.unwrap_or(range),
        size: page_size(request.page_size),
        bytes: request.page_bytes as usize,
        body_as_struct: request.body_as_struct,
        arguments,
    })
}

/// All arguments that must not change from page to page.
fn arguments(request: &v1::HistoryRequest) -> Arguments {
    let flags = [
        request.newest_first,
        request.body_as_struct,
        request.from.is_some(),
    ];
    let (epoch, offset) = request
        .from
        .as_ref()
        .map_or(("", 0), |from| (&from.epoch, from.offset));
    Arguments::of(&[
        b"History",
        request.channel.as_bytes(),
        &flags.map(u8::from),
        epoch.as_bytes(),
        &offset.to_be_bytes(),
    ])
}

async fn page(store: &dyn ChannelStore, asked: HistoryQuery) -> Result<v1::HistoryResponse, Error> {
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
    let began = Instant::now();
    let mut publications = Vec::new();
    let mut told = None;
    let goes_on = loop {
        let limit = STRETCH.min(asked.size - publications.len());
        let stretch = store.history(&asked.channel, &range, limit).await?;
        let is_exact = stretch.continuity == Continuity::Contiguous;
        if !is_exact && !publications.is_empty() {
            // The log has changed since the stretch before. The next page begins by saying so.
            break true;
        }
        if !is_exact || told.is_none() {
            told = Some((stretch.continuity, shown(&stretch.position)));
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
            publications.push(entry(publication, asked.body_as_struct));
        }
        range = after_or_up_to(is_newest_first(&range), reached);
        let is_full = reached_early || budget == 0 || publications.len() == asked.size;
        if is_full || !stretch.more {
            break stretch.more || reached_early;
        }
        if began.elapsed() >= GATHERED {
            break true;
        }
    };
    let (continuity, position) = told.unzip();
    Ok(v1::HistoryResponse {
        publications,
        next_page_token: if goes_on {
            asked.arguments.seal(&text_of(&range))
        } else {
            String::new()
        },
        continuity: continuity
            .map_or(v1::Continuity::Unspecified, told_as)
            .into(),
        position,
    })
}

/// A continuity as the contract has it.
pub(super) fn told_as(continuity: Continuity) -> v1::Continuity {
    match continuity {
        Continuity::Contiguous => v1::Continuity::Contiguous,
        Continuity::Diverged => v1::Continuity::Diverged,
        Continuity::Trimmed => v1::Continuity::Trimmed,
        Continuity::Unknown => v1::Continuity::Unknown,
    }
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

/// A publication as the contract has it.
pub(super) fn entry(publication: &Publication, body_as_struct: bool) -> v1::Publication {
    let payload = &publication.payload;
    let body = payload.body();
    let as_struct = if body_as_struct {
        json::parse(body)
    } else {
        None
    };
    v1::Publication {
        position: Some(shown(&publication.position)),
        publish_time: Some(timestamp(publication.time)),
        route: payload.route().to_owned(),
        user: payload.sender().to_owned(),
        content: Some(match as_struct {
            Some(body) => Content::Body(body),
            None => Content::BodyJson(payload.as_bytes().slice_ref(body)),
        }),
        exclude_user: payload.excluded().is_some(),
    }
}

/// Where the caller wants to begin, or which field is wrong and why.
fn range(
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
    let epoch = checked_epoch(&epoch, offset).map_err(|error| ("from.epoch", error))?;
    // Everything before a publication is everything up to the publication before it.
    let offset = offset.checked_sub(u64::from(newest_first)).ok_or_else(|| {
        let error = "must be at least 1 with newest_first: nothing stands before 0";
        ("from.offset", error.to_owned())
    })?;
    Ok(after_or_up_to(newest_first, Position { epoch, offset }))
}

/// An epoch that a caller names together with this offset.
pub(super) fn checked_epoch(epoch: &str, offset: u64) -> Result<Epoch, String> {
    // A channel that the store does not know ends at offset 0 of the empty epoch.
    if epoch.len() > EPOCH_BYTES || epoch.is_empty() && offset > 0 {
        return Err(format!("must have 1 to {EPOCH_BYTES} bytes"));
    }
    Ok(Epoch::new(epoch))
}

/// The text of the range where the next page begins.
fn text_of(range: &HistoryRange) -> String {
    match range {
        HistoryRange::After(it) | HistoryRange::UpTo(it) => {
            format!("{}:{}", it.offset, it.epoch.as_str())
        }
        HistoryRange::Oldest | HistoryRange::Newest => String::new(),
    }
}

/// The range in a page token of this direction. `None` if there is no range in it.
fn range_of(text: &str, newest_first: bool) -> Option<HistoryRange> {
    let (offset, epoch) = text.split_once(':')?;
    let position = Position {
        epoch: Epoch::new(epoch),
        offset: offset.parse().ok()?,
    };
    (epoch.len() <= EPOCH_BYTES).then(|| after_or_up_to(newest_first, position))
}
