//! The rules of the log: scripts, hubs, and clients that are brought up to date.

use super::Log;
use super::state::{
    Channel, Checked, Client, Connector, Hub, Item, List, PUBLICATIONS, Position, Read, Server,
    Stage, State, Subscription,
};

impl Log {
    // Scripts

    pub(super) fn begin_epoch(&self, state: &mut State, server: usize) -> Option<()> {
        let id = state.new_id();
        let Server {
            lifetime, channel, ..
        } = &mut state.servers[server];
        if channel.life == 0 {
            *channel = Channel {
                life: id,
                first: 1,
                ..Channel::default()
            };
        }
        let epoch = if !self.rules.epochs {
            1
        } else if self.rules.unique_epochs {
            id
        } else {
            let epochs = channel.epochs.as_slice();
            epochs.last().map_or(1, |(epoch, _)| epoch + 1)
        };
        channel.lifetime = *lifetime;
        channel.epochs.push((epoch, channel.last + 1))
    }

    /// Where the content stands now; `None`: beyond the bounds.
    pub(super) fn publish(
        &self,
        state: &mut State,
        server: usize,
        content: u8,
    ) -> Option<Result<Position, &'static str>> {
        let Server {
            lifetime, channel, ..
        } = state.servers[server];
        if let Some(offset) = channel.find(content) {
            if self.rules.keys_remembered {
                return Some(Ok(channel.position(offset)));
            }
            return Some(Err("a message is in the log twice"));
        }
        if channel.life == 0 || (self.rules.epochs && channel.lifetime != lifetime) {
            self.begin_epoch(state, server)?;
        }
        let channel = &mut state.servers[server].channel;
        if usize::from(channel.last) == PUBLICATIONS {
            return None;
        }
        channel.last += 1;
        channel.contents[usize::from(channel.last) - 1] = content;
        channel.first = channel
            .first
            .max((channel.last + 1).saturating_sub(self.kept));
        let position = channel.position(channel.last);
        state.announce(server)?;
        state.replicate(server, true)?;
        Some(Ok(position))
    }

    /// A channel without a life is given one, so that the position of whoever follows it has a name.
    pub(super) fn read(&self, state: &mut State, server: usize) -> Option<Read> {
        let Server {
            lifetime, channel, ..
        } = &state.servers[server];
        let begins = !self.rules.reads_append_nothing && channel.lifetime != *lifetime;
        if channel.life == 0 || begins {
            self.begin_epoch(state, server)?;
            state.replicate(server, false)?;
        }
        let Server {
            lifetime, channel, ..
        } = state.servers[server];
        Some(Read::Answered { lifetime, channel })
    }

    /// `None` if a position is contiguous, otherwise where to go on.
    pub(super) fn continuity(&self, position: Position, channel: &Channel) -> Option<Position> {
        let held = channel.first - 1;
        let epochs = channel.epochs.as_slice();
        let epoch = epochs
            .iter()
            .position(|(epoch, _)| *epoch == position.epoch);
        let Some(epoch) = epoch else {
            return Some(channel.position(held)); // unknown
        };
        let end = match epochs.get(epoch + 1) {
            Some((_, first)) => first - 1,
            None if self.rules.end_compared => channel.last,
            None => u8::MAX,
        };
        if position.offset > end {
            Some(channel.position(end.max(held))) // diverged
        } else if position.offset < held {
            Some(channel.position(held)) // trimmed
        } else {
            None
        }
    }

    pub(super) fn end(&self, channel: &Channel) -> Position {
        let mut end = channel.position(channel.last);
        if !self.rules.reads_append_nothing {
            end.epoch = channel.epochs.as_slice().last().map_or(0, |it| it.0);
        }
        end
    }

    // Hubs

    pub(super) fn start_hub(&self, connector: &mut Connector) {
        if connector.hub != Hub::Stopped {
            return;
        }
        connector.hub = Hub::Subscribing;
        if !self.rules.subscribe_first {
            connector.hub = Hub::Locating;
            connector.read = Read::Asked;
        } else if connector.server.is_some() {
            connector.subscription = Subscription::Asked;
        }
    }

    pub(super) fn close_feed(&self, connector: &mut Connector) {
        let arriving = std::mem::take(&mut connector.arriving);
        if !self.rules.earlier_connections_dropped {
            let publications = arriving.as_slice().iter().filter(|it| it.at.epoch != 0);
            for item in publications {
                let _ = connector.late.push(*item);
            }
        }
        connector.server = None;
        connector.lifetime = 0;
        connector.subscription = Subscription::None;
        connector.deaf = false;
    }

    pub(super) fn close_feeds_of(&self, state: &mut State, server: usize) {
        for connector in &mut state.connectors {
            if connector.server == Some(server as u8) {
                self.close_feed(connector);
            }
        }
    }

    /// Takes a publication or a confirmation from the feed.
    pub(super) fn take(&self, state: &mut State, at: usize, item: Item) -> Checked {
        let connector = &mut state.connectors[at];
        if item.at.epoch == 0 {
            match connector.hub {
                Hub::Subscribing => {
                    connector.hub = Hub::Locating;
                    connector.read = Read::Asked;
                }
                Hub::Live if self.rules.read_after_confirmation && self.rules.subscribe_first => {
                    connector.read = Read::Asked;
                }
                Hub::Live | Hub::Locating | Hub::Stopped => {}
            }
            return Ok(());
        }
        if connector.hub != Hub::Live {
            return Ok(());
        }
        let own = connector.position;
        if self.rules.epoch_compared && item.at.epoch != own.epoch {
            connector.read = Read::Asked;
        } else if item.at.offset == own.offset + 1 {
            return Self::deliver(state, at, item);
        } else if item.at.offset > own.offset {
            connector.read = Read::Asked;
        }
        Ok(())
    }

    pub(super) fn deliver(state: &mut State, at: usize, item: Item) -> Checked {
        let connector = &mut state.connectors[at];
        connector.position = item.at;
        if connector.ring.is_full() {
            connector.ring.pop();
        }
        let _ = connector.ring.push(item);
        state.members_of(at).try_for_each(|it| it.receive(item))
    }

    /// The hub takes the answer to its read.
    pub(super) fn take_read(&self, state: &mut State, at: usize) -> Checked {
        let connector = &mut state.connectors[at];
        let Read::Answered { lifetime, channel } = std::mem::take(&mut connector.read) else {
            return Ok(());
        };
        if connector.hub == Hub::Locating {
            connector.hub = Hub::Live;
            connector.position = self.end(&channel);
            if !self.rules.subscribe_first && connector.server.is_some() {
                connector.subscription = Subscription::Asked;
            }
        } else {
            match self.continuity(connector.position, &channel) {
                None => {
                    let mut members = state.members_of(at);
                    members.try_for_each(|it| it.tell_contiguous(&channel))?;
                }
                Some(position) => {
                    connector.position = position;
                    connector.ring = List::default();
                    let mut members = state.members_of(at);
                    members.try_for_each(|it| it.tell_lost(position, &channel))?;
                }
            }
            for offset in state.connectors[at].position.offset + 1..=channel.last {
                Self::deliver(state, at, channel.item(offset))?;
            }
        }
        let connector = &mut state.connectors[at];
        connector.owed |= self.rules.answers_compared && lifetime != connector.lifetime;
        Ok(())
    }

    // Clients

    /// Puts a client into the live flow if its position meets the hub's; `None` if it does not.
    pub(super) fn meet(state: &mut State, client: usize) -> Option<Checked> {
        let client = &mut state.clients[client];
        let connector = &state.connectors[usize::from(client.at)];
        let ring = connector.ring.as_slice();
        let own = client.position;
        let follows = |it: &Item| (it.at.epoch, it.at.offset) == (own.epoch, own.offset + 1);
        let rest = if own == connector.position {
            &[]
        } else if let Some(place) = ring.iter().position(|it| it.at == own) {
            &ring[place + 1..]
        } else {
            &ring[ring.iter().position(follows)?..]
        };
        client.stage = Stage::Online;
        Some(rest.iter().try_for_each(|item| client.receive(*item)))
    }

    /// A client that is brought up to date takes the answer to its read.
    pub(super) fn take_client_read(&self, state: &mut State, at: usize) -> Checked {
        let client = &mut state.clients[at];
        let Read::Answered { channel, .. } = std::mem::take(&mut client.read) else {
            return Ok(());
        };
        match self.continuity(client.position, &channel) {
            None => client.tell_contiguous(&channel)?,
            Some(position) => client.tell_lost(position, &channel)?,
        }
        for offset in client.position.offset + 1..=channel.last {
            client.receive(channel.item(offset))?;
        }
        if !self.rules.reads_append_nothing {
            client.position = self.end(&channel);
        }
        let connector = usize::from(client.at);
        Self::meet(state, at).unwrap_or_else(|| {
            // One of the two is behind, or on another server: both read again.
            state.connectors[connector].owed = true;
            Ok(())
        })
    }

    pub(super) fn lose_client(state: &mut State, at: usize) -> Option<()> {
        let client = &mut state.clients[at];
        let connector = usize::from(std::mem::take(&mut client.at));
        client.stage = Stage::Away;
        client.read = Read::None;
        let is_used = |it: &Client| it.is_connected() && it.is_at(connector);
        if state.clients.iter().any(is_used) {
            return Some(());
        }
        let connector = &mut state.connectors[connector];
        if connector.subscription == Subscription::Asked {
            // The confirmation arrives, and nobody wants it any more.
            connector.arriving.push(Item::default())?;
        }
        *connector = Connector {
            server: connector.server,
            lifetime: connector.lifetime,
            arriving: connector.arriving,
            late: connector.late,
            deaf: connector.deaf,
            ..Connector::default()
        };
        Some(())
    }
}
