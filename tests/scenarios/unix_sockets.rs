//! The clients' port as a unix socket, for a proxy on the same machine.

use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testkit::pace::timeout;
use testkit::permit::Permit;
use testkit::process::Process;
use testkit::websocket::upgrade_request;
use testkit::{SOON, binaries, conversation, http, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;

/// A proxy that forwards TCP connections to a unix socket.
async fn proxy(to: &Path) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let to = to.to_owned();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut carried = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let to = to.clone();
            carried.spawn(async move {
                client.set_nodelay(true).expect("a socket");
                if let Ok(mut server) = UnixStream::connect(to).await {
                    // When one side ends, both are dropped, which passes the end on.
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (address, tasks)
}

/// Starts a standalone on this socket, which may fail.
fn begin(path: &Path) -> Process {
    let mut command = Command::new(binaries::path("standalone"));
    let listen = format!("unix:{}", path.display());
    let elsewhere = ["--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    command.args(["--listen", &listen]).args(elsewhere);
    Process::spawn("standalone", &mut command)
}

/// Starts a standalone on this socket, and waits until it listens.
async fn listening(path: &Path) -> Process {
    let mut standalone = begin(path);
    let place = format!("unix:{}", path.display());
    let listens = |line: &str| (line.contains("listening") && line.contains(&place)).then_some(());
    standalone.until_line("where it listens", listens).await;
    standalone
}

fn socket_path() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("clients.sock");
    (directory, path)
}

#[tokio::test]
async fn clients_of_each_protocol_connect_over_a_unix_socket_behind_a_proxy() {
    let _permit = Permit::shared().await;
    let (_directory, path) = socket_path();
    let standalone = listening(&path).await;
    let (address, _proxy) = proxy(&path).await;
    wait::eventually("it is ready", SOON, async || {
        let health = http::get(address, "/healthz").await;
        health.is_some_and(|health| health.status == 200)
    })
    .await;

    let raw = TcpStream::connect(address);
    let end =
        conversation::in_every_protocol(address, raw, "over a socket", || standalone.terminate());
    let end = end.await;
    assert!(end.is_ok(), "the connection ends");
}

/// This client needs no proxy.
#[tokio::test]
async fn a_websocket_can_be_opened_over_a_unix_socket() {
    let _permit = Permit::shared().await;
    let (_directory, path) = socket_path();
    let _standalone = listening(&path).await;
    let mut stream = UnixStream::connect(&path).await.expect("a socket");
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 80));
    let request = upgrade_request(nowhere, "/ws", "dGhlIHNhbXBsZSBub25jZQ==");
    let ping = json!({ "id": 1, "route": "connector.handler.ping" }).to_string();
    let frame = testkit::websocket::encode(testkit::websocket::TEXT, ping.as_bytes());
    let asked = [request.as_bytes(), &frame].concat();
    stream.write_all(&asked).await.expect("asked");
    let mut came = Vec::new();
    let answered = async {
        while !String::from_utf8_lossy(&came).contains(r#"{"id":1,"body":{"code":0}}"#) {
            assert_ne!(stream.read_buf(&mut came).await.expect("bytes"), 0);
        }
    };
    timeout(SOON, answered).await.expect("an answer in time");
    assert!(came.starts_with(b"HTTP/1.1 101 "));
}

#[tokio::test]
async fn a_unix_socket_is_taken_over_only_from_a_process_that_is_gone() {
    let _permit = Permit::shared().await;
    let (_directory, path) = socket_path();
    let mut first = listening(&path).await;

    let mut second = begin(&path);
    let status = second.ended_within(SOON).await;
    assert!(!status.success());
    let lines = second.lines();
    let expected = "another process listens there; stop it, or choose another path";
    let told = lines.iter().filter(|line| line.contains(expected));
    assert_eq!(told.count(), 1, "{lines:#?}");
    assert!(UnixStream::connect(&path).await.is_ok());

    first.kill();
    assert!(path.exists(), "a crash leaves the file");
    let mut third = listening(&path).await;
    assert!(UnixStream::connect(&path).await.is_ok());
    third.terminate();
    let status = third.ended_within(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
    assert!(!path.exists(), "a stop removes the file");
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let _permit = Permit::shared().await;
    let (_directory, path) = socket_path();
    std::fs::write(&path, "precious").expect("written");
    let mut standalone = begin(&path);
    assert!(!standalone.ended_within(SOON).await.success());
    let lines = standalone.lines();
    let expected = "there is a file that is no socket; remove it, or choose another path";
    let told = lines.iter().filter(|line| line.contains(expected));
    assert_eq!(told.count(), 1, "{lines:#?}");
    assert_eq!(std::fs::read(&path).expect("it is there"), b"precious");
}
