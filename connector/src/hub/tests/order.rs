//! The rules for a live channel and for reads (`docs/design/log.md`, "How a hub stays contiguous").

use super::{guest, room};
use crate::testing::feed::{Script, connection, head, of_lifetime, page};
use crate::testing::{at, publication, sized};
use channel_store::{LogPage, ServerLifetime, Since};
use wire::WireFormat;

#[tokio::test(start_paused = true)]
async fn the_next_publication_is_delivered_and_one_that_was_seen_is_dropped() {
    let (mut script, mut guest) = room().await;
    for offset in [5, 5, 4, 1, 6] {
        script.publish(publication("a", offset));
    }
    guest.is_given([5, 6]).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_read_from_the_log() {
    let (mut script, mut guest) = room().await;
    script.publish(publication("a", 5));
    script.publish(publication("a", 7));
    guest.is_given([5]).await;
    let read = script.read_from(at("a", 5)).await;
    let missed = vec![publication("a", 6), publication("a", 7)];
    read.answer(page(at("a", 5), missed, 7));
    guest.is_given([6, 7]).await;
    script.publish(publication("a", 8));
    guest.is_given([8]).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_publication_of_another_epoch_makes_the_hub_read_whatever_its_offset() {
    // This holds for any offset: the next one, one far ahead, and one that looks as if it had been seen.
    for offset in [5, 9, 3] {
        let (mut script, mut guest) = room().await;
        script.publish(publication("b", offset));
        guest.is_given_nothing().await;
        let read = script.read_from(at("a", 4)).await;
        let missed = vec![publication("a", 5), publication("b", 6)];
        read.answer(page(at("a", 4), missed, 6));
        assert_eq!(guest.client.position().await, ("a".into(), 5));
        assert_eq!(guest.client.position().await, ("b".into(), 6));
    }
}

#[tokio::test(start_paused = true)]
async fn publications_that_come_while_the_log_is_read_wait_until_it_is_read() {
    let (mut script, mut guest) = room().await;
    script.publish(publication("a", 6));
    let read = script.read_from(at("a", 4)).await;
    for offset in [7, 8, 11] {
        script.publish(publication("a", offset));
    }
    guest.is_given_nothing().await;
    let missed = (5..=7).map(|offset| publication("a", offset)).collect();
    read.answer(page(at("a", 4), missed, 7));
    guest.is_given([5, 6, 7, 8]).await;
    let read = script.read_from(at("a", 8)).await;
    let missed = (9..=11).map(|offset| publication("a", offset)).collect();
    read.answer(page(at("a", 8), missed, 11));
    guest.is_given([9, 10, 11]).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn if_more_than_a_megabyte_waits_it_is_dropped_and_read_again() {
    let (mut script, mut guest) = room().await;
    script.publish(publication("a", 6));
    let read = script.read_from(at("a", 4)).await;
    // Both together do not fit into the queue. The first one alone does.
    script.publish(sized("a", 7, 600 << 10));
    script.publish(sized("a", 8, 600 << 10));
    read.answer(page(
        at("a", 4),
        vec![publication("a", 5), publication("a", 6)],
        6,
    ));
    let read = script.read_from(at("a", 6)).await;
    guest.is_given([5, 6]).await;
    read.answer(page(
        at("a", 6),
        vec![publication("a", 7), publication("a", 8)],
        8,
    ));
    guest.is_given([7, 8]).await;

    // The bound is for the bytes that wait, not for all that ever waited.
    for start in [8, 11] {
        script.publish(publication("a", start + 2));
        let read = script.read_from(at("a", start)).await;
        script.publish(sized("a", start + 3, 600 << 10));
        let missed = vec![publication("a", start + 1), publication("a", start + 2)];
        read.answer(page(at("a", start), missed, start + 2));
        guest.is_given(start + 1..=start + 3).await;
        script.nobody_reads().await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_new_connection_publications_of_the_earlier_one_are_ignored() {
    let (mut script, mut guest) = room().await;
    script.subscribed(&connection(2));
    let read = script.read_from(at("a", 4)).await;
    // If a failover has lost these two, each of them would pass as the next publication after the read.
    script.publish_over(1, publication("a", 5));
    read.answer(page(at("a", 4), vec![], 4));
    guest.is_given_nothing().await;
    script.publish_over(1, publication("a", 5));
    guest.is_given_nothing().await;
    script.nobody_reads().await;
    script.publish_over(2, publication("a", 5));
    guest.is_given([5]).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_connection_is_replaced_waiting_publications_are_dropped() {
    let (mut script, mut guest) = room().await;
    script.publish(publication("a", 6));
    let read = script.read_from(at("a", 4)).await;
    script.publish(publication("a", 7));
    script.subscribed(&connection(2));
    read.answer(page(
        at("a", 4),
        vec![publication("a", 5), publication("a", 6)],
        6,
    ));
    let read = script.read_from(at("a", 6)).await;
    read.answer(page(at("a", 6), vec![], 6));
    guest.is_given([5, 6]).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn publications_before_the_first_confirmation_are_dropped() {
    let mut script = Script::new();
    let mut guest = guest(&script.hub, WireFormat::JSON).await;
    script.publish(publication("a", 5));
    script.nobody_reads().await;
    script.subscribed(&connection(1));
    let read = script.next_read().await;
    assert_eq!((&read.since, read.limit), (&Since::Head, 0));
    script.publish(publication("a", 5));
    script.publish(publication("a", 6));
    read.answer(head(at("a", 4)));
    guest.member.followed().await;
    guest.begins(at("a", 4)).await;
    guest.is_given([5, 6]).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_server_lifetime_than_the_connections_is_read_again() {
    let foreign = |page: LogPage| LogPage {
        lifetime: ServerLifetime::from("of the other side"),
        ..page
    };
    let mut script = Script::new();
    let mut guest = guest(&script.hub, WireFormat::JSON).await;
    script.subscribed(&of_lifetime(1, "g"));
    script.next_read().await.answer(foreign(head(at("a", 4))));
    guest.member.followed().await;
    guest.begins(at("a", 4)).await;
    script.publish(publication("a", 5));
    guest.is_given_nothing().await;
    let read = script.read_from(at("a", 4)).await;
    read.answer(foreign(page(at("a", 4), vec![], 4)));
    guest.is_given_nothing().await;
    let read = script.read_from(at("a", 4)).await;
    read.answer(page(at("a", 4), vec![], 4));
    guest.is_given([5]).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn the_log_is_read_in_pages_until_its_end() {
    let (mut script, mut guest) = room().await;
    script.publish(publication("a", 9));
    let read = script.read_from(at("a", 4)).await;
    assert_eq!(read.limit, crate::hub::reader::PAGE);
    let two = |offset| vec![publication("a", offset), publication("a", offset + 1)];
    read.answer(page(at("a", 4), two(5), 9));
    let read = script.read_from(at("a", 6)).await;
    read.answer(page(at("a", 6), two(7), 9));
    let read = script.read_from(at("a", 8)).await;
    read.answer(page(at("a", 8), vec![publication("a", 9)], 9));
    guest.is_given(5..=9).await;
    script.nobody_reads().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_does_not_answer_is_read_again() {
    let (mut script, mut guest) = room().await;
    script.publish(publication("a", 6));
    for _ in 0..20 {
        script.read_from(at("a", 4)).await.fail();
    }
    let read = script.read_from(at("a", 4)).await;
    read.answer(page(
        at("a", 4),
        vec![publication("a", 5), publication("a", 6)],
        6,
    ));
    guest.is_given([5, 6]).await;
}
