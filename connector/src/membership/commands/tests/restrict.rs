//! Sessions that are forbidden, because their user is blocked or their tokens were revoked.

use super::*;
use crate::membership::Admission;
use crate::membership::reconcile_logins::Findings;
use api::block_user_request::End;
use api::revoke_tokens_request::Which;
use channel_store::{
    Forbidden, Proof, Restricted, Restriction, SETTLE_TIME, ShownToken, TokenId, UserRestrictions,
    When,
};
use prost_types::Duration as WireDuration;

fn token(issued: u64, jti: &str) -> ShownToken {
    ShownToken {
        issued: Some(issued),
        id: Some(TokenId::of(jti)),
    }
}

impl Node {
    /// A session that has shown a token.
    async fn guest_with(&self, user: &str, session: &str, token: ShownToken) -> Guest {
        let (guest, admission) = self.asks(user, session, Some(token)).await;
        assert_eq!(admission, Admission::Yes);
        guest.registration().answered();
        guest
    }

    /// A login, and what it is answered.
    async fn asks(
        &self,
        user: &str,
        session: &str,
        token: Option<ShownToken>,
    ) -> (Guest, Admission) {
        let user = UserId::new(user).unwrap();
        let guard = self.lease.enter(vec![Place::User(user.clone())]).await;
        let (connection, client) = client::client(WireFormat::JSON).await;
        let (session, guard) = (SessionId::new(session).unwrap(), Arc::new(guard.unwrap()));
        let shown = Shown {
            token,
            ..Shown::default()
        };
        let registration = self
            .logins
            .begin(&guard, &user, &session, &connection, shown);
        let admission = self.logins.login(&registration).await.unwrap();
        let guest = Guest {
            registration: Some(registration),
            connection,
            client,
        };
        (guest, admission)
    }
}

fn block(user: &str, reason: &str) -> api::BlockUserRequest {
    api::BlockUserRequest {
        user: user.to_owned(),
        end: Some(End::Duration(WireDuration {
            seconds: 3_600,
            nanos: 0,
        })),
        reason: reason.to_owned(),
    }
}

fn revoke(user: &str, which: Option<Which>) -> api::RevokeTokensRequest {
    api::RevokeTokensRequest {
        user: user.to_owned(),
        which,
        remember: None,
    }
}

