//! While the shard of a lease is away, the connector goes on with another incarnation.

use super::*;
use crate::membership::incarnation::SILENCE;
use crate::membership::{Admission, Registration, Shown};
use crate::simulation::network::{DIRECTORY, FarLeases, FarUsers, Link, Slots};
use crate::testing::client;
use crate::transport::Connection;
use channel_store::{
    EntryState, Restricted, Restriction, Restrictions, ShownToken, TokenId, UserRestrictions, When,
};
use wire::{Disconnect, WireFormat};

/// The longest time from the loss of a shard to a login under another incarnation.
const SOON: Duration = Duration::from_millis(900);
/// The login of a user.
struct Guest {
    registration: Arc<Registration>,
    connection: Arc<Connection>,
    _client: client::Client,
}

/// A connector for which each name in the store has a server of its own.
struct Apart {
    store: Arc<MemoryStore>,
    slots: Arc<Slots>,
    logins: Arc<Logins>,
    lease: Arc<LeaseKeeper>,
    _keeping: AbortOnDropHandle<Infallible>,
    _agreeing: AbortOnDropHandle<Infallible>,
}

impl Apart {
    /// A connector whose lease is taken.
    async fn new() -> Self {
        let apart = Self::without(&[]);
        assert!(apart.first().await.is_some());
        apart
    }

    /// A connector that begins while these servers are away.
    fn without(away: &[&str]) -> Self {
        let store = MemoryStore::new(StoreOptions::default());
        let slots = Arc::<Slots>::default();
        away.iter().for_each(|slot| slots.take(slot));
        let link = Link::new(0, &slots);
        let leases = FarLeases::of(&store, &link, &Arc::default());
        let users = FarUsers::of(&store, &link);
        let logins = Logins::new(LoginPolicy::KickOld, users, store.hints(), leases.clone());
        let lease = LeaseKeeper::new("c", LENGTH, leases, Arc::default()).unwrap();
        let chat = chat_on(&store);
        let keeping = keep(&lease, &chat, &logins, &store);
        let agreeing = Arc::clone(&logins);
        let agreeing = tokio::spawn(async move { agreeing.keep_announcing_policy().await });
        Self {
            store,
            slots,
            logins,
            lease,
            _keeping: keeping,
            _agreeing: AbortOnDropHandle::new(agreeing),
        }
    }

    async fn first(&self) -> Option<IndexGuard> {
        timeout(SOON, self.lease.enter(Vec::new())).await.ok()?
    }

    /// Waits until a session may come to a place.
    async fn enter(&self, channel: &str) -> IndexGuard {
        let guard = timeout(SOON, self.lease.enter(vec![place(channel)])).await;
        guard.expect("the session may enter in time").unwrap()
    }

    async fn login(&self, name: &str) -> Guest {
        let user = UserId::new(name).unwrap();
        let guard = self.lease.enter(vec![Place::User(user.clone())]).await;
        let (connection, client) = client::client(WireFormat::JSON).await;
        let session = SessionId::new(format!("session of {name}")).unwrap();
        let guard = Arc::new(guard.unwrap());
        let registration =
            self.logins
                .begin(&guard, &user, &session, &connection, Shown::default());
        let admission = self.logins.login(&registration).await;
        assert_eq!(admission, Ok(Admission::Yes));
        // It claims, as after a join.
        let in_time = Instant::now() + LENGTH;
        self.logins.claim(&registration, in_time).await;
        Guest {
            registration,
            connection,
            _client: client,
        }
    }

    /// The entries of an index in the store.
    async fn indexed(&self, guard: &IndexGuard) -> Vec<Place> {
        let index = self.store.leases().index(guard.incarnation()).await;
        index.unwrap().into_iter().map(|it| it.place).collect()
    }

    async fn is_noted(&self, guard: &IndexGuard) -> bool {
        let directory = self.store.leases().directory().await.unwrap();
        directory.contains_key(guard.incarnation())
    }

    async fn is_dead(&self, who: &Incarnation) -> bool {
        let who = std::slice::from_ref(who);
        let state = self.store.leases().observe(who).await.remove(0);
        state.unwrap().is_some_and(|it| it.dead)
    }
}

