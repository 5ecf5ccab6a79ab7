//! Where the chats are. Each name is resolved again every ten seconds, and each address behind it is an endpoint.

use super::Chat;
use super::ordered_stream::Lane;
use super::prover::{Proof, keep_proving};
use channel_store::Shard;
use http::Uri;
use parking_lot::Mutex;
use proto::chat::v1::chat_service_client::ChatServiceClient;
use proto::connector::v1::session_service_client::SessionServiceClient;
use runtime::cli::redact;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tonic::transport::Endpoint as Transport;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const RESOLVE_AGAIN: Duration = Duration::from_secs(10);

/// Takes gRPC calls: a connection to a chat, or the service of a chat in the same process.
pub type ChatService = BoxCloneSyncService<
    http::Request<tonic::body::Body>,
    http::Response<tonic::body::Body>,
    TransportError,
>;

/// The connection to a chat failed. This is a type of its own because futures that name a boxed error are hard to prove
/// `Send`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl TransportError {
    /// Wraps the error of any transport.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// Where a connector finds chat.
pub enum Source {
    /// Chats in other processes, behind these names.
    Addresses(Vec<Uri>),
    /// A chat in the same process.
    InProcess(ChatService),
}

/// An address in `--chat` that can't be used. No message shows a user or a password.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The address is not of the form `http://host:port`.
    #[error("{0:?} is not a chat address such as http://127.0.0.1:4001")]
    NoAddress(String),
    /// The address asks for TLS.
    #[error(
        "{0:?}: connectors speak to chat without TLS; use http:// as in http://127.0.0.1:4001, inside a network that you trust, or \
         that encrypts"
    )]
    Encrypted(String),
    /// The address names a user.
    #[error(
        "{0:?}: chat asks for no user and no password; use an address such as http://127.0.0.1:4001"
    )]
    Credentials(String),
}

impl Source {
    /// Reads `--chat`.
    ///
    /// # Errors
    /// [`SourceError`] names the first address that can't be used.
    pub fn parse(addresses: &[String]) -> Result<Self, SourceError> {
        let uris = addresses.iter().map(|address| uri(address));
        Ok(Self::Addresses(uris.collect::<Result<_, _>>()?))
    }
}

fn uri(address: &str) -> Result<Uri, SourceError> {
    let shown = redact(address);
    let Ok(uri) = address.parse::<Uri>() else {
        return Err(SourceError::NoAddress(shown));
    };
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
            Err(SourceError::Credentials(shown))
        }
        (Some("http"), Some(authority)) if !authority.host().is_empty() => Ok(uri),
        (Some("https"), _) => Err(SourceError::Encrypted(shown)),
        _ => Err(SourceError::NoAddress(shown)),
    }
}

/// One chat.
pub(super) struct Endpoint {
    pub(super) name: String,
    /// The hash of its address, which takes part in the choice of an endpoint for a channel.
    seed: u64,
    /// The line whose stream shows whether the endpoint is up. Without a cluster it takes all sends.
    pub(super) lane: Arc<Lane>,
    /// In a cluster, the lines that take the sends: one for each server.
    by_shard: Mutex<BTreeMap<Shard, Arc<Lane>>>,
    chat: Weak<Chat>,
    service: ChatService,
    pub(super) proof: Proof,
    /// Why the last attempt brought no stream; `None`: it brought one, or there was no attempt yet.
    trouble: Mutex<Option<String>>,
}

impl Endpoint {
    /// `address` must be the same on all connectors, however their operators write it.
    pub(super) fn start(
        name: String,
        address: &str,
        service: ChatService,
        chat: &Arc<Chat>,
    ) -> Arc<Self> {
        let endpoint = Arc::new(Self {
            name,
            seed: xxh3_64(address.as_bytes()),
            lane: Lane::new(chat.prover.is_some()),
            by_shard: Mutex::default(),
            chat: Arc::downgrade(chat),
            service,
            proof: Proof::default(),
            trouble: Mutex::default(),
        });
        let lane = Arc::clone(&endpoint.lane);
        tokio::spawn(Lane::run(lane, Arc::clone(&endpoint), Arc::downgrade(chat)));
        if let Some(prover) = &chat.prover {
            let (endpoint, prover) = (Arc::clone(&endpoint), Arc::clone(prover));
            tokio::spawn(keep_proving(endpoint, prover, Arc::downgrade(chat)));
        }
        endpoint
    }

    /// How well this endpoint suits a channel. All connectors must agree about that, whatever their builds. So the hash
    /// is a specified one: XXH3 of the channel, seeded with XXH3 of the address.
    pub(super) fn weight(&self, channel: &str) -> u64 {
        xxh3_64_with_seed(channel.as_bytes(), self.seed)
    }

    /// The line for sends to a shard.
    pub(super) fn lane_of(self: &Arc<Self>, shard: Shard) -> Arc<Lane> {
        if shard == Shard::default() || self.lane.is_retired() {
            return Arc::clone(&self.lane);
        }
        let mut lanes = self.by_shard.lock();
        let lane = lanes.entry(shard).or_insert_with(|| {
            let lane = Lane::new(false);
            let run = Lane::run(Arc::clone(&lane), Arc::clone(self), self.chat.clone());
            tokio::spawn(run);
            lane
        });
        Arc::clone(lane)
    }

