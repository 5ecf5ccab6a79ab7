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

mod protocol;
mod state;
mod steps;

use crate::named::named;
use crate::search::{Model, Steps};
use state::{List, Role, Server, Stage, State};
use steps::Step;

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
