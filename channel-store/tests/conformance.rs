//! What every store promises. Each test runs in memory, on Redis and on a cluster. The suffixes K and F name the
//! behaviours of the original that are kept and its faults that are fixed (docs/compatibility.md).

use crate::support::{
    Kind, Received, Subject, ask_about_unknown_channel, bytes_message, eventually, from_session,
    message, name, no_position, number_user, offsets, read, said, session, text_user, with_key,
};
use channel_store::{
    Continuity, Epoch, HistoryRange, LogRule, Membership, ON_JOIN, ON_LEAVE, Pattern, Position,
    Publication, Since, StoreError, StoreOptions,
};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::time::Duration;

macro_rules! conformance {
    ($($test:ident)+) => {
        mod in_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $test() { super::$test(super::Kind::Memory).await; })+
        }
        mod in_redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $test() { super::$test(super::Kind::Redis).await; })+
        }
        /// All tests at the same time, in one cluster.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn everything_holds_in_a_cluster_too() {
            let _cluster = crate::support::shared_cluster().await;
            join_all([$(Box::pin($test(Kind::Cluster)) as std::pin::Pin<Box<dyn Future<Output = ()>>>),+]).await;
        }
    };
}
pub(crate) use conformance;

conformance! {
    publications_have_contiguous_offsets_in_one_epoch
    two_feeds_receive_the_same_sequence_f06
    batches_in_flight_take_effect_in_order_k3
    a_refused_message_does_not_affect_the_others_of_its_batch
    a_batch_has_the_same_effect_as_its_messages_one_by_one
    a_large_batch_keeps_the_order_of_each_channel
    a_repeated_key_gets_the_first_answer_and_publishes_once
    keys_are_per_user_and_channel
    a_key_that_was_used_for_another_content_is_refused
    a_repeated_key_is_answered_after_its_session_has_left
    only_a_session_that_is_a_member_may_publish
    members_are_counted_per_session_f04
    join_message_and_leave_are_one_sequence_k3
    a_user_is_announced_with_the_json_type_of_its_session_k1
    a_repeated_join_gets_the_first_answer
    a_repeated_leave_finds_nothing
    a_join_after_its_fenced_leave_makes_no_ghost_f02
    a_late_copy_of_a_leave_spares_the_session_that_joined_again
    a_session_that_joins_again_before_its_leave_begins_at_the_end_of_the_log
    a_leave_of_the_same_or_an_older_operation_ends_nothing
    a_second_session_of_a_user_begins_at_the_end_of_the_log
    a_joiner_whose_connector_follows_receives_its_own_on_join_k2
    a_detached_member_stays_until_it_leaves
    a_detached_member_expires_unless_it_joins_again
    a_detached_member_expires_once_even_if_several_callers_expire_it
    a_detached_member_stays_as_long_as_its_last_join_says
    detached_and_connected_sessions_of_a_user_count_together
    members_come_in_pages_and_none_is_missing
    a_foreign_page_token_is_refused
    the_log_keeps_at_least_its_bound
    a_read_tells_the_continuity_of_every_position
    a_read_pages_through_the_log
    names_with_braces_and_percent_signs_are_different_channels
    a_body_may_have_any_bytes
    a_feed_receives_only_the_channels_it_follows
    the_last_of_several_quick_subscribe_calls_decides
    after_a_confirmation_no_publication_is_missing
    heads_and_reads_name_the_same_position
    a_log_rule_applies_to_the_channels_that_it_matches
    other_rules_hold_from_the_next_publication
    a_reader_goes_back_from_a_position_newest_first
    members_that_are_not_announced_are_still_counted
    history_goes_in_both_directions_and_tells_if_there_is_more
    history_tells_the_continuity_of_its_first_position
    reading_an_unknown_channel_does_not_create_it
    a_page_ends_before_it_has_too_many_bytes
    a_log_never_has_more_than_its_bytes
    a_burst_of_small_messages_does_not_erase_young_ones
    old_messages_beyond_the_number_of_entries_are_trimmed
    pages_of_members_have_about_the_size_asked_for_and_the_number_of_users
}

async fn publications_have_contiguous_offsets_in_one_epoch(kind: Kind) {
    let subject = Subject::new(kind).await;
    let mut positions = Vec::new();
    for n in 0..20 {
        let published = subject
            .publish(message("4", "u", &format!("{n}")))
            .await
            .unwrap();
        assert!(!published.repeated);
        assert!(published.time > 1_700_000_000_000);
        positions.push(published.position);
    }
    let offsets: Vec<u64> = positions.iter().map(|it| it.offset).collect();
    assert_eq!(offsets, (1..=20).collect::<Vec<_>>());
    let epochs: BTreeSet<&str> = positions.iter().map(|it| it.epoch.as_str()).collect();
    assert_eq!(epochs.len(), 1);

    let log: Vec<Position> = subject
        .log("4")
        .await
        .into_iter()
        .map(|it| it.position)
        .collect();
    assert_eq!(
        log, positions,
        "everything that was acknowledged is in the log"
    );
}

async fn two_feeds_receive_the_same_sequence_f06(kind: Kind) {
    const EACH: usize = 300;
    let subject = Subject::new(kind).await;
    let (_one, sink) = subject.follow("4").await;
    let (_other, other_sink) = subject.follow("4").await;
    let senders = ["a", "b", "c"].map(|user| {
        let store = subject.store.clone();
        tokio::spawn(async move {
            for n in 0..EACH {
                let reached = store
                    .publish(message("4", user, &format!("{n}")))
                    .await
                    .unwrap()
                    .reached;
                assert_eq!(reached, 2, "both feeds are counted");
            }
        })
    });
    for sender in senders {
        sender.await.unwrap();
    }
    let heard = sink.until_publications("4", 3 * EACH).await;
    assert_eq!(heard, other_sink.until_publications("4", 3 * EACH).await);
    assert_eq!(offsets(&heard), (1..=3 * EACH as u64).collect::<Vec<_>>());
    assert_eq!(heard, subject.log("4").await);
    for user in ["a", "b", "c"] {
        let of_user = heard.iter().filter(|it| it.payload.sender() == user);
        let bodies: Vec<&[u8]> = of_user.map(|it| it.payload.body()).collect();
        let sent: Vec<String> = (0..EACH).map(|n| format!("{n}")).collect();
        assert_eq!(
            bodies,
            sent.iter().map(String::as_bytes).collect::<Vec<_>>(),
            "K3: the order of each sender is kept"
        );
    }
}

async fn batches_in_flight_take_effect_in_order_k3(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (_feed, sink) = subject.follow("4").await;
    let publisher = subject.store.publisher().unwrap();
    let batches = (0..200).map(|batch| {
        let messages = (0..3)
            .map(|n| message("4", "u", &format!("{batch}.{n}")))
            .collect();
        publisher.publish(messages)
    });
    // All futures are polled once before any is answered. They are more than the budget of one task allows.
    let answers = join_all(batches).await;
    let mut expected = 0;
    for answer in answers {
        for published in answer.unwrap() {
            expected += 1;
            assert_eq!(published.unwrap().position.offset, expected);
        }
    }
    let bodies: Vec<String> = said(&sink.until_publications("4", 600).await);
    let sent = (0..200).flat_map(|batch| (0..3).map(move |n| format!("onMessage {batch}.{n}")));
    assert_eq!(bodies, sent.collect::<Vec<_>>());
}

