//! Nothing waits for ever for a client, and nothing that clients create grows without a bound.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use testkit::chat_api::ChatApi;
use testkit::pace::timeout;
use testkit::pomelo::{self, Client, DATA, HANDSHAKE, HANDSHAKE_ACK, HELLO, LOGIN, SEND, SENT};
use testkit::service::Standalone;
use testkit::{SOON, http, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const HISTORY: &str = "chat.handler.history";

async fn refused(system: &Standalone, bound: &str) -> f64 {
    let series = format!("connector_refused_total{{bound=\"{bound}\"");
    system.metric(&series).await
}

async fn until_members(system: &Standalone, expected: &[(&str, u32)]) {
    let api = ChatApi::at(system.grpc());
    let what = format!("the members are {expected:?}");
    wait::some(&what, SOON, async || {
        let members = api.members("room").await.ok()?;
        let names = members.iter().map(|(user, n)| (user.as_str(), *n));
        names.eq(expected.iter().copied()).then_some(())
    })
    .await;
}

/// A connection that takes little before it is read.
async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    socket.connect(address).await.expect("a connector")
}

/// The status and the body of an answer.
async fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("a connector");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("asked");
    let mut bytes = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut bytes)).await;
    read.expect("an answer in time").expect("an answer");
    let text = String::from_utf8_lossy(&bytes);
    (text[9..12].parse().expect("a status"), text.into_owned())
}

/// Posts and polls of one client.
struct Poller {
    address: SocketAddr,
    version: u32,
    path: String,
}

