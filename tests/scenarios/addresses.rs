//! Connections are counted by the addresses of clients. Behind a trusted proxy that is what the proxy says, and otherwise it is the
//! other end of the socket.

use std::net::SocketAddr;
use testkit::SOON;
use testkit::permit::Permit;
use testkit::polling::Http;
use testkit::service::Standalone;
use testkit::wait::eventually;
use testkit::websocket::{TEXT, masked, upgrade_request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A client that connects with this at the beginning of its socket and this header, and the status that it gets. `None`: the socket is
/// closed without an answer.
async fn enter(address: SocketAddr, before: &[u8], header: &str) -> (Http, Option<u16>) {
    let request = upgrade_request(address, "/ws", KEY);
    let request = format!(
        "{}{header}\r\n",
        request.strip_suffix("\r\n").expect("a head")
    );
    let mut http = Http::connect(address).await.expect("it listens");
    // It may be closed before everything is sent.
    let _ = http.send(&[before, request.as_bytes()].concat()).await;
    let status = http.answer().await.ok().map(|(status, _)| status);
    (http, status)
}

fn forwarded(client: &str) -> String {
    format!("X-Forwarded-For: {client}\r\n")
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_each_that_ends_makes_room() {
    let _permit = Permit::shared().await;
    let system = Standalone::with(&["--address-connections", "2"]).await;
    let address = system.address();
    let (one, status) = enter(address, b"", "").await;
    assert_eq!(status, Some(101));
    let (_two, status) = enter(address, b"", "").await;
    assert_eq!(status, Some(101));
    // What somebody says who is not trusted does not count.
    for header in ["", &forwarded("198.51.100.7")] {
        assert_eq!(enter(address, b"", header).await.1, Some(429));
    }
    // A client of Pomelo over TCP can't be told, and is closed.
    let mut tcp = TcpStream::connect(address).await.expect("it listens");
    let _ = tcp.write_all(&[1, 0, 0, 2, b'{', b'}']).await;
    let mut rest = Vec::new();
    let _ = tcp.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{rest:?}");
    drop(one);
    eventually("the place of the first is free", SOON, async || {
        enter(address, b"", "").await.1 == Some(101)
    })
    .await;
}

#[tokio::test]
async fn connections_of_an_address_that_come_too_fast_are_refused() {
    let _permit = Permit::shared().await;
    let system = Standalone::with(&["--address-rate", "1", "--address-burst", "3"]).await;
    let mut refused = 0;
    for _ in 0..10 {
        let (_, status) = enter(system.address(), b"", "").await;
        refused += u32::from(status == Some(429));
    }
    assert!(refused >= 5, "{refused}");
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_an_address_of_its_own() {
    let _permit = Permit::shared().await;
    let flags = [
        "--address-connections",
        "1",
        "--trusted-proxies",
        "127.0.0.0/8",
    ];
    let system = Standalone::with(&flags).await;
    let address = system.address();
    let mut here = Vec::new();
    for client in ["198.51.100.1", "198.51.100.2", "2001:db8::1"] {
        // What a client has put there itself stands further left.
        let header = forwarded(&format!("203.0.113.9, {client}, 127.0.0.1"));
        let (socket, status) = enter(address, b"", &header).await;
        assert_eq!(status, Some(101), "{client}");
        assert_eq!(
            enter(address, b"", &forwarded(client)).await.1,
            Some(429),
            "{client}"
        );
        here.push(socket);
    }
    // The whole network of an address of IPv6 counts as one.
    assert_eq!(
        enter(address, b"", &forwarded("2001:db8::2")).await.1,
        Some(429)
    );
    assert_eq!(
        enter(address, b"", &forwarded("2001:db8:0:1::2")).await.1,
        Some(101)
    );
    // Clients that poll count as well, from their first poll on.
    let poll = |client: &str| {
        let path = "/socket.io/?EIO=4&transport=polling";
        format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\n{}\r\n",
            forwarded(client)
        )
    };
    let mut proxy = Http::connect(address).await.expect("it listens");
    assert_eq!(
        proxy.ask(&poll("198.51.100.8")).await.expect("an answer").0,
        200
    );
    assert_eq!(
        proxy.ask(&poll("198.51.100.9")).await.expect("an answer").0,
        200
    );
    let (status, _) = proxy.ask(&poll("198.51.100.8")).await.expect("an answer");
    assert_eq!(status, 429);
}

#[tokio::test]
async fn the_address_in_the_log_is_the_clients() {
    let _permit = Permit::shared().await;
    let system = Standalone::with(&["--trusted-proxies", "127.0.0.1", "--proxy-protocol"]).await;
    let address = system.address();
    let header = b"PROXY TCP4 198.51.100.7 10.0.0.1 4660 80\r\n";
    let (mut http, status) = enter(address, header, "").await;
    assert_eq!(status, Some(101));
    let login = br#"{"id":1,"route":"connector.handler.login","body":{"userId":"u"}}"#;
    http.send(&masked(0x80 | TEXT, [1, 2, 3, 4], login))
        .await
        .expect("it reads");
    http.until(br#""code":0"#)
        .await
        .expect("the login succeeds");
    drop(http);
    eventually("the end of the session is logged", SOON, async || {
        let lines = system.lines();
        let mut ends = lines.iter().filter(|line| line.contains("session closed"));
        ends.any(|line| line.contains("\"peer\":\"198.51.100.7:4660\""))
    })
    .await;
}

#[tokio::test]
async fn with_the_proxy_protocol_a_trusted_proxy_must_speak_it() {
    let _permit = Permit::shared().await;
    let flags = [
        "--trusted-proxies",
        "127.0.0.1",
        "--proxy-protocol",
        "--address-connections",
        "1",
    ];
    let system = Standalone::with(&flags).await;
    let address = system.address();
    let v1 = b"PROXY TCP4 198.51.100.7 10.0.0.1 4660 80\r\n";
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let v2 = [
        &signature[..],
        &[
            0x21, 0x11, 0, 12, 198, 51, 100, 8, 10, 0, 0, 1, 0x12, 0x34, 0, 80,
        ],
    ]
    .concat();
    for header in [&v1[..], &v2] {
        let (_here, status) = enter(address, header, "").await;
        assert_eq!(status, Some(101));
        assert_eq!(
            enter(address, header, "").await.1,
            None,
            "the address has its one connection"
        );
    }
    // A health check of the proxy itself.
    let local = [&signature[..], &[0x20, 0, 0, 0]].concat();
    assert_eq!(enter(address, &local, "").await.1, Some(101));
    for wrong in [
        &b""[..],
        b"PROXY TCP4 nobody\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
    ] {
        assert_eq!(enter(address, wrong, "").await.1, None, "{wrong:?}");
    }
    eventually("the log names the proxy", SOON, async || {
        let lines = system.lines();
        lines
            .iter()
            .any(|line| line.contains("which proxy_protocol demands"))
    })
    .await;
}