    /// From now on the endpoint may not be used. The sends in its lines go to another endpoint, or wait.
    pub(super) fn distrust(&self) {
        self.lane.distrust();
        for lane in self.by_shard.lock().values() {
            lane.end_stream();
        }
    }

    /// The address is not in use any more. The lines end when they are empty.
    pub(super) fn retire(&self) {
        self.lane.retire();
        for lane in self.by_shard.lock().values() {
            lane.retire();
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
        if self.lane.is_open() {
            return None;
        }
        let trouble = self.trouble.lock().clone();
        let trouble = trouble.unwrap_or_else(|| "no answer yet".to_owned());
        Some(format!("{}: {trouble}", self.name))
    }
}

/// Why a call failed, in words: the innermost cause, which is the system's if the network failed.
pub(super) fn words(status: &tonic::Status) -> String {
    let mut source = std::error::Error::source(status);
    let mut last = None;
    while let Some(error) = source {
        last = Some(error.to_string());
        source = error.source();
    }
    let words = last.unwrap_or_else(|| status.message().to_owned());
    if words.is_empty() {
        format!("{:?}", status.code())
    } else {
        words
    }
}

/// Keeps the endpoints of `chat` equal to what the source says, as long as `chat` lives.
pub(super) fn follow(source: Source, chat: &Arc<Chat>) {
    match source {
        Source::InProcess(service) => {
            let endpoint = Endpoint::start("in process".into(), "", service, chat);
            chat.endpoints.write().push(endpoint);
        }
        Source::Addresses(uris) => {
            tokio::spawn(resolve(uris, Arc::downgrade(chat)));
        }
    }
}

/// Endpoints by the place of their name in the source, and by address.
pub(super) type Known = BTreeMap<(usize, SocketAddr), Arc<Endpoint>>;

async fn resolve(uris: Vec<Uri>, chat: Weak<Chat>) {
    let mut known = Known::new();
    loop {
        for (index, uri) in uris.iter().enumerate() {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let port = uri.port_u16().unwrap_or(80);
            // A name that can't be resolved now keeps the addresses that it had.
            let found: Vec<SocketAddr> = match tokio::net::lookup_host((host, port)).await {
                Ok(found) => found.collect(),
                Err(error) => {
                    tracing::debug!(%uri, %error, "can't resolve");
                    let Some(chat) = chat.upgrade() else { return };
                    let trouble = format!("{uri}: cannot resolve the name: {error}");
                    chat.unresolved.lock().insert(index, trouble);
                    continue;
                }
            };
            let Some(chat) = chat.upgrade() else { return };
            chat.unresolved.lock().remove(&index);
            update(&mut known, (index, uri), &found, &chat);
        }
        tokio::time::sleep(RESOLVE_AGAIN).await;
        if chat.strong_count() == 0 {
            return;
        }
    }
}

/// Takes the addresses behind a name.
pub(super) fn update(
    known: &mut Known,
    (index, uri): (usize, &Uri),
    found: &[SocketAddr],
    chat: &Arc<Chat>,
) {
    known.retain(|(of, address), endpoint| {
        let stays = *of != index || found.contains(address);
        if !stays {
            endpoint.retire();
        }
        stays
    });
    for &address in found {
        known.entry((index, address)).or_insert_with(|| {
            let name = format!("{uri} at {address}");
            tracing::debug!(endpoint = name, "new endpoint");
            // An IPv4 address may also be written as an IPv6 address.
            let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
            let service = connect(uri, address);
            Endpoint::start(name, &canonical.to_string(), service, chat)
        });
    }
    *chat.endpoints.write() = known.values().cloned().collect();
    chat.note_availability();
}

/// A connection that is made when it is needed, and made again when it broke.
fn connect(uri: &Uri, address: SocketAddr) -> ChatService {
    let channel = Transport::from_shared(format!("http://{address}"))
        .unwrap_or_else(|_| Transport::from_static("http://0.0.0.0:0"))
        .origin(uri.clone())
        .tcp_nodelay(true)
        .connect_timeout(super::TRY)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        .connect_lazy();
    BoxCloneSyncService::new(channel.map_err(TransportError::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str) -> String {
        let parsed = Source::parse(&[address.to_owned()]);
        parsed
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_its_reason_and_an_example() {
        for (wrong, reason) in [
            ("https://chat:4001", "without TLS"),
            ("http://user:secret@chat:4001", "no user and no password"),
            ("https://user:secret@chat", "no user and no password"),
            ("chat:4001", "is not a chat address"),
            ("", "is not a chat address"),
            ("ftp://chat", "is not a chat address"),
        ] {
            let text = refused(wrong);
            assert!(text.contains(reason), "{wrong}: {text}");
            assert!(text.contains("http://127.0.0.1:4001"), "{wrong}: {text}");
            assert!(!text.contains("secret"), "{text}");
        }
        for right in ["http://chat:4001", "http://[::1]:4001", "http://chat"] {
            assert_eq!(refused(right), "");
        }
    }
}
