//! Watching channels: a look instead of a read after a new connection, and a touch from time to time.

use super::room;
use crate::hub::TOUCH_INTERVAL;
use crate::testing::client::client;
use crate::testing::feed::{AWAY, Script, connection, page};
use crate::testing::{at, channel, let_run, publication};
use channel_store::{ChannelName, Head, LogPage, Place, Position, Standing};
use std::sync::atomic::Ordering;
use std::time::Duration;
use wire::WireFormat;

fn head(position: Position, generation: &str) -> Option<Head> {
    let generation = generation.into();
    Some(Head {
        position,
        generation,
    })
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_costs_a_look_and_no_read_if_nothing_was_missed() {
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
async fn what_comes_while_the_hub_looks_is_delivered_after_it() {
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
        assert_eq!(before.elapsed(), Duration::ZERO, "found by the look itself");
        read.answer(page(at("a", 4), vec![publication("a", 5)], 5));
        guest.is_given([5]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_answered_by_another_server_is_not_the_last_word() {
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
async fn a_quiet_channel_is_touched_and_read_when_it_is_not_where_the_hub_is() {
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
async fn a_shard_that_is_away_keeps_no_channel_of_another_from_being_touched() {
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
async fn a_touch_that_was_overtaken_by_publications_is_no_reason_to_read() {
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
        "the first confirmation says nothing"
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
        standing: Standing::Unknown,
        ..page(at("c", 9), Vec::new(), 9)
    });
    let_run().await;
    assert_eq!(suspects(&script).await, suspected());
}
