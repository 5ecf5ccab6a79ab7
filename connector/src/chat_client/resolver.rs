//! Keeps the endpoints equal to what `--chat` names: each name is resolved again every ten seconds, and each address behind
//! it is an endpoint of its own.

use super::chat::Chat;
use super::endpoint::Endpoint;
use super::ordered_stream;
use super::prover::keep_proving;
use super::source::Credentials;
use super::source::{ChatService, Source};
use crate::dial::{CONNECT, Dialer, is_encrypted};
use crate::grpc::{RESOLVE_AGAIN, TransportError, resolve, transport};
use http::Uri;
use runtime::tls::ClientTls;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt, service_fn};

/// Begins to use an endpoint. `address` is as for [`Endpoint::new`].
pub(super) fn start(
    name: String,
    address: &str,
    service: ChatService,
    chat: &Arc<Chat>,
) -> Arc<Endpoint> {
    let client = Arc::downgrade(chat);
    let run = Box::new(move |line, endpoint| {
        tokio::spawn(ordered_stream::run(line, endpoint, client.clone()));
    });
    let endpoint = Endpoint::new(name, address, service, chat.prover.is_some(), run);
    if let Some(prover) = &chat.prover {
        let (endpoint, prover) = (Arc::clone(&endpoint), Arc::clone(prover));
        tokio::spawn(keep_proving(endpoint, prover, Arc::downgrade(chat)));
    }
    endpoint
}

/// Keeps the endpoints of `chat` equal to what the source says, as long as `chat` lives.
pub(super) fn follow(source: Source, chat: &Arc<Chat>) {
    match source {
        Source::InProcess(service) => {
            let endpoint = start("in process".into(), "", service, chat);
            chat.endpoints.write().push(endpoint);
        }
        Source::Addresses(uris, credentials) => {
            tokio::spawn(keep_resolving(uris, credentials, Arc::downgrade(chat)));
        }
    }
}

/// Endpoints by the place of their name in the source, and by address.
pub(super) type Known = BTreeMap<(usize, SocketAddr), Arc<Endpoint>>;

async fn keep_resolving(uris: Vec<Uri>, credentials: Credentials, chat: Weak<Chat>) {
    let mut known = Known::new();
    loop {
        for (index, uri) in uris.iter().enumerate() {
            // A name that can't be resolved now keeps the addresses that it had.
            let found = match resolve(uri).await {
                Ok(found) => found,
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
            update(&mut known, (index, uri), &found, &credentials, &chat);
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
    credentials: &Credentials,
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
            let service = connect(uri, address, credentials.tls.as_ref());
            let service = match &credentials.token {
                Some(token) => token.shown_to(service),
                None => service,
            };
            start(name, &canonical.to_string(), service, chat)
        });
    }
    *chat.endpoints.write() = known.values().cloned().collect();
    chat.note_availability();
}

/// A connection that is made when it is needed, and made again when it broke.
fn connect(uri: &Uri, address: SocketAddr, tls: Option<&Arc<ClientTls>>) -> ChatService {
    let endpoint = transport(uri, address)
        .tcp_nodelay(true)
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true);
    let channel = if is_encrypted(uri) {
        let dialer = Arc::new(Dialer::new(uri, address, tls));
        endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
            let dialer = Arc::clone(&dialer);
            async move { dialer.connect().await }
        }))
    } else {
        endpoint.connect_lazy()
    };
    BoxCloneSyncService::new(channel.map_err(TransportError::new))
}
