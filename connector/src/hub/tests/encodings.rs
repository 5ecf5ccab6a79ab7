//! The costs of a publication: one encoding for each wire format in use, and one write for everything that is ready.

use super::{Guest, guest, guest_at};
use crate::hub::{Hub, TOUCH_INTERVAL};
use crate::testing::counters::Counters;
use crate::testing::feed::{Script, connection, head};
use crate::testing::{at, let_run, publication, sized};
use channel_store::{Payload, Route, User, UserId};
use metrics::with_local_recorder;
use serde_json::Value;
use wire::WireFormat;

/// A live channel at ("a", 4) with members that use these formats, and the counters of its hub.
async fn counted(formats: &[WireFormat]) -> (Counters, Script, Vec<Guest>) {
    let counters = Counters::default();
    let mut script = Script::of(with_local_recorder(&counters, || Hub::new(TOUCH_INTERVAL)));
    let first = guest(&script.hub, formats[0]).await;
    script.subscribed(&connection(1));
    script.next_read().await.answer(head(at("a", 4)));
    first.member.followed().await;
    first.begins(at("a", 4)).await;
    let mut guests = vec![first];
    for &format in &formats[1..] {
        guests.push(guest_at(&script.hub, format, at("a", 4)).await);
    }
    (counters, script, guests)
}

#[tokio::test(start_paused = true)]
async fn a_publication_is_encoded_once_for_each_format_in_use() {
    const JSON: WireFormat = WireFormat::JSON;
    const POMELO: WireFormat = WireFormat::POMELO;
    for (formats, each) in [
        (&[JSON, JSON, JSON][..], 1),
        (&[POMELO, POMELO], 1),
        (&[JSON, POMELO, JSON, POMELO, JSON], 2),
    ] {
        let (counters, script, mut guests) = counted(formats).await;
        for offset in 5..=14 {
            script.publish(publication("a", offset));
        }
        for guest in &mut guests {
            guest.is_given(5..=14).await;
        }
        assert_eq!(counters.get("connector_encodings_total"), 10 * each);
    }
}

#[tokio::test(start_paused = true)]
async fn publications_that_are_ready_together_leave_in_one_write_for_each_member() {
    const JSON: WireFormat = WireFormat::JSON;
    const POMELO: WireFormat = WireFormat::POMELO;
    let (counters, script, mut guests) = counted(&[JSON, POMELO, JSON]).await;
    for round in 1..=2 {
        for offset in 5 * round..5 * round + 5 {
            script.publish(publication("a", offset));
        }
        for guest in &mut guests {
            guest.is_given(5 * round..5 * round + 5).await;
        }
        assert_eq!(counters.get("connector_channel_writes_total"), 3 * round);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_grows_large_is_written_before_it_grows_further() {
    let (counters, script, _guests) = counted(&[WireFormat::JSON]).await;
    for offset in 5..=9 {
        script.publish(sized("a", offset, 40 << 10));
    }
    assert_eq!(counters.get("connector_channel_writes_total"), 2);
}

/// The sender's own publication is at the beginning of a write, in the middle, at the end, not in it, and alone.
#[tokio::test(start_paused = true)]
async fn a_publication_that_its_sender_does_not_get_still_moves_the_senders_position() {
    let (_, script, mut guests) = counted(&[WireFormat::JSON]).await;
    let me = User {
        id: UserId::new("me").unwrap(),
        is_number: false,
    };
    let mut own = guest(&script.hub, WireFormat::JSON).await;
    let session = channel_store::SessionId::new("s").unwrap();
    own.connection.belongs_to(&me.id, &session);
    own.begins(at("a", 4)).await;
    let mut offset = 4;
    for write in ["x..", ".x.", "..x", "...", "x", "xx", "."] {
        let begin = offset + 1;
        for kind in write.chars() {
            offset += 1;
            let mut publication = publication("a", offset);
            if kind == 'x' {
                let route = Route::new(publication.payload.route()).unwrap();
                let body = publication.payload.body();
                publication.payload = Payload::for_others(&route, &me, body);
            }
            script.publish(publication);
        }
        guests[0].is_given(begin..=offset).await;
        for (offset, kind) in (begin..).zip(write.chars()) {
            let (_, text) = own.client.frame().await.unwrap();
            let told: Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(told["offset"], offset, "{write}");
            assert_eq!(told.get("body").is_none(), kind == 'x', "{write}: {told}");
        }
        own.is_given_nothing().await;
    }
}

/// Measuring every flush would cost as much as some of the members do.
#[tokio::test(start_paused = true)]
async fn the_age_of_one_flush_in_eight_is_measured_and_never_where_nobody_is() {
    let (counters, script, mut guests) = counted(&[WireFormat::JSON, WireFormat::POMELO]).await;
    let measured = || counters.get("connector_delivery_lag_seconds");
    for (number, offset) in (5..=21).enumerate() {
        script.publish(publication("a", offset));
        let_run().await;
        assert_eq!(measured(), 1 + number as u64 / 8);
    }
    for guest in &mut guests {
        guest.is_given(5..=21).await;
    }
    let before = measured();
    guests.clear();
    for offset in 22..=40 {
        script.publish(publication("a", offset));
        let_run().await;
    }
    assert_eq!(measured(), before);
}
