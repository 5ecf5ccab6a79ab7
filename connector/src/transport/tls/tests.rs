//! A connection behind TLS: its order, its bounds, and its end, as a client of rustls sees them.

use super::*;
use crate::limits::QueueLimits;
use crate::opening::ALPN;
use crate::testing::client::{Told, frame_in, of_json};
use crate::testing::{channel, sized, soon};
use crate::transport::Connection;
use crate::transport::socket::{ReadHalf, Socket};
use rcgen::generate_simple_self_signed;
use runtime::tls::{ClientFiles, ClientTls, ServerFiles, ServerTls};
use std::future::poll_fn;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use wire::{Disconnect, WireFormat};

/// The connector's end of a socket, and the client's. `first` is what the client has sent when HTTP or the listener has looked at
/// its first bytes, so that rustls holds it already.
async fn connect(first: &[u8]) -> (Encrypted, TlsStream<TcpStream>) {
    let folder = tempfile::tempdir().unwrap();
    let made = generate_simple_self_signed(vec!["connector.test".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("certificate"), folder.path().join("key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let trust = ClientFiles {
        ca: Some(certificate.clone()),
        identity: None,
    };
    let client = ClientTls::begin(trust, ALPN).unwrap().connector();
    let files = ServerFiles {
        certificate,
        key,
        client_ca: None,
    };
    let server = ServerTls::begin("certificate of a test", files, ALPN)
        .unwrap()
        .acceptor();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connected = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("connector.test").unwrap();
        let mut stream = client.connect(name, stream).await.unwrap();
        stream.write_all(first).await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    let accepted = async {
        let socket = listener.accept().await.unwrap().0;
        let mut accepted = server.accept(socket).await.unwrap();
        if !first.is_empty() {
            assert_eq!(accepted.fill_buf().await.unwrap(), first);
        }
        accepted
    };
    let (stream, accepted) = tokio::join!(connected, accepted);
    let (socket, session) = accepted.into_inner();
    // Tokio does not know that the socket is writable before it has waited for that once.
    socket.writable().await.unwrap();
    (Encrypted::new(socket, session, Records::default()), stream)
}

fn frame(offset: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    let publication = sized("a", offset, 8 << 10);
    wire::push(WireFormat::JSON, &channel(), &publication, &mut frame);
    frame
}

/// Sends from an offset on, until the socket takes no more. Returns the last offset sent.
fn stuff(connection: &Arc<Connection>, mut offset: u64) -> u64 {
    while !connection.lags() {
        connection.send(&frame(offset), &mut None);
        offset += 1;
    }
    offset - 1
}

/// What a client reads until the end of its stream: the offsets of pushes, and the code of the close frame. Fails if the
/// stream ends without `close_notify`.
async fn rest(client: &mut TlsStream<TcpStream>) -> (Vec<u64>, Option<u16>) {
    let mut bytes = Vec::new();
    soon(client.read_to_end(&mut bytes)).await.unwrap();
    let (mut offsets, mut code, mut left) = (Vec::new(), None, &bytes[..]);
    while let Some((opcode, start, end)) = frame_in(left) {
        let payload = &left[start..end];
        match opcode {
            1 => match of_json(payload) {
                Told::Push { body, .. } => offsets.push(body["o"].as_u64().unwrap()),
                Told::Kick(_) => {}
                other => panic!("{other:?}"),
            },
            8 => code = Some(u16::from_be_bytes([payload[0], payload[1]])),
            other => panic!("opcode {other}"),
        }
        left = &left[end..];
    }
    assert!(left.is_empty(), "half a frame at the end");
    (offsets, code)
}

#[tokio::test]
async fn frames_arrive_in_order_and_whole_even_if_the_socket_takes_none_for_a_while() {
    let limits = QueueLimits::new(64 << 20, 512 << 20);
    let (encrypted, mut client) = connect(b"").await;
    let (_reader, writer) = Socket::Tls(Box::new(encrypted)).into_split();
    let connection = Connection::new(writer, WireFormat::JSON, Arc::clone(&limits));
    let last = stuff(&connection, 1);
    for offset in last + 1..=last + 300 {
        connection.send(&frame(offset), &mut None);
    }
    assert!(limits.queued() > 300 * (8 << 10));
    connection.conclude();
    let (offsets, code) = rest(&mut client).await;
    assert_eq!(offsets, (1..=last + 300).collect::<Vec<_>>());
    assert_eq!(code, Some(1000));
    soon(connection.flushed()).await;
    assert_eq!(limits.queued(), 0);
}

#[tokio::test]
async fn what_is_encrypted_and_not_taken_counts_and_is_one_record_at_most() {
    let limits = QueueLimits::new(64 << 20, 512 << 20);
    let (encrypted, _client) = connect(b"").await;
    let encrypted = Arc::new(encrypted);
    let writer = crate::transport::socket::WriteHalf::Tls(Arc::clone(&encrypted));
    let connection = Connection::new(writer, WireFormat::JSON, Arc::clone(&limits));
    let last = stuff(&connection, 1);
    connection.send(&frame(last + 1).repeat(20), &mut None);
    let under_way = encrypted.under_way();
    assert!((1..=RECORD).contains(&under_way), "{under_way}");
    assert!(
        limits.queued() >= under_way + 20 * (8 << 10),
        "{}",
        limits.queued()
    );
}

#[tokio::test]
async fn a_client_beyond_its_bound_gets_the_frames_under_way_and_then_the_reason() {
    let limits = QueueLimits::new(256 << 10, 512 << 20);
    let (encrypted, mut client) = connect(b"").await;
    let (_reader, writer) = Socket::Tls(Box::new(encrypted)).into_split();
    let connection = Connection::new(writer, WireFormat::JSON, Arc::clone(&limits));
    let last = stuff(&connection, 1);
    let mut offset = last;
    while connection.closing().is_none() {
        offset += 1;
        connection.send(&frame(offset), &mut None);
    }
    assert_eq!(connection.closing(), Some(Disconnect::Slow));
    assert!(limits.queued() < 48 << 10, "the rest is dropped at once");
    let (offsets, code) = rest(&mut client).await;
    let count = u64::try_from(offsets.len()).unwrap();
    assert_eq!(offsets, (1..=count).collect::<Vec<_>>());
    assert!((last..=last + 4).contains(&count), "{count} after {last}");
    assert_eq!(code, Some(4001));
    soon(connection.flushed()).await;
    assert_eq!(limits.queued(), 0);
}

/// Small frames, of which a record holds many.
#[tokio::test]
async fn a_client_that_is_cut_off_in_the_middle_of_a_record_of_many_frames_reads_whole_frames() {
    let limits = QueueLimits::new(64 << 10, 512 << 20);
    let (encrypted, mut client) = connect(b"").await;
    let (_reader, writer) = Socket::Tls(Box::new(encrypted)).into_split();
    let connection = Connection::new(writer, WireFormat::JSON, Arc::clone(&limits));
    let small = |offset| {
        let mut frame = Vec::new();
        let publication = sized("a", offset, 100);
        wire::push(WireFormat::JSON, &channel(), &publication, &mut frame);
        frame
    };
    let mut offset = 0;
    while connection.closing().is_none() {
        offset += 1;
        connection.send(&small(offset), &mut None);
        if offset % 50 == 0 {
            // The queue is written in records of many frames, while the client reads a little.
            let mut few = [0; 0];
            let _ = client.read(&mut few).await;
            tokio::task::yield_now().await;
        }
    }
    let (offsets, code) = rest(&mut client).await;
    let count = u64::try_from(offsets.len()).unwrap();
    assert_eq!(offsets, (1..=count).collect::<Vec<_>>());
    assert_eq!(code, Some(4001));
}

/// The queue of a connection may be long, and all of it may be offered at once.
#[tokio::test]
async fn however_much_is_offered_rustls_holds_one_record_of_it() {
    let (encrypted, _client) = connect(b"").await;
    let offered = vec![7; 32 << 20];
    let written = encrypted.try_write(&[IoSlice::new(&offered)]).unwrap();
    assert!(written < offered.len(), "the socket takes all of it");
    let under_way = encrypted.under_way();
    assert!((1..=RECORD).contains(&under_way), "{under_way}");
}

/// The record is decrypted with the last of its bytes. What the reader has no room for is in rustls then, and the socket shows
/// nothing of it.
#[tokio::test]
async fn a_record_that_is_larger_than_the_readers_buffer_is_read_in_parts() {
    let (encrypted, mut client) = connect(b"").await;
    let (mut reader, _writer) = Socket::Tls(Box::new(encrypted)).into_split();
    let long: Vec<u8> = (0..10_000_u32).map(|it| it.to_le_bytes()[0]).collect();
    client.write_all(&long).await.unwrap();
    client.flush().await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < long.len() {
        let mut buffer = [0; 1_000];
        let mut bytes = ReadBuf::new(&mut buffer);
        let taken = soon(poll_fn(|context| reader.poll_read(context, &mut bytes))).await;
        assert!(taken.unwrap() > 0, "the end after {}", heard.len());
        heard.extend_from_slice(bytes.filled());
        if !heard.is_empty() {
            assert_eq!(reader.arrived(), long.len() - heard.len());
        }
    }
    assert!(heard == long, "what was sent is not what was read");
}

/// Reads until so many bytes were decrypted.
async fn read(reader: &mut ReadHalf, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while all.len() < count {
        let mut bytes = ReadBuf::new(&mut buffer);
        let taken = soon(poll_fn(|context| reader.poll_read(context, &mut bytes))).await;
        assert!(taken.unwrap() > 0, "the end after {}", all.len());
        all.extend_from_slice(bytes.filled());
    }
    all
}

#[tokio::test]
async fn what_came_with_the_handshake_is_read_first_and_counts_as_arrived() {
    let (encrypted, mut client) = connect(b"first").await;
    let (mut reader, _writer) = Socket::Tls(Box::new(encrypted)).into_split();
    assert_eq!(reader.arrived(), 5);
    assert_eq!(read(&mut reader, 5).await, b"first");
    client.write_all(b"second").await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(read(&mut reader, 6).await, b"second");
    let long: Vec<u8> = (0..300_000_u32).map(|it| it.to_le_bytes()[0]).collect();
    let sent = async {
        client.write_all(&long).await.unwrap();
        client.flush().await.unwrap();
    };
    let (heard, ()) = tokio::join!(read(&mut reader, long.len()), sent);
    assert!(heard == long, "what was sent is not what was read");
    assert_eq!(reader.held(), 0);
    client.shutdown().await.unwrap();
    let mut end = [0; 100];
    let mut bytes = ReadBuf::new(&mut end);
    loop {
        let taken = soon(poll_fn(|context| reader.poll_read(context, &mut bytes))).await;
        if taken.unwrap() == 0 {
            break;
        }
    }
}

#[tokio::test]
async fn an_unfinished_record_is_counted_and_a_broken_one_ends_the_connection() {
    let (encrypted, client) = connect(b"").await;
    let (mut reader, _writer) = Socket::Tls(Box::new(encrypted)).into_split();
    let (mut socket, _session) = client.into_inner();
    // The head of a record of 1,000 bytes, and a part of its content.
    socket.write_all(&[23, 3, 3, 3, 0xe8]).await.unwrap();
    socket.write_all(&[7; 600]).await.unwrap();
    let mut buffer = vec![0; 1 << 10];
    while reader.held() < 605 {
        let mut bytes = ReadBuf::new(&mut buffer);
        let taken = soon(poll_fn(|context| reader.poll_read(context, &mut bytes))).await;
        assert!(taken.unwrap() > 0);
        assert!(bytes.filled().is_empty());
    }
    socket.write_all(&[7; 400]).await.unwrap();
    let mut bytes = ReadBuf::new(&mut buffer);
    let taken = soon(poll_fn(|context| reader.poll_read(context, &mut bytes))).await;
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::InvalidData);
}
