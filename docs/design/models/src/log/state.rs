//! What a state of the log's model consists of, and what its parts do on their own.

use super::Budget;
use std::fmt;

/// Publications in one log at most.
pub(super) const PUBLICATIONS: usize = 5;
pub(super) const CONNECTORS: usize = 2;
pub(super) const CLIENTS: usize = 2;
/// These bits of a content are its idempotency key. The others tell the second try from the first one.
pub(super) const KEY: u8 = 15;

/// A short list that needs no memory of its own, so that states are copied as they are. Unused places are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct List<T, const N: usize> {
    pub(super) length: u8,
    pub(super) items: [T; N],
}

impl<T: Copy + Default, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self {
            length: 0,
            items: [T::default(); N],
        }
    }
}

impl<T: fmt::Debug, const N: usize> fmt::Debug for List<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = self.items.iter().take(usize::from(self.length));
        f.debug_list().entries(items).finish()
    }
}

impl<T: Copy + Default, const N: usize> List<T, N> {
    pub(super) fn as_slice(&self) -> &[T] {
        &self.items[..usize::from(self.length)]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn is_full(&self) -> bool {
        usize::from(self.length) == N
    }

    /// `None` if the list is full: what would follow is beyond the bounds of the search.
    pub(super) fn push(&mut self, item: T) -> Option<()> {
        if self.is_full() {
            return None;
        }
        self.items[usize::from(self.length)] = item;
        self.length += 1;
        Some(())
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let first = *self.as_slice().first()?;
        self.items.copy_within(1..usize::from(self.length), 0);
        self.length -= 1;
        self.items[usize::from(self.length)] = T::default();
        Some(first)
    }
}

/// Epoch 0: none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Position {
    pub(super) epoch: u8,
    pub(super) offset: u8,
}

/// A publication on its way, or, without an epoch, the confirmation of a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Item {
    pub(super) at: Position,
    pub(super) content: u8,
}

/// The channel's keys on one server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Channel {
    /// Which life of the channel this is. 0: there is no such channel. Only the model knows it.
    pub(super) life: u8,
    /// The server lifetime under which the newest epoch began.
    pub(super) lifetime: u8,
    pub(super) last: u8,
    /// The first offset that is held; one more than the last if nothing is.
    pub(super) first: u8,
    /// Each epoch with its first offset.
    pub(super) epochs: List<(u8, u8), 5>,
    /// What stands at each offset. What is no longer held stays here, so that the model can compare.
    pub(super) contents: [u8; PUBLICATIONS],
}

impl Channel {
    pub(super) fn position(&self, offset: u8) -> Position {
        let epochs = self.epochs.as_slice();
        let epoch = epochs.iter().rev().find(|(_, first)| *first <= offset);
        let epoch = epoch.or(epochs.first()).map_or(0, |(epoch, _)| *epoch);
        Position { epoch, offset }
    }

    pub(super) fn item(&self, offset: u8) -> Item {
        Item {
            at: self.position(offset),
            content: self.contents[usize::from(offset) - 1],
        }
    }

