//! While Redis or chat is unreachable, a service stays up, is not ready, and says so once. When they come, it becomes
//! ready.

use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use testkit::permit::Permit;
use testkit::redis::Redis;
use testkit::service::{Chat, Connector, Service};
use testkit::{SOON, http, wait};
use tokio::net::TcpListener;

/// A broken peer: it accepts connections, drops them, and counts them.
struct Broken {
    address: std::net::SocketAddr,
    tries: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Broken {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("the kernel has a free port");
        let address = listener.local_addr().expect("it is bound");
        let tries = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&tries);
        let task = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            address,
            tries,
            task,
        }
    }

    /// Waits until a service has tried again and again.
    async fn tried(&self) {
        let what = "it tries again and again";
        wait::eventually(what, SOON * 3, async || {
            self.tries.load(Ordering::Relaxed) >= 6
        })
        .await;
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn is_up_but_not_ready(service: &Service) {
    let live = http::get(service.admin(), "/livez").await;
    assert_eq!(live.expect("it is up").status, 200);
    wait::eventually("it is not ready", SOON, async || {
        service.readyz().await == Some(503)
    })
    .await;
}

/// Each missing thing is logged once, however often it is tried: a connection, and what waits for it if that lasts.
fn says_so_once(service: &Service, things: usize) {
    let warnings = service.warnings();
    let messages: BTreeSet<_> = warnings.iter().map(|line| message(line)).collect();
    assert_eq!(messages.len(), warnings.len(), "{warnings:#?}");
    assert!((1..=things).contains(&warnings.len()), "{warnings:#?}");
}

fn message(line: &str) -> String {
    let event: Value = serde_json::from_str(line).expect("a JSON log");
    event["message"].as_str().expect("a message").to_owned()
}

#[tokio::test]
async fn a_chat_without_redis_is_up_but_not_ready_and_says_so_once() {
    let _permit = Permit::shared().await;
    let broken = Broken::start().await;
    let chat = Chat::begin(&format!("redis://{}", broken.address), &[]).await;
    is_up_but_not_ready(&chat).await;
    broken.tried().await;
    says_so_once(&chat, 2);
}

#[tokio::test]
async fn a_connector_without_redis_is_up_but_not_ready_and_says_so_once() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let chat = Chat::start(&redis, &[]).await;
    let broken = Broken::start().await;
    let url = format!("redis://{}", broken.address);
    let connector = Connector::begin("c1", &chat.url(), &url, &[]).await;
    is_up_but_not_ready(&connector).await;
    broken.tried().await;
    // The third one is about the login policy.
    says_so_once(&connector, 3);
}

#[tokio::test]
async fn a_connector_without_chat_is_up_but_not_ready_and_says_so_once() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let broken = Broken::start().await;
    let url = format!("http://{}", broken.address);
    let connector = Connector::begin("c1", &url, &redis.url(), &[]).await;
    is_up_but_not_ready(&connector).await;
    broken.tried().await;
    says_so_once(&connector, 2);
}

/// In whatever order things are started, they find each other.
#[tokio::test]
async fn services_that_were_started_too_early_become_ready_by_themselves() {
    let _permit = Permit::shared().await;
    let mut redis = Redis::start().await;
    redis.stop().await;
    let mut chat = Chat::begin(&redis.url(), &[]).await;
    let connector = Connector::begin("c1", &chat.url(), &redis.url(), &[]).await;
    chat.kill();
    is_up_but_not_ready(&connector).await;
    redis.restart().await;
    chat.restart().await;
    chat.ready().await;
    connector.ready().await;
    let alice = testkit::pomelo::Client::join(connector.address(), "alice", "room").await;
    assert_eq!(alice.say("hello").await, testkit::pomelo::SENT);
}

/// One of several chats is enough.
#[tokio::test]
async fn a_connector_is_ready_with_one_chat_of_two() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let chat = Chat::start(&redis, &[]).await;
    let chats = format!("http://127.0.0.1:1,{}", chat.url());
    let connector = Connector::begin("c1", &chats, &redis.url(), &[]).await;
    connector.ready().await;
    for number in 0..8 {
        let user = format!("user{number}");
        let client = testkit::pomelo::Client::join(connector.address(), &user, "room").await;
        assert_eq!(client.say("hello").await, testkit::pomelo::SENT);
    }
}
