//! What the operator's hook has decided about the channels of one session.
//!
//! A decision holds for as long as the hook has said. For the channels that the session is in, a task then asks again, beside the
//! client's loop, so that no request of the client waits for that. While nobody can be asked, the session keeps what it was
//! allowed. For other channels the next join asks again.

use super::{CALL, Handlers, JoinedChannel, Services, Session};
use crate::access::{AccessControl, CHANNELS, Hook, HookError, Right, Rights};
use crate::transport::Connection;
use channel_store::{ChannelName, SessionId, UserId};
use parking_lot::Mutex;
use proto::access::v1::AuthorizeChannelsRequest;
use runtime::Backoff;
use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::mem;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use wire::Refusal;

/// The most decisions about channels that the session is not in. Beyond it, they are forgotten and asked for again.
const DECISIONS: usize = 200;
/// Decisions that end within this time of each other are asked for together.
const TOGETHER: Duration = Duration::from_secs(1);
/// The first and the longest mean pause while nobody can be asked.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// What is decided about one session's channels.
pub(super) struct Decisions {
    shared: Arc<Shared>,
    _asking: AbortOnDropHandle<()>,
}

struct Shared {
    hook: Arc<Hook>,
    access: Arc<AccessControl>,
    user: UserId,
    session: SessionId,
    /// The name of this connector.
    connector: String,
    connection: Arc<Connection>,
    state: Mutex<State>,
    /// Wakes the task that asks again.
    changed: Notify,
}

#[derive(Default)]
struct State {
    decided: HashMap<ChannelName, Decision>,
    /// The channels that the session is in. What is decided about them is kept up to date.
    kept: HashSet<ChannelName>,
    /// A decision about one of those has changed since the session looked.
    has_changed: bool,
}

#[derive(Clone, Copy)]
struct Decision {
    /// What was asked about.
    asked: Rights,
    /// What of that is allowed.
    allowed: Rights,
    /// When it is asked for again.
    until: Instant,
}

impl State {
    /// True if all these rights are decided about, and not too long ago.
    fn is_known(&self, channel: &ChannelName, rights: Rights, now: Instant) -> bool {
        let decision = self.decided.get(channel);
        decision.is_some_and(|it| it.until > now && it.is_about(rights))
    }

    fn take(&mut self, channel: ChannelName, decision: Decision) {
        let is_kept = self.kept.contains(&channel);
        let before = self.decided.insert(channel, decision);
        let said = |it: Decision| (it.asked, it.allowed);
        let is_new = before.is_none_or(|before| said(before) != said(decision));
        self.has_changed |= is_kept && is_new;
    }

    /// Lets a decision be asked for again now, if it is not about all of these rights.
    fn doubt(&mut self, channel: &ChannelName, rights: Rights, now: Instant) -> bool {
        let decision = self.decided.get_mut(channel);
        let doubted = decision.filter(|it| !it.is_about(rights) && it.until > now);
        doubted.map(|it| it.until = now).is_some()
    }

    /// Forgets decisions if there are too many.
    fn trim(&mut self) {
        if self.decided.len() > self.kept.len() + DECISIONS {
            let kept = &self.kept;
            self.decided.retain(|channel, _| kept.contains(channel));
        }
    }

    /// When a decision about a channel that the session is in is to be asked for. `None`: there is nothing to ask for.
    fn next(&self, now: Instant) -> Option<Instant> {
        let kept = self.kept.iter();
        kept.map(|channel| self.decided.get(channel).map_or(now, |it| it.until))
            .min()
    }

    /// The channels whose decisions are to be asked for now.
    fn due(&self, now: Instant) -> Vec<ChannelName> {
        let is_due = |channel: &&ChannelName| !self.is_known(channel, Rights::NONE, now + TOGETHER);
        let due = self.kept.iter().filter(is_due);
        due.take(CHANNELS).cloned().collect()
    }
}

impl Decision {
    fn is_about(&self, rights: Rights) -> bool {
        rights.without(self.asked) == Rights::NONE
    }
}

