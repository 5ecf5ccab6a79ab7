//! What a session costs that sends nothing: its login, and its end. Connector, chat and the store in memory are in one process.

use super::workloads::chat_in_process;
use channel_store::StoreOptions;
use channel_store::memory::MemoryStore;
use clap::Parser;
use connector::hub::{Hub, TOUCH_INTERVAL};
use connector::routes::Routes;
use connector::{Config, Connector, Store};
use runtime::config::fixed;
use runtime::listen::{ListenAddress, Listener};
use runtime::{Readiness, Shutdown};
use std::net::SocketAddr;
use testkit::pomelo::package;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::yield_now;

/// How many sessions the shorter one of two runs counts.
pub(crate) const CALLS: u64 = 200;

/// How often other tasks get their turn after a client is gone, so that its leave and the end of its login are not left for later.
const TURNS: usize = 32;

/// A connector that serves.
struct Served {
    runtime: Runtime,
    address: SocketAddr,
    logins: u64,
}

impl Served {
    fn begin() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let address = runtime.block_on(async {
            let config = Config::try_parse_from(["connector"]).expect("no flag is needed");
            let store = MemoryStore::new(StoreOptions::default());
            let hub = Hub::new(TOUCH_INTERVAL);
            let feed = store.feed(hub.clone());
            let readiness = Readiness::new();
            readiness.follow("store", feed.available());
            let parts = Store {
                feed,
                leases: store.leases(),
                users: store.registry(),
                hints: store.hints(),
                inboxes: store.inboxes(),
            };
            let clients = &config.clients;
            let routes = Routes::begin(&[], "costs", 64 << 10, &clients.route_tls);
            let connector = Connector::new(
                "costs",
                config.lease,
                clients,
                hub,
                parts,
                chat_in_process(&store),
                routes.expect("there are none"),
            )
            .expect("a connector");
            connector.report_to(&readiness);
            let place = ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
            let listener = Listener::bind(&place).expect("a port");
            let ListenAddress::Tcp(address) = listener.local_address().expect("an address") else {
                panic!("it listens on TCP");
            };
            let latest = fixed(config);
            tokio::spawn(connector.serve(listener, readiness.clone(), latest, Shutdown::new()));
            while !readiness.is_ready() {
                yield_now().await;
            }
            address
        });
        Self {
            runtime,
            address,
            logins: 0,
        }
    }

    /// Logs a further user in, who joins a channel of its own. Returns when the client has its answer and its own onJoin.
    fn log_in(&mut self) -> TcpStream {
        self.logins += 1;
        let message = request(&format!(
            r#"{{"userId":"user-{0}","lessonId":"room-{0}"}}"#,
            self.logins
        ));
        let greeting = [package(1, br#"{"sys":{}}"#), package(2, b"")].concat();
        let all = [greeting, package(4, &message)].concat();
        self.runtime.block_on(async {
            let client = TcpStream::connect(self.address).await;
            let mut client = client.expect("it listens");
            client.write_all(&all).await.expect("it reads");
            let mut heard = Vec::new();
            while !contains(&heard, b"onJoin") {
                let read = client.read_buf(&mut heard).await.expect("it writes");
                assert!(read > 0, "closed: {}", String::from_utf8_lossy(&heard));
            }
            assert!(
                contains(&heard, "登录成功".as_bytes()),
                "not logged in: {}",
                String::from_utf8_lossy(&heard)
            );
            client
        })
    }

    /// Ends a client's side, and returns when the connector has ended its own.
    fn end(&mut self, mut client: TcpStream) {
        self.runtime.block_on(async {
            client.shutdown().await.expect("it is open");
            let mut heard = Vec::new();
            let read = client.read_to_end(&mut heard).await;
            read.expect("it ends without an error");
            for _ in 0..TURNS {
                yield_now().await;
            }
        });
    }
}

/// A request to log in, as a message of Pomelo's protocol.
fn request(body: &str) -> Vec<u8> {
    let route = "connector.handler.login";
    let mut message = vec![0, 1, route.len() as u8];
    message.extend_from_slice(route.as_bytes());
    message.extend_from_slice(body.as_bytes());
    message
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|it| it == part)
}

/// A login: the socket is accepted, the session is indexed, logs in, attaches to the channel and joins it, and its client is
/// answered and gets its own onJoin.
pub(crate) fn login() -> Box<dyn FnMut()> {
    let mut served = Served::begin();
    let mut clients = Vec::new();
    Box::new(move || clients.push(served.log_in()))
}

/// The end of such a session: its client is gone, it leaves its channel, and its login is closed.
pub(crate) fn end() -> Box<dyn FnMut()> {
    let mut served = Served::begin();
    // As many in the shorter run as in the longer one, so that their logins are not counted.
    let mut clients: Vec<_> = (0..2 * CALLS).map(|_| served.log_in()).collect();
    Box::new(move || {
        let client = clients.pop().expect("a client for each call");
        served.end(client);
    })
}
