//! Leases over a store in memory and a chat in the same process. The test moves the clock.

use super::incarnation::IndexGuard;
use super::index::Index;
use super::reconcile::LOOKS;
use super::renewal::RENEWALS;
use super::*;
use crate::chat_client::tests::{chat_of, in_time};
use crate::chat_client::{CallError, Chat, Source, TransportError};
use crate::testing::chat::{Instance, joined};
use channel_store::memory::{MemoryStore, Snapshot};
use channel_store::{
    ChannelName, ChannelStore, HistoryRange, Incarnation, IndexEntry, Join, Leases, Leave,
    LoginPolicy, Place, Presence, Renewed, SETTLE_TIME, ServerLifetime, SessionId, StoreOptions,
    User, UserId,
};
use runtime::Shutdown;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

const LENGTH: Duration = Duration::from_secs(10);
/// The time in which suspected places are checked and repaired.
const AT_ONCE: Duration = Duration::from_millis(10);

fn room(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

fn place(name: &str) -> Place {
    Place::Channel(room(name))
}

struct Scene {
    store: Arc<MemoryStore>,
    leases: Arc<dyn Leases>,
    chat: Arc<Chat>,
    lease: Arc<LeaseKeeper>,
    keeping: AbortOnDropHandle<Infallible>,
}

/// A chat in the same process.
fn chat_on(store: &Arc<MemoryStore>) -> Arc<Chat> {
    let service = chat::service(
        store.clone(),
        Arc::default(),
        Arc::default(),
        Arc::default(),
        &chat::Limits::default(),
        Shutdown::new(),
    );
    let service = BoxCloneSyncService::new(service.map_err(TransportError::new));
    Chat::new(Source::InProcess(service))
}

impl Scene {
    async fn new() -> Self {
        let store = MemoryStore::new(StoreOptions::default());
        let chat = chat_on(&store);
        Self::with_chat(store, chat).await
    }

    async fn with_chat(store: Arc<MemoryStore>, chat: Arc<Chat>) -> Self {
        let leases = store.leases();
        let lease = LeaseKeeper::new("c", LENGTH, leases.clone(), Arc::default()).unwrap();
        let logins = registry(&store, LoginPolicy::Reject);
        let keeping = keep(&lease, &chat, &logins, &store);
        sleep(Duration::from_millis(1)).await;
        Self {
            store,
            leases,
            chat,
            lease,
            keeping,
        }
    }

    async fn index(&self, of: &Incarnation) -> Vec<IndexEntry> {
        self.leases.index(of).await.unwrap()
    }

    async fn enter(&self, channel: &str) -> IndexGuard {
        self.lease.enter(vec![place(channel)]).await.unwrap()
    }

    /// Joins a channel with a new session of this user.
    async fn member(&self, channel: &str, user: &str) -> Arc<Membership> {
        let guard = Arc::new(self.enter(channel).await);
        let id = SessionId::new(format!("session of {user}")).unwrap();
        let user = User {
            id: UserId::new(user).unwrap(),
            is_number: false,
        };
        let membership =
            Membership::begin(self.lease.roster(), guard, room(channel), user, id, None);
        let joined = membership.send(&self.chat, membership.join(), in_time());
        let joined = joined.await.unwrap();
        membership.joined(&joined);
        membership
    }

    async fn leave(&self, membership: Arc<Membership>) {
        self.chat
            .leave(membership.leave(), in_time())
            .await
            .unwrap();
    }

    async fn members(&self, channel: &str) -> Vec<(String, u32)> {
        let page = self.store.members(&room(channel), None, 1_000).await;
        let members = page.unwrap().members.into_iter();
        members.map(|it| (it.id.to_string(), it.sessions)).collect()
    }
}

fn registry(store: &MemoryStore, policy: LoginPolicy) -> Arc<Logins> {
    Logins::new(policy, store.registry(), store.hints(), store.leases())
}

fn keep(
    lease: &Arc<LeaseKeeper>,
    chat: &Arc<Chat>,
    logins: &Arc<Logins>,
    store: &MemoryStore,
) -> AbortOnDropHandle<Infallible> {
    let commands = Commands::new(logins, lease.roster(), store.inboxes());
    let (lease, chat, logins) = (Arc::clone(lease), Arc::clone(chat), Arc::clone(logins));
    AbortOnDropHandle::new(tokio::spawn(async move {
        lease.keep(&chat, &logins, &commands).await
    }))
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_in_the_index_before_anybody_may_join() {
    let scene = Scene::new().await;
    let guard = scene.enter("room").await;
    let index = scene.index(guard.incarnation()).await;
    assert_eq!(index.len(), 1);
    assert_eq!(index[0].place, place("room"));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_joins_moves_only_when_the_lease_is_renewed() {
    let scene = Scene::new().await;
    let guard = scene.enter("room").await;
    let first = guard.deadline();
    sleep(2 * LENGTH).await;
    let second = guard.deadline();
    assert!(second >= first + 15_000, "the lease was renewed");
    drop(scene.keeping);
    sleep(2 * LENGTH).await;
    assert_eq!(guard.deadline(), second);
    let margin = 20_000;
    let renewed = scene.leases.renew(guard.incarnation(), LENGTH).await;
    let Ok(Renewed::Live(term)) = renewed else {
        panic!("{renewed:?}");
    };
    assert!(term.until + margin >= second + 15_000);
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_was_declared_dead_begins_a_new_incarnation() {
    let scene = Scene::new().await;
    let old = scene.enter("room").await;
    scene.leases.resign(old.incarnation()).await.unwrap();
    sleep(LENGTH / RENEWALS + AT_ONCE).await;
    assert!(old.is_over());
    let new = scene.enter("room").await;
    assert_ne!(new.incarnation(), old.incarnation());
    assert_eq!(scene.index(new.incarnation()).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connector_learns_of_its_death_at_once_from_its_index_or_a_join() {
    let scene = Scene::new().await;
    let old = scene.enter("room").await;
    scene.leases.resign(old.incarnation()).await.unwrap();
    assert!(scene.lease.enter(vec![place("other")]).await.is_none());
    sleep(Duration::from_millis(1)).await;
    assert!(old.is_over(), "the connector knows before the next renewal");

    let scene = Scene::new().await;
    let member = scene.member("room", "u").await;
    member.found_dead();
    sleep(Duration::from_millis(1)).await;
    let incarnation = member.lease().incarnation.clone();
    let state = scene.leases.observe(&[incarnation]).await.remove(0);
    assert!(
        state.unwrap().unwrap().dead,
        "the connector has resigned, so reapers may begin"
    );
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_removed_from_the_index_after_two_looks_without_a_session() {
    let scene = Scene::new().await;
    let guard = scene.enter("room").await;
    let incarnation = guard.incarnation().clone();
    sleep(5 * SETTLE_TIME).await;
    assert_eq!(
        scene.index(&incarnation).await.len(),
        1,
        "there is a session"
    );
    drop(guard);
    sleep(SETTLE_TIME / 2).await;
    assert_eq!(
        scene.index(&incarnation).await.len(),
        1,
        "there was only one look"
    );
    sleep(2 * SETTLE_TIME).await;
    assert_eq!(scene.index(&incarnation).await, []);
    // The place comes back as another entry.
    let _stay = scene.enter("room").await;
    assert_eq!(scene.index(&incarnation).await[0].nonce, 2);
}

fn empty(lifetime: &str) -> Presence {
    Presence {
        sessions: 0,
        tombstoned: false,
        overdue: false,
        lifetime: ServerLifetime::from(lifetime),
    }
}

#[tokio::test(start_paused = true)]
async fn both_looks_must_find_the_same_server_and_no_session_in_between() {
    let mut index = Index::default();
    let room = place("room");
    let mut now = Instant::now();
    let mut looked = |index: &mut Index, lifetime| {
        now += SETTLE_TIME;
        let dropped = index.looked(now, room.clone(), &empty(lifetime));
        assert_eq!(
            index.looked(now, room.clone(), &empty(lifetime)),
            None,
            "it is too early for another look"
        );
        usize::from(dropped.is_some())
    };
    index.enter(&room);
    assert_eq!(looked(&mut index, "a"), 0, "there is a session");
    index.exit(&room);
    assert_eq!(looked(&mut index, "a"), 0);
    assert_eq!(
        looked(&mut index, "b"),
        0,
        "there was a failover in between"
    );
    index.enter(&room);
    index.exit(&room);
    assert_eq!(looked(&mut index, "b"), 0, "there was a session in between");
    assert_eq!(looked(&mut index, "b"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_index_that_differs_from_the_stores_is_repaired() {
    let mut index = Index::default();
    let entry = |channel: &str, nonce| IndexEntry {
        place: place(channel),
        nonce,
    };
    for channel in ["a", "b", "c"] {
        index.enter(&place(channel));
    }
    let found = vec![entry("a", 1), entry("b", 7), entry("x", 9)];
    let mut missing = index.reconcile(found);
    missing.sort_by(|a, b| a.place.cmp(&b.place));
    assert_eq!(missing, [entry("b", 2), entry("c", 3)]);
    let due = index.due(Instant::now(), LOOKS, |_| true);
    assert_eq!(due, [place("x")], "an unknown place is due for a look");
    index.enter(&place("y"));
    assert_eq!(index.unwritten(&[place("y")]), [entry("y", 10)]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_the_store_has_lost_is_restored_with_its_index() {
    let scene = Scene::new().await;
    let guard = scene.enter("room").await;
    scene.store.restart(Some(Snapshot::default()));
    let found = scene.leases.observe(&[guard.incarnation().clone()]).await;
    assert_eq!(found, [Ok(None)], "the store has lost the lease");
    sleep(LENGTH / 2).await;
    let found = scene.leases.observe(&[guard.incarnation().clone()]).await;
    assert!(found[0].as_ref().is_ok_and(|it| !it.unwrap().dead));
    assert_eq!(scene.index(guard.incarnation()).await.len(), 1);
    assert!(!guard.is_over(), "no session was closed");

    // A session that wants to join before the next renewal does not wait for it.
    sleep(LENGTH).await;
    scene.store.restart(Some(Snapshot::default()));
    let soon = timeout(Duration::from_millis(100), scene.enter("new"));
    let new = soon.await.unwrap();
    assert_eq!(new.incarnation(), guard.incarnation());
    assert_eq!(scene.index(guard.incarnation()).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_place_that_has_waited_longest_is_checked_first() {
    // More than can be looked at in the settle time.
    const MANY: usize = 70 * LOOKS;
    let mut index = Index::default();
    for n in 0..MANY {
        index.enter(&place(&format!("room-{n:04}")));
    }
    let begin = Instant::now() + SETTLE_TIME;
    assert_eq!(
        index.due(begin - Duration::from_millis(1), LOOKS, |_| true),
        []
    );
    let mut looks: BTreeMap<Place, usize> = BTreeMap::new();
    for second in 0..140 {
        let now = begin + Duration::from_secs(second);
        for place in index.due(now, LOOKS, |_| true) {
            assert_eq!(index.looked(now, place.clone(), &empty("a")), None);
            *looks.entry(place).or_default() += 1;
        }
    }
    assert_eq!(looks.len(), MANY);
    assert!(
        looks.into_values().all(|looks| looks == 2),
        "each place is checked"
    );
}

#[tokio::test(start_paused = true)]
async fn places_without_sessions_do_not_pile_up_behind_those_in_use() {
    const A_SECOND: usize = 150;
    let mut index = Index::default();
    let mut now = Instant::now();
    for n in 0..50 * LOOKS {
        index.enter(&place(&format!("used-{n}")));
    }
    for second in 0..600 {
        for n in 0..A_SECOND {
            let idle = Place::User(UserId::new(format!("{second}-{n}")).unwrap());
            index.enter(&idle);
            index.exit(&idle);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        now += Duration::from_secs(1);
        for place in index.due(now, LOOKS, |_| true) {
            index.looked(now, place, &empty("a"));
        }
    }
    let idle = index.places().count() - 50 * LOOKS;
    let seconds = idle / A_SECOND;
    assert!(
        seconds <= 125,
        "it takes two looks with a settle time in between: {seconds} s"
    );
}

#[tokio::test(start_paused = true)]
async fn after_the_store_lost_all_data_members_are_restored_with_the_next_renewal() {
    let scene = Scene::new().await;
    let alice = scene.member("room", "alice").await;
    let _bob = scene.member("room", "bob").await;
    let _carol = scene.member("other", "carol").await;
    scene.store.restart(Some(Snapshot::default()));
    assert_eq!(scene.members("room").await, []);
    sleep(LENGTH / RENEWALS + AT_ONCE).await;
    let both = [("alice".to_owned(), 1), ("bob".to_owned(), 1)];
    assert_eq!(scene.members("room").await, both);
    assert_eq!(scene.members("other").await, [("carol".to_owned(), 1)]);
    let index = scene.index(&alice.lease().incarnation).await;
    assert_eq!(
        index.len(),
        2,
        "the index is restored, so a reaper would find the members"
    );
    assert!(!alice.lease().is_over(), "no session was closed");

    scene.leave(alice).await;
    assert_eq!(scene.members("room").await, both[1..]);
}

#[tokio::test(start_paused = true)]
async fn a_channel_with_older_data_is_repaired_even_if_only_names_differ() {
    let scene = Scene::new().await;
    let alice = scene.member("room", "alice").await;
    let before = scene.store.snapshot();
    scene.leave(alice).await;
    let _bob = scene.member("room", "bob").await;
    sleep(SETTLE_TIME + Duration::from_secs(1)).await;
    scene.store.restart(Some(before));
    assert_eq!(scene.members("room").await, [("alice".to_owned(), 1)]);
    sleep(LENGTH / RENEWALS + AT_ONCE).await;
    assert_eq!(scene.members("room").await, [("bob".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_suspected_place_is_checked_at_once() {
    let scene = Scene::new().await;
    let alice = scene.member("room", "alice").await;
    let leave = Leave {
        channel: room("room"),
        user: alice.user().clone(),
        membership: channel_store::Membership::Session {
            incarnation: alice.lease().incarnation.clone(),
            session: alice.session().clone(),
            operation: 1_000,
        },
        fence: false,
    };
    scene.store.leave(leave).await.unwrap();
    assert_eq!(scene.members("room").await, []);
    alice.suspect();
    sleep(AT_ONCE).await;
    assert_eq!(scene.members("room").await, [("alice".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_leaving_member_is_neither_restored_nor_removed_twice() {
    let scene = Scene::new().await;
    let alice = scene.member("room", "alice").await;
    let leave = alice.leave();
    let suspected = async || {
        alice.suspect();
        sleep(AT_ONCE).await;
    };
    suspected().await;
    assert_eq!(
        scene.members("room").await.len(),
        1,
        "the leave is still under way"
    );
    scene.chat.leave(leave, in_time()).await.unwrap();
    suspected().await;
    assert_eq!(scene.members("room").await, []);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_joined_again_is_known_when_its_former_membership_ends_late() {
    let scene = Scene::new().await;
    let former = scene.member("room", "alice").await;
    scene.chat.leave(former.leave(), in_time()).await.unwrap();
    let _again = scene.member("room", "alice").await;
    drop(former);
    sleep(SETTLE_TIME + Duration::from_secs(1)).await;
    assert_eq!(scene.members("room").await, [("alice".to_owned(), 1)]);
    scene.store.restart(Some(Snapshot::default()));
    sleep(LENGTH / RENEWALS + AT_ONCE).await;
    assert_eq!(scene.members("room").await, [("alice".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_member_without_a_membership_in_the_connector_is_removed() {
    let scene = Scene::new().await;
    let _here = scene.member("room", "here").await;
    drop(scene.member("room", "ghost").await);
    assert_eq!(scene.members("room").await.len(), 2);
    sleep(SETTLE_TIME + Duration::from_secs(1)).await;
    assert_eq!(scene.members("room").await, [("here".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_finds_its_own_tombstone_is_dead_whatever_its_lease_says() {
    let scene = Scene::new().await;
    let guard = scene.enter("room").await;
    let incarnation = guard.incarnation().clone();
    scene.store.reap(&room("room"), &incarnation).await.unwrap();
    scene.lease.suspects.add(place("room"));
    sleep(AT_ONCE).await;
    assert!(guard.is_over());
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_ends_with_a_grace_keeps_its_lease_for_that_time() {
    let scene = Scene::new().await;
    let guard = scene.enter("room").await;
    let name = [guard.incarnation().clone()];
    let state = async || scene.leases.observe(&name).await.remove(0);
    let before = state().await.unwrap().unwrap();
    drop(scene.keeping);
    scene.lease.end(2 * LENGTH).await;
    let after = state().await.unwrap().unwrap();
    assert!(!after.dead && after.beat > before.beat);
    assert_eq!((before.length, after.length), (LENGTH, 2 * LENGTH));
    let directory = scene.leases.directory().await.unwrap();
    assert!(directory.contains_key(guard.incarnation()));
}

#[tokio::test(start_paused = true)]
async fn members_are_not_restored_before_lease_and_index() {
    let scene = Scene::new().await;
    let alice = scene.member("room", "alice").await;
    scene.store.restart(Some(Snapshot::default()));
    alice.suspect();
    sleep(AT_ONCE).await;
    assert_eq!(
        scene.members("room").await.len(),
        1,
        "the lease is restored before the next regular renewal"
    );
    let incarnation = alice.lease().incarnation.clone();
    assert_eq!(scene.index(&incarnation).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_failed_is_tried_again() {
    let mut instance = Instance::new();
    let chat = chat_of(&[&instance]);
    let _stream = instance.stream().await;
    let store = MemoryStore::new(StoreOptions::default());
    let scene = Scene::with_chat(store, chat).await;
    let (alice, ()) = tokio::join!(scene.member("room", "alice"), async {
        let join = instance.join().await;
        join.answer(Ok(joined("a", 1)));
    });
    // The store does not know alice.
    alice.suspect();
    for _ in 0..200 {
        let join = instance.join().await;
        let request = join.answer(Err(Status::unavailable("")));
        assert_eq!(request.operation, 1, "it is the same join");
    }
    assert!(alice.leave().fence, "a copy of the join may be under way");
}

#[tokio::test(start_paused = true)]
async fn a_detached_member_whose_chat_is_gone_expires_when_a_connector_looks() {
    let scene = Scene::new().await;
    let _here = scene.member("room", "here").await;
    let detached = Join::new(
        room("room"),
        User {
            id: UserId::new("bot").unwrap(),
            is_number: false,
        },
        channel_store::Membership::Detached,
    );
    // This goes past chat, so no chat remembers when the member is due.
    scene.store.join(detached).await.unwrap();
    sleep(2 * SETTLE_TIME + Duration::from_secs(1)).await;
    let channel = room("room");
    let page = scene.store.history(&channel, &HistoryRange::Newest, 10);
    let entries = page.await.unwrap().entries;
    assert_eq!(entries.len(), 3, "two joins and one leave");
}

/// By how much clocks are set, in milliseconds: more than the margin of deadlines.
const AHEAD: i64 = 300_000;

#[tokio::test(start_paused = true)]
async fn a_join_that_is_late_by_the_servers_clock_is_repeated_once() {
    let scene = Scene::new().await;
    scene.store.set_clock(Some("room"), AHEAD);
    let alice = scene.member("room", "alice").await;
    let listed = [("alice".to_owned(), 1)];
    assert_eq!(scene.members("room").await, listed);
    // The same holds if the reconciler has to bring the member back.
    scene.store.restart(Some(Snapshot::default()));
    assert_eq!(scene.members("room").await, []);
    sleep(LENGTH / RENEWALS + AT_ONCE).await;
    assert_eq!(scene.members("room").await, listed);
    scene.leave(alice).await;
    assert_eq!(scene.members("room").await, []);
}

#[tokio::test(start_paused = true)]
async fn a_join_of_a_dead_connector_is_late_whatever_the_clock_says() {
    let scene = Scene::new().await;
    let guard = Arc::new(scene.enter("room").await);
    // The channel holds no tombstone of the incarnation, as if that had expired.
    scene.leases.resign(guard.incarnation()).await.unwrap();
    scene.store.set_clock(Some("room"), AHEAD);
    let user = User {
        id: UserId::new("ghost").unwrap(),
        is_number: false,
    };
    let session = SessionId::new("session").unwrap();
    let ghost = Membership::begin(
        scene.lease.roster(),
        guard,
        room("room"),
        user,
        session,
        None,
    );
    let joined = ghost.send(&scene.chat, ghost.join(), in_time()).await;
    assert!(matches!(joined, Err(CallError::Late { .. })), "{joined:?}");
    assert_eq!(scene.members("room").await, []);
}

#[tokio::test(start_paused = true)]
async fn many_late_joins_cost_few_renewals() {
    const MANY: usize = 100;
    let scene = Scene::new().await;
    scene.store.set_clock(Some("room"), AHEAD);
    let renewals = async || {
        let name = scene.enter("room").await.incarnation().clone();
        scene
            .leases
            .observe(&[name])
            .await
            .remove(0)
            .unwrap()
            .unwrap()
            .beat
    };
    let name = scene.enter("room").await.incarnation().clone();
    scene.store.set_clock(Some(name.as_str()), -AHEAD);
    let before = renewals().await;
    let users: Vec<_> = (0..MANY).map(|n| format!("user-{n}")).collect();
    let joins = users.iter().map(|user| scene.member("room", user));
    let members = futures_util::future::join_all(joins).await;
    assert_eq!(scene.members("room").await.len(), MANY);
    // The clock of its server was set back, so each renewal makes the beat higher by one only.
    let after = renewals().await;
    assert!(after - before < 10, "{}", after - before);
    drop(members);
}

mod away;

#[tokio::test(start_paused = true)]
async fn nobody_is_brought_back_into_a_channel_that_was_deleted() {
    let scene = Scene::new().await;
    let alice = scene.member("room", "alice").await;
    let bob = scene.member("room", "bob").await;
    scene.store.delete(&room("room"), None).await.unwrap();
    let carol = scene.member("room", "carol").await;
    alice.suspect();
    sleep(AT_ONCE).await;
    let listed = [("carol".to_owned(), 1)];
    assert_eq!(scene.members("room").await, listed);
    assert!(alice.is_deleted() && bob.is_deleted() && !carol.is_deleted());

    // What is lost after that is still repaired, also if the deletion is lost with it.
    scene.store.restart(Some(Snapshot::default()));
    sleep(LENGTH / RENEWALS + AT_ONCE).await;
    assert_eq!(scene.members("room").await, listed);
    scene.store.delete(&room("room"), None).await.unwrap();
    carol.suspect();
    sleep(AT_ONCE).await;
    assert_eq!(scene.members("room").await, []);
    assert!(carol.is_deleted(), "it began anew when it was repaired");
}
