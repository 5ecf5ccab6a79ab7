//! Requests about live users that are wrong, and those that concern nobody.

use crate::support::{Chat, reason, violations};
use proto::chat::v1::list_sessions_request::Of;
use proto::chat::v1::node_service_client::NodeServiceClient;
use proto::chat::v1::push_to_users_request::Content;
use proto::chat::v1::user_service_client::UserServiceClient;
use proto::chat::v1::{
    AddToChannelRequest, BatchGetPresenceRequest, DisconnectRequest, DrainConnectorRequest,
    ListConnectorsRequest, ListSessionsRequest, PushToUsersRequest, RemoveFromChannelRequest,
    SessionName,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

async fn users() -> (Chat, UserServiceClient<Channel>) {
    let chat = Chat::start().await;
    let client = UserServiceClient::new(chat.channel().await);
    (chat, client)
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("u{number}")).collect()
}

/// The only field that is wrong, and what is wrong with it.
fn only(status: &Status) -> (String, String) {
    let wrong = violations(status);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    wrong[0].clone()
}

#[tokio::test]
async fn the_service_is_healthy_while_the_store_is_there() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    let chat = Chat::start().await;
    let mut health = HealthClient::new(chat.channel().await);
    let service = "chat.v1.UserService".to_owned();
    let answer = health.check(HealthCheckRequest { service }).await;
    assert_eq!(answer.unwrap().into_inner().status, 1);
}

#[tokio::test]
async fn lists_of_users_must_have_one_to_a_thousand_different_ones() {
    let (_chat, mut client) = users().await;
    let twice = vec!["a".to_owned(), "b".to_owned(), "a".to_owned()];
    let invisible = vec!["a".to_owned(), "b\u{200b}".to_owned()];
    for (users, complaint) in [
        (names(0), "1 to 1000 users are needed, not 0"),
        (names(1_001), "1 to 1000 users are needed, not 1001"),
        (
            twice,
            "number 2 is the same as an earlier one: name each user once",
        ),
        (invisible, "number 1 must not hold invisible characters"),
    ] {
        let expected = ("users".to_owned(), complaint.to_owned());
        let request = BatchGetPresenceRequest {
            users: users.clone(),
        };
        let status = client.batch_get_presence(request).await.unwrap_err();
        assert_eq!(only(&status), expected);
        let request = PushToUsersRequest {
            users,
            content: Some(Content::BodyJson("{}".into())),
            ..PushToUsersRequest::default()
        };
        let status = client.push_to_users(request).await.unwrap_err();
        assert_eq!(only(&status), expected);
    }
}

#[tokio::test]
async fn all_wrong_fields_of_a_push_are_named_at_once() {
    let (_chat, mut client) = users().await;
    let request = PushToUsersRequest {
        route: "onKick".to_owned(),
        content: Some(Content::BodyJson("[]".into())),
        ..PushToUsersRequest::default()
    };
    let status = client.push_to_users(request).await.unwrap_err();
    let fields: Vec<_> = violations(&status).into_iter().map(|it| it.0).collect();
    assert_eq!(fields, ["users", "route", "body_json"]);
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(128 << 10));
    let request = PushToUsersRequest {
        users: names(1),
        content: Some(Content::BodyJson(large.into())),
        ..PushToUsersRequest::default()
    };
    let status = client.push_to_users(request).await.unwrap_err();
    let (field, complaint) = only(&status);
    assert_eq!(field, "body_json");
    assert_eq!(complaint, "must have at most 131072 bytes as JSON");
}

#[tokio::test]
async fn wrong_fields_of_a_disconnect_are_named() {
    let (_chat, mut client) = users().await;
    let named = |user: &str, session: &str| SessionName {
        user: user.to_owned(),
        session: session.to_owned(),
    };
    let right = DisconnectRequest {
        users: names(1),
        ..DisconnectRequest::default()
    };
    for (request, field) in [
        (DisconnectRequest::default(), "users"),
        (
            DisconnectRequest {
                users: names(600),
                sessions: vec![named("u", "s"); 401],
                ..DisconnectRequest::default()
            },
            "users",
        ),
        (
            DisconnectRequest {
                sessions: vec![named("", "s")],
                ..DisconnectRequest::default()
            },
            "sessions.user",
        ),
        (
            DisconnectRequest {
                sessions: vec![named("u", "@detached")],
                ..DisconnectRequest::default()
            },
            "sessions.session",
        ),
        (
            DisconnectRequest {
                except_sessions: vec!["a\nb".to_owned()],
                ..right.clone()
            },
            "except_sessions",
        ),
        (
            DisconnectRequest {
                reason: "x".repeat(65),
                ..right.clone()
            },
            "reason",
        ),
        (
            DisconnectRequest {
                code: 4_099,
                ..right.clone()
            },
            "code",
        ),
    ] {
        let status = client.disconnect(request).await.unwrap_err();
        assert_eq!(only(&status).0, field);
    }
    let answer = client.disconnect(right).await.unwrap().into_inner();
    assert!(answer.closed.is_empty() && answer.unanswered_connectors.is_empty());
}

