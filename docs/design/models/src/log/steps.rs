//! Which steps are possible in a state, and what each of them does.

use super::Log;
use super::state::{
    CONNECTORS, Channel, Checked, Hub, Item, List, Position, Read, Replicated, Role, Server, Stage,
    State, Subscription,
};
use crate::search::Kind;
use Kind::{Chance, Duty};

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
    pub(super) fn kind(self) -> Kind {
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

impl Log {
    pub(super) fn possible(&self, state: &State) -> Vec<Step> {
        let mut steps = Vec::new();
        self.possible_for_clients(state, &mut steps);
        for at in 0..CONNECTORS {
            self.possible_for_connector(state, at, &mut steps);
        }
        self.possible_for_servers(state, &mut steps);
        steps
    }

    pub(super) fn possible_for_clients(&self, state: &State, steps: &mut Vec<Step>) {
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

    pub(super) fn possible_for_connector(&self, state: &State, at: usize, steps: &mut Vec<Step>) {
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

    pub(super) fn possible_for_servers(&self, state: &State, steps: &mut Vec<Step>) {
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
    pub(super) fn apply(&self, state: &mut State, step: Step) -> Option<Checked> {
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

    pub(super) fn apply_to_servers(&self, state: &mut State, step: Step) -> Option<()> {
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
    pub(super) fn after(&self, state: &State, step: Step) -> Option<State> {
        let mut next = *state;
        let checked = self.apply(&mut next, step)?;
        next.broken = checked.err();
        Some(next)
    }

    /// Both clients are online, each on its own connector, and the replica has everything.
    pub(super) fn begin(&self, mut state: State) -> State {
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