/// Keeps the decision about a channel up to date, until this is dropped.
pub(super) struct Kept {
    shared: Arc<Shared>,
    channel: ChannelName,
}

impl Kept {
    /// Lets the hook be asked again if the rules leave more to it than it was asked about.
    fn doubt(&self, rights: Rights) {
        let mut state = self.shared.state.lock();
        if state.doubt(&self.channel, rights, Instant::now()) {
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.shared.state.lock().kept.remove(&self.channel);
    }
}

impl Decisions {
    fn begin(
        services: &Services,
        hook: &Arc<Hook>,
        connection: &Arc<Connection>,
        user: &UserId,
        session: &SessionId,
    ) -> Self {
        let shared = Arc::new(Shared {
            hook: Arc::clone(hook),
            access: Arc::clone(&services.access),
            user: user.clone(),
            session: session.clone(),
            connector: services.routes.connector().to_owned(),
            connection: Arc::clone(connection),
            state: Mutex::default(),
            changed: Notify::new(),
        });
        let asking = tokio::spawn(keep_asking(Arc::clone(&shared)));
        Self {
            shared,
            _asking: AbortOnDropHandle::new(asking),
        }
    }

    /// What is allowed in a channel of what the hook decides. What it was not asked about yet is as `before`.
    pub(super) fn allowed(&self, channel: &ChannelName, before: Rights) -> Rights {
        let state = self.shared.state.lock();
        state
            .decided
            .get(channel)
            .map_or(before, |it| it.allowed.or(before.without(it.asked)))
    }

    fn keep(&self, channel: &ChannelName) -> Kept {
        self.shared.state.lock().kept.insert(channel.clone());
        self.shared.changed.notify_one();
        Kept {
            shared: Arc::clone(&self.shared),
            channel: channel.clone(),
        }
    }

    /// How many decisions are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shared.state.lock().decided.len()
    }

    /// True if a decision about a channel that the session is in has changed since the last call.
    pub(super) fn take_change(&self) -> bool {
        mem::take(&mut self.shared.state.lock().has_changed)
    }
}

impl Shared {
    /// Those channels about which the hook has to decide something, and what.
    fn questions(&self, channels: Vec<ChannelName>) -> Vec<(ChannelName, Rights)> {
        let channels = channels.into_iter().map(|channel| {
            let rights = self.access.to_decide(&channel, &self.user);
            (channel, rights)
        });
        channels.filter(|(_, it)| *it != Rights::NONE).collect()
    }

    async fn ask(
        &self,
        questions: Vec<(ChannelName, Rights)>,
        deadline: Instant,
    ) -> Result<(), HookError> {
        let request = AuthorizeChannelsRequest {
            user: self.user.to_string(),
            session: self.session.to_string(),
            connector: self.connector.clone(),
            ..AuthorizeChannelsRequest::default()
        };
        let answer = self.hook.channels(request, &questions, deadline).await?;
        // Otherwise all sessions that came at once would ask again at once.
        let ttl = answer.ttl.mul_f64(0.9 + 0.1 * fastrand::f64());
        let until = Instant::now() + ttl;
        let has_changed = {
            let mut state = self.state.lock();
            for (channel, asked) in questions {
                let decision = Decision {
                    asked,
                    allowed: answer.allowed(&channel).and(asked),
                    until,
                };
                state.take(channel, decision);
            }
            state.trim();
            state.has_changed
        };
        if has_changed {
            self.connection.note_out();
        }
        self.changed.notify_one();
        Ok(())
    }
}

/// Asks again as decisions about the session's channels end.
async fn keep_asking(shared: Arc<Shared>) {
    let mut pause = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let next = shared.state.lock().next(Instant::now());
        let is_due = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = is_due => {}
            () = shared.changed.notified() => continue,
        }
        let asked = {
            let Some(_turn) = shared.hook.unhurried().await else {
                return;
            };
            let due = shared.state.lock().due(Instant::now());
            let questions = shared.questions(due);
            match questions.is_empty() {
                // The session has left, or the rules do not say "hook" any more, which the session is about to notice.
                true => None,
                false => Some(shared.ask(questions, Instant::now() + CALL).await),
            }
        };
        match asked {
            Some(Ok(())) => pause.reset(),
            Some(Err(_)) | None => pause.wait().await,
        }
    }
}

