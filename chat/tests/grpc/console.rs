//! The console's calls from other machines: nothing without a token.

use axum::body::{Body, to_bytes};
use channel_store::StoreOptions;
use channel_store::memory::MemoryStore;
use chat::{Access, Cleanup, Connectors, Limits, Watching, console, service};
use http::{Request, StatusCode};
use runtime::Shutdown;
use runtime::admin::{Peer, Router};
use tower::ServiceExt;

fn pages(access: &Access, is_guarded: bool) -> Router {
    let options = StoreOptions::default();
    let watching = Watching::new(options.channel_life);
    let store = MemoryStore::new(options);
    watching.follow(store.watch_feed(watching.clone()));
    let cleanup = Cleanup::begin(store.clone(), store.leases(), store.registry());
    let connectors = Connectors::begin(store.registry(), store.leases(), store.inboxes());
    let limits = Limits::default();
    let service = service(
        store,
        cleanup,
        connectors,
        watching,
        &limits,
        Shutdown::new(),
    );
    console(service, access, is_guarded).unwrap()
}

/// Lists channels. The status and the body.
async fn list(pages: Router, peer: Option<&str>, token: Option<&str>) -> (StatusCode, String) {
    let mut request = Request::post("/console/call/chat.v1.ChatService/ListChannels");
    request = request.header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut request = request.body(Body::from("{}")).unwrap();
    if let Some(peer) = peer {
        request.extensions_mut().insert(Peer(peer.parse().unwrap()));
    }
    let answer = pages.oneshot(request).await.unwrap();
    let status = answer.status();
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn without_tokens_only_this_machine_is_answered() {
    let open = Access::default();
    for here in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        let (status, body) = list(pages(&open, false), Some(here), None).await;
        assert_eq!(status, StatusCode::OK, "{here}: {body}");
    }
    for elsewhere in [Some("10.0.0.1:1"), Some("[fd00::1]:1"), None] {
        let (status, body) = list(pages(&open, false), elsewhere, None).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{elsewhere:?}");
        assert!(body.contains("--api-tokens-file"), "{body}");
        let error: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(error["code"], "permission_denied");
    }
}

#[tokio::test]
async fn a_port_that_is_guarded_by_certificates_alone_has_no_way_in_through_the_console() {
    let (status, _) = list(pages(&Access::default(), true), Some("127.0.0.1:1"), None).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn with_tokens_everybody_needs_one_wherever_the_call_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, crate::access::line("reader", "read")).unwrap();
    let access = Access::by_tokens(&file, std::time::Duration::from_secs(1)).unwrap();
    let token = crate::access::token("reader");
    for peer in ["127.0.0.1:1", "10.0.0.1:1"] {
        let (status, _) = list(pages(&access, true), Some(peer), None).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{peer}");
        let (status, body) = list(pages(&access, true), Some(peer), Some(&token)).await;
        assert_eq!(status, StatusCode::OK, "{peer}: {body}");
    }
}
