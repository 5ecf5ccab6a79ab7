//! What the store promises when Redis fails: when it dies, hangs, loses data, is full, or is replaced by another
//! server.

use crate::support::{
    Subject, ask_about_unknown_channel, eventually, from_session, incarnation, message, name,
    no_position, offsets, publish_until_answered, read, said, session, session_of,
    until_available_is, with_key,
};
use channel_store::redis::{OpenError, RedisFeed, RedisStore, SchemaMismatch};
use channel_store::{
    ChannelFeed, ChannelStore, Continuity, HistoryRange, LogRule, Membership, Pattern, Position,
    Since, StoreError, StoreOptions,
};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::redis::Redis;
use testkit::resp::Value;

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_crash_is_noticed_at_once_and_a_restart_loses_nothing_f07() {
    let mut subject = Subject::on(Redis::with(&DURABLE).await, StoreOptions::default()).await;
    let (feed, sink) = subject.follow("4").await;
    let joined = subject.join("4", "u", session("s", 1)).await.unwrap();
    let mut before = vec![joined.position.clone()];
    for n in 0..5 {
        before.push(
            subject
                .publish(message("4", "u", &format!("{n}")))
                .await
                .unwrap()
                .position,
        );
    }
    let old = subject.store.publisher().unwrap();
    let first_connection = sink.until_subscribed("4", 1).await;

    subject.server().kill();
    let start = Instant::now();
    for _ in 0..20 {
        let answer = subject.publish(message("4", "u", "lost")).await;
        assert!(
            matches!(answer, Err(StoreError::Unavailable(_))),
            "{answer:?}"
        );
        let read = feed.read(&name("4"), &Since::Head, 0).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(2));
    until_available_is(subject.store.available(), false, SOON).await;
    until_available_is(feed.available(), false, SOON).await;

    subject.server().restart().await;
    let after = publish_until_answered(&subject, "4", "after")
        .await
        .position;
    assert_eq!(after.offset, 7, "the offsets go on");
    assert_ne!(after.epoch, before[0].epoch, "a new epoch begins");
    until_available_is(feed.available(), true, SOON).await;
    until_available_is(subject.store.available(), true, SOON).await;
    let second_connection = sink.until_subscribed("4", 2).await;
    assert!(second_connection.number > first_connection.number);
    assert_ne!(second_connection.lifetime, first_connection.lifetime);

    for position in &before {
        let page = read(&*feed, "4", position, 100).await;
        assert_eq!(page.continuity, Continuity::Contiguous, "{position:?}");
        assert_eq!(
            offsets(&page.entries),
            (position.offset + 1..=7).collect::<Vec<_>>()
        );
        assert_eq!(
            page.entries.last().unwrap().position,
            after,
            "each entry has its own epoch"
        );
        assert_eq!(page.lifetime, second_connection.lifetime);
    }
    let log: Vec<Position> = subject
        .log("4")
        .await
        .into_iter()
        .map(|it| it.position)
        .collect();
    assert_eq!(log[..6], before);
    assert_eq!(subject.members("4").await, [("u".to_owned(), 1)]);
    assert_eq!(
        subject.join("4", "u", session("s", 1)).await.unwrap(),
        joined
    );
    let answer = old.publish(vec![message("4", "u", "late")]).await;
    assert!(
        matches!(answer, Err(StoreError::Unavailable(_))),
        "a publisher ends with its connection"
    );

    subject.publish(message("4", "u", "live")).await.unwrap();
    eventually("the new publication arrives", async || {
        sink.publications("4")
            .last()
            .is_some_and(|it| it.payload.body() == b"live")
    })
    .await;
}

#[tokio::test]
async fn after_a_restored_snapshot_lost_positions_have_diverged() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, _sink) = subject.follow("4").await;
    let mut old = Vec::new();
    for n in 1..=5 {
        if n == 4 {
            subject.server().say("SAVE");
        }
        let key = format!("{n}");
        old.push(
            subject
                .publish(with_key(message("4", "u", &key), &key))
                .await
                .unwrap()
                .position,
        );
    }
    subject.server().kill();
    subject.server().restart().await;
    until_available_is(feed.available(), false, SOON).await;
    until_available_is(feed.available(), true, SOON).await;
    // The loss is known even before the first new publication.
    assert_eq!(
        read(&*feed, "4", &old[4], 10).await.continuity,
        Continuity::Diverged
    );
    // A retry of a lost publication is a new publication. A retry of one that was not lost is not.
    assert_eq!(
        publish_until_answered(&subject, "4", "3").await.position,
        old[2]
    );
    let new = publish_until_answered(&subject, "4", "4").await.position;
    assert_eq!(new.offset, 4);
    assert_ne!(new.epoch, old[3].epoch);
    let page = read(&*feed, "4", &old[2], 10).await;
    assert_eq!(
        (page.continuity, offsets(&page.entries)),
        (Continuity::Contiguous, vec![4])
    );
    for lost in &old[3..] {
        let page = read(&*feed, "4", lost, 10).await;
        assert_eq!(page.continuity, Continuity::Diverged);
        assert_eq!(
            page.position, old[2],
            "the last position that both logs have"
        );
        assert_eq!(page.entries[0].position, new);
    }
}

