//! Streams over TLS, over a unix socket, and behind a proxy.

use super::{numbers, until_contents};
use crate::tls_clients::encrypted;
use serde_json::{Value, json};
use std::process::Command;
use testkit::permit::Permit;
use testkit::process::Process;
use testkit::service::Standalone;
use testkit::sse::{Ask, Stream, query};
use testkit::tls::{Authority, text};
use testkit::{SOON, json as ws, wait};

/// A reader with curl, and the session of its stream.
async fn curl(arguments: &[&str], url: &str) -> (Process, String) {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-N"]).args(arguments);
    curl.arg(format!("{url}?userId=reader&channel=room"));
    let mut curl = Process::spawn("curl", &mut curl);
    let session = curl.until_line("its session", |line| {
        let data = line.strip_prefix("data: ")?;
        let data: Value = serde_json::from_str(data).ok()?;
        Some(data["body"]["session"].as_str()?.to_owned())
    });
    let session = session.await;
    (curl, session)
}

/// Posts messages with curl, large ones too. Each comes on the stream.
async fn says_and_hears(curl: &mut Process, arguments: &[&str], url: &str, session: &str) {
    for (number, length) in [1, 100_000, 10, 60_000].into_iter().enumerate() {
        let body = json!({"content": format!("said {number}"), "c": "x".repeat(length)});
        let request = json!({"id": number, "route": "chat.handler.send", "body": body});
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("request");
        std::fs::write(&file, request.to_string()).expect("written");
        let mut post = Command::new("curl");
        post.args(["-sS", "--max-time", "10"]).args(arguments);
        post.args(["--data-binary", &format!("@{}", file.display())]);
        let answer = post.arg(format!("{url}/{session}")).output();
        let answer = String::from_utf8(answer.expect("curl").stdout).expect("text");
        assert!(answer.contains(r#""code":0"#), "{answer}");
        let said = format!("said {number}");
        let data = curl.until_line(&said, |line| {
            (line.starts_with("data: ") && line.contains(&said)).then_some(line.len())
        });
        assert!(data.await > length);
    }
}

#[tokio::test]
async fn curl_reads_and_posts_over_tls() {
    let _permit = Permit::shared().await;
    let authority = Authority::new();
    let (standalone, _identity) = encrypted(&authority, &[]).await;
    let ca = authority.ca();
    let port = standalone.address().port();
    let resolve = format!("localhost:{port}:127.0.0.1");
    let arguments = ["--cacert", text(&ca), "--resolve", &resolve];
    let url = format!("https://localhost:{port}/sse");
    let (mut reader, session) = curl(&arguments, &url).await;
    says_and_hears(&mut reader, &arguments, &url, &session).await;
}

#[tokio::test]
async fn curl_reads_and_posts_over_a_unix_socket() {
    let _permit = Permit::shared().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("clients.sock").display().to_string();
    let mut standalone = Command::new(testkit::binaries::path("standalone"));
    standalone.args(["--listen", &format!("unix:{path}")]);
    standalone.args(["--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let mut standalone = Process::spawn("standalone", &mut standalone);
    standalone
        .until_line("it listens", |line| line.contains(&path).then_some(()))
        .await;
    let arguments = [
        "--retry",
        "20",
        "--retry-all-errors",
        "--unix-socket",
        &path,
    ];
    let url = "http://localhost/sse";
    let (mut reader, session) = curl(&arguments, url).await;
    says_and_hears(&mut reader, &arguments, url, &session).await;
}

/// The address of a client behind a trusted proxy has its own bound, and stands in the log.
#[tokio::test]
async fn behind_a_trusted_proxy_each_reader_has_an_address_of_its_own() {
    let _permit = Permit::shared().await;
    let flags = [
        "--trusted-proxies",
        "127.0.0.1",
        "--address-connections",
        "1",
    ];
    let system = Standalone::with(&flags).await;
    let at = system.address();
    let of = |user: &str, address: &str| {
        Ask::of(query(user, &["room"])).with("X-Forwarded-For", address)
    };
    let one = Stream::open(at, of("one", "192.0.2.1")).await;
    one.until("onSession").await;
    let second = Stream::open(at, of("second", "192.0.2.1")).await;
    assert_eq!(second.status(), 429);
    assert!(second.head().contains("retry-after: "), "{}", second.head());
    let second = Stream::open(at, of("second", "192.0.2.1").as_browser("")).await;
    second.until("onRefused").await;
    let two = Stream::open(at, of("two", "192.0.2.2")).await;
    two.until("onSession").await;
    let speaker = ws::Client::connect(at).await;
    let login = json!({"userId": "speaker", "lessonId": "room"});
    speaker.request("connector.handler.login", login).await;
    let said = json!({"content": "0"});
    speaker.request("chat.handler.send", said).await;
    until_contents(&two, &numbers(0..1)).await;
    drop(one);
    let again = wait::some("there is room again", SOON, async || {
        let stream = Stream::open(at, of("one", "192.0.2.1")).await;
        (stream.status() == 200).then_some(stream)
    });
    again.await.until("onSession").await;
    wait::eventually("its address is in the log", SOON, async || {
        system.lines().iter().any(|it| it.contains("192.0.2.1"))
    })
    .await;
}
