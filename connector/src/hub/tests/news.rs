//! Joins and leaves that come one after another leave in few writes, and nobody waits for a message or for its own join.

use super::{FORMATS, Guest, guest, guest_at, joiner, room};
use crate::hub::pacing::NEWS_PAUSE;
use crate::testing::feed::{Script, page};
use crate::testing::{at, deletion, ephemeral, joining, let_run, publication};
use std::time::Duration;
use tokio::time::{Instant, advance};
use wire::WireFormat;

/// A moment before the pause between two writes of news is over.
const NEARLY: Duration = NEWS_PAUSE.saturating_sub(Duration::from_millis(1));

/// A live channel that has just written the news ("a", 5), with a member.
async fn busy_room() -> (Script, Guest) {
    let (script, mut guest) = room().await;
    script.publish(joining("a", 5));
    guest.is_given([5]).await;
    (script, guest)
}

/// The client gets these pushes next, and no time passes until then.
async fn at_once(guest: &mut Guest, offsets: impl IntoIterator<Item = u64>) {
    let begun = Instant::now();
    guest.is_given(offsets).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

async fn after(time: Duration) {
    advance(time).await;
    let_run().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_join_is_told_at_once_and_those_that_follow_it_together() {
    let (script, mut guest) = busy_room().await;
    for offset in 6..=8 {
        script.publish(joining("a", offset));
        guest.is_given_nothing().await;
    }
    after(NEARLY).await;
    guest.is_given_nothing().await;
    after(Duration::from_millis(2)).await;
    guest.is_given([6, 7, 8]).await;
    script.publish(joining("a", 9));
    guest.is_given_nothing().await;
    after(NEWS_PAUSE + Duration::from_millis(1)).await;
    guest.is_given([9]).await;
    after(NEWS_PAUSE).await;
    script.publish(joining("a", 10));
    at_once(&mut guest, [10]).await;
}

#[tokio::test(start_paused = true)]
async fn messages_never_wait_and_take_the_joins_before_them_along() {
    let (script, mut guest) = busy_room().await;
    for offset in [6, 8, 10] {
        script.publish(joining("a", offset));
        guest.is_given_nothing().await;
        script.publish(publication("a", offset + 1));
        at_once(&mut guest, [offset, offset + 1]).await;
    }
    script.publish(joining("a", 12));
    guest.is_given_nothing().await;
    script.bring(ephemeral("a", 12));
    at_once(&mut guest, [12, 112]).await;
    script.publish(joining("a", 13));
    script.publish(deletion("a", 14));
    at_once(&mut guest, [13, 14]).await;
}

#[tokio::test(start_paused = true)]
async fn a_joiner_gets_its_own_join_at_once_and_what_waits_for_others_only_once() {
    for format in FORMATS {
        let (script, mut present) = busy_room().await;
        script.publish(joining("a", 6));
        script.publish(joining("a", 7));
        let mut joiner = guest_at(&script.hub, format, at("a", 6)).await;
        let mut next = guest_at(&script.hub, format, at("a", 5)).await;
        at_once(&mut joiner, [7]).await;
        if format == WireFormat::JSON {
            present.is_given_nothing().await;
        } else {
            // Somebody who speaks as nobody else does makes the rest leave at once.
            at_once(&mut present, [6, 7]).await;
        }
        at_once(&mut next, [6, 7]).await;
        script.publish(joining("a", 8));
        let mut last = guest_at(&script.hub, format, at("a", 7)).await;
        at_once(&mut last, [8]).await;
        joiner.is_given_nothing().await;
        after(NEWS_PAUSE + Duration::from_millis(1)).await;
        if format == WireFormat::JSON {
            present.is_given([6, 7, 8]).await;
        } else {
            present.is_given([8]).await;
        }
        joiner.is_given([8]).await;
        next.is_given([8]).await;
        last.is_given_nothing().await;
        script.publish(publication("a", 9));
        for guest in [&mut present, &mut joiner, &mut next, &mut last] {
            guest.is_given([9]).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_joiner_whose_answer_came_before_its_own_join_gets_that_at_once() {
    let (script, mut present) = busy_room().await;
    script.publish(joining("a", 6));
    let mut comes = joiner(&script.hub, 7).await;
    script.publish(joining("a", 7));
    at_once(&mut comes, [7]).await;
    at_once(&mut present, [6, 7]).await;
    // The same for one that is ahead of the hub.
    let mut ahead = joiner(&script.hub, 9).await;
    script.publish(joining("a", 8));
    script.publish(joining("a", 9));
    at_once(&mut ahead, [9]).await;
    // Nobody waits for these.
    script.publish(joining("a", 10));
    ahead.is_given_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_after_somebody_has_left_gets_everything_that_follows() {
    let (script, mut present) = busy_room().await;
    script.publish(joining("a", 6));
    let joiner = guest_at(&script.hub, WireFormat::JSON, at("a", 6)).await;
    drop(joiner.member);
    script.publish(joining("a", 7));
    let mut next = guest_at(&script.hub, WireFormat::JSON, at("a", 7)).await;
    script.publish(publication("a", 8));
    next.is_given([8]).await;
    present.is_given([6, 7, 8]).await;
}

#[tokio::test(start_paused = true)]
async fn an_epoch_begins_without_delay() {
    let (mut script, mut present) = busy_room().await;
    script.publish(joining("b", 6));
    let read = script.read_from(at("a", 5)).await;
    read.answer(page(at("a", 5), vec![joining("b", 6)], 6));
    at_once(&mut present, [6]).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_came_late_and_must_not_get_something_gets_the_rest() {
    let (script, mut present) = busy_room().await;
    script.publish(joining("a", 6));
    let mut joiner = joiner(&script.hub, 7).await;
    // It was published before the join, and so it is not for the joiner.
    script.bring(ephemeral("a", 6));
    script.publish(joining("a", 7));
    joiner.is_given([7]).await;
    present.is_given([6, 106, 7]).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_comes_after_something_that_is_not_for_it_gets_what_follows() {
    let (script, mut present) = busy_room().await;
    let mut joiner = guest(&script.hub, WireFormat::JSON).await;
    joiner.member.has_joined_at(&at("a", 6));
    script.bring(ephemeral("a", 5));
    // No task ran in between, so nothing was written.
    joiner.member.begin(at("a", 5));
    script.publish(joining("a", 6));
    joiner.is_given([6]).await;
    present.is_given([105, 6]).await;
}

#[tokio::test(start_paused = true)]
async fn members_that_take_the_places_of_others_in_any_order_get_everything_once() {
    let (script, mut present) = busy_room().await;
    let mut gone = Vec::new();
    for _ in 0..2 {
        gone.push(guest_at(&script.hub, WireFormat::JSON, at("a", 5)).await);
    }
    script.publish(joining("a", 6));
    // The place that became free last is taken first.
    for guest in gone {
        drop(guest.member);
    }
    let mut joiners = Vec::new();
    for _ in 0..2 {
        joiners.push(guest_at(&script.hub, WireFormat::JSON, at("a", 6)).await);
    }
    script.publish(publication("a", 7));
    for joiner in &mut joiners {
        joiner.is_given([7]).await;
    }
    present.is_given([6, 7]).await;
}