#[tokio::test]
async fn a_feed_that_was_cut_subscribes_again_and_can_read_what_it_missed() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, sink) = subject.follow("4").await;
    for channel in 0..1_200 {
        feed.subscribe(&name(&format!("other-{channel}")));
    }
    for channel in 0..1_200 {
        sink.until_subscribed(&format!("other-{channel}"), 1).await;
    }
    let seen = subject
        .publish(message("4", "u", "seen"))
        .await
        .unwrap()
        .position;
    let first = sink.until_subscribed("4", 1).await;
    // The connection is killed and a message is published at the same moment.
    subject.server().say("CLIENT KILL TYPE pubsub");
    subject.publish(message("4", "u", "missed")).await.unwrap();
    let second = sink.until_subscribed("4", 2).await;
    assert!(second.number > first.number);
    assert_eq!(second.lifetime, first.lifetime);
    let page = read(&*feed, "4", &seen, 10).await;
    assert_eq!(
        (page.continuity, said(&page.entries)),
        (Continuity::Contiguous, vec!["onMessage missed".to_owned()])
    );
    for channel in 0..1_200 {
        sink.until_subscribed(&format!("other-{channel}"), 2).await;
    }
    until_available_is(feed.available(), true, SOON).await;
    subject.publish(message("other-7", "u", "a")).await.unwrap();
    sink.until_publications("other-7", 1).await;
}

#[tokio::test]
async fn subscriptions_that_are_made_during_an_outage_are_effective_after_it() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, sink) = subject.follow("4").await;
    subject.server().kill();
    until_available_is(feed.available(), false, SOON).await;
    feed.unsubscribe(&name("4"));
    feed.subscribe(&name("5"));
    subject.server().restart().await;
    sink.until_subscribed("5", 1).await;
    until_available_is(feed.available(), true, SOON).await;
    assert_eq!(sink.confirmations("4").len(), 1);
    publish_until_answered(&subject, "5", "a").await;
    sink.until_publications("5", 1).await;
    assert_eq!(publish_until_answered(&subject, "4", "a").await.reached, 0);
}

#[tokio::test]
async fn a_server_that_has_lost_the_scripts_gets_them_again() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, sink) = subject.follow("4").await;
    subject.publish(message("4", "u", "before")).await.unwrap();
    subject.server().say("SCRIPT FLUSH");
    assert_eq!(
        publish_until_answered(&subject, "4", "after")
            .await
            .position
            .offset,
        2
    );
    eventually("the feed can read", async || {
        feed.read(&name("4"), &Since::Head, 0).await.is_ok()
    })
    .await;
    sink.until_publications("4", 2).await;
    subject.join("4", "u", session("s", 1)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_hangs_is_noticed_within_three_seconds_and_used_again() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, sink) = subject.follow("4").await;
    let publisher = subject.store.publisher().unwrap();
    subject.server().freeze();
    let start = Instant::now();
    // More bytes than the socket takes, so that some calls are never written.
    let body = "x".repeat(100_000);
    let batches = (0..100).map(|_| publisher.publish(vec![message("4", "u", &body)]));
    for answer in join_all(batches).await {
        assert!(matches!(answer, Err(StoreError::Unavailable(_))));
    }
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "calls without an answer fail soon"
    );
    until_available_is(subject.store.available(), false, Duration::from_secs(3)).await;
    until_available_is(feed.available(), false, Duration::from_secs(3)).await;
    assert!(start.elapsed() < Duration::from_secs(4));
    subject.server().thaw();
    until_available_is(subject.store.available(), true, SOON).await;
    until_available_is(feed.available(), true, SOON).await;
    let last = publish_until_answered(&subject, "4", "last").await.position;
    // Of the unanswered calls, only the first ones may have taken effect, and no later one.
    assert_eq!(subject.log("4").await.len() as u64, last.offset);
    assert_eq!(
        sink.until_subscribed("4", 2).await.lifetime,
        sink.confirmations("4")[0].lifetime
    );
    let answer = publisher.publish(vec![message("4", "u", "late")]).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_feed_that_receives_no_publications_is_never_available() {
    // On this server PUBLISH publishes to sharded topics, which nobody follows.
    let mut mute = vec!["--rename-command", "PUBLISH", "GONE"];
    mute.extend(["--rename-command", "SPUBLISH", "PUBLISH"]);
    let subject = Subject::on(Redis::with(&mute).await, StoreOptions::default()).await;
    let (feed, sink) = subject.follow("4").await;
    sink.until_subscribed("4", 3).await;
    assert!(!*feed.available().borrow());
    assert_eq!(sink.publications("4"), []);
}

#[tokio::test]
async fn a_feed_that_receives_its_own_probes_keeps_its_connection() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, sink) = subject.follow("4").await;
    until_available_is(feed.available(), true, SOON).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(
        sink.confirmations("4").len(),
        1,
        "it has not subscribed again"
    );
    let topics = subject.server().say("PUBSUB CHANNELS *:probe:t");
    assert!(matches!(topics, Value::List(it) if it.len() == 1));
}

