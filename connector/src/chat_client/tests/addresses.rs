//! Names, the addresses behind them, and a chat behind a socket.

use super::{Sender, chat_of};
use crate::chat_client::resolver::{Known, update};
use crate::chat_client::{Chat, Credentials, Source};
use crate::testing::chat::{Called, Sends, fake};
use crate::testing::{let_run, soon};
use http::Uri;
use std::net::SocketAddr;
use std::sync::Arc;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

#[tokio::test(start_paused = true)]
async fn each_address_of_a_name_is_an_endpoint_as_long_as_it_is_resolved() {
    let chat = chat_of(&[]);
    let mut known = Known::new();
    let uris = ["http://one:4001", "http://two:4001"].map(|uri| uri.parse::<Uri>().unwrap());
    // Nobody listens at these addresses.
    let [a, b, c] = [1, 2, 3].map(|host| SocketAddr::from(([127, 0, 0, host], 9)));
    let names = |chat: &Arc<Chat>| -> Vec<String> {
        let endpoints = chat.endpoints.read();
        endpoints
            .iter()
            .map(|endpoint| endpoint.name.clone())
            .collect()
    };
    update(
        &mut known,
        (0, &uris[0]),
        &[a, b],
        &Credentials::default(),
        &chat,
    );
    update(
        &mut known,
        (1, &uris[1]),
        &[c],
        &Credentials::default(),
        &chat,
    );
    let all = [
        "http://one:4001/ at 127.0.0.1:9",
        "http://one:4001/ at 127.0.0.2:9",
        "http://two:4001/ at 127.0.0.3:9",
    ];
    assert_eq!(names(&chat), all);
    let (stays, goes) = {
        let endpoints = chat.endpoints.read();
        (Arc::clone(&endpoints[1]), Arc::downgrade(&endpoints[0]))
    };
    update(
        &mut known,
        (0, &uris[0]),
        &[b],
        &Credentials::default(),
        &chat,
    );
    assert_eq!(names(&chat), all[1..]);
    assert!(
        Arc::ptr_eq(&stays, &chat.endpoints.read()[0]),
        "the endpoint is the same as before"
    );
    // The other endpoint has nothing to do any more, and ends.
    soon(async {
        while goes.upgrade().is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
    let_run().await;
    assert!(
        Arc::strong_count(&stays) > 3,
        "the task of this endpoint still runs"
    );
}

#[tokio::test(start_paused = true)]
async fn the_endpoint_of_a_channel_depends_only_on_addresses_and_channel() {
    let chat = chat_of(&[]);
    let mut known = Known::new();
    let spellings = [
        "http://one:4001",
        "http://ONE:4001/",
        "http://10.0.0.1:4001",
    ];
    let addresses = [
        "10.0.0.1:4001",
        "[::ffff:10.0.0.1]:4001",
        "10.0.0.1:4001",
        "10.0.0.2:4001",
    ];
    let found = addresses.map(|address| address.parse::<SocketAddr>().unwrap());
    for (index, uri) in spellings.iter().enumerate() {
        let uri = uri.parse::<Uri>().unwrap();
        update(
            &mut known,
            (index, &uri),
            &found[index..=index],
            &Credentials::default(),
            &chat,
        );
    }
    let other = "http://two:4001".parse::<Uri>().unwrap();
    update(
        &mut known,
        (3, &other),
        &found[3..],
        &Credentials::default(),
        &chat,
    );
    let weights = |channel: &str| -> Vec<u64> {
        let endpoints = chat.endpoints.read();
        endpoints.iter().map(|it| it.weight(channel)).collect()
    };
    // These values may never change. Otherwise connectors of two releases would send a channel's messages to two chats.
    for (channel, one, two) in [
        ("4", 622_480_403_802_339_141, 12_809_928_704_934_259_578),
        (
            "lobby",
            8_476_109_717_216_751_909,
            15_646_174_307_662_780_103,
        ),
        ("房间", 4_414_660_080_720_823_829, 6_879_556_534_110_423_692),
    ] {
        assert_eq!(weights(channel), [one, one, one, two], "{channel}");
    }
    let first = (0..1_000).filter(|room| {
        let weights = weights(&format!("room {room}"));
        weights[0] > weights[3]
    });
    let first = first.count();
    assert!((400..600).contains(&first), "{first} of 1,000");
}

#[tokio::test]
async fn a_chat_behind_a_socket_is_used_and_its_end_is_noticed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (service, mut calls) = fake();
    let server = Server::builder()
        .add_routes(service)
        .serve_with_incoming(TcpIncoming::from(listener));
    let server = tokio::spawn(server);
    let uris = Source::parse(&[address]).unwrap();
    let chat = Chat::new(Source::Addresses(uris, Credentials::default()));
    let Some(Called::Stream(call)) = soon(calls.recv()).await else {
        panic!("the connector makes another call than a stream");
    };
    let mut stream: Sends = call.accept();
    let mut available = chat.available();
    soon(available.wait_for(|up| *up)).await.unwrap();
    let mut sender = Sender::new(&chat);
    sender.send_all(&["1", "2"]);
    assert_eq!([stream.take().await, stream.take().await], ["1", "2"]);
    assert_eq!(sender.answers(2).await, ["1 sent", "2 sent"]);
    drop(stream);
    server.abort();
    soon(available.wait_for(|up| !*up)).await.unwrap();
}