    pub(super) fn find(&self, content: u8) -> Option<u8> {
        let is_same = |offset: &u8| (self.item(*offset).content ^ content) & KEY == 0;
        (1..=self.last).find(is_same)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) enum Role {
    #[default]
    Down,
    Primary,
    Replica,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Server {
    pub(super) role: Role,
    pub(super) lifetime: u8,
    pub(super) channel: Channel,
}

/// The channel's keys after a write, on their way to the replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Replicated {
    pub(super) channel: Channel,
    /// The write announces its last publication there, too.
    pub(super) announces: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) enum Read {
    #[default]
    None,
    Asked,
    /// The script ran under this lifetime, and this is what it saw.
    Answered {
        lifetime: u8,
        channel: Channel,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) enum Subscription {
    #[default]
    None,
    Asked,
    Confirmed,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) enum Hub {
    #[default]
    Stopped,
    Subscribing,
    /// It reads the end of the log.
    Locating,
    Live,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Connector {
    /// The server that its feed is connected to, and the lifetime under which that connection began.
    pub(super) server: Option<u8>,
    pub(super) lifetime: u8,
    pub(super) subscription: Subscription,
    /// On the way, in order.
    pub(super) arriving: List<Item, 6>,
    /// Left from an earlier connection: it may come at any time.
    pub(super) late: List<Item, 3>,
    /// The connection has lost something, and a publication to itself will show that.
    pub(super) deaf: bool,
    pub(super) hub: Hub,
    pub(super) position: Position,
    pub(super) read: Read,
    /// One more read is due.
    pub(super) owed: bool,
    /// The last deliveries.
    pub(super) ring: List<Item, 2>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) enum Stage {
    #[default]
    New,
    Joining,
    /// It is brought to where its hub is.
    CatchingUp,
    Online,
    Away,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Client {
    pub(super) stage: Stage,
    /// The connector that it is connected to.
    pub(super) at: u8,
    pub(super) position: Position,
    /// It was given everything after this offset itself.
    pub(super) base: u8,
    /// What it must believe: the life of the channel, and its contents up to the position.
    pub(super) life: u8,
    pub(super) contents: [u8; PUBLICATIONS],
    /// The epoch under which it was given each.
    pub(super) epochs: [u8; PUBLICATIONS],
    pub(super) read: Read,
}

impl Client {
    pub(super) fn is_at(&self, connector: usize) -> bool {
        usize::from(self.at) == connector
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(
            self.stage,
            Stage::Joining | Stage::CatchingUp | Stage::Online
        )
    }

    /// True if everything up to its position stands in this log, and what follows is held.
    pub(super) fn is_contiguous(&self, channel: &Channel) -> bool {
        let Position { offset, .. } = self.position;
        let known = usize::from(offset);
        self.life == channel.life
            && offset <= channel.last
            && self.contents[..known] == channel.contents[..known]
            && offset + 1 >= channel.first
    }

    pub(super) fn receive(&mut self, item: Item) -> Checked {
        if item.at.offset != self.position.offset + 1 {
            return Err("a client was given another publication than the next one");
        }
        let place = usize::from(self.position.offset);
        self.position = item.at;
        self.contents[place] = item.content;
        self.epochs[place] = item.at.epoch;
        Ok(())
    }

    /// It is told that nothing is missing.
    pub(super) fn tell_contiguous(&self, channel: &Channel) -> Checked {
        if self.is_contiguous(channel) {
            return Ok(());
        }
        Err("a client was told that nothing is missing, and something is")
    }

    /// It is told that something is lost, and goes on from here.
    pub(super) fn tell_lost(&mut self, position: Position, channel: &Channel) -> Checked {
        if self.is_contiguous(channel) {
            return Err("a client was told of a loss, and nothing was lost");
        }
        self.begin_at(position, channel);
        Ok(())
    }

    pub(super) fn begin_at(&mut self, position: Position, channel: &Channel) {
        let known = usize::from(position.offset);
        self.position = position;
        self.base = position.offset;
        self.life = channel.life;
        self.contents = [0; PUBLICATIONS];
        self.contents[..known].copy_from_slice(&channel.contents[..known]);
        self.epochs = [0; PUBLICATIONS];
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    pub(super) servers: [Server; 2],
    pub(super) backlog: List<Replicated, 5>,
    pub(super) connectors: [Connector; CONNECTORS],
    pub(super) clients: [Client; CLIENTS],
    pub(super) next_content: u8,
    /// The next id of a lifetime, an epoch or a life. None is used twice.
    pub(super) next_id: u8,
    /// A bit for each content that was answered with ok.
    pub(super) acknowledged: u8,
    pub(super) wiped: bool,
    pub(super) budget: Budget,
    pub(super) broken: Option<&'static str>,
}

/// What a step does to a promise.
pub(super) type Checked = Result<(), &'static str>;

impl State {
    pub(super) fn primaries(&self) -> impl Iterator<Item = usize> + '_ {
        (0..2).filter(|&server| self.servers[server].role == Role::Primary)
    }

    pub(super) fn new_id(&mut self) -> u8 {
        self.next_id += 1;
        self.next_id - 1
    }

    pub(super) fn promote(&mut self, server: usize) {
        let lifetime = self.new_id();
        self.servers[server].role = Role::Primary;
        self.servers[server].lifetime = lifetime;
        self.backlog = List::default();
    }

    /// Sends the keys as they are now to the replica, if there is one.
    pub(super) fn replicate(&mut self, server: usize, announces: bool) -> Option<()> {
        if self.servers[1 - server].role != Role::Replica {
            return Some(());
        }
        let channel = self.servers[server].channel;
        self.backlog.push(Replicated { channel, announces })
    }

    /// Announces the newest publication to whoever is subscribed on this server.
    pub(super) fn announce(&mut self, server: usize) -> Option<()> {
        let channel = self.servers[server].channel;
        for connector in &mut self.connectors {
            let is_subscribed = connector.subscription == Subscription::Confirmed;
            if connector.server == Some(server as u8) && is_subscribed {
                connector.arriving.push(channel.item(channel.last))?;
            }
        }
        Some(())
    }

    pub(super) fn members_of(&mut self, connector: usize) -> impl Iterator<Item = &mut Client> {
        let clients = self.clients.iter_mut();
        clients.filter(move |it| it.stage == Stage::Online && it.is_at(connector))
    }
}