#[tokio::test]
async fn a_full_server_refuses_publications_and_joins_but_lets_members_leave() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, sink) = subject.follow("4").await;
    let joined = subject.join("4", "u", session("s", 1)).await.unwrap();
    subject.server().say("CONFIG SET maxmemory 1");
    let batch = vec![
        message("4", "u", "a"),
        from_session(message("4", "u", "b"), "s"),
    ];
    let answers = subject
        .store
        .publisher()
        .unwrap()
        .publish(batch)
        .await
        .unwrap();
    assert_eq!(answers, [Err(StoreError::Full), Err(StoreError::Full)]);
    assert_eq!(
        subject.join("4", "v", session("t", 1)).await,
        Err(StoreError::Full)
    );
    assert_eq!(
        feed.read(&name("4"), &Since::Head, 0)
            .await
            .unwrap()
            .position,
        joined.position
    );
    assert!(
        *subject.store.available().borrow(),
        "a full server is available"
    );
    // A service that connects now can still let members leave.
    subject.server().say("CLIENT KILL TYPE normal");
    until_available_is(subject.store.available(), false, SOON).await;
    until_available_is(subject.store.available(), true, SOON).await;
    assert!(subject.leave_fenced("4", "u", session("s", 2), true).await);
    assert_eq!(subject.members("4").await, []);
    subject.server().say("CONFIG SET maxmemory 0");
    assert_eq!(
        subject
            .publish(message("4", "u", "c"))
            .await
            .unwrap()
            .position
            .offset,
        3
    );
    assert_eq!(
        subject.join("4", "u", session("s", 1)).await,
        Err(StoreError::StaleOperation)
    );
    eventually("the last publication arrives", async || {
        sink.publications("4")
            .last()
            .is_some_and(|it| it.payload.body() == b"c")
    })
    .await;
    let log = subject.log("4").await;
    assert_eq!(
        said(&log),
        [
            r#"onJoin {"userId":"u"}"#,
            r#"onLeave {"userId":"u"}"#,
            "onMessage c"
        ]
    );
    assert_eq!(
        sink.publications("4"),
        log,
        "only stored publications were delivered"
    );
}

#[tokio::test]
async fn after_a_wipe_old_positions_are_unknown() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, sink) = subject.follow("4").await;
    let joined = subject.join("4", "u", session("s", 1)).await.unwrap();
    let first = subject
        .publish(with_key(message("4", "u", "a"), "k"))
        .await
        .unwrap();
    subject.server().say("FLUSHALL");
    let page = read(&*feed, "4", &first.position, 10).await;
    assert_eq!(
        (page.continuity, page.last, page.position),
        (Continuity::Unknown, 0, no_position()),
        "a read does not create the channel"
    );
    let page = read(&*feed, "4", &no_position(), 10).await;
    assert_eq!(page.continuity, Continuity::Contiguous);
    // A feed that is about to follow the channel creates it.
    let head = feed.read(&name("4"), &Since::Head, 0).await.unwrap();
    assert_eq!(head.position.offset, 0);
    let again = subject
        .publish(with_key(message("4", "u", "a"), "k"))
        .await
        .unwrap();
    assert!(!again.repeated);
    assert_eq!(again.position.offset, 1);
    assert_eq!(
        again.position.epoch, head.position.epoch,
        "it is the epoch that the feed was told"
    );
    assert_ne!(again.position.epoch, first.position.epoch);
    assert_eq!(
        sink.until_publications("4", 3).await[2].position,
        again.position,
        "the feed still delivers"
    );
    // The connector restores its member.
    let restored = subject.join("4", "u", session("s", 1)).await.unwrap();
    assert!(restored.published);
    assert_ne!(restored.position, joined.position);
}

#[tokio::test]
async fn the_loss_of_any_single_key_is_survived() {
    for key in ["m", "l", "i0", "i1", "s", "u", "d"] {
        let mut subject =
            Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
        let (feed, _sink) = subject.feed().await;
        subject.join("4", "u", session("s", 1)).await.unwrap();
        subject.join("4", "d", Membership::Detached).await.unwrap();
        let before = subject
            .publish(with_key(message("4", "u", "a"), "k"))
            .await
            .unwrap()
            .position;
        subject.server().say(&format!("DEL gc:{{4}}:{key}"));
        let continuity = read(&*feed, "4", &before, 10).await.continuity;
        let expected = if key == "m" {
            Continuity::Unknown
        } else {
            Continuity::Contiguous
        };
        assert_eq!(continuity, expected, "{key}");
        let second = subject.join("4", "u", session("t", 2)).await.unwrap();
        assert_eq!(
            read(&*feed, "4", &second.position, 10).await.continuity,
            Continuity::Contiguous,
            "{key}"
        );
        subject.publish(message("4", "u", "b")).await.unwrap();
        subject.join("4", "d", Membership::Detached).await.unwrap();
        for (user, membership) in [
            ("u", session("s", 3)),
            ("u", session("t", 4)),
            ("d", Membership::Detached),
        ] {
            subject.leave("4", user, membership).await;
        }
        // A lost session is restored by its connector. Until then it still counts for its user.
        if key != "s" {
            assert_eq!(subject.members("4").await, [], "{key}");
        }
    }
}

#[tokio::test]
async fn after_the_loss_of_the_meta_key_a_second_session_gets_a_valid_position() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, _sink) = subject.feed().await;
    subject.join("4", "u", session("s", 1)).await.unwrap();
    subject.server().say("DEL gc:{4}:m");
    let joined = subject.join("4", "u", session("t", 2)).await.unwrap();
    assert_eq!((joined.published, joined.position.offset), (false, 0));
    assert_eq!(
        read(&*feed, "4", &joined.position, 10).await.continuity,
        Continuity::Contiguous
    );
    let next = subject
        .publish(message("4", "u", "a"))
        .await
        .unwrap()
        .position;
    assert_eq!((next.offset, &next.epoch), (1, &joined.position.epoch));
}

#[tokio::test]
async fn a_diverged_position_is_unknown_if_the_common_position_is_trimmed() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, _sink) = subject.feed().await;
    let mut older = None;
    for _ in 0..2 {
        let published = subject.publish(message("4", "u", "a")).await.unwrap();
        older = Some(published.position);
    }
    let older = older.unwrap();
    subject.server().say("REPLICAOF 127.0.0.1 1");
    subject.server().say("REPLICAOF NO ONE");
    let newer = publish_until_answered(&subject, "4", "b").await.position;
    for text in ["c", "d", "e"] {
        publish_until_answered(&subject, "4", text).await;
    }
    until_available_is(feed.available(), true, SOON).await;
    let at = |position: &Position, offset| Position {
        offset,
        ..position.clone()
    };
    // A position as if the first server had stored two more publications, which were lost.
    let lost = at(&older, 4);
    let page = read(&*feed, "4", &lost, 0).await;
    assert_eq!(
        (page.continuity, page.position),
        (Continuity::Diverged, older.clone())
    );
    subject.server().say("XTRIM gc:{4}:l MINID 6");
    let held = at(&newer, 5);
    let page = read(&*feed, "4", &lost, 0).await;
    assert_eq!(
        (page.continuity, page.position),
        (Continuity::Unknown, held.clone())
    );
    let page = read(&*feed, "4", &older, 0).await;
    assert_eq!(
        (page.continuity, page.position),
        (Continuity::Trimmed, held)
    );
}

