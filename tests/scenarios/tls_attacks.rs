//! Bytes that are no TLS, or broken TLS, at ports with a certificate.

use crate::tls_clients::encrypted;
use testkit::SOON;
use testkit::pace::timeout;
use testkit::permit::Permit;
use testkit::pomelo::{Client, SENT};
use testkit::tls::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a hostile client may send to a port with TLS, in place of a handshake.
fn hostile(hello: &[u8]) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for number in 0..100 {
        // The types of all records, and others; most heads say a length that is possible.
        let length = fastrand::u16(..=18_000);
        let mut noise = vec![19 + number % 6, 3, number % 5];
        noise.extend(length.to_be_bytes());
        noise.resize_with(fastrand::usize(1..=2_000), || fastrand::u8(..));
        all.push(noise);
        // A handshake that breaks off.
        all.push(hello[..fastrand::usize(1..hello.len())].to_vec());
        // A handshake with a few wrong bytes, and what follows it.
        let mut wrong = hello.to_vec();
        for _ in 0..fastrand::usize(1..4) {
            let at = fastrand::usize(..wrong.len());
            wrong[at] = fastrand::u8(..);
        }
        wrong.extend((0..fastrand::usize(..200)).map(|_| fastrand::u8(..)));
        all.push(wrong);
    }
    all
}

#[tokio::test]
async fn random_bytes_and_broken_records_end_with_the_time_for_a_handshake_and_harm_nobody() {
    let _permit = Permit::shared().await;
    let authority = Authority::new();
    let flags = ["--handshake-timeout", "2s", "--half-open", "2000"];
    let (standalone, _) = encrypted(&authority, &flags).await;
    let (address, _proxy) = authority.proxy(standalone.address()).await;
    let healthy = Client::join(address, "healthy", "room").await;
    let seed = fastrand::get_seed();
    println!("the seed is {seed}");
    let mut sockets = Vec::new();
    for port in [standalone.address(), standalone.grpc()] {
        for bytes in hostile(&authority.hello()) {
            let mut socket = TcpStream::connect(port).await.expect("a connection");
            // It may be refused before it has sent everything.
            let _ = socket.write_all(&bytes).await;
            sockets.push(socket);
        }
        // Records that are broken after a handshake that is not.
        for bytes in hostile(&[23, 3, 3, 0x10, 0, 1, 2, 3]).into_iter().take(100) {
            let stream = authority.connect(port).await.expect("TLS");
            let (mut socket, _) = stream.into_inner();
            let _ = socket.write_all(&bytes).await;
            sockets.push(socket);
        }
    }
    for socket in &mut sockets {
        let mut rest = Vec::new();
        let read = timeout(3 * SOON, socket.read_to_end(&mut rest)).await;
        // An error is an end, too: a reset.
        drop(read.expect("the connection ends"));
    }
    assert_eq!(healthy.say("still here").await, SENT);
    assert_eq!(standalone.connections().await, 1);
    let lines = standalone.lines().join("\n");
    assert!(!lines.contains("panicked"), "{lines}");
}
