//! A session that takes the place of others: nobody sees them leave, nor it come.

use crate::conformance::conformance;
use crate::support::{
    Kind, Subject, from_session, incarnation, message, name, said, session, session_of, text_user,
};
use channel_store::StoreError;
use futures_util::future::join_all;

conformance! {
    the_place_of_a_member_is_taken_in_silence
    whoever_was_replaced_does_not_come_back
    where_nobody_was_a_member_the_join_is_as_any
    several_predecessors_become_one
    another_users_session_is_not_replaced
    what_was_reaped_or_has_left_is_replaced_by_a_plain_join
    a_session_of_a_dead_connector_is_carried_over_before_it_is_reaped
    a_repeated_join_that_replaces_is_answered_as_the_first
    a_stale_join_replaces_nobody
}

const OTHER: &str = "connector-2/bb";
const ONE: &str = "connector-1/aa";

impl Subject {
    async fn counts(&self, expected: &[(&str, u32)]) {
        let members = self.members("4").await;
        let members: Vec<_> = members.iter().map(|(it, n)| (&**it, *n)).collect();
        assert_eq!(members, expected);
    }

    async fn was_said(&self) -> Vec<String> {
        said(&self.log("4").await)
    }

    async fn listed(&self, of: &str) -> Vec<String> {
        let listed = self.leases.list(&incarnation(of), &name("4")).await;
        listed.unwrap().keys().map(ToString::to_string).collect()
    }
}

async fn the_place_of_a_member_is_taken_in_silence(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("old", 1)).await.unwrap();
    let last = subject.publish(message("4", "u", "{}")).await.unwrap();
    let replaced = [(ONE, "old")];
    let joined = subject
        .replace("4", "u", session_of(OTHER, "new", 1), &replaced)
        .await
        .unwrap();
    assert_eq!((joined.position, joined.published), (last.position, false));
    subject.counts(&[("u", 1)]).await;
    assert_eq!(subject.listed(OTHER).await, ["new"]);
    assert_eq!(subject.listed(ONE).await, [""; 0]);
    let present = subject.leases.incarnations_in(&name("4")).await.unwrap();
    assert_eq!(present, [incarnation(OTHER)]);
    let speaks = |session| subject.publish(from_session(message("4", "u", "{}"), session));
    assert_eq!(speaks("old").await, Err(StoreError::NotMember));
    speaks("new").await.unwrap();
    // The old one's leave finds nothing, and the new one's ends the user's stay.
    assert!(
        !subject
            .leave_fenced("4", "u", session("old", 2), true)
            .await
    );
    assert!(subject.leave("4", "u", session_of(OTHER, "new", 2)).await);
    let said = subject.was_said().await;
    let of_members: Vec<_> = said
        .iter()
        .filter(|it| !it.starts_with("onMessage"))
        .collect();
    assert_eq!(
        of_members,
        [r#"onJoin {"userId":"u"}"#, r#"onLeave {"userId":"u"}"#]
    );
}

async fn whoever_was_replaced_does_not_come_back(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("old", 1)).await.unwrap();
    let replaced = [(ONE, "old"), (ONE, "never-came")];
    let new = session_of(OTHER, "new", 1);
    subject.replace("4", "u", new, &replaced).await.unwrap();
    for (session, operation) in [("old", 1), ("old", 1_000), ("never-came", 7)] {
        let late = subject.join("4", "u", crate::support::session(session, operation));
        assert_eq!(late.await, Err(StoreError::StaleOperation), "{session}");
    }
    // A fenced leave of the old one does not lower that.
    subject
        .leave_fenced("4", "u", session("old", 5), true)
        .await;
    let late = subject.join("4", "u", session("old", 6)).await;
    assert_eq!(late, Err(StoreError::StaleOperation));
    subject.counts(&[("u", 1)]).await;
    // In other channels it is a member as ever, until it is replaced there.
    subject.join("5", "u", session("old", 2)).await.unwrap();
}

