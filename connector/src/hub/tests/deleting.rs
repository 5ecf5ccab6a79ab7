//! A channel is deleted: those who had joined before are given that, and nothing after it.

use super::{FORMATS, Guest, guest, room};
use crate::testing::feed::{Script, page};
use crate::testing::{at, deletion, let_run, publication};
use channel_store::{Continuity, LogPage};
use wire::WireFormat;

/// The log ended here right after the guest's join, and its pushes begin at the same place.
async fn joined_at(guest: &Guest, offset: u64) {
    guest.member.has_joined_at(&at("a", offset));
    guest.begins(at("a", offset)).await;
}

/// The hub, which stands at ("a", `before`), hears of a deletion and reads its epoch, and is then at ("b", `before` + 1).
async fn delete(script: &mut Script, before: u64) {
    script.publish(deletion("b", before + 1));
    let read = script.read_from(at("a", before)).await;
    read.answer(page(
        at("a", before),
        vec![deletion("b", before + 1)],
        before + 1,
    ));
    let_run().await;
}

#[tokio::test(start_paused = true)]
async fn it_is_the_last_that_its_members_get_in_every_format() {
    // Of this one it is not known when it has joined, so the reconciler finds out.
    let (mut script, mut unknown) = room().await;
    let mut guests = Vec::new();
    for format in FORMATS {
        let guest = guest(&script.hub, format).await;
        joined_at(&guest, 4).await;
        guests.push(guest);
    }
    delete(&mut script, 4).await;
    script.publish(publication("b", 6));
    for guest in &mut guests {
        guest.is_given([5]).await;
        assert!(guest.member.is_out() && guest.connection.take_out());
        assert_eq!(guest.connection.closing(), None);
    }
    unknown.is_given([5, 6]).await;
    assert!(!unknown.member.is_out());
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_joined_after_it_goes_on() {
    let (mut script, _old) = room().await;
    delete(&mut script, 4).await;
    let mut late = guest(&script.hub, WireFormat::JSON).await;
    late.member.has_joined_at(&at("b", 6));
    // It comes back from before the deletion, so it is given that, too.
    late.begins(at("a", 4)).await;
    script.publish(publication("b", 6));
    late.is_given([5, 6]).await;
    assert!(!late.member.is_out() && !late.connection.is_out());
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_join_is_answered_after_the_hub_has_met_it_ends_with_it() {
    let (mut script, _old) = room().await;
    let mut joins = guest(&script.hub, WireFormat::JSON).await;
    delete(&mut script, 4).await;
    assert!(!joins.member.is_out(), "its join may still come after it");
    joined_at(&joins, 4).await;
    assert!(joins.member.is_out() && joins.connection.is_out());
    script.publish(publication("b", 6));
    joins.is_given([5]).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_has_not_begun_yet_gets_nothing() {
    let (mut script, _old) = room().await;
    let mut slow = guest(&script.hub, WireFormat::JSON).await;
    slow.member.has_joined_at(&at("a", 4));
    delete(&mut script, 4).await;
    assert!(slow.member.is_out() && slow.connection.is_out());
    // It comes back from far behind. What the log holds by then is not for it.
    slow.begins(at("a", 1)).await;
    slow.is_given_nothing().await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_brought_up_to_date_stops_there() {
    let (mut script, _old) = room().await;
    for offset in 5..=300 {
        script.publish(publication("a", offset));
    }
    // The ring does not reach back so far.
    let mut behind = guest(&script.hub, WireFormat::JSON).await;
    behind.member.has_joined_at(&at("a", 300));
    behind.begins(at("a", 1)).await;
    let read = script.read_from(at("a", 1)).await;
    // Meanwhile the channel was deleted, and goes on. The hub does not know that yet.
    let entries = vec![deletion("b", 301), publication("b", 302)];
    read.answer(LogPage {
        continuity: Continuity::Trimmed,
        ..page(at("a", 300), entries, 302)
    });
    behind.is_given([301]).await;
    assert_eq!(
        behind.client.moved.len(),
        2,
        "trimmed, and then a new epoch"
    );
    assert!(behind.member.is_out() && behind.connection.is_out());
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_begins_again_is_not_the_one_that_was_deleted() {
    let (mut script, mut old) = room().await;
    delete(&mut script, 4).await;
    old.is_given([5]).await;
    // The store has lost everything, and the hub does not know that yet.
    let late = guest(&script.hub, WireFormat::JSON).await;
    late.member.has_joined_at(&at("c", 1));
    assert!(!late.member.is_out());
    let mut later = guest(&script.hub, WireFormat::JSON).await;
    script.publish(publication("c", 3));
    let lost = LogPage {
        continuity: Continuity::Unknown,
        ..page(at("c", 0), vec![], 3)
    };
    script.read_from(at("b", 5)).await.answer(lost);
    let entries = (1..=3).map(|offset| publication("c", offset)).collect();
    let read = script.read_from(at("c", 0)).await;
    read.answer(page(at("c", 0), entries, 3));
    let_run().await;
    later.member.has_joined_at(&at("c", 3));
    later.begins(at("c", 2)).await;
    later.is_given([3]).await;
    assert!(!later.member.is_out() && !late.member.is_out());
}
