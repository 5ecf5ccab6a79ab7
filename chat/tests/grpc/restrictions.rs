//! Requests to block users and to revoke tokens: what is wrong with them, and what is written.

use crate::support::{Chat, reason, violations};
use channel_store::{Restriction, StoreError, TokenId, When};
use proto::chat::v1::block_user_request::End;
use proto::chat::v1::revoke_tokens_request::Which;
use proto::chat::v1::user_service_client::UserServiceClient;
use proto::chat::v1::{
    BlockUserRequest, BlockUserResponse, RevokeTokensRequest, UnblockUserRequest,
};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};

async fn users() -> (Chat, UserServiceClient<Channel>) {
    let chat = Chat::start().await;
    let client = UserServiceClient::new(chat.channel().await);
    (chat, client)
}

/// The only field that is wrong, and what is wrong with it.
fn only(status: &Status) -> (String, String) {
    let wrong = violations(status);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    wrong[0].clone()
}

fn timestamp(milliseconds: u64) -> prost_types::Timestamp {
    proto::time::timestamp(milliseconds)
}

fn for_seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// The same moment of the clock of this machine, so many seconds later.
fn in_seconds(seconds: i64) -> prost_types::Timestamp {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    prost_types::Timestamp {
        seconds: i64::try_from(since).unwrap() + seconds,
        nanos: 0,
    }
}

#[tokio::test]
async fn wrong_fields_of_a_block_are_named_and_nothing_is_written() {
    let (chat, mut client) = users().await;
    let right = BlockUserRequest {
        user: "u".to_owned(),
        end: Some(End::Duration(for_seconds(60))),
        reason: "spam".to_owned(),
    };
    for (user, end, reason, field) in [
        ("", right.end, "", "user"),
        ("u", None, "", "end"),
        ("u", Some(End::Duration(for_seconds(0))), "", "duration"),
        ("u", Some(End::Duration(for_seconds(-1))), "", "duration"),
        (
            "u",
            Some(End::Duration(for_seconds(36_501 * 86_400))),
            "",
            "duration",
        ),
        ("u", Some(End::Until(in_seconds(-5))), "", "until"),
        (
            "u",
            Some(End::Until(timestamp(253_402_300_800_000))),
            "",
            "until",
        ),
        ("u", right.end, "a\nb", "reason"),
        ("u", right.end, &*"x".repeat(65), "reason"),
    ] {
        let request = BlockUserRequest {
            user: user.to_owned(),
            end,
            reason: reason.to_owned(),
        };
        let status = client.block_user(request).await.unwrap_err();
        assert_eq!(only(&status).0, field);
    }
    assert!(chat.store.restrictions.lock().is_empty());

    let answer = client.block_user(right).await.unwrap().into_inner();
    let expected = BlockUserResponse {
        until: Some(timestamp(1_900_000_000_123)),
        ..BlockUserResponse::default()
    };
    assert_eq!(answer, expected);
    let until = in_seconds(600);
    let request = BlockUserRequest {
        user: "u".to_owned(),
        end: Some(End::Until(until)),
        reason: String::new(),
    };
    client.block_user(request).await.unwrap();
    let unblock = UnblockUserRequest {
        user: "u".to_owned(),
    };
    client.unblock_user(unblock).await.unwrap();
    let status = client.unblock_user(UnblockUserRequest::default()).await;
    assert_eq!(only(&status.unwrap_err()).0, "user");
    let block = |until, reason: &str| Restriction::Block {
        until,
        reason: reason.to_owned(),
    };
    let at = u64::try_from(until.seconds).unwrap() * 1_000;
    let expected = [
        block(When::After(Duration::from_secs(60)), "spam"),
        block(When::At(at), ""),
        Restriction::Unblock,
    ];
    assert_eq!(*chat.store.restrictions.lock(), expected);
}

#[tokio::test]
async fn wrong_fields_of_a_revocation_are_named_and_too_many_tokens_are_refused() {
    let (chat, mut client) = users().await;
    let revoke = |which, remember| RevokeTokensRequest {
        user: "u".to_owned(),
        which,
        remember,
    };
    let long = "x".repeat(257);
    for (request, field) in [
        (RevokeTokensRequest::default(), "user"),
        (revoke(Some(Which::Jti(String::new())), None), "jti"),
        (revoke(Some(Which::Jti(long)), None), "jti"),
        // A second would be enough to lock the user out for as long as this is remembered.
        (
            revoke(Some(Which::IssuedBefore(in_seconds(3_600))), None),
            "issued_before",
        ),
        (revoke(None, Some(for_seconds(0))), "remember"),
        (revoke(None, Some(for_seconds(367 * 86_400))), "remember"),
    ] {
        let status = client.revoke_tokens(request).await.unwrap_err();
        assert_eq!(only(&status).0, field);
    }
    assert!(chat.store.restrictions.lock().is_empty());

    // The clock of the caller may be a little ahead.
    let (before, ahead) = (in_seconds(-10), in_seconds(30));
    client.revoke_tokens(revoke(None, None)).await.unwrap();
    for before in [before, ahead] {
        let which = Some(Which::IssuedBefore(before));
        let request = revoke(which, Some(for_seconds(60)));
        client.revoke_tokens(request).await.unwrap();
    }
    let request = revoke(Some(Which::Jti("a".to_owned())), None);
    // This store knows as many as there may be.
    let status = client.revoke_tokens(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status), "TOO_MANY_REVOKED_TOKENS");
    let month = When::After(Duration::from_secs(30 * 86_400));
    let made_before = |time: prost_types::Timestamp| Restriction::RevokeIssuedBefore {
        before: When::At(u64::try_from(time.seconds).unwrap() * 1_000),
        until: When::After(Duration::from_secs(60)),
    };
    let expected = [
        Restriction::RevokeIssuedBefore {
            before: When::After(Duration::ZERO),
            until: month,
        },
        made_before(before),
        made_before(ahead),
        Restriction::RevokeToken {
            id: TokenId::of("a"),
            until: month,
        },
    ];
    assert_eq!(*chat.store.restrictions.lock(), expected);
}

#[tokio::test]
async fn what_the_store_does_not_write_is_not_answered_as_done() {
    let (chat, mut client) = users().await;
    let failure = StoreError::Unavailable("too few replicas have the change".to_owned());
    chat.store.fail(failure);
    let request = BlockUserRequest {
        user: "u".to_owned(),
        end: Some(End::Duration(for_seconds(60))),
        reason: String::new(),
    };
    let status = client.block_user(request).await.unwrap_err();
    assert_eq!(reason(&status), "STORE_UNAVAILABLE");
}
