//! The newest message of a channel, for those who come back where only that is given.

use super::{guest, room};
use crate::testing::{at, client, joining, publication};
use wire::WireFormat;

#[tokio::test(start_paused = true)]
async fn a_warm_hub_finds_the_newest_message_without_a_read() {
    let (mut script, _present) = room().await;
    script.publish(publication("a", 5));
    script.publish(joining("a", 6));
    script.publish(publication("a", 7));
    script.publish(joining("a", 8));
    let back = guest(&script.hub, WireFormat::JSON).await;
    let newest = async |end, trimmed| {
        let found = back.member.newest_message(&at("a", end), trimmed).await;
        found.unwrap().map(|it| it.position)
    };
    assert_eq!(newest(8, 0).await, Some(at("a", 7)));
    assert_eq!(
        newest(6, 0).await,
        Some(at("a", 5)),
        "what comes later is pushed"
    );
    assert_eq!(newest(8, 7).await, None, "it was removed");
    script.nobody_reads().await;
}

/// The hub may have missed something up to the end, so the log is asked.
#[tokio::test(start_paused = true)]
async fn what_the_hub_cannot_know_is_found_in_the_log() {
    let (script, _present) = room().await;
    script.publish(publication("a", 5));
    let back = guest(&script.hub, WireFormat::JSON).await;
    let newest = async |end, trimmed| {
        let found = back.member.newest_message(&at("a", end), trimmed).await;
        found.unwrap().map(|it| it.position)
    };
    let log = |offsets: std::ops::RangeInclusive<u64>, last_message| {
        let log = offsets.map(|offset| match offset > last_message {
            true => joining("a", offset),
            false => publication("a", offset),
        });
        *script.feed.log.lock() = log.collect();
    };
    log(1..=7, 6);
    assert_eq!(newest(7, 0).await, Some(at("a", 6)));
    assert_eq!(newest(7, 6).await, None, "it was removed");
    // The hub has not noticed yet that the log has begun anew.
    *script.feed.log.lock() = vec![publication("b", 1), joining("b", 2)];
    let found = back.member.newest_message(&at("b", 2), 0).await.unwrap();
    assert_eq!(found.map(|it| it.position), Some(at("b", 1)));
    // Several pages of joins and leaves, and then too many.
    log(1..=900, 40);
    assert_eq!(newest(900, 0).await, Some(at("a", 40)));
    log(1..=1_100, 40);
    assert_eq!(newest(1_100, 0).await, None);
    script.feed.log.lock().clear();
    assert_eq!(newest(7, 0).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_member_is_told_that_something_is_left_out_before_the_newest_message() {
    let (script, _present) = room().await;
    for format in [WireFormat::JSON, WireFormat::POMELO_POSITIONS] {
        let mut back = guest(&script.hub, format).await;
        back.member.give(&publication("a", 3), &at("a", 2));
        assert_eq!(back.client.offsets(1).await, [3]);
        assert_eq!(back.client.moved, [], "nothing is missing");
        back.member.give(&publication("a", 7), &at("a", 3));
        assert_eq!(back.client.offsets(1).await, [7]);
        let skipped: client::Moved = ("a".to_owned(), 6, "skipped".to_owned());
        assert_eq!(back.client.moved, [skipped]);
    }
}
