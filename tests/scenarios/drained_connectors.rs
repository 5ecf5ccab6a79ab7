//! Operators stop a connector by a call, as if they had sent it SIGTERM.

use proto::chat::v1::node_service_client::NodeServiceClient;
use proto::chat::v1::{ConnectorState, DrainConnectorRequest, ListConnectorsRequest};
use std::time::Duration;
use testkit::chat_api::ChatApi;
use testkit::link::End;
use testkit::permit::Permit;
use testkit::pomelo::{Client, LOGGED_IN, left};
use testkit::service::Standalone;
use testkit::system::System;
use testkit::{SOON, json as ws, wait};
use tonic::Code;

const DRAINED: Duration = Duration::from_secs(10);

fn drain(connector: &str) -> DrainConnectorRequest {
    DrainConnectorRequest {
        connector: connector.to_owned(),
        incarnation: String::new(),
    }
}

/// What the connector does. `None`: it is not listed.
async fn state(api: &ChatApi, connector: &str) -> Option<ConnectorState> {
    let mut nodes = NodeServiceClient::new(api.channel());
    let listed = nodes.list_connectors(ListConnectorsRequest {}).await;
    let listed = listed.expect("a list").into_inner().connectors;
    let found = listed.iter().find(|it| it.name == connector);
    found.map(|it| it.state())
}

#[tokio::test]
async fn a_connector_that_is_drained_sends_its_clients_elsewhere_and_ends_with_success() {
    let mut system = System::start().await;
    let watcher = system.member(1, "watcher", "room").await;
    let alice = system.member(0, "alice", "room").await;
    let bob = ws::Client::connect(system.connectors[0].address()).await;
    let carol = system.member(0, "carol", "room").await;
    let mut nodes = NodeServiceClient::new(system.api(0).channel());

    let answer = nodes.drain_connector(drain("connector-1")).await;
    let answer = answer.expect("an answer").into_inner();
    assert_eq!(answer.unanswered_connectors, Vec::<String>::new());
    assert_eq!(answer.incarnations.len(), 1);
    assert!(answer.incarnations[0].draining);
    let shown = state(&system.api(1), "connector-1").await;
    assert!(
        matches!(
            shown,
            None | Some(ConnectorState::Draining | ConnectorState::Dead)
        ),
        "{shown:?}"
    );
    // A second call is harmless, whether the connector still drains or has ended.
    let again = nodes.drain_connector(drain("connector-1")).await;
    assert!(
        again
            .as_ref()
            .map_or_else(|it| it.code() == Code::NotFound, |_| true),
        "{again:?}"
    );

    let status = system.connectors[0].ended_within(DRAINED).await;
    assert!(status.success(), "{status}");
    for client in [&alice, &carol] {
        let end = client.end(SOON).await;
        assert!(matches!(end, End::Closed { code: 1001, .. }), "{end:?}");
    }
    assert!(matches!(bob.end(SOON).await, End::Closed { .. }));
    watcher.until_push(&left("alice")).await;
    watcher.until_push(&left("carol")).await;
    system.until_members("room", &[("watcher", 1)]).await;
    let api = system.api(1);
    wait::eventually("it is dead, and then gone", SOON, async || {
        matches!(
            state(&api, "connector-1").await,
            None | Some(ConnectorState::Dead)
        )
    })
    .await;
    let gone = nodes.drain_connector(drain("connector-1")).await;
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);

    // Its clients go to the other one, which goes on.
    let alice = system.member(1, "alice", "room").await;
    assert_eq!(state(&api, "connector-2").await, Some(ConnectorState::Live));
    drop(alice);
}

/// The process is a chat as well, which answers before it ends.
#[tokio::test]
async fn a_standalone_that_is_drained_ends_as_a_whole() {
    let _permit = Permit::shared().await;
    let mut standalone = Standalone::start().await;
    let client = Client::connect(standalone.address()).await;
    assert_eq!(client.login("alice", "room").await, LOGGED_IN);
    let mut nodes = NodeServiceClient::new(ChatApi::at(standalone.grpc()).channel());
    let answer = nodes.drain_connector(drain("standalone")).await;
    let answer = answer.expect("an answer").into_inner();
    assert!(answer.incarnations[0].draining);
    let status = standalone.ended_within(DRAINED).await;
    assert!(status.success(), "{status}");
    assert!(matches!(client.end(SOON).await, End::Closed { .. }));
}
