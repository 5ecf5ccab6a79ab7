//! A service is ready if publications arrive. If something prevents that, `/readyz` says what within three seconds, and
//! stops saying so within three seconds after the repair.

use std::net::SocketAddr;
use std::time::Duration;
use testkit::cluster::Cluster;
use testkit::followers::ROOM;
use testkit::json::Client as JsonClient;
use testkit::permit::Permit;
use testkit::pomelo::Client;
use testkit::redis::Redis;
use testkit::service::{Chat, Connector, Service};
use testkit::system::{Plan, Services};
use testkit::{SOON, http, wait};

/// From a fault to the report of it, and from the repair to the end of the report.
const TOLD: Duration = Duration::from_secs(3);

/// Waits until `/readyz` has this status, and a line that begins with `line` and contains all words.
async fn says(service: &Service, status: u16, line: &str, words: &[&str], within: Duration) {
    let what = format!("readyz says {status}, {line} {words:?}");
    let mut last = String::new();
    let answer = wait::within(within, async || {
        let answer = http::get(service.admin(), "/readyz").await?;
        let found = answer
            .body
            .lines()
            .any(|told| told.starts_with(line) && words.iter().all(|word| told.contains(word)));
        last.clone_from(&answer.body);
        (answer.status == status && found).then_some(())
    })
    .await;
    assert!(
        answer.is_some(),
        "not within {within:?}: {what}; it says:\n{last}"
    );
}

/// Waits until `/readyz` says 200. `/healthz` on the clients' port must say the same.
async fn is_ready(connector: &Connector) {
    says(connector, 200, "publish: ok", &[], TOLD).await;
    let health = http::get(connector.address(), "/healthz").await;
    assert_eq!(health.expect("it answers").status, 200);
}

/// A connector and a chat that are both ready, on one Redis.
async fn pair(flags: &[&str]) -> (Redis, Chat, Connector) {
    let redis = Redis::start().await;
    let chat = Chat::start(&redis, flags).await;
    let connector = Connector::start("c1", &[&chat], &redis, &[]).await;
    (redis, chat, connector)
}

#[tokio::test]
async fn a_connector_on_another_redis_or_prefix_than_chat_is_not_ready_and_says_so() {
    let _permit = Permit::shared().await;
    let (redis, other) = (Redis::start().await, Redis::start().await);
    let chat = Chat::start(&redis, &[]).await;
    let (ours, theirs) = (redis.address().to_string(), other.address().to_string());
    let elsewhere = format!("{}/1", redis.url());
    let here = redis.url();
    for (url, flags, words) in [
        (other.url(), &[][..], vec!["another Redis", &ours, &theirs]),
        (elsewhere, &[], vec!["database 0", "this connector: 1"]),
        (
            here,
            &["--prefix", "other"],
            vec!["prefix \"gc\"", "\"other\""],
        ),
    ] {
        let connector = Connector::begin("c1", &chat.url(), &url, flags).await;
        says(&connector, 503, "chat: not ready: ", &words, TOLD).await;
        let health = http::get(connector.address(), "/healthz").await;
        let health = health.expect("it answers");
        assert_eq!(health.status, 503, "{}", health.body);
        assert!(health.body.contains(words[0]), "{}", health.body);
    }
}

#[tokio::test]
async fn one_of_two_chats_on_another_redis_is_named_and_sent_nothing() {
    let _permit = Permit::shared().await;
    let (redis, other) = (Redis::start().await, Redis::start().await);
    let right = Chat::start(&redis, &[]).await;
    let wrong = Chat::start(&other, &[]).await;
    let connector = Connector::start("c1", &[&wrong, &right], &redis, &[]).await;
    let named = [&*wrong.url(), "another Redis"];
    says(&connector, 200, "chat: ok, but ", &named, TOLD).await;
    for number in 0..10 {
        let room = format!("room-{number}");
        let client = Client::join(connector.address(), &format!("u{number}"), &room).await;
        client.say("hello").await;
    }
    assert_eq!(wrong.publications().await, 0);
    assert_eq!(right.publications().await, 10);
}

