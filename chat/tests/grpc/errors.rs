//! All statuses of the contract, with their details.

use crate::support::{Chat, fields, message, position, reason, violations};
use channel_store::StoreError;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use proto::chat::v1::send_request::Content;
use proto::chat::v1::{
    CountMembersRequest, DeleteChannelRequest, GetChannelRequest, JoinRequest, LeaveRequest,
    ListChannelsRequest, ListMembersRequest, Position, SendRequest, TrimHistoryRequest,
};
use proto::connector::v1::{self as sessions, Beginning, Session};
use tonic::{Code, Status};
use tonic_types::StatusExt;

async fn refused(request: SendRequest) -> Status {
    let chat = Chat::start().await;
    let status = chat.client().await.send(request).await.unwrap_err();
    assert!(chat.store.log().is_empty(), "a refused message was written");
    status
}

#[tokio::test]
async fn all_wrong_fields_of_a_send_are_named_at_once() {
    let status = refused(SendRequest {
        channel: "x".repeat(257),
        user: "a\nb".into(),
        route: "onJoin".into(),
        idempotency_key: "k".repeat(129),
        content: Some(Content::BodyJson("[]".into())),
        expected_position: Some(Position {
            epoch: String::new(),
            offset: 1,
        }),
        ..SendRequest::default()
    })
    .await;
    let expected = [
        ("channel", "must have at most 256 bytes"),
        ("user", "must not hold control characters"),
        ("route", "is published by the store alone"),
        ("idempotency_key", "must have at most 128 bytes"),
        (
            "expected_position.epoch",
            "must have 1 to 64 bytes, or be empty with offset 0: that is a channel in which nothing was published yet",
        ),
        ("body_json", "not a JSON object"),
    ];
    let expected = expected.map(|(field, description)| (field.into(), description.into()));
    assert_eq!(violations(&status), expected);
    assert!(
        status.message().starts_with("channel: must have"),
        "the message must be readable for people: {}",
        status.message()
    );
}

#[tokio::test]
async fn missing_fields_of_a_send_are_named() {
    let status = refused(SendRequest::default()).await;
    assert_eq!(fields(&status), ["channel", "user", "content"]);
}

#[tokio::test]
async fn reserved_and_invalid_routes_are_refused() {
    for route in [
        "onJoin",
        "onLeave",
        "onPosition",
        "onKick",
        "onExpired",
        "onDeleted",
        "onKick ",
        "\tonKick",
        "\u{3000}onMessage",
        "onMessage\u{a0}",
        " ",
        "a\0b",
        &"x".repeat(129),
    ] {
        let route = route.to_owned();
        let status = refused(SendRequest {
            route,
            ..message("{}")
        });
        assert_eq!(fields(&status.await), ["route"]);
    }
}