impl Poller {
    async fn open(address: SocketAddr, version: u32) -> Result<Self, (u16, String)> {
        let path = format!("/socket.io/?EIO={version}&transport=polling");
        let (status, text) = ask(address, "GET", &path, "").await;
        if status != 200 {
            return Err((status, text));
        }
        let id = text.split(r#""sid":""#).nth(1).expect("an id");
        let id = id.split('"').next().expect("an id");
        Ok(Self {
            address,
            version,
            path: format!("{path}&sid={id}"),
        })
    }

    async fn post(&self, packets: &[String]) -> u16 {
        let body = if self.version == 3 {
            let counted = packets
                .iter()
                .map(|it| format!("{}:{it}", it.encode_utf16().count()));
            counted.collect()
        } else {
            packets.join("\x1e")
        };
        ask(self.address, "POST", &self.path, &body).await.0
    }

    async fn poll(&self) -> String {
        ask(self.address, "GET", &self.path, "").await.1
    }

    async fn login(&self, user: &str) {
        if self.version == 4 {
            assert_eq!(self.post(&["40".to_owned()]).await, 200);
        }
        let body = json!({ "userId": user, "lessonId": "room" });
        assert_eq!(self.post(&[event(1, LOGIN, &body)]).await, 200);
    }
}

/// An event packet whose string is a request.
fn event(id: u32, route: &str, body: &Value) -> String {
    let mut message: String = id.to_be_bytes().map(char::from).iter().collect();
    message.push(char::from(u8::try_from(route.len()).expect("short")));
    message.push_str(route);
    message.push_str(&body.to_string());
    format!("42{}", json!(["message", message]))
}

/// A client asks for pages, reads none of them and sends no heartbeats. When the time for heartbeats is over, it is no
/// member any more, in every protocol (K4).
#[tokio::test]
async fn a_client_that_reads_no_answer_is_removed_when_its_heartbeats_are_missed() {
    let flags = [
        "--heartbeat",
        "2s",
        "--socketio-heartbeat",
        "2s",
        "--socketio-timeout",
        "2s",
    ];
    let system = Standalone::with(&flags).await;
    let address = system.address();
    let writer = Client::join(address, "writer", "room").await;
    let body = format!(r#"{{"c":"{}"}}"#, "x".repeat(100_000));
    for _ in 0..40 {
        assert_eq!(writer.request(SEND, &body).await, SENT);
    }

    let websocket = Client::connect_with_small_buffer(address).await;
    websocket.enter("websocket", "room").await;
    websocket.stop_reading();
    for _ in 0..60 {
        websocket.start(HISTORY, "{}").await;
    }

    let mut tcp = narrow(address).await;
    let mut bytes = pomelo::package(HANDSHAKE, HELLO.as_bytes());
    bytes.extend(pomelo::package(HANDSHAKE_ACK, b""));
    let login = br#"{"userId":"tcp","lessonId":"room"}"#;
    bytes.extend(pomelo::package(DATA, &pomelo::request(1, LOGIN, login)));
    for id in 2..62 {
        bytes.extend(pomelo::package(DATA, &pomelo::request(id, HISTORY, b"{}")));
    }
    tcp.write_all(&bytes).await.expect("written");

    let mut pollers = Vec::new();
    for (version, user) in [(3, "poller3"), (4, "poller4")] {
        let poller = Poller::open(address, version).await.expect("served");
        poller.login(user).await;
        let pages: Vec<_> = (2..12).map(|id| event(id, HISTORY, &json!({}))).collect();
        let posting = tokio::spawn(async move {
            for page in pages {
                // Sooner or later the session has ended, or its connection is closed.
                if poller.post(&[page]).await != 200 {
                    return;
                }
            }
        });
        pollers.push(posting);
    }
    let all = [
        ("poller3", 1),
        ("poller4", 1),
        ("tcp", 1),
        ("websocket", 1),
        ("writer", 1),
    ];
    until_members(&system, &all).await;

    until_members(&system, &[("writer", 1)]).await;
    assert_eq!(writer.say("still here").await, SENT);
    for posting in pollers {
        let posted = timeout(SOON, posting).await;
        posted.expect("no post waits for ever").expect("no panic");
    }
}

/// The same when a connector stops: no client that does not read delays it, and all leaves are published.
#[tokio::test]
async fn a_client_that_reads_no_answer_does_not_delay_the_stop_of_a_connector() {
    let mut system = Standalone::start().await;
    let address = system.address();
    let writer = Client::join(address, "writer", "room").await;
    let body = format!(r#"{{"c":"{}"}}"#, "x".repeat(100_000));
    for _ in 0..20 {
        assert_eq!(writer.request(SEND, &body).await, SENT);
    }
    let stuck = Client::connect_with_small_buffer(address).await;
    stuck.enter("stuck", "room").await;
    stuck.stop_reading();
    for _ in 0..60 {
        stuck.start(HISTORY, "{}").await;
    }
    let poller = Poller::open(address, 4).await.expect("served");
    poller.login("poller").await;
    for id in 2..5 {
        poller.post(&[event(id, HISTORY, &json!({}))]).await;
    }
    system.terminate();
    let status = system.ended_within(SOON).await;
    assert!(status.success(), "{status}");
    let warnings = system.warnings();
    let late = |line: &&String| line.contains("did not");
    assert_eq!(
        warnings.iter().find(late),
        None,
        "sockets and leaves end in time"
    );
}

/// Writing an HTTP answer has a time-out, too.
#[tokio::test]
async fn a_client_that_reads_no_http_answer_is_cut_off() {
    let system = Standalone::start().await;
    let before = system.memory().now;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let mut stream = narrow(system.address()).await;
        let requests = "GET /client.js HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3_000);
        // The connector does not take all of it, because its answers are not read.
        let _ = timeout(
            Duration::from_millis(200),
            stream.write_all(requests.as_bytes()),
        )
        .await;
        sockets.push(stream);
    }
    wait::eventually("all are cut off", 2 * SOON, async || {
        refused(&system, "write-timeout").await >= 20.0
    })
    .await;
    let grown = system.memory().peak.saturating_sub(before) >> 20;
    assert!(grown < 32, "{grown} MiB");
    let (status, _) = ask(system.address(), "GET", "/client.js", "").await;
    assert_eq!(status, 200);
}

/// A polling client holds no descriptor, so polling clients have a bound of their own.
#[tokio::test]
async fn polling_clients_that_do_not_log_in_are_bounded_and_end_soon_if_they_do_nothing() {
    let system = Standalone::with(&["--polling", "20", "--handshake-timeout", "2s"]).await;
    let address = system.address();
    let member = Poller::open(address, 3).await.expect("served");
    member.login("member").await;
    until_members(&system, &[("member", 1)]).await;

    // Like an attacker: all requests in one write. A refusal ends the connection.
    let mut stream = TcpStream::connect(address).await.expect("a connector");
    let open = "GET /socket.io/?EIO=3&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n";
    stream
        .write_all(open.repeat(500).as_bytes())
        .await
        .expect("asked");
    let mut answers = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answers))
        .await
        .expect("an end");
    let answers = String::from_utf8_lossy(&answers);
    assert!(answers.matches(" 200 OK").count() <= 20);

