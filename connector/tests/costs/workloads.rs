//! The hot paths, each as a function that can be repeated.

use bytes::Bytes;
use channel_store::memory::MemoryStore;
use channel_store::{
    ChannelName, ChannelStore, Epoch, Payload, Position, Publication, Publish, Route, Since,
    StoreOptions, User, UserId,
};
use connector::chat_client::{Chat, Outcome, Source, TransportError, Window};
use connector::hub::{Hub, Member, TOUCH_INTERVAL};
use connector::limits::QueueLimits;
use connector::transport::Connection;
use proto::connector::v1::SessionMessage;
use std::hint::black_box;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use testkit::pomelo::package;
use testkit::websocket::masked;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::Instant;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use traces::{Kind, Span, within};
use wire::websocket::{Event, Reader};
use wire::{Codec, WireFormat};

/// The names of all workloads.
pub(crate) const NAMES: [&str; 6] = [
    "decode-pomelo",
    "decode-json",
    "push-pomelo",
    "push-json",
    "deliver-to-10",
    "publish",
];

/// The number of messages in one call, for paths that take several. It is typical of a busy system.
pub(crate) const TOGETHER: u64 = 8;

const BODY: &str = r#"{"content":"a message of an ordinary length, as people write them to each other all day long in rooms like this","type":1}"#;
const MASK: [u8; 4] = [1, 2, 3, 4];
const HEARTBEAT: Duration = Duration::from_secs(25);

/// A path that can be repeated.
pub(crate) struct Workload {
    /// Runs the path once.
    pub(crate) run: Box<dyn FnMut()>,
}

impl Workload {
    /// The number of messages in one run.
    pub(crate) fn messages_of(name: &str) -> u64 {
        match name {
            "deliver-to-10" | "publish" => TOGETHER,
            _ => 1,
        }
    }

    /// The workload of this name.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "decode-pomelo" => decode(WireFormat::POMELO),
            "decode-json" => decode(WireFormat::JSON),
            "push-pomelo" => push(WireFormat::POMELO),
            "push-json" => push(WireFormat::JSON),
            "deliver-to-10" => deliver(10),
            "publish" => publish(),
            _ => panic!("there is no workload {name}"),
        }
    }
}

fn channel() -> ChannelName {
    ChannelName::new("room").expect("a name")
}

fn user() -> User {
    User {
        id: UserId::new("lin").expect("a name"),
        is_number: false,
    }
}

fn payload() -> Payload {
    let route = Route::new("onMessage").expect("a route");
    Payload::new(&route, &user(), BODY.as_bytes())
}