impl Handlers {
    /// Asks the hook about those of these channels about which it has to decide something, and about which nothing is known. All in
    /// one call, if they are 100 at most; otherwise the rest is asked about later.
    ///
    /// # Errors
    /// The client may try again: nobody could be asked.
    pub(super) async fn decide<'a>(
        &self,
        decisions: &mut Option<Box<Decisions>>,
        (user, session): (&UserId, &SessionId),
        channels: impl Iterator<Item = &'a ChannelName>,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let access = &self.services.access;
        let Some(hook) = access.hook() else {
            return Ok(());
        };
        let now = Instant::now();
        let mut questions: Vec<(ChannelName, Rights)> = Vec::new();
        for channel in channels {
            let rights = access.to_decide(channel, user);
            let known = decisions.as_ref();
            let is_known =
                known.is_some_and(|it| it.shared.state.lock().is_known(channel, rights, now));
            let is_asked = questions.iter().any(|(it, _)| it == channel);
            if rights != Rights::NONE && !is_known && !is_asked {
                questions.push((channel.clone(), rights));
            }
        }
        questions.truncate(CHANNELS);
        if questions.is_empty() {
            return Ok(());
        }
        let decisions = decisions.get_or_insert_with(|| {
            let (services, connection) = (&self.services, &self.connection);
            Box::new(Decisions::begin(services, hook, connection, user, session))
        });
        let asked = decisions.shared.ask(questions, deadline).await;
        asked.map_err(|error| error.reason().into())
    }

    /// Asks the hook about these channels of the session, as [`decide`](Self::decide) does.
    pub(super) async fn decide_about(
        &mut self,
        channels: &[&ChannelName],
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let identity = session.identity.as_mut();
        let mut decisions = identity.and_then(|it| it.decisions.take());
        let (user, id) = (session.user.id.clone(), session.id.clone());
        let channels = channels.iter().copied();
        let decided = self.decide(&mut decisions, (&user, &id), channels, deadline);
        let decided = decided.await;
        if let Some(session) = &mut self.session
            && decisions.is_some()
        {
            session.identity.get_or_insert_default().decisions = decisions;
        }
        decided
    }

    /// Asks the hook about a right in a channel of the session, if the session does not have it and the hook was not asked yet.
    pub(super) async fn decide_right(
        &mut self,
        channel: Option<&ChannelName>,
        right: Right,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let joined = self.session.as_ref().and_then(|it| it.joined(channel));
        let Some(joined) = joined.filter(|joined| !joined.rights.has(right)) else {
            return Ok(());
        };
        let channel = joined.membership.channel().clone();
        self.decide_about(&[&channel], deadline).await?;
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let mut channels = mem::take(&mut session.channels);
        let joined = channels.iter_mut();
        for joined in joined.filter(|it| *it.membership.channel() == channel) {
            joined.judge(&self.services.access, session);
        }
        session.channels = channels;
        Ok(())
    }

    /// Lets the decisions about the session's channels be kept up to date.
    pub(super) fn keep_decisions(&mut self) {
        let Self {
            services,
            connection,
            session: Some(session),
            ..
        } = self
        else {
            return;
        };
        let Some(hook) = services.access.hook() else {
            return;
        };
        let Session {
            channels,
            identity,
            user,
            id,
            ..
        } = session;
        for JoinedChannel {
            membership, kept, ..
        } in channels
        {
            let channel = membership.channel();
            let rights = services.access.to_decide(channel, &user.id);
            if rights == Rights::NONE {
                *kept = None;
            } else if let Some(kept) = kept {
                kept.doubt(rights);
            } else {
                let begin = || Decisions::begin(services, hook, connection, &user.id, id);
                let decisions = &mut identity.get_or_insert_default().decisions;
                let decisions = decisions.get_or_insert_with(|| Box::new(begin()));
                *kept = Some(Box::new(decisions.keep(channel)));
            }
        }
    }
}
