//! The newest message of a channel, for a client that comes back where only that is given (`recover = "last"`).

use super::Member;
use super::audience::Receiver;
use super::reader::PAGE;
use channel_store::{Position, Publication, StoreError};
use wire::PositionReason;

/// How many pages of the log are looked through for a message.
const PAGES: usize = 10;

impl Member {
    /// The newest message in the log that ends at `end`. Nothing up to `trimmed` counts, because it was removed. It is in the ring,
    /// or else among the last thousand publications of the log; `None` if neither has one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn newest_message(
        &self,
        end: &Position,
        trimmed: u64,
    ) -> Result<Option<Publication>, StoreError> {
        if let Some(newest) = self.channel.newest_message(end, trimmed) {
            return Ok(Some(newest));
        }
        let none = || StoreError::Unavailable("no feed".into());
        let feed = self.channels.reader.feed().ok_or_else(none)?;
        let mut upto = end.clone();
        for _ in 0..PAGES {
            let page = feed.read_back(self.channel.name(), &upto, PAGE).await?;
            let is_held = |it: &&Publication| it.position.offset > trimmed;
            let mut held = page.iter().take_while(is_held);
            if let Some(newest) = held.find(|it| it.payload.is_message()) {
                return Ok(Some(newest.clone()));
            }
            match page.last().map(|it| &it.position) {
                Some(oldest) if oldest.offset > trimmed + 1 => {
                    upto = Position {
                        epoch: oldest.epoch.clone(),
                        offset: oldest.offset - 1,
                    };
                }
                _ => break,
            }
        }
        Ok(None)
    }

    /// Gives the member one publication, before it begins. `since` is where the client was. If it has missed more than this, it is
    /// told that the rest is left out.
    pub fn give(&self, publication: &Publication, since: &Position) {
        let Receiver {
            connection, format, ..
        } = &self.receiver;
        let name = self.channel.name();
        let at = &publication.position;
        let before = Position {
            epoch: at.epoch.clone(),
            offset: at.offset.saturating_sub(1),
        };
        let mut frames = Vec::new();
        if before != *since {
            let skipped = PositionReason::Skipped;
            wire::position(*format, name, &before, skipped, &mut frames);
        }
        let user = connection.user();
        wire::publications(*format, name, user, &at.epoch, [publication], &mut frames);
        connection.send(&frames, &mut None);
    }
}
