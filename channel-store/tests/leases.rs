//! Leases, indexes, the directory and reaping. Each test is one history, and every store must pass it.

use crate::conformance::conformance;
use crate::support::{
    Kind, Subject, eventually, from_session, incarnation, message, name, number_user, said,
    session, session_of, text_user,
};
use channel_store::{
    Declared, DroppedBy, IndexEntry, Indexed, Join, LeaseState, Membership, Place, Renewed,
    StoreError, StoreOptions,
};
use futures_util::future::join_all;
use std::time::Duration;

conformance! {
    a_lease_is_taken_and_renewed
    a_lease_is_declared_dead_only_with_its_present_beat
    each_renewal_has_a_higher_beat
    a_lease_that_was_renewed_for_the_last_time_says_so
    a_missing_lease_means_lost_data_and_not_a_dead_connector
    a_lost_lease_and_index_can_be_restored_by_another_service
    a_dead_connector_cannot_change_its_index
    an_index_entry_is_dropped_only_with_its_present_nonce
    a_connector_that_resigns_is_dead_at_once
    a_directory_entry_that_was_scheduled_again_is_kept
    a_late_join_after_the_reaping_makes_no_ghost
    a_join_beyond_its_deadline_makes_no_ghost
    reaping_an_incarnation_spares_members_of_its_restarted_connector
    a_user_with_a_session_on_another_connector_stays_a_member
    any_number_of_reapers_end_each_membership_once
    a_late_leave_after_the_reaping_finds_nothing
    a_session_that_was_reaped_cannot_publish
    presence_counts_the_sessions_of_an_incarnation
    presence_tells_that_a_detached_member_is_overdue
    an_incarnation_is_listed_as_long_as_it_has_a_session_in_the_channel
    the_whole_directory_can_be_read
    a_list_has_all_sessions_of_one_incarnation
}

const LONG: Duration = Duration::from_secs(10);
const DEAD: &str = "connector-1/aa";

fn entry(channel: &str, nonce: u64) -> IndexEntry {
    IndexEntry {
        place: Place::Channel(name(channel)),
        nonce,
    }
}

impl Subject {
    async fn observe(&self, of: &str) -> Option<LeaseState> {
        let states = self.leases.observe(&[incarnation(of)]).await;
        assert_eq!(states.len(), 1);
        states[0].clone().unwrap()
    }

    async fn beat(&self, of: &str) -> u64 {
        self.observe(of).await.unwrap().beat
    }

    async fn renew(&self, of: &str, lease: Duration) -> Renewed {
        self.leases.renew(&incarnation(of), lease).await.unwrap()
    }

    async fn add(&self, of: &str, entries: &[IndexEntry]) -> Indexed {
        let added = self.leases.index_add(&incarnation(of), entries).await;
        added.unwrap()
    }

    async fn drop_by(&self, of: &str, entry: IndexEntry, by: DroppedBy) -> u64 {
        let dropped = self.leases.index_drop(&incarnation(of), &[entry], by).await;
        dropped.unwrap()
    }

    async fn index(&self, of: &str) -> Vec<(String, u64)> {
        let index = self.leases.index(&incarnation(of)).await.unwrap();
        let mut index: Vec<_> = index
            .into_iter()
            .map(|it| {
                (
                    match it.place {
                        Place::Channel(it) => it.to_string(),
                        Place::User(it) => format!("user {it}"),
                    },
                    it.nonce,
                )
            })
            .collect();
        index.sort();
        index
    }

    async fn declare(&self, of: &str, beat: u64) -> Declared {
        let declared = self.leases.declare_dead(&incarnation(of), beat).await;
        declared.unwrap()
    }

    /// Declares an incarnation dead.
    async fn declare_it_dead(&self, of: &str) {
        let beat = self.beat(of).await;
        assert_eq!(self.declare(of, beat).await, Declared::Dead);
    }

