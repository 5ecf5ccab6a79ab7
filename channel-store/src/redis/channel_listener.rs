//! What comes on the topic of one channel.

use super::net::Listener;
use super::run::Brought;
use crate::feed::FeedSink;
use crate::name::ChannelName;
use crate::publication::Epoch;
use crate::server::FeedConnection;
use crate::traced::{Traced, arrive};
use parking_lot::Mutex;
use std::sync::Arc;

/// Gives the publications of one channel to the sink.
pub(super) struct ChannelListener {
    channel: ChannelName,
    sink: Arc<dyn FeedSink>,
    last: Mutex<Last>,
}

/// What the topic has brought last.
#[derive(Default)]
struct Last {
    /// The epoch of the last run. The next one most likely has it, too, and then shares its text.
    epoch: Option<Epoch>,
    /// Which parts of the next message belong to traces.
    marks: Vec<Traced>,
}

impl ChannelListener {
    pub(super) fn new(channel: ChannelName, sink: Arc<dyn FeedSink>) -> Arc<Self> {
        Arc::new(Self {
            channel,
            sink,
            last: Mutex::default(),
        })
    }
}

impl Listener for ChannelListener {
    fn subscribed(&self, connection: &FeedConnection) {
        self.sink.subscribed(connection, &self.channel);
    }

    fn message(&self, connection: &FeedConnection, content: Vec<u8>) {
        let (brought, marks) = {
            let mut last = self.last.lock();
            let brought = Brought::parse(content, last.epoch.as_ref());
            if let Some(epoch) = brought.as_ref().and_then(Brought::epoch)
                && last.epoch.as_ref() != Some(epoch)
            {
                last.epoch = Some(epoch.clone());
            }
            (brought, std::mem::take(&mut last.marks))
        };
        let (_steps, traced) = arrive(&self.channel, &marks);
        if !traced.is_empty() {
            self.sink.traced(&self.channel, traced);
        }
        match brought {
            Some(Brought::Run(mut run)) => {
                self.sink.publications(connection, &self.channel, &mut run);
            }
            Some(Brought::Ephemeral(it)) => self.sink.ephemeral(connection, &self.channel, it),
            Some(Brought::Marks(marks)) => self.last.lock().marks = marks,
            // A message that can't be read leaves a gap at worst, which the next publication shows.
            None => {}
        }
    }
}
