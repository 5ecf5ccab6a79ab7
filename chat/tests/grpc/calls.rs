//! How each call uses the store, and how the store's answer is returned.

use crate::support::{Chat, DETACHED_LIFE, fields, message, position, violations};
use channel_store::{Epoch, Join, Membership, ON_MESSAGE, UserInfo};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proto::chat::v1::member::About;
use proto::chat::v1::send_request::Content;
use proto::chat::v1::{
    Channel, CountMembersRequest, DeleteChannelRequest, GetChannelRequest, JoinRequest,
    LeaveRequest, ListChannelsRequest, ListMembersRequest, Member, MemberCount, Position,
    SendRequest, TrimHistoryRequest, join_request,
};
use proto::connector::v1::{self as sessions, Beginning, Session};
use proto::time::{milliseconds, timestamp};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[tokio::test]
async fn a_session_joins_and_leaves_with_its_incarnation_and_operation() {
    let chat = Chat::start().await;
    let mut client = chat.sessions().await;
    let session = Session {
        incarnation: "c1-abc".into(),
        id: "s1".into(),
    };
    let request = sessions::JoinRequest {
        channel: "4".into(),
        user: "5".into(),
        user_is_number: true,
        session: Some(session.clone()),
        operation: 17,
        deadline: Some(timestamp(1_700_000_000_123)),
        replaces: vec![Session {
            incarnation: "c2-def".into(),
            id: "s0".into(),
        }],
        repairs: Some(Beginning {
            life: "life".into(),
            deletion: "e0".into(),
        }),
        info_json: r#"{"name":"安"}"#.into(),
    };
    let joined = client.join(request).await.unwrap().into_inner();
    let Position { epoch, offset } = joined.position.unwrap();
    assert_eq!((epoch.as_str(), offset), ("e1", position(7).offset));
    assert!(joined.published);
    assert_eq!(
        (joined.trimmed, &*joined.life, &*joined.deletion),
        (3, "life", "e9")
    );

    let request = sessions::LeaveRequest {
        channel: "4".into(),
        user: "5".into(),
        user_is_number: true,
        session: Some(session),
        operation: 18,
        fence: true,
    };
    assert!(client.leave(request).await.unwrap().into_inner().left);

    let (joins, leaves) = (chat.store.joins.lock(), chat.store.leaves.lock());
    let leave = &leaves[0];
    assert!(leave.fence);
    assert_eq!(joins[0].deadline, Some(1_700_000_000_123));
    let [replaced] = &joins[0].replaces[..] else {
        panic!("{:?}", joins[0].replaces);
    };
    let replaced = (replaced.incarnation.as_str(), replaced.session.as_str());
    assert_eq!(replaced, ("c2-def", "s0"));
    let repaired = joins[0].repairs.as_ref().unwrap();
    assert_eq!(repaired.life, Epoch::new("life"));
    assert_eq!(repaired.deletion, Epoch::new("e0"));
    assert_eq!(joins[0].user.json(), "5");
    let info = joins[0].info.as_ref().map(UserInfo::as_str);
    assert_eq!(info, Some(r#"{"name":"安"}"#));
    assert_eq!(leave.user, joins[0].user);
    assert_eq!(leave.channel.as_str(), "4");
    for (number, membership) in [(17, &joins[0].membership), (18, &leave.membership)] {
        let Membership::Session {
            incarnation,
            session,
            operation,
        } = membership
        else {
            panic!("{membership:?}");
        };
        assert_eq!(
            (incarnation.as_str(), session.as_str(), *operation),
            ("c1-abc", "s1", number)
        );
    }
}

#[tokio::test]
async fn a_membership_of_a_back_end_is_detached() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let request = JoinRequest {
        channel: "4".into(),
        user: "bot".into(),
        about: proto::json::parse(br#"{"name":"Bot","n":1}"#).map(join_request::About::Info),
        ..JoinRequest::default()
    };
    client.join(request.clone()).await.unwrap();
    let json = br#"{"n":1.0,"name":"Bot"}"#;
    let request = JoinRequest {
        about: Some(join_request::About::InfoJson(json[..].into())),
        ..request
    };
    client.join(request).await.unwrap();
    let request = LeaveRequest {
        channel: "4".into(),
        user: "bot".into(),
        ..LeaveRequest::default()
    };
    client.leave(request).await.unwrap();
    let (joins, leaves) = (chat.store.joins.lock(), chat.store.leaves.lock());
    assert!(matches!(joins[0].membership, Membership::Detached));
    let info = |join: &Join| join.info.as_ref().map(|it| it.as_str().to_owned());
    assert_eq!(info(&joins[0]).unwrap(), r#"{"n":1,"name":"Bot"}"#);
    assert_eq!(info(&joins[1]).unwrap(), r#"{"n":1.0,"name":"Bot"}"#);
    assert!(matches!(leaves[0].membership, Membership::Detached));
    assert!(!leaves[0].fence);
}

#[tokio::test]
async fn a_membership_lasts_as_long_as_its_join_says_and_the_answer_says_until_when() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let day = Duration::from_secs(24 * 3600);
    for (ttl, stay) in [
        (None, DETACHED_LIFE),
        (Some((1, 0)), Duration::from_secs(1)),
        (Some((1, 500_000_000)), Duration::from_millis(1_500)),
        (Some((24 * 3600, 0)), day),
    ] {
        let request = JoinRequest {
            channel: "4".into(),
            user: "bot".into(),
            ttl: ttl.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }),
            ..JoinRequest::default()
        };
        let since_1970 = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let before = since_1970();
        let joined = client.join(request).await.unwrap().into_inner();
        let ends = milliseconds(&joined.expire_time.unwrap()).unwrap();
        // The answer has whole milliseconds.
        let ends = Duration::from_millis(ends) + Duration::from_millis(1);
        assert!(before + stay <= ends && ends <= since_1970() + stay + Duration::from_millis(1));
        assert_eq!(chat.store.joins.lock().last().unwrap().stay, Some(stay));
    }
}

#[tokio::test]
async fn a_time_of_a_membership_that_is_not_valid_too_short_or_too_long_is_refused() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    for (seconds, nanos) in [
        (0, 0),
        (0, 999_999_999),
        (-1, 0),
        (60, -1),
        (60, 1_000_000_000),
        (24 * 3600, 1),
        (i64::MAX, 999_999_999),
        (i64::MIN, i32::MIN),
    ] {
        let request = JoinRequest {
            channel: "4".into(),
            user: String::new(),
            ttl: Some(prost_types::Duration { seconds, nanos }),
            ..JoinRequest::default()
        };
        let status = client.join(request).await.unwrap_err();
        let wrong = violations(&status);
        let fields: Vec<_> = wrong.iter().map(|it| it.0.as_str()).collect();
        assert_eq!(fields, ["user", "ttl"], "{seconds} {nanos}");
        assert_eq!(wrong[1].1, "must be a duration from one second to 24 hours");
    }
    assert!(chat.store.joins.lock().is_empty());
}

