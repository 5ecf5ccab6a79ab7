//! A session that replaces others: members receive neither onLeave of the old ones nor onJoin of the new one.

use crate::conformance::conformance;
use crate::support::{
    Kind, Subject, from_session, incarnation, message, name, said, session, session_of, text_user,
};
use channel_store::StoreError;
use futures_util::future::join_all;

conformance! {
    a_member_is_replaced_without_announcements
    a_replaced_session_cannot_join_again
    a_join_that_replaces_nobody_is_a_plain_join
    one_session_can_replace_several
    another_users_session_is_not_replaced
    replacing_a_session_that_was_reaped_is_a_plain_join
    a_session_of_a_dead_connector_can_be_replaced_before_it_is_reaped
    a_repeated_replacing_join_gets_the_first_answer
    a_stale_join_replaces_nobody
}

const OTHER: &str = "connector-2/bb";
const ONE: &str = "connector-1/aa";

impl Subject {
    async fn assert_members(&self, expected: &[(&str, u32)]) {
        let members = self.members("4").await;
        let members: Vec<_> = members.iter().map(|(it, n)| (&**it, *n)).collect();
        assert_eq!(members, expected);
    }

    async fn log_texts(&self) -> Vec<String> {
        said(&self.log("4").await)
    }

    async fn listed(&self, of: &str) -> Vec<String> {
        let listed = self.leases.list(&incarnation(of), &name("4")).await;
        listed.unwrap().keys().map(ToString::to_string).collect()
    }
}

async fn a_member_is_replaced_without_announcements(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("old", 1)).await.unwrap();
    let last = subject.publish(message("4", "u", "{}")).await.unwrap();
    let replaced = [(ONE, "old")];
    let joined = subject
        .replace("4", "u", session_of(OTHER, "new", 1), &replaced)
        .await
        .unwrap();
    assert_eq!((joined.position, joined.published), (last.position, false));
    subject.assert_members(&[("u", 1)]).await;
    assert_eq!(subject.listed(OTHER).await, ["new"]);
    assert_eq!(subject.listed(ONE).await, [""; 0]);
    let present = subject.leases.incarnations_in(&name("4")).await.unwrap();
    assert_eq!(present, [incarnation(OTHER)]);
    let publish = |session| subject.publish(from_session(message("4", "u", "{}"), session));
    assert_eq!(publish("old").await, Err(StoreError::NotMember));
    publish("new").await.unwrap();
    // The leave of the old session finds nothing. The leave of the new one ends the user's membership.
    assert!(
        !subject
            .leave_fenced("4", "u", session("old", 2), true)
            .await
    );
    assert!(subject.leave("4", "u", session_of(OTHER, "new", 2)).await);
    let said = subject.log_texts().await;
    let of_members: Vec<_> = said
        .iter()
        .filter(|it| !it.starts_with("onMessage"))
        .collect();
    assert_eq!(
        of_members,
        [r#"onJoin {"userId":"u"}"#, r#"onLeave {"userId":"u"}"#]
    );
}

async fn a_replaced_session_cannot_join_again(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("old", 1)).await.unwrap();
    let replaced = [(ONE, "old"), (ONE, "never-came")];
    let new = session_of(OTHER, "new", 1);
    subject.replace("4", "u", new, &replaced).await.unwrap();
    for (session, operation) in [("old", 1), ("old", 1_000), ("never-came", 7)] {
        let late = subject.join("4", "u", crate::support::session(session, operation));
        assert_eq!(late.await, Err(StoreError::StaleOperation), "{session}");
    }
    // A fenced leave of the old session does not weaken its tombstone.
    subject
        .leave_fenced("4", "u", session("old", 5), true)
        .await;
    let late = subject.join("4", "u", session("old", 6)).await;
    assert_eq!(late, Err(StoreError::StaleOperation));
    subject.assert_members(&[("u", 1)]).await;
    // In other channels it can still join, until it is replaced there, too.
    subject.join("5", "u", session("old", 2)).await.unwrap();
}

async fn a_join_that_replaces_nobody_is_a_plain_join(kind: Kind) {
    let subject = Subject::new(kind).await;
    let new = session_of(OTHER, "new", 1);
    let joined = subject
        .replace("4", "u", new, &[(ONE, "old")])
        .await
        .unwrap();
    assert!(joined.published);
    subject.assert_members(&[("u", 1)]).await;
    assert_eq!(subject.log_texts().await, [r#"onJoin {"userId":"u"}"#]);
}

async fn one_session_can_replace_several(kind: Kind) {
    let subject = Subject::new(kind).await;
    for n in 1..=3 {
        let old = session(&format!("old-{n}"), n);
        subject.join("4", "u", old).await.unwrap();
    }
    subject
        .join("4", "u", session_of(OTHER, "tab", 1))
        .await
        .unwrap();
    subject.assert_members(&[("u", 4)]).await;
    let replaced = [(ONE, "old-1"), (ONE, "old-2"), (ONE, "old-3")];
    let new = session("new", 9);
    subject.replace("4", "u", new, &replaced).await.unwrap();
    subject.assert_members(&[("u", 2)]).await;
    assert_eq!(subject.listed(ONE).await, ["new"]);
    let whose = subject
        .leases
        .presence(&incarnation(ONE), &[name("4")])
        .await;
    assert_eq!(whose.unwrap()[0].sessions, 1);
    assert_eq!(subject.log_texts().await.len(), 1);
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
    subject.assert_members(&[("u", 1), ("v", 1)]).await;
    // The other user's membership can be restored.
    subject.join("4", "v", session("old", 1)).await.unwrap();
}

async fn replacing_a_session_that_was_reaped_is_a_plain_join(kind: Kind) {
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
    assert!(
        joined.published,
        "its onLeave was published, so there is a new onJoin"
    );
    subject.assert_members(&[("u", 1)]).await;
}

async fn a_session_of_a_dead_connector_can_be_replaced_before_it_is_reaped(kind: Kind) {
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
    subject.assert_members(&[("u", 1)]).await;
    assert_eq!(subject.log_texts().await.len(), 1);
}

async fn a_repeated_replacing_join_gets_the_first_answer(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("old", 1)).await.unwrap();
    let replaced = [(ONE, "old")];
    let new = || session_of(OTHER, "new", 1);
    let first = subject.replace("4", "u", new(), &replaced).await;
    subject.publish(message("4", "u", "{}")).await.unwrap();
    assert_eq!(subject.replace("4", "u", new(), &replaced).await, first);
    subject.assert_members(&[("u", 1)]).await;
    // After a loss of data the channel has the old session again. If the join is repeated as a repair, it replaces it
    // again.
    let later = session_of(OTHER, "later", 3);
    subject
        .join_as("4", text_user("u"), later.clone())
        .await
        .unwrap();
    let repaired = subject.replace("4", "u", later, &[(OTHER, "new")]).await;
    assert!(repaired.is_ok());
    subject.assert_members(&[("u", 1)]).await;
}

async fn a_stale_join_replaces_nobody(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("old", 1)).await.unwrap();
    let new = |operation| session_of(OTHER, "new", operation);
    subject.leave_fenced("4", "u", new(2), true).await;
    let late = subject.replace("4", "u", new(1), &[(ONE, "old")]).await;
    assert_eq!(late, Err(StoreError::StaleOperation));
    subject.assert_members(&[("u", 1)]).await;
    subject.join("4", "u", session("old", 1)).await.unwrap();
}
