//! Socket.IO packet by packet: what its clients rely on and no library shows.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use testkit::link::{End, Link};
use testkit::pace::timeout;
use testkit::recording::{self, Event};
use testkit::socket_io::{Packets, connect, message, request, say, until};
use testkit::system::{Plan, System};
use testkit::websocket::{CLOSE, TEXT, Terms};
use testkit::{SOON, pomelo, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const WEBSOCKET_3: &str = "/socket.io/?EIO=3&transport=websocket";
const WEBSOCKET_4: &str = "/socket.io/?EIO=4&transport=websocket";

fn login(user: &str) -> String {
    let body = json!({ "userId": user, "lessonId": "room" });
    request(1, pomelo::LOGIN, &body)
}

fn send(id: u32, content: &str) -> String {
    request(id, pomelo::SEND, &json!({ "content": content }))
}

/// The contents of all messages of the channel among these packets.
fn heard(packets: &[String]) -> Vec<String> {
    let events = packets.iter().filter(|packet| packet.starts_with("42"));
    let messages = events.map(|packet| message(packet));
    messages
        .filter(|message| message["route"] == "onMessage")
        .map(|message| {
            message["body"]["content"]
                .as_str()
                .expect("text")
                .to_owned()
        })
        .collect()
}

/// An answer of HTTP.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

async fn http(address: SocketAddr, method: &str, path: &str, more: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("a connector");
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{more}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.expect("asked");
    let mut bytes = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut bytes)).await;
    read.expect("an answer in time").expect("an answer");
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    Answer {
        status: head[9..12].parse().expect("a status"),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

/// A client that polls.
struct Poller {
    address: SocketAddr,
    version: u32,
    path: String,
    id: String,
    open: Value,
}

impl Poller {
    async fn open(address: SocketAddr, version: u32) -> Self {
        let path = format!("/socket.io/?EIO={version}&transport=polling");
        let answer = http(address, "GET", &path, "", "").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let packets = packets(version, &answer.body);
        assert_eq!(packets.len(), 1, "{packets:?}");
        let open: Value = serde_json::from_str(&packets[0][1..]).expect("JSON");
        let id = open["sid"].as_str().expect("an id").to_owned();
        Self {
            address,
            version,
            path: format!("{path}&sid={id}"),
            id,
            open,
        }
    }

    async fn poll(&self) -> Vec<String> {
        let answer = http(self.address, "GET", &self.path, "", "").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        packets(self.version, &answer.body)
    }

    async fn post(&self, body: &str) -> Answer {
        http(self.address, "POST", &self.path, "", body).await
    }

    async fn say(&self, packet: &str) {
        let body = if self.version == 3 {
            format!("{}:{packet}", packet.encode_utf16().count())
        } else {
            packet.to_owned()
        };
        let answer = self.post(&body).await;
        assert_eq!((answer.status, &*answer.body), (200, "ok"));
    }
}

fn packets(version: u32, body: &str) -> Vec<String> {
    if version == 4 {
        return body.split('\x1e').map(str::to_owned).collect();
    }
    let mut packets = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (length, behind) = rest.split_once(':').expect("a length");
        assert!(
            body.is_ascii(),
            "clients of both versions count ASCII alike"
        );
        let (packet, behind) = behind.split_at(length.parse().expect("a number"));
        packets.push(packet.to_owned());
        rest = behind;
    }
    packets
}

