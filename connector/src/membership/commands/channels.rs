//! Lets sessions join channels and leave them because a back end has asked for it.

use super::super::session_commands::{Asked, SessionCommand};
use super::{Commands, Registration};
use crate::chat_client::Chat;
use channel_store::{ChannelName, Incarnation, Position};
use futures_util::future::join_all;
use proto::chat::v1;
use proto::connector::v1::joined_session::Outcome;
use proto::connector::v1::{
    JoinAction, JoinedSession, JoinedSessions, LeaveAction, LeftSession, LeftSessions, SessionName,
};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use wire::Reason;

/// How long a session has for what it is asked. It is done between two requests of its client.
const TIME: Duration = Duration::from_millis(650);
/// How much longer its answer may take. Both times together are shorter than that for which a chat waits.
const LATE: Duration = Duration::from_millis(150);

/// The answer of a session. `None`: the session is over.
type Answer<T> = Option<Result<T, Reason>>;

/// Sessions, and what each of them has answered.
struct Answers<T> {
    sessions: Vec<(SessionName, Weak<Registration>, Answer<T>)>,
    logging_in: Vec<SessionName>,
}

impl Commands {
    /// Lets sessions join a channel. `None`: the channel is not known here.
    pub(super) async fn join(
        &self,
        whose: &Incarnation,
        action: JoinAction,
    ) -> Option<JoinedSessions> {
        let channel = ChannelName::new(action.channel).ok()?;
        let sessions = self.sessions(whose, action.to);
        let answers = ask(sessions, &channel, SessionCommand::Join).await;
        let sessions = answers.sessions.into_iter();
        let sessions = sessions.filter_map(|(name, _, answer)| {
            Some(JoinedSession {
                name: Some(name),
                outcome: Some(match answer? {
                    Ok(position) => Outcome::Position(shown(&position)),
                    Err(reason) => Outcome::Refused(reason.name().to_owned()),
                }),
            })
        });
        Some(JoinedSessions {
            sessions: sessions.collect(),
            logging_in: answers.logging_in,
        })
    }

    /// Lets sessions leave a channel. Sessions whose clients are gone leave it, too, if they are members for a while longer.
    pub(super) async fn leave(
        &self,
        whose: &Incarnation,
        chat: &Chat,
        action: LeaveAction,
    ) -> Option<LeftSessions> {
        let channel = ChannelName::new(action.channel).ok()?;
        let sessions = self.sessions(whose, action.to);
        let until = Instant::now() + TIME + LATE;
        let answers = ask(sessions, &channel, SessionCommand::Leave).await;
        let sessions = answers.sessions.into_iter();
        let sessions = sessions.map(async |(name, session, answer)| {
            let answer = match answer {
                Some(answer) => answer,
                None => land(&session, chat, &channel, until).await?,
            };
            Some(LeftSession {
                name: Some(name),
                was_member: answer == Ok(true),
                refused: answer.map_or_else(|reason| reason.name().to_owned(), |_| String::new()),
            })
        });
        Some(LeftSessions {
            sessions: join_all(sessions).await.into_iter().flatten().collect(),
            logging_in: answers.logging_in,
        })
    }
}

/// Lands the leaves of a session that is over. `None`: it is no member.
async fn land(
    session: &Weak<Registration>,
    chat: &Chat,
    channel: &ChannelName,
    until: Instant,
) -> Answer<bool> {
    let ended = session.upgrade()?.ended_in(channel);
    if ended.is_empty() {
        return None;
    }
    let landed = ended.iter().map(|it| it.land(chat, until));
    let have_landed = join_all(landed).await.into_iter().all(|it| it);
    Some(have_landed.then_some(true).ok_or(Reason::LeavePending))
}

/// Gives a command to each session, and waits for the answers. The sessions are not held meanwhile, because a login is closed
/// when nobody holds it any more.
async fn ask<T>(
    sessions: Vec<Arc<Registration>>,
    channel: &ChannelName,
    command: impl Fn(Asked<T>) -> SessionCommand,
) -> Answers<T> {
    let deadline = Instant::now() + TIME;
    let (mut asked, mut logging_in) = (Vec::new(), Vec::new());
    for registration in sessions {
        let connection = registration.connection.upgrade();
        let is_there = (connection.as_ref()).is_some_and(|it| it.closing().is_none());
        if is_there && !registration.state.lock().answered {
            logging_in.push(registration.name());
            continue;
        }
        let (answer, answered) = oneshot::channel();
        let it = Asked {
            channel: channel.clone(),
            deadline,
            answer,
        };
        // A session that is closing drops the command when it is over.
        match registration.commands.push(command(it)) {
            Ok(()) => connection.iter().for_each(|it| it.wake()),
            Err(refused) => refused.refuse(Reason::TryLater),
        }
        let name = registration.name();
        asked.push((name, Arc::downgrade(&registration), answered));
    }
    let until = deadline + LATE;
    let sessions = asked.into_iter().map(async |(name, session, answered)| {
        let answer = match timeout_at(until, answered).await {
            Ok(answered) => answered.ok(),
            // It may have been done, or not. If it is begun later, nothing is done.
            Err(_) => Some(Err(Reason::Unavailable)),
        };
        (name, session, answer)
    });
    Answers {
        sessions: join_all(sessions).await,
        logging_in,
    }
}

fn shown(position: &Position) -> v1::Position {
    v1::Position {
        epoch: position.epoch.as_str().to_owned(),
        offset: position.offset,
    }
}