async fn a_refused_message_does_not_affect_the_others_of_its_batch(kind: Kind) {
    let subject = Subject::new(kind).await;
    let batch = vec![
        message("4", "u", "1"),
        from_session(message("4", "u", "2"), "nobody"),
        message("5", "u", "3"),
        message("4", "u", "4"),
    ];
    let answers = subject
        .store
        .publisher()
        .unwrap()
        .publish(batch)
        .await
        .unwrap();
    let offsets: Vec<Result<u64, StoreError>> = answers
        .into_iter()
        .map(|it| it.map(|it| it.position.offset))
        .collect();
    assert_eq!(offsets, [Ok(1), Err(StoreError::NotMember), Ok(1), Ok(2)]);
    let empty = subject
        .store
        .publisher()
        .unwrap()
        .publish(Vec::new())
        .await
        .unwrap();
    assert!(empty.is_empty());
}

async fn a_batch_has_the_same_effect_as_its_messages_one_by_one(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (_feed, sink) = subject.follow("a").await;
    subject.join("a", "lin", session("s1", 1)).await.unwrap();
    let publisher = subject.store.publisher().unwrap();
    let batch = vec![
        with_key(message("a", "lin", "{\"n\":1}"), "k1"),
        message("b", "lin", "{\"n\":2}"),
        with_key(message("a", "lin", "{\"n\":1}"), "k1"),
        with_key(message("a", "lin", "{\"n\":3}"), "k1"),
        from_session(message("a", "lin", "{\"n\":4}"), "s1"),
        from_session(message("a", "lin", "{\"n\":5}"), "nobody"),
        with_key(message("a", "mo", "{\"n\":6}"), "k1"),
    ];
    let outcomes = publisher.publish(batch).await.unwrap();
    let seen: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Ok(published) => Ok((published.position.offset, published.repeated)),
            Err(error) => Err(error.to_string()),
        })
        .collect();
    let refused = |error: StoreError| Err(error.to_string());
    // The first publication of channel a is the onJoin.
    let expected = [
        Ok((2, false)),
        Ok((1, false)),
        Ok((2, true)),
        refused(StoreError::KeyReused),
        Ok((3, false)),
        refused(StoreError::NotMember),
        Ok((4, false)),
    ];
    assert_eq!(seen, expected);
    let times: Vec<_> = [0, 2]
        .map(|place| outcomes[place].as_ref().unwrap().time)
        .into();
    assert_eq!(times[0], times[1]);
    let heard = sink.until_publications("a", 4).await;
    assert_eq!(heard, subject.log("a").await);
    assert_eq!(offsets(&heard), [1, 2, 3, 4]);
}

async fn a_large_batch_keeps_the_order_of_each_channel(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (_feed, sink) = subject.follow("a").await;
    let publisher = subject.store.publisher().unwrap();
    // The batch is too large for one call, in number and in size.
    let long = "x".repeat(40 << 10);
    let text = |n: usize| match n {
        20..24 => format!("{{\"n\":{n},\"long\":\"{long}\"}}"),
        _ => format!("{{\"n\":{n}}}"),
    };
    let batch: Vec<_> = (0..200)
        .flat_map(|n| [message("a", "lin", &text(n)), message("b", "lin", &text(n))])
        .collect();
    let outcomes = publisher.publish(batch).await.unwrap();
    for (place, outcome) in outcomes.iter().enumerate() {
        let offset = outcome.as_ref().unwrap().position.offset;
        assert_eq!(offset, place as u64 / 2 + 1);
    }
    let heard = sink.until_publications("a", 200).await;
    for (n, publication) in heard.iter().enumerate() {
        assert_eq!(publication.position.offset, n as u64 + 1);
        assert_eq!(publication.payload.body(), text(n).as_bytes());
    }
}

async fn a_repeated_key_gets_the_first_answer_and_publishes_once(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (_feed, sink) = subject.follow("4").await;
    let first = subject
        .publish(with_key(message("4", "u", "a"), "k"))
        .await
        .unwrap();
    assert!(!first.repeated);
    subject.publish(message("4", "u", "b")).await.unwrap();
    eventually("the clock shows a later millisecond", async || {
        let now = subject.publish(message("5", "u", "x")).await.unwrap().time;
        now > first.time
    })
    .await;
    for _ in 0..3 {
        let again = subject
            .publish(with_key(message("4", "u", "a"), "k"))
            .await
            .unwrap();
        assert_eq!((&again.position, again.time), (&first.position, first.time));
        assert!(again.repeated);
        assert_eq!(again.reached, 0);
    }
    subject.publish(message("4", "u", "c")).await.unwrap();
    assert_eq!(
        said(&sink.until_publications("4", 3).await),
        ["onMessage a", "onMessage b", "onMessage c"]
    );
    assert_eq!(subject.log("4").await.len(), 3);
}

async fn keys_are_per_user_and_channel(kind: Kind) {
    let subject = Subject::new(kind).await;
    for (channel, user, key, offset) in [
        ("4", "u", "k", 1),
        ("4", "v", "k", 2),
        ("4", "u", "l", 3),
        ("5", "u", "k", 1),
        ("4", "uk", "k", 4),
    ] {
        let publish = with_key(message(channel, user, "a"), key);
        let published = subject.publish(publish).await.unwrap();
        assert!(!published.repeated);
        assert_eq!(published.position.offset, offset);
    }
}

async fn a_key_that_was_used_for_another_content_is_refused(kind: Kind) {
    let subject = Subject::new(kind).await;
    let first = subject
        .publish(with_key(message("4", "u", "a"), "k"))
        .await
        .unwrap();
    let other = subject.publish(with_key(message("4", "u", "b"), "k")).await;
    assert_eq!(other, Err(StoreError::KeyReused));
    let again = subject
        .publish(with_key(message("4", "u", "a"), "k"))
        .await
        .unwrap();
    assert_eq!(again.position, first.position);
    assert_eq!(subject.log("4").await.len(), 1);
}

async fn a_repeated_key_is_answered_after_its_session_has_left(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("s", 1)).await.unwrap();
    let publish = || from_session(with_key(message("4", "u", "a"), "k"), "s");
    let first = subject.publish(publish()).await.unwrap();
    assert!(subject.leave("4", "u", session("s", 2)).await);
    let again = subject.publish(publish()).await.unwrap();
    assert_eq!(again.position, first.position);
    let new = from_session(with_key(message("4", "u", "a"), "other"), "s");
    assert_eq!(subject.publish(new).await, Err(StoreError::NotMember));
}

async fn only_a_session_that_is_a_member_may_publish(kind: Kind) {
    let subject = Subject::new(kind).await;
    let send = |channel| from_session(message(channel, "u", "a"), "s");
    assert_eq!(subject.publish(send("4")).await, Err(StoreError::NotMember));
    subject.join("4", "u", session("s", 1)).await.unwrap();
    assert_eq!(subject.publish(send("4")).await.unwrap().position.offset, 2);
    assert_eq!(subject.publish(send("5")).await, Err(StoreError::NotMember));
    assert!(subject.leave("4", "u", session("s", 2)).await);
    assert_eq!(subject.publish(send("4")).await, Err(StoreError::NotMember));
    assert_eq!(
        said(&subject.log("4").await).len(),
        3,
        "refused messages are not in the log"
    );
}