    let (status, text) = Poller::open(address, 4).await.err().expect("no more");
    let text = text.to_lowercase();
    assert_eq!(status, 503);
    assert!(
        text.contains("retry-after: 5") && text.contains("have not logged in"),
        "{text}"
    );
    assert!(refused(&system, "polling").await >= 1.0);

    // A client that has logged in does not count, and goes on.
    assert!(member.poll().await.contains("onJoin"));
    wait::some("the idle clients have ended", SOON, async || {
        Poller::open(address, 4).await.ok()
    })
    .await;
}

/// A client beyond the bound is told so if it speaks HTTP; otherwise its connection is closed. Nobody else notices.
#[tokio::test]
async fn connections_are_bounded_and_the_admin_port_does_not_count() {
    let system = Standalone::with(&["--connections", "10", "--half-open", "10"]).await;
    let address = system.address();
    let mut clients = Vec::new();
    for number in 0..10 {
        clients.push(Client::join(address, &format!("user{number}"), "room").await);
    }
    let (status, text) = ask(address, "GET", "/", "").await;
    assert_eq!(status, 503);
    assert!(
        text.contains("retry-after") && text.contains("Try again"),
        "{text}"
    );
    let mut tcp = TcpStream::connect(address).await.expect("accepted");
    tcp.write_all(&pomelo::package(HANDSHAKE, HELLO.as_bytes()))
        .await
        .expect("written");
    let mut rest = Vec::new();
    let ended = timeout(SOON, tcp.read_to_end(&mut rest))
        .await
        .expect("it ends");
    assert!(ended.is_err() || rest.is_empty(), "{rest:?}");
    assert!(refused(&system, "connections").await >= 2.0);
    let live = http::get(system.admin(), "/livez")
        .await
        .expect("an answer");
    assert_eq!(live.status, 200);
    assert!(clients.iter().all(|client| client.ended().is_none()));

    clients.pop().expect("one of them").close().await;
    wait::eventually("its place is free again", SOON, async || {
        ask(address, "GET", "/", "").await.0 == 200
    })
    .await;
}

/// A real client soon finishes its handshake. So too many silent connections end each other, and nobody else.
#[tokio::test]
async fn half_open_connections_are_bounded_and_the_oldest_is_closed_first() {
    let system = Standalone::with(&["--half-open", "5"]).await;
    let address = system.address();
    let member = Client::join(address, "member", "room").await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(address).await.expect("accepted"));
    }
    let mut first = silent.remove(0);
    let mut rest = Vec::new();
    let ended = timeout(SOON, first.read_to_end(&mut rest)).await;
    let _ = ended.expect("the oldest has ended");
    wait::eventually("the surplus connections have ended", SOON, async || {
        refused(&system, "half-open").await >= 45.0
    })
    .await;
    let late = Client::join(address, "late", "room").await;
    assert_eq!(late.say("in").await, SENT);
    assert_eq!(member.ended(), None);
}