fn names(closed: &[api::ClosedSession]) -> Vec<&str> {
    let mut names: Vec<_> = closed.iter().map(|it| it.session.as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test(start_paused = true)]
async fn a_block_closes_every_session_also_one_that_is_logging_in_and_keeps_the_user_out() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let other = Node::new(&store, "other", store.inboxes()).await;
    let mut guests = [
        one.guest("u", "s1").await,
        other.guest_with("u", "s2", token(1, "a")).await,
        other.logging_in("u", "s3", WireFormat::JSON).await,
        one.guest("v", "stranger").await,
    ];
    guests[..3].iter_mut().for_each(Guest::ends);
    let mut chat = chat(&store, store.inboxes());
    let answer = chat
        .block_user(block("u", "spam"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(names(&answer.closed), ["s1", "s2", "s3"]);
    assert_eq!(answer.unanswered_connectors, Vec::<String>::new());
    for guest in &mut guests[..3] {
        assert_eq!(guest.connection.closing(), Some(Disconnect::Blocked));
        let told = json!({"reason": "spam", "reconnect": false});
        assert_eq!(guest.client.next().await, Told::Kick(told));
        let reason = "spam".to_owned();
        let told = guest.client.next().await;
        assert_eq!(
            told,
            Told::Close {
                code: 4_019,
                reason
            }
        );
    }
    assert_eq!(guests[3].connection.closing(), None);

    let (refused, admission) = one.asks("u", "s4", None).await;
    let Admission::Forbidden(Forbidden::Blocked(blocked)) = admission else {
        panic!("{admission:?}");
    };
    assert_eq!(blocked.reason, "spam");
    assert_eq!(Some(proto::time::timestamp(blocked.until)), answer.until);
    assert!(refused.registration().is_nowhere());
    let unblock = api::UnblockUserRequest {
        user: "u".to_owned(),
    };
    chat.unblock_user(unblock).await.unwrap();
    let (again, admission) = one.asks("u", "s5", None).await;
    assert_eq!(admission, Admission::Yes);
    assert_eq!(again.connection.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_gets_no_command_closes_the_sessions_at_its_next_look() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let mut guests = [
        one.guest("u", "s1").await,
        one.guest_with("v", "s2", token(1, "a")).await,
        one.guest_with("v", "s3", token(1, "b")).await,
    ];
    let mut chat = chat(&store, Lossy::new(&store, "one:", 1_000));
    let answer = chat.block_user(block("u", "")).await.unwrap().into_inner();
    assert_eq!(answer.closed, []);
    assert_eq!(answer.unanswered_connectors, ["one"]);
    let which = Some(Which::Jti("a".to_owned()));
    let answer = chat.revoke_tokens(revoke("v", which)).await;
    assert_eq!(answer.unwrap().into_inner().unanswered_connectors, ["one"]);
    assert_eq!(guests[0].connection.closing(), None, "nobody knows it yet");
    sleep(2 * SETTLE_TIME).await;
    assert_eq!(guests[0].connection.closing(), Some(Disconnect::Blocked));
    guests[0].connection.conclude();
    let told = json!({"reason": "blocked", "reconnect": false});
    assert_eq!(guests[0].client.next().await, Told::Kick(told));
    assert_eq!(
        guests[1].connection.closing(),
        Some(Disconnect::TokenRevoked)
    );
    assert_eq!(guests[2].connection.closing(), None);
}

/// Chat's own clock says otherwise.
#[tokio::test(start_paused = true)]
async fn a_block_that_is_over_by_the_clock_of_the_store_is_refused() {
    let store = store();
    store.set_clock(Some("u"), 7_200_000);
    let until = proto::time::timestamp(proto::time::now() + 3_600_000);
    let request = api::BlockUserRequest {
        end: Some(End::Until(until)),
        ..block("u", "")
    };
    let mut chat = chat(&store, store.inboxes());
    let status = chat.block_user(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("until"), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_forbidden_to_a_user_can_be_looked_up() {
    let store = store();
    let mut chat = chat(&store, store.inboxes());
    let blocked = chat.block_user(block("u", "spam")).await.unwrap();
    let request = api::GetRestrictionsRequest {
        user: "u".to_owned(),
    };
    let known = chat.get_restrictions(request).await.unwrap().into_inner();
    let expected = api::GetRestrictionsResponse {
        blocked_until: blocked.into_inner().until,
        block_reason: "spam".to_owned(),
        ..api::GetRestrictionsResponse::default()
    };
    assert_eq!(known, expected);
}

/// Somebody else may log in on that connection.
#[tokio::test(start_paused = true)]
async fn a_connection_whose_login_was_undone_is_not_closed_by_a_block() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let guest = one.guest("u", "s1").await;
    guest.registration().undo();
    forbid(&store, "u").await;
    sleep(2 * SETTLE_TIME).await;
    assert_eq!(guest.connection.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_client_is_gone_is_not_among_those_that_a_block_has_closed() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let guest = one.guest("u", "s1").await;
    guest.connection.close(Disconnect::CLOSED);
    guest.connection.conclude();
    let mut chat = chat(&store, store.inboxes());
    let answer = chat.block_user(block("u", "")).await.unwrap();
    assert_eq!(answer.into_inner().closed, []);
}

/// Writes a block, and no chat looks for sessions.
async fn forbid(store: &MemoryStore, user: &str) {
    let change = Restriction::Block {
        until: When::After(Duration::from_secs(3_600)),
        reason: String::new(),
    };
    let changed = store.restrict(&UserId::new(user).unwrap(), &change).await;
    assert!(matches!(changed, Ok(Restricted::Yes(_))), "{changed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_user_is_blocked_before_its_claim_is_closed_by_the_claim() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let user = UserId::new("u").unwrap();
    let mut guests = Vec::new();
    // The second login is one of the same client, which has to claim its place.
    for session in ["s1", "s2"] {
        let guard = one.lease.enter(vec![Place::User(user.clone())]).await;
        let (connection, _client) = client::client(WireFormat::JSON).await;
        let (session, guard) = (SessionId::new(session).unwrap(), Arc::new(guard.unwrap()));
        let shown = Shown {
            proof: Some(Proof::new([1; 16])),
            ..Shown::default()
        };
        let registration = one
            .logins
            .begin(&guard, &user, &session, &connection, shown);
        assert_eq!(one.logins.login(&registration).await, Ok(Admission::Yes));
        guests.push((registration, connection, _client));
    }
    forbid(&store, "u").await;
    let (registration, connection, _) = &guests[1];
    let in_time = Instant::now() + Duration::from_secs(1);
    one.logins.claim(registration, in_time).await;
    assert_eq!(connection.closing(), Some(Disconnect::Blocked));
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_user_is_blocked_while_its_entry_is_put_back_is_closed() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let guest = one.guest("u", "s1").await;
    let registration = guest.registration();
    let in_time = Instant::now() + Duration::from_secs(1);
    one.logins.claim(registration, in_time).await;
    let user = UserId::new("u").unwrap();
    let (session, registry) = (SessionId::new("s1").unwrap(), store.registry());
    registry.close(&user, &session, false).await.unwrap();
    let incarnation = registration.guard().incarnation();
    let look = one
        .logins
        .entries(incarnation, std::slice::from_ref(&user))
        .await
        .unwrap();
    let mut findings = Findings::default();
    one.logins
        .compare(incarnation, &user, &look[0], &mut findings);
    assert!(findings.wants_claims());
    forbid(&store, "u").await;
    one.logins.settle(findings).await.unwrap();
    assert_eq!(guest.connection.closing(), Some(Disconnect::Blocked));
}

#[tokio::test(start_paused = true)]
async fn a_revocation_closes_the_sessions_with_such_tokens_alone() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let other = Node::new(&store, "other", store.inboxes()).await;
    let mut guests = [
        one.guest_with("u", "s1", token(1_000, "a")).await,
        other.guest_with("u", "s2", token(2_000, "b")).await,
        one.guest_with("u", "s3", token(2_000, "c")).await,
        one.guest("u", "without").await,
    ];
    guests[..3].iter_mut().for_each(Guest::ends);
    let mut chat = chat(&store, store.inboxes());
    let which = Some(Which::IssuedBefore(proto::time::timestamp(2_000_000)));
    let answer = chat.revoke_tokens(revoke("u", which)).await.unwrap();
    assert_eq!(names(&answer.into_inner().closed), ["s1"]);
    let told = json!({"reason": "token revoked", "reconnect": false});
    assert_eq!(guests[0].client.next().await, Told::Kick(told));
    let which = Some(Which::Jti("b".to_owned()));
    let answer = chat.revoke_tokens(revoke("u", which)).await.unwrap();
    assert_eq!(names(&answer.into_inner().closed), ["s2"]);
    let closing = guests.each_ref().map(|it| it.connection.closing());
    let revoked = Some(Disconnect::TokenRevoked);
    assert_eq!(closing, [revoked, revoked, None, None]);
    for (shown, admission) in [
        (
            token(1_999, "d"),
            Admission::Forbidden(Forbidden::TokenRevoked),
        ),
        (
            token(2_000, "b"),
            Admission::Forbidden(Forbidden::TokenRevoked),
        ),
        (token(2_000, "d"), Admission::Yes),
    ] {
        assert_eq!(one.asks("u", "more", Some(shown)).await.1, admission);
    }
    let request = api::GetRestrictionsRequest {
        user: "u".to_owned(),
    };
    let known = chat.get_restrictions(request).await.unwrap().into_inner();
    let expected = api::GetRestrictionsResponse {
        tokens_issued_before: Some(proto::time::timestamp(2_000_000)),
        revoked_tokens: 1,
        ..api::GetRestrictionsResponse::default()
    };
    assert_eq!(known, expected);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_being_shown_is_found_by_the_command_that_revokes_it() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let guest = one.guest_with("u", "s1", token(1, "old")).await;
    let registration = Arc::clone(guest.registration());
    // The store was asked before the token was revoked, and its answer is on the way.
    registration.state.lock().next_token = Some(Box::new(token(1, "new")));
    let mut chat = chat(&store, store.inboxes());
    let which = Some(Which::Jti("new".to_owned()));
    let answer = chat.revoke_tokens(revoke("u", which)).await.unwrap();
    assert_eq!(names(&answer.into_inner().closed), ["s1"]);
    assert_eq!(guest.connection.closing(), Some(Disconnect::TokenRevoked));
}

#[tokio::test(start_paused = true)]
async fn only_the_token_that_was_shown_last_counts() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let guest = one.guest_with("u", "s1", token(1, "old")).await;
    let deadline = Instant::now() + Duration::from_secs(4);
    let renew = |jti| {
        let registration = guest.registration();
        one.logins
            .renew_token(registration, token(1, jti), None, deadline)
    };
    assert_eq!(renew("new").await, Ok(()));
    let mut chat = chat(&store, store.inboxes());
    let mut revoke_one = async |jti: &str| {
        let which = Some(Which::Jti(jti.to_owned()));
        let answer = chat.revoke_tokens(revoke("u", which)).await.unwrap();
        answer.into_inner().closed.len()
    };
    assert_eq!(revoke_one("old").await, 0);
    assert_eq!(renew("old").await, Err(Forbidden::TokenRevoked));
    // The reconciler has looked at the user by then.
    sleep(2 * SETTLE_TIME).await;
    assert_eq!(
        guest.connection.closing(),
        None,
        "it goes on with the one before"
    );
    assert_eq!(revoke_one("new").await, 1);
}
