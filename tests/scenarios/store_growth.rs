//! How fast clients can make Redis grow within the rates that hold for strangers, and what goes away by itself. docs/access.md has
//! the figures.

use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use testkit::attack::{enter, message};
use testkit::redis::Redis;
use testkit::system::{Plan, System};
use testkit::wait;
use testkit::websocket::{Reader, TEXT, Terms, Writer};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const MEBIBYTE: u64 = 1 << 20;
/// How long each kind of client goes on.
const TIME: Duration = Duration::from_secs(15);
/// The rates for strangers, which do not hold on loopback unless they are asked for.
const RATES: [&str; 10] = [
    "--request-rate",
    "200",
    "--byte-rate",
    "2MiB",
    "--join-rate",
    "20",
    "--read-rate",
    "10",
    "--user-connections",
    "16",
];
/// An empty channel is gone after two minutes. Redis looks for keys that have expired ten times a second.
const EMPTY: Duration = Duration::from_secs(180);

/// What a client does again and again.
#[derive(Debug, Clone, Copy)]
enum Deed {
    /// It publishes as many bytes as it may, in ninety channels.
    LargeMessages,
    /// It publishes as many messages as it may, in one channel.
    SmallMessages,
    /// It joins a new channel, publishes one message there, and leaves it.
    NewChannels,
    /// It joins a new channel and leaves it.
    EmptyChannels,
}

/// A client, and how many of its requests were carried out.
struct Filler {
    writer: Writer,
    reader: Reader,
    name: String,
    id: u64,
    done: Arc<AtomicU64>,
}

