//! Connections that become too old: their callers go over to others, and nothing is lost with them.

use crate::support::{Caller, Chat, message, reason};
use channel_store::memory::MemoryStore;
use channel_store::{ChannelStore, StoreOptions};
use chat::{Age, Limits, Watching};
use proto::chat::v1::chat_service_client::ChatServiceClient;
use proto::chat::v1::{ListMembersRequest, WatchPlace, WatchRequest};
use runtime::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

const HOUR: Duration = Duration::from_secs(3600);
/// How long a test waits for what must happen within seconds.
const SOON: Duration = Duration::from_secs(30);

fn aging(grace: Duration) -> Limits {
    let most = Duration::from_secs(1);
    Limits {
        age: Some(Age { most, grace }),
        call_time: HOUR,
        ..Limits::default()
    }
}

/// A channel that counts its connections.
fn counted(chat: &Chat) -> (Channel, Arc<AtomicUsize>) {
    let (address, count) = (chat.address, Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&count);
    let connect = service_fn(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move {
            let stream = TcpStream::connect(address).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://chat");
    (endpoint.connect_with_connector_lazy(connect), count)
}

/// Makes calls until they go over another connection.
async fn until_another(channel: &Channel, connections: &AtomicUsize) {
    let before = connections.load(Ordering::Relaxed);
    let calls = async {
        while connections.load(Ordering::Relaxed) == before {
            let mut client = ChatServiceClient::new(channel.clone());
            let nothing = ListMembersRequest::default();
            client.list_members(nothing).await.unwrap_err();
            tokio::task::yield_now().await;
        }
    };
    let came = tokio::time::timeout(SOON, calls).await;
    came.expect("there is another connection");
}

#[tokio::test]
async fn the_calls_of_a_connection_that_is_too_old_are_finished_while_new_ones_go_over_another() {
    let chat = Chat::with(aging(HOUR)).await;
    chat.store.close_gate();
    let (channel, connections) = counted(&chat);
    let mut client = ChatServiceClient::new(channel.clone());
    let call = tokio::spawn(async move { client.send(message("{}")).await });
    chat.store.has_seen(1).await;
    until_another(&channel, &connections).await;
    assert!(!call.is_finished());
    chat.store.open_gate(1);
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_is_too_old_is_closed_when_its_grace_is_over() {
    let chat = Chat::with(aging(Duration::from_secs(1))).await;
    chat.store.close_gate();
    let mut client = chat.client().await;
    let call = tokio::time::timeout(SOON, client.send(message("{}")));
    let status = call.await.expect("it is broken off").unwrap_err();
    assert_ne!(status.code(), Code::DeadlineExceeded, "{status:?}");
    // Others are served, over connections of their own.
    chat.let_run().await;
}

#[tokio::test]
async fn a_send_stream_over_a_connection_that_is_too_old_ends_after_all_answers() {
    let chat = Chat::with(aging(HOUR)).await;
    let (channel, connections) = counted(&chat);
    let mut client = ChatServiceClient::new(channel.clone());
    let mut sent = 0;
    // Each stream ends by itself. The caller sends the rest over the next one.
    for _ in 0..3 {
        let mut caller = Caller::open(&mut client).await.unwrap();
        let answered = async {
            let mut answered = 0;
            loop {
                caller.send([message("{}")]).await;
                match caller.answers.message().await.unwrap() {
                    Some(frame) => answered += frame.outcomes.len(),
                    None => break answered,
                }
            }
        };
        let answered = tokio::time::timeout(SOON, answered).await;
        sent += answered.expect("the stream ends");
        assert_eq!(chat.store.log().len(), sent, "what is stored is answered");
    }
    until_another(&channel, &connections).await;
}

#[tokio::test]
async fn a_watch_over_a_connection_that_is_too_old_ends_with_the_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let options = StoreOptions::default();
    let watching = Watching::new(options.channel_life);
    let store = MemoryStore::new(options);
    watching.follow(store.watch_feed(watching.clone()));
    let store: Arc<dyn ChannelStore> = store;
    let shutdown = Shutdown::new();
    let served = tokio::spawn(chat::serve(
        listener,
        store,
        Arc::default(),
        Arc::default(),
        watching,
        aging(HOUR),
        shutdown.clone(),
    ));
    let mut client = ChatServiceClient::connect(address).await.unwrap();
    let place = WatchPlace {
        channel: "4".into(),
        position: None,
    };
    let request = WatchRequest {
        places: vec![place],
        ..WatchRequest::default()
    };
    let mut events = client.watch(request).await.unwrap().into_inner();
    let ended = async {
        loop {
            match events.message().await {
                Ok(event) => assert!(event.is_some(), "it ends with a status"),
                Err(status) => break status,
            }
        }
    };
    let status = tokio::time::timeout(SOON, ended).await;
    let status = status.expect("it ends");
    assert_eq!(
        (status.code(), &*reason(&status)),
        (Code::Unavailable, "CONNECTION_TOO_OLD")
    );
    drop(client);
    shutdown.request();
    served.await.unwrap().unwrap();
}