/// From the bytes of a socket to a request.
fn decode(format: WireFormat) -> Workload {
    let route = "chat.handler.send";
    let request = match format {
        WireFormat::JSON => masked(
            0x81,
            MASK,
            format!(r#"{{"id":7,"route":"{route}","body":{BODY}}}"#).as_bytes(),
        ),
        _ => {
            let mut message = vec![0, 7, route.len() as u8];
            message.extend_from_slice(route.as_bytes());
            message.extend_from_slice(BODY.as_bytes());
            masked(0x82, MASK, &package(4, &message))
        }
    };
    let mut codec = Codec::new(format, HEARTBEAT);
    let (mut inputs, mut out) = (Vec::new(), Vec::new());
    codec.open(&mut inputs);
    if format != WireFormat::JSON {
        for (kind, body) in [(1, &br#"{"sys":{}}"#[..]), (2, b"")] {
            let greeted = codec.decode(&package(kind, body), &mut inputs, &mut out);
            greeted.expect("a handshake");
        }
    }
    let mut frames = Reader::new(64 << 10);
    let run = move || {
        // The reader unmasks in place.
        let mut bytes = request.clone();
        inputs.clear();
        let fed = frames.feed(&mut bytes, |event| {
            if let Event::Message(message) = event {
                let decoded = codec.decode(message, &mut inputs, &mut out);
                decoded.expect("a request");
            }
        });
        fed.expect("a frame");
        assert_eq!(black_box(&inputs).len(), 1);
    };
    Workload { run: Box::new(run) }
}

/// From a publication to the bytes that all members share.
fn push(format: WireFormat) -> Workload {
    let publication = Publication {
        position: Position {
            epoch: Epoch::new("7f3a"),
            offset: 1_234,
        },
        time: 1_795_377_365_123,
        payload: payload(),
    };
    let (channel, mut out) = (channel(), Vec::new());
    let run = move || {
        out.clear();
        wire::push(format, &channel, &publication, &mut out);
        black_box(&out);
    };
    Workload { run: Box::new(run) }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// From the store through feed and hub to the sockets of a channel's members.
fn deliver(members: usize) -> Workload {
    let runtime = runtime();
    let (publisher, members) = runtime.block_on(async {
        let store = MemoryStore::new(StoreOptions::default());
        let hub = Hub::new(TOUCH_INTERVAL);
        let feed = store.feed(hub.clone());
        hub.follow(feed.clone());
        let limits = QueueLimits::new(64 << 20, 512 << 20);
        let mut there: Vec<Member> = Vec::new();
        for _ in 0..members {
            let connection = connection(&limits).await;
            let member = hub.attach(&channel(), &connection, WireFormat::POMELO);
            member.followed().await;
            let end = feed.read(&channel(), &Since::Head, 0).await;
            member.begin(end.expect("the store is in memory").position);
            there.push(member);
        }
        (store.publisher().expect("the store is in memory"), there)
    });
    let run = move || {
        let batch = (0..TOGETHER).map(|_| Publish::new(channel(), user().id, payload()));
        let batch: Vec<_> = batch.collect();
        runtime.block_on(async {
            let outcomes = publisher.publish(batch).await;
            assert!(outcomes.expect("published").iter().all(Result::is_ok));
            // Let the flusher run.
            for _ in 0..4 {
                yield_now().await;
            }
        });
        black_box(&members);
    };
    Workload { run: Box::new(run) }
}

/// A connection whose client reads all the time.
async fn connection(limits: &Arc<QueueLimits>) -> Arc<Connection> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = TcpStream::connect(address).await.expect("it listens");
    let (server, _) = listener.accept().await.expect("it connected");
    let mut client = client.into_std().expect("a socket");
    client.set_nonblocking(false).expect("a socket");
    std::thread::spawn(move || {
        let mut buffer = vec![0; 256 << 10];
        while matches!(client.read(&mut buffer), Ok(1..)) {}
    });
    let (_, writer) = server.into_split();
    Connection::new(writer, WireFormat::POMELO, limits.clone())
}

/// A chat in this process, over a store in memory.
pub(crate) fn chat_in_process(store: &Arc<MemoryStore>) -> Arc<Chat> {
    let cleanup = chat::Cleanup::begin(store.clone(), store.leases(), store.registry());
    let limits = chat::Limits::default();
    let service = chat::service(
        store.clone(),
        cleanup,
        Arc::default(),
        Arc::default(),
        &limits,
        runtime::Shutdown::new(),
    );
    let service = BoxCloneSyncService::new(service.map_err(TransportError::new));
    Chat::new(Source::InProcess(service))
}

/// From a session's send over the ordered stream and chat to the store, and back with the answer.
fn publish() -> Workload {
    let runtime = runtime();
    let chat = runtime.block_on(async {
        let chat = chat_in_process(&MemoryStore::new(StoreOptions::default()));
        let mut available = chat.available();
        let up = available.wait_for(|up| *up).await;
        up.expect("chat is there");
        chat
    });
    let window = Arc::<Window>::default();
    let mut number = 0_u64;
    let run = move || {
        runtime.block_on(async {
            let mut answers = Vec::new();
            for _ in 0..TOGETHER {
                number += 1;
                let request = SessionMessage {
                    channel: "room".into(),
                    user: "lin".into(),
                    idempotency_key: format!("key-{number}"),
                    body_json: Bytes::from_static(BODY.as_bytes()),
                    ..SessionMessage::default()
                };
                let (answer, answered) = oneshot::channel();
                let deadline = Instant::now() + Duration::from_secs(2);
                let send = || {
                    chat.send(&window, request, deadline, move |outcome| {
                        let _ = answer.send(matches!(outcome, Outcome::Sent(_)));
                    });
                };
                // As a session does it.
                match Span::root("request", Kind::Server) {
                    None => send(),
                    Some(span) => within(span, async { send() }).await,
                }
                answers.push(answered);
            }
            for answer in answers {
                assert_eq!(answer.await, Ok(true));
            }
        });
    };
    Workload { run: Box::new(run) }
}