/// Messages that clients begin to send and do not finish are bounded for all clients together.
#[tokio::test]
async fn unfinished_messages_are_bounded_for_all_clients_together() {
    let system = Standalone::with(&["--queue-total", "1048576"]).await;
    let address = system.address();
    let member = Client::join(address, "member", "room").await;
    let mut unfinished = Vec::new();
    for _ in 0..20 {
        let client = Client::connect(address).await;
        let whole = testkit::websocket::encode(2, &vec![b'x'; 120_000]);
        client.bytes(&whole[..100_000]).await;
        unfinished.push(client);
    }
    wait::eventually("the surplus clients are cut off", SOON, async || {
        refused(&system, "memory").await >= 10.0
    })
    .await;
    let left = unfinished.iter().filter(|client| client.ended().is_none());
    let left = left.count();
    assert!((1..=10).contains(&left), "{left}");
    assert_eq!(member.say("undisturbed").await, SENT);
    assert_eq!(member.ended(), None);
}

/// Connected clients stay. Others wait until there are descriptors again, and the failures do not fill the log.
#[tokio::test]
async fn a_client_that_finds_no_free_descriptor_is_served_as_soon_as_one_is_free() {
    const ERRORS: &str = "connector_accept_errors_total";
    /// How many lines one place in the code may log before further ones are held back.
    const LINES: usize = 50;
    let system = Standalone::start().await;
    let address = system.address();
    let member = Client::join(address, "member", "room").await;
    assert_eq!(system.metric::<f64>(ERRORS).await, 0.0);
    let before = system.limit_descriptors(Some(1));
    // The kernel accepts the connection and keeps it for the connector.
    let mut waiting = TcpStream::connect(address).await.expect("a connector");
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    waiting.write_all(request).await.expect("written");

    let accept = |line: &&String| line.contains("can't accept");
    let is_summary = |line: &String| line.contains("held back");
    let what = "the log says how many lines were held back";
    let lines = wait::some(what, 2 * SOON, async || {
        let warnings = system.warnings();
        let lines: Vec<_> = warnings.iter().filter(accept).cloned().collect();
        lines.iter().any(is_summary).then_some(lines)
    })
    .await;
    let written = lines.iter().take_while(|line| !is_summary(line)).count();
    assert!(lines[0].contains("Too many open files"), "{}", lines[0]);
    assert!(written <= LINES, "{written} lines");
    let summary = lines.iter().find(|line| is_summary(line));
    let summary: Value = serde_json::from_str(summary.expect("it was seen")).expect("JSON");
    let held_back = summary["lines"].as_f64().expect("how many");
    assert_eq!(member.say("undisturbed").await, SENT);

    system.limit_descriptors(before);
    let mut answer = String::new();
    let answered = timeout(SOON, waiting.read_to_string(&mut answer)).await;
    answered.expect("an answer in time").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let errors = system.metric::<f64>(ERRORS).await;
    let told = f64::from(u32::try_from(written).expect("few")) + held_back;
    assert!(errors >= told, "{errors} were counted, {told} logged");
    let late = Client::join(address, "late", "room").await;
    assert_eq!(late.say("in").await, SENT);
    assert_eq!(member.ended(), None);
}

/// Begins to post `announced` bytes, and sends `sent` of them.
async fn half_a_post(poller: &Poller, sent: usize, announced: usize) -> TcpStream {
    let mut stream = TcpStream::connect(poller.address)
        .await
        .expect("a connector");
    let path = &poller.path;
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {announced}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("written");
    // A connector that refuses the post does not read the rest.
    let _ = stream.write_all(&vec![b'4'; sent]).await;
    stream
}

/// The status of the answer that comes before the connection ends, however it ends.
async fn status_of(mut stream: TcpStream) -> u16 {
    let mut answer = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("an end in time");
    let text = String::from_utf8_lossy(&answer);
    let status = text.get(9..12).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("no answer: {text:?}"))
}

