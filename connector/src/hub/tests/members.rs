//! The members of a channel, and what happens when positions are lost.

use super::{guest, guest_at, room};
use crate::testing::feed::{Script, connection, head, page};
use crate::testing::{at, channel, client, publication, soon};
use channel_store::{Continuity, LogPage};
use wire::{Disconnect, WireFormat};

#[tokio::test(start_paused = true)]
async fn when_the_position_is_lost_each_member_is_told_or_closed_with_a_reason() {
    for (continuity, reason) in [
        (Continuity::Diverged, "diverged"),
        (Continuity::Trimmed, "trimmed"),
        (Continuity::Unknown, "unknown"),
    ] {
        let (mut script, mut json) = room().await;
        let mut positions = guest_at(&script.hub, WireFormat::POMELO_POSITIONS, at("a", 4)).await;
        let mut pomelo = guest_at(&script.hub, WireFormat::POMELO, at("a", 4)).await;
        let mut waiting = guest_at(&script.hub, WireFormat::JSON, at("a", 6)).await;
        let waiting_pomelo = guest_at(&script.hub, WireFormat::POMELO, at("a", 6)).await;
        let mut joining = guest(&script.hub, WireFormat::JSON).await;
        script.publish(publication("a", 5));
        script.publish(publication("b", 9));
        let lost = LogPage {
            continuity,
            ..page(
                at("b", 7),
                vec![publication("b", 8), publication("b", 9)],
                9,
            )
        };
        script.read_from(at("a", 5)).await.answer(lost);
        // The member still gets what came before the loss, and nothing from after it.
        let expected = vec![("a".to_owned(), 5)];
        soon(pomelo.connection.closed()).await;
        pomelo.connection.conclude();
        assert_eq!(pomelo.client.rest().await, (expected, Some(1001)));
        for guest in [&pomelo, &waiting_pomelo] {
            assert_eq!(guest.connection.closing(), Some(Disconnect::PositionsLost));
        }
        // The hub goes on from the position of the log, for members that were told and for new ones.
        let read = script.read_from(at("b", 7)).await;
        read.answer(page(
            at("b", 7),
            vec![publication("b", 8), publication("b", 9)],
            9,
        ));
        let told = |reason: &str| [("b".to_owned(), 7, reason.to_owned())];
        json.is_given([5, 8, 9]).await;
        positions.is_given([5, 8, 9]).await;
        waiting.is_given([8, 9]).await;
        assert_eq!(json.client.moved, told(reason));
        assert_eq!(positions.client.moved, told(reason));
        assert_eq!(waiting.client.moved, told("unknown"));
        for guest in [&json, &positions, &waiting] {
            assert_eq!(guest.connection.closing(), None);
        }
        joining.begins(at("b", 8)).await;
        joining.is_given([9]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_position_is_in_the_kept_part_is_not_told_of_a_loss() {
    let (mut script, _json) = room().await;
    let mut waiting = guest_at(&script.hub, WireFormat::JSON, at("a", 90)).await;
    script.publish(publication("a", 91));
    let lost = LogPage {
        continuity: Continuity::Trimmed,
        ..page(at("a", 88), vec![], 91)
    };
    script.read_from(at("a", 4)).await.answer(lost);
    let missed = (89..=91).map(|offset| publication("a", offset)).collect();
    let read = script.read_from(at("a", 88)).await;
    read.answer(page(at("a", 88), missed, 91));
    waiting.is_given([91]).await;
    assert_eq!(waiting.client.moved, []);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_waits_where_a_trimmed_log_begins_goes_on_from_there() {
    let (mut script, _json) = room().await;
    let mut waiting = guest_at(&script.hub, WireFormat::JSON, at("a", 90)).await;
    script.publish(publication("a", 91));
    let lost = LogPage {
        continuity: Continuity::Trimmed,
        ..page(at("a", 90), vec![], 91)
    };
    script.read_from(at("a", 4)).await.answer(lost);
    let read = script.read_from(at("a", 90)).await;
    read.answer(page(at("a", 90), vec![publication("b", 91)], 91));
    waiting.is_given([91]).await;
    let begins = ("b".to_owned(), 90, "new-epoch".to_owned());
    assert_eq!(waiting.client.moved, [begins]);
}

#[tokio::test(start_paused = true)]
async fn only_the_joiner_whose_position_is_lost_is_told_or_closed() {
    let (mut script, mut present) = room().await;
    let pomelo = guest(&script.hub, WireFormat::POMELO).await;
    let mut json = guest(&script.hub, WireFormat::JSON).await;
    let lost = || LogPage {
        continuity: Continuity::Trimmed,
        ..page(
            at("a", 2),
            vec![publication("a", 3), publication("a", 4)],
            4,
        )
    };
    pomelo.begins(at("a", 1)).await;
    script.read_from(at("a", 1)).await.answer(lost());
    json.begins(at("a", 1)).await;
    script.read_from(at("a", 1)).await.answer(lost());
    json.is_given([3, 4]).await;
    assert_eq!(json.client.moved, [("a".into(), 2, "trimmed".into())]);
    assert_eq!(pomelo.connection.closing(), Some(Disconnect::PositionsLost));
    assert_eq!(present.connection.closing(), None);
    script.publish(publication("a", 5));
    present.is_given([5]).await;
    json.is_given([5]).await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_followed_from_its_first_member_to_its_last() {
    let (script, first) = room().await;
    let second = guest_at(&script.hub, WireFormat::POMELO, at("a", 4)).await;
    drop(first.member);
    assert_eq!(script.feed.follows(), [true]);
    drop(second.member);
    assert_eq!(script.feed.follows(), [true, false]);
    assert!(script.hub.channels.find(&channel()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_left_gets_nothing_more_and_the_others_get_everything() {
    let (script, mut first) = room().await;
    let second = guest_at(&script.hub, WireFormat::JSON, at("a", 4)).await;
    let waiting = guest_at(&script.hub, WireFormat::JSON, at("a", 5)).await;
    let joining = guest(&script.hub, WireFormat::JSON).await;
    drop((second.member, waiting.member, joining.member));
    for offset in 5..=8 {
        script.publish(publication("a", offset));
    }
    first.is_given(5..=8).await;
    for mut client in [second.client, waiting.client, joining.client] {
        assert!(client.has_nothing());
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_after_the_last_of_its_format_has_left_gets_no_gap_and_no_duplicate() {
    let (script, mut json) = room().await;
    let pomelo = guest_at(&script.hub, WireFormat::POMELO, at("a", 4)).await;
    script.publish(publication("a", 5));
    drop(pomelo.member);
    script.publish(publication("a", 6));
    let mut next = guest_at(&script.hub, WireFormat::POMELO, at("a", 4)).await;
    script.publish(publication("a", 7));
    next.is_given([5, 6, 7]).await;
    json.is_given([5, 6, 7]).await;
}

#[tokio::test(start_paused = true)]
async fn members_that_come_and_go_at_the_same_time_leave_the_channel_in_the_right_state() {
    let script = Script::new();
    let (connection, _client) = client::client(WireFormat::JSON).await;
    let churn = |stays: bool| {
        let (hub, connection) = (script.hub.clone(), connection.clone());
        move || {
            for _ in 0..2_000 {
                drop(hub.attach(&channel(), &connection, WireFormat::JSON));
            }
            stays.then(|| hub.attach(&channel(), &connection, WireFormat::JSON))
        }
    };
    for stays in [true, false] {
        let threads = [false, false, stays].map(|stays| std::thread::spawn(churn(stays)));
        let left = threads.map(|thread| thread.join().unwrap());
        assert_eq!(script.feed.follows().last(), Some(&stays));
        assert_eq!(script.hub.channels.find(&channel()).is_some(), stays);
        drop(left);
        let alternates = script.feed.follows();
        let alternates = alternates.chunks(2).all(|pair| *pair == [true, false]);
        assert!(alternates, "subscribing and unsubscribing must alternate");
    }
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_followed_again_starts_from_scratch() {
    let (mut script, first) = room().await;
    script.publish(publication("a", 6));
    let late = script.read_from(at("a", 4)).await;
    drop(first.member);
    let mut second = guest(&script.hub, WireFormat::JSON).await;
    // The answer to a read of the former channel object does not affect the new one.
    late.answer(page(
        at("a", 4),
        vec![publication("a", 5), publication("a", 6)],
        6,
    ));
    script.publish(publication("a", 7));
    script.nobody_reads().await;
    script.subscribed(&connection(1));
    script.next_read().await.answer(head(at("a", 7)));
    second.member.followed().await;
    second.begins(at("a", 7)).await;
    script.publish(publication("a", 8));
    second.is_given([8]).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_position_is_lost_unwritten_publications_come_before_the_reason() {
    let (script, mut guest) = room().await;
    let mut pomelo = guest_at(&script.hub, WireFormat::POMELO, at("a", 4)).await;
    script.publish(publication("a", 5));
    script.publish(publication("a", 7));
    // No task ran in between, so nothing was written.
    let lost = LogPage {
        continuity: Continuity::Trimmed,
        ..page(at("a", 8), vec![], 8)
    };
    script.hub.channels.find(&channel()).unwrap().read(lost);
    let expected = vec![("a".to_owned(), 5)];
    soon(pomelo.connection.closed()).await;
    pomelo.connection.conclude();
    assert_eq!(pomelo.client.rest().await, (expected, Some(1001)));
    assert_eq!(guest.client.position().await, ("a".to_owned(), 5));
    assert_eq!(
        guest.client.next_moved().await,
        ("a".into(), 8, "trimmed".into())
    );
}
