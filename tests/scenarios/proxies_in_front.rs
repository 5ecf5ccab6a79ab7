//! The examples of deploy/nginx/ and deploy/haproxy/ in front of two connectors: every protocol comes through with TLS, connectors
//! learn where a client is, and a connector that is away or not ready costs no login.

use serde_json::json;
use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use testkit::pace::timeout;
use testkit::polling::Poller;
use testkit::pomelo::{
    self, Client, DATA, HANDSHAKE, HANDSHAKE_ACK, HELLO, LOGGED_IN, LOGIN, SEND,
};
use testkit::process::Process;
use testkit::redis::free_port;
use testkit::service::Connector;
use testkit::sse::{self, Event, Stream};
use testkit::system::{Plan, System};
use testkit::tls::{Authority, relay, text};
use testkit::{SOON, json::Client as Json, socket_io, wait, workspace};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Where all clients of these tests are. The proxy and the connectors are at 127.0.0.1.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What connectors need behind a proxy that speaks HTTP.
pub(crate) const FORWARDED: [&str; 2] = ["--trusted-proxies", "127.0.0.1"];
/// What they need behind one that speaks the PROXY protocol.
pub(crate) const PREFACED: [&str; 3] = ["--trusted-proxies", "127.0.0.1", "--proxy-protocol"];

/// A running proxy.
pub(crate) struct Front {
    process: Process,
    /// For clients without TLS: it speaks TLS for them, and connects from [`CLIENTS`].
    address: SocketAddr,
    is_haproxy: bool,
    /// When clients came.
    arrivals: Arc<Mutex<Vec<Instant>>>,
    _relays: [JoinSet<()>; 2],
    _authority: Authority,
    _folder: TempDir,
}

/// An example of the repository, with the ports of a test, and its port for clients.
fn example(file: &str, connectors: &[Connector], authority: &Authority) -> (String, u16) {
    let path = workspace().join("deploy").join(file);
    let mut example = fs::read_to_string(&path).expect("the example can be read");
    let port = free_port();
    let identity = authority.issue("chat");
    let both = [&identity.certificate, &identity.key].map(|it| fs::read(it).expect("a file"));
    let bundle = authority.file("bundle.pem");
    fs::write(&bundle, both.concat()).expect("a file");
    for number in 2..connectors.len() {
        example = with_another(&example, number);
    }
    let mut put = |documented: &str, here: &str| {
        example = example.replace(documented, here);
    };
    for (number, connector) in connectors.iter().enumerate() {
        put(
            &format!("127.0.0.1:{}", 3010 + number),
            &connector.address().to_string(),
        );
        put(
            &format!("port {}", 9101 + number),
            &format!("port {}", connector.admin().port()),
        );
    }
    put(
        "/etc/nginx/tls/chat.example.crt",
        text(&identity.certificate),
    );
    put("/etc/nginx/tls/chat.example.key", text(&identity.key));
    put("/etc/haproxy/chat.example.pem", text(&bundle));
    put("listen 443 ssl", &format!("listen 127.0.0.1:{port} ssl"));
    put("bind :443 ssl", &format!("bind 127.0.0.1:{port} ssl"));
    // The test may run as somebody who can't become another user.
    for line in [
        "    chroot /var/lib/haproxy\n",
        "    user haproxy\n",
        "    group haproxy\n",
    ] {
        put(line, "");
    }
    (example, port)
}

/// An example names two connectors. A further one is written like the second.
fn with_another(example: &str, number: usize) -> String {
    let mut text = String::new();
    for line in example.lines() {
        let _ = writeln!(text, "{line}");
        if line.trim_start().starts_with("server ") && line.contains("127.0.0.1:3011") {
            let another = line
                .replace("connector-2", &format!("connector-{}", number + 1))
                .replace("127.0.0.1:3011", &format!("127.0.0.1:{}", 3010 + number))
                .replace("port 9102", &format!("port {}", 9101 + number));
            let _ = writeln!(text, "{another}");
        }
    }
    text
}

/// The rest of nginx.conf around an example.
fn nginx(folder: &Path, context: &str, example: &Path) -> String {
    let mut config = "daemon off; pid nginx.pid; error_log stderr warn;\n".to_owned();
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    if context == "stream" && Path::new(module).exists() {
        let _ = writeln!(config, "load_module {module};");
    }
    let _ = writeln!(
        config,
        "events {{ worker_connections 8192; }}\n{context} {{"
    );
    if context == "http" {
        let _ = writeln!(config, "access_log off;");
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            let _ = writeln!(config, "{kind}_temp_path {}/{kind};", text(folder));
        }
    }
    let _ = writeln!(config, "include {};\n}}", text(example));
    config
}

