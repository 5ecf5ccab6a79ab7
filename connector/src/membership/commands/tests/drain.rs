//! Operators stop a connector.

use super::*;
use futures_util::FutureExt;
use proto::chat::v1::{ConnectorState, DrainConnectorRequest, ListConnectorsRequest};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use tonic::Code;

/// Looks whether the process has begun to stop when its answer is sent. It passes answers on, or keeps them for ever.
struct Observed {
    inboxes: Arc<dyn Inboxes>,
    commands: OnceLock<Arc<Commands>>,
    passes_answers: bool,
    was_stopping: AtomicBool,
}

impl Observed {
    async fn node(store: &MemoryStore, passes_answers: bool) -> (Arc<Self>, Node) {
        let observed = Arc::new(Self {
            inboxes: store.inboxes(),
            commands: OnceLock::new(),
            passes_answers,
            was_stopping: AtomicBool::new(false),
        });
        let node = Node::new(store, "one", observed.clone()).await;
        let _ = observed.commands.set(Arc::clone(&node.commands));
        (observed, node)
    }
}

#[async_trait]
impl Inboxes for Observed {
    async fn post(&self, to: &Incarnation, content: &[u8]) -> Result<bool, StoreError> {
        let stops = self.commands.get().is_some_and(|it| stops(it));
        self.was_stopping.fetch_or(stops, Ordering::Relaxed);
        if self.passes_answers {
            self.inboxes.post(to, content).await
        } else {
            std::future::pending().await
        }
    }

    fn open(&self, name: &Incarnation) -> Inbox {
        self.inboxes.open(name)
    }
}

fn stops(commands: &Commands) -> bool {
    commands.process().is_to_stop().now_or_never().is_some()
}

fn drain(connector: &str, incarnation: &str) -> DrainConnectorRequest {
    DrainConnectorRequest {
        connector: connector.to_owned(),
        incarnation: incarnation.to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_connector_answers_that_it_drains_before_it_stops_and_others_go_on() {
    let store = store();
    let (observed, one) = Observed::node(&store, true).await;
    let other = Node::new(&store, "other", store.inboxes()).await;
    let mut nodes = nodes(&store);
    let first = nodes.drain_connector(drain("one", "")).await;
    let first = first.unwrap().into_inner();
    assert_eq!(first.incarnations.len(), 1);
    assert!(first.incarnations[0].incarnation.starts_with("one:"));
    assert!(first.incarnations[0].draining);
    assert_eq!(first.unanswered_connectors, Vec::<String>::new());
    let was_stopping = observed.was_stopping.load(Ordering::Relaxed);
    assert!(!was_stopping, "the process may end before the answer left");
    one.commands.process().is_to_stop().await;
    assert!(!stops(&other.commands));
    let listed = nodes.list_connectors(ListConnectorsRequest {}).await;
    let listed = listed.unwrap().into_inner().connectors;
    let states: Vec<_> = listed.iter().map(|it| it.state()).collect();
    assert_eq!(states, [ConnectorState::Draining, ConnectorState::Live]);
    // While the process lives, a second call is answered as the first one.
    let second = nodes.drain_connector(drain("one", "")).await;
    assert_eq!(second.unwrap().into_inner(), first);
}

#[tokio::test(start_paused = true)]
async fn a_connector_whose_answers_do_not_leave_stops_all_the_same_and_is_named() {
    let store = store();
    let (_observed, one) = Observed::node(&store, false).await;
    let answer = nodes(&store).drain_connector(drain("one", "")).await;
    let answer = answer.unwrap().into_inner();
    assert!(!answer.incarnations[0].draining);
    assert_eq!(answer.unanswered_connectors, ["one"]);
    one.commands.process().is_to_stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_given_up_before_its_answer_stops_the_process() {
    let store = store();
    let (_observed, one) = Observed::node(&store, false).await;
    let mut nodes = nodes(&store);
    let call = tokio::spawn(async move { nodes.drain_connector(drain("one", "")).await });
    let begun = async {
        while !one.commands.process().is_draining() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_millis(100), begun).await.unwrap();
    assert!(!stops(&one.commands), "its answer is under way");
    drop(one.keeping);
    one.commands.process().is_to_stop().await;
    call.abort();
}

#[tokio::test(start_paused = true)]
async fn only_the_incarnation_that_is_named_drains_and_one_that_is_dead_is_not_found() {
    let store = store();
    let old = Node::new(&store, "one", store.inboxes()).await;
    let mut nodes = nodes(&store);
    let mut list = {
        let mut nodes = nodes.clone();
        async move || {
            let listed = nodes.list_connectors(ListConnectorsRequest {}).await;
            listed.unwrap().into_inner().connectors
        }
    };
    let first = list().await[0].incarnation.clone();
    let new = Node::new(&store, "one", store.inboxes()).await;
    let answer = nodes.drain_connector(drain("one", &first)).await.unwrap();
    assert_eq!(answer.into_inner().incarnations[0].incarnation, first);
    assert!(stops(&old.commands) && !stops(&new.commands));

    // Its process ends.
    drop(old.keeping);
    old.lease.end(Duration::ZERO).await;
    for (connector, incarnation) in [
        ("one", &*first),
        ("one", "one:none"),
        ("on", ""),
        ("two", ""),
    ] {
        let answer = nodes.drain_connector(drain(connector, incarnation)).await;
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{connector} {incarnation}");
    }
    assert!(!stops(&new.commands));
    let answer = nodes.drain_connector(drain("one", "")).await.unwrap();
    let drained = answer.into_inner().incarnations;
    assert_eq!(drained.len(), 1, "the dead one is left out: {drained:?}");
    assert!(stops(&new.commands));
}