#[tokio::test]
async fn a_demoted_server_is_not_used_and_a_promoted_one_begins_an_epoch() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, sink) = subject.follow("4").await;
    let before = subject
        .publish(message("4", "u", "a"))
        .await
        .unwrap()
        .position;
    subject.server().say("REPLICAOF 127.0.0.1 1");
    let answer = subject.publish(message("4", "u", "b")).await;
    assert!(
        matches!(answer, Err(StoreError::Unavailable(_))),
        "{answer:?}"
    );
    until_available_is(subject.store.available(), false, SOON).await;
    until_available_is(feed.available(), false, SOON).await;
    subject.server().say("REPLICAOF NO ONE");
    let after = publish_until_answered(&subject, "4", "c").await.position;
    assert_eq!(after.offset, before.offset + 1);
    assert_ne!(after.epoch, before.epoch);
    until_available_is(feed.available(), true, SOON).await;
    assert_eq!(
        read(&*feed, "4", &before, 10).await.continuity,
        Continuity::Contiguous
    );

    // The server is demoted and promoted between two checks, and nobody publishes. The feed must still notice it.
    let confirmations = sink.confirmations("4").len();
    subject.server().say("REPLICAOF 127.0.0.1 1");
    subject.server().say("REPLICAOF NO ONE");
    let connection = sink.until_subscribed("4", confirmations + 1).await;
    assert_ne!(
        connection.lifetime,
        sink.confirmations("4")[confirmations - 1].lifetime
    );
}

#[tokio::test]
async fn another_schema_is_refused_at_the_start_and_not_served_later() {
    let mut server = Redis::with(&DURABLE).await;
    let url = server.url();
    let options = StoreOptions::default();
    let store = RedisStore::open(&url, options.clone()).await.unwrap();
    assert_eq!(server.say("GET gc:schema"), Value::Text(b"2".to_vec()));
    server.say("SET gc:schema 3");
    let refused = RedisStore::open(&url, options.clone()).await.err().unwrap();
    assert_eq!(
        refused,
        OpenError::Schema(SchemaMismatch::Newer {
            found: 3,
            oldest: 3,
            own: 2,
        })
    );
    let sink = Arc::new(crate::support::RecordingSink::default());
    assert!(RedisFeed::open(&url, options.clone(), sink).await.is_err());
    let elsewhere = StoreOptions {
        prefix: "other".into(),
        ..options
    };
    RedisStore::open(&url, elsewhere).await.unwrap();

    server.kill();
    until_available_is(store.available(), false, SOON).await;
    server.restart().await;
    eventually("the store checks the schema", async || {
        let info = server.say("INFO commandstats");
        let Value::Text(info) = info else {
            panic!("{info:?}")
        };
        String::from_utf8_lossy(&info).contains("cmdstat_get:")
    })
    .await;
    assert!(!*store.available().borrow());
    assert!(store.publisher().is_err());
    // The newer release has stored it in a way that this one can use.
    server.say_words(&["SET", "gc:schema", "3 2"]);
    until_available_is(store.available(), true, SOON).await;
    RedisStore::open(&url, StoreOptions::default())
        .await
        .unwrap();
    let kept = server.say("GET gc:schema");
    assert_eq!(kept, Value::Text(b"3 2".to_vec()), "nobody makes it older");
}