async fn members_are_counted_per_session_f04(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (_feed, sink) = subject.follow("4").await;
    assert!(
        subject
            .join("4", "u", session("tab-1", 1))
            .await
            .unwrap()
            .published
    );
    assert!(
        !subject
            .join("4", "u", session("tab-2", 2))
            .await
            .unwrap()
            .published
    );
    assert_eq!(subject.members("4").await, [("u".to_owned(), 2)]);
    assert!(subject.leave("4", "u", session("tab-1", 3)).await);
    assert_eq!(subject.members("4").await, [("u".to_owned(), 1)]);
    assert_eq!(
        subject.log("4").await.len(),
        1,
        "the user still has a session, so there is no onLeave"
    );
    assert!(subject.leave("4", "u", session("tab-2", 4)).await);
    assert_eq!(subject.members("4").await, []);
    let heard = sink.until_publications("4", 2).await;
    assert_eq!(
        said(&heard),
        [r#"onJoin {"userId":"u"}"#, r#"onLeave {"userId":"u"}"#]
    );
}

async fn join_message_and_leave_are_one_sequence_k3(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (_feed, sink) = subject.follow("4").await;
    let joined = subject.join("4", "u", session("s", 1)).await.unwrap();
    let spoken = subject
        .publish(from_session(message("4", "u", "hi"), "s"))
        .await
        .unwrap();
    subject.leave("4", "u", session("s", 2)).await;
    let heard = sink.until_publications("4", 3).await;
    let routes: Vec<&str> = heard.iter().map(|it| it.payload.route()).collect();
    assert_eq!(routes, [ON_JOIN, "onMessage", ON_LEAVE]);
    assert_eq!(heard[0].position, joined.position);
    assert_eq!(heard[1].position, spoken.position);
    assert_eq!(offsets(&heard), [1, 2, 3]);
    assert!(
        heard
            .iter()
            .all(|it| it.payload.sender() == "u" && it.time >= spoken.time - 5_000)
    );
    assert_eq!(heard, subject.log("4").await);
}

async fn a_user_is_announced_with_the_json_type_of_its_session_k1(kind: Kind) {
    let subject = Subject::new(kind).await;
    for (user, json) in [
        (number_user("5"), "5"),
        (text_user("5"), r#""5""#),
        (number_user("-1.5e300"), "-1.5e300"),
        (text_user(r#"a"b\c/哈 '%d"#), r#""a\"b\\c/哈 '%d""#),
    ] {
        let id = user.id.to_string();
        let channel = format!("of {json}");
        let (_feed, sink) = subject.follow(&channel).await;
        subject
            .join_as(&channel, user, session("s", 1))
            .await
            .unwrap();
        // The leave does not name the type. The store takes it from the session's record.
        subject.leave(&channel, &id, session("s", 2)).await;
        let body = format!(r#"{{"userId":{json}}}"#);
        let expected = [format!("onJoin {body}"), format!("onLeave {body}")];
        let heard = sink.until_publications(&channel, 2).await;
        assert_eq!(said(&heard), expected);
        assert_eq!(heard[0].payload.sender(), id);
    }
}

async fn a_repeated_join_gets_the_first_answer(kind: Kind) {
    let subject = Subject::new(kind).await;
    let first = subject.join("4", "u", session("s", 1)).await.unwrap();
    assert!(first.published);
    let second = subject.join("4", "u", session("t", 2)).await.unwrap();
    assert_eq!(
        second,
        channel_store::Joined {
            published: false,
            ..first.clone()
        }
    );
    subject.publish(message("4", "u", "a")).await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            subject.join("4", "u", session("s", 1)).await.unwrap(),
            first
        );
        assert_eq!(
            subject.join("4", "u", session("t", 2)).await.unwrap(),
            second
        );
    }
    assert_eq!(
        subject.members("4").await,
        [("u".to_owned(), 2)],
        "repeated joins are not counted"
    );
    assert_eq!(subject.log("4").await.len(), 2);
}

async fn a_repeated_leave_finds_nothing(kind: Kind) {
    let subject = Subject::new(kind).await;
    assert!(!subject.leave("4", "u", session("s", 1)).await);
    subject.join("4", "u", session("s", 2)).await.unwrap();
    assert!(subject.leave("4", "u", session("s", 3)).await);
    assert!(!subject.leave("4", "u", session("s", 3)).await);
    assert_eq!(said(&subject.log("4").await).len(), 2);
}

async fn a_join_after_its_fenced_leave_makes_no_ghost_f02(kind: Kind) {
    let subject = Subject::new(kind).await;
    assert!(!subject.leave_fenced("4", "u", session("s", 2), true).await);
    let late = subject.join("4", "u", session("s", 1)).await;
    assert_eq!(late, Err(StoreError::StaleOperation));
    // An older fence that comes later does not weaken the newer one.
    subject.leave_fenced("4", "u", session("s", 1), true).await;
    assert_eq!(
        subject.join("4", "u", session("s", 1)).await,
        Err(StoreError::StaleOperation)
    );
    assert_eq!(subject.members("4").await, []);
    assert_eq!(subject.log("4").await, []);
    // Another session of the user, another channel, and a later join of the same session are not affected.
    subject.join("4", "u", session("t", 1)).await.unwrap();
    subject.join("5", "u", session("s", 1)).await.unwrap();
    subject.join("4", "u", session("s", 3)).await.unwrap();
    assert_eq!(subject.members("4").await, [("u".to_owned(), 2)]);
}

async fn a_late_copy_of_a_leave_spares_the_session_that_joined_again(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("s", 1)).await.unwrap();
    assert!(subject.leave("4", "u", session("s", 2)).await);
    subject.join("4", "u", session("s", 3)).await.unwrap();
    assert!(!subject.leave("4", "u", session("s", 2)).await);
    assert_eq!(subject.members("4").await, [("u".to_owned(), 1)]);
    // The same if the second join comes before the leave, while the session is still listed.
    subject.join("4", "u", session("s", 5)).await.unwrap();
    assert!(!subject.leave("4", "u", session("s", 4)).await);
    assert_eq!(subject.members("4").await, [("u".to_owned(), 1)]);
    assert!(subject.leave("4", "u", session("s", 6)).await);
}

/// With the first answer it would receive publications again.
async fn a_session_that_joins_again_before_its_leave_begins_at_the_end_of_the_log(kind: Kind) {
    let subject = Subject::new(kind).await;
    let first = subject.join("4", "u", session("s", 1)).await.unwrap();
    assert!(first.published);
    let copy = subject.join("4", "u", session("s", 1)).await;
    assert_eq!(copy.as_ref(), Ok(&first));
    let last = subject.publish(message("4", "u", "a")).await.unwrap();
    let again = subject.join("4", "u", session("s", 3)).await.unwrap();
    assert_eq!(again.position, last.position);
    assert!(!again.published);
    // The leave of the first join arrives late, with a fence. The newer membership can still be restored.
    assert!(!subject.leave_fenced("4", "u", session("s", 2), true).await);
    assert_eq!(subject.members("4").await, [("u".to_owned(), 1)]);
    assert_eq!(subject.join("4", "u", session("s", 3)).await, Ok(again));
}

async fn a_leave_of_the_same_or_an_older_operation_ends_nothing(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("s", 10)).await.unwrap();
    for operation in [9, 10] {
        assert!(!subject.leave("4", "u", session("s", operation)).await);
    }
    // A repeated join with its old operation does not lower the newer one.
    subject.join("4", "u", session("s", 9)).await.unwrap();
    assert!(!subject.leave("4", "u", session("s", 10)).await);
    assert!(subject.leave("4", "u", session("s", 11)).await);
}

async fn a_second_session_of_a_user_begins_at_the_end_of_the_log(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, _) = subject.feed().await;
    subject.join("4", "u", session("s", 1)).await.unwrap();
    let last = subject.publish(message("4", "u", "a")).await.unwrap();
    let joined = subject.join("4", "u", session("t", 2)).await.unwrap();
    assert_eq!(joined.position, last.position);
    subject.publish(message("4", "u", "b")).await.unwrap();
    let page = read(&*feed, "4", &joined.position, 10).await;
    assert_eq!(page.continuity, Continuity::Contiguous);
    assert_eq!(said(&page.entries), ["onMessage b"]);
}

