//! What back ends want one session to do. The session does it between two requests of its client.

use channel_store::{ChannelName, Position};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;
use tokio::time::Instant;
use wire::Reason;

/// The most commands that wait for one session.
const MOST: usize = 64;

/// A command to a session. If it is dropped without an answer, the session is over.
#[derive(Debug)]
pub(crate) enum SessionCommand {
    /// Join this channel. The answer is a position: the session gets everything that follows it.
    Join(Asked<Position>),
    /// Leave this channel. The answer is true if the session was a member.
    Leave(Asked<bool>),
}

impl SessionCommand {
    /// Answers that it is not done.
    pub(crate) fn refuse(self, reason: Reason) {
        // Nobody may wait for the answer any more.
        match self {
            Self::Join(asked) => drop(asked.answer.send(Err(reason))),
            Self::Leave(asked) => drop(asked.answer.send(Err(reason))),
        }
    }
}

/// What is asked for a channel.
#[derive(Debug)]
pub(crate) struct Asked<T> {
    pub(crate) channel: ChannelName,
    /// After this time nothing is begun any more.
    pub(crate) deadline: Instant,
    pub(crate) answer: oneshot::Sender<Result<T, Reason>>,
}

impl<T> Asked<T> {
    /// False if the time is over, or nobody waits for the answer.
    pub(crate) fn is_wanted(&self) -> bool {
        self.deadline > Instant::now() && !self.answer.is_closed()
    }
}

/// Commands that wait for a session.
#[derive(Default)]
pub(crate) struct SessionCommands {
    /// True if something waits. The client's loop looks at this after each request.
    waiting: AtomicBool,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    commands: VecDeque<SessionCommand>,
    /// The session takes no command any more.
    is_over: bool,
}

impl SessionCommands {
    /// Queues a command, unless the session is over: then the command is dropped. The caller wakes the session.
    ///
    /// # Errors
    /// The command, if too many wait already.
    pub(crate) fn push(&self, command: SessionCommand) -> Result<(), SessionCommand> {
        let mut queue = self.queue.lock();
        if queue.is_over {
            return Ok(());
        }
        if queue.commands.len() >= MOST {
            return Err(command);
        }
        queue.commands.push_back(command);
        self.waiting.store(true, Ordering::Release);
        Ok(())
    }

    /// True if a command waits.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// The next command.
    pub(crate) fn next(&self) -> Option<SessionCommand> {
        let mut queue = self.queue.lock();
        let command = queue.commands.pop_front();
        self.waiting
            .store(!queue.commands.is_empty(), Ordering::Release);
        command
    }

    /// The session is over. Commands that wait are dropped.
    pub(crate) fn end(&self) {
        let commands = {
            let mut queue = self.queue.lock();
            queue.is_over = true;
            mem::take(&mut queue.commands)
        };
        drop(commands);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn leave() -> (SessionCommand, oneshot::Receiver<Result<bool, Reason>>) {
        let (answer, answered) = oneshot::channel();
        let asked = Asked {
            channel: ChannelName::new("room").unwrap(),
            deadline: Instant::now() + Duration::from_secs(1),
            answer,
        };
        (SessionCommand::Leave(asked), answered)
    }

    #[tokio::test(start_paused = true)]
    async fn a_bounded_number_of_commands_waits_until_the_session_is_over() {
        let commands = SessionCommands::default();
        assert!(!commands.is_waiting());
        let mut answers = Vec::new();
        for _ in 0..MOST {
            let (command, answer) = leave();
            assert!(commands.push(command).is_ok());
            answers.push(answer);
        }
        assert!(commands.push(leave().0).is_err());
        assert!(commands.is_waiting());
        assert!(commands.next().is_some());
        assert!(commands.push(leave().0).is_ok(), "there is room again");
        commands.end();
        assert!(commands.next().is_none() && !commands.is_waiting());
        assert!(answers.pop().unwrap().await.is_err());
        let (command, answer) = leave();
        assert!(commands.push(command).is_ok());
        assert!(answer.await.is_err(), "nobody does it any more");
    }
}
