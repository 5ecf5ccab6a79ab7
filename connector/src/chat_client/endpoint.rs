//! One chat, as a connector sees it.

use super::line::Line;
use super::proof::Proof;
use super::source::ChatService;
use channel_store::Shard;
use parking_lot::Mutex;
use proto::chat::v1::chat_service_client::ChatServiceClient;
use proto::connector::v1::session_service_client::SessionServiceClient;
use std::collections::BTreeMap;
use std::sync::Arc;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Begins to move a line of an endpoint.
pub(super) type Run = Box<dyn Fn(Arc<Line>, Arc<Endpoint>) + Send + Sync>;

/// One chat.
pub(super) struct Endpoint {
    pub(super) name: String,
    /// The hash of its address, which takes part in the choice of an endpoint for a channel.
    seed: u64,
    /// The line whose stream shows whether the endpoint is up. Without a cluster it takes all sends.
    pub(super) line: Arc<Line>,
    /// In a cluster, the lines that take the sends: one for each server.
    by_shard: Mutex<BTreeMap<Shard, Arc<Line>>>,
    /// Runs a line of this endpoint.
    run: Run,
    service: ChatService,
    pub(super) proof: Proof,
    /// Why the last attempt brought no stream; `None`: it brought one, or there was no attempt yet.
    trouble: Mutex<Option<String>>,
}

impl Endpoint {
    /// `address` must be the same on all connectors, however their operators write it. Without a proof the endpoint is
    /// not used, if it `needs_proof`. `run` is called for each line that begins.
    pub(super) fn new(
        name: String,
        address: &str,
        service: ChatService,
        needs_proof: bool,
        run: Run,
    ) -> Arc<Self> {
        let endpoint = Arc::new(Self {
            name,
            seed: xxh3_64(address.as_bytes()),
            line: Line::new(needs_proof),
            by_shard: Mutex::default(),
            run,
            service,
            proof: Proof::default(),
            trouble: Mutex::default(),
        });
        (endpoint.run)(Arc::clone(&endpoint.line), Arc::clone(&endpoint));
        endpoint
    }

    /// How well this endpoint suits a channel. All connectors must agree about that, whatever their builds. So the hash
    /// is a specified one: XXH3 of the channel, seeded with XXH3 of the address.
    pub(super) fn weight(&self, channel: &str) -> u64 {
        xxh3_64_with_seed(channel.as_bytes(), self.seed)
    }

    /// The line for sends to a shard.
    pub(super) fn line_of(self: &Arc<Self>, shard: Shard) -> Arc<Line> {
        if shard == Shard::default() || self.line.is_retired() {
            return Arc::clone(&self.line);
        }
        let mut lines = self.by_shard.lock();
        let line = lines.entry(shard).or_insert_with(|| {
            let line = Line::new(false);
            (self.run)(Arc::clone(&line), Arc::clone(self));
            line
        });
        Arc::clone(line)
    }

    /// From now on the endpoint may not be used. The sends in its lines go to another endpoint, or wait.
    pub(super) fn distrust(&self) {
        self.line.distrust();
        for line in self.by_shard.lock().values() {
            line.end_stream();
        }
    }

    /// The address is not in use any more. The lines end when they are empty.
    pub(super) fn retire(&self) {
        self.line.retire();
        for line in self.by_shard.lock().values() {
            line.retire();
        }
    }

    /// What back ends can call, too.
    pub(super) fn client(&self) -> ChatServiceClient<ChatService> {
        ChatServiceClient::new(self.service.clone()).max_decoding_message_size(16 << 20)
    }

    /// What only connectors call.
    pub(super) fn sessions(&self) -> SessionServiceClient<ChatService> {
        SessionServiceClient::new(self.service.clone()).max_decoding_message_size(16 << 20)
    }
}

impl Endpoint {
    /// Notes why the last attempt brought no stream, or that it brought one.
    pub(super) fn note_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock() = trouble;
    }

    /// The endpoint's name and what is wrong with it; `None` while its stream is up.
    pub(super) fn trouble(&self) -> Option<String> {
        if self.line.is_open() {
            return None;
        }
        let trouble = self.trouble.lock().clone();
        let trouble = trouble.unwrap_or_else(|| "no answer yet".to_owned());
        Some(format!("{}: {trouble}", self.name))
    }
}