#[tokio::test]
async fn commands_that_redis_denies_are_reported_until_they_are_allowed_again() {
    let _permit = Permit::shared().await;
    let (redis, chat, connector) = pair(&[]).await;
    for (command, words) in [
        ("evalsha", "'evalsha'"),
        ("publish", "publish is denied"),
        ("xadd", "xadd is denied"),
    ] {
        let deny = ["ACL", "SETUSER", "default", &format!("-{command}")];
        redis.command(&deny).await;
        says(&chat, 503, "publish: not ready: ", &[words], TOLD).await;
        says(&connector, 503, "publish: not ready: ", &[words], TOLD).await;
        let allow = ["ACL", "SETUSER", "default", &format!("+{command}")];
        redis.command(&allow).await;
        is_ready(&connector).await;
        says(&chat, 200, "publish: ok", &[], TOLD).await;
    }
}

#[tokio::test]
async fn a_connector_that_may_not_publish_from_the_start_says_so() {
    let _permit = Permit::shared().await;
    let (redis, chat, connector) = pair(&[]).await;
    drop(connector);
    redis
        .command(&["ACL", "SETUSER", "default", "-publish"])
        .await;
    let connector = Connector::begin("c2", &chat.url(), &redis.url(), &[]).await;
    says(&connector, 503, "redis: not ready: ", &["publish"], TOLD).await;
    redis
        .command(&["ACL", "SETUSER", "default", "+publish"])
        .await;
    is_ready(&connector).await;
}

#[tokio::test]
async fn with_a_full_redis_services_are_not_ready_until_there_is_room_again() {
    let _permit = Permit::shared().await;
    let (redis, chat, connector) = pair(&[]).await;
    let client = JsonClient::connect(connector.address()).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    says(
        &connector,
        503,
        "publish: not ready: ",
        &["memory is full"],
        TOLD,
    )
    .await;
    says(
        &chat,
        503,
        "publish: not ready: ",
        &["memory is full"],
        TOLD,
    )
    .await;
    says(&connector, 503, "chat: ok", &[], TOLD).await;
    let login = serde_json::json!({ "userId": "carol", "lessonId": ROOM });
    let refusal = client.request(testkit::pomelo::LOGIN, login).await;
    assert_eq!(refusal["code"], 500, "{refusal}");
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    is_ready(&connector).await;
    says(&chat, 200, "publish: ok", &[], TOLD).await;
}

#[tokio::test]
async fn without_the_replicas_that_must_acknowledge_nothing_is_ready() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let chat = Chat::begin(&redis.url(), &["--ack", "replica"]).await;
    let connector = Connector::begin("c1", &chat.url(), &redis.url(), &[]).await;
    let words = ["0 of 1 replicas", "--ack replica"];
    says(&chat, 503, "publish: not ready: ", &words, TOLD).await;
    says(&connector, 503, "publish: not ready: ", &words, TOLD).await;
    let _replica = Redis::replica_of(redis.address()).await;
    // The primary counts the replica from its first acknowledgement on.
    says(&chat, 200, "publish: ok", &[], SOON).await;
    says(&connector, 200, "publish: ok", &[], TOLD).await;
}

#[tokio::test]
async fn a_lease_or_login_policy_that_does_not_match_is_reported() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let chat = Chat::start(&redis, &[]).await;
    let flags = ["--lease", "20s"];
    let connector = Connector::begin("c1", &chat.url(), &redis.url(), &flags).await;
    says(
        &connector,
        503,
        "chat: not ready: ",
        &["--lease", "10s", "20s"],
        TOLD,
    )
    .await;
    let policy = ["--login-policy", "allow"];
    let first = Connector::start("c2", &[&chat], &redis, &[]).await;
    let second = Connector::begin("c3", &chat.url(), &redis.url(), &policy).await;
    let words = ["reject", "allow"];
    says(&second, 503, "login-policy: not ready: ", &words, TOLD).await;
    drop(first);
}

