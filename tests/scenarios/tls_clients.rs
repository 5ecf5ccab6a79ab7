//! The clients' port with a certificate: every protocol over TLS, new certificates without a restart, and clients that
//! are slow, silent, or do not speak TLS.

use serde_json::json;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;
use testkit::pace::timeout;
use testkit::permit::Permit;
use testkit::pomelo::{self, Client, DATA, HANDSHAKE, HANDSHAKE_ACK, HELLO, LOGIN, SENT};
use testkit::pomelo::{joined, left, package};
use testkit::process::Process;
use testkit::service::Standalone;
use testkit::tls::{Authority, Identity, text};
use testkit::websocket::{encode, upgrade_request};
use testkit::{SOON, conversation, http, wait};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// A standalone whose clients' port has a certificate.
pub(crate) async fn encrypted(authority: &Authority, flags: &[&str]) -> (Standalone, Identity) {
    let identity = authority.issue("first");
    let flags = [&identity.flags(), flags].concat();
    (Standalone::with(&flags).await, identity)
}

/// What `openssl s_client` prints: what the server answers to this input, and about the connection. It ends with the
/// connection.
fn openssl(
    authority: &Authority,
    address: SocketAddr,
    flags: &[&str],
    input: &str,
) -> (bool, String) {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-connect", &address.to_string()])
        .args(["-CAfile", text(&authority.ca()), "-verify_return_error"])
        .args(["-verify_ip", "127.0.0.1", "-ign_eof"])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl is missing; install it");
    let mut stdin = child.stdin.take().expect("it is piped");
    // It may have ended already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let printed = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&printed).into_owned(),
    )
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn openssl_connects_with_tls_1_3_and_1_2_and_not_with_less() {
    let _permit = Permit::shared().await;
    let authority = Authority::new();
    let (standalone, _) = encrypted(&authority, &[]).await;
    let address = standalone.address();
    for (flag, version) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
        let flags = [flag, "-alpn", "h2,http/1.1"];
        let (is_ok, printed) = openssl(&authority, address, &flags, HEALTH);
        assert!(is_ok, "{printed}");
        assert!(printed.contains("HTTP/1.1 200 OK"), "{printed}");
        assert!(printed.contains(version), "{printed}");
        assert!(printed.contains("ALPN protocol: http/1.1"), "{printed}");
        assert!(printed.contains("Verify return code: 0 (ok)"), "{printed}");
    }
    let weak = ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    let (is_ok, printed) = openssl(&authority, address, &weak, HEALTH);
    assert!(!is_ok && !printed.contains("200 OK"), "{printed}");
    let (is_ok, printed) = openssl(&authority, address, &["-alpn", "h2"], HEALTH);
    assert!(!is_ok && !printed.contains("200 OK"), "{printed}");
}

#[tokio::test]
async fn clients_of_each_protocol_connect_over_tls() {
    let _permit = Permit::shared().await;
    let authority = Authority::new();
    let (standalone, _) = encrypted(&authority, &[]).await;
    let (address, _proxy) = authority.proxy(standalone.address()).await;

    let raw = authority.connect(standalone.address());
    let end = conversation::in_every_protocol(address, raw, "over TLS", || standalone.terminate());
    let end = end.await;
    // The end is announced: rustls would return an error if the stream were cut off.
    end.expect("with close_notify");
}

/// `ws`, three versions of Socket.IO over both transports, the original's library for Node, and the page in a Chromium.
#[tokio::test]
async fn the_client_libraries_and_the_page_in_a_browser_work_over_tls() {
    let _permit = Permit::shared().await;
    let authority = Authority::new();
    let (standalone, _) = encrypted(&authority, &[]).await;
    let mut command = testkit::mocha("tls.test.js", &[]);
    command
        .env("CONNECTORS", standalone.address().to_string())
        .env("NODE_EXTRA_CA_CERTS", authority.ca())
        .env("CHROMIUM", crate::browsers::chromium());
    let mut mocha = Process::spawn("mocha", &mut command);
    let status = mocha.ended_within(Duration::from_secs(150)).await;
    let output = mocha.lines().join("\n");
    assert!(status.success(), "{output}");
    assert!(output.contains("12 passing"), "{output}");
}

