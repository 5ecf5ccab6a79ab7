//! Does what chats ask of this connector's sessions (`proto/connector/v1/commands.proto`).
//!
//! A command is a letter to the inbox of an incarnation. It may come several times, because the chat repeats it until it has the
//! answer. It is done once: the answer is remembered, and each further copy gets it again. A command that is too old is not
//! done, so a process that was frozen does nothing for which nobody waits any more.

mod channels;
mod describe;
mod disconnect;
mod list;
mod push;
mod remembered;

use super::incarnation::HeldLease;
use super::logins::Logins;
use super::members::Roster;
use super::registration::{Registration, Sessions};
use crate::chat_client::Chat;
use channel_store::{Inboxes, Incarnation, Letter, UserId};
pub(crate) use describe::Process;
use describe::Stops;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use prost::Message;
use prost::bytes::Bytes;
use proto::connector::v1::command::Action;
use proto::connector::v1::command_answer::Outcome;
use proto::connector::v1::{Command, CommandAnswer, Draining, SessionName, UserSessions};
use remembered::{Known, Remembered};
use runtime::backoff::pause;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A command that is older is not done.
const OLDEST: Duration = Duration::from_secs(10);
/// How long an answer is remembered. After [`OLDEST`] no copy of its command is done anyway.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The most answers, and the most bytes of them, that are remembered. Each must be remembered for [`OLDEST`], so this is also how
/// many commands are done in that time: some 6,500 in a second.
const MOST: usize = 1 << 16;
const MOST_BYTES: usize = 16 << 20;
/// The most commands that are done at once. Others wait in the inbox.
const AT_ONCE: usize = 64;
/// How long the store may take to pass an answer on.
const ANSWER: Duration = Duration::from_secs(1);
/// The pause before an inbox is opened again that somebody else has opened.
const REOPEN: Duration = Duration::from_secs(1);

/// Does commands.
pub(crate) struct Commands {
    logins: Arc<Logins>,
    roster: Arc<Roster>,
    inboxes: Arc<dyn Inboxes>,
    remembered: Mutex<Remembered>,
    process: Process,
}

impl Commands {
    /// Listens to nobody yet.
    pub(crate) fn new(
        logins: &Arc<Logins>,
        roster: &Arc<Roster>,
        inboxes: Arc<dyn Inboxes>,
    ) -> Self {
        Self {
            logins: Arc::clone(logins),
            roster: Arc::clone(roster),
            inboxes,
            remembered: Mutex::new(Remembered::new(MOST, MOST_BYTES, OLDEST, REMEMBERED)),
            process: Process::default(),
        }
    }

    /// What is told about the process.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Does the commands to an incarnation, until this is dropped.
    pub(super) async fn obey(&self, lease: &HeldLease, chat: &Chat) -> Infallible {
        let mut at_work = FuturesUnordered::new();
        loop {
            let mut inbox = self.inboxes.open(&lease.incarnation);
            loop {
                tokio::select! {
                    Some(()) = at_work.next() => {}
                    letter = inbox.next(), if at_work.len() < AT_ONCE => match letter {
                        Some(letter) => at_work.push(self.take(lease, chat, letter)),
                        None => break,
                    }
                }
            }
            pause(REOPEN).await;
        }
    }

    async fn take(&self, lease: &HeldLease, chat: &Chat, letter: Letter) {
        let Ok(command) = Command::decode(&*letter.content) else {
            return tracing::debug!("a letter is no command");
        };
        let Ok(id) = <[u8; 16]>::try_from(&*command.id) else {
            return tracing::debug!("a command has no id");
        };
        let Ok(answer_to) = Incarnation::new(command.answer_to) else {
            return tracing::debug!("a command does not say whom to answer");
        };
        if lease.age(letter.sent).is_none_or(|age| age > OLDEST) {
            return tracing::debug!(sent = letter.sent, "a command comes too late");
        }
        let drains = matches!(command.action, Some(Action::Drain(_)));
        // The process may end right after it has begun to stop, so this comes after the answer.
        let mut stops = None;
        let known = self.remembered.lock().begin(id);
        let answer = match known {
            // The answer comes when it is done.
            Known::Running => return,
            Known::Done(answer) => answer,
            Known::NoRoom => encoded(id, None),
            Known::New => {
                stops = drains.then(|| Stops::soon(&self.process));
                let running = Running {
                    commands: self,
                    id,
                    answer: None,
                };
                let outcome = self.carry_out(lease, chat, command.action);
                let outcome = outcome.await;
                running.done(encoded(id, outcome))
            }
        };
        let posted = timeout(ANSWER, self.inboxes.post(&answer_to, &answer)).await;
        if !matches!(posted, Ok(Ok(_))) {
            tracing::debug!("a command was not answered: its chat asks again");
        }
        drop(stops);
    }

    async fn carry_out(
        &self,
        lease: &HeldLease,
        chat: &Chat,
        action: Option<Action>,
    ) -> Option<Outcome> {
        let whose = &lease.incarnation;
        match action? {
            Action::Push(push) => Some(Outcome::Pushed(self.push(whose, push).await)),
            Action::Disconnect(it) => Some(Outcome::Disconnected(self.disconnect(whose, it).await)),
            Action::Restrict(it) => Some(Outcome::Disconnected(self.restrict(whose, it).await)),
            Action::List(list) => Some(Outcome::Listed(self.list(whose, list)?)),
            Action::Join(join) => Some(Outcome::Joined(self.join(whose, join).await?)),
            Action::Leave(leave) => Some(Outcome::Left(self.leave(whose, chat, leave).await?)),
            Action::Describe(_) => Some(Outcome::Described(self.describe(lease, chat))),
            // Its caller begins that after the answer.
            Action::Drain(_) => Some(Outcome::Draining(Draining {})),
        }
    }

    /// The sessions that are named, as far as this incarnation has them. Names that are not valid are nobody's.
    fn sessions(&self, whose: &Incarnation, named: Vec<UserSessions>) -> Vec<Arc<Registration>> {
        let mut found = Vec::new();
        for UserSessions { user, sessions } in named {
            let Ok(user) = UserId::new(user) else {
                continue;
            };
            // Those that are not wanted are dropped after the lock is released.
            let mut of_user: Vec<_> = {
                let known = self.logins.known.lock();
                let of_user = known.get(&user).map(Sessions::all);
                of_user
                    .into_iter()
                    .flatten()
                    .filter_map(|(_, it)| it.upgrade())
                    .collect()
            };
            of_user.retain(|it| {
                let is_named = |named: &String| named == it.session.as_str();
                sessions.is_empty() || sessions.iter().any(is_named)
            });
            found.append(&mut of_user);
        }
        found.retain(|it| it.guard.incarnation() == whose && !it.state.lock().undone);
        found
    }
}

/// A command that is being done. If it is given up, it may be begun again.
struct Running<'a> {
    commands: &'a Commands,
    id: [u8; 16],
    answer: Option<Bytes>,
}

impl Running<'_> {
    /// Remembers the answer, and returns it.
    fn done(mut self, answer: Bytes) -> Bytes {
        self.answer = Some(answer.clone());
        answer
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let answer = self.answer.take();
        self.commands.remembered.lock().end(self.id, answer);
    }
}

fn encoded(id: [u8; 16], outcome: Option<Outcome>) -> Bytes {
    let answer = CommandAnswer {
        id: id.to_vec().into(),
        outcome,
    };
    answer.encode_to_vec().into()
}

impl Registration {
    /// The session, as answers name it.
    fn name(&self) -> SessionName {
        SessionName {
            user: self.user.to_string(),
            session: self.session.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
