//! Pages may connect only if the connector serves them, or if the operator allows their origin.

use serde_json::json;
use std::fs;
use std::net::SocketAddr;
use testkit::SOON;
use testkit::json::Client;
use testkit::permit::Permit;
use testkit::polling::Http;
use testkit::service::Standalone;
use testkit::wait::eventually;
use testkit::websocket::upgrade_request;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The paths of the three protocols over WebSocket.
const PATHS: [&str; 3] = ["/", "/ws", "/socket.io/?EIO=4&transport=websocket"];

/// A request with this header.
fn with_origin(request: &str, origin: &str) -> String {
    let head = request
        .strip_suffix("\r\n")
        .expect("a head ends with an empty line");
    format!("{head}Origin: {origin}\r\n\r\n")
}

/// The status of an upgrade by a page of this origin.
async fn upgrade(address: SocketAddr, path: &str, origin: &str) -> u16 {
    let request = with_origin(&upgrade_request(address, path, KEY), origin);
    let mut http = Http::connect(address).await.expect("it listens");
    http.send(request.as_bytes()).await.expect("it reads");
    http.answer().await.expect("it answers").0
}

/// The head of the answer to a page's first poll.
async fn poll(address: SocketAddr, method: &str, origin: &str) -> (u16, String) {
    let path = "/socket.io/?EIO=4&transport=polling";
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nOrigin: {origin}\r\n\r\n");
    let mut http = Http::connect(address).await.expect("it listens");
    http.send(request.as_bytes()).await.expect("it reads");
    let (status, head, _) = http.answer_with_head().await.expect("it answers");
    (status, head.to_lowercase())
}

#[tokio::test]
async fn a_page_of_another_origin_can_neither_upgrade_nor_poll() {
    let _permit = Permit::shared().await;
    let system = Standalone::start().await;
    let address = system.address();
    let own = format!("http://{address}");
    for path in PATHS {
        for origin in [
            "http://evil.example",
            "null",
            "http://127.0.0.1",
            "https://127.0.0.1:1",
        ] {
            assert_eq!(upgrade(address, path, origin).await, 403, "{path} {origin}");
        }
        assert_eq!(upgrade(address, path, &own).await, 101, "{path}");
    }
    for method in ["GET", "OPTIONS"] {
        let (status, head) = poll(address, method, "http://evil.example").await;
        assert_eq!(status, 403, "{method}");
        assert!(!head.contains("access-control-allow"), "{head}");
        assert!(head.contains("vary: origin"), "{head}");
    }
    let (status, head) = poll(address, "GET", &own).await;
    assert_eq!(status, 200);
    assert!(
        !head.contains("access-control-allow"),
        "a page needs no permission for its own host: {head}"
    );
    // Programs name no origin.
    Client::connect(address).await;
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_can_connect_and_read_with_cookies() {
    let _permit = Permit::shared().await;
    let origin = "https://app.example";
    let system = Standalone::with(&["--allowed-origins", origin]).await;
    let address = system.address();
    for path in PATHS {
        assert_eq!(upgrade(address, path, origin).await, 101, "{path}");
        assert_eq!(
            upgrade(address, path, "https://app.example:444").await,
            403,
            "{path}"
        );
    }
    for method in ["GET", "OPTIONS"] {
        let (status, head) = poll(address, method, origin).await;
        assert!(status == 200 || status == 204, "{status}");
        for header in [
            "access-control-allow-origin: https://app.example",
            "access-control-allow-credentials: true",
            "vary: origin",
        ] {
            assert!(head.contains(header), "{method}: {head}");
        }
    }
}

#[tokio::test]
async fn if_all_pages_may_connect_none_reads_with_cookies() {
    let _permit = Permit::shared().await;
    let system = Standalone::with(&["--allowed-origins", "*"]).await;
    assert_eq!(upgrade(system.address(), "/ws", "null").await, 101);
    let (status, head) = poll(system.address(), "GET", "http://any.example").await;
    assert_eq!(status, 200);
    assert!(head.contains("access-control-allow-origin: *"), "{head}");
    assert!(!head.contains("credentials"), "{head}");
}

#[tokio::test]
async fn allowed_origins_change_with_the_file_while_clients_stay() {
    let _permit = Permit::shared().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("standalone.toml");
    fs::write(
        &file,
        "connector.allowed_origins = [\"https://a.example\"]\n",
    )
    .expect("a file");
    let file_flag = file.to_str().expect("text");
    let system = Standalone::with(&["--config", file_flag]).await;
    let address = system.address();
    assert_eq!(upgrade(address, "/ws", "https://a.example").await, 101);
    let client = Client::connect(address).await;
    fs::write(
        &file,
        "connector.allowed_origins = [\"https://b.example\"]\n",
    )
    .expect("a file");
    eventually("the other origin may connect", SOON, async || {
        upgrade(address, "/ws", "https://b.example").await == 101
    })
    .await;
    assert_eq!(upgrade(address, "/ws", "https://a.example").await, 403);
    let reply = client
        .request(
            "connector.handler.login",
            json!({"userId": "u", "lessonId": "4"}),
        )
        .await;
    assert_eq!(reply["code"], 0);
}
