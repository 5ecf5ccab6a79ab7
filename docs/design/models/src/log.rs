//! The log of a channel: epochs, reads, hubs and clients, over servers that fail.
//!
//! Two servers hold the channel. One is the primary, and the other one may be a replica that is behind. Each of two
//! connectors follows the channel over a feed, and its hub gives publications to clients. A client may come back on the
//! other connector with its last position. Every Lua script is one step on the primary. A read is two steps: the script
//! runs, and its answer arrives later. The keys of the channel travel to the replica as a whole, because Redis replicates
//! the effects of a script as one transaction.
//!
//! The model knows for each client what it must believe: the contents of the log up to its position. So it can tell
//! whether "nothing is missing" is true when a client is told so, and whether a loss that a client is told has happened.

use crate::named::named;
use crate::search::{Kind, Model, Steps};
use Kind::{Chance, Duty};
use std::fmt;

/// Publications in one log at most.
const PUBLICATIONS: usize = 5;
const CONNECTORS: usize = 2;
const CLIENTS: usize = 2;
/// These bits of a content are its idempotency key. The others tell the second try from the first one.
const KEY: u8 = 15;

named! {
    /// The rules under test. Each can be switched off to see what it is for.
    pub(crate) struct Rules: bool = true {
        /// A new server lifetime begins a new epoch; off: a position is an offset alone.
        epochs,
        /// The id of an epoch never repeats; off: epochs are counted.
        unique_epochs,
        /// A read compares the position with the end of its epoch.
        end_compared,
        /// Only publishing begins an epoch in a channel that has one; off: a read begins one, too, and names its end by it.
        reads_append_nothing,
        /// A hub delivers only publications of its own epoch without a read; off: it compares offsets alone.
        epoch_compared,
        /// A hub subscribes, and reads the end of the log after that; off: in the other order.
        subscribe_first,
        /// A hub reads after each confirmation of its subscription.
        read_after_confirmation,
        /// What an earlier connection of the feed brings is dropped.
        earlier_connections_dropped,
        /// A connection of the feed is left when the server's lifetime changes; off: only when it is no primary any more.
        lifetime_checked,
        /// A read counts as the last word only if it ran under the lifetime of the feed's connection.
        answers_compared,
        /// A second try of a message with the same key is answered with the first one's position.
        keys_remembered,
        /// A message is acknowledged when the replica has it; off: when the primary has it.
        replicas_waited_for,
    }
}

named! {
    /// How often each fault may happen.
    pub(crate) struct Budget: u8 = 0 {
        /// A server restarts with its data, crashes, or another one is promoted beside it.
        failover,
        /// All data is wiped.
        wipe,
        /// The log alone is lost, and meta stays.
        lost_log,
        /// A connection of a feed breaks.
        feed_break,
        /// A publication is lost on a connection of a feed that stays open.
        loss,
        /// A client loses its connection, and comes back on either connector.
        comes_back,
        /// The last message is sent again with the same key.
        retry,
    }
}

/// What is searched.
pub(crate) struct Log {
    pub(crate) rules: Rules,
    pub(crate) budget: Budget,
    /// Messages and joins at most.
    pub(crate) publications: u8,
    /// Entries that the log keeps.
    pub(crate) kept: u8,
    /// How many clients there are, each on the connector of its own number at first.
    pub(crate) clients: usize,
    /// Messages are acknowledged.
    pub(crate) acknowledges: bool,
    /// The clients have joined already, and the replica has everything.
    pub(crate) begun: bool,
}

/// A short list that needs no memory of its own, so that states are copied as they are. Unused places are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct List<T, const N: usize> {
    length: u8,
    items: [T; N],
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
    fn as_slice(&self) -> &[T] {
        &self.items[..usize::from(self.length)]
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn is_full(&self) -> bool {
        usize::from(self.length) == N
    }

    /// `None` if the list is full: what would follow is beyond the bounds of the search.
    fn push(&mut self, item: T) -> Option<()> {
        if self.is_full() {
            return None;
        }
        self.items[usize::from(self.length)] = item;
        self.length += 1;
        Some(())
    }

    fn pop(&mut self) -> Option<T> {
        let first = *self.as_slice().first()?;
        self.items.copy_within(1..usize::from(self.length), 0);
        self.length -= 1;
        self.items[usize::from(self.length)] = T::default();
        Some(first)
    }
}

