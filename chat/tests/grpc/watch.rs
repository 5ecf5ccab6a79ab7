//! Watches over a real socket: what is refused and why, what a caller gets, and how a watch ends.

use crate::support::{fields, reason};
use channel_store::memory::MemoryStore;
use channel_store::{
    ChannelName, ChannelStore, Payload, Publish, Route, StoreOptions, User, UserId,
};
use chat::{Limits, ServeError, Watching};
use proto::chat::v1::chat_service_client::ChatServiceClient;
use proto::chat::v1::publication::Content;
use proto::chat::v1::watch_response::Event;
use proto::chat::v1::{Position, WatchPlace, WatchRequest, WatchResponse};
use runtime::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

type Client = ChatServiceClient<Channel>;

struct Chat {
    store: Arc<MemoryStore>,
    address: String,
    shutdown: Shutdown,
    served: JoinHandle<Result<(), ServeError>>,
}

impl Chat {
    async fn with(limits: Limits, follows: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let options = StoreOptions::default();
        let watching = Watching::new(options.channel_life);
        let store = MemoryStore::new(options);
        if follows {
            watching.follow(store.watch_feed(watching.clone()));
        }
        let shutdown = Shutdown::new();
        let served = tokio::spawn(chat::serve(
            listener,
            store.clone(),
            Arc::default(),
            Arc::default(),
            watching,
            limits,
            shutdown.clone(),
        ));
        Self {
            store,
            address,
            shutdown,
            served,
        }
    }

    async fn start() -> Self {
        Self::with(Limits::default(), true).await
    }

    async fn client(&self) -> Client {
        ChatServiceClient::connect(self.address.clone())
            .await
            .unwrap()
    }

    async fn publish(&self, channel: &str, json: &str) {
        let user = User {
            id: UserId::new("nancy").unwrap(),
            is_number: false,
        };
        let payload = Payload::new(&Route::new("onMessage").unwrap(), &user, json.as_bytes());
        let publish = Publish::new(ChannelName::new(channel).unwrap(), user.id, payload);
        self.store.publish(publish).await.unwrap();
    }
}

fn place(channel: &str) -> WatchPlace {
    WatchPlace {
        channel: channel.into(),
        position: None,
    }
}

fn places(channels: &[&str]) -> WatchRequest {
    WatchRequest {
        places: channels.iter().map(|it| place(it)).collect(),
        ..WatchRequest::default()
    }
}

async fn watch(
    client: &mut Client,
    request: WatchRequest,
) -> Result<Streaming<WatchResponse>, Status> {
    Ok(client.watch(request).await?.into_inner())
}

async fn next(events: &mut Streaming<WatchResponse>) -> Event {
    let next = tokio::time::timeout(Duration::from_secs(20), events.message());
    let event = next.await.expect("in time").unwrap().unwrap();
    event.event.unwrap()
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let numbers: Vec<_> = (0..1_001).map(|n| n.to_string()).collect();
    let many: Vec<_> = numbers.iter().map(String::as_str).collect();
    let with_position = |epoch: &str| WatchRequest {
        places: vec![WatchPlace {
            position: Some(Position {
                epoch: epoch.into(),
                offset: 1,
            }),
            ..place("4")
        }],
        ..WatchRequest::default()
    };
    let with_prefix = |prefix: &str| WatchRequest {
        prefix: Some(prefix.into()),
        ..places(&["4"])
    };
    for (request, field) in [
        (WatchRequest::default(), "places"),
        (places(&many), "places"),
        (places(&["4", "5", "4"]), "places.channel"),
        (places(&["4", ""]), "places.channel"),
        (with_prefix("room"), "places.channel"),
        (with_prefix(&"4".repeat(257)), "prefix"),
        (with_position(""), "places.position.epoch"),
        (with_position(&"e".repeat(65)), "places.position.epoch"),
        (
            WatchRequest {
                start: 7,
                ..places(&["4"])
            },
            "start",
        ),
        (
            WatchRequest {
                routes: vec!["\n".into()],
                ..places(&["4"])
            },
            "routes",
        ),
        (
            WatchRequest {
                routes: vec!["a".into(); 101],
                ..places(&["4"])
            },
            "routes",
        ),
    ] {
        let status = watch(&mut client, request).await.unwrap_err();
        assert!(fields(&status).contains(&field.to_owned()), "{status:?}");
    }
}

#[tokio::test]
async fn what_is_published_comes_in_the_form_that_was_asked_for() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    for body_as_struct in [false, true] {
        let request = WatchRequest {
            body_as_struct,
            ..places(&["4"])
        };
        let mut events = watch(&mut client, request).await.unwrap();
        let Event::Opened(opened) = next(&mut events).await else {
            panic!("it is opened first");
        };
        assert_eq!(opened.channel, "4");
        assert!(matches!(next(&mut events).await, Event::Started(_)));
        chat.publish("4", r#"{"a":1}"#).await;
        let Event::Publication(given) = next(&mut events).await else {
            panic!("a publication");
        };
        assert_eq!(given.channel, "4");
        let publication = given.publication.unwrap();
        assert_eq!(publication.user, "nancy");
        match publication.content.unwrap() {
            Content::BodyJson(json) => assert!(!body_as_struct && json == r#"{"a":1}"#),
            Content::Body(body) => assert!(body_as_struct && body.fields.len() == 1),
        }
        let position = publication.position;
        let Event::Progress(progress) = next(&mut events).await else {
            panic!("its place is told");
        };
        assert_eq!(progress.places.len(), 1);
        assert_eq!(progress.places[0].position, position);
    }
}

#[tokio::test]
async fn a_watch_keeps_its_place_until_its_caller_goes() {
    let limits = Limits {
        watches: 2,
        ..Limits::default()
    };
    let chat = Chat::with(limits, true).await;
    let (mut one, mut other) = (chat.client().await, chat.client().await);
    let mut first = watch(&mut one, places(&["4"])).await.unwrap();
    next(&mut first).await;
    // The rest is for others.
    let status = watch(&mut one, places(&["4"])).await.unwrap_err();
    assert_eq!(
        (status.code(), &*reason(&status)),
        (Code::ResourceExhausted, "OVERLOADED")
    );
    let _others = watch(&mut other, places(&["4"])).await.unwrap();
    drop(first);
    let began = std::time::Instant::now();
    while let Err(status) = watch(&mut one, places(&["4"])).await {
        assert_eq!(reason(&status), "OVERLOADED");
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "its place is free again"
        );
    }
}

#[tokio::test]
async fn a_chat_that_ends_tells_its_watchers_and_waits_for_none_of_them() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let mut reads = watch(&mut client, places(&["4"])).await.unwrap();
    next(&mut reads).await;
    chat.shutdown.request();
    let status = loop {
        match reads.message().await {
            Ok(event) => assert!(event.is_some(), "it ends with a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), &*reason(&status)),
        (Code::Unavailable, "SHUTTING_DOWN")
    );
    let served = tokio::time::timeout(Duration::from_secs(5), chat.served).await;
    served.expect("it ends soon").unwrap().unwrap();
}

#[tokio::test]
async fn a_chat_that_follows_no_channels_says_so() {
    let chat = Chat::with(Limits::default(), false).await;
    let status = watch(&mut chat.client().await, places(&["4"])).await;
    assert_eq!(reason(&status.unwrap_err()), "STORE_UNAVAILABLE");
}
