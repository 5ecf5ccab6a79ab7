//! The feeds that follow a channel, and what they still have to be told.
//!
//! A publication is put into its channel's outbox under the lock under which it is appended to the log, so the outbox has the
//! order of the log. Sinks are called without that lock, because a sink may call its feed. They get things in order all the
//! same, because one caller at a time has the channel's **turn**. The caller that fills an empty outbox takes it, and delivers
//! until the outbox is empty again. What others add meanwhile is delivered by the same caller, and they do not wait for it.
//!
//! A turn accepts [`TURN`] publications. A caller that wants to add more waits until the turn is over. So the outbox is bounded, and
//! no caller delivers for others for ever.

use crate::feed::FeedSink;
use crate::name::ChannelName;
use crate::publication::{Ephemeral, Publication};
use crate::server::FeedConnection;
use crate::traced::{Traced, arrive};
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use traces::TraceContext;

/// A turn is full when this many publications were added during it.
const TURN: usize = 64;

/// A channel's followers and its deliveries that wait.
#[derive(Default)]
pub(super) struct Outbox {
    followers: Vec<Follower>,
    waiting: VecDeque<Delivery>,
    /// True while a caller has the turn.
    is_delivering: bool,
    /// Publications that were added since the outbox was empty and nobody had the turn.
    added: usize,
}

/// A feed that follows the channel. The feed holds the sink for longer than the outbox does, so no sink is dropped under the
/// store's lock.
#[derive(Clone)]
pub(super) struct Follower {
    pub(super) feed: u64,
    pub(super) sink: Arc<dyn FeedSink>,
    /// True if the channel expires as if this follower were not there.
    pub(super) only_looks: bool,
}

/// Something to tell some followers.
pub(super) struct Delivery {
    to: Vec<Follower>,
    connection: FeedConnection,
    content: Content,
}

enum Content {
    /// They are subscribed.
    Subscribed,
    /// Publications that follow one another, and those of them that belong to traces.
    Run(Vec<Publication>, Vec<Traced>),
    Ephemeral(Ephemeral, Option<Traced>),
}

impl Outbox {
    /// Adds a follower. It is told that it is subscribed, and then everything that is published.
    pub(super) fn follow(&mut self, follower: &Follower, connection: &FeedConnection) {
        self.unfollow(follower.feed);
        self.followers.push(follower.clone());
        self.confirm(vec![follower.clone()], connection);
    }

    /// Takes a follower out. It is told nothing more, except for what is being delivered right now.
    pub(super) fn unfollow(&mut self, feed: u64) {
        self.followers.retain(|it| it.feed != feed);
        self.waiting.retain_mut(|delivery| {
            delivery.to.retain(|it| it.feed != feed);
            !delivery.to.is_empty()
        });
    }

    /// Tells every follower that it is subscribed on another connection.
    #[cfg(feature = "testing")]
    pub(super) fn reconnect(&mut self, connection: &FeedConnection) {
        if !self.followers.is_empty() {
            self.confirm(self.followers.clone(), connection);
        }
    }

    fn confirm(&mut self, to: Vec<Follower>, connection: &FeedConnection) {
        self.waiting.push_back(Delivery {
            to,
            connection: connection.clone(),
            content: Content::Subscribed,
        });
    }

    /// Adds a publication. Publications that wait one after the other are delivered as one run.
    pub(super) fn publish(
        &mut self,
        publication: Publication,
        context: Option<TraceContext>,
        connection: &FeedConnection,
    ) {
        if self.followers.is_empty() {
            return;
        }
        let traced = context.map(|context| Traced {
            offset: Some(publication.position.offset),
            context,
        });
        // A follower that comes or reconnects gets a confirmation, which ends the run. So the followers are the same.
        if let Some(Delivery {
            content: Content::Run(run, marks),
            ..
        }) = self.waiting.back_mut()
        {
            self.added += 1;
            marks.extend(traced);
            return run.push(publication);
        }
        let marks = traced.into_iter().collect();
        self.add(Content::Run(vec![publication], marks), connection);
    }

    /// Adds an ephemeral message, which ends the run before it.
    pub(super) fn ephemeral(
        &mut self,
        ephemeral: Ephemeral,
        context: Option<TraceContext>,
        connection: &FeedConnection,
    ) {
        if !self.followers.is_empty() {
            let traced = context.map(|context| Traced {
                offset: None,
                context,
            });
            self.add(Content::Ephemeral(ephemeral, traced), connection);
        }
    }

    fn add(&mut self, content: Content, connection: &FeedConnection) {
        self.added += 1;
        self.waiting.push_back(Delivery {
            to: self.followers.clone(),
            connection: connection.clone(),
            content,
        });
    }

    pub(super) fn followers(&self) -> usize {
        self.followers.len()
    }

    /// True if nothing more may be published before the turn is over.
    pub(super) fn is_full(&self) -> bool {
        self.is_delivering && self.added >= TURN
    }

    /// Takes the turn if there is something to deliver and nobody has the turn. True: the caller has to deliver now.
    pub(super) fn take_turn(&mut self) -> bool {
        !self.waiting.is_empty() && !mem::replace(&mut self.is_delivering, true)
    }

    /// What the caller that has the turn delivers next. `None` ends the turn, because the outbox is empty.
    pub(super) fn next(&mut self) -> Option<Delivery> {
        let next = self.waiting.pop_front();
        if next.is_none() {
            self.end_turn();
        }
        next
    }

    /// Ends the turn, whatever still waits: the next one delivers it.
    pub(super) fn end_turn(&mut self) {
        self.is_delivering = false;
        self.added = 0;
    }

    /// True if no follower keeps the channel, and nothing is being delivered.
    pub(super) fn is_idle(&self) -> bool {
        self.followers.iter().all(|it| it.only_looks) && !self.is_delivering
    }
}

impl Delivery {
    /// Tells the followers. Call it without the store's lock.
    pub(super) fn deliver(self, channel: &ChannelName) {
        for Follower { sink, .. } in &self.to {
            match &self.content {
                Content::Subscribed => sink.subscribed(&self.connection, channel),
                Content::Run(run, marks) => {
                    let (_steps, traced) = arrive(channel, marks);
                    if !traced.is_empty() {
                        sink.traced(channel, traced);
                    }
                    let mut run = run.iter().cloned();
                    sink.publications(&self.connection, channel, &mut run);
                }
                Content::Ephemeral(it, mark) => {
                    let (_steps, traced) = arrive(channel, mark.as_slice());
                    if !traced.is_empty() {
                        sink.traced(channel, traced);
                    }
                    sink.ephemeral(&self.connection, channel, it.clone());
                }
            }
        }
    }
}