    async fn reap(&self, channel: &str, of: &str) -> (u64, u64) {
        let reaped = self.store.reap(&name(channel), &incarnation(of)).await;
        let reaped = reaped.unwrap();
        (reaped.ended, reaped.remaining)
    }

    async fn join_before(
        &self,
        as_: Membership,
        deadline: u64,
    ) -> Result<channel_store::Joined, StoreError> {
        let join = Join {
            deadline: Some(deadline),
            ..Join::new(name("4"), text_user("u"), as_)
        };
        self.store.join(join).await
    }

    async fn leaves(&self, channel: &str) -> Vec<String> {
        let log = said(&self.log(channel).await);
        let mut leaves: Vec<_> = log
            .into_iter()
            .filter(|it| it.starts_with("onLeave"))
            .collect();
        leaves.sort();
        leaves
    }
}

async fn a_lease_is_taken_and_renewed(kind: Kind) {
    let subject = Subject::new(kind).await;
    assert_eq!(subject.observe(DEAD).await, None);
    assert_eq!(subject.add(DEAD, &[entry("4", 1)]).await, Indexed::Lost);
    let Renewed::Lost(first) = subject.renew(DEAD, LONG).await else {
        panic!("the lease was missing before");
    };
    assert_eq!(first.indexed, 0);
    assert_eq!(subject.add(DEAD, &[entry("4", 1)]).await, Indexed::Yes);
    let Renewed::Live(second) = subject.renew(DEAD, 2 * LONG).await else {
        panic!("the lease was there before");
    };
    assert!(second.until >= first.until + 10_000);
    assert_eq!(second.indexed, 1);
    let state = subject.observe(DEAD).await.unwrap();
    assert_eq!((state.dead, state.length), (false, 2 * LONG));
}

async fn a_lease_is_declared_dead_only_with_its_present_beat(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.renew(DEAD, LONG).await;
    let seen = subject.beat(DEAD).await;
    subject.renew(DEAD, LONG).await;
    for beat in [seen, 0, u64::MAX >> 11] {
        let declared = subject.declare(DEAD, beat).await;
        assert_eq!(declared, Declared::Alive, "it was renewed meanwhile");
    }
    // The caller must have waited long enough. The store asks no clock.
    subject.declare_it_dead(DEAD).await;
    assert!(subject.observe(DEAD).await.unwrap().dead);
    assert_eq!(
        subject.declare(DEAD, 0).await,
        Declared::Dead,
        "it was dead before"
    );
    assert_eq!(
        subject.renew(DEAD, LONG).await,
        Renewed::Dead,
        "it cannot come back"
    );
}

async fn a_lease_that_was_renewed_for_the_last_time_says_so(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.renew(DEAD, LONG).await;
    let before = subject.observe(DEAD).await.unwrap();
    assert!(!before.ended);
    let dead = incarnation(DEAD);
    let last = subject.leases.renew_last(&dead, LONG / 2).await;
    assert!(matches!(last, Ok(Renewed::Live(_))));
    let after = subject.observe(DEAD).await.unwrap();
    assert!(after.ended && !after.dead, "{after:?}");
    assert_eq!(after.length, LONG / 2);
    assert!(after.beat > before.beat);
    // It is declared dead as any other one, and then nothing renews it.
    assert_eq!(subject.declare(DEAD, after.beat).await, Declared::Dead);
    let again = subject.leases.renew_last(&dead, LONG).await;
    assert_eq!(again, Ok(Renewed::Dead));
}

async fn each_renewal_has_a_higher_beat(kind: Kind) {
    let subject = Subject::new(kind).await;
    let mut last = 0;
    for _ in 0..100 {
        subject.renew(DEAD, LONG).await;
        let beat = subject.beat(DEAD).await;
        assert!(beat > last);
        last = beat;
    }
    let looks = [subject.beat(DEAD).await, subject.beat(DEAD).await];
    assert_eq!(looks, [last, last], "reading it does not renew it");
    subject.renew(DEAD, 2 * LONG).await;
    assert!(subject.beat(DEAD).await > last);
}

