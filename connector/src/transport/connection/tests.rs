//! A connection: its order, its bounds and its end.

use super::*;
use crate::testing::client::{self, Client, Told, connect};
use crate::testing::{channel, sized, soon};
use crate::transport::mailbox::Mailbox;

/// A push of about 8 KiB.
fn frame(offset: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    let publication = sized("a", offset, 8 << 10);
    wire::push(WireFormat::JSON, &channel(), &publication, &mut frame);
    frame
}

fn send(connection: &Arc<Connection>, offsets: impl IntoIterator<Item = u64>) {
    for offset in offsets {
        connection.send(&frame(offset), &mut None);
    }
}

/// Sends from an offset on, until the socket takes no more. Returns the last offset sent, whose frame is not fully
/// written.
fn stuff(connection: &Arc<Connection>, mut offset: u64) -> u64 {
    while connection.queue.lock().is_empty() {
        send(connection, [offset]);
        offset += 1;
    }
    offset - 1
}

async fn stuck(limits: &Arc<QueueLimits>) -> (Arc<Connection>, Client, u64) {
    let (connection, client) = connect(WireFormat::JSON, limits).await;
    let last = stuff(&connection, 1);
    (connection, client, last)
}

async fn until(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn roomy() -> Arc<QueueLimits> {
    QueueLimits::new(64 << 20, 512 << 20)
}

fn positions(last: u64) -> Vec<(String, u64)> {
    (1..=last).map(|offset| ("a".into(), offset)).collect()
}

#[tokio::test]
async fn frames_leave_in_order_even_if_the_socket_takes_none_for_a_while() {
    let limits = roomy();
    let (connection, mut client, last) = stuck(&limits).await;
    send(&connection, last + 1..=last + 500);
    assert!(limits.queued() > 500 * (8 << 10));
    let read = client.offsets(usize::try_from(last).unwrap() + 200).await;
    send(&connection, last + 501..=last + 600);
    let rest = client.offsets(400).await;
    let all: Vec<u64> = read.into_iter().chain(rest).collect();
    assert_eq!(all, (1..=last + 600).collect::<Vec<_>>());
    // The queue is gone, and the next frame needs neither it nor a task.
    until(|| Arc::strong_count(&connection) == 1).await;
    assert_eq!(limits.queued(), 0);
    send(&connection, [last + 601]);
    assert_eq!(limits.queued(), 0);
    assert_eq!(client.position().await.1, last + 601);
}

/// The mailbox is full. Its content comes before what is queued after it.
#[tokio::test]
async fn a_client_that_switches_to_a_socket_gets_what_waited_for_polls_in_order() {
    let limits = roomy();
    let mailbox = Arc::new(Mailbox::new(&limits, None));
    let connection = Connection::new(mailbox, WireFormat::JSON, Arc::clone(&limits));
    let last = stuff(&connection, 1);
    send(&connection, last + 1..=last + 20);
    let (writer, mut client) = client::socket(WireFormat::JSON).await;
    connection.switch(writer);
    send(&connection, last + 21..=last + 40);
    let all = client.offsets(usize::try_from(last).unwrap() + 40).await;
    assert_eq!(all, (1..=last + 40).collect::<Vec<_>>());
    until(|| Arc::strong_count(&connection) == 1).await;
    assert_eq!(limits.queued(), 0);
}

#[tokio::test]
async fn a_connection_counts_by_how_it_is_carried_until_it_ends() {
    use crate::testing::counters::Counters;
    let counters = Counters::default();
    let _recording = metrics::set_default_local_recorder(&counters);
    let count = |protocol: &str, transport: &str| {
        let series = counters.series(crate::metering::CONNECTIONS);
        let labels = [protocol, transport].map(str::to_owned).to_vec();
        series
            .get(&labels)
            .map_or(0.0, |bits| f64::from_bits(*bits))
    };
    let limits = roomy();
    let (tcp, _tcp) = connect(WireFormat::POMELO.on_a_stream(), &limits).await;
    tcp.enter_count();
    assert!(count("pomelo", "tcp") > 0.5);
    tcp.leave_count();
    assert!(count("pomelo", "tcp") < 0.5);

    let mailbox = Arc::new(Mailbox::new(&limits, None));
    let polling = Connection::new(mailbox, WireFormat::JSON, Arc::clone(&limits));
    polling.enter_count();
    assert!(count("json", "polling") > 0.5 && count("json", "websocket") < 0.5);
    let (writer, _client) = client::socket(WireFormat::JSON).await;
    polling.switch(writer);
    assert!(count("json", "polling") < 0.5 && count("json", "websocket") > 0.5);
    polling.leave_count();
    assert!(count("json", "polling") < 0.5 && count("json", "websocket") < 0.5);

    // The socket may come when the connection has ended already.
    let mailbox = Arc::new(Mailbox::new(&limits, None));
    let late = Connection::new(mailbox, WireFormat::JSON, limits);
    late.enter_count();
    late.leave_count();
    let (writer, _client) = client::socket(WireFormat::JSON).await;
    late.switch(writer);
    assert!(count("json", "polling").abs() < 0.5 && count("json", "websocket").abs() < 0.5);
}

#[tokio::test]
async fn no_frame_overtakes_queued_ones_when_the_socket_takes_bytes_again() {
    let limits = roomy();
    let (connection, mut client, last) = stuck(&limits).await;
    send(&connection, last + 1..=last + 500);
    for offset in 1..=3_000 {
        send(&connection, [last + 500 + offset]);
        assert_eq!(client.position().await.1, offset);
    }
}

#[tokio::test]
async fn lagging_connections_share_one_copy_of_a_batch_and_others_need_none() {
    let limits = roomy();
    let (one, _one, _) = stuck(&limits).await;
    let (two, _two, _) = stuck(&limits).await;
    let (idle, _idle) = connect(WireFormat::JSON, &limits).await;
    let (frame, mut shared) = (frame(9), None);
    idle.send(&frame, &mut shared);
    assert_eq!(shared, None);
    one.send(&frame, &mut shared);
    let copy = shared.clone().unwrap().as_ptr();
    idle.send(&frame, &mut shared);
    two.send(&frame, &mut shared);
    for connection in [one, two] {
        let queue = connection.queue.lock();
        let last = queue.waiting.as_ref().unwrap().chunks.back();
        assert_eq!(last.unwrap().as_ptr(), copy);
    }
}

#[tokio::test]
async fn a_connection_beyond_its_bound_gets_the_begun_frame_and_then_the_reason() {
    let limits = QueueLimits::new(256 << 10, 512 << 20);
    let (connection, mut client, last) = stuck(&limits).await;
    send(&connection, last + 1..=last + 20);
    assert_eq!(connection.closing(), None, "the queue is within its bound");
    send(&connection, last + 21..=last + 100);
    assert_eq!(connection.closing(), Some(Disconnect::Slow));
    assert_eq!(soon(connection.closed()).await, Disconnect::Slow);
    assert!(
        limits.queued() < 16 << 10,
        "the rest of the queue is dropped at once"
    );
    assert_eq!(client.rest().await, (positions(last), Some(4001)));
    until(|| limits.queued() == 0).await;
    until(|| Arc::strong_count(&connection) == 1).await;
}

#[tokio::test]
async fn beyond_the_bound_of_the_process_only_lagging_clients_are_cut_off() {
    let limits = QueueLimits::new(64 << 20, 400 << 10);
    let (first, mut first_client, first_last) = stuck(&limits).await;
    let (second, _second_client, second_last) = stuck(&limits).await;
    let (large, _large_client) = connect(WireFormat::JSON, &limits).await;
    let (idle, mut idle_client) = connect(WireFormat::JSON, &limits).await;
    send(&first, first_last + 1..=first_last + 30);
    assert_eq!(first.closing(), None);
    // Together with the queue of the first connection, this is too much.
    send(&second, second_last + 1..=second_last + 30);
    assert_eq!(second.closing(), Some(Disconnect::Slow));
    assert_eq!(first.closing(), None);
    // Its only frame has been partly written, so it is kept.
    large.send(&vec![0; 32 << 20], &mut None);
    assert_eq!(large.closing(), Some(Disconnect::Slow));
    assert!(limits.queued() > limits.process());
    send(&idle, [1]);
    assert_eq!(idle_client.position().await.1, 1);
    assert_eq!((first.closing(), idle.closing()), (None, None));
    first.close(Disconnect::Shutdown);
    first.conclude();
    let expected = (positions(first_last + 30), Some(4000));
    assert_eq!(first_client.rest().await, expected);
}

#[tokio::test]
async fn an_abort_ends_the_task_that_writes_to_a_client_that_never_reads() {
    let limits = roomy();
    let (connection, _client, last) = stuck(&limits).await;
    send(&connection, last + 1..=last + 2_000);
    // The kernel takes some more bytes, and then none.
    let mut before = 0;
    while limits.queued() != before {
        before = limits.queued();
        crate::testing::let_run().await;
    }
    assert_eq!(
        Arc::strong_count(&connection),
        2,
        "a task waits for the socket"
    );
    connection.abort();
    assert_eq!(connection.closing(), Some(Disconnect::CLOSED));
    until(|| Arc::strong_count(&connection) == 1).await;
    assert_eq!(limits.queued(), 0);
    send(&connection, [1]);
    assert_eq!(limits.queued(), 0);
}

#[tokio::test]
async fn a_close_comes_after_everything_that_was_sent_before_and_nothing_follows() {
    let limits = roomy();
    let (connection, mut client, last) = stuck(&limits).await;
    send(&connection, last + 1..=last + 50);
    connection.close(Disconnect::Shutdown);
    connection.close(Disconnect::Slow);
    connection.conclude();
    send(&connection, [1]);
    assert_eq!(connection.closing(), Some(Disconnect::Shutdown));
    let expected = (positions(last + 50), Some(4000));
    assert_eq!(client.rest().await, expected);
    until(|| limits.queued() == 0).await;
}

#[tokio::test]
async fn a_close_with_an_empty_queue_is_written_at_once() {
    let (connection, mut client) = connect(WireFormat::JSON, &roomy()).await;
    connection.reply(7, br#"{"code":0}"#);
    let (reason, ()) = tokio::join!(soon(connection.closed()), async {
        connection.close(Disconnect::Idle);
        connection.conclude();
    });
    assert_eq!(reason, Disconnect::Idle);
    let code = |text: &str| serde_json::from_str(text).unwrap();
    let body = code(r#"{"code":0}"#);
    assert_eq!(client.next().await, Told::Reply { id: 7, body });
    let kick = code(r#"{"reason":"idle","reconnect":false}"#);
    assert_eq!(client.next().await, Told::Kick(kick));
    let (code, reason) = (4005, "idle".to_owned());
    assert_eq!(client.next().await, Told::Close { code, reason });
    assert_eq!(client.next().await, Told::End);
}

#[tokio::test]
async fn a_client_that_went_away_is_noticed_by_the_next_write() {
    let limits = roomy();
    let (connection, client, last) = stuck(&limits).await;
    drop(client);
    soon(async {
        while connection.closing().is_none() {
            send(&connection, [last + 1]);
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(soon(connection.closed()).await, Disconnect::CLOSED);
    until(|| Arc::strong_count(&connection) == 1).await;
    assert_eq!(limits.queued(), 0);
}

/// Requests that were carried out are answered even if the connection closes meanwhile. Pushes are not sent any more.
#[tokio::test]
async fn answers_still_come_before_the_close_and_pushes_do_not() {
    let (connection, mut client) = connect(WireFormat::JSON, &roomy()).await;
    connection.close(Disconnect::Shutdown);
    send(&connection, [1]);
    connection.reply(7, br#"{"code":0}"#);
    connection.conclude();
    connection.reply(8, br#"{"code":0}"#);
    let json = |text: &str| serde_json::from_str(text).unwrap();
    let body = json(r#"{"code":0}"#);
    assert_eq!(client.next().await, Told::Reply { id: 7, body });
    let kick = json(r#"{"reason":"shutdown","reconnect":true}"#);
    assert_eq!(client.next().await, Told::Kick(kick));
    let (code, reason) = (4000, "shutdown".to_owned());
    assert_eq!(client.next().await, Told::Close { code, reason });
    assert_eq!(client.next().await, Told::End);
}

#[tokio::test]
async fn a_client_that_ended_its_side_gets_its_answers_and_no_close() {
    let (connection, mut client) = connect(WireFormat::JSON, &roomy()).await;
    connection.close_plainly();
    connection.reply(7, br#"{"code":0}"#);
    connection.conclude();
    let body = serde_json::from_str(r#"{"code":0}"#).unwrap();
    assert_eq!(client.next().await, Told::Reply { id: 7, body });
    assert_eq!(client.next().await, Told::End);
}

/// Answers are bounded like everything else.
#[tokio::test]
async fn a_closing_client_that_does_not_read_its_answers_is_cut_off() {
    let limits = QueueLimits::new(256 << 10, 512 << 20);
    let (connection, _client, _) = stuck(&limits).await;
    connection.close(Disconnect::Shutdown);
    let body = [b"\"", &[b'x'; 40_000][..], b"\""].concat();
    for id in 0..20 {
        connection.reply(id, &body);
    }
    assert!(
        limits.queued() < 16 << 10,
        "the rest of the queue is dropped at once"
    );
    assert_eq!(connection.closing(), Some(Disconnect::Shutdown));
}

#[tokio::test]
async fn a_caller_can_wait_until_the_queue_is_written() {
    let (connection, mut client, last) = stuck(&roomy()).await;
    connection.conclude();
    let (_, rest) = tokio::join!(soon(connection.flushed()), client.rest());
    assert_eq!(rest, (positions(last), Some(1000)));
}

/// A connection with more in its queue than its share.
async fn behind(limits: &Arc<QueueLimits>) -> (Arc<Connection>, Client) {
    let (connection, client, last) = stuck(limits).await;
    send(&connection, last + 1..=last + 1_100);
    assert!(connection.is_behind());
    (connection, client)
}

#[tokio::test]
async fn all_callers_that_wait_for_room_go_on_when_the_connection_closes() {
    let (connection, _client) = behind(&roomy()).await;
    let wait = || {
        let connection = Arc::clone(&connection);
        tokio::spawn(async move { connection.room().await })
    };
    let waiting = [wait(), wait(), wait()];
    crate::testing::let_run().await;
    assert!(waiting.iter().all(|task| !task.is_finished()));
    connection.close(Disconnect::Kicked);
    for task in waiting {
        soon(task).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_for_the_stall_time_is_cut_off() {
    let stall = std::time::Duration::from_secs(50);
    let limits = QueueLimits::with_stall(64 << 20, 512 << 20, stall);
    let (connection, _client) = behind(&limits).await;
    let begun = tokio::time::Instant::now();
    connection.room().await;
    assert_eq!(connection.closing(), Some(Disconnect::Slow));
    assert!(begun.elapsed() <= stall + std::time::Duration::from_secs(1));
    assert_eq!(limits.queued(), 0);
}

#[tokio::test]
async fn frames_that_wait_for_polls_count_for_the_process() {
    let limits = QueueLimits::new(64 << 20, 100_000);
    let mailbox = Arc::new(Mailbox::new(&limits, None));
    let connection = Connection::new(Arc::clone(&mailbox), WireFormat::JSON, Arc::clone(&limits));
    send(&connection, 1..=4);
    assert!(limits.queued() > 4 * (8 << 10));
    let (other, _other, _) = stuck(&limits).await;
    let _ = other;
    while connection.closing().is_none() {
        send(&connection, [5]);
    }
    assert_eq!(connection.closing(), Some(Disconnect::Slow));
    connection.abort();
    other.abort();
    until(|| limits.queued() == 0).await;
}