async fn a_joiner_whose_connector_follows_receives_its_own_on_join_k2(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.publish(message("4", "u", "before")).await.unwrap();
    let (feed, sink) = subject.follow("4").await;
    let head = feed.read(&name("4"), &Since::Head, 0).await.unwrap();
    let joined = subject.join("4", "u", session("s", 1)).await.unwrap();
    let heard = sink.until_publications("4", 1).await;
    assert_eq!(heard[0].position, joined.position);
    assert_eq!(heard[0].payload.route(), ON_JOIN);
    assert_eq!(
        joined.position.offset,
        head.position.offset + 1,
        "it begins just before its own onJoin"
    );
}

async fn a_detached_member_stays_until_it_leaves(kind: Kind) {
    let subject = Subject::new(kind).await;
    let first = subject.join("4", "u", Membership::Detached).await.unwrap();
    assert!(first.published);
    assert_eq!(
        subject.join("4", "u", Membership::Detached).await.unwrap(),
        first,
        "the second join is a renewal"
    );
    assert_eq!(subject.members("4").await, [("u".to_owned(), 1)]);
    assert!(subject.leave("4", "u", Membership::Detached).await);
    assert!(!subject.leave("4", "u", Membership::Detached).await);
    // A fence has no effect, because joins and leaves of detached members have no operation numbers.
    assert!(
        !subject
            .leave_fenced("4", "u", Membership::Detached, true)
            .await
    );
    subject.join("4", "u", Membership::Detached).await.unwrap();
    let routes: Vec<String> = subject
        .log("4")
        .await
        .iter()
        .map(|it| it.payload.route().to_owned())
        .collect();
    assert_eq!(routes, [ON_JOIN, ON_LEAVE, ON_JOIN]);
}