#[tokio::test]
async fn a_numeric_user_must_be_written_as_javascript_writes_it() {
    for user in ["", "five", "+5", "5.0", "1e999", "NaN", "05"] {
        let status = refused(SendRequest {
            user: user.into(),
            user_is_number: true,
            ..message("{}")
        });
        assert_eq!(fields(&status.await), ["user"], "{user}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_a_small_flat_object_is_refused() {
    let deep = format!("{}{}", r#"{"a":"#.repeat(64), "{}") + &"}".repeat(64);
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(128 * 1024));
    for body in ["", "null", "[]", "{", r#"{"a":1,}"#, "{} {}", &deep, &large] {
        assert_eq!(fields(&refused(message(body)).await), ["body_json"]);
    }
    let not_utf8 = Content::BodyJson(b"{\"a\":\"\xff\"}".as_slice().into());
    let status = refused(SendRequest {
        content: Some(not_utf8),
        ..message("")
    });
    assert_eq!(fields(&status.await), ["body_json"]);
}

#[tokio::test]
async fn a_body_that_fits_into_no_frame_is_a_request_that_is_too_large() {
    let enormous = format!(r#"{{"text":"{}"}}"#, "x".repeat(5 * 1024 * 1024));
    assert_eq!(fields(&refused(message(&enormous)).await), ["request"]);
}

#[tokio::test]
async fn a_struct_that_json_cannot_represent_is_refused() {
    let send = |value: Value| SendRequest {
        content: Some(Content::Body(Struct {
            fields: [("a".to_owned(), value)].into(),
        })),
        ..message("")
    };
    let number = |number| Value {
        kind: Some(Kind::NumberValue(number)),
    };
    for number in [number(f64::NAN), number(f64::INFINITY)] {
        assert_eq!(fields(&refused(send(number)).await), ["body"]);
    }
    let text = Value {
        kind: Some(Kind::StringValue("x".repeat(128 * 1024))),
    };
    assert_eq!(fields(&refused(send(text)).await), ["body"]);
}

#[tokio::test]
async fn a_struct_nested_deeper_than_protobuf_decodes_is_refused() {
    let mut value = Value { kind: None };
    for _ in 0..500 {
        let list = ListValue {
            values: vec![value],
        };
        value = Value {
            kind: Some(Kind::ListValue(list)),
        };
    }
    let body = Struct {
        fields: [("a".to_owned(), value)].into(),
    };
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let request = SendRequest {
        content: Some(Content::Body(body)),
        ..message("")
    };
    let status = client.send(request).await.unwrap_err();
    assert_eq!(fields(&status), ["request"]);
    client.send(message("{}")).await.unwrap();
}

#[tokio::test]
async fn all_wrong_fields_of_a_join_and_a_leave_are_named_at_once() {
    let chat = Chat::start().await;
    let mut client = chat.sessions().await;
    let session = Some(Session {
        incarnation: String::new(),
        id: "@1".into(),
    });
    let expected = [
        "channel",
        "user",
        "session.incarnation",
        "session.id",
        "operation",
    ];
    let join = sessions::JoinRequest {
        session: session.clone(),
        operation: u64::MAX,
        ..Default::default()
    };
    assert_eq!(fields(&client.join(join).await.unwrap_err()), expected);
    let leave = sessions::LeaveRequest {
        session: session.clone(),
        operation: u64::MAX,
        ..Default::default()
    };
    assert_eq!(fields(&client.leave(leave).await.unwrap_err()), expected);
    let join = sessions::JoinRequest {
        channel: "4".into(),
        user: "nancy".into(),
        deadline: Some(prost_types::Timestamp {
            seconds: -1,
            nanos: 0,
        }),
        replaces: session.into_iter().collect(),
        repairs: Some(Beginning {
            life: String::new(),
            deletion: "e".repeat(65),
        }),
        info_json: "[]".into(),
        ..Default::default()
    };
    assert_eq!(
        fields(&client.join(join).await.unwrap_err()),
        [
            "session",
            "deadline",
            "replaces.incarnation",
            "replaces.id",
            "repairs.life",
            "repairs.deletion",
            "info_json",
        ]
    );
    assert!(chat.store.joins.lock().is_empty());
    assert!(chat.store.leaves.lock().is_empty());
}

#[tokio::test]
async fn what_everybody_may_know_of_a_user_is_one_object_of_at_most_a_kibibyte() {
    use proto::chat::v1::join_request::About;
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(1_024));
    let large_object = proto::json::parse(large.as_bytes()).unwrap();
    for (about, field, told) in [
        (
            About::Info(large_object),
            "info",
            "must have at most 1024 bytes as JSON",
        ),
        (
            About::InfoJson(large.into()),
            "info_json",
            "must have at most 1024 bytes as JSON",
        ),
        (
            About::InfoJson("[]".into()),
            "info_json",
            "is not a JSON object",
        ),
        (About::InfoJson("{".into()), "info_json", "is not JSON"),
    ] {
        let join = JoinRequest {
            channel: "4".into(),
            user: "bot".into(),
            about: Some(about),
            ..JoinRequest::default()
        };
        let status = client.join(join).await.unwrap_err();
        assert_eq!(violations(&status), [(field.to_owned(), told.to_owned())]);
    }
    assert!(chat.store.joins.lock().is_empty());
}

#[tokio::test]
async fn a_list_of_members_without_a_channel_is_refused() {
    let chat = Chat::start().await;
    let request = ListMembersRequest::default();
    let status = chat.client().await.list_members(request).await.unwrap_err();
    assert_eq!(fields(&status), ["channel"]);
}

#[tokio::test]
async fn a_page_token_of_another_request_is_a_wrong_field() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let mut request = ListMembersRequest {
        channel: "4".into(),
        page_token: "?".into(),
        ..ListMembersRequest::default()
    };
    let status = client.list_members(request.clone()).await.unwrap_err();
    assert_eq!(fields(&status), ["page_token"]);
    request.page_token = String::new();
    let page = client.list_members(request.clone()).await.unwrap();
    request.page_token = page.into_inner().next_page_token;
    chat.store.fail(StoreError::BadPageToken);
    let status = client.list_members(request).await.unwrap_err();
    assert_eq!(fields(&status), ["page_token"]);
}

#[tokio::test]
async fn an_error_of_the_store_is_the_same_status_for_every_call() {
    for (error, code, name) in [
        (
            StoreError::Unavailable("gone".into()),
            Code::Unavailable,
            "STORE_UNAVAILABLE",
        ),
        (StoreError::Full, Code::ResourceExhausted, "STORE_FULL"),
        (
            StoreError::NotMember,
            Code::FailedPrecondition,
            "NOT_MEMBER",
        ),
        (
            StoreError::StaleOperation,
            Code::FailedPrecondition,
            "STALE_OPERATION",
        ),
        (
            StoreError::ConnectorDead,
            Code::FailedPrecondition,
            "CONNECTOR_DEAD",
        ),
        (
            StoreError::ChannelDeleted,
            Code::FailedPrecondition,
            "CHANNEL_DELETED",
        ),
        (
            StoreError::KeyReused,
            Code::AlreadyExists,
            "IDEMPOTENCY_KEY_REUSED",
        ),
        (
            StoreError::PositionMismatch { end: position(9) },
            Code::Aborted,
            "POSITION_MISMATCH",
        ),
    ] {
        let chat = Chat::start().await;
        let mut client = chat.client().await;
        chat.store.fail(error);
        let (channel, user) = ("4".to_owned(), "nancy".to_owned());
        let join = JoinRequest {
            channel: channel.clone(),
            user: user.clone(),
            ..JoinRequest::default()
        };
        let leave = LeaveRequest {
            channel: channel.clone(),
            user,
            ..LeaveRequest::default()
        };
        let members = ListMembersRequest {
            channel,
            ..ListMembersRequest::default()
        };
        for status in [
            client.send(message("{}")).await.unwrap_err(),
            client.join(join).await.unwrap_err(),
            client.leave(leave).await.unwrap_err(),
            client.list_members(members).await.unwrap_err(),
        ] {
            assert_eq!((status.code(), reason(&status).as_str()), (code, name));
        }
    }
}

#[tokio::test]
async fn a_caller_is_told_when_to_retry_if_that_helps() {
    for (error, waits) in [
        (StoreError::Unavailable("gone".into()), true),
        (StoreError::Full, true),
        (StoreError::KeyReused, false),
    ] {
        let chat = Chat::start().await;
        chat.store.fail(error.clone());
        let status = chat.client().await.send(message("{}")).await.unwrap_err();
        let retry = status.get_details_retry_info();
        assert_eq!(
            retry.is_some_and(|it| it.retry_delay.is_some()),
            waits,
            "{error}"
        );
    }
}

#[tokio::test]
async fn reusing_a_key_for_another_content_is_refused() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let send = |json| SendRequest {
        idempotency_key: "k1".into(),
        ..message(json)
    };
    client.send(send("{}")).await.unwrap();
    let status = client.send(send(r#"{"a":1}"#)).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert_eq!(reason(&status), "IDEMPOTENCY_KEY_REUSED");
}

#[tokio::test]
async fn wrong_fields_of_calls_about_channels_are_named() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let too_many = vec!["4".to_owned(); 1_001];
    for channels in [vec![], too_many, vec!["4".to_owned(), "\n".to_owned()]] {
        let request = CountMembersRequest { channels };
        let status = client.count_members(request).await.unwrap_err();
        assert_eq!(fields(&status), ["channels"]);
    }
    let request = GetChannelRequest::default();
    let status = client.get_channel(request).await.unwrap_err();
    assert_eq!(fields(&status), ["channel"]);
    let request = ListChannelsRequest {
        prefix: "\u{200b}".into(),
        page_token: "?".into(),
        ..ListChannelsRequest::default()
    };
    let status = client.list_channels(request).await.unwrap_err();
    assert_eq!(fields(&status), ["prefix", "page_token"]);
    let request = TrimHistoryRequest::default();
    let status = client.trim_history(request).await.unwrap_err();
    assert_eq!(fields(&status), ["channel", "position"]);
    for (epoch, offset) in [("", 1), (&*"e".repeat(65), 1)] {
        let epoch = epoch.to_owned();
        let request = TrimHistoryRequest {
            channel: "4".into(),
            position: Some(Position { epoch, offset }),
        };
        let status = client.trim_history(request).await.unwrap_err();
        assert_eq!(fields(&status), ["position.epoch"]);
    }
    let request = DeleteChannelRequest {
        idempotency_key: "\n".to_owned(),
        ..DeleteChannelRequest::default()
    };
    let status = client.delete_channel(request).await.unwrap_err();
    assert_eq!(fields(&status), ["channel", "idempotency_key"]);
    assert!(chat.store.trims.lock().is_empty() && chat.store.deletions.lock().is_empty());
}

#[tokio::test]
async fn a_channel_that_the_store_does_not_know_is_not_found() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let channel = "nowhere".to_owned();
    let get = GetChannelRequest {
        channel: channel.clone(),
    };
    let delete = DeleteChannelRequest {
        channel: channel.clone(),
        idempotency_key: String::new(),
    };
    let trim = TrimHistoryRequest {
        channel,
        position: Some(Position::default()),
    };
    for status in [
        client.get_channel(get).await.unwrap_err(),
        client.trim_history(trim).await.unwrap_err(),
        client.delete_channel(delete).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(reason(&status), "CHANNEL_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_position_of_another_log_is_answered_with_where_the_log_ends() {
    let chat = Chat::start().await;
    chat.store
        .fail(StoreError::PositionMismatch { end: position(9) });
    let request = TrimHistoryRequest {
        channel: "4".into(),
        position: Some(Position::default()),
    };
    let status = chat.client().await.trim_history(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(info.reason, "POSITION_MISMATCH");
    assert_eq!(
        (&*info.metadata["epoch"], &*info.metadata["offset"]),
        ("e1", "9")
    );
}