#[tokio::test]
async fn a_wrong_url_is_refused_and_the_error_does_not_contain_it() {
    for url in [
        "",
        "nonsense",
        "http://:secret@localhost/",
        "redis://:secret@host:port/",
        "rediss://:secret@localhost/#insecure",
    ] {
        let error = RedisStore::open(url, StoreOptions::default())
            .await
            .err()
            .unwrap();
        assert!(matches!(error, OpenError::Url(_)), "{url}");
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}

#[tokio::test]
async fn a_server_may_start_after_the_store() {
    let mut server = Redis::without_persistence().await;
    server.kill();
    let store = RedisStore::open(&server.url(), StoreOptions::default())
        .await
        .unwrap();
    let sink = Arc::new(crate::support::RecordingSink::default());
    let feed = RedisFeed::open(&server.url(), StoreOptions::default(), sink.clone())
        .await
        .unwrap();
    feed.subscribe(&name("4"));
    assert!(!*store.available().borrow() && !*feed.available().borrow());
    assert!(matches!(
        store.publish(message("4", "u", "a")).await,
        Err(StoreError::Unavailable(_))
    ));
    server.restart().await;
    until_available_is(store.available(), true, SOON).await;
    sink.until_subscribed("4", 1).await;
    until_available_is(feed.available(), true, SOON).await;
}

#[tokio::test]
async fn a_dropped_store_and_feed_leave_no_connection_behind() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, _sink) = subject.follow("4").await;
    let publisher = subject.store.publisher().unwrap();
    let clients = |list: Value| match list {
        Value::Text(list) => String::from_utf8_lossy(&list).lines().count(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        clients(subject.server().say("CLIENT LIST")),
        5,
        "two of the store, two of the feed, and the one that asks"
    );
    drop(feed);
    eventually("the feed's connections are closed", async || {
        clients(subject.server().say("CLIENT LIST")) == 3
    })
    .await;
    let other = channel_store::memory::MemoryStore::new(StoreOptions::default());
    subject.leases = other.leases();
    subject.registry = other.registry();
    subject.store = other;
    eventually("the store's connections are closed", async || {
        clients(subject.server().say("CLIENT LIST")) == 1
    })
    .await;
    assert!(
        publisher
            .publish(vec![message("4", "u", "a")])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_join_of_a_dead_incarnation_is_refused() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    subject.server().say("SET gc:{4}:dead:connector-1/aa 1");
    let refused = subject.join("4", "u", session("s", 1)).await;
    assert_eq!(refused, Err(StoreError::ConnectorDead));
    let (_, others) = directory_and_others(&mut subject);
    assert_eq!(
        others,
        ["gc:schema", "gc:{4}:dead:connector-1/aa"],
        "nothing was written"
    );
    subject.join("4", "u", Membership::Detached).await.unwrap();
    subject.join("5", "u", session("s", 1)).await.unwrap();
}

/// The keys of the directory of channels, which notes a channel before anything is done there, and all other keys.
fn directory_and_others(subject: &mut Subject) -> (Vec<String>, Vec<String>) {
    let keys = subject.server().keys().into_iter();
    keys.partition(|key| key.contains("}:directory:"))
}

#[tokio::test]
async fn every_key_of_a_channel_expires_and_is_in_its_slot() {
    // A node refuses a script whose keys are in two slots, even if it has all slots.
    let server = Redis::with(&["--cluster-enabled", "yes"]).await;
    server.say("CLUSTER ADDSLOTSRANGE 0 16383");
    let info = || match server.say("CLUSTER INFO") {
        Value::Text(info) => String::from_utf8_lossy(&info).contains("cluster_state:ok"),
        _ => false,
    };
    eventually("the cluster is ready", async || info()).await;
    let options = StoreOptions {
        log_life: Duration::from_secs(100),
        channel_life: Duration::from_secs(200),
        ..StoreOptions::default()
    };
    let mut subject = Subject::on(server, options).await;
    for channel in ["4", "}x", "{a}b", "{}"] {
        let (feed, sink) = subject.follow(channel).await;
        let as_ = session("}{", 1);
        subject.join_with(channel, "u", as_, "{}").await;
        subject
            .join(channel, "d", Membership::Detached)
            .await
            .unwrap();
        subject
            .publish(with_key(
                from_session(message(channel, "u", "a"), "}{"),
                "k",
            ))
            .await
            .unwrap();
        subject
            .leave_fenced(channel, "u", session("gone", 2), true)
            .await;
        assert_eq!(subject.members(channel).await.len(), 2);
        let heard = sink.until_publications(channel, 3).await;
        assert_eq!(
            read(&*feed, channel, &heard[0].position, 10).await.entries,
            heard[1..]
        );
    }
    let (directory, keys) = directory_and_others(&mut subject);
    assert!((2..=8).contains(&directory.len()), "{directory:?}");
    for key in directory {
        // An hour longer than any channel lives.
        let life = subject.server().number(&format!("TTL {key}"));
        assert!((3_795..=3_800).contains(&life), "{key}: {life}");
    }
    // Meta, log, one window of idempotency keys, sessions, users, detached members, incarnations, infos, the sessions of one
    // incarnation, and a tombstone.
    assert_eq!(keys.len(), 4 * 10 + 1, "{keys:?}");
    for key in keys {
        let life = subject.server().say(&format!("TTL {key}"));
        let Value::Integer(life) = life else {
            panic!("{life:?}")
        };
        let expected = match key.rsplit_once("}:").map(|it| it.1) {
            None => -1..=-1,
            Some("l") => 95..=100,
            Some("m" | "s" | "u" | "d" | "c" | "info" | "of:connector-1/aa") => 195..=200,
            Some("i0" | "i1") => 299..=600,
            Some(_) => 295..=300,
        };
        assert!(expected.contains(&life), "{key}: {life}");
    }
}

#[tokio::test]
async fn a_log_that_has_expired_gets_an_expiry_again() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    subject.join("4", "u", session("s", 1)).await.unwrap();
    subject.server().say("DEL gc:{4}:l");
    // As if the log had expired: its expiry was last renewed long ago.
    subject.server().say("HSET gc:{4}:m x 1");
    subject.join("4", "u", session("t", 1)).await.unwrap();
    subject.publish(message("4", "u", "a")).await.unwrap();
    let life = subject.server().say("TTL gc:{4}:l");
    assert!(matches!(life, Value::Integer(1..)), "{life:?}");
}

#[tokio::test]
async fn other_rules_also_hold_for_the_directory_and_for_what_connectors_are_told() {
    let server = Redis::without_persistence().await;
    let mut subject = Subject::on(server, StoreOptions::default()).await;
    let rule = |hours: u64| LogRule {
        pattern: Pattern::new("game:*").unwrap(),
        life: Some(Duration::from_secs(3_600 * hours)),
        ..LogRule::default()
    };
    subject.store.set_log_rules(vec![rule(1), rule(100)]);
    let shortest = subject.store.settings().log_life;
    assert_eq!(shortest, Duration::from_secs(3_600));
    subject.publish(message("4", "u", "a")).await.unwrap();
    let server = subject.server();
    let parts = server.keys();
    let mut parts = parts.iter().filter(|key| key.contains("{channels-"));
    let part = parts.next().expect("the channel is in the directory");
    let life = server.number(&format!("TTL {part}"));
    assert!(life > 3_600 * 100, "{life}: longer than any channel lives");
}