async fn a_missing_lease_means_lost_data_and_not_a_dead_connector(kind: Kind) {
    let subject = Subject::new(kind).await;
    assert_eq!(subject.declare(DEAD, 0).await, Declared::Provisional);
    let state = subject.observe(DEAD).await.unwrap();
    assert!(state.provisional && state.length == StoreOptions::default().lease);
    assert_eq!(
        subject.declare(DEAD, 0).await,
        Declared::Alive,
        "its time begins again"
    );
    // A provisional lease does not count as its owner's.
    assert_eq!(subject.add(DEAD, &[entry("4", 1)]).await, Indexed::Lost);
    let renewed = subject.renew(DEAD, LONG).await;
    assert!(matches!(renewed, Renewed::Lost(_)), "{renewed:?}");
    let renewed = subject.renew(DEAD, LONG).await;
    assert!(matches!(renewed, Renewed::Live(_)), "{renewed:?}");
}

async fn a_lost_lease_and_index_can_be_restored_by_another_service(kind: Kind) {
    let subject = Subject::new(kind).await;
    let incarnation = incarnation(DEAD);
    let restore = async |channel| {
        let place = Place::Channel(name(channel));
        let restored = subject.leases.restore(&incarnation, &place).await;
        let state = restored.unwrap();
        assert_eq!(subject.observe(DEAD).await, Some(state));
        state
    };
    // The lease is lost: it is restored for a full time, but as provisional.
    let provisional = restore("4").await;
    assert!(provisional.provisional);
    assert_eq!(provisional.length, StoreOptions::default().lease);
    assert_eq!(subject.add(DEAD, &[entry("5", 1)]).await, Indexed::Lost);
    let nonce = subject.index(DEAD).await[0].1;
    let again = restore("4").await;
    assert_eq!(again, provisional, "its time does not begin again");
    assert_eq!(subject.index(DEAD).await, [("4".to_owned(), nonce)]);
    // The lease is live: its owner's entries stay as they are.
    subject.renew(DEAD, LONG).await;
    subject.add(DEAD, &[entry("5", 1)]).await;
    let live = restore("5").await;
    assert!(!live.dead && !live.provisional);
    assert_eq!(subject.index(DEAD).await[1], ("5".to_owned(), 1));
    let renewed = subject.renew(DEAD, LONG).await;
    assert!(matches!(renewed, Renewed::Live(_)), "{renewed:?}");
    // The connector is dead: what was found is added to the index, and the reaper can drop it.
    subject.declare_it_dead(DEAD).await;
    assert!(restore("6").await.dead);
    let index = subject.index(DEAD).await;
    assert_eq!(index.len(), 3);
    let (channel, nonce) = &index[2];
    let dropped = subject.drop_by(DEAD, entry(channel, *nonce), DroppedBy::Reaper);
    assert_eq!(dropped.await, 1);
}

async fn a_dead_connector_cannot_change_its_index(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.renew(DEAD, LONG).await;
    subject.add(DEAD, &[entry("4", 1)]).await;
    subject.declare_it_dead(DEAD).await;
    assert_eq!(subject.add(DEAD, &[entry("5", 2)]).await, Indexed::Dead);
    assert_eq!(subject.index(DEAD).await, [("4".to_owned(), 1)]);
    let by_owner = subject.drop_by(DEAD, entry("4", 1), DroppedBy::Owner);
    assert_eq!(by_owner.await, 0);
    let by_reaper = subject.drop_by(DEAD, entry("4", 1), DroppedBy::Reaper);
    assert_eq!(by_reaper.await, 1);
    assert_eq!(subject.index(DEAD).await, []);
}