#[tokio::test]
async fn a_client_without_tls_is_told_so_if_it_speaks_http_and_is_closed_otherwise() {
    let _permit = Permit::shared().await;
    let authority = Authority::new();
    let (standalone, _) = encrypted(&authority, &[]).await;
    let address = standalone.address();
    let answer = http::get(address, "/").await.expect("an answer");
    assert_eq!(answer.status, 400);
    assert!(
        answer.body.contains("use https:// or wss://"),
        "{}",
        answer.body
    );
    let mut raw = TcpStream::connect(address).await.expect("a connection");
    raw.write_all(&package(HANDSHAKE, HELLO.as_bytes()))
        .await
        .expect("written");
    let mut rest = Vec::new();
    let _ = timeout(SOON, raw.read_to_end(&mut rest))
        .await
        .expect("the connection ends");
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn a_tls_handshake_that_does_not_go_on_is_closed_in_time_and_makes_room_for_others() {
    let _permit = Permit::shared().await;
    let authority = Authority::new();
    let flags = ["--handshake-timeout", "2s", "--half-open", "3"];
    let (standalone, _) = encrypted(&authority, &flags).await;
    let half_open = async || {
        let mut socket = TcpStream::connect(standalone.address())
            .await
            .expect("a connection");
        // The head of a record with a ClientHello, and no more.
        socket
            .write_all(&[22, 3, 1, 1, 0, 1, 0])
            .await
            .expect("written");
        socket
    };
    let mut oldest = half_open().await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(half_open().await);
    }
    // It is the fourth that is too many, and not the time that is over.
    let mut rest = [0; 1];
    let ended = async |socket: &mut TcpStream, rest: &mut [u8]| {
        timeout(SOON, socket.read(rest))
            .await
            .expect("the connection ends")
            .unwrap_or(0)
    };
    let begun = tokio::time::Instant::now();
    assert_eq!(ended(&mut oldest, &mut rest).await, 0);
    let at_once = begun.elapsed();
    for socket in &mut others {
        assert_eq!(ended(socket, &mut rest).await, 0);
    }
    assert!(at_once < begun.elapsed(), "{at_once:?}");
    // A finished TLS handshake without a first byte is half open, too.
    let mut silent = authority.connect(standalone.address()).await.expect("TLS");
    let read = timeout(SOON, silent.read(&mut rest)).await;
    assert!(!matches!(read.expect("the connection ends"), Ok(1..)));
}

/// The common name in the certificate that a port serves.
fn served(authority: &Authority, address: SocketAddr) -> String {
    let (_, printed) = openssl(authority, address, &["-showcerts"], HEALTH);
    let subject = printed
        .lines()
        .find_map(|line| line.strip_prefix("subject="));
    let subject = subject.unwrap_or_else(|| panic!("{printed}"));
    let name = subject.rsplit('=').next().unwrap_or_default();
    name.trim().to_owned()
}

#[tokio::test]
async fn a_new_certificate_is_served_to_new_clients_and_a_broken_one_is_not_and_nobody_is_dropped()
{
    let _permit = Permit::shared().await;
    let authority = Authority::new();
    let (standalone, identity) = encrypted(&authority, &[]).await;
    let address = standalone.address();
    let (proxied, _proxy) = authority.proxy(address).await;
    let old = Client::join(proxied, "old", "room").await;
    assert_eq!(served(&authority, address), "first");

    identity.replace_by(&authority.issue("second"));
    wait::eventually("the new certificate is served", SOON, async || {
        served(&authority, address) == "second"
    })
    .await;
    let logged = |level: &str, part: &str| {
        let lines = standalone.lines();
        let found = lines.iter().filter(|line| {
            line.contains("clients' port") && line.contains(part) && line.contains(level)
        });
        found.count()
    };
    assert_eq!(logged("INFO", "has changed; new connections"), 1);

    // The key stays, so they do not fit together.
    let third = authority.issue("third");
    std::fs::copy(&third.certificate, &identity.certificate).expect("a file");
    wait::eventually("the certificate is refused", SOON, async || {
        logged("ERROR", "the key belongs to another certificate") == 1
    })
    .await;
    std::fs::write(&identity.certificate, "nonsense").expect("a file");
    wait::eventually("the certificate is refused again", SOON, async || {
        logged("ERROR", "holds no certificate") == 1
    })
    .await;
    assert_eq!(served(&authority, address), "second");
    identity.replace_by(&third);
    wait::eventually("the repaired certificate is served", SOON, async || {
        served(&authority, address) == "third"
    })
    .await;
    assert_eq!(old.ended(), None);
    assert_eq!(old.say("still here").await, SENT);
    let young = Client::join(proxied, "young", "room").await;
    assert_eq!(young.say("hello").await, SENT);
}

