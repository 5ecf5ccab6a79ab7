//! Encrypted connections, and Redis users with the least possible rights.

use crate::support::{
    PARTIAL, RecordingSink, Subject, eventually, from_session, incarnation, message, name, read,
    said, session, session_of, until_available_is, with_key,
};
use channel_store::probe::{Probe, ProbeFeed, ProbeFound, ProbeOutcome};
use channel_store::redis::{OpenError, RedisFeed, RedisStore};
use channel_store::{
    Ack, ChannelFeed, ChannelStore, Claim, DIRECTORY_PARTS, Declared, DroppedBy, HistoryRange,
    IdempotencyKey, Incarnation, IndexEntry, Indexed, Leave, LoggedIn, Login, LoginPolicy,
    Membership, Place, Restriction, SessionId, Since, StoreError, StoreOptions, TokenId, UserId,
    When,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use testkit::cluster::Cluster;
use testkit::redis::{Redis, free_port};

const SOON: Duration = Duration::from_secs(10);

/// The rights of chat, as in docs/redis.md.
const CHAT: &str = "~gc:* &gc:* -@all +info +get +set +script|load +evalsha +wait +cluster|slots +cluster|info \
    +hmget +hget +hgetall +hset +hdel +hexists +hincrby +hlen +hscan +xadd +xtrim +xrange +xrevrange +expire +expireat +del \
    +exists +ttl +time +zadd +zrem +zrangebyscore +zrangebylex +zscan +zscore +sadd +srem +scard +sscan +smembers +srandmember +unlink \
    +subscribe +unsubscribe +publish +ssubscribe +sunsubscribe +spublish";
/// The rights of a connector.
const CONNECTOR: &str = "~gc:* &gc:* -@all +info +get +set +script|load +evalsha +cluster|slots +cluster|info \
    +hmget +hget +hgetall +hset +hdel +hexists +hlen +hscan +xrange +xrevrange +expire +del +exists +time +zadd +zrangebyscore +zscan \
    +scard +sscan +multi +exec \
    +subscribe +unsubscribe +publish +ssubscribe +sunsubscribe +spublish";

/// Makes each kind of call that the services make once.
async fn everything_works(chat: &str, connector: &str, options: StoreOptions) {
    let subject = Subject::at(chat, options.clone()).await;
    until_available_is(subject.store.available(), true, SOON).await;
    let sink = Arc::new(RecordingSink::default());
    let feed = RedisFeed::open(connector, options, sink.clone())
        .await
        .unwrap();
    let channel = name("4");
    let head = feed.read(&channel, &Since::Head, 0).await.unwrap();
    feed.subscribe(&channel);
    sink.until_subscribed("4", 1).await;
    until_available_is(feed.available(), true, SOON).await;

    let probe = Probe {
        sets: feed.points().iter().map(|point| point.set).collect(),
        nonce: 1,
    };
    // Like a publication, a probe is refused if its replica does not answer in time.
    eventually("each probe is written, and found", async || {
        for (set, probed) in probe.sets.iter().zip(subject.store.probe(&probe).await) {
            let ProbeOutcome::Written(position) = probed.outcome else {
                return false;
            };
            assert_eq!(feed.find_probe(*set, 1, &position).await, ProbeFound::Yes);
        }
        true
    })
    .await;

    subject.join("4", "u", session("s", 1)).await.unwrap();
    let spoken = with_key(from_session(message("4", "u", "a"), "s"), "k");
    subject.publish_until_acknowledged(spoken.clone()).await;
    assert!(subject.publish_until_acknowledged(spoken).await.repeated);
    assert_eq!(subject.members("4").await, [("u".to_owned(), 1)]);
    assert!(subject.leave_fenced("4", "u", session("s", 2), true).await);
    let late = subject.join("4", "u", session("s", 1)).await;
    assert_eq!(late, Err(StoreError::StaleOperation));
    // A detached member, which expires when somebody looks.
    subject.join("4", "v", Membership::Detached).await.unwrap();
    eventually("the detached member is gone", async || {
        subject.members("4").await.is_empty()
    })
    .await;
    subject.join("4", "w", Membership::Detached).await.unwrap();
    let leave = Leave {
        channel: channel.clone(),
        user: crate::support::text_user("w"),
        membership: Membership::Detached,
        fence: false,
    };
    subject.store.leave(leave).await.unwrap();

    let heard = sink.until_publications("4", 5).await;
    assert_eq!(heard[1].payload.body(), b"a");
    let page = read(&feed, "4", &head.position, 100).await;
    assert_eq!(said(&page.entries)[1], "onMessage a");
    let ends = feed.heads(std::slice::from_ref(&channel)).await.unwrap();
    let end = &ends[0].as_ref().unwrap().position;
    assert!(!feed.read_back(&channel, end, 10).await.unwrap().is_empty());
    assert_eq!(
        feed.touch(std::slice::from_ref(&channel)).await.unwrap(),
        ends
    );
    for range in [HistoryRange::Oldest, HistoryRange::Newest] {
        let page = subject.store.history(&channel, &range, 100).await.unwrap();
        assert!(!page.entries.is_empty());
    }
    let listed = subject.store.channels("", None, 10).await.unwrap();
    assert_eq!(listed.channels.len(), 1);
    for upto in [
        &page.entries[0].position,
        &ends[0].as_ref().unwrap().position,
    ] {
        let trimmed = subject.store.trim(&channel, upto).await.unwrap();
        assert!(trimmed.is_some());
    }
    subject.join("4", "u", session("t", 3)).await.unwrap();
    let key = IdempotencyKey::new("k").unwrap();
    for _ in 0..2 {
        let deleted = subject.store.delete(&channel, Some(&key)).await;
        assert!(deleted.unwrap().is_some());
    }
    for part in 0..DIRECTORY_PARTS {
        subject.store.sweep_directory(part).await.unwrap();
    }
    feed.unsubscribe(&channel);
    leases_work(&subject, &feed).await;
    logins_work(&subject, &feed).await;
    restrictions_work(&subject, &feed).await;
    letters_go_both_ways(chat, &subject.options, &feed).await;
}

async fn letters_go_both_ways(chat: &str, options: &StoreOptions, feed: &RedisFeed) {
    let nobody = Arc::new(RecordingSink::default());
    let of_chat = RedisFeed::open(chat, options.clone(), nobody)
        .await
        .unwrap();
    let (of_chat, of_connector) = (of_chat.inboxes(), feed.inboxes());
    let mut there = of_connector.open(&incarnation("c:7"));
    let mut back = of_chat.open(&incarnation("chat:1"));
    eventually("a letter there", async || {
        of_chat.post(&incarnation("c:7"), b"ask").await == Ok(true)
    })
    .await;
    assert_eq!(there.next().await.unwrap().content, b"ask");
    eventually("a letter back", async || {
        of_connector.post(&incarnation("chat:1"), b"answer").await == Ok(true)
    })
    .await;
    assert_eq!(back.next().await.unwrap().content, b"answer");
}

async fn logins_work(subject: &Subject, feed: &RedisFeed) {
    let (held, hints) = (feed.registry(), feed.hints());
    let (user, lives, dead) = (
        UserId::new("u").unwrap(),
        incarnation("c:7"),
        incarnation("c:8"),
    );
    let login = |session, incarnation: &Incarnation| Login {
        user: user.clone(),
        session: SessionId::new(session).unwrap(),
        incarnation: incarnation.clone(),
        deadline: u64::from(u32::MAX) << 12,
        policy: LoginPolicy::KickOld,
        proof: None,
        token: None,
        most_sessions: 0,
    };
    let lasts = Duration::from_secs(60);
    let agreed = held.propose_policy(LoginPolicy::KickOld, lasts).await;
    assert_eq!(agreed, Ok(LoginPolicy::KickOld));
    let first = login("first", &dead);
    held.login(&first, &[]).await.unwrap();
    let second = login("second", &lives);
    let logged_in = held.login(&second, &[incarnation("c:9")]).await.unwrap();
    let LoggedIn::Yes { login_rank, .. } = logged_in else {
        panic!("{logged_in:?}");
    };
    let claims = [Claim {
        login: second.clone(),
        login_rank,
        predecessors: Arc::default(),
    }];
    let claimed = held.claim(&claims).await.unwrap().remove(0).unwrap();
    assert_eq!(claimed.superseded, std::slice::from_ref(&dead));
    let users = std::slice::from_ref(&user);
    assert_eq!(
        held.entries(&lives, users).await.unwrap()[0].entries.len(),
        2
    );
    let mut heard = hints.listen(&dead);
    eventually("a hint arrives", async || {
        hints.hint(&dead, &user).await.unwrap();
        heard.try_recv().is_ok()
    })
    .await;

    let registry = &subject.registry;
    assert_eq!(registry.reap(&user, &dead).await, Ok(1));
    let look = registry.entries(&dead, users).await.unwrap().remove(0);
    assert!(look.tombstoned && look.entries.len() == 1);
    held.close(&user, &second.session, true).await.unwrap();
    let late = held.claim(&claims).await.unwrap().remove(0);
    assert_eq!(late, Err(StoreError::StaleOperation));
}

async fn restrictions_work(subject: &Subject, feed: &RedisFeed) {
    let user = UserId::new("restricted").unwrap();
    let until = When::After(Duration::from_secs(60));
    let id = TokenId::of("a");
    for change in [
        Restriction::RevokeToken { id, until },
        Restriction::RevokeIssuedBefore {
            before: When::At(1),
            until,
        },
        Restriction::Block {
            until,
            reason: String::new(),
        },
    ] {
        // Like a publication, it is refused if its replica does not answer in time.
        eventually("it is written", async || {
            subject.store.restrict(&user, &change).await.is_ok()
        })
        .await;
    }
    let looks = feed.registry().entries(&incarnation("c:7"), &[user]).await;
    let restrictions = looks.unwrap().remove(0).restrictions;
    assert!(restrictions.block.is_some() && restrictions.revoked == [id]);
}

async fn leases_work(subject: &Subject, feed: &RedisFeed) {
    let (held, dead, lease) = (feed.leases(), incarnation("c:1"), Duration::from_millis(1));
    held.schedule(&dead).await.unwrap();
    held.renew(&dead, lease).await.unwrap();
    let entry = |nonce, channel| IndexEntry {
        place: Place::Channel(name(channel)),
        nonce,
    };
    let entries = [entry(1, "4"), entry(2, "5")];
    assert_eq!(held.index_add(&dead, &entries).await.unwrap(), Indexed::Yes);
    assert_eq!(held.index(&dead).await.unwrap().len(), 2);
    let dropped = held
        .index_drop(&dead, &entries[1..], DroppedBy::Owner)
        .await;
    assert_eq!(dropped, Ok(1));
    held.presence(&dead, &[name("4")]).await.unwrap();
    let member = session_of("c:1", "dead", 1);
    subject.join("4", "dead", member).await.unwrap();

    let leases = &subject.leases;
    let seen = leases.directory().await.unwrap()[&dead];
    let state = leases.observe(std::slice::from_ref(&dead)).await.remove(0);
    let beat = state.unwrap().unwrap().beat;
    let declared = leases.declare_dead(&dead, beat).await;
    assert_eq!(declared, Ok(Declared::Dead));
    assert!(leases.restore(&dead, &entries[0].place).await.unwrap().dead);
    assert!(
        !leases
            .restore(&incarnation("c:3"), &entries[0].place)
            .await
            .unwrap()
            .dead
    );
    assert_eq!(leases.index(&dead).await.unwrap().len(), 1);
    let reaped = subject.store.reap(&name("4"), &dead).await.unwrap();
    assert_eq!((reaped.ended, reaped.remaining), (1, 0));
    assert!(leases.presence(&dead, &[name("4")]).await.unwrap()[0].tombstoned);
    let dropped = leases.index_drop(&dead, &entries[..1], DroppedBy::Reaper);
    assert_eq!(dropped.await, Ok(1));
    assert_eq!(leases.incarnations_in(&name("4")).await.unwrap(), []);
    leases.unschedule(&dead, seen).await.unwrap();
    assert!(leases.directory().await.unwrap().is_empty());
    held.resign(&incarnation("c:2")).await.unwrap();
}

fn short_lives() -> StoreOptions {
    StoreOptions {
        detached_life: Duration::from_millis(1),
        ..StoreOptions::default()
    }
}

fn add_users(server: &Redis) {
    server.say(&format!("ACL SETUSER chat on >chats {CHAT}"));
    server.say(&format!("ACL SETUSER connector on >connectors {CONNECTOR}"));
}

fn nothing_was_denied(server: &Redis) {
    let denied = server.say("ACL LOG");
    assert!(denied.list().is_empty(), "{denied:?}");
}

#[tokio::test]
async fn users_with_the_least_rights_can_do_everything() {
    let server = Redis::without_persistence().await;
    let _replica = Redis::replica_of(server.address()).await;
    add_users(&server);
    let url = |user| format!("redis://{user}@127.0.0.1:{}", server.port());
    let options = StoreOptions {
        ack: Ack::Replica { replicas: 1 },
        ..short_lives()
    };
    everything_works(&url("chat:chats"), &url("connector:connectors"), options).await;
    nothing_was_denied(&server);
}

#[tokio::test]
async fn users_with_the_least_rights_can_do_everything_in_a_cluster_too() {
    let cluster = Cluster::of_primaries(2, &PARTIAL).await;
    cluster.nodes.iter().for_each(add_users);
    let url = |user: &str| cluster.url().replace("://", &format!("://{user}@"));
    everything_works(
        &url("chat:chats"),
        &url("connector:connectors"),
        short_lives(),
    )
    .await;
    cluster.nodes.iter().for_each(nothing_was_denied);
}

#[tokio::test]
async fn a_store_with_a_wrong_password_is_not_available() {
    let server = Redis::without_persistence().await;
    add_users(&server);
    let url = format!("redis://chat:wrong@127.0.0.1:{}", server.port());
    let store = RedisStore::open(&url, StoreOptions::default())
        .await
        .unwrap();
    assert!(store.publisher().is_err());
}

/// A server with a certificate for `localhost`, and the test's own certificate authority that issued it.
struct Encrypted {
    server: Redis,
    tls_port: u16,
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Encrypted {
    async fn start() -> Self {
        let port = std::cell::Cell::new(0);
        let server = Redis::with_files(|directory| {
            let authority = authority();
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            for (file, pem) in [
                ("ca.pem", authority.pem()),
                ("server.pem", certificate.pem()),
                ("server.key", key.serialize_pem()),
            ] {
                std::fs::write(directory.join(file), pem).unwrap();
            }
            port.set(free_port());
            let file = |name: &str| directory.join(name).display().to_string();
            let (ca, certificate, key) = (file("ca.pem"), file("server.pem"), file("server.key"));
            let settings = [
                ["--tls-port", &port.get().to_string()],
                ["--tls-ca-cert-file", &ca],
                ["--tls-cert-file", &certificate],
                ["--tls-key-file", &key],
                ["--tls-auth-clients", "no"],
            ];
            settings.concat().into_iter().map(str::to_owned).collect()
        })
        .await;
        Self {
            server,
            tls_port: port.get(),
        }
    }

    fn url(&self, host: &str) -> String {
        format!("rediss://{host}:{}", self.tls_port)
    }

    fn trusting(&self, ca: Option<PathBuf>) -> StoreOptions {
        StoreOptions {
            redis_ca: ca,
            ..short_lives()
        }
    }
}

#[tokio::test]
async fn everything_works_over_encrypted_connections() {
    let encrypted = Encrypted::start().await;
    let url = encrypted.url("localhost");
    let options = encrypted.trusting(Some(encrypted.server.file("ca.pem")));
    everything_works(&url, &url, options).await;
}

#[tokio::test]
async fn a_server_without_a_trusted_certificate_is_not_used() {
    let encrypted = Encrypted::start().await;
    let stranger = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(stranger.path(), authority().pem()).unwrap();
    let ca = encrypted.server.file("ca.pem");
    for (host, trusted) in [
        ("localhost", None),
        ("localhost", Some(stranger.path().to_owned())),
        // The certificate has another name.
        ("127.0.0.1", Some(ca)),
    ] {
        let options = encrypted.trusting(trusted);
        let store = RedisStore::open(&encrypted.url(host), options)
            .await
            .unwrap();
        assert!(store.publisher().is_err(), "{host}");
    }
}

#[tokio::test]
async fn a_file_without_certificates_is_refused() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    for file in [empty.path(), Path::new("/nowhere.pem")] {
        let options = StoreOptions {
            redis_ca: Some(file.to_owned()),
            ..StoreOptions::default()
        };
        let refused = RedisStore::open("rediss://localhost", options).await.err();
        assert!(
            matches!(refused, Some(OpenError::Certificates { .. })),
            "{refused:?}"
        );
    }
}
