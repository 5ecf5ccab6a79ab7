//! Watching channels: after a new connection a look replaces a read, and each channel is touched from time to time.

use super::room;
use crate::hub::TOUCH_INTERVAL;
use crate::testing::client::client;
use crate::testing::feed::{AWAY, Script, connection, page};
use crate::testing::{at, channel, let_run, publication};
use channel_store::{ChannelName, Continuity, Head, LogPage, Place, Position};
use std::sync::atomic::Ordering;
use std::time::Duration;
use wire::WireFormat;

fn head(position: Position, lifetime: &str) -> Option<Head> {
    let lifetime = lifetime.into();
    Some(Head { position, lifetime })
}

#[tokio::test(start_paused = true)]
async fn after_a_new_connection_a_look_is_enough_if_nothing_was_missed() {
    let (mut script, mut guest) = room().await;
    *script.feed.head.lock() = head(at("a", 4), "g");
    script.subscribed(&connection(2));
    let_run().await;
    script.publish_over(1, publication("a", 5));
    script.publish_over(2, publication("a", 5));
    guest.is_given([5]).await;
    script.nobody_reads().await;
    assert_eq!(script.feed.looks.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn publications_that_come_during_a_look_are_delivered_after_it() {
    let (mut script, mut guest) = room().await;
    *script.feed.head.lock() = head(at("a", 4), "g");
    script.subscribed(&connection(2));
    script.publish_over(2, publication("a", 5));
    guest.is_given([5]).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_look_that_finds_anything_else_makes_the_hub_read() {
    for found in [
        head(at("a", 5), "g"),
        head(at("a", 3), "g"),
        head(at("b", 4), "g"),
        None,
    ] {
        let (mut script, mut guest) = room().await;
        *script.feed.head.lock() = found;
        let before = tokio::time::Instant::now();
        script.subscribed(&connection(2));
        let read = script.read_from(at("a", 4)).await;
        assert_eq!(
            before.elapsed(),
            Duration::ZERO,
            "the look itself has found it"
        );
        read.answer(page(at("a", 4), vec![publication("a", 5)], 5));
        guest.is_given([5]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_look_answered_by_another_server_the_hub_reads() {
    let (mut script, mut guest) = room().await;
    *script.feed.head.lock() = head(at("a", 4), "of the other side");
    script.subscribed(&connection(2));
    let read = script.read_from(at("a", 4)).await;
    script.publish_over(2, publication("a", 5));
    guest.is_given_nothing().await;
    read.answer(page(at("a", 4), vec![], 4));
    guest.is_given([5]).await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_channel_is_touched_and_read_if_the_hub_is_behind() {
    let (mut script, mut guest) = room().await;
    *script.feed.head.lock() = head(at("a", 4), "g");
    tokio::time::sleep(TOUCH_INTERVAL * 3).await;
    let touches = script.feed.touches.load(Ordering::Relaxed);
    assert!((2..=4).contains(&touches), "{touches}");
    script.nobody_reads().await;
    *script.feed.head.lock() = head(at("a", 5), "g");
    tokio::time::sleep(TOUCH_INTERVAL).await;
    let read = script.read_from(at("a", 4)).await;
    read.answer(page(at("a", 4), vec![publication("a", 5)], 5));
    guest.is_given([5]).await;
    tokio::time::sleep(TOUCH_INTERVAL * 2).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn channels_are_touched_even_if_another_shard_is_away() {
    let (mut script, mut guest) = room().await;
    let (connection, _client) = client(WireFormat::JSON).await;
    let away = ChannelName::new(AWAY).unwrap();
    let _member = script.hub.attach(&away, &connection, connection.format());
    *script.feed.head.lock() = head(at("a", 5), "g");
    tokio::time::sleep(TOUCH_INTERVAL).await;
    let read = script.read_from(at("a", 4)).await;
    read.answer(page(at("a", 4), vec![publication("a", 5)], 5));
    guest.is_given([5]).await;
}

#[tokio::test(start_paused = true)]
async fn a_touch_that_was_overtaken_by_publications_causes_no_read() {
    let (mut script, mut guest) = room().await;
    script.publish(publication("a", 5));
    *script.feed.head.lock() = head(at("a", 4), "g");
    guest.is_given([5]).await;
    tokio::time::sleep(TOUCH_INTERVAL * 2).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_suspected_when_it_is_confirmed_again_or_its_log_begins_an_epoch() {
    let suspects = async |script: &Script| {
        let some = script.hub.suspects();
        tokio::time::timeout(Duration::from_millis(1), some.some(10)).await
    };
    let suspected = || Ok(vec![Place::Channel(channel())]);

    let (mut script, mut guest) = room().await;
    assert!(
        suspects(&script).await.is_err(),
        "the first confirmation is no reason for suspicion"
    );
    *script.feed.head.lock() = head(at("a", 4), "g");
    script.subscribed(&connection(2));
    assert_eq!(suspects(&script).await, suspected());

    script.publish_over(2, publication("b", 5));
    let read = script.read_from(at("a", 4)).await;
    read.answer(page(at("a", 4), vec![publication("b", 5)], 5));
    assert_eq!(guest.client.position().await, ("b".into(), 5));
    assert_eq!(suspects(&script).await, suspected());

    script.publish_over(2, publication("b", 7));
    let read = script.read_from(at("b", 5)).await;
    read.answer(LogPage {
        continuity: Continuity::Unknown,
        ..page(at("c", 9), Vec::new(), 9)
    });
    let_run().await;
    assert_eq!(suspects(&script).await, suspected());
}