#[tokio::test]
async fn expiries_are_not_renewed_with_each_publication() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    subject.publish(message("4", "u", "a")).await.unwrap();
    subject.server().say("PERSIST gc:{4}:l");
    subject.publish(message("4", "u", "b")).await.unwrap();
    assert_eq!(subject.server().say("TTL gc:{4}:l"), Value::Integer(-1));
}

#[tokio::test]
async fn expiries_are_not_renewed_with_each_join_but_all_keys_that_a_join_creates_have_one() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let all_expire = |subject: &mut Subject| {
        for key in subject.server().keys() {
            let expires = subject.server().number(&format!("TTL {key}")) > 0;
            assert!(expires || key == "gc:schema", "{key}");
        }
    };
    // Its expiries are young whenever a join comes.
    subject.publish(message("4", "u", "a")).await.unwrap();
    subject.join("4", "u", session("s", 1)).await.unwrap();
    all_expire(&mut subject);
    subject.leave_fenced("4", "u", session("s", 2), true).await;
    subject.join("4", "u", session("t", 3)).await.unwrap();
    all_expire(&mut subject);
    subject.join_with("4", "w", session("w", 4), "{}").await;
    all_expire(&mut subject);
    subject.join("4", "d", Membership::Detached).await.unwrap();
    all_expire(&mut subject);

    subject.server().say("PERSIST gc:{4}:s");
    subject.join("4", "x", session("x", 5)).await.unwrap();
    assert_eq!(subject.server().say("TTL gc:{4}:s"), Value::Integer(-1));
    // A session of a user who is there already publishes nothing.
    subject.server().say("HSET gc:{4}:m x 1");
    subject.join("4", "x", session("y", 6)).await.unwrap();
    all_expire(&mut subject);
}

#[tokio::test]
async fn a_touch_renews_all_keys_of_a_channel_with_the_lives_that_chat_gave_them() {
    let options = StoreOptions {
        log_life: Duration::from_secs(1_000),
        channel_life: Duration::from_secs(2_000),
        ..StoreOptions::default()
    };
    let mut subject = Subject::on(Redis::without_persistence().await, options).await;
    subject.join_with("4", "u", session("s", 1), "{}").await;
    subject.join("4", "d", Membership::Detached).await.unwrap();
    // A connector doesn't know the lives that chat is configured with.
    let sink = Arc::new(crate::support::RecordingSink::default());
    let url = subject.server().url();
    let feed = RedisFeed::open(&url, StoreOptions::default(), sink)
        .await
        .unwrap();
    feed.read(&name("empty"), &Since::Head, 0).await.unwrap();
    let keys = ["m", "l", "s", "u", "d", "c", "info"].map(|key| format!("gc:{{4}}:{key}"));
    let lives = |subject: &mut Subject, of: &[String]| {
        let life = |key| match subject.server().say(&format!("TTL {key}")) {
            Value::Integer(life) => life,
            other => panic!("{other:?}"),
        };
        of.iter().map(life).collect::<Vec<_>>()
    };
    for key in &keys {
        subject.server().say(&format!("EXPIRE {key} 50"));
    }
    subject.server().say("EXPIRE gc:{empty}:m 50");
    feed.heads(&[name("4"), name("empty")]).await.unwrap();
    assert!(
        lives(&mut subject, &keys).iter().all(|&life| life <= 50),
        "reading heads renews nothing"
    );

    // It also works when Redis is full, because members must not be lost.
    subject.server().say("CONFIG SET maxmemory 1");
    feed.touch(&[name("4"), name("empty")]).await.unwrap();
    let lives_of_4 = lives(&mut subject, &keys);
    assert!((995..=1_000).contains(&lives_of_4[1]), "{lives_of_4:?}");
    for index in [0, 2, 3, 4, 5, 6] {
        assert!(
            (1_995..=2_000).contains(&lives_of_4[index]),
            "{lives_of_4:?}"
        );
    }
    let empty = lives(&mut subject, &["gc:{empty}:m".to_owned()]);
    assert!(
        (115..=120).contains(&empty[0]),
        "the channel has no member and no message: {empty:?}"
    );
}

#[tokio::test]
async fn a_replica_does_not_answer_with_heads() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, _sink) = subject.follow("4").await;
    subject.publish(message("4", "u", "a")).await.unwrap();
    assert!(feed.heads(&[name("4")]).await.unwrap()[0].is_some());
    // This is faster than the connection's own check of the role.
    subject.server().say("REPLICAOF 127.0.0.1 1");
    let heads = feed.heads(&[name("4")]).await;
    assert!(
        matches!(heads, Err(StoreError::Unavailable(_))),
        "{heads:?}"
    );
    let touched = feed.touch(&[name("4")]).await;
    assert!(
        matches!(touched, Err(StoreError::Unavailable(_))),
        "{touched:?}"
    );
}