#[tokio::test]
async fn after_a_flush_of_redis_services_stay_ready() {
    let _permit = Permit::shared().await;
    let (redis, _chat, connector) = pair(&[]).await;
    for _ in 0..5 {
        redis.command(&["FLUSHALL"]).await;
        // Long enough for one probe after the flush.
        wait::stays("it is ready", Duration::from_millis(700), async || {
            let answer = http::get(connector.admin(), "/readyz").await;
            let told = answer.expect("it answers").body;
            told.contains("chat: ok\n") && told.contains("publish: ok\n")
        })
        .await;
    }
}

#[tokio::test]
async fn probes_leave_few_keys_behind_which_expire_soon() {
    let _permit = Permit::shared().await;
    let (redis, _chat, _connector) = pair(&[]).await;
    testkit::pace::timeout(SOON, async {
        loop {
            let keys = redis.command(&["KEYS", "gc:*:probe:*"]).await;
            let keys: Vec<_> = keys.list().iter().filter_map(|key| key.text()).collect();
            // A log and its meta for chat, and as much for the connector.
            assert!(keys.len() <= 4, "{keys:?}");
            let mut said = 0;
            for key in &keys {
                let life = redis.command(&["TTL", key]).await;
                let is_short = matches!(life, testkit::resp::Value::Integer(1..=60));
                assert!(is_short, "{key}: {life:?}");
                if key.ends_with(":l") {
                    let held = redis.command(&["XLEN", key]).await;
                    assert_eq!(held, testkit::resp::Value::Integer(1), "{key}");
                    let meta = key.replace(":l", ":m");
                    let count = redis.command(&["HGET", &meta, "n"]).await.text();
                    said += count.and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
                }
            }
            if said >= 6 {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("there are probes");
}

/// Starts a chat and a connector on a cluster in which a dead primary is not replaced.
async fn on_a_cluster(flags: &[&'static str]) -> (Cluster, Services) {
    let cluster = Cluster::without_failover().await;
    let plan = Plan::of(1, 1).chat_flags(flags).connector_flags(flags);
    let services = plan.services(&cluster.url(), &cluster.url()).await;
    (cluster, services)
}

#[tokio::test]
async fn a_dead_shard_makes_its_channels_unavailable_and_no_service_unready() {
    let _permit = Permit::alone().await;
    let (mut cluster, services) = on_a_cluster(&[]).await;
    let (chat, connector) = (&services.chats[0], &services.connectors[0]);
    let dead = cluster.of_primary(ROOM).await;
    let elsewhere = elsewhere(&cluster, dead).await;
    let dead_address: SocketAddr = cluster.nodes[dead].address();
    cluster.nodes[dead].kill();
    let named = [&*dead_address.to_string()];
    says(connector, 200, "redis: ok, but ", &named, TOLD).await;
    says(chat, 200, "redis: ok, but ", &named, TOLD).await;
    wait::stays("both are ready", TOLD, async || {
        connector.readyz().await == Some(200) && chat.readyz().await == Some(200)
    })
    .await;
    let api = services.api(0);
    api.send(&elsewhere, "bot", "{}", "")
        .await
        .expect("a shard that lives");
    api.send(ROOM, "bot", "{}", "")
        .await
        .expect_err("a shard that is dead");
}

#[tokio::test]
async fn if_all_shards_are_required_a_dead_one_makes_services_unready_until_it_is_back() {
    let _permit = Permit::alone().await;
    let (mut cluster, services) = on_a_cluster(&["--ready-slots", "1"]).await;
    let (chat, connector) = (&services.chats[0], &services.connectors[0]);
    let dead = cluster.of_primary(ROOM).await;
    let named = cluster.nodes[dead].address().to_string();
    cluster.nodes[dead].kill();
    says(connector, 503, "redis: not ready: ", &[&named], TOLD).await;
    says(chat, 503, "redis: not ready: ", &[&named], TOLD).await;
    cluster.nodes[dead].restart().await;
    says(chat, 200, "publish: ok", &[], SOON).await;
    says(connector, 200, "publish: ok", &[], SOON).await;
}

/// The name of a channel on another shard.
async fn elsewhere(cluster: &Cluster, shard: usize) -> String {
    for number in 0..1_000 {
        let channel = format!("elsewhere-{number}");
        if cluster.of_primary(&channel).await != shard {
            return channel;
        }
    }
    panic!("there are three shards");
}
