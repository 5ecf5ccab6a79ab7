//! What everybody in a channel may know of a user: onJoin shows it, and lists of members have it.

use crate::conformance::conformance;
use crate::support::{
    Kind, Subject, eventually, incarnation, name, said, session, session_of, text_user,
};
use channel_store::{Join, Membership, Predecessor, SessionId, UserInfo};
use futures_util::future::join_all;
use std::time::Duration;

conformance! {
    a_join_and_the_list_of_members_show_what_is_known_of_a_user
    the_session_that_said_something_last_decides_what_is_known
    a_copy_of_an_older_join_does_not_change_what_is_known
    a_session_that_replaces_another_one_says_what_is_known
    nothing_is_known_any_more_of_a_user_who_has_left
    nothing_is_known_any_more_of_a_user_whose_connector_has_died
    nothing_is_known_any_more_of_a_detached_member_whose_time_is_over
    nothing_is_known_any_more_of_the_members_of_a_deleted_channel
    a_large_channel_shows_what_is_known_of_each_user
}

impl Subject {
    /// All members with what is known of them.
    async fn known(&self) -> Vec<(String, Option<String>)> {
        let users = self.users("4").await.into_iter();
        let info = |info: UserInfo| info.as_str().to_owned();
        users
            .map(|it| (it.id.to_string(), it.info.map(info)))
            .collect()
    }

    /// Asserts that the user is the only member, and that this is known.
    async fn assert_known(&self, user: &str, info: Option<&str>) {
        let expected = [(user.to_owned(), info.map(str::to_owned))];
        assert_eq!(self.known().await, expected);
    }
}

async fn a_join_and_the_list_of_members_show_what_is_known_of_a_user(kind: Kind) {
    let subject = Subject::new(kind).await;
    let info = r#"{"name":"安 \"\\\u0000","n":1.0}"#;
    subject.join_with("4", "u", session("s", 1), info).await;
    subject.join("4", "w", session("t", 2)).await.unwrap();
    let known = subject.known().await;
    let expected = [
        ("u".to_owned(), Some(info.to_owned())),
        ("w".to_owned(), None),
    ];
    assert_eq!(known, expected);
    subject.leave("4", "u", session("s", 3)).await;
    let expected = [
        &format!(r#"onJoin {{"userId":"u","info":{info}}}"#),
        r#"onJoin {"userId":"w"}"#,
        r#"onLeave {"userId":"u"}"#,
    ];
    assert_eq!(said(&subject.log("4").await), expected);
}

async fn the_session_that_said_something_last_decides_what_is_known(kind: Kind) {
    let subject = Subject::new(kind).await;
    let one = r#"{"n":1}"#;
    subject.join_with("4", "u", session("s", 1), one).await;
    let second = subject
        .join_with("4", "u", session("t", 2), r#"{"n":2}"#)
        .await;
    assert!(!second.published);
    subject.assert_known("u", Some(r#"{"n":2}"#)).await;
    subject.join("4", "u", session("v", 3)).await.unwrap();
    subject.leave("4", "u", session("t", 4)).await;
    subject.assert_known("u", Some(r#"{"n":2}"#)).await;
    // The session has left and come back before its leave has arrived.
    subject
        .join_with("4", "u", session("s", 5), r#"{"n":5}"#)
        .await;
    subject.assert_known("u", Some(r#"{"n":5}"#)).await;
    for n in [6, 7] {
        let info = format!(r#"{{"n":{n}}}"#);
        subject
            .join_with("4", "u", Membership::Detached, &info)
            .await;
        subject.assert_known("u", Some(&info)).await;
    }
}

async fn a_copy_of_an_older_join_does_not_change_what_is_known(kind: Kind) {
    let subject = Subject::new(kind).await;
    for (session_id, number, info) in [("s", 1, "{}"), ("t", 2, r#"{"n":2}"#), ("s", 1, "{}")] {
        let as_ = session(session_id, number);
        subject.join_with("4", "u", as_, info).await;
    }
    subject.assert_known("u", Some(r#"{"n":2}"#)).await;
}

async fn a_session_that_replaces_another_one_says_what_is_known(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject
        .join_with("4", "u", session("s", 1), r#"{"n":1}"#)
        .await;
    let replaced = |session: &str| Predecessor {
        session: SessionId::new(session).unwrap(),
        incarnation: incarnation("connector-1/aa"),
    };
    let join = Join {
        replaces: vec![replaced("s")],
        ..Join::new(name("4"), text_user("u"), session("t", 2))
    };
    subject.store.join(join.clone()).await.unwrap();
    subject.assert_known("u", Some(r#"{"n":1}"#)).await;
    let join = Join {
        membership: session("v", 3),
        replaces: vec![replaced("t")],
        info: Some(UserInfo::new(r#"{"n":3}"#).unwrap()),
        ..join
    };
    let joined = subject.store.join(join).await.unwrap();
    assert!(!joined.published);
    subject.assert_known("u", Some(r#"{"n":3}"#)).await;
}

async fn nothing_is_known_any_more_of_a_user_who_has_left(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join_with("4", "u", session("s", 1), "{}").await;
    subject.leave("4", "u", session("s", 2)).await;
    subject.join("4", "u", session("t", 3)).await.unwrap();
    subject.assert_known("u", None).await;
}

async fn nothing_is_known_any_more_of_a_user_whose_connector_has_died(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject
        .join_with("4", "u", session_of("c:1", "s", 1), "{}")
        .await;
    let reaped = subject.store.reap(&name("4"), &incarnation("c:1")).await;
    assert_eq!(reaped.unwrap().ended, 1);
    subject.join("4", "u", session("t", 1)).await.unwrap();
    subject.assert_known("u", None).await;
}

async fn nothing_is_known_any_more_of_a_detached_member_whose_time_is_over(kind: Kind) {
    let subject = Subject::new(kind).await;
    let join = Join {
        info: Some(UserInfo::new("{}").unwrap()),
        stay: Some(Duration::from_millis(20)),
        ..Join::new(name("4"), text_user("d"), Membership::Detached)
    };
    subject.store.join(join).await.unwrap();
    subject.join("4", "u", session("s", 1)).await.unwrap();
    eventually("the detached member is gone", async || {
        subject.known().await.len() == 1
    })
    .await;
    subject.join("4", "d", Membership::Detached).await.unwrap();
    let nothing = [("d".to_owned(), None), ("u".to_owned(), None)];
    assert_eq!(subject.known().await, nothing);
}

async fn nothing_is_known_any_more_of_the_members_of_a_deleted_channel(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join_with("4", "u", session("s", 1), "{}").await;
    subject.store.delete(&name("4"), None).await.unwrap();
    subject.join("4", "u", session("t", 2)).await.unwrap();
    subject.assert_known("u", None).await;
}

/// A large channel comes in pages of another kind than a small one.
async fn a_large_channel_shows_what_is_known_of_each_user(kind: Kind) {
    let subject = Subject::new(kind).await;
    let info = |user: usize| format!(r#"{{"name":"number {user}"}}"#);
    let join = async |user: usize| {
        let (name, info) = (format!("user {user:04}"), info(user));
        subject
            .join_with("4", &name, session(&name, 1), &info)
            .await
    };
    join_all((0..1_000).map(join)).await;
    let known = subject.known().await;
    let expected = (0..1_000).map(|user| (format!("user {user:04}"), Some(info(user))));
    assert_eq!(known, expected.collect::<Vec<_>>());
}