#[tokio::test]
async fn history_crosses_a_restart_in_both_directions() {
    let mut subject = Subject::on(Redis::with(&DURABLE).await, StoreOptions::default()).await;
    for n in 1..=3 {
        publish_until_answered(&subject, "4", &format!("{n}")).await;
    }
    subject.server().kill();
    until_available_is(subject.store.available(), false, SOON).await;
    subject.server().restart().await;
    for n in 4..=6 {
        publish_until_answered(&subject, "4", &format!("{n}")).await;
    }
    let log = subject.log("4").await;
    assert_ne!(log[2].position.epoch, log[3].position.epoch);
    let (mut forwards, mut backwards) = (Vec::new(), Vec::new());
    let mut range = HistoryRange::Oldest;
    while forwards.len() < 6 {
        let page = subject.store.history(&name("4"), &range, 1).await.unwrap();
        assert_eq!(page.continuity, Continuity::Contiguous);
        forwards.extend(page.entries);
        range = HistoryRange::After(forwards[forwards.len() - 1].position.clone());
    }
    assert_eq!(forwards, log);
    range = HistoryRange::Newest;
    while backwards.len() < 6 {
        let page = subject.store.history(&name("4"), &range, 1).await.unwrap();
        assert_eq!(page.continuity, Continuity::Contiguous);
        backwards.extend(page.entries);
        let mut before = backwards[backwards.len() - 1].position.clone();
        before.offset -= 1;
        range = HistoryRange::UpTo(before);
    }
    backwards.reverse();
    assert_eq!(backwards, log);
}

#[tokio::test]
async fn reads_of_unknown_channels_create_no_key() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, _sink) = subject.feed().await;
    for n in 0..20 {
        ask_about_unknown_channel(&subject, &*feed, &format!("{n}")).await;
    }
    assert_eq!(subject.server().keys(), ["gc:schema"]);
}

/// The lives of a channel's keys, without the keys that have their own expiry.
fn lives(subject: &mut Subject, channel: &str) -> Vec<i64> {
    let keys = subject.server().keys();
    let start = format!("gc:{{{channel}}}:");
    let of_channel = keys.iter().filter(|key| {
        let suffix = key.strip_prefix(&start);
        suffix.is_some_and(|it| matches!(it, "m" | "l" | "s" | "u" | "d" | "c"))
    });
    let life = |key| match subject.server().say(&format!("TTL {key}")) {
        Value::Integer(life) => life,
        other => panic!("{other:?}"),
    };
    of_channel.map(life).collect()
}

#[tokio::test]
async fn a_channel_with_only_joins_and_leaves_expires_after_two_minutes() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let is_brief =
        |lives: &[i64]| !lives.is_empty() && lives.iter().all(|it| (1..=120).contains(it));
    let is_long = |lives: &[i64]| !lives.is_empty() && lives.iter().all(|it| *it > 80_000);
    // A feed follows it, and nobody has joined.
    let (feed, _sink) = subject.follow("4").await;
    feed.read(&name("4"), &Since::Head, 0).await.unwrap();
    assert!(is_brief(&lives(&mut subject, "4")));
    subject.join("4", "u", session("s", 1)).await.unwrap();
    assert!(is_long(&lives(&mut subject, "4")));
    subject.leave_fenced("4", "u", session("s", 2), true).await;
    assert!(is_brief(&lives(&mut subject, "4")));
    let tombstone = subject.server().say("TTL gc:{4}:left:s");
    assert!(matches!(tombstone, Value::Integer(290..)), "{tombstone:?}");
    // A hub that still follows the channel must not prolong its life by a day.
    feed.touch(&[name("4")]).await.unwrap();
    assert!(is_brief(&lives(&mut subject, "4")));
    // A member that comes back finds the channel as it was, and it lives on.
    let joined = subject.join("4", "u", session("t", 3)).await.unwrap();
    assert_eq!(joined.position.offset, 3);
    assert!(is_long(&lives(&mut subject, "4")));

    // The last members are reaped, or expire.
    let dead = incarnation("connector-1/aa");
    subject.store.reap(&name("4"), &dead).await.unwrap();
    assert!(is_brief(&lives(&mut subject, "4")));
    let options = StoreOptions {
        detached_life: Duration::from_millis(1),
        ..StoreOptions::default()
    };
    let url = subject.server().url();
    let short = Subject::at(&url, options).await;
    short.join("5", "bot", Membership::Detached).await.unwrap();
    eventually("the bot has expired", async || {
        short.store.expire(&name("5")).await.unwrap();
        is_brief(&lives(&mut subject, "5"))
    })
    .await;

    // A channel with a message lives as long as any channel, also if the message comes from a back end.
    let next = session_of("connector-1/bb", "w", 4);
    subject.join("4", "u", next).await.unwrap();
    let said = from_session(message("4", "u", "a"), "w");
    subject.publish(said).await.unwrap();
    let next = session_of("connector-1/bb", "w", 5);
    subject.leave("4", "u", next).await;
    assert!(is_long(&lives(&mut subject, "4")));
    subject.publish(message("5", "u", "a")).await.unwrap();
    assert!(is_long(&lives(&mut subject, "5")));
}

#[tokio::test]
async fn a_channel_whose_messages_are_trimmed_lives_as_long_as_their_idempotency_keys() {
    let options = StoreOptions {
        log_entries: 1,
        log_keep: Duration::ZERO,
        ..StoreOptions::default()
    };
    let mut subject = Subject::on(Redis::without_persistence().await, options).await;
    // Each entry is in a node of its own, so that entries are trimmed one by one.
    subject.server().say("CONFIG SET stream-node-max-entries 1");
    let send = || with_key(message("4", "u", "a"), "k");
    subject.publish(send()).await.unwrap();
    subject.join("4", "u", session("s", 1)).await.unwrap();
    subject.leave("4", "u", session("s", 2)).await;
    let remembered = lives(&mut subject, "4");
    assert!(
        remembered.iter().all(|it| (121..=2 * 300).contains(it)),
        "{remembered:?}"
    );
    assert!(subject.publish(send()).await.unwrap().repeated);
    subject.server().say("DEL gc:{4}:i0 gc:{4}:i1");
    subject.join("4", "u", session("t", 3)).await.unwrap();
    subject.leave("4", "u", session("t", 4)).await;
    assert!(lives(&mut subject, "4").iter().all(|it| *it <= 120));
}