#[tokio::test]
async fn a_send_gets_its_user_id_is_published_and_answered_with_position_and_time() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let request = message(r#"{"userId":"mallory","text":"哈哈","n":1.0}"#);
    let sent = client.send(request).await.unwrap().into_inner();
    assert_eq!(sent.position.unwrap().offset, 1);
    assert_eq!(sent.publish_time, Some(timestamp(1_795_377_365_123)));
    assert_eq!(sent.reached, 2);

    assert_eq!(
        chat.store.body(),
        r#"{"userId":"nancy","text":"哈哈","n":1.0}"#,
        "the sender is replaced, and everything else stays byte by byte"
    );
    let published = &chat.store.log()[0];
    assert_eq!(published.payload.route(), ON_MESSAGE, "the default route");
    assert_eq!(published.payload.sender(), "nancy");
    assert_eq!(published.channel.as_str(), "4");
    assert!(published.key.is_none());
}

#[tokio::test]
async fn a_user_that_is_a_number_stays_a_number_and_the_callers_route_is_kept() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let request = SendRequest {
        user: "5".into(),
        user_is_number: true,
        route: "onGift".into(),
        ..message(r#"{"gift":"rose"}"#)
    };
    client.send(request).await.unwrap();
    assert_eq!(chat.store.body(), r#"{"gift":"rose","userId":5}"#);
    let published = &chat.store.log()[0];
    assert_eq!(published.payload.route(), "onGift");
    assert!(
        published.session.is_none(),
        "a back end need not be a member"
    );
}

#[tokio::test]
async fn a_struct_becomes_json_with_whole_numbers_and_sorted_keys() {
    let value = |kind| Value { kind: Some(kind) };
    let fields = [
        ("text", value(Kind::StringValue("哈哈".into()))),
        ("count", value(Kind::NumberValue(3.0))),
        ("price", value(Kind::NumberValue(0.5))),
        ("userId", value(Kind::StringValue("mallory".into()))),
    ];
    let body = Struct {
        fields: fields.map(|(key, value)| (key.to_owned(), value)).into(),
    };
    let chat = Chat::start().await;
    let request = SendRequest {
        content: Some(Content::Body(body)),
        ..message("{}")
    };
    chat.client().await.send(request).await.unwrap();
    assert_eq!(
        chat.store.body(),
        r#"{"count":3,"price":0.5,"text":"哈哈","userId":"nancy"}"#
    );
}

#[tokio::test]
async fn a_repeated_key_gets_the_first_answer_and_publishes_nothing() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let request = SendRequest {
        idempotency_key: "k1".into(),
        ..message("{}")
    };
    let first = client.send(request.clone()).await.unwrap().into_inner();
    client.send(message("{}")).await.unwrap();
    let second = client.send(request).await.unwrap().into_inner();
    assert_eq!(second.position, first.position);
    assert_eq!(second.publish_time, first.publish_time);
    assert_eq!(second.reached, 0);
    assert_eq!(chat.store.log().len(), 2);
}