async fn an_index_entry_is_dropped_only_with_its_present_nonce(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.renew(DEAD, LONG).await;
    let entries: Vec<_> = (0..700).map(|n| entry(&format!("c{n:03}"), n)).collect();
    assert_eq!(subject.add(DEAD, &entries).await, Indexed::Yes);
    assert_eq!(subject.index(DEAD).await.len(), 700);
    subject.add(DEAD, &[entry("c007", 1_000)]).await;
    let late = subject.drop_by(DEAD, entry("c007", 7), DroppedBy::Owner);
    assert_eq!(late.await, 0, "a newer join has written the entry");
    let by_reaper = subject.drop_by(DEAD, entry("c007", 1_000), DroppedBy::Reaper);
    assert_eq!(by_reaper.await, 0, "its connector is alive");
    let incarnation = incarnation(DEAD);
    let dropped = subject
        .leases
        .index_drop(&incarnation, &entries, DroppedBy::Owner);
    assert_eq!(dropped.await.unwrap(), 699);
    assert_eq!(subject.index(DEAD).await, [("c007".to_owned(), 1_000)]);
}

async fn a_connector_that_resigns_is_dead_at_once(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.renew(DEAD, LONG).await;
    subject.leases.resign(&incarnation(DEAD)).await.unwrap();
    assert!(subject.observe(DEAD).await.unwrap().dead);
    assert_eq!(subject.renew(DEAD, LONG).await, Renewed::Dead);
}

async fn a_directory_entry_that_was_scheduled_again_is_kept(kind: Kind) {
    let subject = Subject::new(kind).await;
    let leases = &subject.leases;
    let (one, other) = (incarnation(DEAD), incarnation("{connector}-2/bb"));
    leases.schedule(&one).await.unwrap();
    leases.schedule(&other).await.unwrap();
    let seen = leases.directory().await.unwrap()[&one];
    leases.schedule(&one).await.unwrap();
    let since = leases.directory().await.unwrap()[&one];
    assert_ne!(since, seen);
    leases.unschedule(&one, seen).await.unwrap();
    assert_eq!(
        leases.directory().await.unwrap().len(),
        2,
        "it was scheduled again"
    );
    leases.unschedule(&one, since).await.unwrap();
    let left: Vec<_> = leases.directory().await.unwrap().into_keys().collect();
    assert_eq!(left, [other]);
}

async fn a_late_join_after_the_reaping_makes_no_ghost(kind: Kind) {
    let subject = Subject::new(kind).await;
    // Nothing is registered yet, because the join is still under way.
    assert_eq!(subject.reap("4", DEAD).await, (0, 0));
    let late = subject.join("4", "u", session("s", 1)).await;
    assert_eq!(late, Err(StoreError::ConnectorDead));
    assert_eq!(subject.members("4").await, []);
    let elsewhere = subject.join("5", "u", session("s", 2)).await;
    assert!(
        elsewhere.is_ok(),
        "a join in another channel is not refused: {elsewhere:?}"
    );
}

async fn a_join_beyond_its_deadline_makes_no_ghost(kind: Kind) {
    let subject = Subject::new(kind).await;
    let Renewed::Lost(term) = subject.renew(DEAD, LONG).await else {
        panic!("the lease was missing before");
    };
    let late = subject.join_before(session("s", 1), term.until - 20_000);
    let late = late.await;
    let is_late = |it: &StoreError| matches!(it, StoreError::Late { now } if now.abs_diff(term.until) < 60_000);
    assert!(late.as_ref().is_err_and(is_late), "{late:?}");
    assert_eq!(subject.members("4").await, []);
    let in_time = subject.join_before(session("s", 1), term.until).await;
    assert!(in_time.is_ok(), "{in_time:?}");
    assert_eq!(subject.members("4").await, [("u".to_owned(), 1)]);
}

