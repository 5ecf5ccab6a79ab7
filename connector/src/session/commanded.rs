//! What a session does because a back end has asked for it. It does this between two requests of its client, and its client
//! is told by a push.

use super::Handlers;
use super::recovery::{self, Recovery};
use crate::membership::{Asked, SessionCommand};
use channel_store::{ChannelName, Position};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use wire::{Reason, Refusal};

/// The client is a member of a further channel.
const ON_ADDED: &str = "onAdded";
/// The client is no member of a channel any more.
const ON_REMOVED: &str = "onRemoved";

impl Handlers {
    /// True if a back end wants something of this session.
    pub(crate) fn is_commanded(&self) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|it| it.registration.commands().is_waiting())
    }

    /// The next command of a back end.
    pub(crate) fn next_command(&self) -> Option<SessionCommand> {
        self.session.as_ref()?.registration.commands().next()
    }

    /// Carries out a command, unless its time is over. Returns when the next one may begin. A session that is closing does
    /// nothing: it is about to leave all channels.
    pub(crate) async fn obey(&mut self, command: SessionCommand) {
        match command {
            _ if self.connection.closing().is_some() => {}
            SessionCommand::Join(asked) if asked.is_wanted() => {
                let Asked {
                    channel,
                    deadline,
                    answer,
                } = asked;
                let added = self.add_to(&channel, deadline).await;
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

    /// Joins a channel. The answer is a position: everything that follows it is given to the client.
    async fn add_to(
        &mut self,
        channel: &ChannelName,
        deadline: Instant,
    ) -> Result<Position, Refusal> {
        let session = self.session.as_ref().ok_or(Reason::NotLoggedIn)?;
        let settled = timeout_at(deadline, session.window.settled()).await;
        settled.map_err(|_| Reason::Unavailable)?;
        if let Some(joined) = session.joined(Some(channel)) {
            return Ok(joined.member.position().ok_or(Reason::Unavailable)?);
        }
        let recovery = if self.connection.tells_positions() {
            Recovery::Positions
        } else {
            Recovery::Unwanted
        };
        let mut start = None;
        let entered = self.enter_further(
            channel,
            &recovery,
            deadline,
            |_| Ok(()),
            |this, entry| {
                let named = Value::from(channel.as_str());
                let body = if recovery.is_wanted() {
                    let position = recovery::json(entry.start());
                    format!(r#"{{"channel":{named},"position":{position}}}"#)
                } else {
                    format!(r#"{{"channel":{named}}}"#)
                };
                this.tell_client(ON_ADDED, &body);
                start = Some(entry.start().clone());
                entry.begin()
            },
        );
        entered.await.map_err(Refusal::from)?;
        Ok(start.ok_or(Reason::Unavailable)?)
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

    /// Gives the client a push that belongs to no channel.
    fn tell_client(&self, route: &str, body: &str) {
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