#[tokio::test]
async fn members_come_in_pages_of_the_requested_size() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let mut request = ListMembersRequest {
        channel: "4".into(),
        ..ListMembersRequest::default()
    };
    let first = client.list_members(request.clone()).await;
    let first = first.unwrap().into_inner();
    let nancy = Member {
        user: "nancy".into(),
        sessions: 2,
        about: Some(About::InfoJson(r#"{"name":"南希"}"#.into())),
    };
    assert_eq!(first.members, [nancy]);
    assert_eq!(first.total_users, 3);
    let elsewhere = ListMembersRequest {
        channel: "5".into(),
        page_token: first.next_page_token.clone(),
        ..ListMembersRequest::default()
    };
    let status = client.list_members(elsewhere).await.unwrap_err();
    assert_eq!(
        fields(&status),
        ["page_token"],
        "the token belongs to another channel"
    );
    request.page_token = first.next_page_token;
    request.info_as_struct = true;
    // A size above the maximum counts as the maximum.
    request.page_size = 1_001;
    let last = client.list_members(request).await.unwrap().into_inner();
    assert_eq!(last.next_page_token, "", "this is the last page");
    let info = proto::json::parse(r#"{"name":"南希"}"#.as_bytes());
    assert_eq!(last.members[0].about, info.map(About::Info));
    let asked = |token: Option<&str>, size| ("4".to_owned(), token.map(str::to_owned), size);
    assert_eq!(
        *chat.store.pages.lock(),
        [asked(None, 100), asked(Some("more"), 1_000)]
    );
}

#[tokio::test]
async fn members_of_many_channels_are_counted_in_the_order_of_the_request() {
    let chat = Chat::start().await;
    let request = CountMembersRequest {
        channels: ["4", "nowhere", "4"].map(str::to_owned).into(),
    };
    let counts = chat.client().await.count_members(request).await;
    let count = |channel: &str, users, sessions| MemberCount {
        channel: channel.to_owned(),
        users,
        sessions,
    };
    assert_eq!(
        counts.unwrap().into_inner().counts,
        [count("4", 2, 3), count("nowhere", 0, 0), count("4", 2, 3)]
    );
}

#[tokio::test]
async fn a_channel_is_described_with_the_rule_that_it_follows() {
    let chat = Chat::start().await;
    let request = |channel: &str| GetChannelRequest {
        channel: channel.to_owned(),
    };
    let found = chat.client().await.get_channel(request("game:1")).await;
    let described = Channel {
        name: "game:1".into(),
        position: Some(Position {
            epoch: "e1".into(),
            offset: 7,
        }),
        users: 2,
        sessions: 3,
        held: 4,
        oldest_publish_time: Some(timestamp(1_700_000_000_123)),
        newest_publish_time: None,
        log_rule: "game:*".into(),
        held_bytes: 567,
    };
    assert_eq!(found.unwrap().into_inner().channel, Some(described));
    let plain = chat.client().await.get_channel(request("4")).await;
    assert_eq!(plain.unwrap().into_inner().channel.unwrap().log_rule, "");
}

#[tokio::test]
async fn channels_come_in_pages_whose_tokens_are_good_for_one_prefix() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    let mut request = ListChannelsRequest {
        prefix: "game:".into(),
        ..ListChannelsRequest::default()
    };
    let first = client.list_channels(request.clone()).await;
    let first = first.unwrap().into_inner();
    assert_eq!(first.channels[0].name, "game:1");
    let another = ListChannelsRequest {
        page_token: first.next_page_token.clone(),
        ..ListChannelsRequest::default()
    };
    let status = client.list_channels(another).await.unwrap_err();
    assert_eq!(fields(&status), ["page_token"], "another prefix's token");
    request.page_token = first.next_page_token;
    request.page_size = 1_001;
    let last = client.list_channels(request).await.unwrap().into_inner();
    assert_eq!(last.next_page_token, "");
    let asked = |token: Option<&str>, size| ("game:".to_owned(), token.map(str::to_owned), size);
    assert_eq!(
        *chat.store.pages.lock(),
        [asked(None, 100), asked(Some("more"), 1_000)]
    );
}

#[tokio::test]
async fn a_log_is_trimmed_up_to_the_position_that_is_asked_for() {
    let chat = Chat::start().await;
    let request = TrimHistoryRequest {
        channel: "4".into(),
        position: Some(Position {
            epoch: "e1".into(),
            offset: 2,
        }),
    };
    let trimmed = chat.client().await.trim_history(request).await;
    assert_eq!(trimmed.unwrap().into_inner().held, 5);
    assert_eq!(*chat.store.trims.lock(), [("4".to_owned(), position(2))]);
}

#[tokio::test]
async fn a_channel_is_deleted_by_its_key_or_without_one() {
    let chat = Chat::start().await;
    let mut client = chat.client().await;
    for key in ["", "k"] {
        let request = DeleteChannelRequest {
            channel: "4".into(),
            idempotency_key: key.into(),
        };
        let deleted = client.delete_channel(request).await.unwrap().into_inner();
        assert_eq!(deleted.position.unwrap().offset, 8);
    }
    let deletions = [None, Some("k".to_owned())].map(|key| ("4".to_owned(), key));
    assert_eq!(*chat.store.deletions.lock(), deletions);
}