impl Front {
    /// Starts the proxy that this example is for, and waits until it takes connections. All clients come from [`CLIENTS`].
    async fn start(file: &str, connectors: &[Connector]) -> Self {
        Self::start_from(file, connectors, 1).await
    }

    /// The same, with clients that come from so many addresses in turn.
    pub(crate) async fn start_from(file: &str, connectors: &[Connector], addresses: u8) -> Self {
        let authority = Authority::new();
        let (config, port) = example(file, connectors, &authority);
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("example.conf");
        fs::write(&path, config).expect("written");
        let (program, arguments) = match file.split_once('/') {
            Some(("nginx", name)) => {
                let context = name.strip_suffix(".conf").expect("an example of nginx");
                let whole = folder.path().join("nginx.conf");
                fs::write(&whole, nginx(folder.path(), context, &path)).expect("written");
                let folder = text(folder.path()).to_owned();
                (
                    "nginx",
                    [
                        "-p".to_owned(),
                        folder,
                        "-c".to_owned(),
                        text(&whole).to_owned(),
                    ],
                )
            }
            _ => {
                let path = text(&path).to_owned();
                (
                    "haproxy",
                    ["-db".to_owned(), "-W".to_owned(), "-f".to_owned(), path],
                )
            }
        };
        // Debian has them where only root looks.
        let program = format!("/usr/sbin/{program}");
        let process = Process::spawn(file, Command::new(program).args(arguments));
        let proxy = SocketAddr::from(([127, 0, 0, 1], port));
        wait::eventually("the proxy takes connections", SOON, async || {
            TcpStream::connect(proxy).await.is_ok()
        })
        .await;
        let arrivals = Arc::default();
        let (elsewhere, from_there) = from_elsewhere(proxy, addresses, Arc::clone(&arrivals)).await;
        let (address, with_tls) = authority.proxy(elsewhere).await;
        Self {
            process,
            address,
            is_haproxy: file.starts_with("haproxy/"),
            arrivals,
            _relays: [from_there, with_tls],
            _authority: authority,
            _folder: folder,
        }
    }
}

impl Front {
    /// For clients without TLS.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn is_haproxy(&self) -> bool {
        self.is_haproxy
    }

    /// When clients have come so far.
    pub(crate) fn arrivals(&self) -> Vec<Instant> {
        self.arrivals.lock().expect("no panic").clone()
    }

    /// Waits until the proxy has logged this.
    pub(crate) async fn until_line(&mut self, text: &str) {
        let process = &mut self.process;
        process
            .until_line(text, |line| line.contains(text).then_some(()))
            .await;
    }
}

