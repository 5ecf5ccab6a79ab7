//! A client comes back. Its position is checked by the ring or by the log, and it is given exactly what it missed.

use super::{FORMATS, guest, room};
use crate::hub::Resume;
use crate::limits::QueueLimits;
use crate::testing::feed::{Script, connection, head, page};
use crate::testing::{at, channel, client, publication, sized};
use channel_store::{Continuity, LogPage, Publication, Since};
use std::ops::RangeInclusive;
use std::sync::Arc;
use wire::{PositionReason, WireFormat};

fn publications(offsets: RangeInclusive<u64>) -> Vec<Publication> {
    offsets.map(|offset| publication("a", offset)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_warm_hub_resumes_clients_without_a_read() {
    let (mut script, _present) = room().await;
    for offset in 5..=9 {
        script.publish(publication("a", offset));
    }
    let mut back = guest(&script.hub, WireFormat::JSON).await;
    let resume = back
        .member
        .resume(&at("a", 6), &at("a", 9), 0)
        .await
        .unwrap();
    let exact = Resume {
        start: at("a", 6),
        lost: None,
    };
    assert_eq!(resume, exact);
    back.begins(resume.start).await;
    back.is_given([7, 8, 9]).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_position_that_the_hub_does_not_know_is_checked_with_the_log() {
    for (continuity, lost) in [
        (Continuity::Contiguous, None),
        (Continuity::Diverged, Some(PositionReason::Diverged)),
        (Continuity::Trimmed, Some(PositionReason::Trimmed)),
        (Continuity::Unknown, Some(PositionReason::Unknown)),
    ] {
        let (mut script, _present) = room().await;
        let back = Arc::new(guest(&script.hub, WireFormat::JSON).await);
        let resumed = tokio::spawn({
            let back = Arc::clone(&back);
            async move { back.member.resume(&at("a", 2), &at("a", 4), 0).await }
        });
        let read = script.read_from(at("a", 2)).await;
        assert_eq!(read.limit, 0);
        let start = at("a", if lost.is_some() { 3 } else { 2 });
        read.answer(LogPage {
            continuity,
            ..page(start.clone(), vec![], 4)
        });
        assert_eq!(resumed.await.unwrap(), Ok(Resume { start, lost }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_warm_hub_that_has_not_noticed_a_new_epoch_reads_the_log() {
    let (mut script, _present) = room().await;
    let back = Arc::new(guest(&script.hub, WireFormat::JSON).await);
    let resumed = tokio::spawn({
        let back = Arc::clone(&back);
        // The client's own `onJoin` is the first publication of a log that has begun anew.
        async move { back.member.resume(&at("a", 4), &at("b", 1), 0).await }
    });
    script.read_from(at("a", 4)).await.answer(LogPage {
        continuity: Continuity::Unknown,
        ..page(at("b", 0), vec![], 1)
    });
    let lost = Resume {
        start: at("b", 0),
        lost: Some(PositionReason::Unknown),
    };
    assert_eq!(resumed.await.unwrap(), Ok(lost));
}

#[tokio::test(start_paused = true)]
async fn what_was_removed_from_the_log_is_not_given_from_the_ring() {
    let (mut script, _present) = room().await;
    for offset in 5..=9 {
        script.publish(publication("a", offset));
    }
    let back = Arc::new(guest(&script.hub, WireFormat::JSON).await);
    let resumed = tokio::spawn({
        let back = Arc::clone(&back);
        async move { back.member.resume(&at("a", 6), &at("a", 9), 7).await }
    });
    script.read_from(at("a", 6)).await.answer(LogPage {
        continuity: Continuity::Trimmed,
        ..page(at("a", 7), vec![], 9)
    });
    let lost = Resume {
        start: at("a", 7),
        lost: Some(PositionReason::Trimmed),
    };
    assert_eq!(resumed.await.unwrap(), Ok(lost));
    // What follows the removed part is still there.
    let exact = Resume {
        start: at("a", 7),
        lost: None,
    };
    assert_eq!(
        back.member.resume(&at("a", 7), &at("a", 9), 7).await,
        Ok(exact)
    );
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn reads_from_one_position_are_shared_by_all_that_ask_at_once() {
    let (mut script, _present) = room().await;
    let mut back = Vec::new();
    for format in FORMATS.into_iter().cycle().take(30) {
        let guest = guest(&script.hub, format).await;
        guest.member.begin(at("a", 1));
        back.push(guest);
    }
    let read = script.read_from(at("a", 1)).await;
    script.nobody_reads().await;
    read.answer(page(at("a", 1), publications(2..=3), 4));
    let read = script.read_from(at("a", 3)).await;
    script.nobody_reads().await;
    read.answer(page(at("a", 3), publications(4..=4), 4));
    for guest in &mut back {
        guest.is_given([2, 3, 4]).await;
    }
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_shared_read_outlives_the_member_that_asked_first() {
    let (mut script, _present) = room().await;
    let first = guest(&script.hub, WireFormat::JSON).await;
    let mut second = guest(&script.hub, WireFormat::JSON).await;
    first.begins(at("a", 1)).await;
    second.begins(at("a", 1)).await;
    let given_up = script.read_from(at("a", 1)).await;
    drop(first.member);
    let read = script.read_from(at("a", 1)).await;
    given_up.answer(page(at("a", 1), publications(2..=2), 4));
    read.answer(page(at("a", 1), publications(2..=4), 4));
    second.is_given([2, 3, 4]).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_epoch_is_told_before_its_first_publication_from_ring_and_log() {
    let (mut script, mut present) = room().await;
    let mut waits = guest(&script.hub, WireFormat::POMELO_POSITIONS).await;
    waits.begins(at("a", 5)).await;
    script.publish(publication("a", 5));
    script.publish(publication("b", 6));
    let read = script.read_from(at("a", 5)).await;
    read.answer(page(
        at("a", 5),
        vec![publication("b", 6), publication("b", 7)],
        7,
    ));
    let told = [("b".to_owned(), 5, "new-epoch".to_owned())];
    present.is_given([5, 6, 7]).await;
    assert_eq!(present.client.moved, told);
    waits.is_given([6, 7]).await;
    assert_eq!(waits.client.moved, told);

    // First from the ring, and then from the log.
    let mut warm = guest(&script.hub, WireFormat::POMELO_POSITIONS).await;
    warm.begins(at("a", 4)).await;
    warm.is_given([5, 6, 7]).await;
    assert_eq!(warm.client.moved, told);
    let mut cold = guest(&script.hub, WireFormat::JSON).await;
    cold.begins(at("a", 1)).await;
    let mut missed = publications(2..=5);
    missed.push(publication("b", 6));
    let read = script.read_from(at("a", 1)).await;
    read.answer(page(at("a", 1), missed, 7));
    cold.is_given(2..=7).await;
    assert_eq!(cold.client.moved, told);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_knows_the_epoch_is_not_told_of_it_again() {
    let (mut script, _present) = room().await;
    let mut joiner = guest(&script.hub, WireFormat::JSON).await;
    // The client's own `onJoin` is the first publication of epoch b.
    joiner.begins(at("b", 4)).await;
    let read = script.read_from(at("b", 4)).await;
    read.answer(page(at("b", 4), vec![publication("b", 5)], 5));
    joiner.is_given([5]).await;
    assert_eq!(joiner.client.moved, []);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_is_brought_up_to_date_at_its_own_pace() {
    const SIZE: usize = 20 << 10;
    const LAST: u64 = 2_000;
    let mut script = Script::new();
    let _present = guest(&script.hub, WireFormat::JSON).await;
    script.subscribed(&connection(1));
    script.next_read().await.answer(head(at("a", LAST)));
    let limits = QueueLimits::new(512 << 10, 512 << 20);
    let (connection, mut client) = client::connect(WireFormat::JSON, &limits).await;
    let member = (script.hub).attach(&channel(), &connection, WireFormat::JSON);
    // Many times as much as may be queued for the client, and more than the buffers of a socket hold.
    member.begin(at("a", 0));
    let mut next = 1;
    let mut most = 0;
    while next <= LAST {
        tokio::select! {
            biased;
            read = script.next_read() => {
                let Since::Position(since) = read.since.clone() else {
                    panic!("this is not a read of the head");
                };
                let to = LAST.min(since.offset + read.limit as u64);
                let entries = (since.offset + 1..=to).map(|offset| sized("a", offset, SIZE));
                read.answer(page(since, entries.collect(), LAST));
            }
            (_, offset) = client.position() => {
                assert_eq!(offset, next);
                next += 1;
                most = most.max(limits.queued());
            }
        }
        assert_eq!(connection.closing(), None);
    }
    assert!(most < 400 << 10, "{most} bytes were queued");
}