async fn a_detached_member_expires_unless_it_joins_again(kind: Kind) {
    let life = Duration::from_millis(300);
    let options = StoreOptions {
        detached_life: life,
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    let (_feed, sink) = subject.follow("4").await;
    let start = std::time::Instant::now();
    subject
        .join_as("4", number_user("5"), Membership::Detached)
        .await
        .unwrap();
    subject.join("4", "other", session("s", 1)).await.unwrap();
    // The member is renewed for twice its life. If the machine is so busy that a renewal comes too late, that is no
    // fault.
    let mut renewed = start;
    let mut in_time = true;
    while start.elapsed() < life * 2 {
        let last = std::mem::replace(&mut renewed, std::time::Instant::now());
        subject
            .join_as("4", number_user("5"), Membership::Detached)
            .await
            .unwrap();
        in_time &= last.elapsed() < life;
        tokio::task::yield_now().await;
    }
    assert!(
        !in_time || subject.log("4").await.len() == 2,
        "a member that is renewed stays"
    );
    eventually("the member has expired", async || {
        subject.members("4").await == [("other".to_owned(), 1)]
    })
    .await;
    assert!(
        renewed.elapsed() + Duration::from_millis(2) > life,
        "it did not expire too early"
    );
    eventually(
        "onLeave has the userId as a number, like the join",
        async || said(&sink.publications("4")).pop().unwrap() == r#"onLeave {"userId":5}"#,
    )
    .await;
    assert!(!subject.leave("4", "5", Membership::Detached).await);
}

async fn a_detached_member_expires_once_even_if_several_callers_expire_it(kind: Kind) {
    const MEMBERS: usize = 120;
    let options = StoreOptions {
        detached_life: Duration::from_millis(400),
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    let channel = name("4");
    let expire = async || subject.store.expire(&channel).await.unwrap();
    assert_eq!(expire().await, None, "there is no detached member");
    for n in 0..MEMBERS {
        let user = format!("u{n}");
        subject
            .join("4", &user, Membership::Detached)
            .await
            .unwrap();
    }
    let next = expire().await.unwrap();
    assert!(next <= Duration::from_millis(400), "{next:?}");
    tokio::time::sleep(next).await;
    let expiring = async || while expire().await.is_some() {};
    let others = async || {
        for n in 1..20 {
            subject.join("4", "v", session("s", 2 * n)).await.unwrap();
            subject.leave("4", "v", session("s", 2 * n + 1)).await;
        }
    };
    tokio::join!(expiring(), expiring(), others());
    let log = said(&subject.log("4").await);
    let left = |it: &&String| it.starts_with("onLeave") && !it.contains("\"v\"");
    let leaves: Vec<_> = log.iter().filter(left).collect();
    let users: BTreeSet<_> = leaves.iter().collect();
    assert_eq!((leaves.len(), users.len()), (MEMBERS, MEMBERS));
}

async fn a_detached_member_stays_as_long_as_its_last_join_says(kind: Kind) {
    const MINUTE: Duration = Duration::from_secs(60);
    let options = StoreOptions {
        detached_life: 10 * MINUTE,
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    assert_eq!(subject.store.detached_life(), 10 * MINUTE);
    let ends_in = async |stay: Duration| {
        let next = subject.store.expire(&name("4")).await.unwrap().unwrap();
        assert!(stay - MINUTE < next && next <= stay, "{next:?} of {stay:?}");
    };
    let first = subject.join_for("4", "u", 60 * MINUTE).await;
    assert!(first.published);
    ends_in(60 * MINUTE).await;
    // A shorter time counts, too, and so does that of the store.
    assert_eq!(subject.join_for("4", "u", 30 * MINUTE).await, first);
    ends_in(30 * MINUTE).await;
    subject.join("4", "u", Membership::Detached).await.unwrap();
    ends_in(10 * MINUTE).await;
    subject.join_for("4", "u", 20 * MINUTE).await;
    ends_in(20 * MINUTE).await;
    // Each member has an end of its own.
    subject.join_for("4", "v", 60 * MINUTE).await;
    ends_in(20 * MINUTE).await;
    subject.join_for("4", "u", Duration::from_millis(1)).await;
    eventually("the first one has expired", async || {
        subject.members("4").await == [("v".to_owned(), 1)]
    })
    .await;
    ends_in(60 * MINUTE).await;
}

async fn detached_and_connected_sessions_of_a_user_count_together(kind: Kind) {
    let subject = Subject::new(kind).await;
    assert!(
        subject
            .join("4", "u", Membership::Detached)
            .await
            .unwrap()
            .published
    );
    assert!(
        !subject
            .join("4", "u", session("s", 1))
            .await
            .unwrap()
            .published
    );
    assert_eq!(subject.members("4").await, [("u".to_owned(), 2)]);
    assert!(
        subject.leave("4", "u", Membership::Detached).await,
        "it ends only the detached membership"
    );
    assert_eq!(subject.members("4").await, [("u".to_owned(), 1)]);
    assert_eq!(said(&subject.log("4").await).len(), 1);
}

async fn members_come_in_pages_and_none_is_missing(kind: Kind) {
    let subject = Subject::new(kind).await;
    let users: Vec<String> = (0..2_500).map(|n| format!("user {n:04}")).collect();
    for chunk in users.chunks(100) {
        let joins = chunk
            .iter()
            .map(|user| subject.join("4", user, session(user, 1)));
        for joined in join_all(joins).await {
            assert!(joined.unwrap().published);
        }
    }
    let (mut found, mut page, mut pages) = (BTreeSet::new(), None, 0);
    loop {
        let members = subject
            .store
            .members(&name("4"), page.as_deref(), 100)
            .await
            .unwrap();
        assert!(members.members.len() <= 200, "the page is too long");
        pages += 1;
        found.extend(members.members.into_iter().map(|user| {
            assert_eq!(user.sessions, 1);
            user.id.to_string()
        }));
        page = members.next;
        if page.is_none() {
            break;
        }
        // Users that join and leave meanwhile must not change the result.
        let guest = format!("guest {pages}");
        subject.join("4", &guest, session(&guest, 1)).await.unwrap();
        subject.leave("4", &guest, session(&guest, 2)).await;
    }
    assert!(pages >= 10);
    assert_eq!(
        found
            .into_iter()
            .filter(|it| it.starts_with("user"))
            .collect::<Vec<_>>(),
        users
    );
    let nobody = subject
        .store
        .members(&name("empty"), None, 0)
        .await
        .unwrap();
    assert_eq!((nobody.members.len(), nobody.next), (0, None));
}

async fn a_foreign_page_token_is_refused(kind: Kind) {
    let subject = Subject::new(kind).await;
    for token in ["", "0x", "-1", "nonsense", " 7", "99999999999999999999999"] {
        let page = subject.store.members(&name("4"), Some(token), 10).await;
        assert_eq!(page, Err(StoreError::BadPageToken), "{token:?}");
    }
}

async fn the_log_keeps_at_least_its_bound(kind: Kind) {
    let options = StoreOptions {
        log_entries: 50,
        log_keep: Duration::ZERO,
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    let (feed, _) = subject.feed().await;
    let publisher = subject.store.publisher().unwrap();
    let messages = (1..=1_000)
        .map(|n| message("4", "u", &format!("{n}")))
        .collect();
    let first = publisher
        .publish(messages)
        .await
        .unwrap()
        .swap_remove(0)
        .unwrap();
    let page = read(&*feed, "4", &first.position, 1_000).await;
    assert_eq!(page.continuity, Continuity::Trimmed);
    let held = page.entries.len();
    assert!((50..=250).contains(&held), "{held}");
    assert_eq!(page.position.offset, 1_000 - held as u64);
    assert_eq!(
        offsets(&page.entries),
        (1_001 - held as u64..=1_000).collect::<Vec<_>>()
    );
    // From the position in the answer, the log has no gap.
    assert_eq!(
        read(&*feed, "4", &page.position, 1_000).await.continuity,
        Continuity::Contiguous
    );
}

async fn a_read_tells_the_continuity_of_every_position(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, sink) = subject.follow("4").await;
    let confirmed = sink.until_subscribed("4", 1).await;
    let channel = name("4");
    let empty = feed.read(&channel, &Since::Head, 10).await.unwrap();
    assert_eq!(
        (empty.continuity, empty.position.offset, empty.last),
        (Continuity::Contiguous, 0, 0)
    );
    assert_eq!(
        empty.lifetime, confirmed.lifetime,
        "the server that the feed listens to has answered"
    );

    let mut published: Vec<Position> = Vec::new();
    for n in 1..=10 {
        published.push(
            subject
                .publish(message("4", "u", &format!("{n}")))
                .await
                .unwrap()
                .position,
        );
    }
    assert_eq!(
        published[0].epoch, empty.position.epoch,
        "the position of the empty channel is still valid"
    );
    let at = |offset| Position {
        epoch: published[0].epoch.clone(),
        offset,
    };
    let elsewhere = |epoch: &str, offset| Position {
        epoch: Epoch::new(epoch),
        offset,
    };
    // The position, its continuity, and the offset in the answer.
    for (since, continuity, offset) in [
        (at(0), Continuity::Contiguous, 0),
        (at(7), Continuity::Contiguous, 7),
        (at(10), Continuity::Contiguous, 10),
        (at(11), Continuity::Diverged, 10),
        (at(u64::MAX), Continuity::Diverged, 10),
        (elsewhere("another", 3), Continuity::Unknown, 0),
        (elsewhere("", 3), Continuity::Unknown, 0),
        (elsewhere("-", u64::MAX), Continuity::Unknown, 0),
    ] {
        for limit in [0, 5, 100] {
            let page = read(&*feed, "4", &since, limit).await;
            assert_eq!(
                (page.continuity, page.position.offset),
                (continuity, offset),
                "{since:?}"
            );
            assert_eq!(page.position.epoch, published[0].epoch);
            assert_eq!(page.last, 10);
            let following: Vec<u64> = (offset + 1..=10).take(limit).collect();
            assert_eq!(offsets(&page.entries), following, "{since:?}");
        }
    }
    let head = feed.read(&channel, &Since::Head, 10).await.unwrap();
    assert_eq!(
        (head.continuity, &head.position),
        (Continuity::Contiguous, &published[9])
    );
    assert!(head.entries.is_empty());
}

async fn a_read_pages_through_the_log(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, sink) = subject.follow("4").await;
    let messages = (1..=250)
        .map(|n| message("4", "u", &format!("{n}")))
        .collect();
    subject
        .store
        .publisher()
        .unwrap()
        .publish(messages)
        .await
        .unwrap();
    let heard: Vec<Publication> = sink.until_publications("4", 250).await;
    let mut since = Position {
        offset: 0,
        ..heard[0].position.clone()
    };
    let mut found = Vec::new();
    loop {
        let page = read(&*feed, "4", &since, 100).await;
        assert!(page.entries.len() <= 100);
        assert_eq!(page.last, 250);
        found.extend(page.entries);
        since = found.last().unwrap().position.clone();
        if since.offset == page.last {
            break;
        }
    }
    assert_eq!(found, heard);
}

async fn names_with_braces_and_percent_signs_are_different_channels(kind: Kind) {
    let subject = Subject::new(kind).await;
    let names = ["a", "{a}", "}a", "{a", "%7Ba%7D", "a:m", "哈 %", "{}", "}"];
    for channel in names {
        let (_feed, sink) = subject.follow(channel).await;
        let joined = subject
            .join(channel, "u{}", session("}s{", 1))
            .await
            .unwrap();
        assert_eq!(joined.position.offset, 1, "{channel}");
        subject
            .publish(from_session(message(channel, "u{}", channel), "}s{"))
            .await
            .unwrap();
        assert!(
            subject
                .leave_fenced(channel, "u{}", session("}s{", 2), true)
                .await
        );
        let heard = sink.until_publications(channel, 3).await;
        assert_eq!(heard[1].payload.body(), channel.as_bytes());
        assert_eq!(subject.log(channel).await, heard);
    }
}

async fn a_body_may_have_any_bytes(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (_feed, sink) = subject.follow("4").await;
    let any: Vec<u8> = (0..=255).cycle().skip(1).take(70_000).collect();
    for body in [&any[..], b"", b"\r\n\n $5 \0\0", "{\"a\":1.0}".as_bytes()] {
        subject
            .publish(bytes_message("4", "u", body))
            .await
            .unwrap();
    }
    let heard = sink.until_publications("4", 4).await;
    assert_eq!(heard[0].payload.body(), any);
    assert_eq!(heard[1].payload.body(), b"");
    assert_eq!(heard[2].payload.body(), b"\r\n\n $5 \0\0");
    assert_eq!(subject.log("4").await, heard);
}

async fn a_feed_receives_only_the_channels_it_follows(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, sink) = subject.follow("4").await;
    feed.subscribe(&name("5"));
    sink.until_subscribed("5", 1).await;
    subject.publish(message("6", "u", "a")).await.unwrap();
    feed.unsubscribe(&name("4"));
    feed.unsubscribe(&name("never followed"));
    eventually("the channel has no follower", async || {
        subject
            .publish(message("4", "u", "a"))
            .await
            .unwrap()
            .reached
            == 0
    })
    .await;
    subject.publish(message("5", "u", "a")).await.unwrap();
    sink.until_publications("5", 1).await;
    assert_eq!(sink.all("6").len(), 0);
    assert!(matches!(sink.all("4")[0], Received::Subscribed(_)));
    drop(feed);
    eventually("the feed has ended", async || {
        subject
            .publish(message("5", "u", "a"))
            .await
            .unwrap()
            .reached
            == 0
    })
    .await;
}

async fn the_last_of_several_quick_subscribe_calls_decides(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, sink) = subject.feed().await;
    let channel = name("4");
    for round in 0..50 {
        let before = sink.confirmations("4").len();
        feed.subscribe(&channel);
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        feed.unsubscribe(&channel);
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
        feed.subscribe(&channel);
        sink.until_subscribed("4", before + 1).await;
        eventually("a publication reaches the feed", async || {
            let sent = subject
                .publish(message("4", "u", &format!("{round}")))
                .await
                .unwrap();
            // The last call was to subscribe.
            sent.reached == 1
        })
        .await;
        feed.unsubscribe(&channel);
    }
}