/// An unfinished post holds its bytes only as long as a handshake may take, and only if there is room for them in the
/// bound on what comes in from all clients.
#[tokio::test]
async fn unfinished_posts_are_bounded_for_all_clients_together_and_end_in_time() {
    const ROOM: usize = 256 << 10;
    // Less than half of the room. It may count twice, because the buffer grows by doubling.
    const FITS: usize = ROOM * 45 / 100;
    let system = Standalone::with(&[
        "--queue",
        "262144",
        "--queue-total",
        "524288",
        "--handshake-timeout",
        "2s",
    ])
    .await;
    let mut pollers = Vec::new();
    for number in 0..4 {
        let poller = Poller::open(system.address(), 3).await.expect("served");
        poller.login(&format!("poller{number}")).await;
        pollers.push(poller);
    }

    let alone = half_a_post(&pollers[0], ROOM + (16 << 10), ROOM + (32 << 10)).await;
    assert_eq!(status_of(alone).await, 503);
    assert_eq!(refused(&system, "memory").await, 1.0);

    // At most two of the four fit, if they are counted together.
    let mut posts = Vec::new();
    for poller in &pollers {
        posts.push(half_a_post(poller, FITS, FITS + 1).await);
    }
    let mut statuses = Vec::new();
    for post in posts {
        statuses.push(status_of(post).await);
    }
    let busy = statuses.iter().filter(|status| **status == 503).count();
    assert!(busy >= 2, "{statuses:?}");

    // If one of the three left bytes behind, there would be no room for the last one.
    for _ in 0..3 {
        let post = half_a_post(&pollers[0], FITS, FITS + 1).await;
        assert_eq!(status_of(post).await, 400, "it ends in time");
    }
    assert_eq!(pollers[0].post(&["2".to_owned()]).await, 200);
}

/// The handshake of Engine.IO 4 announces how much a client may post.
#[tokio::test]
async fn posts_up_to_the_announced_size_are_accepted_and_larger_ones_are_refused() {
    for flags in [&[][..], &["--message-limit", "1048576"]] {
        let system = Standalone::with(flags).await;
        let address = system.address();
        let path = "/socket.io/?EIO=4&transport=polling";
        let (_, text) = ask(address, "GET", path, "").await;
        let most = text.split(r#""maxPayload":"#).nth(1).expect("a limit");
        let most: usize = most
            .split('}')
            .next()
            .expect("a limit")
            .parse()
            .expect("a number");

        let poller = Poller::open(address, 4).await.expect("served");
        poller.login("poller").await;
        let filler = json!({ "content": "x".repeat(most / 4) });
        let mut packets = vec![event(2, SEND, &filler), event(3, SEND, &filler)];
        let length: usize = packets.iter().map(|it| it.len() + 1).sum();
        // A notification's packet that fills the post up to the last byte.
        packets.push(format!(
            "42{}",
            json!(["message", "y".repeat(most - length - 16)])
        ));
        assert_eq!(packets.join("\x1e").len(), most);
        assert_eq!(poller.post(&packets).await, 200);

        let huge = "4".repeat(most + (64 << 10));
        assert_eq!(poller.post(&[huge]).await, 413);
    }
}

/// While requests wait for chat, the client's heartbeats are still read.
#[tokio::test]
async fn a_client_whose_requests_wait_for_chat_is_not_taken_for_silent() {
    let flags = ["--heartbeat", "2s"];
    let system = testkit::system::Plan::of(1, 1)
        .connector_flags(&flags)
        .start()
        .await;
    let client = system.member(0, "patient", "room").await;
    system.chats[0].freeze();
    // For longer than the heartbeat's time, request after request, and chat answers none of them.
    let until = tokio::time::Instant::now() + Duration::from_secs(9);
    while tokio::time::Instant::now() < until {
        let ids: Vec<_> = {
            let mut ids = Vec::new();
            for number in 0..30 {
                let body = format!(r#"{{"channel":"room{number}"}}"#);
                ids.push(client.start("chat.handler.join", &body).await);
            }
            ids
        };
        for id in ids {
            client.reply(id).await;
        }
        assert_eq!(client.ended(), None);
    }
    system.chats[0].thaw();
    wait::eventually("it can send again", SOON, async || {
        client.say("there").await == SENT
    })
    .await;
    assert_eq!(client.ended(), None);
}
