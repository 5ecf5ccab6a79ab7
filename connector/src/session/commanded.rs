//! What a session does although its client has not asked for it: because a back end wants it, because its rights have
//! changed, or because its token names channels. It does this between two requests of its client, and its client is told by
//! a push.

use super::recovery::{self, Recovery};
use super::{CALL, Handlers, JoinedChannel};
use crate::membership::{Asked, EndedSession, SessionCommand};
use channel_store::{ChannelName, Position};
use runtime::log;
use serde_json::Value;
use std::mem;
use tokio::time::{Instant, timeout, timeout_at};
use wire::{Reason, Refusal};

/// The client is a member of a further channel.
const ON_ADDED: &str = "onAdded";
/// The client is no member of a channel any more.
pub(super) const ON_REMOVED: &str = "onRemoved";

/// What a session is to do.
pub(crate) enum Command {
    /// A back end wants it.
    ByBackEnd(SessionCommand),
    /// The rules of channels have changed, or what the hook has decided.
    JudgeAgain,
    /// Join a channel that the session's token names.
    JoinNamed(ChannelName),
}

impl From<SessionCommand> for Command {
    fn from(command: SessionCommand) -> Self {
        Self::ByBackEnd(command)
    }
}

impl Handlers {
    /// True if a back end wants something of this session, or has deleted a channel of it.
    pub(crate) fn is_commanded(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|it| it.registration.commands().is_waiting() || self.connection.is_out())
    }

    /// The next thing to do. Deleted channels are left first.
    pub(crate) fn next_command(&mut self) -> Option<Command> {
        if self.session.is_some() && self.connection.take_out() {
            self.leave_deleted();
            if self.is_judged_by_old_rules() {
                return Some(Command::JudgeAgain);
            }
        }
        if let Some(channel) = self.next_to_join() {
            return Some(Command::JoinNamed(channel));
        }
        let commands = self.session.as_ref()?.registration.commands();
        commands.next().map(Command::from)
    }

    /// Carries out a command, unless its time is over. Returns when the next one may begin. A session that is closing does
    /// nothing: it is about to leave all channels.
    pub(crate) async fn obey(&mut self, command: impl Into<Command>) {
        if self.connection.closing().is_some() {
            return;
        }
        let of = self.about(None);
        log::about(of, self.carry_out_command(command.into())).await;
    }

    async fn carry_out_command(&mut self, command: Command) {
        match command {
            Command::ByBackEnd(command) => self.obey_back_end(command).await,
            Command::JudgeAgain => {
                // Messages that were sent before still count.
                if let Some(session) = &self.session {
                    let _ = timeout(CALL, session.window.settled()).await;
                }
                self.judge_again();
            }
            Command::JoinNamed(channel) => {
                self.join_named(&channel, Instant::now() + CALL).await;
            }
        }
    }

    async fn obey_back_end(&mut self, command: SessionCommand) {
        match command {
            SessionCommand::Join(asked) if asked.is_wanted() => {
                let Asked {
                    channel,
                    deadline,
                    answer,
                } = asked;
                let added = self.add_to(&channel, deadline, true).await;
                // Nobody may wait for the answer any more.
                let _ = answer.send(added.map_err(|refusal| refusal.reason()));
            }
            SessionCommand::Leave(asked) if asked.is_wanted() => {
                let Asked {
                    channel,
                    deadline,
                    answer,
                } = asked;
                // As above.
                let _ = answer.send(self.remove_from(&channel, deadline).await);
            }
            late => late.refuse(Reason::Unavailable),
        }
    }

    /// Joins a channel. The answer is a position: everything that follows it is given to the client. If a back end has asked
    /// for it, the rules of channels do not matter.
    pub(super) async fn add_to(
        &mut self,
        channel: &ChannelName,
        deadline: Instant,
        is_by_back_end: bool,
    ) -> Result<Position, Refusal> {
        let session = self.session.as_mut().ok_or(Reason::NotLoggedIn)?;
        let settled = timeout_at(deadline, session.window.settled()).await;
        settled.map_err(|_| Reason::Unavailable)?;
        if session.joined(Some(channel)).is_some() {
            return self.is_in(channel, is_by_back_end);
        }
        let recovery = match session.take_earlier(channel) {
            Some(position) => Recovery::Since(position),
            None if self.connection.tells_positions() => Recovery::Positions,
            None => Recovery::Unwanted,
        };
        let mut start = None;
        let entered = self.enter_further(
            channel,
            &recovery,
            deadline,
            || Ok(()),
            |this, entry| {
                let named = Value::from(channel.as_str());
                let body = match (&recovery, entry.recovered()) {
                    (_, None) | (Recovery::Unwanted, _) => format!(r#"{{"channel":{named}}}"#),
                    (Recovery::Positions, _) => {
                        let position = recovery::json(entry.start());
                        format!(r#"{{"channel":{named},"position":{position}}}"#)
                    }
                    (Recovery::Since(_), Some(recovered)) => {
                        recovered.add_to(&format!(r#"{{"channel":{named}}}"#))
                    }
                };
                this.tell_client(ON_ADDED, &body);
                start = Some(entry.start().clone());
                let mut joined = entry.begin();
                joined.is_added = is_by_back_end;
                joined
            },
        );
        entered.await.map_err(Refusal::from)?;
        Ok(start.ok_or(Reason::Unavailable)?)
    }

    /// The position in a channel in which the session is already. If a back end wants it there, it stays whatever the rules
    /// say.
    fn is_in(&mut self, channel: &ChannelName, is_by_back_end: bool) -> Result<Position, Refusal> {
        let session = self.session.as_mut().ok_or(Reason::NotLoggedIn)?;
        let mut channels = session.channels.iter_mut();
        let joined = channels.find(|it| it.membership.channel() == channel);
        let joined = joined.ok_or(Reason::NotJoined)?;
        joined.is_added |= is_by_back_end;
        Ok(joined.member.position().ok_or(Reason::Unavailable)?)
    }

    /// Leaves a channel. True: the session was a member.
    async fn remove_from(
        &mut self,
        channel: &ChannelName,
        deadline: Instant,
    ) -> Result<bool, Reason> {
        let session = self.session.as_ref().ok_or(Reason::NotLoggedIn)?;
        let settled = timeout_at(deadline, session.window.settled()).await;
        settled.map_err(|_| Reason::Unavailable)?;
        // It may have left before, and the leave may not have landed yet.
        for ended in session.registration.ended_in(channel) {
            if !ended.land(&self.services.chat, deadline).await {
                return Err(Reason::LeavePending);
            }
        }
        let left = self.leave_channel(channel, deadline).await;
        if left == Err(Reason::NotJoined) {
            return Ok(false);
        }
        let named = Value::from(channel.as_str());
        self.tell_client(ON_REMOVED, &format!(r#"{{"channel":{named}}}"#));
        left.map(|()| true)
    }

    /// Leaves the channels that were deleted, and tells the client, which may join them again at once. The store does not list the
    /// session there any more. A leave is sent all the same: a failover may have lost the deletion, and a copy of the join may
    /// still be on its way.
    fn leave_deleted(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        let channels = mem::take(&mut session.channels).into_iter();
        let (deleted, rest): (Vec<_>, _) = channels.partition(JoinedChannel::is_deleted);
        session.channels = rest;
        for JoinedChannel { membership, .. } in deleted {
            let named = Value::from(membership.channel().as_str());
            self.tell_client(ON_REMOVED, &format!(r#"{{"channel":{named}}}"#));
            self.services.leaves.land(EndedSession {
                memberships: vec![membership],
                ..EndedSession::default()
            });
        }
    }

    /// Gives the client a push that belongs to no channel.
    pub(super) fn tell_client(&self, route: &str, body: &str) {
        let mut frames = Vec::new();
        wire::direct(
            self.connection.format(),
            route,
            body.as_bytes(),
            &mut frames,
        );
        self.connection.send(&frames, &mut None);
    }
}