async fn after_a_confirmation_no_publication_is_missing(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, sink) = subject.feed().await;
    let store = subject.store.clone();
    let sender = tokio::spawn(async move {
        for n in 0..300 {
            store
                .publish(message("4", "u", &format!("{n}")))
                .await
                .unwrap();
        }
    });
    feed.subscribe(&name("4"));
    sink.until_subscribed("4", 1).await;
    let head = feed.read(&name("4"), &Since::Head, 0).await.unwrap();
    sender.await.unwrap();
    subject.publish(message("4", "u", "end")).await.unwrap();
    eventually("the last publication arrives", async || {
        sink.publications("4")
            .last()
            .is_some_and(|it| it.payload.body() == b"end")
    })
    .await;
    assert!(matches!(sink.all("4")[0], Received::Subscribed(_)));
    let heard = offsets(&sink.publications("4"));
    assert!(
        heard[0] <= head.position.offset + 1,
        "nothing is missing between the read and the first publication"
    );
    assert_eq!(heard, (heard[0]..=301).collect::<Vec<_>>());
}

async fn heads_and_reads_name_the_same_position(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, sink) = subject.follow("4").await;
    let lifetime = sink.until_subscribed("4", 1).await.lifetime;
    let first = subject.publish(message("4", "u", "a")).await.unwrap();
    let second = subject.publish(message("5}", "u", "b")).await.unwrap();
    let third = subject.publish(message("4", "u", "c")).await.unwrap();
    assert_eq!(first.position.epoch, third.position.epoch);
    let channels = ["5}", "nobody's", "4", "4"].map(name);
    let positions = [Some(&second), None, Some(&third), Some(&third)]
        .map(|published| published.map(|it| it.position.clone()));
    for heads in [feed.heads(&channels).await, feed.touch(&channels).await] {
        let heads = heads.unwrap();
        for head in heads[2..].iter().flatten() {
            assert_eq!(
                head.lifetime, lifetime,
                "the same server as the channel's feed"
            );
        }
        let found: Vec<_> = heads
            .into_iter()
            .map(|it| it.map(|it| it.position))
            .collect();
        assert_eq!(found, positions);
    }
    assert_eq!(feed.heads(&[]).await.unwrap(), []);
}

async fn a_log_rule_applies_to_the_channels_that_it_matches(kind: Kind) {
    let rule = LogRule {
        pattern: Pattern::new("small*").unwrap(),
        entries: Some(10),
        keep: Some(Duration::ZERO),
        ..LogRule::default()
    };
    let options = StoreOptions {
        log_rules: vec![rule],
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    let publisher = subject.store.publisher().unwrap();
    for channel in ["small", "small:1", "other small"] {
        let messages = (0..500).map(|_| message(channel, "u", "a")).collect();
        publisher.publish(messages).await.unwrap();
        let held = subject.log(channel).await.len();
        let expected = if channel.starts_with("small") {
            10..=250
        } else {
            500..=500
        };
        assert!(expected.contains(&held), "{channel}: {held}");
    }
}

async fn a_reader_goes_back_from_a_position_newest_first(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, _) = subject.follow("room").await;
    let mut last = None;
    for text in ["a", "b", "c", "d"] {
        let published = subject.publish(message("room", "u", text)).await.unwrap();
        last = Some(published.position);
    }
    let end = last.unwrap();
    let back = async |upto: &Position, limit| {
        let found = feed.read_back(&name("room"), upto, limit).await.unwrap();
        found
            .iter()
            .map(|it| it.position.offset)
            .collect::<Vec<_>>()
    };
    assert_eq!(back(&end, 10).await, [4, 3, 2, 1]);
    assert_eq!(back(&end, 2).await, [4, 3]);
    let second = Position {
        offset: 2,
        ..end.clone()
    };
    assert_eq!(back(&second, 10).await, [2, 1]);
    let other = Position {
        epoch: Epoch::new("other"),
        offset: 2,
    };
    assert_eq!(back(&other, 10).await, [0; 0]);
    let nowhere = feed.read_back(&name("nowhere"), &end, 10).await.unwrap();
    assert_eq!(nowhere, []);
}