impl Filler {
    /// Makes a request. If there were too many, it waits as long as it is told, and tries again.
    async fn ask(&mut self, route: &str, body: &Value) -> io::Result<()> {
        loop {
            self.id += 1;
            let request = json!({ "id": self.id, "route": route, "body": body });
            let request = request.to_string();
            self.writer.frame(TEXT, request.as_bytes()).await?;
            let answer = loop {
                let message = message(&mut self.writer, &mut self.reader).await?;
                if message["id"] == self.id {
                    break message["body"].clone();
                }
            };
            match answer["code"].as_u64() {
                Some(0) => {
                    self.done.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Some(429) => {
                    let pause = answer["retryAfterMs"].as_u64().unwrap_or(100);
                    sleep(Duration::from_millis(pause)).await;
                }
                _ => return Err(io::Error::other(answer.to_string())),
            }
        }
    }

    async fn go_on(&mut self, deed: Deed) -> io::Result<()> {
        let large = "x".repeat(100_000);
        if let Deed::LargeMessages = deed {
            for number in 0..90 {
                let channel = format!("{}-{number}", self.name);
                self.ask("chat.handler.join", &json!({ "channel": channel }))
                    .await?;
            }
        }
        for number in 0_u64.. {
            let channel = match deed {
                Deed::LargeMessages => format!("{}-{}", self.name, number % 90),
                Deed::SmallMessages => self.name.clone(),
                Deed::NewChannels | Deed::EmptyChannels => format!("{}-{number}", self.name),
            };
            let place = json!({ "channel": channel });
            let content = match deed {
                Deed::LargeMessages => &*large,
                _ => "x",
            };
            let publish = json!({ "channel": channel, "body": { "content": content } });
            if let Deed::NewChannels | Deed::EmptyChannels = deed {
                self.ask("chat.handler.join", &place).await?;
            }
            if !matches!(deed, Deed::EmptyChannels) {
                self.ask("chat.handler.publish", &publish).await?;
            }
            if let Deed::NewChannels | Deed::EmptyChannels = deed {
                self.ask("chat.handler.leave", &place).await?;
            }
        }
        Ok(())
    }
}

async fn used(redis: &Redis) -> u64 {
    let used = redis.info("memory", "used_memory").await;
    used.and_then(|used| used.parse().ok()).expect("a number")
}

async fn fill(
    at: SocketAddr,
    deed: Deed,
    (number, sockets, users): (u32, u32, u32),
    done: Arc<AtomicU64>,
) {
    // Not one of those who were here before, because their sessions may not have ended yet.
    let user = format!("user-{sockets}-{}", number % users);
    let name = format!("{user}-{number}");
    let (writer, reader) = enter(at, Terms::default(), &user, &name)
        .await
        .expect("it gets in");
    let mut filler = Filler {
        writer,
        reader,
        name,
        id: 0,
        done,
    };
    let ended = timeout(TIME, filler.go_on(deed)).await;
    assert!(ended.is_err(), "it is let go on: {ended:?}");
}

/// What sockets of so many users do to Redis. Returns the bytes by which it has grown.
async fn grow(system: &System, deed: Deed, sockets: u32, users: u32) -> u64 {
    let before = used(&system.redis).await;
    let done = Arc::new(AtomicU64::new(0));
    let at = system.connectors[0].address();
    let mut fillers = JoinSet::new();
    for number in 0..sockets {
        let which = (number, sockets, users);
        fillers.spawn(fill(at, deed, which, Arc::clone(&done)));
    }
    let mut growth = Vec::new();
    let (begun, mut last) = (Instant::now(), before);
    while begun.elapsed() + Duration::from_secs(1) < TIME {
        sleep(Duration::from_secs(1)).await;
        let now = used(&system.redis).await;
        growth.push(now.saturating_sub(last));
        last = now;
    }
    fillers.join_all().await;
    let tail = &growth[growth.len() / 2..];
    let steady = tail.iter().sum::<u64>() / tail.len() as u64;
    let first = growth[0];
    println!(
        "{deed:?}, {sockets} sockets of {users} users: {first} bytes in the first second, {steady} bytes in each of the last \
         seconds, {} bytes in all, {} requests",
        last - before,
        done.load(Ordering::Relaxed),
    );
    used(&system.redis).await.saturating_sub(before)
}

async fn start() -> System {
    let plan = Plan::of(1, 1).alone().login_policy("allow");
    let system = plan.connector_flags(&RATES).start().await;
    // What this machine can spare.
    let limit = ["CONFIG", "SET", "maxmemory", "4gb"];
    system.redis.command(&limit).await;
    system
}

/// The rate of bytes is the bound, whatever the messages are.
#[tokio::test]
#[ignore = "measures for minutes: ./tests/run --long"]
async fn one_socket_makes_redis_grow_no_faster_than_its_rate_of_bytes_allows() {
    for deed in [
        Deed::LargeMessages,
        Deed::SmallMessages,
        Deed::NewChannels,
        Deed::EmptyChannels,
    ] {
        let system = start().await;
        let grown = grow(&system, deed, 1, 1).await;
        // The burst, what comes in each second, and what an empty Redis allocates for its first clients.
        let allowed = 8 * MEBIBYTE + 2 * MEBIBYTE * TIME.as_secs() + 4 * MEBIBYTE;
        assert!(grown <= allowed + allowed / 4, "{deed:?}: {grown} bytes");
        for (sockets, users) in [(16, 1), (64, 64)] {
            grow(&system, deed, sockets, users).await;
        }
    }
}

/// Whoever joins and leaves channels that nobody speaks in leaves nothing behind.
#[tokio::test]
#[ignore = "takes minutes: ./tests/run --long"]
async fn channels_that_were_joined_and_left_are_forgotten_after_two_minutes() {
    let system = start().await;
    let channels = || {
        let keys = system.redis.keys();
        keys.iter()
            .filter(|key| key.contains("{user-1-0-0-"))
            .count()
    };
    grow(&system, Deed::EmptyChannels, 1, 1).await;
    let left = channels();
    assert!(left > 100, "{left} keys");
    wait::eventually("all of them are forgotten", EMPTY, async || channels() == 0).await;
}
