//! What operators are told about connectors.

use super::*;
use proto::chat::v1::{Connector, ConnectorState, ListConnectorsRequest};

/// Each connector with its state and its number of sessions.
fn seen(connectors: &[Connector]) -> Vec<(&str, ConnectorState, u64)> {
    let seen = connectors.iter();
    seen.map(|it| (&*it.name, it.state(), it.sessions))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn every_connector_is_listed_with_what_it_does_and_how_much_it_holds() {
    use ConnectorState::{Dead, Draining, Live, Unanswered};
    let store = store();
    let chat = chat_of(&[]);
    chat.rules().set(&[]);
    let one = Node::with(&store, "one", store.inboxes(), Arc::clone(&chat)).await;
    let silent = Node::new(&store, "silent", Lossy::new(&store, "chat:", 1_000)).await;
    let gone = Node::new(&store, "gone", store.inboxes()).await;
    let mut guests = vec![
        one.guest("u", "s1").await,
        one.guest("u", "s2").await,
        silent.guest("u", "s3").await,
    ];
    let _logging_in = one.logging_in("u", "s4", WireFormat::JSON).await;
    let process = one.commands.process();
    (0..5).for_each(|_| process.opened());
    process.closed();
    drop(gone.keeping);
    gone.lease.end(Duration::ZERO).await;
    let mut nodes = nodes(&store);
    let mut list = async || {
        let begun = Instant::now();
        let listed = nodes.list_connectors(ListConnectorsRequest {}).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(1), "one is silent");
        listed.unwrap().into_inner().connectors
    };
    let listed = list().await;
    let expected = [
        ("gone", Dead, 0),
        ("one", Live, 2),
        ("silent", Unanswered, 0),
    ];
    assert_eq!(seen(&listed), expected);
    let first = &listed[1];
    assert_eq!(first.connections, 4);
    assert_eq!(first.version, env!("CARGO_PKG_VERSION"));
    assert!(first.start_time.is_some());
    assert!(first.incarnation.starts_with("one:"));
    assert_eq!(first.rules_hash, chat.rules().text());

    guests.remove(0);
    process.drains();
    let listed = list().await;
    assert_eq!(seen(&listed)[1], ("one", Draining, 1));
}