/// Passes connections on to the proxy, from so many addresses in turn, of which the first is [`CLIENTS`].
async fn from_elsewhere(
    proxy: SocketAddr,
    addresses: u8,
    arrivals: Arc<Mutex<Vec<Instant>>>,
) -> (SocketAddr, JoinSet<()>) {
    let [a, b, c, last] = CLIENTS.octets();
    let turns = AtomicU8::new(0);
    relay(move |mut client| {
        arrivals.lock().expect("no panic").push(Instant::now());
        let turn = turns.fetch_add(1, Ordering::Relaxed) % addresses;
        let from = Ipv4Addr::new(a, b, c, last + turn);
        async move {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket
                .bind((from, 0).into())
                .expect("an address of loopback");
            if let Ok(mut server) = socket.connect(proxy).await {
                // When one side ends, both are dropped, which passes the end on.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        }
    })
    .await
}

/// How many sessions of this user have ended, as the connectors have logged it, and where their clients were.
fn ended(connectors: &[Connector], user: &str) -> Vec<String> {
    let lines = connectors.iter().flat_map(|it| it.lines());
    let ends = lines.filter_map(|line| {
        let event: serde_json::Value = serde_json::from_str(&line).ok()?;
        let fields = event.get("fields").unwrap_or(&event);
        let ours = fields["message"] == "session closed" && fields["user"] == format!("{user:?}");
        ours.then(|| fields["peer"].as_str().unwrap_or_default().to_owned())
    });
    ends.collect()
}

/// The connectors have logged the end of this user's session with the client's own address.
async fn the_log_knows_where(connectors: &[Connector], user: &str) {
    let what = format!("the log says where {user} was");
    let ended = wait::some(&what, SOON, async || {
        let ended = ended(connectors, user);
        (!ended.is_empty()).then_some(ended)
    });
    for peer in ended.await {
        assert!(peer.starts_with(&CLIENTS.to_string()), "{user}: {peer}");
    }
}

/// Logs in with each protocol over HTTP, says something that all of them hear, and leaves.
async fn everybody_talks(front: &Front, connectors: &[Connector]) {
    let address = front.address;
    let json = Json::connect(address).await;
    let login = json!({ "userId": "json", "lessonId": "room" });
    assert_eq!(json.request(LOGIN, login).await["code"], 0);
    let pomelo = Client::connect(address).await;
    assert_eq!(pomelo.login("pomelo", "room").await, LOGGED_IN);
    let socket = socket_io::connect(address, "/socket.io/?EIO=4&transport=websocket").await;
    socket_io::say(&socket, "40").await;
    let login = json!({ "userId": "socket", "lessonId": "room" });
    socket_io::say(&socket, &socket_io::request(1, LOGIN, &login)).await;
    let stream = Stream::of(address, "stream", &["room"]).await;
    // Each of its posts comes on a new connection, and so do some of its polls.
    let mut polls = Poller::open(address, 4).await.expect("polls");
    let login = json!({ "userId": "polls", "lessonId": "room" });
    let posted = polls.post(&[&socket_io::request(1, LOGIN, &login)]).await;
    assert_eq!(posted.expect("an answer"), 200);
    polls.until("onJoin").await;
    polls.on_a_new_socket().await.expect("a socket");
    // All requests of a client come to the connector where it began, also if the other one has fewer connections by then.
    let mut between = Vec::new();
    for _ in 0..4 {
        let another = Poller::open(address, 4).await.expect("polls");
        between.push(Json::connect(address).await);
        assert_eq!(another.post(&["41", "1"]).await.expect("an answer"), 200);
    }
    drop(between);

    pomelo.say("through the proxy").await;
    polls.until("through the proxy").await;
    json.inbox()
        .until(SOON, |it| {
            it.pushes
                .iter()
                .any(|it| it["body"]["content"] == "through the proxy")
                .then_some(())
        })
        .await
        .expect("json hears it");
    socket
        .inbox()
        .until(SOON, |it| {
            it.packets
                .iter()
                .any(|it| it.contains("through the proxy"))
                .then_some(())
        })
        .await
        .expect("the socket hears it");

    // The proxy passes each event on at once, and does not wait for more of them.
    let it_comes = |event: &Event| event.data["body"]["content"] == "through the proxy";
    stream.until_event("the message", it_comes).await;
    // haproxy notices that a reader is gone when it can't pass on what comes.
    drop(stream);
    wait::eventually("the connector knows it", SOON, async || {
        pomelo.say("is anybody there?").await;
        !ended(connectors, "stream").is_empty()
    })
    .await;

    json.close().await;
    pomelo.close().await;
    socket.close().await;
    assert_eq!(polls.post(&["41", "1"]).await.expect("an answer"), 200);
    drop(polls);
    for user in ["json", "pomelo", "socket", "stream", "polls"] {
        the_log_knows_where(connectors, user).await;
    }
}

/// A proxy that reads paths knows which connector holds a stream. Each post comes on a new connection.
async fn posts_reach_the_connector_that_holds_their_stream(front: &Front) {
    for number in 0..4 {
        let stream = Stream::of(front.address, &format!("reader-{number}"), &["room"]).await;
        for _ in 0..3 {
            let send = json!({"route": SEND, "body": {"content": "by a post"}});
            let (status, answer) = sse::post(front.address, &stream.session(), &send).await;
            let code = &answer["body"]["code"];
            assert_eq!((status, code), (200, &json!(0)), "{answer}");
        }
    }
}

/// Logs in with Pomelo's packages and no WebSocket.
async fn a_client_over_tcp_talks(front: &Front, connectors: &[Connector]) {
    let mut client = TcpStream::connect(front.address).await.expect("the proxy");
    let login = pomelo::request(1, LOGIN, br#"{"userId":"tcp","lessonId":"room"}"#);
    let words = [
        pomelo::package(HANDSHAKE, HELLO.as_bytes()),
        pomelo::package(HANDSHAKE_ACK, b""),
        pomelo::package(DATA, &login),
    ];
    client.write_all(&words.concat()).await.expect("written");
    let mut received = Vec::new();
    let answered = timeout(SOON, async {
        while !String::from_utf8_lossy(&received).contains(LOGGED_IN) {
            let read = client.read_buf(&mut received).await.expect("it reads");
            assert!(
                read > 0,
                "the connection ended: {}",
                String::from_utf8_lossy(&received)
            );
        }
    });
    answered.await.expect("the login is answered");
    drop(client);
    the_log_knows_where(connectors, "tcp").await;
}

/// A user who can't get in at first tries again, as clients do, each time under another name: `name-1`, `name-2` and so on.
async fn someone_gets_in(front: &Front, name: &str) -> Json {
    let mut tries = 0;
    wait::some("a client gets in", SOON, async || {
        tries += 1;
        let client = Json::connect(front.address).await;
        let login = json!({ "userId": format!("{name}-{tries}"), "lessonId": "room" });
        let answer = client.request(LOGIN, login).await;
        (answer["code"] == 0).then_some(client)
    })
    .await
}

/// While one connector is stopped, clients get in at the other one.
async fn one_connector_is_enough(front: &Front, system: &mut System) {
    system.connectors[0].kill();
    for number in 0..4 {
        let client = Json::connect(front.address).await;
        let login = json!({ "userId": format!("alone-{number}"), "lessonId": "room" });
        assert_eq!(client.request(LOGIN, login).await["code"], 0);
    }
}

#[tokio::test]
async fn nginx_passes_on_what_comes_over_http() {
    let mut system = Plan::of(2, 1).connector_flags(&FORWARDED).start().await;
    let front = Front::start("nginx/http.conf", &system.connectors).await;
    everybody_talks(&front, &system.connectors).await;
    posts_reach_the_connector_that_holds_their_stream(&front).await;
    one_connector_is_enough(&front, &mut system).await;
}

#[tokio::test]
async fn nginx_passes_on_every_protocol_with_the_proxy_protocol() {
    let mut system = Plan::of(2, 1).connector_flags(&PREFACED).start().await;
    let front = Front::start("nginx/stream.conf", &system.connectors).await;
    everybody_talks(&front, &system.connectors).await;
    a_client_over_tcp_talks(&front, &system.connectors).await;
    one_connector_is_enough(&front, &mut system).await;
}

#[tokio::test]
async fn haproxy_passes_on_what_comes_over_http() {
    let mut system = Plan::of(2, 1).connector_flags(&FORWARDED).start().await;
    let front = Front::start("haproxy/http.cfg", &system.connectors).await;
    everybody_talks(&front, &system.connectors).await;
    posts_reach_the_connector_that_holds_their_stream(&front).await;
    one_connector_is_enough(&front, &mut system).await;
}

#[tokio::test]
async fn haproxy_passes_on_every_protocol_with_the_proxy_protocol() {
    let mut system = Plan::of(2, 1).connector_flags(&PREFACED).start().await;
    let front = Front::start("haproxy/tcp.cfg", &system.connectors).await;
    everybody_talks(&front, &system.connectors).await;
    a_client_over_tcp_talks(&front, &system.connectors).await;
    one_connector_is_enough(&front, &mut system).await;
}

#[tokio::test]
async fn haproxy_sends_nobody_new_to_a_connector_that_is_not_ready() {
    for (file, flags) in [
        ("haproxy/http.cfg", &FORWARDED[..]),
        ("haproxy/tcp.cfg", &PREFACED),
    ] {
        let plan = Plan::of(2, 2).each_its_own_chat().connector_flags(flags);
        let mut system = plan.start().await;
        let mut front = Front::start(file, &system.connectors).await;
        let stays = someone_gets_in(&front, "before").await;
        // The first connector accepts connections as before, but nobody gets what is said there.
        system.chats[0].kill();
        let out = "Server connectors/connector-1 is DOWN";
        front.until_line(out).await;
        let before = system.connectors[0].connections().await;
        for number in 0..4 {
            let client = Json::connect(front.address).await;
            let login = json!({ "userId": format!("after-{number}"), "lessonId": "room" });
            assert_eq!(client.request(LOGIN, login).await["code"], 0, "{file}");
        }
        assert!(system.connectors[0].connections().await <= before, "{file}");
        assert_eq!(stays.ended(), None, "{file}");
    }
}