/// Replays a recording that uses only a WebSocket, and compares the packets of the server. Replies and pushes are
/// separate sequences (K2), and ids of connections may differ.
async fn replay(name: &str) {
    let system = Plan::of(1, 1).start().await;
    let address = system.connectors[0].address();
    let mut played: BTreeMap<usize, (Link<Packets>, Vec<String>)> = BTreeMap::new();
    for step in recording::read(name) {
        if matches!(
            step.event,
            Event::Opened | Event::Sent(_) | Event::SentClose(_)
        ) {
            for (link, expected) in played.values() {
                until(link, expected.len()).await;
            }
        }
        if step.event == Event::Opened {
            let link = connect(address, WEBSOCKET_3).await;
            played.insert(step.connection, (link, Vec::new()));
            continue;
        }
        let (link, expected) = played.get_mut(&step.connection).expect("opened");
        match step.event {
            Event::Sent(packet) => link.frame(TEXT, &packet).await,
            Event::Received(packet) => {
                expected.push(String::from_utf8(packet.to_vec()).expect("text"));
            }
            Event::SentClose(payload) => link.frame(CLOSE, &payload).await,
            Event::Opened | Event::ReceivedClose(_) | Event::Finished | Event::Ended => {}
        }
    }
    for (number, (link, expected)) in &played {
        let end = link.end(SOON).await;
        assert!(!matches!(end, End::Broken(_)), "{name}: {end:?}");
        let received = link.inbox().read().packets.clone();
        assert_eq!(
            sorted_out(&received),
            sorted_out(expected),
            "{name}, connection {number}: received (left) is not what was recorded (right)"
        );
    }
}

/// Replies, pushes and the rest, each in order.
fn sorted_out(packets: &[String]) -> [Vec<String>; 3] {
    let mut sorted = [Vec::new(), Vec::new(), Vec::new()];
    for packet in packets {
        let mut packet = packet.clone();
        let place = if packet.contains(r#"{\"id\":"#) {
            0
        } else if packet.contains(r#"{\"route\":"#) {
            1
        } else {
            2
        };
        if let Some(begin) = packet.find(r#""sid":""#) {
            let begin = begin + r#""sid":""#.len();
            let length = packet[begin..].find('"').expect("an end");
            packet.replace_range(begin..begin + length, "…");
        }
        sorted[place].push(packet);
    }
    sorted
}

#[tokio::test]
async fn socket_ios_first_steps_are_answered_as_recorded() {
    replay("siofix-02").await;
}

#[tokio::test]
async fn errors_are_answered_to_socket_io_as_recorded() {
    replay("siofix-03").await;
}

