//! Makes the stream of one client of the records that all members share.

use super::id::{self, Place};
use super::{Effect, EventId, next};
use channel_store::{ChannelName, Position};
use std::io::Write;

/// The events of one session, and what their ids say.
#[derive(Debug)]
pub struct EventStream {
    secret: Box<str>,
    /// How many milliseconds the client waits before it comes back, unless it is asked to wait for longer.
    pause: u32,
    /// The session's channels. They are few, so a list is faster than a map.
    places: Vec<Place>,
}

impl EventStream {
    /// The stream of a session that goes on at this id. After it ends, its client waits for `pause` milliseconds before it comes back.
    #[must_use]
    pub fn new(id: &EventId, pause: u32) -> Self {
        let place = |(channel, position): &(ChannelName, Position)| {
            Place::new(channel.as_str(), position.epoch.as_str(), position.offset)
        };
        Self {
            secret: id.secret.as_str().into(),
            pause,
            places: id.positions.iter().map(place).collect(),
        }
    }

    /// How many milliseconds the client waits before it comes back.
    #[must_use]
    pub fn pause(&self) -> u32 {
        self.pause
    }

    /// The session is at this position of a channel.
    pub fn set(&mut self, channel: &ChannelName, position: &Position) {
        self.moves(channel.as_str(), position.epoch.as_str(), position.offset);
    }

    /// The session is not in the channel any more.
    pub fn forget(&mut self, channel: &ChannelName) {
        self.leaves(channel.as_str());
    }

    /// The id of an event at which a client may come back now.
    #[must_use]
    pub fn id(&self) -> String {
        let mut id = String::new();
        id::write(&self.secret, &self.places, false, &mut id);
        id
    }

    /// Appends what whole records are for this client, until `out` has `enough` bytes or no record is left. Returns how many bytes of the
    /// records were taken.
    pub fn render(&mut self, records: &[u8], enough: usize, out: &mut Vec<u8>) -> usize {
        let mut rest = records;
        while out.len() < enough
            && let Some((effect, text)) = next(&mut rest)
        {
            self.event(&effect, text, out);
        }
        records.len() - rest.len()
    }

    fn event(&mut self, effect: &Effect<'_>, text: &[u8], out: &mut Vec<u8>) {
        match *effect {
            Effect::Verbatim => return out.extend_from_slice(text),
            Effect::Nothing => {}
            Effect::At {
                channel,
                epoch,
                offset,
            } => {
                let has_moved = self.moves(channel, epoch, offset);
                if !has_moved && text.is_empty() {
                    return;
                }
                self.id_line(false, out);
            }
            Effect::Left { channel } => {
                if self.leaves(channel) {
                    self.id_line(false, out);
                }
            }
            Effect::End {
                reconnect_after: Some(after),
            } => {
                let pause = self.pause.saturating_add(after);
                // Writing to a vector cannot fail.
                let _ = writeln!(out, "retry: {pause}");
                self.id_line(false, out);
            }
            Effect::End {
                reconnect_after: None,
            } => self.id_line(true, out),
        }
        out.extend_from_slice(text);
        // It ends the event. An event without data is not shown to the page, but its id counts.
        out.push(b'\n');
    }

    fn id_line(&self, is_last: bool, out: &mut Vec<u8>) {
        let mut line = "id: ".to_owned();
        id::write(&self.secret, &self.places, is_last, &mut line);
        line.push('\n');
        out.extend_from_slice(line.as_bytes());
    }

    /// True if that is another position than before.
    fn moves(&mut self, channel: &str, epoch: &str, offset: u64) -> bool {
        let place = self.places.iter_mut().find(|it| *it.channel == *channel);
        let Some(place) = place else {
            self.places.push(Place::new(channel, epoch, offset));
            return true;
        };
        let has_moved = place.offset() != offset || place.epoch() != epoch;
        place.set(epoch, offset);
        has_moved
    }

    /// True if the session was there.
    fn leaves(&mut self, channel: &str) -> bool {
        let before = self.places.len();
        self.places.retain(|it| *it.channel != *channel);
        self.places.len() < before
    }
}