#[tokio::test]
async fn sessions_are_listed_of_one_thing_and_a_page_token_belongs_to_its_request() {
    let (_chat, mut client) = users().await;
    let status = client.list_sessions(ListSessionsRequest::default()).await;
    assert_eq!(only(&status.unwrap_err()).0, "of");
    for (of, field) in [
        (Of::User(String::new()), "user"),
        (Of::Channel("x".repeat(257)), "channel"),
        (Of::Connector("a\nb".to_owned()), "connector"),
    ] {
        let request = ListSessionsRequest {
            of: Some(of),
            ..ListSessionsRequest::default()
        };
        let status = client.list_sessions(request).await.unwrap_err();
        assert_eq!(only(&status).0, field);
    }
    for of in [
        Of::User("u".to_owned()),
        Of::Channel("u".to_owned()),
        Of::Connector("u".to_owned()),
    ] {
        let mut request = ListSessionsRequest {
            of: Some(of),
            ..ListSessionsRequest::default()
        };
        let page = client.list_sessions(request.clone()).await.unwrap();
        assert_eq!(page.into_inner(), Default::default());
        request.page_token = "0123456789abcdefu\ns".to_owned();
        let status = client.list_sessions(request).await.unwrap_err();
        assert_eq!(only(&status).0, "page_token");
    }
}

#[tokio::test]
async fn all_wrong_fields_of_an_addition_or_a_removal_are_named_at_once() {
    let (_chat, mut client) = users().await;
    let wrong = AddToChannelRequest {
        channel: String::new(),
        user: "u\n".to_owned(),
        session: "@detached".to_owned(),
    };
    let status = client.add_to_channel(wrong.clone()).await.unwrap_err();
    let fields = |status: &Status| {
        let wrong = violations(status).into_iter().map(|it| it.0);
        wrong.collect::<Vec<_>>()
    };
    assert_eq!(fields(&status), ["channel", "user", "session"]);
    let AddToChannelRequest {
        channel,
        user,
        session,
    } = wrong;
    let wrong = RemoveFromChannelRequest {
        channel,
        user,
        session,
    };
    let status = client.remove_from_channel(wrong).await.unwrap_err();
    assert_eq!(fields(&status), ["channel", "user", "session"]);

    // Nobody is there.
    let request = AddToChannelRequest {
        channel: "room".to_owned(),
        user: "u".to_owned(),
        session: String::new(),
    };
    let answer = client.add_to_channel(request).await.unwrap();
    assert_eq!(answer.into_inner(), Default::default());
    let request = RemoveFromChannelRequest {
        channel: "room".to_owned(),
        user: "u".to_owned(),
        session: "s".to_owned(),
    };
    let answer = client.remove_from_channel(request).await.unwrap();
    assert_eq!(answer.into_inner(), Default::default());
}

#[tokio::test]
async fn clients_are_told_that_they_were_added_by_connectors_alone() {
    let (_chat, mut client) = users().await;
    for route in ["onAdded", "onRemoved"] {
        let request = PushToUsersRequest {
            users: names(1),
            route: route.to_owned(),
            content: Some(Content::BodyJson("{}".into())),
        };
        let status = client.push_to_users(request).await.unwrap_err();
        let expected = "is one that connectors use: choose another".to_owned();
        assert_eq!(only(&status), ("route".to_owned(), expected));
    }
}

#[tokio::test]
async fn without_a_connector_the_list_of_connectors_is_empty() {
    let chat = Chat::start().await;
    let mut client = NodeServiceClient::new(chat.channel().await);
    let answer = client.list_connectors(ListConnectorsRequest {}).await;
    assert_eq!(answer.unwrap().into_inner(), Default::default());
}

#[tokio::test]
async fn wrong_fields_of_a_drain_are_named_and_an_unknown_connector_is_not_found() {
    let chat = Chat::start().await;
    let mut client = NodeServiceClient::new(chat.channel().await);
    let mut drain = async |connector: &str, incarnation: &str| {
        let request = DrainConnectorRequest {
            connector: connector.to_owned(),
            incarnation: incarnation.to_owned(),
        };
        client.drain_connector(request).await.unwrap_err()
    };
    for (connector, incarnation, field) in [
        ("", "", "connector"),
        ("a\nb", "", "connector"),
        ("a", "a\n:1", "incarnation"),
        ("a", "b:1", "incarnation"),
    ] {
        let status = drain(connector, incarnation).await;
        assert_eq!(only(&status).0, field, "{connector:?} {incarnation:?}");
    }
    for incarnation in ["", "a:1"] {
        let status = drain("a", incarnation).await;
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(reason(&status), "CONNECTOR_NOT_FOUND");
    }
}
