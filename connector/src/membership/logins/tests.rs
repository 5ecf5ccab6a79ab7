//! Two connectors over one store in memory. The test moves the clock.

use super::super::reconcile_logins::Findings;
use super::*;
use crate::chat_client::Chat;
use crate::chat_client::tests::chat_of;
use crate::membership::{Commands, EndedSession, LeaseKeeper, Membership, PendingLeaves};
use crate::testing::client;
use channel_store::memory::{MemoryStore, Snapshot};
use channel_store::{ChannelName, Declared, Login, Proof, SETTLE_TIME, Shard, StoreOptions};
use tokio_util::task::AbortOnDropHandle;
use wire::WireFormat;

const LENGTH: Duration = Duration::from_secs(10);
const AT_ONCE: Duration = Duration::from_millis(10);

struct Node {
    lease: Arc<LeaseKeeper>,
    logins: Arc<Logins>,
    keeping: AbortOnDropHandle<Infallible>,
    agreeing: AbortOnDropHandle<Infallible>,
}

/// The login of a session, and its socket.
struct Guest {
    registration: Arc<Registration>,
    connection: Arc<Connection>,
    _client: client::Client,
}

impl Node {
    async fn new(store: &MemoryStore, id: &str, policy: LoginPolicy) -> Self {
        let lease = LeaseKeeper::new(id, LENGTH, store.leases(), Arc::default()).unwrap();
        let logins = Logins::new(policy, store.registry(), store.hints(), store.leases());
        let chat: Arc<Chat> = chat_of(&[]);
        let keeping = {
            let commands = Commands::new(&logins, lease.roster(), store.inboxes());
            let (lease, logins) = (Arc::clone(&lease), Arc::clone(&logins));
            tokio::spawn(async move { lease.keep(&chat, &logins, &commands).await })
        };
        let agreeing = {
            let logins = Arc::clone(&logins);
            tokio::spawn(async move { logins.keep_announcing_policy().await })
        };
        sleep(Duration::from_millis(1)).await;
        Self {
            lease,
            logins,
            keeping: AbortOnDropHandle::new(keeping),
            agreeing: AbortOnDropHandle::new(agreeing),
        }
    }

    async fn begin(&self, session: &str) -> Guest {
        self.begin_with(session, None).await
    }

    async fn begin_with(&self, session: &str, proof: Option<Proof>) -> Guest {
        let guard = self.lease.enter(vec![Place::User(user())]).await.unwrap();
        let (connection, client) = client::client(WireFormat::JSON).await;
        let session = SessionId::new(session).unwrap();
        let registration = self.logins.begin(
            &Arc::new(guard),
            &user(),
            &session,
            &connection,
            Shown {
                proof,
                ..Shown::default()
            },
        );
        Guest {
            registration,
            connection,
            _client: client,
        }
    }

    async fn login(&self, session: &str) -> (Admission, Guest) {
        let guest = self.begin(session).await;
        let admission = self.enter(&guest).await;
        (admission, guest)
    }

    /// Logs in, and claims as after a join.
    async fn enter(&self, guest: &Guest) -> Admission {
        let registration = &guest.registration;
        let admission = self.logins.login(registration).await.unwrap();
        if admission == Admission::Yes {
            let in_time = Instant::now() + LENGTH;
            self.logins.claim(registration, in_time).await;
        }
        admission
    }

    async fn guest(&self, session: &str) -> Guest {
        let (admission, guest) = self.login(session).await;
        assert_eq!(admission, Admission::Yes);
        guest
    }

    async fn close(&self, guest: &Guest) {
        self.logins.close(&guest.registration).await.unwrap();
    }
}

fn user() -> UserId {
    UserId::new("u").unwrap()
}

fn claim(login: Login, login_rank: u64) -> Claim {
    Claim {
        login,
        login_rank,
        predecessors: Arc::default(),
    }
}

async fn two(policy: LoginPolicy) -> (Arc<MemoryStore>, Node, Node) {
    let store = MemoryStore::new(StoreOptions::default());
    let one = Node::new(&store, "one", policy).await;
    let other = Node::new(&store, "other", policy).await;
    (store, one, other)
}