async fn other_rules_hold_from_the_next_publication(kind: Kind) {
    let rule = |entries, announce| LogRule {
        pattern: Pattern::new("game:*").unwrap(),
        entries: Some(entries),
        keep: Some(Duration::ZERO),
        announce_members: Some(announce),
        ..LogRule::default()
    };
    let options = StoreOptions {
        log_rules: vec![rule(1_000, true)],
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    let publisher = subject.store.publisher().unwrap();
    let send = async |count| {
        let messages = (0..count).map(|_| message("game:1", "u", "a")).collect();
        publisher.publish(messages).await.unwrap();
        subject.log("game:1").await.len()
    };
    assert_eq!(send(500).await, 500);
    subject.store.set_log_rules(vec![rule(10, false)]);
    assert_eq!(
        subject.store.log_rule(&name("game:1")).as_deref(),
        Some("game:*")
    );
    assert_eq!(
        subject.log("game:1").await.len(),
        500,
        "nothing is removed without a publication"
    );
    let held = send(300).await;
    assert!((10..=310).contains(&held), "{held}");
    let joined = subject.join("game:1", "u", session("s", 1)).await.unwrap();
    assert!(!joined.published, "joins are not announced any more");

    subject.store.set_log_rules(Vec::new());
    assert_eq!(subject.store.log_rule(&name("game:1")), None);
    let before = subject.log("game:1").await.len();
    assert_eq!(send(400).await, before + 400, "what holds for all channels");
    let left = subject.join("game:1", "v", session("t", 2)).await.unwrap();
    assert!(left.published);
}

async fn members_that_are_not_announced_are_still_counted(kind: Kind) {
    let rule = LogRule {
        pattern: Pattern::new("quiet").unwrap(),
        announce_members: Some(false),
        ..LogRule::default()
    };
    let options = StoreOptions {
        log_rules: vec![rule],
        detached_life: Duration::from_millis(1),
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    let (feed, sink) = subject.follow("quiet").await;
    let first = subject.join("quiet", "u", session("s", 1)).await.unwrap();
    assert!(!first.published);
    assert_eq!(first.position.offset, 0);
    assert_eq!(subject.members("quiet").await, [("u".to_owned(), 1)]);
    let spoken = from_session(message("quiet", "u", "a"), "s");
    let spoken = subject.publish(spoken).await.unwrap().position;
    let page = read(&*feed, "quiet", &first.position, 10).await;
    assert_eq!(
        page.continuity,
        Continuity::Contiguous,
        "the position is valid although there is no onJoin"
    );
    assert_eq!(page.entries.len(), 1);

    let second = subject.join("quiet", "v", session("t", 2)).await.unwrap();
    assert_eq!(
        second,
        channel_store::Joined {
            published: false,
            position: spoken,
            trimmed: 0,
            life: first.life.clone(),
            deletion: first.deletion.clone(),
        }
    );
    assert_eq!(
        subject.join("quiet", "u", session("s", 1)).await.unwrap(),
        first
    );
    subject
        .join("quiet", "bot", Membership::Detached)
        .await
        .unwrap();
    assert!(subject.leave("quiet", "u", session("s", 3)).await);
    eventually("the bot has expired", async || {
        subject.members("quiet").await == [("v".to_owned(), 1)]
    })
    .await;
    subject.publish(message("quiet", "v", "b")).await.unwrap();
    let received = said(&sink.until_publications("quiet", 2).await);
    assert_eq!(received, ["onMessage a", "onMessage b"]);
    assert!(
        subject
            .join("loud", "u", session("s", 4))
            .await
            .unwrap()
            .published
    );
}

async fn history_goes_in_both_directions_and_tells_if_there_is_more(kind: Kind) {
    let subject = Subject::new(kind).await;
    for n in 1..=10 {
        subject
            .publish(message("4", "u", &format!("{n}")))
            .await
            .unwrap();
    }
    let log = subject.log("4").await;
    let at = |offset: usize| log[offset - 1].position.clone();
    let start = Position { offset: 0, ..at(1) };
    for (range, expected, position) in [
        (HistoryRange::Oldest, (1..=10).collect::<Vec<_>>(), &start),
        (
            HistoryRange::After(start.clone()),
            (1..=10).collect(),
            &start,
        ),
        (HistoryRange::After(at(7)), vec![8, 9, 10], &at(7)),
        (HistoryRange::After(at(10)), vec![], &at(10)),
        (HistoryRange::Newest, (1..=10).rev().collect(), &at(10)),
        (
            HistoryRange::UpTo(at(10)),
            (1..=10).rev().collect(),
            &at(10),
        ),
        (HistoryRange::UpTo(at(3)), vec![3, 2, 1], &at(3)),
        (HistoryRange::UpTo(start.clone()), vec![], &start),
    ] {
        for limit in [1, 3, 10, 100] {
            let page = subject
                .store
                .history(&name("4"), &range, limit)
                .await
                .unwrap();
            assert_eq!(
                (page.continuity, &page.position),
                (Continuity::Contiguous, position),
                "{range:?}"
            );
            let length = expected.len().min(limit);
            let entries: Vec<Publication> = expected[..length]
                .iter()
                .map(|&it| log[it - 1].clone())
                .collect();
            assert_eq!(page.entries, entries, "{range:?} {limit}");
            assert_eq!(page.more, expected.len() > limit, "{range:?} {limit}");
        }
    }
    for range in [HistoryRange::Oldest, HistoryRange::Newest] {
        let page = subject
            .store
            .history(&name("empty"), &range, 10)
            .await
            .unwrap();
        assert_eq!(
            (page.continuity, page.position.offset),
            (Continuity::Contiguous, 0)
        );
        assert_eq!((page.entries.len(), page.more), (0, false));
    }
}

async fn history_tells_the_continuity_of_its_first_position(kind: Kind) {
    let rule = LogRule {
        pattern: Pattern::new("*").unwrap(),
        entries: Some(10),
        keep: Some(Duration::ZERO),
        ..LogRule::default()
    };
    let options = StoreOptions {
        log_rules: vec![rule],
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    for n in 1..=500 {
        subject
            .publish(message("4", "u", &format!("{n}")))
            .await
            .unwrap();
    }
    let log = subject.log("4").await;
    let (first, epoch) = (log[0].position.offset, log[0].position.epoch.clone());
    assert!(first > 2);
    let at = |offset| Position {
        epoch: epoch.clone(),
        offset,
    };
    let elsewhere = Position {
        epoch: Epoch::new("another"),
        offset: 5,
    };
    let (after, up_to) = (HistoryRange::After, HistoryRange::UpTo);
    for (range, continuity, goes_on_from, more) in [
        (
            after(at(first - 2)),
            Continuity::Trimmed,
            Some(first - 1),
            true,
        ),
        (after(at(501)), Continuity::Diverged, Some(500), true),
        (
            after(elsewhere.clone()),
            Continuity::Unknown,
            Some(first - 1),
            true,
        ),
        (up_to(at(first - 1)), Continuity::Trimmed, None, false),
        (up_to(at(1)), Continuity::Trimmed, None, false),
        (up_to(at(501)), Continuity::Diverged, Some(500), true),
        (up_to(elsewhere), Continuity::Unknown, Some(500), true),
    ] {
        let page = subject.store.history(&name("4"), &range, 10).await.unwrap();
        assert_eq!(
            (page.continuity, page.more),
            (continuity, more),
            "{range:?}"
        );
        assert_eq!(page.entries, [], "{range:?}");
        if let Some(offset) = goes_on_from {
            assert_eq!(page.position, at(offset), "{range:?}");
        }
    }
    let oldest = subject
        .store
        .history(&name("4"), &HistoryRange::Oldest, 1_000)
        .await
        .unwrap();
    assert_eq!((oldest.position, oldest.entries), (at(first - 1), log));
}

async fn reading_an_unknown_channel_does_not_create_it(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, _sink) = subject.feed().await;
    ask_about_unknown_channel(&subject, &*feed, "4").await;
    // The position of an unknown channel comes before its first publication.
    for body in ["a", "b"] {
        subject.publish(message("4", "u", body)).await.unwrap();
    }
    let log = subject.log("4").await;
    let page = read(&*feed, "4", &no_position(), 10).await;
    assert_eq!(
        (page.continuity, page.position.offset),
        (Continuity::Contiguous, 0)
    );
    assert_eq!(page.position.epoch, log[0].position.epoch);
    assert_eq!(page.entries, log);
    let after = HistoryRange::After(no_position());
    let page = subject.store.history(&name("4"), &after, 1).await.unwrap();
    assert_eq!(
        (page.continuity, page.position.offset),
        (Continuity::Contiguous, 0)
    );
    assert_eq!((&page.entries[..], page.more), (&log[..1], true));
}

async fn a_page_ends_before_it_has_too_many_bytes(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, _sink) = subject.feed().await;
    let sizes = [
        10, 50_000, 50_000, 10, 50_000, 200_000, 10, 10, 100_000, 60_000,
    ];
    for size in sizes {
        let body = "x".repeat(size);
        subject.publish(message("4", "u", &body)).await.unwrap();
    }
    let newest = HistoryRange::Newest;
    let head = subject.store.history(&name("4"), &newest, 1).await.unwrap();
    let mut since = Position {
        offset: 0,
        ..head.position
    };
    let mut pages = Vec::new();
    while since.offset < 10 {
        let page = read(&*feed, "4", &since, 100).await;
        assert_eq!((page.continuity, page.last), (Continuity::Contiguous, 10));
        since = page.entries.last().unwrap().position.clone();
        pages.push(offsets(&page.entries));
    }
    assert_eq!(
        pages,
        [vec![1, 2, 3, 4], vec![5], vec![6], vec![7, 8, 9], vec![10]]
    );

    let backwards = vec![vec![10], vec![9, 8, 7], vec![6], vec![5, 4, 3], vec![2, 1]];
    for (mut range, expected) in [(HistoryRange::Oldest, pages), (newest, backwards)] {
        let mut found = Vec::new();
        loop {
            let page = subject.store.history(&name("4"), &range, 100).await;
            let page = page.unwrap();
            assert_eq!(page.continuity, Continuity::Contiguous);
            let last = page.entries.last().unwrap().position.clone();
            found.push(offsets(&page.entries));
            if !page.more {
                break;
            }
            range = match range {
                HistoryRange::Oldest | HistoryRange::After(_) => HistoryRange::After(last),
                HistoryRange::Newest | HistoryRange::UpTo(_) => HistoryRange::UpTo(Position {
                    offset: last.offset - 1,
                    ..last
                }),
            };
        }
        assert_eq!(found, expected);
    }
}

async fn a_log_never_has_more_than_its_bytes(kind: Kind) {
    let options = StoreOptions {
        log_bytes: 256 << 10,
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    let held = async || {
        let log = subject.log("4").await;
        let bytes = log.iter().map(|it| it.payload.as_bytes().len() + 40);
        (log.len(), bytes.sum::<usize>())
    };
    for n in 1..=200 {
        // The bodies have different sizes, so that the bytes count and not the number of messages.
        let body = "x".repeat(5_000 + 37 * n % 3_000);
        subject.publish(message("4", "u", &body)).await.unwrap();
        if n % 20 == 0 {
            let (count, bytes) = held().await;
            assert!(bytes <= 256 << 10, "{count} with {bytes} bytes");
            // The log is trimmed in steps of a sixteenth. This allows three steps and a message.
            let is_full = bytes >= 200 << 10;
            assert!(is_full || n < 60, "{count} with {bytes} bytes");
        }
    }
    // The bound also holds for a batch. The last message is always held, however large it is.
    let publisher = subject.store.publisher().unwrap();
    let many = (0..200).map(|_| message("4", "u", &"y".repeat(3_000)));
    publisher.publish(many.collect()).await.unwrap();
    let (count, bytes) = held().await;
    assert!(bytes <= 256 << 10, "{count} with {bytes} bytes");
    let large = "z".repeat(300_000);
    subject.publish(message("4", "u", &large)).await.unwrap();
    assert_eq!(held().await.0, 1);
    // Of small messages, most of what counts is not their data.
    for _ in 0..10 {
        let small = (0..1_000).map(|_| message("4", "u", "")).collect();
        publisher.publish(small).await.unwrap();
    }
    let (count, bytes) = held().await;
    assert!(bytes <= 256 << 10, "{count} with {bytes} bytes");
}

async fn a_burst_of_small_messages_does_not_erase_young_ones(kind: Kind) {
    // The store checks the log several times meanwhile, but there is room.
    let options = StoreOptions {
        log_bytes: 1 << 20,
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    let (feed, _sink) = subject.feed().await;
    let first = message("4", "u", "remember me");
    let first = subject.publish(first).await.unwrap();
    let publisher = subject.store.publisher().unwrap();
    for _ in 0..5 {
        let burst = (0..1_000).map(|_| message("4", "u", "")).collect();
        publisher.publish(burst).await.unwrap();
    }
    let page = read(&*feed, "4", &first.position, 10).await;
    assert_eq!(
        (page.continuity, page.last),
        (Continuity::Contiguous, 5_001)
    );
    let oldest = HistoryRange::Oldest;
    let oldest = subject.store.history(&name("4"), &oldest, 1).await.unwrap();
    assert_eq!(oldest.entries[0].position, first.position);
}

async fn old_messages_beyond_the_number_of_entries_are_trimmed(kind: Kind) {
    let options = StoreOptions {
        log_entries: 50,
        log_keep: Duration::from_millis(200),
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    let publisher = subject.store.publisher().unwrap();
    let publish = async |count| {
        let messages = (0..count).map(|_| message("4", "u", "a")).collect();
        publisher.publish(messages).await.unwrap();
    };
    publish(1_000).await;
    eventually("old messages are trimmed", async || {
        publish(1).await;
        let held = subject.log("4").await.len();
        assert!(held >= 50, "{held}");
        held < 400
    })
    .await;
}

async fn pages_of_members_have_about_the_size_asked_for_and_the_number_of_users(kind: Kind) {
    let subject = Subject::new(kind).await;
    let join = async |from: usize, to: usize| {
        let users: Vec<String> = (from..to).map(|n| format!("user {n:04}")).collect();
        for some in users.chunks(100) {
            let joins = some
                .iter()
                .map(|user| subject.join("4", user, session(user, 1)));
            for joined in join_all(joins).await {
                joined.unwrap();
            }
        }
    };
    let pages = async |size: usize| {
        let (mut found, mut sizes) = (BTreeSet::new(), Vec::new());
        let mut token: Option<String> = None;
        loop {
            let channel = name("4");
            let page = subject.store.members(&channel, token.as_deref(), size);
            let page = page.await.unwrap();
            sizes.push(page.members.len());
            let most = size + size / 4 + 8;
            assert!(page.members.len() <= most, "{sizes:?} of {size}");
            found.extend(page.members.into_iter().map(|user| user.id.to_string()));
            token = page.next;
            if token.is_none() {
                return (found.len() as u64, page.users, sizes);
            }
        }
    };
    join(0, 50).await;
    let (found, users, sizes) = pages(10).await;
    assert_eq!((found, users), (50, 50));
    assert_eq!(sizes, [10; 5]);
    join(50, 3_000).await;
    for (size, most) in [(1_000, 4), (100, 40)] {
        let (found, users, sizes) = pages(size).await;
        assert_eq!((found, users), (3_000, 3_000));
        assert!(sizes.len() <= most, "{sizes:?}");
    }
    let one = subject.store.members(&name("4"), None, 1).await.unwrap();
    assert_eq!(one.users, 3_000, "every page has the number of users");
}
