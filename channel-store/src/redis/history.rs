//! Pages of a channel's log in Redis: a stretch of the stream, and in the same transaction the judgement of where it
//! begins.

use super::connection::Connection;
use super::keys::ChannelKeys;
use super::read::judged;
use crate::history::{HistoryPage, HistoryRange};
use crate::publication::{Epoch, Position};
use crate::store::{Since, StoreError};

/// Reads one page over one connection.
pub(super) async fn history(
    connection: &Connection,
    keys: &ChannelKeys,
    channel_seconds: &str,
    range: &HistoryRange,
    limit: usize,
) -> Result<HistoryPage, StoreError> {
    let since = match range {
        HistoryRange::After(position) | HistoryRange::UpTo(position) => {
            Since::Position(position.clone())
        }
        HistoryRange::Newest => Since::Head,
        // What no epoch is called is answered with the position before all that is held.
        HistoryRange::Oldest => Since::Position(Position {
            epoch: Epoch::new(""),
            offset: 0,
        }),
    };
    let mut stretch = match range {
        HistoryRange::Oldest | HistoryRange::After(_) => redis::cmd("XRANGE"),
        HistoryRange::Newest | HistoryRange::UpTo(_) => redis::cmd("XREVRANGE"),
    };
    stretch.arg(keys.log());
    match range {
        HistoryRange::Oldest => stretch.arg("-").arg("+"),
        HistoryRange::After(position) => stretch.arg(position.offset.saturating_add(1)).arg("+"),
        HistoryRange::Newest => stretch.arg("+").arg("-"),
        HistoryRange::UpTo(position) => stretch.arg(position.offset).arg("-"),
    };
    stretch.arg("COUNT").arg(limit.saturating_add(1));
    let (page, newest) = judged(connection, keys, channel_seconds, &since, stretch).await?;
    let head = Position {
        epoch: newest,
        offset: page.last,
    };
    let judgement = (page.standing, page.position);
    Ok(HistoryPage::new(
        range,
        judgement,
        head,
        page.entries,
        limit,
    ))
}