/// As recorded (siofix-01): the answer to the first poll, the connection's packet in the next, and a login that was
/// posted as clients of 1.x write it.
#[tokio::test]
async fn polls_are_answered_as_recorded() {
    let system = Plan::of(1, 1).start().await;
    let address = system.connectors[0].address();
    let path = "/socket.io/?EIO=3&transport=polling";
    let answer = http(address, "GET", path, "", "").await;
    let open = answer.body.replace(|c: char| !c.is_ascii(), "?");
    let expected = r#","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":60000}"#;
    assert!(open.starts_with(r#"97:0{"sid":""#), "{open}");
    assert!(open.ends_with(expected), "{open}");
    for header in [
        "content-type: text/plain; charset=utf-8",
        "access-control-allow-origin: *",
        "set-cookie: io=",
    ] {
        assert!(answer.head.contains(header), "{header}: {}", answer.head);
    }

    let client = Poller::open(address, 3).await;
    assert_eq!(client.poll().await, ["40"]);
    // Clients of 1.x encode twice: each byte of the UTF-8 is a character, which is encoded again.
    let message = send(2, "哈哈");
    let twice: String = message.bytes().map(char::from).collect();
    client.say(&login("xialei")).await;
    client.say(&twice).await;
    let mut told = Vec::new();
    while told.len() < 4 {
        told.extend(client.poll().await);
    }
    assert_eq!(self::message(&told[0])["body"]["message"], "登录成功");
    assert_eq!(heard(&told), ["哈哈"]);
}

/// No message is lost, and none overtakes another.
#[tokio::test]
async fn a_client_switches_from_polls_to_a_websocket_in_the_middle_of_a_conversation() {
    let system = System::start().await;
    let address = system.connectors[0].address();
    let speaker = system.member(1, "speaker", "room").await;
    for version in [3, 4] {
        let client = Poller::open(address, version).await;
        assert_eq!(client.open["upgrades"], json!(["websocket"]));
        if version == 4 {
            client.say("40").await;
        }
        assert!(client.poll().await[0].starts_with("40"));
        client.say(&login(&format!("poller-{version}"))).await;
        let mut told = Vec::new();
        let speaking = async {
            for number in 0..300 {
                speaker.say(&number.to_string()).await;
            }
        };
        let upgrading = async {
            while heard(&told).len() < 20 {
                told.extend(client.poll().await);
            }
            let path = format!(
                "/socket.io/?EIO={version}&transport=websocket&sid={}",
                client.id
            );
            let socket = connect(address, &path).await;
            say(&socket, "2probe").await;
            assert_eq!(until(&socket, 1).await, ["3probe"]);
            // The poll that is under way ends, and the client begins no other.
            told.extend(client.poll().await);
            say(&socket, "5").await;
            say(&socket, &send(7, "I am over")).await;
            socket
        };
        let ((), socket) = tokio::join!(speaking, upgrading);
        let all = wait::some("all messages have come", SOON, async || {
            let over = socket.inbox().read().packets[1..].to_vec();
            let all = [&told[..], &over[..]].concat();
            let heard = heard(&all);
            let last = ["299", "I am over"].map(str::to_owned);
            last.iter().all(|it| heard.contains(it)).then_some(all)
        });
        let mut heard = heard(&all.await);
        let own = heard.iter().position(|said| said == "I am over");
        heard.remove(own.expect("its own message"));
        let expected: Vec<_> = (0..300).map(|number| number.to_string()).collect();
        // It joined while the first messages were sent.
        let first = expected.iter().position(|said| *said == heard[0]);
        assert_eq!(heard, expected[first.expect("one of them")..]);
        let again = http(address, "GET", &client.path, "", "").await;
        assert_eq!(
            again.status, 200,
            "a late poll is told that there is nothing"
        );
        assert_eq!(packets(version, &again.body), ["6"]);
        socket.close().await;
    }
}

#[tokio::test]
async fn a_websocket_that_does_not_complete_the_probe_leaves_the_polls_alone() {
    let system = Plan::of(1, 1).start().await;
    let address = system.connectors[0].address();
    let client = Poller::open(address, 4).await;
    client.say("40").await;
    client.poll().await;
    let path = format!("/socket.io/?EIO=4&transport=websocket&sid={}", client.id);
    for words in [&["5"][..], &["2probe", "x"], &[&login("u")], &["2probe"]] {
        let socket = connect(address, &path).await;
        for word in words {
            say(&socket, word).await;
        }
        if words != ["2probe"] {
            assert_eq!(socket.end(SOON).await, End::Dropped, "{words:?}");
        }
    }
    client.say(&login("u")).await;
    // The probe of the last one ended with it, so polls wait again.
    let mut told = Vec::new();
    while told.len() < 2 {
        told.extend(client.poll().await.into_iter().filter(|it| it != "6"));
    }
    assert_eq!(message(&told[0])["body"]["code"], 0);
}

#[tokio::test]
async fn the_newer_version_is_sent_heartbeats_and_the_older_sends_them() {
    let flags = ["--socketio-heartbeat", "1", "--socketio-timeout", "1"];
    let system = Plan::of(1, 1).connector_flags(&flags).start().await;
    let address = system.connectors[0].address();

    let old = connect(address, WEBSOCKET_3).await;
    let packets = until(&old, 2).await;
    assert!(packets[0].contains(r#""pingInterval":1000,"pingTimeout":1000"#));
    say(&old, "2what").await;
    assert_eq!(until(&old, 3).await[2], "3what");
    // Without a close frame, because some libraries reconnect only then.
    assert_eq!(old.end(Duration::from_secs(5)).await, End::Dropped);
    assert_eq!(until(&old, 3).await.len(), 3, "it was sent no heartbeat");

    let new = connect(address, WEBSOCKET_4).await;
    say(&new, "40").await;
    let packets = until(&new, 3).await;
    assert!(packets[1].starts_with(r#"40{"sid":""#), "{packets:?}");
    for count in 3..6 {
        assert_eq!(until(&new, count).await[count - 1], "2");
        say(&new, "3").await;
    }
    assert_eq!(new.end(Duration::from_secs(5)).await, End::Dropped);

    // A polling client that is gone is noticed, too.
    let gone = Poller::open(address, 3).await;
    gone.say(&login("gone")).await;
    system.until_members("room", &[("gone", 1)]).await;
    system.until_members("room", &[]).await;
}

#[tokio::test]
async fn a_request_that_is_not_engine_io_is_refused_with_a_code() {
    let flags = ["--allowed-origins", "https://example.org"];
    let system = Plan::of(1, 1).connector_flags(&flags).start().await;
    let address = system.connectors[0].address();
    for (method, query, code) in [
        ("GET", "", 0),
        ("GET", "transport=jsonp&EIO=4", 0),
        ("GET", "transport=polling", 5),
        ("GET", "transport=polling&EIO=2", 5),
        ("GET", "transport=polling&EIO=4&sid=unknown", 1),
        ("POST", "transport=polling&EIO=4&sid=unknown", 1),
        ("POST", "transport=polling&EIO=4", 2),
    ] {
        let path = format!("/socket.io/?{query}");
        let answer = http(address, method, &path, "", "").await;
        assert_eq!(answer.status, 400, "{method} {query}");
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(body["code"], code, "{method} {query}: {body}");
    }
    let client = Poller::open(address, 4).await;
    let other = client.path.replace("EIO=4", "EIO=3");
    assert_eq!(http(address, "GET", &other, "", "").await.status, 400);

    // Pages of an allowed origin may ask.
    let origin = "Origin: https://example.org\r\n";
    let answer = http(address, "GET", &client.path, origin, "");
    let (answer, ()) = tokio::join!(answer, client.say("40"));
    let allowed = "access-control-allow-origin: https://example.org";
    assert!(answer.head.contains(allowed), "{}", answer.head);
    assert!(
        answer
            .head
            .contains("access-control-allow-credentials: true")
    );
    let answer = http(address, "OPTIONS", &client.path, origin, "").await;
    assert_eq!(answer.status, 204);
    assert!(
        answer
            .head
            .contains("access-control-allow-headers: content-type")
    );
}

#[tokio::test]
async fn a_packet_that_breaks_the_protocol_ends_the_connection() {
    let system = Plan::of(1, 1).start().await;
    let address = system.connectors[0].address();
    for packet in ["", "0", "7", "4", "49", "42", "42{}", r#"42["message""#] {
        let client = connect(address, WEBSOCKET_3).await;
        say(&client, packet).await;
        let end = client.end(SOON).await;
        assert!(
            matches!(end, End::Closed { code: 1000, .. }),
            "{packet}: {end:?}"
        );
    }
    // Other events, other namespaces, and messages that are no requests are ignored.
    let client = connect(address, WEBSOCKET_3).await;
    for packet in [
        r#"42["other","text"]"#,
        r#"42["message"]"#,
        r#"42["message",{}]"#,
        r#"42["message",""]"#,
        r#"42["message","\u0000\u0000\u0000\u0001\u00ffa.b"]"#,
        r#"42/admin,["message",1]"#,
        r#"41/admin,"#,
        "43[]",
        "6",
    ] {
        say(&client, packet).await;
    }
    say(&client, "40/admin?token=1,").await;
    let packets = until(&client, 3).await;
    assert_eq!(packets[2], r#"44/admin,"Invalid namespace""#);
    // An event that asks for an acknowledgement is handled like any other.
    say(&client, &login("u").replacen("42", "4217", 1)).await;
    let packets = until(&client, 5).await;
    assert_eq!(message(&packets[3])["body"]["code"], 0);

    for body in ["x", "5:2", "99999999999999999999:2"] {
        let poller = Poller::open(address, 3).await;
        assert_eq!(poller.post(body).await.status, 400, "{body}");
        wait::eventually("the session is over", SOON, async || {
            let answer = http(address, "GET", &poller.path, "", "").await;
            answer.status == 400
        })
        .await;
    }
    let poller = Poller::open(address, 4).await;
    let huge = "4".repeat(600 << 10);
    assert_eq!(poller.post(&huge).await.status, 413);
    let poller = Poller::open(address, 4).await;
    let large = format!("4{}", "x".repeat(200 << 10));
    assert_eq!(poller.post(&large).await.status, 413);
}

/// Otherwise many posts or polls of one client could hold memory at once (F11).
#[tokio::test]
async fn a_client_may_post_only_once_and_poll_only_once_at_a_time() {
    let system = Plan::of(1, 1).start().await;
    let address = system.connectors[0].address();
    let poller = Poller::open(address, 4).await;
    let mut begun = TcpStream::connect(address).await.expect("a connector");
    let path = &poller.path;
    let half = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n4");
    begun.write_all(half.as_bytes()).await.expect("asked");
    wait::eventually("another post is refused meanwhile", SOON, async || {
        poller.post("40").await.status == 400
    })
    .await;

    let poller = Poller::open(address, 4).await;
    let get = || http(address, "GET", &poller.path, "", "");
    let (one, other) = tokio::join!(get(), get());
    let (waited, refused) = if one.status == 200 {
        (one, other)
    } else {
        (other, one)
    };
    assert_eq!((waited.status, &*waited.body), (200, "1"));
    assert_eq!(refused.status, 400);
}

/// A client that does not read costs a bounded amount of memory, whatever else it does (F11): here it stops polling, or
/// only pings on a WebSocket.
#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    const EACH: u64 = 10;
    let system = Plan::of(1, 1).start().await;
    let connector = &system.connectors[0];
    let speaker = system.member(0, "speaker", "room").await;
    let narrow = Terms {
        receive_buffer: Some(4096),
        ..Terms::default()
    };
    let mut stalled = Vec::new();
    for number in 0..EACH {
        let poller = Poller::open(connector.address(), 4).await;
        poller.say("40").await;
        poller.say(&login(&format!("poller-{number}"))).await;
        let link = Link::<Packets>::dial(connector.address(), WEBSOCKET_3, narrow).await;
        let user = format!("stalled-{number}");
        say(&link, &login(&user)).await;
        speaker.until_push(&pomelo::joined(&user)).await;
        link.stop_reading();
        stalled.push(link);
    }
    let before = connector.memory();
    let large = "x".repeat(50_000);
    let pinging = async {
        loop {
            for link in &stalled {
                say(link, "2").await;
            }
            tokio::task::yield_now().await;
        }
    };
    let speaking = async {
        for _ in 0..200 {
            assert_eq!(speaker.say(&large).await, pomelo::SENT);
        }
    };
    tokio::select! {
        () = pinging => unreachable!("they ping until all is sent"),
        () = speaking => {}
    }
    system.until_members("room", &[("speaker", 1)]).await;
    // The rest is what a process needs under such a load, even if all clients read.
    let bound = (2 * EACH * 2 + 24) << 20;
    let grown = connector.memory().peak.saturating_sub(before.now);
    assert!(grown < bound, "grown by {} MiB", grown >> 20);
}

/// After a proper close some libraries stay away, or wait for their own time-out. So a stop just drops sockets and
/// polls.
#[tokio::test]
async fn a_connector_that_stops_ends_sockets_and_polls_without_a_close() {
    let mut system = Plan::of(1, 1).start().await;
    let address = system.connectors[0].address();
    let poller = Poller::open(address, 4).await;
    poller.say("40").await;
    poller.poll().await;
    poller.say(&login("poller")).await;
    let mut told = Vec::new();
    while told.len() < 2 {
        told.extend(poller.poll().await);
    }
    let socket = connect(address, WEBSOCKET_4).await;
    until(&socket, 1).await;
    let polled = tokio::spawn(async move {
        let mut stream = TcpStream::connect(poller.address)
            .await
            .expect("a connector");
        let request = format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", poller.path);
        stream.write_all(request.as_bytes()).await.expect("asked");
        let mut answer = Vec::new();
        let read = timeout(SOON, stream.read_to_end(&mut answer)).await;
        read.expect("the end in time").map(|_| answer)
    });
    // Connections are accepted in order. If a later client has been greeted, the poll has been accepted, too.
    tokio::task::yield_now().await;
    let _next = system.visitor(0).await;
    system.connectors[0].terminate();
    assert_eq!(socket.end(SOON).await, End::Dropped);
    assert_eq!(until(&socket, 1).await.len(), 1, "nothing but the greeting");
    let polled = polled.await.expect("a poll").expect("a plain end");
    assert_eq!(String::from_utf8_lossy(&polled), "");
    let status = system.connectors[0].ended_within(Duration::from_secs(10));
    assert!(status.await.success());
}