/// The sessions whose entries are live: neither superseded nor lingering.
async fn registered(store: &MemoryStore) -> Vec<String> {
    let nobody = Incarnation::new("nobody").unwrap();
    let looks = store.registry().entries(&nobody, &[user()]).await.unwrap();
    let entries = looks[0]
        .entries
        .iter()
        .filter(|it| it.state == EntryState::Live);
    entries.map(|it| it.session.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn under_reject_a_user_can_log_in_again_only_after_the_session_has_ended() {
    let (store, one, other) = two(LoginPolicy::Reject).await;
    let first = one.guest("first").await;
    for node in [&one, &other] {
        let (admission, refused) = node.login("second").await;
        assert_eq!(admission, Admission::Taken);
        assert!(refused.registration.is_nowhere());
    }
    sleep(2 * SETTLE_TIME).await;
    assert_eq!(first.connection.closing(), None);
    one.close(&first).await;
    let _second = other.guest("second").await;
    // A late copy of the close.
    one.close(&first).await;
    assert_eq!(registered(&store).await, ["second"]);
}

#[tokio::test(start_paused = true)]
async fn a_login_of_a_dead_connector_refuses_nobody_and_never_comes_back() {
    let (store, one, other) = two(LoginPolicy::Reject).await;
    let first = one.guest("first").await;
    drop(one.keeping);
    sleep(LENGTH + AT_ONCE).await;
    assert_eq!(other.login("early").await.0, Admission::Taken);
    let leases = store.leases();
    let name = first.registration.guard.incarnation().clone();
    let state = leases.observe(std::slice::from_ref(&name)).await.remove(0);
    let beat = state.unwrap().unwrap().beat;
    let declared = leases.declare_dead(&name, beat).await;
    assert_eq!(declared.unwrap(), Declared::Dead);

    let second = other.guest("second").await;
    let thawed = Findings {
        claims: vec![Arc::clone(&first.registration)],
        ..Findings::default()
    };
    assert_eq!(one.logins.settle(thawed).await, Ok(true));
    sleep(2 * SETTLE_TIME).await;
    assert_eq!(registered(&store).await, ["second"]);
    assert_eq!(second.connection.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn a_new_login_kicks_the_old_session_at_once_on_any_connector() {
    let (store, one, other) = two(LoginPolicy::KickOld).await;
    let mut last = one.guest("0").await;
    for (n, node) in (1..).zip([&other, &one, &one]) {
        let next = node.guest(&n.to_string()).await;
        sleep(AT_ONCE).await;
        assert_eq!(last.connection.closing(), Some(Disconnect::Kicked));
        assert_eq!(next.connection.closing(), None);
        one.close(&last).await;
        last = next;
    }
    sleep(2 * SETTLE_TIME).await;
    assert_eq!(last.connection.closing(), None);
    assert_eq!(registered(&store).await, ["3"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_got_no_hint_gives_way_when_the_reconciler_reads_its_entry() {
    let (store, one, _other) = two(LoginPolicy::KickOld).await;
    let old = one.guest("old").await;
    let new = Login {
        user: user(),
        session: SessionId::new("new").unwrap(),
        incarnation: Incarnation::new("third").unwrap(),
        deadline: u64::MAX,
        policy: LoginPolicy::KickOld,
        proof: None,
        token: None,
        most_sessions: 0,
    };
    let logins = store.registry();
    let Ok(LoggedIn::Yes { login_rank, .. }) = logins.login(&new, &[]).await else {
        panic!("refused");
    };
    sleep(SETTLE_TIME + Duration::from_secs(1)).await;
    assert_eq!(
        old.connection.closing(),
        None,
        "the new session has not claimed"
    );
    logins.claim(&[claim(new, login_rank)]).await.unwrap()[0]
        .clone()
        .unwrap();
    sleep(SETTLE_TIME + Duration::from_secs(1)).await;
    assert_eq!(old.connection.closing(), Some(Disconnect::Kicked));
}

#[tokio::test(start_paused = true)]
async fn a_login_whose_client_is_gone_kicks_nobody() {
    let (_store, one, other) = two(LoginPolicy::KickOld).await;
    let old = one.guest("old").await;
    let new = other.begin("new").await;
    new.connection.close(Disconnect::CLOSED);
    assert_eq!(other.enter(&new).await, Admission::Yes);
    sleep(2 * SETTLE_TIME).await;
    assert_eq!(old.connection.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn after_a_loss_of_data_logins_are_restored_and_the_right_session_stays() {
    for policy in [LoginPolicy::Reject, LoginPolicy::KickOld] {
        let (store, one, other) = two(policy).await;
        let older = one.guest("older").await;
        store.restart(Some(Snapshot::default()));
        let newer = other.guest("newer").await;
        assert_eq!(registered(&store).await, ["newer"]);
        sleep(LENGTH / 3 + AT_ONCE).await;
        let (stays, goes, name) = match policy {
            LoginPolicy::Reject => (older, newer, "older"),
            _ => (newer, older, "newer"),
        };
        // Under kick-old the connector of the newer session gets a hint of the older one's claim, and claims its rank.
        // Under reject the closed client may find that its place is free again.
        let why = match policy {
            LoginPolicy::Reject => Disconnect::Displaced,
            _ => Disconnect::Kicked,
        };
        assert_eq!(goes.connection.closing(), Some(why), "{policy}");
        assert_eq!(stays.connection.closing(), None, "{policy}");
        one.close(&goes).await;
        assert_eq!(registered(&store).await, [name]);
        let incarnation = stays.registration.guard.incarnation();
        let index = store.leases().index(incarnation).await.unwrap();
        assert_eq!(
            index.len(),
            1,
            "the index is restored, so a reaper would find the session"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_whose_session_has_ended_is_removed() {
    let (store, one, other) = two(LoginPolicy::Reject).await;
    drop(one.guest("ghost").await);
    // A login that is refused sends a hint.
    assert_eq!(other.login("refused").await.0, Admission::Taken);
    sleep(AT_ONCE).await;
    assert_eq!(registered(&store).await, [""; 0]);
    // This time no login is refused, so the reconciler finds the entry.
    drop(one.guest("another").await);
    sleep(SETTLE_TIME + Duration::from_secs(1)).await;
    assert_eq!(registered(&store).await, [""; 0]);
    // The user does not stay in the index either.
    sleep(3 * SETTLE_TIME).await;
    let guard = one.lease.enter(Vec::new()).await.unwrap();
    let index = store.leases().index(guard.incarnation()).await;
    assert_eq!(index.unwrap(), []);
}

/// The store has lost the removal of the entry, and everything else of its connector.
#[tokio::test(start_paused = true)]
async fn the_lease_of_a_connector_whose_session_is_superseded_is_restored() {
    let (store, one, other) = two(LoginPolicy::KickOld).await;
    let first = one.guest("first").await;
    let name = first.registration.guard.incarnation().clone();
    drop(one.keeping);
    let _second = other.guest("second").await;
    let both = store.snapshot();
    store.restart(Some(Snapshot::default().with_logins_of(&both)));
    sleep(2 * SETTLE_TIME).await;
    let state = store.leases().observe(std::slice::from_ref(&name)).await;
    assert_ne!(state, [Ok(None)], "the lease was not restored");
    let index = store.leases().index(&name).await.unwrap();
    assert_eq!(index.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_login_policy_is_in_force_until_its_last_connector_is_gone() {
    let (store, one, other) = two(LoginPolicy::Reject).await;
    assert!(*one.logins.policy_in_force().borrow());
    let third = Node::new(&store, "third", LoginPolicy::KickOld).await;
    sleep(2 * POLICY_LASTS).await;
    assert!(!*third.logins.policy_in_force().borrow());
    assert!(*one.logins.policy_in_force().borrow());
    drop((one.agreeing, other.agreeing));
    let mut agreed = third.logins.policy_in_force();
    let began = tokio::time::Instant::now();
    agreed.wait_for(|agreed| *agreed).await.unwrap();
    assert!(began.elapsed() >= POLICY_LASTS - ANNOUNCE);
}

#[tokio::test(start_paused = true)]
async fn under_allow_all_sessions_are_registered_and_stay() {
    let (store, one, other) = two(LoginPolicy::Allow).await;
    let first = one.guest("first").await;
    let second = other.guest("second").await;
    sleep(2 * SETTLE_TIME).await;
    for guest in [&first, &second] {
        assert_eq!(guest.connection.closing(), None);
    }
    assert_eq!(registered(&store).await, ["first", "second"]);
}

/// The proof of a test client's secret.
fn proof(secret: u8) -> Option<Proof> {
    Some(Proof::new([secret; 16]))
}

impl Node {
    /// Logs in with this secret, and claims as after a join.
    async fn come_back(&self, session: &str, secret: u8) -> Guest {
        let guest = self.begin_with(session, proof(secret)).await;
        assert_eq!(self.enter(&guest).await, Admission::Yes);
        guest
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_shows_its_secret_takes_its_place_and_the_old_socket_is_closed() {
    for policy in [
        LoginPolicy::Reject,
        LoginPolicy::KickOld,
        LoginPolicy::Allow,
    ] {
        let (store, one, other) = two(policy).await;
        let mut last = one.come_back("0", 1).await;
        for (n, node) in (1..).zip([&other, &one, &one]) {
            let next = node.come_back(&n.to_string(), 1).await;
            let replaced: Vec<_> = next.registration.replaces();
            assert_eq!(replaced[0].id, (n - 1).to_string());
            sleep(AT_ONCE).await;
            let why = last.connection.closing();
            assert_eq!(why, Some(Disconnect::Replaced), "{policy}");
            assert_eq!(next.connection.closing(), None);
            one.close(&last).await;
            last = next;
        }
        sleep(2 * SETTLE_TIME).await;
        assert_eq!(last.connection.closing(), None);
        assert_eq!(registered(&store).await, ["3"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_was_frozen_closes_a_replaced_session_when_it_looks() {
    let (store, one, other) = two(LoginPolicy::Reject).await;
    let old = one.come_back("old", 1).await;
    // Its connector gets no hint.
    drop(one.keeping);
    let new = other.come_back("new", 1).await;
    assert_eq!(old.connection.closing(), None);
    let displaced = one.logins.displace(&old.registration).await;
    assert_eq!(displaced, Ok(()));
    assert_eq!(old.connection.closing(), Some(Disconnect::Replaced));
    assert_eq!(new.connection.closing(), None);
    assert_eq!(registered(&store).await, ["new"]);
}

/// The join of the new session has landed, but its claim has not. So it is not known yet that it is the same client.
#[tokio::test(start_paused = true)]
async fn a_session_that_lost_its_place_before_the_claim_is_told_to_reconnect() {
    let (store, one, other) = two(LoginPolicy::Reject).await;
    let old = one.come_back("old", 1).await;
    let new = other.begin_with("new", proof(1)).await;
    other.logins.login(&new.registration).await.unwrap();
    assert_eq!(one.logins.displace(&old.registration).await, Ok(()));
    assert_eq!(old.connection.closing(), Some(Disconnect::Displaced));
    // The client may come back at once. The other session, which has claimed nothing, gives way to it.
    let back = one.come_back("back", 1).await;
    assert_eq!(back.registration.replaces().len(), 2);
    sleep(AT_ONCE).await;
    assert_eq!(new.connection.closing(), Some(Disconnect::Replaced));
    assert_eq!(back.connection.closing(), None);
    assert_eq!(registered(&store).await, ["back"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_shows_its_secret_and_goes_away_replaces_nobody() {
    let (_store, one, other) = two(LoginPolicy::Reject).await;
    let old = one.come_back("old", 1).await;
    let new = other.begin_with("new", proof(1)).await;
    new.connection.close(Disconnect::CLOSED);
    assert_eq!(other.enter(&new).await, Admission::Yes);
    sleep(2 * SETTLE_TIME).await;
    assert_eq!(old.connection.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn of_two_tabs_with_one_secret_the_newer_stays_even_after_a_loss_of_all_data() {
    for policy in [LoginPolicy::Reject, LoginPolicy::Allow] {
        let (store, one, other) = two(policy).await;
        let older = one.come_back("older", 1).await;
        store.restart(Some(Snapshot::default()));
        let newer = other.come_back("newer", 1).await;
        assert_eq!(registered(&store).await, ["newer"]);
        sleep(LENGTH / 3 + AT_ONCE).await;
        let why = older.connection.closing();
        assert_eq!(why, Some(Disconnect::Replaced), "{policy}");
        assert_eq!(newer.connection.closing(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lingering_session_makes_no_claim_and_any_login_may_take_its_place() {
    let (store, one, other) = two(LoginPolicy::Reject).await;
    let gone = one.guest("gone").await;
    gone.connection.close(Disconnect::CLOSED);
    gone.registration.begin_lingering();
    // The write that marks the entry as lingering is lost. The next look repeats it.
    gone.registration.suspect();
    sleep(AT_ONCE).await;
    assert_eq!(registered(&store).await, [""; 0]);
    let new = other.guest("new").await;
    let replaced = new.registration.replaces();
    assert_eq!(replaced.len(), 1);
    assert_eq!(replaced[0].id, "gone");
    sleep(2 * SETTLE_TIME).await;
    assert_eq!(new.connection.closing(), None);
    assert_eq!(registered(&store).await, ["new"]);
    // A session whose client is gone replaces nobody any more, even if it still joins.
    new.connection.close(Disconnect::CLOSED);
    assert_eq!(new.registration.replaces(), []);
}

/// A failover may lose the mark. Without it, the entry of the lingering session would block other logins.
#[tokio::test(start_paused = true)]
async fn the_mark_of_a_lingering_session_is_written_again_if_it_was_lost() {
    let (store, one, _other) = two(LoginPolicy::Reject).await;
    let gone = one.guest("gone").await;
    let before = store.snapshot();
    let membership = Membership::begin(
        &Arc::default(),
        Arc::clone(&gone.registration.guard),
        ChannelName::new("room").unwrap(),
        channel_store::User {
            id: user(),
            is_number: false,
        },
        gone.registration.session.clone(),
        Some(Arc::clone(&gone.registration)),
    );
    let leaves = PendingLeaves::new(
        &chat_of(&[]),
        &one.logins,
        |_| Shard::default(),
        10 * LENGTH,
    );
    gone.connection.close(Disconnect::CLOSED);
    leaves.add(EndedSession {
        memberships: vec![membership],
        registration: Some(gone.registration),
        ..EndedSession::default()
    });
    sleep(AT_ONCE).await;
    assert_eq!(registered(&store).await, [""; 0]);
    store.restart(Some(before));
    assert_eq!(registered(&store).await, ["gone"]);
    sleep(LENGTH).await;
    assert_eq!(registered(&store).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_session_superseded_before_its_login_is_answered_gives_way() {
    let (store, one, other) = two(LoginPolicy::KickOld).await;
    let old = one.begin("old").await;
    let login = old.registration.login(LoginPolicy::KickOld);
    // The answer is still under way when another session logs in, claims, and sends a hint.
    store.registry().login(&login, &[]).await.unwrap();
    let new = other.guest("new").await;
    sleep(AT_ONCE).await;
    assert_eq!(old.connection.closing(), Some(Disconnect::Kicked));
    assert_eq!(new.connection.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_not_answered_is_repeated_at_once() {
    let (store, one, other) = two(LoginPolicy::KickOld).await;
    let old = one.guest("old").await;
    let new = other.begin("new").await;
    // The login was answered, but the claim was not.
    let login = new.registration.login(LoginPolicy::KickOld);
    let logged_in = store.registry().login(&login, &[]).await.unwrap();
    let LoggedIn::Yes { login_rank, .. } = logged_in else {
        panic!("{logged_in:?}");
    };
    {
        let mut state = new.registration.state.lock();
        state.login_rank = Some(login_rank);
        state.joined = true;
    }
    new.registration.guard.suspect(Place::User(user()));
    sleep(AT_ONCE).await;
    assert_eq!(old.connection.closing(), Some(Disconnect::Kicked));
    assert_eq!(new.connection.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_has_not_joined_or_has_failed_kicks_nobody() {
    for has_failed in [false, true] {
        let (_store, one, other) = two(LoginPolicy::KickOld).await;
        let old = one.guest("old").await;
        let new = other.begin("new").await;
        let admission = other.logins.login(&new.registration).await;
        assert_eq!(admission, Ok(Admission::Yes));
        if has_failed {
            new.registration.undo();
        }
        new.registration.suspect();
        sleep(AT_ONCE).await;
        assert_eq!(old.connection.closing(), None);
        if has_failed {
            // The client may log in again on the same socket.
            let incarnation = new.registration.guard.incarnation();
            other.logins.close_all_of(incarnation).await;
            assert_eq!(new.connection.closing(), None);
        } else {
            let in_time = Instant::now() + LENGTH;
            other.logins.claim(&new.registration, in_time).await;
            sleep(AT_ONCE).await;
            assert_eq!(old.connection.closing(), Some(Disconnect::Kicked));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_login_policies_do_not_kick_the_sessions_of_both_sides() {
    let (store, one, _other) = two(LoginPolicy::Reject).await;
    let older = one.guest("older").await;
    // Everything is lost, and a connector with another policy announces it first.
    store.restart(Some(Snapshot::default()));
    let third = Node::new(&store, "third", LoginPolicy::KickOld).await;
    assert!(*third.logins.policy_in_force().borrow());
    sleep(ANNOUNCE).await;
    assert!(!*one.logins.policy_in_force().borrow());
    let newer = third.guest("newer").await;
    sleep(2 * SETTLE_TIME).await;
    assert_eq!(older.connection.closing(), Some(Disconnect::Kicked));
    assert_eq!(newer.connection.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn a_login_whose_dead_connector_was_forgotten_is_reaped_all_the_same() {
    let (store, one, other) = two(LoginPolicy::Reject).await;
    let first = one.guest("first").await;
    let whose = first.registration.guard.incarnation().clone();
    drop(one.keeping);
    // Everything is lost, except on the server of this user.
    store.restart(Some(Snapshot::default()));
    let claim = first.registration.login(LoginPolicy::Reject);
    store
        .registry()
        .claim(&[self::claim(claim, 1)])
        .await
        .unwrap()[0]
        .clone()
        .unwrap();
    let _cleanup = chat::Cleanup::begin(store.clone(), store.leases(), store.registry());
    sleep(3 * LENGTH).await;
    assert_eq!(
        registered(&store).await,
        ["first"],
        "nobody has looked at the entry yet"
    );
    assert_eq!(other.login("refused").await.0, Admission::Taken);
    // This is a full lease, the margin of an observation, and some polls.
    sleep(LENGTH + Duration::from_secs(3)).await;
    let states = store.leases().observe(&[whose]).await;
    assert!(states[0].as_ref().is_ok_and(|it| it.unwrap().dead));
    let _second = other.guest("second").await;
}

#[tokio::test(start_paused = true)]
async fn logins_and_claims_that_are_late_by_the_servers_clock_are_repeated_once() {
    let (store, one, other) = two(LoginPolicy::KickOld).await;
    store.set_clock(Some("u"), 300_000);
    let first = one.guest("first").await;
    let second = other.guest("second").await;
    assert_eq!(registered(&store).await, ["second"]);
    sleep(AT_ONCE).await;
    assert_eq!(first.connection.closing(), Some(Disconnect::Kicked));
    // The same holds if the reconciler has to bring the login back.
    store.restart(Some(Snapshot::default()));
    sleep(LENGTH).await;
    assert_eq!(registered(&store).await, ["second"]);
    assert_eq!(second.connection.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn a_user_with_as_many_sessions_as_there_may_be_is_refused_unless_a_holder_is_dead() {
    let (store, one, other) = two(LoginPolicy::Allow).await;
    one.logins.limit_sessions(2);
    other.logins.limit_sessions(2);
    let first = one.guest("first").await;
    let _second = other.guest("second").await;
    for node in [&one, &other] {
        let (admission, refused) = node.login("third").await;
        assert_eq!(admission, Admission::Full);
        assert!(refused.registration.is_nowhere());
    }
    // One connector dies, and nobody has reaped it yet.
    drop(one.keeping);
    sleep(LENGTH + AT_ONCE).await;
    let leases = store.leases();
    let name = first.registration.guard.incarnation().clone();
    let state = leases.observe(std::slice::from_ref(&name)).await.remove(0);
    let beat = state.unwrap().unwrap().beat;
    leases.declare_dead(&name, beat).await.unwrap();
    let _third = other.guest("third").await;
    assert_eq!(registered(&store).await, ["second", "third"]);
    other.logins.limit_sessions(0);
    let _fourth = other.guest("fourth").await;
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_claim_is_forbidden_is_closed() {
    use channel_store::{Restriction, UserRestrictions, When};
    let (store, one, other) = two(LoginPolicy::KickOld).await;
    let old = one.guest("old").await;
    let new = other.begin("new").await;
    let admission = other.logins.login(&new.registration).await;
    assert_eq!(admission, Ok(Admission::Yes));
    let block = Restriction::Block {
        until: When::After(LENGTH),
        reason: String::new(),
    };
    store.restrict(&user(), &block).await.unwrap();
    let in_time = Instant::now() + LENGTH;
    other.logins.claim(&new.registration, in_time).await;
    assert_eq!(new.connection.closing(), Some(Disconnect::Blocked));
    assert_eq!(old.connection.closing(), None, "it was not marked");
}