#[tokio::test]
async fn a_slow_reader_behind_tls_is_cut_off_within_its_bound() {
    let _permit = Permit::alone().await;
    let authority = Authority::new();
    let (standalone, _) = encrypted(&authority, &["--heartbeat", "60s"]).await;
    let (address, _proxy) = authority.proxy(standalone.address()).await;
    let healthy = Client::join(address, "healthy", "room").await;
    // It does not use the proxy, which would read for it.
    let mut slow = authority.connect(standalone.address()).await.expect("TLS");
    let login = pomelo::request(1, LOGIN, br#"{"userId":"slow","lessonId":"room"}"#);
    for bytes in [
        package(HANDSHAKE, HELLO.as_bytes()),
        package(HANDSHAKE_ACK, b""),
        package(DATA, &login),
    ] {
        slow.write_all(&bytes).await.expect("written");
    }
    slow.flush().await.expect("written");
    healthy.until_push(&joined("slow")).await;
    let watcher = Client::join(address, "watcher", "room").await;
    let before = standalone.memory().now;
    let long = "x".repeat(60_000);
    let saying = async {
        for _ in 0..400 {
            assert_eq!(healthy.say(&long).await, SENT);
        }
    };
    // A client that was cut off has a second to read why. So it begins when the others hear of that.
    let mut rest = Vec::new();
    let reading = async {
        watcher.until_push(&left("slow")).await;
        let read = timeout(SOON, slow.read_to_end(&mut rest)).await;
        read.expect("the connection ends")
    };
    let ((), read) = tokio::join!(saying, reading);
    let peak = standalone.memory().peak;
    assert!(
        peak < before + (40 << 20),
        "{} MiB more",
        (peak - before) >> 20
    );
    // It reads whole packages, and then a proper end.
    read.expect("with close_notify");
    pomelo::packages(&rest.into()).expect("whole packages");
}

/// The resident memory of each of many idle clients of `/ws` that have logged in. They connect one after the other, so that
/// no peak of handshakes counts.
async fn memory_of_each<S: AsyncRead + AsyncWrite + Unpin>(
    standalone: &Standalone,
    count: u64,
    dial: impl AsyncFn() -> std::io::Result<S>,
) -> u64 {
    let enter = async |number: u64| {
        let mut stream = dial().await.expect("a connection");
        let upgrade = upgrade_request(standalone.address(), "/ws", "dGhlIHNhbXBsZSBub25jZQ==");
        stream.write_all(upgrade.as_bytes()).await.expect("written");
        stream.flush().await.expect("written");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.expect("an answer"));
        }
        let login = json!({
            "id": 1,
            "route": LOGIN,
            // Few share a channel, so a join is told to few. What is ignored makes a long record, whose buffer must not stay.
            "body": {
                "userId": format!("u{number}"),
                "lessonId": format!("r{}", number / 4),
                "ignored": "x".repeat(12_000),
            },
        });
        let frame = encode(1, login.to_string().as_bytes());
        stream.write_all(&frame).await.expect("written");
        stream.flush().await.expect("written");
        // The first byte of the answer, and what else has come.
        let mut answer = [0; 4096];
        let read = timeout(SOON, stream.read(&mut answer)).await;
        assert!(read.expect("an answer in time").expect("an answer") > 0);
        stream
    };
    let mut clients = Vec::new();
    // The first ones fill what all share.
    for number in 0..200 {
        clients.push(enter(number).await);
    }
    let before = standalone.memory().now;
    for number in 200..200 + count {
        clients.push(enter(number).await);
    }
    (standalone.memory().now - before) / count
}

#[tokio::test]
async fn an_idle_client_over_tls_costs_at_most_12_kib_more_than_a_plain_one() {
    let _permit = Permit::alone().await;
    let count = if testkit::long() { 10_000 } else { 2_000 };
    let authority = Authority::new();
    let flags = ["--heartbeat", "10m", "--handshakes", "1000000"];
    let plain = Standalone::with(&flags).await;
    let plain = memory_of_each(&plain, count, async || {
        TcpStream::connect(plain.address()).await
    })
    .await;
    let (encrypted, _) = encrypted(&authority, &flags).await;
    let dial = async || authority.connect(encrypted.address()).await;
    let encrypted = memory_of_each(&encrypted, count, dial).await;
    println!("{count} idle clients: {plain} bytes for a plain one, {encrypted} for one over TLS");
    assert!(
        encrypted <= plain + (12 << 10),
        "{plain} and {encrypted} bytes"
    );
}