/// The connections of a server, without the one that asks.
fn connections(subject: &mut Subject) -> Vec<String> {
    let Value::Text(list) = subject.server().say("CLIENT LIST") else {
        panic!("CLIENT LIST did not answer with a text");
    };
    let list = String::from_utf8(list).unwrap();
    let others = list.lines().filter(|it| !it.contains("cmd=client"));
    others.map(str::to_owned).collect()
}

fn ids(connections: &[String]) -> Vec<&str> {
    let id = |line: &'_ String| line.find(' ').unwrap_or(line.len());
    connections.iter().map(|it| &it[..id(it)]).collect()
}

#[tokio::test]
async fn large_reads_break_no_connection_and_need_little_memory() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, sink) = subject.follow("4").await;
    let body = "x".repeat(100_000);
    let first = subject.publish(message("4", "u", &body)).await.unwrap();
    for _ in 1..40 {
        subject.publish(message("4", "u", &body)).await.unwrap();
    }
    sink.until_publications("4", 40).await;
    let start = Position {
        offset: 0,
        ..first.position
    };
    // This limit counts everything that a subscribed connection is sent. So answers to reads must not go there.
    subject.server().say_words(&[
        "CONFIG",
        "SET",
        "client-output-buffer-limit",
        "pubsub 262144 0 0",
    ]);
    let before = connections(&mut subject);
    subject.server().say("CONFIG RESETSTAT");
    let channel = name("4");
    let resumes = (0..200).map(async |_| {
        let (mut since, mut bytes) = (start.clone(), 0);
        while since.offset < 40 {
            let asked = Since::Position(since);
            let page = feed.read(&channel, &asked, 100).await.unwrap();
            assert_eq!(page.continuity, Continuity::Contiguous);
            let sizes = page.entries.iter().map(|it| it.payload.as_bytes().len());
            bytes += sizes.sum::<usize>();
            since = page.entries.last().unwrap().position.clone();
        }
        assert!(bytes >= 40 * 100_000);
    });
    let pages = (0..200).map(async |_| {
        let newest = &HistoryRange::Newest;
        let page = subject.store.history(&channel, newest, 1_000).await;
        let page = page.unwrap();
        assert_eq!((page.entries.len(), page.more), (1, true));
    });
    tokio::join!(join_all(resumes), join_all(pages));
    let memory = subject.server().text("INFO memory");
    let field = |field: &str| {
        let value = memory.lines().find_map(|line| line.strip_prefix(field));
        value.unwrap().parse::<u64>().unwrap()
    };
    let under_way = field("used_memory_peak:").saturating_sub(field("used_memory:"));
    assert!(under_way < 8 << 20, "{under_way} bytes of answers");
    let after = connections(&mut subject);
    assert_eq!(ids(&after), ids(&before), "no connection was lost");
    assert_eq!(sink.confirmations("4").len(), 1);
}

#[tokio::test]
async fn the_loss_of_a_read_connection_affects_no_other() {
    let mut subject =
        Subject::on(Redis::without_persistence().await, StoreOptions::default()).await;
    let (feed, sink) = subject.follow("4").await;
    let first = subject.publish(message("4", "u", "a")).await.unwrap();
    let since = Since::Position(first.position);
    let (mut cut, mut harmless) = (0, 0);
    for connection in connections(&mut subject) {
        if !connection.contains(" sub=0 psub=0 ssub=0 ") {
            continue;
        }
        until_available_is(subject.store.available(), true, SOON).await;
        let publisher = subject.store.publisher().unwrap();
        let id = connection.split(' ').next().unwrap().replace("id=", "");
        subject.server().say(&format!("CLIENT KILL ID {id}"));
        eventually("reads go on", async || {
            let page = feed.read(&name("4"), &since, 1).await;
            let newest = &HistoryRange::Newest;
            let history = subject.store.history(&name("4"), newest, 1).await;
            page.is_ok() && history.is_ok()
        })
        .await;
        let said = publisher.publish(vec![message("4", "u", "b")]).await;
        cut += 1;
        harmless += usize::from(said.is_ok());
    }
    assert_eq!(
        (cut, harmless),
        (3, 2),
        "only one of them was the store's connection for writes"
    );
    assert_eq!(
        sink.confirmations("4").len(),
        1,
        "the feed kept its connection"
    );
}

#[tokio::test]
async fn the_time_out_of_an_answer_is_a_setting() {
    let options = StoreOptions {
        redis_timeout: Duration::from_secs(10),
        ..StoreOptions::default()
    };
    let mut subject = Subject::on(Redis::without_persistence().await, options).await;
    let publisher = subject.store.publisher().unwrap();
    subject.server().freeze();
    let mut answer = std::pin::pin!(publisher.publish(vec![message("4", "u", "a")]));
    let early = tokio::time::timeout(Duration::from_millis(1_500), &mut answer).await;
    assert!(early.is_err(), "the store waits longer: {early:?}");
    subject.server().thaw();
    assert!(answer.await.unwrap()[0].is_ok());
    assert!(*subject.store.available().borrow());
}

#[tokio::test]
async fn a_server_that_is_not_a_cluster_is_refused_as_one() {
    let server = Redis::without_persistence().await;
    let url = server.url().replace("redis://", "redis-cluster://");
    let opened = RedisStore::open(&url, StoreOptions::default()).await;
    let error = opened.err().map(|it| it.to_string()).unwrap_or_default();
    assert!(
        error.ends_with("is not a cluster: use redis:// in place of redis-cluster://"),
        "{error}"
    );
    assert!(error.contains(&server.port().to_string()), "{error}");
}
