//! A member begins right before its own `onJoin`, wherever the hub is at that time (`docs/design/log.md`, "A client
//! that joins or comes back").

use super::{Guest, guest, guest_at, room};
use crate::testing::client::Moved;
use crate::testing::feed::{Script, connection, page};
use crate::testing::{at, let_run, publication};
use channel_store::Position;
use wire::{Disconnect, WireFormat};

const PAIRS: [(WireFormat, WireFormat); 6] = [
    (WireFormat::JSON, WireFormat::POMELO_POSITIONS),
    (WireFormat::JSON, WireFormat::POMELO),
    (WireFormat::JSON, WireFormat::JSON),
    (WireFormat::POMELO_POSITIONS, WireFormat::POMELO),
    (WireFormat::POMELO, WireFormat::JSON),
    (WireFormat::POMELO, WireFormat::POMELO),
];

/// A live channel at ("a", 4), with a member that is there and one that comes.
async fn coming(formats: (WireFormat, WireFormat)) -> (Script, Guest, Guest) {
    let (script, first) = room().await;
    let present = guest_at(&script.hub, formats.0, at("a", 4)).await;
    drop(first);
    let joiner = guest(&script.hub, formats.1).await;
    (script, present, joiner)
}

#[tokio::test(start_paused = true)]
async fn a_joiner_gets_its_own_on_join_once_when_it_was_delivered_before_the_answer_came() {
    for formats in PAIRS {
        let (mut script, mut present, mut joiner) = coming(formats).await;
        for offset in 5..=7 {
            script.publish(publication("a", offset));
        }
        present.is_given([5, 6, 7]).await;
        joiner.begins(at("a", 5)).await;
        joiner.is_given([6, 7]).await;
        script.publish(publication("a", 8));
        present.is_given([8]).await;
        joiner.is_given([8]).await;
        script.nobody_reads().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_joiner_gets_its_own_on_join_once_while_it_waits_to_be_written() {
    for formats in PAIRS {
        for start in 4..=7 {
            let (mut script, mut present, mut joiner) = coming(formats).await;
            for offset in 5..=7 {
                script.publish(publication("a", offset));
            }
            // No task ran in between, so nothing was written.
            joiner.begins(at("a", start)).await;
            script.publish(publication("a", 8));
            present.is_given(5..=8).await;
            joiner.is_given(start + 1..=8).await;
            script.nobody_reads().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_joiner_gets_its_own_on_join_once_when_the_answer_came_before_it() {
    for formats in PAIRS {
        for start in 5..=7 {
            let (mut script, mut present, mut joiner) = coming(formats).await;
            joiner.begins(at("a", start)).await;
            for offset in 5..=8 {
                script.publish(publication("a", offset));
            }
            present.is_given(5..=8).await;
            joiner.is_given(start + 1..=8).await;
            script.nobody_reads().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_joiners_of_a_new_format_get_each_unwritten_publication_once() {
    let (script, mut present, mut one) = coming(PAIRS[1]).await;
    let mut two = guest(&script.hub, WireFormat::POMELO).await;
    for offset in 5..=7 {
        script.publish(publication("a", offset));
    }
    one.begins(at("a", 4)).await;
    two.begins(at("a", 6)).await;
    script.publish(publication("a", 8));
    present.is_given(5..=8).await;
    one.is_given(5..=8).await;
    two.is_given(7..=8).await;
    // The same in the other order.
    let (script, mut present, mut two) = coming(PAIRS[1]).await;
    let mut one = guest(&script.hub, WireFormat::POMELO).await;
    for offset in 5..=7 {
        script.publish(publication("a", offset));
    }
    two.member.begin(at("a", 6));
    one.begins(at("a", 4)).await;
    present.is_given(5..=7).await;
    one.is_given(5..=7).await;
    two.is_given([7]).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_at_the_end_of_an_epoch_gets_the_beginning_of_the_next() {
    let (mut script, mut present, mut joiner) = coming(PAIRS[0]).await;
    joiner.begins(at("a", 6)).await;
    script.publish(publication("a", 5));
    script.publish(publication("a", 6));
    script.publish(publication("b", 7));
    let read = script.read_from(at("a", 6)).await;
    read.answer(page(at("a", 6), vec![publication("b", 7)], 7));
    joiner.is_given([7]).await;
    present.is_given([5, 6, 7]).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_starts_right_before_the_first_of_an_epoch_gets_it() {
    for delivered_before in [false, true] {
        let (mut script, mut present, mut joiner) = coming(PAIRS[0]).await;
        script.publish(publication("b", 5));
        let read = script.read_from(at("a", 4)).await;
        let answer = page(at("a", 4), vec![publication("b", 5)], 5);
        // The join's answer is the position of the own `onJoin`, the first one of the new epoch.
        let start = at("b", 4);
        if delivered_before {
            read.answer(answer);
            present.is_given([5]).await;
            joiner.begins(start).await;
        } else {
            tokio::join!(joiner.begins(start), async {
                let mine = script.read_from(at("b", 4)).await;
                mine.answer(page(at("b", 4), vec![publication("b", 5)], 5));
                let mine = script.read_from(at("b", 5)).await;
                mine.answer(page(at("b", 5), vec![], 5));
                read.answer(answer);
            });
            // The member doubted the hub, so the hub reads again.
            let again = script.read_from(at("b", 5)).await;
            again.answer(page(at("b", 5), vec![], 5));
            present.is_given([5]).await;
        }
        joiner.is_given([5]).await;
        script.publish(publication("b", 6));
        joiner.is_given([6]).await;
        present.is_given([6]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn publications_older_than_the_last_deliveries_are_read_only_for_this_member() {
    let (mut script, mut present, mut joiner) = coming(PAIRS[1]).await;
    tokio::join!(joiner.begins(at("a", 1)), async {
        let read = script.read_from(at("a", 1)).await;
        read.answer(page(at("a", 1), vec![publication("a", 2)], 4));
        let read = script.read_from(at("a", 2)).await;
        script.publish(publication("a", 5));
        read.answer(page(
            at("a", 2),
            vec![publication("a", 3), publication("a", 4)],
            5,
        ));
    });
    joiner.is_given([2, 3, 4, 5]).await;
    present.is_given([5]).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_ahead_of_the_hub_waits_and_makes_the_hub_read() {
    let (mut script, mut present, mut joiner) = coming(PAIRS[0]).await;
    tokio::join!(joiner.begins(at("b", 5)), async {
        let read = script.read_from(at("b", 5)).await;
        read.answer(page(at("b", 5), vec![publication("b", 6)], 6));
        let read = script.read_from(at("b", 6)).await;
        read.answer(page(at("b", 6), vec![], 6));
    });
    let read = script.read_from(at("a", 4)).await;
    let missed = vec![
        publication("a", 5),
        publication("b", 6),
        publication("b", 7),
    ];
    read.answer(page(at("a", 4), missed, 7));
    joiner.is_given([6, 7]).await;
    present.is_given([5, 6, 7]).await;
    script.nobody_reads().await;
}

/// A joiner at ("b", 5) has read up to ("b", 6), where the log ends. Before it knows that, the hub reads up to
/// `hub_at`.
async fn overtake(script: &mut Script, hub_at: u64) {
    let joiners = script.read_from(at("b", 5)).await;
    joiners.answer(page(at("b", 5), vec![publication("b", 6)], 6));
    let joiners = script.read_from(at("b", 6)).await;
    script.publish(publication("b", 6));
    let hubs = script.read_from(at("a", 4)).await;
    let missed = (6..=hub_at).map(|offset| publication("b", offset));
    let missed = std::iter::once(publication("a", 5)).chain(missed);
    hubs.answer(page(at("a", 4), missed.collect(), hub_at));
    let_run().await;
    joiners.answer(page(at("b", 6), vec![], 6));
    // The member doubts the hub.
    let hubs = script.read_from(at("b", hub_at)).await;
    hubs.answer(page(at("b", hub_at), vec![], hub_at));
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_overtakes_a_member_that_still_reads_leaves_no_gap() {
    let (mut script, _present, mut joiner) = coming(PAIRS[0]).await;
    tokio::join!(joiner.begins(at("b", 5)), overtake(&mut script, 8));
    script.publish(publication("b", 9));
    joiner.is_given([6, 7, 8, 9]).await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_overtakes_a_member_by_more_than_it_keeps_leaves_no_gap_either() {
    let (mut script, _present, mut joiner) = coming(PAIRS[0]).await;
    tokio::join!(joiner.begins(at("b", 5)), async {
        overtake(&mut script, 2_000).await;
        let read = script.read_from(at("b", 6)).await;
        let missed = (7..=2_000).map(|offset| publication("b", offset)).collect();
        read.answer(page(at("b", 6), missed, 2_000));
    });
    joiner.is_given(6..=2_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_meets_a_reading_member_takes_it_into_the_next_epoch() {
    let (mut script, _present, mut joiner) = coming(PAIRS[0]).await;
    tokio::join!(joiner.begins(at("b", 5)), overtake(&mut script, 6));
    script.publish(publication("c", 7));
    let read = script.read_from(at("b", 6)).await;
    read.answer(page(at("b", 6), vec![publication("c", 7)], 7));
    joiner.is_given([6, 7]).await;
    assert_eq!(joiner.connection.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_waits_right_before_the_first_of_an_epoch_gets_it() {
    let (mut script, _present, mut joiner) = coming(PAIRS[0]).await;
    tokio::join!(joiner.begins(at("c", 5)), async {
        let read = script.read_from(at("c", 5)).await;
        read.answer(page(at("c", 5), vec![], 5));
    });
    let read = script.read_from(at("a", 4)).await;
    let missed = vec![publication("a", 5), publication("c", 6)];
    read.answer(page(at("a", 4), missed, 6));
    joiner.is_given([6]).await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_already_reads_when_a_member_is_ahead_reads_once_more() {
    let (mut script, _present, mut joiner) = coming(PAIRS[0]).await;
    script.publish(publication("a", 6));
    let hubs = script.read_from(at("a", 4)).await;
    tokio::join!(joiner.begins(at("b", 7)), async {
        let read = script.read_from(at("b", 7)).await;
        read.answer(page(at("b", 7), vec![], 7));
    });
    // This was asked before the member's own read.
    hubs.answer(page(
        at("a", 4),
        vec![publication("a", 5), publication("a", 6)],
        6,
    ));
    let again = script.read_from(at("a", 6)).await;
    let missed = vec![publication("b", 7), publication("b", 8)];
    again.answer(page(at("a", 6), missed, 8));
    joiner.is_given([8]).await;
}

/// What happens to members that wait at `start` while the hub is at ("a", 4), when `next` follows there. One of them
/// can be told positions, the other one can't.
async fn wait_at(start: Position, next: &[Position]) -> (Vec<Moved>, Option<Disconnect>) {
    let (mut script, mut present, told) = coming(PAIRS[0]).await;
    let closed = guest(&script.hub, WireFormat::POMELO).await;
    let is_known = start.epoch == at("a", 4).epoch;
    told.begins(start.clone()).await;
    closed.begins(start.clone()).await;
    if is_known {
        script.subscribed(&connection(1));
    } else {
        // Both members share one read.
        let read = script.read_from(start.clone()).await;
        read.answer(page(start.clone(), vec![], start.offset));
    }
    let hubs = script.read_from(at("a", 4)).await;
    let_run().await;
    let entry = |it: &Position| publication(it.epoch.as_str(), it.offset);
    let last = &next[next.len() - 1];
    hubs.answer(page(
        at("a", 4),
        next.iter().map(entry).collect(),
        last.offset,
    ));
    if !is_known {
        // Both members doubted the hub.
        let again = script.read_from(last.clone()).await;
        again.answer(page(last.clone(), vec![], last.offset));
    }
    present.is_given(next.iter().map(|it| it.offset)).await;
    assert_eq!(told.connection.closing(), None);
    let mut told = told;
    script.publish(publication(last.epoch.as_str(), last.offset + 1));
    let_run().await;
    told.connection.close(Disconnect::Shutdown);
    told.connection.conclude();
    told.client.rest().await;
    told.client
        .moved
        .retain(|(_, _, reason)| reason != "new-epoch");
    (told.client.moved, closed.connection.closing())
}

#[tokio::test(start_paused = true)]
async fn a_member_that_waits_for_a_lost_publication_is_told_of_the_loss() {
    let lost = |offset, reason: &str| {
        let moved = ("a".to_owned(), offset, reason.to_owned());
        (vec![moved], Some(Disconnect::PositionsLost))
    };
    let kept = (vec![], None);
    // The epoch of the position ended below it.
    assert_eq!(
        wait_at(at("a", 6), &[at("b", 5)]).await,
        lost(4, "diverged")
    );
    let later = [at("a", 5), at("b", 6)];
    assert_eq!(wait_at(at("a", 6), &later).await, lost(5, "diverged"));
    // The epoch of the position is not in this log.
    let other = [at("a", 5), at("d", 7), at("d", 8)];
    assert_eq!(wait_at(at("c", 6), &other).await, lost(5, "unknown"));
    // The position may still come.
    assert_eq!(wait_at(at("c", 6), &[at("a", 5)]).await, kept);
    assert_eq!(wait_at(at("a", 6), &[at("a", 5)]).await, kept);
    let reached = [at("a", 5), at("a", 6), at("b", 7)];
    assert_eq!(wait_at(at("a", 6), &reached).await, kept);
    let first = [at("a", 5), at("c", 6)];
    assert_eq!(wait_at(at("c", 5), &first).await, kept);
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_log_does_not_answer_waits_until_it_does() {
    let (mut script, _present, mut joiner) = coming(PAIRS[0]).await;
    joiner.begins(at("a", 1)).await;
    for _ in 0..20 {
        script.read_from(at("a", 1)).await.fail();
    }
    let missed = (2..=4).map(|offset| publication("a", offset)).collect();
    let read = script.read_from(at("a", 1)).await;
    read.answer(page(at("a", 1), missed, 4));
    joiner.is_given([2, 3, 4]).await;
    assert_eq!(joiner.connection.closing(), None);
}
