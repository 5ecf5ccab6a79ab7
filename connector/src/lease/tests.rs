//! The lease over a store in memory, with the clock in the test's hand.

use super::*;
use channel_store::memory::{MemoryStore, Snapshot};
use channel_store::{
    ChannelStore, Generation, IndexEntry, Join, Look, Membership, SETTLE_TIME, SessionId,
    StoreOptions, User, UserId,
};
use tokio_util::task::AbortOnDropHandle;

const LENGTH: Duration = Duration::from_secs(10);

fn room(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

fn place(name: &str) -> Place {
    Place::Channel(room(name))
}

struct Scene {
    store: Arc<MemoryStore>,
    leases: Arc<dyn Leases>,
    lease: Arc<Lease>,
    keeping: AbortOnDropHandle<Dead>,
}

impl Scene {
    async fn new() -> Self {
        let store = MemoryStore::new(StoreOptions::default());
        let leases = store.leases();
        let lease = Lease::new("c", LENGTH, leases.clone()).unwrap();
        let keeping = keep(&lease);
        sleep(Duration::from_millis(1)).await;
        Self {
            store,
            leases,
            lease,
            keeping,
        }
    }

    async fn index(&self, of: &Incarnation) -> Vec<IndexEntry> {
        self.leases.index(of).await.unwrap()
    }

    async fn join(&self, stay: &Stay) {
        let join = Join {
            channel: room("room"),
            user: User {
                id: UserId::new("u").unwrap(),
                is_number: false,
            },
            membership: Membership::Session {
                incarnation: stay.incarnation().clone(),
                session: SessionId::new("s").unwrap(),
                operation: 1,
            },
            deadline: Some(stay.deadline()),
        };
        self.store.join(join).await.unwrap();
    }
}

fn keep(lease: &Arc<Lease>) -> AbortOnDropHandle<Dead> {
    let lease = Arc::clone(lease);
    AbortOnDropHandle::new(tokio::spawn(async move { lease.keep().await }))
}

#[tokio::test(start_paused = true)]
async fn a_channel_stands_in_the_index_before_anybody_may_join() {
    let scene = Scene::new().await;
    let stay = scene.lease.enter(&room("room")).await.unwrap();
    let index = scene.index(stay.incarnation()).await;
    assert_eq!(index.len(), 1);
    assert_eq!(index[0].place, place("room"));
    scene.join(&stay).await;
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_joins_moves_with_the_lease_only() {
    let scene = Scene::new().await;
    let stay = scene.lease.enter(&room("room")).await.unwrap();
    let first = stay.deadline();
    sleep(2 * LENGTH).await;
    let second = stay.deadline();
    assert!(second >= first + 15_000, "it was renewed");
    drop(scene.keeping);
    sleep(2 * LENGTH).await;
    assert_eq!(stay.deadline(), second);
    let state = scene.leases.observe(&[stay.incarnation().clone()]).await;
    assert_eq!(state.unwrap()[0].unwrap().until + 20_000, second);
}

#[tokio::test(start_paused = true)]
async fn who_was_declared_dead_begins_anew() {
    let mut scene = Scene::new().await;
    let old = scene.lease.enter(&room("room")).await.unwrap();
    scene.leases.resign(old.incarnation()).await.unwrap();
    let dead = (&mut scene.keeping).await.unwrap();
    scene.lease.give_up(dead).await;
    let room = room("room");
    let nobody = timeout(LENGTH, scene.lease.enter(&room)).await;
    assert!(nobody.is_err(), "nobody joins in between");
    let _keeping = keep(&scene.lease);
    let new = scene.lease.enter(&room).await.unwrap();
    assert_ne!(new.incarnation(), old.incarnation());
    assert_eq!(scene.index(new.incarnation()).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sealed_index_or_a_refused_join_tells_of_death_at_once() {
    let mut scene = Scene::new().await;
    let old = scene.lease.enter(&room("room")).await.unwrap();
    scene.leases.resign(old.incarnation()).await.unwrap();
    assert!(scene.lease.enter(&room("other")).await.is_none());
    let soon = timeout(Duration::from_millis(1), &mut scene.keeping);
    assert!(soon.await.is_ok(), "it need not wait for the next renewal");

    let scene = Scene::new().await;
    let stay = scene.lease.enter(&room("room")).await.unwrap();
    stay.condemn();
    let soon = timeout(Duration::from_millis(1), scene.keeping);
    let dead = soon.await.unwrap().unwrap();
    scene.lease.give_up(dead).await;
    let state = scene.leases.observe(&[stay.incarnation().clone()]).await;
    assert!(state.unwrap()[0].unwrap().dead, "whoever buries may begin");
}

#[tokio::test(start_paused = true)]
async fn a_channel_leaves_the_index_when_two_looks_found_nothing() {
    let scene = Scene::new().await;
    let stay = scene.lease.enter(&room("room")).await.unwrap();
    let incarnation = stay.incarnation().clone();
    sleep(5 * SETTLE_TIME).await;
    assert_eq!(scene.index(&incarnation).await.len(), 1, "somebody is here");
    drop(stay);
    sleep(SETTLE_TIME / 2).await;
    assert_eq!(scene.index(&incarnation).await.len(), 1, "looked at once");
    sleep(2 * SETTLE_TIME).await;
    assert_eq!(scene.index(&incarnation).await, []);
    // And comes back as another entry.
    let _stay = scene.lease.enter(&room("room")).await.unwrap();
    assert_eq!(scene.index(&incarnation).await[0].nonce, 2);
}

#[tokio::test(start_paused = true)]
async fn it_stays_while_the_store_has_a_member_of_it_whose_leave_is_still_to_land() {
    let scene = Scene::new().await;
    let stay = scene.lease.enter(&room("room")).await.unwrap();
    let incarnation = stay.incarnation().clone();
    scene.join(&stay).await;
    drop(stay);
    sleep(5 * SETTLE_TIME).await;
    assert_eq!(scene.index(&incarnation).await.len(), 1);
}

fn empty(generation: &str) -> Look {
    Look {
        sessions: 0,
        tombstoned: false,
        generation: Generation::from(generation),
    }
}

#[tokio::test(start_paused = true)]
async fn the_second_look_must_find_the_same_server_and_nobody_in_between() {
    let mut index = Index::default();
    let room = place("room");
    let now = Instant::now();
    let looked = |index: &mut Index, generation| {
        let looks = std::iter::once((room.clone(), empty(generation)));
        index.looked(now, looks).len()
    };
    index.enter(&room);
    assert_eq!(looked(&mut index, "a"), 0, "somebody is here");
    index.exit(&room);
    assert_eq!(looked(&mut index, "a"), 0);
    assert_eq!(looked(&mut index, "b"), 0, "a failover in between");
    index.enter(&room);
    index.exit(&room);
    assert_eq!(looked(&mut index, "b"), 0, "somebody in between");
    assert_eq!(looked(&mut index, "b"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_index_that_differs_from_the_stores_is_put_right() {
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
    let due = index.due(Instant::now(), LOOKS);
    assert_eq!(due, [place("x")], "what is unknown is looked at");
    index.enter(&place("y"));
    assert_eq!(index.unwritten(&place("y")), Some(entry("y", 10)));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_the_store_has_lost_is_taken_again_with_its_index() {
    let scene = Scene::new().await;
    let stay = scene.lease.enter(&room("room")).await.unwrap();
    scene.store.restart(Some(Snapshot::default()));
    let found = scene.leases.observe(&[stay.incarnation().clone()]).await;
    assert_eq!(found.unwrap(), [None], "nothing of it is left");
    sleep(LENGTH / 2).await;
    let found = scene.leases.observe(&[stay.incarnation().clone()]).await;
    assert!(!found.unwrap()[0].unwrap().dead);
    assert_eq!(scene.index(stay.incarnation()).await.len(), 1);
    assert!(!scene.keeping.is_finished(), "nobody was closed");

    // Who wants to join before that does not wait for the next renewal.
    sleep(LENGTH).await;
    scene.store.restart(Some(Snapshot::default()));
    let room = room("new");
    let soon = timeout(Duration::from_millis(100), scene.lease.enter(&room));
    let new = soon.await.unwrap().unwrap();
    assert_eq!(new.incarnation(), stay.incarnation());
    assert_eq!(scene.index(stay.incarnation()).await.len(), 2);
}
