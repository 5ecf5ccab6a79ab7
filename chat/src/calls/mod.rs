//! What chat does with channels, for back ends and connectors alike. `api` and `gateway` convert the messages of their
//! contracts, and these calls do the work.

pub(crate) mod fields;
pub(crate) mod many;
pub(crate) mod send_stream;

use crate::access::Permit;
use crate::cleanup::Cleanup;
use crate::config::Limits;
use crate::error::Error;
use crate::metering;
use crate::port::connections::Caller;
use crate::port::streams::Streams;
use crate::watch::{Plan, WatchPlaces, Watcher, Watching};
use channel_store::probe::{Probe, Probed, StoreSettings};
use channel_store::{
    ChannelName, ChannelStore, Join, Joined, Leave, MembersPage, Membership, Position, Publish,
    Published,
};
use futures_util::future::{BoxFuture, FutureExt};
use proto::chat::v1;
use runtime::Shutdown;
use send_stream::{Contract, SendStream};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// The calls of both contracts. Nothing is kept between calls that would be missed, so any number of processes can share
/// a store.
pub(crate) struct Calls {
    pub(crate) store: Arc<dyn ChannelStore>,
    cleanup: Arc<Cleanup>,
    limits: Limits,
    shutdown: Shutdown,
    streams: Arc<Streams>,
    watching: Arc<Watching>,
    watches: WatchPlaces,
    /// The caller of streams that come without a connection.
    in_process: Arc<Caller>,
}

impl Calls {
    pub(crate) fn new(
        store: Arc<dyn ChannelStore>,
        cleanup: Arc<Cleanup>,
        watching: Arc<Watching>,
        limits: Limits,
        shutdown: Shutdown,
    ) -> Arc<Self> {
        Arc::new(Self {
            watches: WatchPlaces::new(limits.watches),
            watching,
            streams: Streams::new(limits.streams),
            in_process: Caller::in_process(),
            store,
            cleanup,
            limits,
            shutdown,
        })
    }

    /// The hash of the rules of channels, as text.
    pub(crate) fn rules_hash(&self) -> String {
        self.limits.rules.hash()
    }

    /// The largest body of a message, in bytes.
    pub(crate) fn message_limit(&self) -> usize {
        self.limits.message
    }

    /// A detached member is refused if this process could not end its membership in time.
    pub(crate) async fn join(&self, join: Join) -> Result<Joined, Error> {
        let channel = join.channel.clone();
        let is_detached = matches!(join.membership, Membership::Detached);
        let stay = join.stay.unwrap_or_else(|| self.store.detached_life());
        if is_detached && !self.cleanup.has_room_for_detached(&channel) {
            return Err(Error::Overloaded);
        }
        let joined = self.store.join(join).await?;
        self.cleanup.check_later(&channel);
        if is_detached {
            self.cleanup.detached_has_joined(&channel, stay);
        }
        Ok(joined)
    }

    /// False if there was no such membership.
    pub(crate) async fn leave(&self, leave: Leave) -> Result<bool, Error> {
        Ok(self.store.leave(leave).await?)
    }

    pub(crate) async fn publish(&self, publish: Publish) -> Result<Published, Error> {
        let publish = self.limits.rules.admit(publish)?;
        let published = self.store.publish(publish).await?;
        metering::sent(&published);
        Ok(published)
    }

    /// Begins a stream of sends, which keeps a place of this caller until it ends.
    pub(crate) fn send_stream<C: Contract>(
        &self,
        request: Request<Streaming<C::Request>>,
    ) -> Result<SendStream<C>, Error> {
        let caller = Caller::of(request.extensions());
        let caller = caller.as_ref().unwrap_or(&self.in_process);
        let place = self.streams.enter(caller)?;
        let permit = Permit::of(request.extensions());
        let requests = request.into_inner();
        let publisher = self.store.publisher()?;
        Ok(SendStream::new(
            requests,
            publisher,
            self.limits.clone(),
            self.ending(caller),
            permit,
            place,
        ))
    }

    /// Begins to watch channels, which keeps a place of this caller until it ends.
    pub(crate) fn watch(&self, caller: Option<&Arc<Caller>>, plan: Plan) -> Result<Watcher, Error> {
        let caller = caller.unwrap_or(&self.in_process);
        let place = self.watches.enter(caller)?;
        self.watching.watch(plan, place, self.ending(caller))
    }

    /// Returns once the streams of a caller have to end, with the reason.
    fn ending(&self, caller: &Arc<Caller>) -> BoxFuture<'static, Error> {
        let (shutdown, caller) = (self.shutdown.clone(), Arc::clone(caller));
        let ending = async move {
            tokio::select! {
                biased;
                () = shutdown.requested() => Error::ShuttingDown,
                () = caller.retired() => Error::ConnectionTooOld,
            }
        };
        ending.boxed()
    }

    /// `token`: the store's token of the page, `None` for the first one.
    pub(crate) async fn members(
        &self,
        channel: &ChannelName,
        token: Option<&str>,
        size: usize,
    ) -> Result<MembersPage, Error> {
        let page = self.store.members(channel, token, size).await?;
        if token.is_none() {
            self.cleanup.check_later(channel);
        }
        Ok(page)
    }

    /// In the order of the sets, with the settings of the store.
    pub(crate) async fn probe(&self, probe: &Probe) -> (Vec<Probed>, StoreSettings) {
        (self.store.probe(probe).await, self.store.settings())
    }
}

/// A position as both contracts show it.
pub(crate) fn shown(position: &Position) -> v1::Position {
    v1::Position {
        epoch: position.epoch.as_str().to_owned(),
        offset: position.offset,
    }
}

/// The end of a call. A failure is counted by its reason.
pub(crate) fn respond<T>(answer: Result<T, Error>) -> Result<Response<T>, Status> {
    answer.map(Response::new).map_err(|error| {
        metering::refused(&error);
        error.into()
    })
}