async fn reaping_an_incarnation_spares_members_of_its_restarted_connector(kind: Kind) {
    let subject = Subject::new(kind).await;
    let new = |name, n| session_of("connector-1/bb", name, n);
    subject.join("4", "old", session("s1", 1)).await.unwrap();
    subject.join("4", "new", new("s2", 1)).await.unwrap();
    assert_eq!(subject.reap("4", DEAD).await, (1, 0));
    assert_eq!(subject.members("4").await, [("new".to_owned(), 1)]);
    subject.join("4", "newer", new("s3", 2)).await.unwrap();
    assert_eq!(subject.leaves("4").await, [r#"onLeave {"userId":"old"}"#]);
}

async fn a_user_with_a_session_on_another_connector_stays_a_member(kind: Kind) {
    let subject = Subject::new(kind).await;
    let elsewhere = session_of("connector-2/bb", "s2", 1);
    subject.join("4", "u", session("s1", 1)).await.unwrap();
    subject.join("4", "u", session("s3", 2)).await.unwrap();
    subject.join("4", "u", elsewhere).await.unwrap();
    assert_eq!(subject.reap("4", DEAD).await, (2, 0));
    assert_eq!(subject.members("4").await, [("u".to_owned(), 1)]);
    assert_eq!(subject.leaves("4").await, Vec::<String>::new());
}

async fn any_number_of_reapers_end_each_membership_once(kind: Kind) {
    const MEMBERS: u64 = 450;
    let subject = Subject::new(kind).await;
    for n in 0..MEMBERS {
        let (user, id) = (format!("u{n:03}"), format!("s{n}"));
        subject.join("4", &user, session(&id, n)).await.unwrap();
    }
    let reaper = async || {
        let mut ended = 0;
        loop {
            let (some, remaining) = subject.reap("4", DEAD).await;
            assert!(
                some <= 200,
                "it works in chunks, because others wait meanwhile"
            );
            ended += some;
            if remaining == 0 {
                return ended;
            }
        }
    };
    let (one, other) = tokio::join!(reaper(), reaper());
    assert_eq!(one + other, MEMBERS);
    assert_eq!(subject.members("4").await, []);
    let each: Vec<_> = (0..MEMBERS)
        .map(|n| format!(r#"onLeave {{"userId":"u{n:03}"}}"#))
        .collect();
    assert_eq!(subject.leaves("4").await, each);
}

async fn a_late_leave_after_the_reaping_finds_nothing(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("s", 1)).await.unwrap();
    assert_eq!(subject.reap("4", DEAD).await, (1, 0));
    assert!(!subject.leave_fenced("4", "u", session("s", 2), true).await);
    assert_eq!(subject.leaves("4").await, [r#"onLeave {"userId":"u"}"#]);
}

async fn a_session_that_was_reaped_cannot_publish(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("s", 1)).await.unwrap();
    let publish = async || {
        let said = from_session(message("4", "u", "a"), "s");
        subject.publish(said).await.map(|_| ())
    };
    assert_eq!(publish().await, Ok(()));
    subject.reap("4", DEAD).await;
    assert_eq!(publish().await, Err(StoreError::NotMember));
}

async fn presence_counts_the_sessions_of_an_incarnation(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.join("4", "u", session("s1", 1)).await.unwrap();
    subject.join("4", "v", session("s2", 2)).await.unwrap();
    subject.join("4", "v", session("s2", 2)).await.unwrap();
    subject.join("6", "u", session("s1", 3)).await.unwrap();
    let look = async || {
        let channels = ["4", "5", "6"].map(name);
        let looks = subject.leases.presence(&incarnation(DEAD), &channels).await;
        let looks = looks.unwrap().into_iter();
        looks
            .map(|it| (it.sessions, it.tombstoned))
            .collect::<Vec<_>>()
    };
    assert_eq!(look().await, [(2, false), (0, false), (1, false)]);
    subject.leave("4", "u", session("s1", 4)).await;
    subject.reap("6", DEAD).await;
    assert_eq!(look().await, [(1, false), (0, false), (0, true)]);
}

async fn a_list_has_all_sessions_of_one_incarnation(kind: Kind) {
    const MANY: u64 = 1_200;
    let subject = Subject::new(kind).await;
    let joins = (0..MANY).map(|n| {
        let user = if n % 2 == 0 {
            text_user("u")
        } else {
            number_user("7")
        };
        subject.join_as("4", user, session(&format!("s{n:04}"), n))
    });
    for joined in join_all(joins).await {
        joined.unwrap();
    }
    let other = session_of("connector-2/bb", "other", 1);
    subject.join("4", "u", other).await.unwrap();
    subject.leave("4", "u", session("s0000", MANY)).await;
    let list = async |channel| {
        let channel = name(channel);
        let listed = subject.leases.list(&incarnation(DEAD), &channel).await;
        listed.unwrap()
    };
    let listed = list("4").await;
    let names: Vec<_> = listed.keys().map(|session| session.to_string()).collect();
    let expected: Vec<_> = (1..MANY).map(|n| format!("s{n:04}")).collect();
    assert_eq!(names, expected);
    let users: Vec<_> = listed.into_values().take(2).collect();
    assert_eq!(users, [number_user("7"), text_user("u")]);
    assert_eq!(list("5").await.len(), 0);
}

async fn presence_tells_that_a_detached_member_is_overdue(kind: Kind) {
    let options = StoreOptions {
        detached_life: Duration::from_millis(20),
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    let overdue = async || {
        let looks = subject
            .leases
            .presence(&incarnation(DEAD), &[name("4")])
            .await;
        looks.unwrap()[0].overdue
    };
    assert!(!overdue().await);
    subject.join("4", "u", Membership::Detached).await.unwrap();
    eventually("the detached member is overdue", async || overdue().await).await;
    subject.store.expire(&name("4")).await.unwrap();
    assert!(!overdue().await);
}

async fn an_incarnation_is_listed_as_long_as_it_has_a_session_in_the_channel(kind: Kind) {
    let subject = Subject::new(kind).await;
    let present = async || {
        let mut present = subject.leases.incarnations_in(&name("4")).await.unwrap();
        present.sort();
        present.iter().map(|it| it.to_string()).collect::<Vec<_>>()
    };
    assert!(present().await.is_empty());
    let other = session_of("connector-2/bb", "s3", 1);
    subject
        .join("4", "bot", Membership::Detached)
        .await
        .unwrap();
    subject.join("4", "u", session("s1", 1)).await.unwrap();
    subject.join("4", "v", session("s2", 2)).await.unwrap();
    subject.join("4", "v", other.clone()).await.unwrap();
    assert_eq!(present().await, [DEAD, "connector-2/bb"]);
    subject.leave("4", "v", session("s2", 3)).await;
    subject
        .leave("4", "v", session_of("connector-2/bb", "s3", 2))
        .await;
    assert_eq!(present().await, [DEAD], "the other has left");
    subject.leave("4", "u", session("s1", 4)).await;
    assert!(present().await.is_empty());
    subject.join("4", "u", session("s1", 5)).await.unwrap();
    subject.reap("4", DEAD).await;
    assert!(present().await.is_empty());
}

async fn the_whole_directory_can_be_read(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (one, other) = (incarnation(DEAD), incarnation("{connector}-3/bb"));
    subject.leases.schedule(&one).await.unwrap();
    subject.leases.schedule(&other).await.unwrap();
    let many: Vec<_> = (0..700).map(|n| incarnation(&format!("c{n}/aa"))).collect();
    for noted in join_all(many.iter().map(|it| subject.leases.schedule(it))).await {
        noted.unwrap();
    }
    let directory = subject.leases.directory().await.unwrap();
    assert!(directory.contains_key(&one) && directory.contains_key(&other));
    assert!(many.iter().all(|it| directory.contains_key(it)));
}