#[tokio::test(start_paused = true)]
async fn new_sessions_get_a_second_incarnation_while_the_shard_of_the_first_is_away() {
    let apart = Apart::new().await;
    let old = apart.enter("old").await;
    apart.slots.take(old.incarnation().as_str());
    // A session that comes at this moment waits no longer than a login may wait.
    let new = apart.enter("new").await;
    assert_ne!(new.incarnation(), old.incarnation());
    assert_eq!(
        apart.indexed(&new).await,
        [place("new")],
        "the place is in the index"
    );
    assert!(apart.is_noted(&new).await);
    // Later sessions do not wait at all.
    let began = Instant::now();
    let next = apart.enter("next").await;
    assert_eq!(next.incarnation(), new.incarnation());
    assert!(began.elapsed() < Duration::from_millis(100));
    assert!(
        apart
            .lease
            .trouble()
            .unwrap()
            .contains("on a shard that is away")
    );
    // While the second incarnation is well, there is no third one.
    sleep(3 * LENGTH).await;
    assert_eq!(apart.enter("last").await.incarnation(), new.incarnation());
    assert_eq!(apart.store.leases().directory().await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_session_stays_with_its_incarnation_for_life() {
    let apart = Apart::new().await;
    let old = apart.enter("old").await;
    apart.slots.take(old.incarnation().as_str());
    let new = apart.enter("new").await;
    // A further channel of the old session can't be indexed, and no other incarnation indexes it.
    let further = apart.lease.enter_beside(&old, vec![place("further")]);
    assert!(timeout(LENGTH, further).await.is_err());
    assert!(apart.lease.is_better_off_anew(&old, &place("further")));
    assert!(!apart.lease.is_better_off_anew(&new, &place("further")));
    assert_eq!(apart.indexed(&new).await, [place("new")]);
    // A channel that stands in the old index can be joined again.
    let again = apart.lease.enter_beside(&old, vec![place("old")]).await;
    assert_eq!(again.unwrap().incarnation(), old.incarnation());

    apart.slots.restore(old.incarnation().as_str());
    let further = apart.lease.enter_beside(&old, vec![place("further")]);
    let further = timeout(SOON, further).await.unwrap().unwrap();
    assert_eq!(further.incarnation(), old.incarnation());
    assert!(apart.indexed(&old).await.contains(&place("further")));
    assert!(!apart.lease.is_better_off_anew(&old, &place("further")));
}

#[tokio::test(start_paused = true)]
async fn the_second_incarnation_is_given_up_when_it_has_no_sessions() {
    let apart = Apart::new().await;
    let old = apart.enter("old").await;
    apart.slots.take(old.incarnation().as_str());
    let new = apart.enter("new").await;
    let second = new.incarnation().clone();
    sleep(LENGTH).await;
    apart.slots.restore(old.incarnation().as_str());
    sleep(Duration::from_secs(1)).await;
    let later = apart.enter("later").await;
    assert_eq!(
        later.incarnation(),
        old.incarnation(),
        "the first incarnation is used again"
    );
    sleep(5 * SETTLE_TIME).await;
    assert!(!apart.is_dead(&second).await, "it still has a session");
    drop(new);
    sleep(SETTLE_TIME / 2).await;
    assert!(!apart.is_dead(&second).await, "it may still have a session");
    sleep(2 * SETTLE_TIME).await;
    assert!(apart.is_dead(&second).await);
    assert!(!old.is_over() && apart.lease.trouble().is_none());
    assert_eq!(apart.enter("last").await.incarnation(), old.incarnation());
}

#[tokio::test(start_paused = true)]
async fn the_second_incarnation_stays_while_the_first_is_away() {
    let apart = Apart::new().await;
    let old = apart.enter("old").await;
    apart.slots.take(old.incarnation().as_str());
    let second = apart.enter("new").await.incarnation().clone();
    sleep(5 * SETTLE_TIME).await;
    assert_eq!(apart.enter("last").await.incarnation(), &second);
    assert!(!apart.is_dead(&second).await);
}

#[tokio::test(start_paused = true)]
async fn a_connector_has_at_most_three_incarnations() {
    let apart = Apart::new().await;
    let mut stays = vec![apart.enter("0").await];
    for number in 1..3 {
        apart.slots.take(stays[number - 1].incarnation().as_str());
        let guard = apart.enter(&number.to_string()).await;
        assert!(
            stays
                .iter()
                .all(|it| it.incarnation() != guard.incarnation())
        );
        stays.push(guard);
    }
    apart.slots.take(stays[2].incarnation().as_str());
    let fourth = timeout(3 * LENGTH, apart.lease.enter(vec![place("3")])).await;
    assert!(fourth.is_err(), "no session may enter any more");
    assert_eq!(apart.store.leases().directory().await.unwrap().len(), 3);
    assert!(
        apart
            .lease
            .trouble()
            .unwrap()
            .contains("nobody new can log in")
    );
    apart.slots.restore(stays[1].incarnation().as_str());
    let back = apart.enter("3").await;
    assert_eq!(back.incarnation(), stays[1].incarnation());
}

#[tokio::test(start_paused = true)]
async fn the_death_of_one_incarnation_closes_only_its_own_sessions() {
    let apart = Apart::new().await;
    let old = apart.login("old").await;
    let first = old.registration.guard().incarnation().clone();
    apart.slots.take(first.as_str());
    let new = apart.login("new").await;
    let second = new.registration.guard().incarnation().clone();
    assert_ne!(first, second);
    apart.store.leases().resign(&first).await.unwrap();
    apart.slots.restore(first.as_str());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(old.connection.closing(), Some(Disconnect::Dead));
    assert_eq!(new.connection.closing(), None);
    // The second incarnation is the only one now, and stays.
    sleep(5 * SETTLE_TIME).await;
    assert_eq!(apart.enter("room").await.incarnation(), &second);
    assert!(!apart.is_dead(&second).await);
    // The same, the other way round.
    apart.slots.take(second.as_str());
    let last = apart.login("last").await;
    apart.store.leases().resign(&second).await.unwrap();
    apart.slots.restore(second.as_str());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(new.connection.closing(), Some(Disconnect::Dead));
    assert_eq!(last.connection.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn no_place_is_entered_with_an_incarnation_that_was_declared_dead() {
    let apart = Apart::new().await;
    let guard = apart.enter("room").await;
    apart
        .store
        .leases()
        .resign(guard.incarnation())
        .await
        .unwrap();
    sleep(LENGTH / RENEWALS + Duration::from_millis(200)).await;
    assert!(guard.is_over(), "sessions with this incarnation are told");
    let beside = apart.lease.enter_beside(&guard, vec![place("other")]);
    assert!(timeout(SOON, beside).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_second_incarnation_does_not_wait_for_a_directory_that_is_away() {
    let apart = Apart::new().await;
    let old = apart.enter("old").await;
    apart.slots.take(old.incarnation().as_str());
    apart.slots.take(DIRECTORY);
    let new = apart.enter("new").await;
    assert!(!apart.is_noted(&new).await);
    sleep(2 * LENGTH).await;
    apart.slots.restore(DIRECTORY);
    sleep(Duration::from_millis(2_500)).await;
    assert!(apart.is_noted(&new).await);
}

#[tokio::test(start_paused = true)]
async fn a_first_incarnation_is_in_the_directory_before_its_lease_is_taken() {
    let apart = Apart::without(&[DIRECTORY]);
    assert!(apart.first().await.is_none());
    sleep(LENGTH).await;
    assert!(apart.first().await.is_none());
    assert!(apart.lease.trouble().unwrap().contains("no lease"));
    apart.slots.restore(DIRECTORY);
    let guard = timeout(2 * SOON, apart.lease.enter(Vec::new())).await;
    assert!(apart.is_noted(&guard.unwrap().unwrap()).await);
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_whole_store_begins_no_second_incarnation() {
    let apart = Apart::new().await;
    let old = apart.enter("old").await;
    for _ in 0..20 {
        apart.slots.take(old.incarnation().as_str());
        let (guard, ()) = tokio::join!(apart.enter("new"), async {
            sleep(SILENCE - Duration::from_millis(100)).await;
            apart.slots.restore(old.incarnation().as_str());
        });
        assert_eq!(guard.incarnation(), old.incarnation());
        // A question that was given up before the answer came does not make the shard count as away either.
        let gives_up = apart.lease.enter(vec![place("given up")]);
        let _ = timeout(Duration::from_millis(5), gives_up).await;
        sleep(2 * SILENCE).await;
    }
    assert_eq!(apart.store.leases().directory().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_connector_holds_a_lease_while_any_of_its_leases_is_renewed() {
    let apart = Apart::new().await;
    let held = apart.lease.held();
    sleep(AT_ONCE).await;
    assert!(*held.borrow());
    let old = apart.enter("old").await;
    apart.slots.take(old.incarnation().as_str());
    let mut changes = held.clone();
    changes.mark_unchanged();
    sleep(3 * LENGTH).await;
    assert!(*held.borrow() && !changes.has_changed().unwrap());
    let new = apart.enter("new").await;
    apart.slots.take(new.incarnation().as_str());
    apart
        .slots
        .take(apart.enter("third").await.incarnation().as_str());
    sleep(LENGTH + Duration::from_secs(1)).await;
    assert!(!*held.borrow());
    apart.slots.restore(old.incarnation().as_str());
    sleep(SOON).await;
    assert!(*held.borrow());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_connector_ends_all_its_leases() {
    for grace in [Duration::ZERO, 2 * LENGTH] {
        let apart = Apart::new().await;
        let old = apart.enter("old").await;
        apart.slots.take(old.incarnation().as_str());
        let new = apart.enter("new").await;
        apart.slots.restore(old.incarnation().as_str());
        // Calls that wait in the server's socket are carried out first.
        sleep(SOON).await;
        drop(apart._keeping);
        apart.lease.end(grace).await;
        for who in [old.incarnation(), new.incarnation()] {
            let state = apart
                .store
                .leases()
                .observe(std::slice::from_ref(who))
                .await;
            let state = state[0].clone().unwrap().unwrap();
            assert_eq!(state.dead, grace.is_zero());
            assert_eq!(state.length, if grace.is_zero() { LENGTH } else { grace });
        }
    }
}

/// A shard that is away delays no look at places on other shards.
#[tokio::test(start_paused = true)]
async fn the_reconciler_repairs_places_on_other_shards_than_the_one_that_is_away() {
    const MANY: usize = 2 * LOOKS;
    let apart = Apart::new().await;
    let guest = apart.login("here").await;
    let mut away = Vec::new();
    for number in 0..MANY {
        let name = format!("away-{number}");
        let user = Place::User(UserId::new(name.as_str()).unwrap());
        away.push(apart.lease.enter(vec![user]).await.unwrap());
        apart.slots.take(&name);
    }
    sleep(SETTLE_TIME).await;
    let user = guest.registration.user().clone();
    let session = SessionId::new("session of here").unwrap();
    let logins = apart.store.registry();
    logins.close(&user, &session, false).await.unwrap();
    sleep(SETTLE_TIME + Duration::from_secs(5)).await;
    let look = logins
        .entries(guest.registration.guard().incarnation(), &[user])
        .await;
    let entries = &look.unwrap()[0].entries;
    assert_eq!(
        entries.len(),
        1,
        "the place is checked, whatever waits on the other shard"
    );
    assert_eq!(entries[0].state, EntryState::Live);
}

/// Otherwise an outage would close all sessions whose tokens expire meanwhile.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_shown_while_the_store_is_away_is_accepted_and_looked_at_soon_afterwards() {
    let apart = Apart::new().await;
    let guest = apart.login("u").await;
    apart.slots.take("u");
    let (id, user) = (TokenId::of("a"), UserId::new("u").unwrap());
    let token = ShownToken {
        issued: Some(1),
        id: Some(id),
    };
    let deadline = Instant::now() + Duration::from_secs(1);
    let shown = apart
        .logins
        .renew_token(&guest.registration, token, None, deadline);
    tokio::pin!(shown);
    let soon = timeout(Duration::from_millis(1), &mut shown).await;
    assert!(soon.is_err(), "the store is asked");
    let revoked = Restrictions {
        revoked: vec![id],
        ..Restrictions::default()
    };
    let forbidden = guest.registration.forbidden_by(&revoked);
    assert!(
        forbidden.is_some(),
        "a command would find the token already"
    );
    assert_eq!(shown.await, Ok(()));
    let until = When::After(Duration::from_secs(3_600));
    let revoke = Restriction::RevokeToken { id, until };
    let revoked = apart.store.restrict(&user, &revoke).await;
    assert!(matches!(revoked, Ok(Restricted::Yes(_))), "{revoked:?}");
    apart.slots.restore("u");
    sleep(Duration::from_secs(5)).await;
    let closing = guest.connection.closing();
    assert_eq!(closing, Some(Disconnect::TokenRevoked));
}