/// Epoch 0: none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Position {
    epoch: u8,
    offset: u8,
}

/// A publication on its way, or, without an epoch, the confirmation of a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Item {
    at: Position,
    content: u8,
}

/// The channel's keys on one server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Channel {
    /// Which life of the channel this is. 0: there is no such channel. Only the model knows it.
    life: u8,
    /// The server lifetime under which the newest epoch began.
    lifetime: u8,
    last: u8,
    /// The first offset that is held; one more than the last if nothing is.
    first: u8,
    /// Each epoch with its first offset.
    epochs: List<(u8, u8), 5>,
    /// What stands at each offset. What is no longer held stays here, so that the model can compare.
    contents: [u8; PUBLICATIONS],
}

impl Channel {
    fn position(&self, offset: u8) -> Position {
        let epochs = self.epochs.as_slice();
        let epoch = epochs.iter().rev().find(|(_, first)| *first <= offset);
        let epoch = epoch.or(epochs.first()).map_or(0, |(epoch, _)| *epoch);
        Position { epoch, offset }
    }

    fn item(&self, offset: u8) -> Item {
        Item {
            at: self.position(offset),
            content: self.contents[usize::from(offset) - 1],
        }
    }

    fn find(&self, content: u8) -> Option<u8> {
        let is_same = |offset: &u8| (self.item(*offset).content ^ content) & KEY == 0;
        (1..=self.last).find(is_same)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Role {
    #[default]
    Down,
    Primary,
    Replica,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Server {
    role: Role,
    lifetime: u8,
    channel: Channel,
}

/// The channel's keys after a write, on their way to the replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Replicated {
    channel: Channel,
    /// The write announces its last publication there, too.
    announces: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Read {
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
enum Subscription {
    #[default]
    None,
    Asked,
    Confirmed,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Hub {
    #[default]
    Stopped,
    Subscribing,
    /// It reads the end of the log.
    Locating,
    Live,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Connector {
    /// The server that its feed is connected to, and the lifetime under which that connection began.
    server: Option<u8>,
    lifetime: u8,
    subscription: Subscription,
    /// On the way, in order.
    arriving: List<Item, 6>,
    /// Left from an earlier connection: it may come at any time.
    late: List<Item, 3>,
    /// The connection has lost something, and a publication to itself will show that.
    deaf: bool,
    hub: Hub,
    position: Position,
    read: Read,
    /// One more read is due.
    owed: bool,
    /// The last deliveries.
    ring: List<Item, 2>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Stage {
    #[default]
    New,
    Joining,
    /// It is brought to where its hub is.
    CatchingUp,
    Online,
    Away,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Client {
    stage: Stage,
    /// The connector that it is connected to.
    at: u8,
    position: Position,
    /// It was given everything after this offset itself.
    base: u8,
    /// What it must believe: the life of the channel, and its contents up to the position.
    life: u8,
    contents: [u8; PUBLICATIONS],
    /// The epoch under which it was given each.
    epochs: [u8; PUBLICATIONS],
    read: Read,
}

impl Client {
    fn is_at(&self, connector: usize) -> bool {
        usize::from(self.at) == connector
    }

    fn is_connected(&self) -> bool {
        matches!(
            self.stage,
            Stage::Joining | Stage::CatchingUp | Stage::Online
        )
    }

    /// True if everything up to its position stands in this log, and what follows is held.
    fn is_contiguous(&self, channel: &Channel) -> bool {
        let Position { offset, .. } = self.position;
        let known = usize::from(offset);
        self.life == channel.life
            && offset <= channel.last
            && self.contents[..known] == channel.contents[..known]
            && offset + 1 >= channel.first
    }

    fn receive(&mut self, item: Item) -> Checked {
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
    fn tell_contiguous(&self, channel: &Channel) -> Checked {
        if self.is_contiguous(channel) {
            return Ok(());
        }
        Err("a client was told that nothing is missing, and something is")
    }

    /// It is told that something is lost, and goes on from here.
    fn tell_lost(&mut self, position: Position, channel: &Channel) -> Checked {
        if self.is_contiguous(channel) {
            return Err("a client was told of a loss, and nothing was lost");
        }
        self.begin_at(position, channel);
        Ok(())
    }

    fn begin_at(&mut self, position: Position, channel: &Channel) {
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
    servers: [Server; 2],
    backlog: List<Replicated, 5>,
    connectors: [Connector; CONNECTORS],
    clients: [Client; CLIENTS],
    next_content: u8,
    /// The next id of a lifetime, an epoch or a life. None is used twice.
    next_id: u8,
    /// A bit for each content that was answered with ok.
    acknowledged: u8,
    wiped: bool,
    budget: Budget,
    broken: Option<&'static str>,
}

/// What a step does to a promise.
type Checked = Result<(), &'static str>;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// A new client asks to join, at the connector of its own number.
    Connect(usize),
    /// The join of a client runs on a server.
    Join(usize, usize),
    /// A client comes back with its position, on this connector.
    ComeBack(usize, usize),
    LoseClient(usize),
    /// The hub puts a client into the live flow, or asks for a read on its behalf.
    Serve(usize),
    RunClientRead(usize, usize),
    AnswerClientRead(usize),
    /// A feed connects to a server that says it is primary.
    ConnectFeed(usize, usize),
    Subscribe(usize),
    Receive(usize),
    ReceiveLate(usize),
    RunRead(usize, usize),
    AnswerRead(usize),
    ReadAgain(usize),
    /// A feed finds that its server is not the primary that it was.
    CheckServer(usize),
    /// A feed finds that its connection does not deliver.
    CheckDelivery(usize),
    Publish(usize),
    PublishAgain(usize),
    Acknowledge(u8),
    Replicate,
    BreakFeed(usize),
    LosePublication(usize),
    Restart(usize),
    Crash(usize),
    /// The other server is promoted, and this one does not know.
    Split(usize),
    Demote(usize),
    Rejoin(usize),
    Wipe(usize),
    LoseLog(usize),
}

impl Step {
    fn kind(self) -> Kind {
        match self {
            Self::Join(..)
            | Self::Serve(_)
            | Self::RunClientRead(..)
            | Self::AnswerClientRead(_)
            | Self::ConnectFeed(..)
            | Self::Subscribe(_)
            | Self::Receive(_)
            | Self::ReceiveLate(_)
            | Self::RunRead(..)
            | Self::AnswerRead(_)
            | Self::ReadAgain(_)
            | Self::CheckServer(_)
            | Self::CheckDelivery(_)
            | Self::Replicate
            | Self::Demote(_) => Duty,
            Self::Connect(_)
            | Self::ComeBack(..)
            | Self::LoseClient(_)
            | Self::Publish(_)
            | Self::PublishAgain(_)
            | Self::Acknowledge(_)
            | Self::BreakFeed(_)
            | Self::LosePublication(_)
            | Self::Restart(_)
            | Self::Crash(_)
            | Self::Split(_)
            | Self::Rejoin(_)
            | Self::Wipe(_)
            | Self::LoseLog(_) => Chance,
        }
    }
}

impl State {
    fn primaries(&self) -> impl Iterator<Item = usize> + '_ {
        (0..2).filter(|&server| self.servers[server].role == Role::Primary)
    }

    fn new_id(&mut self) -> u8 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn promote(&mut self, server: usize) {
        let lifetime = self.new_id();
        self.servers[server].role = Role::Primary;
        self.servers[server].lifetime = lifetime;
        self.backlog = List::default();
    }

    /// Sends the keys as they are now to the replica, if there is one.
    fn replicate(&mut self, server: usize, announces: bool) -> Option<()> {
        if self.servers[1 - server].role != Role::Replica {
            return Some(());
        }
        let channel = self.servers[server].channel;
        self.backlog.push(Replicated { channel, announces })
    }

    /// Announces the newest publication to whoever is subscribed on this server.
    fn announce(&mut self, server: usize) -> Option<()> {
        let channel = self.servers[server].channel;
        for connector in &mut self.connectors {
            let is_subscribed = connector.subscription == Subscription::Confirmed;
            if connector.server == Some(server as u8) && is_subscribed {
                connector.arriving.push(channel.item(channel.last))?;
            }
        }
        Some(())
    }

    fn members_of(&mut self, connector: usize) -> impl Iterator<Item = &mut Client> {
        let clients = self.clients.iter_mut();
        clients.filter(move |it| it.stage == Stage::Online && it.is_at(connector))
    }
}

impl Log {
    // Scripts

    fn begin_epoch(&self, state: &mut State, server: usize) -> Option<()> {
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
    fn publish(
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
    fn read(&self, state: &mut State, server: usize) -> Option<Read> {
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
    fn continuity(&self, position: Position, channel: &Channel) -> Option<Position> {
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

    fn end(&self, channel: &Channel) -> Position {
        let mut end = channel.position(channel.last);
        if !self.rules.reads_append_nothing {
            end.epoch = channel.epochs.as_slice().last().map_or(0, |it| it.0);
        }
        end
    }

    // Hubs

    fn start_hub(&self, connector: &mut Connector) {
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

    fn close_feed(&self, connector: &mut Connector) {
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

    fn close_feeds_of(&self, state: &mut State, server: usize) {
        for connector in &mut state.connectors {
            if connector.server == Some(server as u8) {
                self.close_feed(connector);
            }
        }
    }

    /// Takes a publication or a confirmation from the feed.
    fn take(&self, state: &mut State, at: usize, item: Item) -> Checked {
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

    fn deliver(state: &mut State, at: usize, item: Item) -> Checked {
        let connector = &mut state.connectors[at];
        connector.position = item.at;
        if connector.ring.is_full() {
            connector.ring.pop();
        }
        let _ = connector.ring.push(item);
        state.members_of(at).try_for_each(|it| it.receive(item))
    }

    /// The hub takes the answer to its read.
    fn take_read(&self, state: &mut State, at: usize) -> Checked {
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
    fn meet(state: &mut State, client: usize) -> Option<Checked> {
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
    fn take_client_read(&self, state: &mut State, at: usize) -> Checked {
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

    fn lose_client(state: &mut State, at: usize) -> Option<()> {
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

    // Steps

    fn possible(&self, state: &State) -> Vec<Step> {
        let mut steps = Vec::new();
        self.possible_for_clients(state, &mut steps);
        for at in 0..CONNECTORS {
            self.possible_for_connector(state, at, &mut steps);
        }
        self.possible_for_servers(state, &mut steps);
        steps
    }

    fn possible_for_clients(&self, state: &State, steps: &mut Vec<Step>) {
        for at in 0..self.clients {
            let client = &state.clients[at];
            let is_live = state.connectors[usize::from(client.at)].hub == Hub::Live;
            match client.stage {
                Stage::New => steps.push(Step::Connect(at)),
                Stage::Joining if is_live && state.next_content <= self.publications => {
                    steps.extend(state.primaries().map(|it| Step::Join(at, it)));
                }
                Stage::Away => steps.extend((0..CONNECTORS).map(|it| Step::ComeBack(at, it))),
                Stage::CatchingUp if is_live => match client.read {
                    Read::None => steps.push(Step::Serve(at)),
                    Read::Asked => {
                        steps.extend(state.primaries().map(|it| Step::RunClientRead(at, it)));
                    }
                    Read::Answered { .. } => steps.push(Step::AnswerClientRead(at)),
                },
                Stage::Joining | Stage::CatchingUp | Stage::Online => {}
            }
            let may_go = matches!(client.stage, Stage::Online | Stage::CatchingUp);
            if state.budget.comes_back > 0 && may_go {
                steps.push(Step::LoseClient(at));
            }
        }
    }

    fn possible_for_connector(&self, state: &State, at: usize, steps: &mut Vec<Step>) {
        let connector = &state.connectors[at];
        match connector.read {
            Read::None => {
                if !connector.arriving.is_empty() {
                    steps.push(Step::Receive(at));
                }
                if !connector.late.is_empty() && connector.hub == Hub::Live {
                    steps.push(Step::ReceiveLate(at));
                }
                if connector.owed {
                    steps.push(Step::ReadAgain(at));
                }
            }
            Read::Asked => steps.extend(state.primaries().map(|it| Step::RunRead(at, it))),
            Read::Answered { .. } => steps.push(Step::AnswerRead(at)),
        }
        if connector.subscription == Subscription::Asked {
            steps.push(Step::Subscribe(at));
        }
        if connector.hub == Hub::Stopped {
            return;
        }
        let Some(server) = connector.server else {
            steps.extend(state.primaries().map(|it| Step::ConnectFeed(at, it)));
            return;
        };
        let server = &state.servers[usize::from(server)];
        let is_other = self.rules.lifetime_checked && server.lifetime != connector.lifetime;
        if server.role != Role::Primary || is_other {
            steps.push(Step::CheckServer(at));
        }
        if connector.deaf {
            steps.push(Step::CheckDelivery(at));
        }
        if state.budget.feed_break > 0 {
            steps.push(Step::BreakFeed(at));
        }
        let first = connector.arriving.as_slice().first();
        if state.budget.loss > 0 && first.is_some_and(|it| it.at.epoch != 0) {
            steps.push(Step::LosePublication(at));
        }
    }

    fn possible_for_servers(&self, state: &State, steps: &mut Vec<Step>) {
        let budget = &state.budget;
        if state.next_content <= self.publications {
            steps.extend(state.primaries().map(Step::Publish));
        }
        if budget.retry > 0 && state.next_content > 1 {
            steps.extend(state.primaries().map(Step::PublishAgain));
        }
        if self.acknowledges {
            for server in state.primaries() {
                let replica = &state.servers[1 - server];
                let contents = 1..state.next_content;
                steps.extend(contents.filter_map(|content| {
                    let is_new = state.acknowledged >> content & 1 == 0;
                    let has = |it: &Server| it.channel.find(content).is_some();
                    let is_safe = replica.role == Role::Replica && has(replica)
                        || !self.rules.replicas_waited_for;
                    (is_new && has(&state.servers[server]) && is_safe)
                        .then_some(Step::Acknowledge(content))
                }));
            }
        }
        if !state.backlog.is_empty() {
            steps.push(Step::Replicate);
        }
        for server in 0..2 {
            let own = &state.servers[server];
            match (own.role, state.servers[1 - server].role) {
                (Role::Primary, Role::Primary) => steps.push(Step::Demote(server)),
                (Role::Down, Role::Primary) if budget.failover > 0 => {
                    steps.push(Step::Rejoin(server));
                }
                (Role::Primary, Role::Replica) if budget.failover > 0 => {
                    steps.extend([Step::Crash(server), Step::Split(server)]);
                }
                _ => {}
            }
            if own.role != Role::Primary {
                continue;
            }
            if budget.failover > 0 {
                steps.push(Step::Restart(server));
            }
            if own.channel.life != 0 && budget.wipe > 0 {
                steps.push(Step::Wipe(server));
            }
            if own.channel.life != 0 && budget.lost_log > 0 {
                steps.push(Step::LoseLog(server));
            }
        }
    }

    /// `None`: not within the bounds of the search.
    fn apply(&self, state: &mut State, step: Step) -> Option<Checked> {
        match step {
            Step::Connect(at) => {
                state.clients[at].stage = Stage::Joining;
                state.clients[at].at = at as u8;
                self.start_hub(&mut state.connectors[at]);
            }
            Step::ComeBack(at, connector) => {
                state.clients[at].stage = Stage::CatchingUp;
                state.clients[at].at = connector as u8;
                self.start_hub(&mut state.connectors[connector]);
            }
            Step::Join(at, server) => {
                let content = state.next_content;
                state.next_content += 1;
                let Ok(own) = self.publish(state, server, content)? else {
                    return Some(Err("a join is in the log twice"));
                };
                let before = Position {
                    offset: own.offset - 1,
                    ..own
                };
                state.clients[at].stage = Stage::CatchingUp;
                state.clients[at].begin_at(before, &state.servers[server].channel);
            }
            Step::LoseClient(at) => {
                state.budget.comes_back -= 1;
                Self::lose_client(state, at)?;
            }
            Step::Serve(at) => {
                let met = Self::meet(state, at);
                if met.is_none() {
                    state.clients[at].read = Read::Asked;
                }
                return Some(met.unwrap_or(Ok(())));
            }
            Step::RunClientRead(at, server) => {
                state.clients[at].read = self.read(state, server)?;
            }
            Step::AnswerClientRead(at) => return Some(self.take_client_read(state, at)),
            Step::ConnectFeed(at, server) => {
                let connector = &mut state.connectors[at];
                connector.server = Some(server as u8);
                connector.lifetime = state.servers[server].lifetime;
                // Whoever reads first subscribes when the answer is there.
                if connector.hub == Hub::Live || self.rules.subscribe_first {
                    connector.subscription = Subscription::Asked;
                }
            }
            Step::Subscribe(at) => {
                state.connectors[at].subscription = Subscription::Confirmed;
                state.connectors[at].arriving.push(Item::default())?;
            }
            Step::Receive(at) => {
                let item = state.connectors[at].arriving.pop()?;
                return Some(self.take(state, at, item));
            }
            Step::ReceiveLate(at) => {
                let item = state.connectors[at].late.pop()?;
                return Some(self.take(state, at, item));
            }
            Step::RunRead(at, server) => state.connectors[at].read = self.read(state, server)?,
            Step::AnswerRead(at) => return Some(self.take_read(state, at)),
            Step::ReadAgain(at) => {
                state.connectors[at].owed = false;
                state.connectors[at].read = Read::Asked;
            }
            Step::CheckServer(at) | Step::CheckDelivery(at) => {
                self.close_feed(&mut state.connectors[at]);
            }
            Step::BreakFeed(at) => {
                state.budget.feed_break -= 1;
                self.close_feed(&mut state.connectors[at]);
            }
            Step::LosePublication(at) => {
                state.budget.loss -= 1;
                state.connectors[at].deaf = true;
                state.connectors[at].arriving.pop()?;
            }
            Step::Publish(server) => {
                let content = state.next_content;
                state.next_content += 1;
                return Some(self.publish(state, server, content)?.map(|_| ()));
            }
            Step::PublishAgain(server) => {
                let content = (state.next_content - 1) | state.budget.retry << 4;
                state.budget.retry -= 1;
                return Some(self.publish(state, server, content)?.map(|_| ()));
            }
            Step::Acknowledge(content) => state.acknowledged |= 1 << content,
            _ => return self.apply_to_servers(state, step).map(Ok),
        }
        Some(Ok(()))
    }

    fn apply_to_servers(&self, state: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Replicate => {
                let Replicated { channel, announces } = state.backlog.pop()?;
                let replica = state
                    .servers
                    .iter()
                    .position(|it| it.role == Role::Replica)?;
                state.servers[replica].channel = channel;
                if announces {
                    state.announce(replica)?;
                }
            }
            Step::Restart(server) => {
                state.budget.failover -= 1;
                state.servers[server].lifetime = state.new_id();
                self.close_feeds_of(state, server);
            }
            Step::Crash(server) => {
                state.budget.failover -= 1;
                state.servers[server] = Server::default();
                self.close_feeds_of(state, server);
                state.promote(1 - server);
            }
            Step::Split(server) => {
                state.budget.failover -= 1;
                state.promote(1 - server);
            }
            Step::Demote(server) | Step::Rejoin(server) => {
                state.servers[server] = Server {
                    role: Role::Replica,
                    ..state.servers[1 - server]
                };
                state.backlog = List::default();
            }
            Step::Wipe(server) => {
                state.budget.wipe -= 1;
                state.wiped = true;
                state.servers[server].channel = Channel::default();
                state.replicate(server, false)?;
            }
            Step::LoseLog(server) => {
                state.budget.lost_log -= 1;
                let channel = &mut state.servers[server].channel;
                channel.first = channel.last + 1;
                state.replicate(server, false)?;
            }
            _ => {}
        }
        Some(())
    }

    /// The state after a step; `None`: not within the bounds.
    fn after(&self, state: &State, step: Step) -> Option<State> {
        let mut next = *state;
        let checked = self.apply(&mut next, step)?;
        next.broken = checked.err();
        Some(next)
    }

    /// Both clients are online, each on its own connector, and the replica has everything.
    fn begin(&self, mut state: State) -> State {
        let has_replica = state.servers[1].role == Role::Replica;
        for client in 0..self.clients {
            let locate = [Step::RunRead(client, 0), Step::AnswerRead(client)];
            let subscribe = [Step::Subscribe(client), Step::Receive(client)];
            let attach = match self.rules.subscribe_first {
                true => [subscribe, locate],
                false => [locate, subscribe],
            };
            let mut steps = vec![Step::Connect(client), Step::ConnectFeed(client, 0)];
            steps.extend(attach.into_iter().flatten());
            if has_replica && client == 0 {
                steps.push(Step::Replicate);
            }
            steps.push(Step::Join(client, 0));
            if has_replica {
                steps.push(Step::Replicate);
            }
            steps.extend((0..=client).map(Step::Receive));
            steps.push(Step::Serve(client));
            for step in steps {
                state = self
                    .after(&state, step)
                    .expect("the beginning is within the bounds");
            }
        }
        state
    }
}

impl Model for Log {
    type State = State;
    type Step = Step;

    fn init(&self) -> State {
        let primary = Server {
            role: Role::Primary,
            lifetime: 1,
            ..Server::default()
        };
        // Without failovers, a replica would only make more states.
        let replica = Server {
            role: Role::Replica,
            ..primary
        };
        let has_replica = self.budget.failover > 0;
        let other = if has_replica {
            replica
        } else {
            Server::default()
        };
        let state = State {
            servers: [primary, other],
            backlog: List::default(),
            connectors: Default::default(),
            clients: Default::default(),
            next_content: 1,
            next_id: 3,
            acknowledged: 0,
            wiped: false,
            budget: self.budget,
            broken: None,
        };
        if self.begun { self.begin(state) } else { state }
    }

    fn steps(&self, state: &State, out: &mut Steps<Self>) {
        for step in self.possible(state) {
            if let Some(next) = self.after(state, step) {
                out.push((step.kind(), step, next));
            }
        }
    }

    fn always(&self, state: &State) -> Result<(), &'static str> {
        if let Some(broken) = state.broken {
            return Err(broken);
        }
        let [one, other] = &state.clients;
        let both = one.base.max(other.base)..one.position.offset.min(other.position.offset);
        for place in both.map(usize::from) {
            let is_same_place = one.epochs[place] == other.epochs[place];
            if is_same_place && one.contents[place] != other.contents[place] {
                return Err("two clients saw different publications at one position");
            }
        }
        let mut primaries = state.primaries();
        let (Some(server), None) = (primaries.next(), primaries.next()) else {
            return Ok(());
        };
        let channel = &state.servers[server].channel;
        let mut contents = 1..state.next_content;
        let is_lost = |it: u8| state.acknowledged >> it & 1 == 1 && channel.find(it).is_none();
        if !state.wiped && contents.any(is_lost) {
            return Err("a message that was answered with ok is lost");
        }
        Ok(())
    }

    fn at_rest(&self, state: &State) -> Result<(), &'static str> {
        let Some(server) = state.primaries().next() else {
            return Ok(());
        };
        let channel = &state.servers[server].channel;
        for client in &state.clients {
            let has_all = client.life == channel.life
                && client.position.offset == channel.last
                && client.contents == channel.contents;
            match client.stage {
                Stage::Online if channel.last > 0 && !has_all => {
                    return Err("a member lacks what the log has, and was not told");
                }
                Stage::CatchingUp => return Err("a client is never brought up to date"),
                // It may wait only because no further publication is within the bounds.
                Stage::Joining if state.next_content <= self.publications => {
                    return Err("a client never joins");
                }
                Stage::Online | Stage::Joining | Stage::New | Stage::Away => {}
            }
        }
        Ok(())
    }
}