async fn where_nobody_was_a_member_the_join_is_as_any(kind: Kind) {
    let subject = Subject::new(kind).await;
    let new = session_of(OTHER, "new", 1);
    let joined = subject
        .replace("4", "u", new, &[(ONE, "old")])
        .await
        .unwrap();
    assert!(joined.published);
    subject.counts(&[("u", 1)]).await;
    assert_eq!(subject.was_said().await, [r#"onJoin {"userId":"u"}"#]);
}

async fn several_predecessors_become_one(kind: Kind) {
    let subject = Subject::new(kind).await;
    for n in 1..=3 {
        let old = session(&format!("old-{n}"), n);
        subject.join("4", "u", old).await.unwrap();
    }
    subject
        .join("4", "u", session_of(OTHER, "tab", 1))
        .await
        .unwrap();
    subject.counts(&[("u", 4)]).await;
    let replaced = [(ONE, "old-1"), (ONE, "old-2"), (ONE, "old-3")];
    let new = session("new", 9);
    subject.replace("4", "u", new, &replaced).await.unwrap();
    subject.counts(&[("u", 2)]).await;
    assert_eq!(subject.listed(ONE).await, ["new"]);
    let whose = subject
        .leases
        .presence(&incarnation(ONE), &[name("4")])
        .await;
    assert_eq!(whose.unwrap()[0].sessions, 1);
    assert_eq!(subject.was_said().await.len(), 1);
}

async fn another_users_session_is_not_replaced(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "v", session("old", 1)).await.unwrap();
    let new = session_of(OTHER, "new", 1);
    let joined = subject
        .replace("4", "u", new, &[(ONE, "old")])
        .await
        .unwrap();
    assert!(joined.published);
    subject.counts(&[("u", 1), ("v", 1)]).await;
    // It can be restored.
    subject.join("4", "v", session("old", 1)).await.unwrap();
}

async fn what_was_reaped_or_has_left_is_replaced_by_a_plain_join(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("old", 1)).await.unwrap();
    subject
        .store
        .reap(&name("4"), &incarnation(ONE))
        .await
        .unwrap();
    let replaced = [(ONE, "old")];
    let new = session_of(OTHER, "new", 1);
    let joined = subject.replace("4", "u", new, &replaced).await.unwrap();
    assert!(joined.published, "its leave was seen, so it comes again");
    subject.counts(&[("u", 1)]).await;
}

async fn a_session_of_a_dead_connector_is_carried_over_before_it_is_reaped(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("old", 1)).await.unwrap();
    let replaced = [(ONE, "old")];
    let new = session_of(OTHER, "new", 1);
    subject.replace("4", "u", new, &replaced).await.unwrap();
    let reaped = subject
        .store
        .reap(&name("4"), &incarnation(ONE))
        .await
        .unwrap();
    assert_eq!((reaped.ended, reaped.remaining), (0, 0));
    subject.counts(&[("u", 1)]).await;
    assert_eq!(subject.was_said().await.len(), 1);
}

async fn a_repeated_join_that_replaces_is_answered_as_the_first(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("old", 1)).await.unwrap();
    let replaced = [(ONE, "old")];
    let new = || session_of(OTHER, "new", 1);
    let first = subject.replace("4", "u", new(), &replaced).await;
    subject.publish(message("4", "u", "{}")).await.unwrap();
    assert_eq!(subject.replace("4", "u", new(), &replaced).await, first);
    subject.counts(&[("u", 1)]).await;
    // A channel that fell back has the old one again: the same join, as a repair, takes its place again.
    let later = session_of(OTHER, "later", 3);
    subject
        .join_as("4", text_user("u"), later.clone())
        .await
        .unwrap();
    let repaired = subject.replace("4", "u", later, &[(OTHER, "new")]).await;
    assert!(repaired.is_ok());
    subject.counts(&[("u", 1)]).await;
}

async fn a_stale_join_replaces_nobody(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("old", 1)).await.unwrap();
    let new = |operation| session_of(OTHER, "new", operation);
    subject.leave_fenced("4", "u", new(2), true).await;
    let late = subject.replace("4", "u", new(1), &[(ONE, "old")]).await;
    assert_eq!(late, Err(StoreError::StaleOperation));
    subject.counts(&[("u", 1)]).await;
    subject.join("4", "u", session("old", 1)).await.unwrap();
}
