//! What is not in the log: given at its place, to those who are there and keep up, and to nobody else.

use super::{FORMATS, guest, guest_at, joiner, room};
use crate::testing::feed::page;
use crate::testing::{at, ephemeral, let_run, publication, sized};
use channel_store::{Continuity, Ephemeral, LogPage, Payload, Route, SessionId, User, UserId};
use wire::WireFormat;

#[tokio::test(start_paused = true)]
async fn it_is_given_at_its_place_in_every_format_and_moves_nobody() {
    let (mut script, json) = room().await;
    let mut guests = vec![json];
    for format in FORMATS {
        guests.push(guest_at(&script.hub, format, at("a", 4)).await);
    }
    script.bring(ephemeral("a", 4));
    script.publish(publication("a", 5));
    // The hub has passed this place.
    script.bring(ephemeral("a", 4));
    script.bring(ephemeral("a", 5));
    script.publish(publication("a", 6));
    for guest in &mut guests {
        guest.is_given([104, 5, 105, 6]).await;
        assert_eq!(guest.client.moved, []);
    }
    // A member that comes now gets what the ring holds: publications.
    let mut late = guest_at(&script.hub, WireFormat::JSON, at("a", 4)).await;
    late.is_given([5, 6]).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_is_behind_its_place_reads_and_then_gives_it() {
    let (mut script, mut guest) = room().await;
    script.bring(ephemeral("a", 6));
    guest.is_given_nothing().await;
    let read = script.read_from(at("a", 4)).await;
    script.publish(publication("a", 7));
    let missed = vec![publication("a", 5), publication("a", 6)];
    read.answer(page(at("a", 4), missed, 6));
    guest.is_given([5, 6, 106, 7]).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn one_of_another_epoch_is_given_only_if_the_log_leads_there() {
    let (mut script, mut guest) = room().await;
    script.bring(ephemeral("b", 4));
    let read = script.read_from(at("a", 4)).await;
    read.answer(page(at("a", 4), vec![], 4));
    guest.is_given_nothing().await;
    script.bring(ephemeral("b", 5));
    let read = script.read_from(at("a", 4)).await;
    read.answer(page(at("a", 4), vec![publication("b", 5)], 5));
    guest.is_given([5, 105]).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_gets_none_that_was_published_before_its_own_join() {
    let (mut script, mut present) = room().await;
    let mut joins = joiner(&script.hub, 5).await;
    // Without an own onJoin, everything counts that arrives after the beginning.
    let mut second_session = guest_at(&script.hub, WireFormat::JSON, at("a", 4)).await;
    // All in one flush.
    script.bring(ephemeral("a", 4));
    script.publish(publication("a", 5));
    script.bring(ephemeral("a", 5));
    joins.is_given([5, 105]).await;
    present.is_given([104, 5, 105]).await;
    second_session.is_given([104, 5, 105]).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_begins_again_lifts_the_bound_of_an_own_join() {
    let (mut script, _present) = room().await;
    let mut joins = joiner(&script.hub, 5).await;
    script.publish(publication("b", 2));
    let lost = LogPage {
        continuity: Continuity::Unknown,
        ..page(at("b", 1), vec![], 2)
    };
    script.read_from(at("a", 4)).await.answer(lost);
    let read = script.read_from(at("b", 1)).await;
    read.answer(page(at("b", 1), vec![publication("b", 2)], 2));
    let_run().await;
    script.bring(ephemeral("b", 2));
    joins.is_given([2, 102]).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_begins_while_one_is_pending_does_not_get_it() {
    let (script, mut present) = room().await;
    let mut late = guest(&script.hub, WireFormat::JSON).await;
    script.bring(ephemeral("a", 4));
    late.member.begin(at("a", 4));
    script.publish(publication("a", 5));
    late.is_given([5]).await;
    present.is_given([104, 5]).await;
}

#[tokio::test(start_paused = true)]
async fn the_sockets_of_the_excluded_user_get_nothing_of_it() {
    let (script, mut present) = room().await;
    let own = guest(&script.hub, WireFormat::JSON).await;
    let user = User {
        id: UserId::new("me").unwrap(),
        is_number: false,
    };
    let session = SessionId::new("s").unwrap();
    own.connection.belongs_to(&user.id, &session);
    let mut own = own;
    own.begins(at("a", 4)).await;
    let route = Route::new("onMessage").unwrap();
    let body = br#"{"e":"a","o":104}"#;
    script.bring(Ephemeral {
        payload: Payload::for_others(&route, &user, body),
        ..ephemeral("a", 4)
    });
    present.is_given([104]).await;
    own.is_given_nothing().await;
    script.publish(publication("a", 5));
    own.is_given([5]).await;
}

/// The queued messages count more, and an ephemeral one would come late.
#[tokio::test]
async fn a_connection_gets_none_while_anything_is_queued_for_it() {
    let (script, mut slow) = room().await;
    let mut offset = 4;
    while !slow.connection.lags() {
        offset += 1;
        script.publish(sized("a", offset, 32 << 10));
        let_run().await;
    }
    let mut present = guest_at(&script.hub, WireFormat::JSON, at("a", offset)).await;
    script.bring(ephemeral("a", offset));
    script.publish(publication("a", offset + 1));
    present.is_given([100 + offset, offset + 1]).await;
    let queued = usize::try_from(offset + 1 - 4).unwrap();
    let expected: Vec<_> = (5..=offset + 1).collect();
    assert_eq!(slow.client.offsets(queued).await, expected);
    while slow.connection.lags() {
        tokio::task::yield_now().await;
    }
    script.bring(ephemeral("a", offset + 1));
    slow.is_given([101 + offset]).await;
}
