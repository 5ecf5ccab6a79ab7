//! The registry of logins. Each test is one history, and every store must pass it (docs/design/membership.md).

use crate::conformance::conformance;
use crate::support::{Kind, Subject, eventually, incarnation};
use channel_store::EntryState::{Lingering, Live, Superseded};
use channel_store::LoginPolicy::{Allow, KickOld, Reject};
use channel_store::memory::Snapshot;
use channel_store::{
    Claim, Claimed, EntryState, Incarnation, LoggedIn, Login, LoginPolicy, Predecessor, Proof,
    Renewed, SessionId, StoreError, StoreOptions, UserId,
};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;

conformance! {
    under_reject_the_first_login_has_the_user
    under_kick_old_a_login_alone_supersedes_nobody
    a_repeated_login_gets_the_first_answer
    of_many_logins_at_once_one_gets_in_under_reject
    the_late_close_of_an_old_session_spares_the_newer_one
    a_login_after_its_fenced_close_makes_no_ghost
    a_login_after_the_reaping_makes_no_ghost
    a_login_beyond_its_deadline_makes_no_ghost
    a_login_that_names_dead_connectors_takes_the_place_of_their_sessions
    which_login_rank_wins_depends_on_the_policy
    a_superseded_session_stays_superseded_whatever_it_claims
    a_claim_restores_its_session_with_its_own_rank
    a_claim_replaces_the_rank_of_a_late_copy_of_its_login
    between_two_sessions_of_one_rank_their_names_decide
    a_repeated_login_does_not_name_newer_sessions_as_predecessors
    a_late_claim_supersedes_nobody
    each_claim_of_a_batch_gets_its_own_answer
    reaping_spares_entries_of_other_incarnations
    entries_are_read_for_each_user
    names_of_users_channels_and_incarnations_do_not_collide
    one_login_policy_is_in_force_until_no_connector_proposes_it
    a_client_with_the_proof_can_come_back_under_every_policy
    a_login_supersedes_nobody_and_a_claim_only_sessions_with_its_proof
    a_lingering_session_refuses_no_login_and_is_named_as_predecessor
    the_first_login_takes_the_place_of_a_lingering_session
    a_superseded_session_holds_nobody_off
    the_secret_of_a_superseded_session_lets_nobody_in_beside_a_live_one
    the_place_of_a_dead_session_is_taken_at_once_with_the_proof
    of_two_sessions_with_one_proof_the_newer_one_wins
    a_late_login_with_the_proof_does_not_affect_the_newer_session
    after_a_flush_a_claim_restores_the_proof
    the_proof_of_one_user_has_no_effect_for_another
    the_entries_of_a_user_are_bounded
    a_client_that_comes_back_a_thousand_times_leaves_few_entries
    hints_reach_only_their_incarnation
    an_incarnation_can_listen_again
    only_the_last_listener_of_an_incarnation_gets_hints
}

const LONG: Duration = Duration::from_secs(60);
const ONE: &str = "connector-1/aa";
const OTHER: &str = "connector-2/bb";
const THIRD: &str = "connector-3/cc";

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn session(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

/// An entry: session, login rank, incarnation, and whether it is superseded.
type Seen = (String, u64, Incarnation, bool);

fn seen(session: &str, login_rank: u64, whose: &str, superseded: bool) -> Seen {
    (
        session.to_owned(),
        login_rank,
        incarnation(whose),
        superseded,
    )
}

impl Subject {
    /// A login of user `u`, with a deadline far enough.
    async fn prepare(&self, of: &str, name: &str, policy: LoginPolicy) -> Login {
        let renewed = self.leases.renew(&incarnation(of), LONG).await.unwrap();
        let (Renewed::Live(term) | Renewed::Lost(term)) = renewed else {
            panic!("it is dead");
        };
        Login {
            user: user("u"),
            session: session(name),
            incarnation: incarnation(of),
            deadline: term.until,
            policy,
            proof: None,
            token: None,
            most_sessions: 0,
        }
    }

    async fn try_login(
        &self,
        of: &str,
        name: &str,
        policy: LoginPolicy,
    ) -> Result<LoggedIn, StoreError> {
        let login = self.prepare(of, name, policy).await;
        self.registry.login(&login, &[]).await
    }

    /// Logs in, which must succeed, and returns the login rank.
    async fn log_in(&self, of: &str, name: &str, policy: LoginPolicy) -> u64 {
        match self.try_login(of, name, policy).await {
            Ok(LoggedIn::Yes { login_rank, .. }) => login_rank,
            other => panic!("{other:?}"),
        }
    }

    /// Logs in with a proof. For the store a proof is only bytes. The connector computes it from a secret.
    async fn try_login_with_secret(
        &self,
        of: &str,
        name: &str,
        policy: LoginPolicy,
        secret: u8,
    ) -> Result<LoggedIn, StoreError> {
        let login = self.prepare_with_secret(of, name, policy, secret).await;
        self.registry.login(&login, &[]).await
    }

    async fn prepare_with_secret(
        &self,
        of: &str,
        name: &str,
        policy: LoginPolicy,
        secret: u8,
    ) -> Login {
        Login {
            proof: Some(Proof::new([secret; 16])),
            ..self.prepare(of, name, policy).await
        }
    }

    /// Logs in with a secret and claims. Returns the claim and the sessions that it replaces.
    async fn log_in_and_claim(
        &self,
        of: &str,
        name: &str,
        policy: LoginPolicy,
        secret: u8,
    ) -> (Claim, Vec<String>) {
        let login = self.prepare_with_secret(of, name, policy, secret).await;
        let answer = self.registry.login(&login, &[]).await.unwrap();
        let LoggedIn::Yes {
            login_rank,
            predecessors,
            ..
        } = answer
        else {
            panic!("{answer:?}");
        };
        let names = predecessors.iter().map(|it| it.session.to_string());
        let names = names.collect();
        let claim = Claim {
            login,
            login_rank,
            predecessors: predecessors.into(),
        };
        self.claim_one(&claim).await.unwrap();
        (claim, names)
    }

    async fn claim_one(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let claims = std::slice::from_ref(claim);
        self.registry.claim(claims).await.unwrap().remove(0)
    }

    /// The sessions of user `u` and their states, sorted by name.
    async fn states(&self) -> Vec<(String, EntryState)> {
        let looks = self.registry.entries(&incarnation(ONE), &[user("u")]).await;
        let entries = looks.unwrap().remove(0).entries.into_iter();
        let mut states: Vec<_> = entries
            .map(|it| (it.session.to_string(), it.state))
            .collect();
        states.sort_by(|a, b| a.0.cmp(&b.0));
        states
    }

    async fn assert_states(&self, expected: &[(&str, EntryState)]) {
        let states = self.states().await;
        let states: Vec<_> = states.iter().map(|(it, state)| (&**it, *state)).collect();
        assert_eq!(states, expected);
    }

    async fn linger(&self, name: &str) {
        let lingers = self.registry.linger(&user("u"), &session(name)).await;
        lingers.unwrap();
    }

    async fn claim_as(
        &self,
        of: &str,
        name: &str,
        policy: LoginPolicy,
        login_rank: u64,
    ) -> Result<Claimed, StoreError> {
        let login = self.prepare(of, name, policy).await;
        let claims = [claim(login, login_rank)];
        let mut answers = self.registry.claim(&claims).await.unwrap();
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    async fn close_session(&self, name: &str, fence: bool) {
        let closed = self.registry.close(&user("u"), &session(name), fence).await;
        closed.unwrap();
    }

    async fn reap_user(&self, of: &str) -> u64 {
        let reaped = self.registry.reap(&user("u"), &incarnation(of)).await;
        reaped.unwrap()
    }

    /// All entries of user `u`, sorted, and whether this incarnation was reaped for the user.
    async fn entries(&self, of: &str) -> (Vec<Seen>, bool) {
        let looks = self.registry.entries(&incarnation(of), &[user("u")]).await;
        let look = looks.unwrap().remove(0);
        let mut entries: Vec<_> = look
            .entries
            .into_iter()
            .map(|it| {
                (
                    it.session.to_string(),
                    it.login_rank,
                    it.incarnation,
                    it.state == Superseded,
                )
            })
            .collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        (entries, look.tombstoned)
    }

    async fn sessions(&self) -> Vec<String> {
        let (entries, _) = self.entries(ONE).await;
        entries.into_iter().map(|it| it.0).collect()
    }
}

fn claim(login: Login, login_rank: u64) -> Claim {
    Claim {
        login,
        login_rank,
        predecessors: Arc::default(),
    }
}

fn taken(by: &[&str]) -> Result<LoggedIn, StoreError> {
    Ok(LoggedIn::Taken(
        by.iter().map(|it| incarnation(it)).collect(),
    ))
}

fn claimed(superseded: &[&str], better: &[&str]) -> Result<Claimed, StoreError> {
    let names = |names: &[&str]| names.iter().map(|it| incarnation(it)).collect();
    Ok(Claimed {
        superseded: names(superseded),
        better: names(better),
        forbidden: None,
    })
}

async fn under_reject_the_first_login_has_the_user(kind: Kind) {
    let subject = Subject::new(kind).await;
    let first = subject.log_in(ONE, "a", Reject).await;
    let second = subject.try_login(OTHER, "b", Reject).await;
    assert_eq!(second, taken(&[ONE]));
    let here = subject.try_login(ONE, "c", Reject).await;
    assert_eq!(here, taken(&[ONE]));
    let (entries, _) = subject.entries(OTHER).await;
    assert_eq!(entries, [seen("a", first, ONE, false)]);
    subject.close_session("a", false).await;
    let second = subject.log_in(OTHER, "b", Reject).await;
    assert!(second > first);
}

async fn under_kick_old_a_login_alone_supersedes_nobody(kind: Kind) {
    let subject = Subject::new(kind).await;
    let alone = subject.try_login(ONE, "a", KickOld).await;
    let Ok(LoggedIn::Yes {
        login_rank, others, ..
    }) = alone
    else {
        panic!("{alone:?}");
    };
    assert!(!others);
    // The client of the new login may be gone already. Then the user would have no session.
    let second = subject.try_login(OTHER, "b", KickOld).await;
    let Ok(LoggedIn::Yes {
        login_rank: newer,
        others,
        ..
    }) = second
    else {
        panic!("{second:?}");
    };
    assert!(others && newer > login_rank);
    let both = [
        seen("a", login_rank, ONE, false),
        seen("b", newer, OTHER, false),
    ];
    assert_eq!(subject.entries(ONE).await.0, both);
}

async fn a_repeated_login_gets_the_first_answer(kind: Kind) {
    let subject = Subject::new(kind).await;
    for policy in [Reject, KickOld] {
        let first = subject.try_login(ONE, "a", policy).await;
        assert_eq!(subject.try_login(ONE, "a", policy).await, first);
        assert_eq!(subject.sessions().await, ["a"]);
        subject.close_session("a", false).await;
    }
}

async fn of_many_logins_at_once_one_gets_in_under_reject(kind: Kind) {
    let subject = Subject::new(kind).await;
    let names: Vec<_> = (0..30).map(|n| format!("s{n}")).collect();
    let logins = names
        .iter()
        .map(|name| subject.try_login(ONE, name, Reject));
    let answers = join_all(logins).await;
    let in_ = |it: &&Result<LoggedIn, _>| matches!(it, Ok(LoggedIn::Yes { .. }));
    assert_eq!(answers.iter().filter(in_).count(), 1);
    assert_eq!(subject.sessions().await.len(), 1);
}

async fn the_late_close_of_an_old_session_spares_the_newer_one(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.log_in(ONE, "old", Reject).await;
    subject.close_session("old", true).await;
    subject.log_in(OTHER, "new", Reject).await;
    subject.close_session("old", true).await;
    assert_eq!(subject.sessions().await, ["new"]);
    let third = subject.try_login(ONE, "third", Reject).await;
    assert_eq!(third, taken(&[OTHER]));
}

async fn a_login_after_its_fenced_close_makes_no_ghost(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.close_session("a", true).await;
    let late = subject.try_login(ONE, "a", Reject).await;
    assert_eq!(late, Err(StoreError::StaleOperation));
    let late = subject.claim_as(ONE, "a", Reject, 7).await;
    assert_eq!(late, Err(StoreError::StaleOperation));
    assert_eq!(subject.sessions().await, Vec::<String>::new());
    // Without a fence, a close leaves no tombstone.
    subject.close_session("b", false).await;
    subject.log_in(ONE, "b", Reject).await;
}

async fn a_login_after_the_reaping_makes_no_ghost(kind: Kind) {
    let subject = Subject::new(kind).await;
    assert_eq!(subject.reap_user(ONE).await, 0);
    let late = subject.try_login(ONE, "a", Reject).await;
    assert_eq!(late, Err(StoreError::ConnectorDead));
    let late = subject.claim_as(ONE, "a", KickOld, 7).await;
    assert_eq!(late, Err(StoreError::ConnectorDead));
    assert_eq!(subject.entries(ONE).await, (Vec::new(), true));
    assert!(!subject.entries(OTHER).await.1);
    subject.log_in(OTHER, "b", Reject).await;
}

async fn a_login_beyond_its_deadline_makes_no_ghost(kind: Kind) {
    let subject = Subject::new(kind).await;
    let attempt = subject.prepare(ONE, "a", Reject).await;
    let late = Login {
        deadline: attempt.deadline - 2 * 60_000,
        ..attempt
    };
    let login = subject.registry.login(&late, &[]).await;
    let present = late.deadline + 2 * 60_000;
    let is_late = |error: &StoreError| matches!(error, StoreError::Late { now } if now.abs_diff(present) < 300_000);
    assert!(login.as_ref().is_err_and(is_late), "{login:?}");
    let claims = subject.registry.claim(&[claim(late, 7)]).await.unwrap();
    assert!(claims[0].as_ref().is_err_and(is_late), "{claims:?}");
    assert_eq!(subject.sessions().await, Vec::<String>::new());
}

async fn a_login_that_names_dead_connectors_takes_the_place_of_their_sessions(kind: Kind) {
    let subject = Subject::new(kind).await;
    let login_rank = subject.log_in(ONE, "a", Reject).await;
    let attempt = subject.prepare(OTHER, "b", Reject).await;
    // The death of another connector does not help.
    let elsewhere = [incarnation("connector-3/cc")];
    let refused = subject.registry.login(&attempt, &elsewhere).await;
    assert_eq!(refused, taken(&[ONE]));
    let buried = [incarnation(ONE)];
    let login = subject.registry.login(&attempt, &buried).await.unwrap();
    let LoggedIn::Yes { others, .. } = login else {
        panic!("{login:?}");
    };
    assert!(!others);
    assert_eq!(subject.sessions().await, ["b"]);
    // The dead connector comes back with an older login. Under `reject` it would win.
    let thawed = subject.claim_as(ONE, "a", Reject, login_rank).await;
    assert_eq!(thawed, Err(StoreError::ConnectorDead));
    assert_eq!(subject.sessions().await, ["b"]);
}

async fn which_login_rank_wins_depends_on_the_policy(kind: Kind) {
    for (policy, winner, loser) in [(KickOld, 1, 0), (Reject, 0, 1)] {
        let subject = Subject::new(kind).await;
        // After a loss of data a user may have two sessions under `reject`, too.
        let sessions = [(ONE, "a"), (OTHER, "b")];
        let older = subject.log_in(ONE, "a", KickOld).await;
        let newer = subject.log_in(OTHER, "b", KickOld).await;
        let login_ranks = [older, newer];
        let claim = |n: usize| {
            let (of, name) = sessions[n];
            subject.claim_as(of, name, policy, login_ranks[n])
        };
        let [its, others] = [sessions[loser].0, sessions[winner].0];
        assert_eq!(claim(loser).await, claimed(&[], &[others]));
        let marked = || async {
            let entries = subject.entries(ONE).await.0;
            [entries[loser].3, entries[winner].3]
        };
        assert_eq!(
            marked().await,
            [false; 2],
            "only the winner's own claim supersedes"
        );
        // A repeated claim gets the same answer, because the first one may have been lost.
        for _ in 0..2 {
            assert_eq!(claim(winner).await, claimed(&[its], &[]));
            assert_eq!(marked().await, [true, false], "{policy}");
        }
    }
}

async fn a_superseded_session_stays_superseded_whatever_it_claims(kind: Kind) {
    let subject = Subject::new(kind).await;
    let old = subject.log_in(ONE, "a", KickOld).await;
    let new = subject.log_in(OTHER, "b", KickOld).await;
    let _ = subject.claim_as(OTHER, "b", KickOld, new).await;
    let expected = [seen("a", old, ONE, true), seen("b", new, OTHER, false)];
    assert_eq!(subject.entries(ONE).await.0, expected);
    let frozen = subject.claim_as(ONE, "a", KickOld, old).await;
    assert_eq!(frozen, claimed(&[], &[]));
    let again = subject.try_login(ONE, "a", KickOld).await;
    let unchanged = LoggedIn::Yes {
        login_rank: old,
        others: true,
        predecessors: Vec::new(),
    };
    assert_eq!(again, Ok(unchanged));
    assert_eq!(subject.entries(ONE).await.0, expected);
    // The answer to a superseded session's own claim names no connector that somebody would have to wait for.
    let third = subject.log_in(ONE, "c", KickOld).await;
    let claim = subject.claim_as(ONE, "c", KickOld, third).await;
    assert_eq!(claim, claimed(&[ONE, OTHER], &[]));
    let claim = subject.claim_as(OTHER, "b", KickOld, new).await;
    assert_eq!(claim, claimed(&[], &[]));
}

async fn a_claim_restores_its_session_with_its_own_rank(kind: Kind) {
    for (policy, is_superseded) in [(KickOld, [true, false]), (Reject, [false, true])] {
        let subject = Subject::new(kind).await;
        let old = subject.log_in(ONE, "a", KickOld).await;
        let new = subject.log_in(OTHER, "b", KickOld).await;
        // As after a loss of all data: the sessions come back in the wrong order.
        subject.close_session("a", false).await;
        subject.close_session("b", false).await;
        let (first, second) = match policy {
            KickOld => ((OTHER, "b", new), (ONE, "a", old)),
            _ => ((ONE, "a", old), (OTHER, "b", new)),
        };
        for (of, name, login_rank) in [first, second, first] {
            let claim = subject.claim_as(of, name, policy, login_rank).await;
            assert!(claim.is_ok(), "{claim:?}");
        }
        let [of_old, of_new] = is_superseded;
        let expected = [seen("a", old, ONE, of_old), seen("b", new, OTHER, of_new)];
        assert_eq!(subject.entries(ONE).await.0, expected, "{policy}");
    }
}

/// After a loss of data, a late copy of a login can enter the session with a rank that its connector does not know.
async fn a_claim_replaces_the_rank_of_a_late_copy_of_its_login(kind: Kind) {
    let subject = Subject::new(kind).await;
    let first = subject.log_in(ONE, "a", KickOld).await;
    let second = subject.log_in(OTHER, "b", KickOld).await;
    subject.close_session("a", false).await;
    subject.close_session("b", false).await;
    let late = subject.log_in(ONE, "a", KickOld).await;
    assert!(late > second);
    for (of, name, login_rank) in [
        (OTHER, "b", second),
        (ONE, "a", first),
        (OTHER, "b", second),
    ] {
        let claim = subject.claim_as(of, name, KickOld, login_rank).await;
        assert!(claim.is_ok(), "{claim:?}");
    }
    let expected = [seen("a", first, ONE, true), seen("b", second, OTHER, false)];
    assert_eq!(subject.entries(ONE).await.0, expected);
}

async fn between_two_sessions_of_one_rank_their_names_decide(kind: Kind) {
    // Most locales sort `a` before `B`. By bytes it comes after it.
    for (policy, winner) in [(KickOld, "a"), (Reject, "B")] {
        let subject = Subject::new(kind).await;
        let claim = |name| {
            let of = if name == winner { ONE } else { OTHER };
            subject.claim_as(of, name, policy, 7)
        };
        let loser = if winner == "a" { "B" } else { "a" };
        assert_eq!(claim(loser).await, claimed(&[], &[]));
        assert_eq!(claim(winner).await, claimed(&[OTHER], &[]));
        subject.close_session(loser, false).await;
        assert_eq!(claim(loser).await, claimed(&[], &[ONE]));
    }
}

async fn a_repeated_login_does_not_name_newer_sessions_as_predecessors(kind: Kind) {
    let subject = Subject::new(kind).await;
    let first = subject.prepare_with_secret(ONE, "first", KickOld, 7).await;
    let predecessors = async || match subject.registry.login(&first, &[]).await {
        Ok(LoggedIn::Yes { predecessors, .. }) => predecessors,
        other => panic!("{other:?}"),
    };
    assert_eq!(predecessors().await, []);
    // The answer was lost, the client has logged in elsewhere, and a copy of the first login is still on its way.
    subject.log_in_and_claim(OTHER, "second", KickOld, 7).await;
    assert_eq!(predecessors().await, []);
}

async fn a_late_claim_supersedes_nobody(kind: Kind) {
    let subject = Subject::new(kind).await;
    let older = subject.log_in(ONE, "older", Reject).await;
    let (whose, which) = (user("u"), session("older"));
    subject.registry.linger(&whose, &which).await.unwrap();
    let newer = subject.log_in(OTHER, "newer", Reject).await;
    let late = subject.claim_as(ONE, "older", Reject, older).await;
    assert_eq!(late, claimed(&[], &[]));
    let stays = subject.claim_as(OTHER, "newer", Reject, newer).await;
    assert!(stays.is_ok(), "{stays:?}");
    let states = subject.states().await;
    assert_eq!(states[0], ("newer".to_owned(), EntryState::Live));
}

async fn each_claim_of_a_batch_gets_its_own_answer(kind: Kind) {
    let subject = Subject::new(kind).await;
    let mut claims = Vec::new();
    for n in 0..500_u64 {
        let attempt = subject.prepare(ONE, &format!("s{n}"), Reject).await;
        let user = user(&format!("user-{n}"));
        if n == 7 {
            let reaped = subject.registry.reap(&user, &incarnation(ONE)).await;
            assert_eq!(reaped, Ok(0));
        }
        claims.push(claim(Login { user, ..attempt }, n + 1));
    }
    let answers = subject.registry.claim(&claims).await.unwrap();
    assert_eq!(answers.len(), 500);
    for (n, answer) in answers.into_iter().enumerate() {
        match n {
            7 => assert_eq!(answer, Err(StoreError::ConnectorDead)),
            _ => assert_eq!(answer, claimed(&[], &[])),
        }
    }
    let users: Vec<_> = claims.iter().map(|it| it.login.user.clone()).collect();
    let looks = subject.registry.entries(&incarnation(ONE), &users).await;
    for (n, look) in looks.unwrap().iter().enumerate() {
        let found: Vec<_> = look.entries.iter().map(|it| it.login_rank).collect();
        let expected = if n == 7 { vec![] } else { vec![n as u64 + 1] };
        assert_eq!((found, look.tombstoned), (expected, n == 7));
    }
}

async fn reaping_spares_entries_of_other_incarnations(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.log_in(ONE, "a", KickOld).await;
    subject.log_in("connector-1/new", "b", KickOld).await;
    subject.log_in(ONE, "c", KickOld).await;
    assert_eq!(subject.reap_user(ONE).await, 2);
    assert_eq!(subject.reap_user(ONE).await, 0);
    assert_eq!(subject.sessions().await, ["b"]);
}

async fn entries_are_read_for_each_user(kind: Kind) {
    let subject = Subject::new(kind).await;
    let login_rank = subject.log_in(ONE, "a", Reject).await;
    let users = [user("nobody"), user("u")];
    let looks = subject.registry.entries(&incarnation(OTHER), &users).await;
    let looks = looks.unwrap();
    assert_eq!(looks.len(), 2);
    assert_eq!(looks[0].entries, []);
    let entry = &looks[1].entries[0];
    assert_eq!(
        (&entry.session, entry.login_rank, &entry.incarnation),
        (&session("a"), login_rank, &incarnation(ONE))
    );
    assert!(!looks[1].lifetime.is_empty());
}

async fn names_of_users_channels_and_incarnations_do_not_collide(kind: Kind) {
    let subject = Subject::new(kind).await;
    // A channel, a user and an incarnation may have the same name, and unusual ones.
    for odd in ["}u{", "100%", "哈", ONE, "connectors"] {
        let attempt = subject.prepare(odd, odd, Reject).await;
        let attempt = Login {
            user: user(odd),
            ..attempt
        };
        let login = subject.registry.login(&attempt, &[]).await.unwrap();
        assert!(matches!(login, LoggedIn::Yes { others: false, .. }));
        let (channel, whose) = (crate::support::name(odd), incarnation(odd));
        subject.store.reap(&channel, &whose).await.unwrap();
        let looks = subject
            .registry
            .entries(&incarnation(odd), &[user(odd)])
            .await;
        let look = looks.unwrap().remove(0);
        assert_eq!(look.entries[0].incarnation, incarnation(odd));
        assert!(!look.tombstoned, "{odd}: only the channel was reaped");
    }
}

async fn one_login_policy_is_in_force_until_no_connector_proposes_it(kind: Kind) {
    const LASTS: Duration = Duration::from_millis(500);
    let subject = Subject::new(kind).await;
    let propose = async |policy, lasts| {
        subject
            .registry
            .propose_policy(policy, lasts)
            .await
            .unwrap()
    };
    assert_eq!(propose(KickOld, LONG).await, KickOld);
    for other in [Reject, Allow] {
        assert_eq!(propose(other, LASTS).await, KickOld);
    }
    assert_eq!(propose(KickOld, LASTS).await, KickOld);
    eventually("the former policy has expired", async || {
        propose(Allow, LONG).await == Allow
    })
    .await;
    assert_eq!(propose(KickOld, LONG).await, Allow);
}

async fn a_client_with_the_proof_can_come_back_under_every_policy(kind: Kind) {
    for policy in [Reject, KickOld, Allow] {
        let subject = Subject::new(kind).await;
        subject
            .try_login_with_secret(ONE, "a", policy, 1)
            .await
            .unwrap();
        if policy == Reject {
            let stranger = subject.try_login_with_secret(OTHER, "b", policy, 2).await;
            assert_eq!(stranger, taken(&[ONE]), "another secret");
            let stranger = subject.try_login(OTHER, "b", policy).await;
            assert_eq!(stranger, taken(&[ONE]), "no secret");
        }
        for (of, name) in [(OTHER, "b"), (ONE, "c")] {
            let (_, replaced) = subject.log_in_and_claim(of, name, policy, 1).await;
            let expected: &[&str] = if name == "b" { &["a"] } else { &["b", "a"] };
            assert_eq!(replaced, expected, "{policy}: the newest comes first");
        }
        subject
            .assert_states(&[("a", Superseded), ("b", Superseded), ("c", Live)])
            .await;
        // The winner leaves at once, before the other connectors have seen that their sessions are superseded. Such
        // sessions refuse no login.
        subject.close_session("c", false).await;
        subject.log_in_and_claim(OTHER, "d", policy, 1).await;
    }
}

async fn a_login_supersedes_nobody_and_a_claim_only_sessions_with_its_proof(kind: Kind) {
    for policy in [Reject, Allow] {
        let subject = Subject::new(kind).await;
        subject
            .try_login_with_secret(ONE, "a", policy, 1)
            .await
            .unwrap();
        if policy == Allow {
            subject
                .try_login_with_secret(ONE, "tab", policy, 2)
                .await
                .unwrap();
            subject.try_login(ONE, "unproven", policy).await.unwrap();
        }
        let login = subject.try_login_with_secret(OTHER, "b", policy, 1).await;
        assert!(matches!(login, Ok(LoggedIn::Yes { .. })), "{login:?}");
        // The client of the new login may be gone already. Then the user would have no session.
        let states = subject.states().await;
        assert!(states.iter().all(|(_, it)| *it == Live), "{states:?}");
        // A repeated login gets the first answer, with the same predecessors.
        assert_eq!(
            subject.try_login_with_secret(OTHER, "b", policy, 1).await,
            login
        );
        subject.log_in_and_claim(OTHER, "b", policy, 1).await;
        let states = subject.states().await;
        let gone = states.iter().filter(|(_, it)| *it != Live);
        let gone: Vec<_> = gone.map(|(name, _)| &**name).collect();
        assert_eq!(gone, ["a"], "{policy}");
    }
}

async fn a_lingering_session_refuses_no_login_and_is_named_as_predecessor(kind: Kind) {
    for policy in [Reject, KickOld, Allow] {
        let subject = Subject::new(kind).await;
        subject
            .try_login_with_secret(ONE, "a", policy, 1)
            .await
            .unwrap();
        subject.linger("a").await;
        subject.linger("a").await;
        subject.assert_states(&[("a", Lingering)]).await;
        // This works without a secret, too: it is the same user, and the old client is gone.
        let login = subject.prepare(OTHER, "b", policy).await;
        let answer = subject.registry.login(&login, &[]).await.unwrap();
        let LoggedIn::Yes {
            login_rank,
            predecessors,
            ..
        } = answer
        else {
            panic!("{policy}: {answer:?}");
        };
        let gone = Predecessor {
            session: session("a"),
            incarnation: incarnation(ONE),
        };
        assert_eq!(predecessors, [gone]);
        subject
            .assert_states(&[("a", Lingering), ("b", Live)])
            .await;
        // A session that begins to linger later was not named, and stays.
        if policy == Allow {
            subject.try_login(ONE, "c", policy).await.unwrap();
            subject.linger("c").await;
        }
        let claim = Claim {
            login,
            login_rank,
            predecessors: predecessors.into(),
        };
        let marked = subject.claim_one(&claim).await;
        // It has no client that would have to be told.
        assert_eq!(marked, claimed(&[], &[]), "{policy}");
        let states = subject.states().await;
        assert_eq!(states[..2], [("a".into(), Superseded), ("b".into(), Live)]);
        assert!(states[2..].iter().all(|(_, it)| *it == Lingering));
        // A superseded session stays superseded, and a session that is not registered is not added.
        subject.linger("a").await;
        subject.linger("nobody").await;
        assert_eq!(subject.states().await, states);
    }
}

/// The login that took the place may not have claimed yet. If another login got in, one of the two would be kicked.
async fn the_first_login_takes_the_place_of_a_lingering_session(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject
        .try_login_with_secret(ONE, "a", Reject, 1)
        .await
        .unwrap();
    subject.linger("a").await;
    subject
        .try_login_with_secret(OTHER, "b", Reject, 2)
        .await
        .unwrap();
    let late = subject.try_login_with_secret(ONE, "c", Reject, 1).await;
    assert_eq!(late, taken(&[OTHER]));
    subject
        .assert_states(&[("a", Lingering), ("b", Live)])
        .await;
}

/// The connector of a superseded session may have ended, and then its entry stays as long as its lease.
async fn a_superseded_session_holds_nobody_off(kind: Kind) {
    let subject = Subject::new(kind).await;
    // A client without a secret moves twice, because its connectors stop.
    subject.log_in(ONE, "a", Reject).await;
    subject.linger("a").await;
    let login = subject.prepare(OTHER, "b", Reject).await;
    let answer = subject.registry.login(&login, &[]).await.unwrap();
    let LoggedIn::Yes {
        login_rank,
        predecessors,
        ..
    } = answer
    else {
        panic!("{answer:?}");
    };
    let claim = Claim {
        login,
        login_rank,
        predecessors: predecessors.into(),
    };
    subject.claim_one(&claim).await.unwrap();
    let held = subject.try_login(THIRD, "c", Reject).await;
    assert_eq!(held, taken(&[OTHER]), "the live session alone holds it off");
    subject.linger("b").await;
    let moved = subject.try_login(THIRD, "c", Reject).await;
    let Ok(LoggedIn::Yes { predecessors, .. }) = &moved else {
        panic!("{moved:?}");
    };
    let last = Predecessor {
        session: session("b"),
        incarnation: incarnation(OTHER),
    };
    assert_eq!(*predecessors, [last]);
    subject
        .assert_states(&[("a", Superseded), ("b", Lingering), ("c", Live)])
        .await;
    // The user has one live session. Neither the superseded one nor anybody else gets in beside it.
    let claimed_late = subject.claim_as(ONE, "a", Reject, 1).await;
    assert_eq!(claimed_late, claimed(&[], &[]));
    let fourth = subject.try_login(ONE, "d", Reject).await;
    assert_eq!(fourth, taken(&[THIRD]));
}

async fn the_secret_of_a_superseded_session_lets_nobody_in_beside_a_live_one(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.log_in_and_claim(ONE, "a", Reject, 1).await;
    subject.log_in_and_claim(OTHER, "b", Reject, 1).await;
    subject.close_session("b", false).await;
    // The connector of the first session has not seen its mark yet.
    subject.assert_states(&[("a", Superseded)]).await;
    subject.log_in(THIRD, "c", Reject).await;
    let again = subject.try_login_with_secret(ONE, "d", Reject, 1).await;
    assert_eq!(again, taken(&[THIRD]));
}

async fn the_place_of_a_dead_session_is_taken_at_once_with_the_proof(kind: Kind) {
    let subject = Subject::new(kind).await;
    let first = subject.prepare_with_secret(ONE, "a", Reject, 1).await;
    subject.registry.login(&first, &[]).await.unwrap();
    // The connector is dead, but no service knows that yet.
    let (_, replaced) = subject.log_in_and_claim(OTHER, "b", Reject, 1).await;
    assert_eq!(replaced, ["a"]);
    assert_eq!(subject.reap_user(ONE).await, 1);
    subject.assert_states(&[("b", Live)]).await;
    let thawed = subject.registry.login(&first, &[]).await;
    assert_eq!(thawed, Err(StoreError::ConnectorDead));
    // A session that was reaped before is not a predecessor.
    assert_eq!(subject.reap_user(OTHER).await, 1);
    let (_, replaced) = subject
        .log_in_and_claim("connector-3/cc", "c", Reject, 1)
        .await;
    assert_eq!(replaced, [""; 0]);
}

async fn of_two_sessions_with_one_proof_the_newer_one_wins(kind: Kind) {
    for policy in [Reject, KickOld, Allow] {
        let subject = Subject::new(kind).await;
        let (older, _) = subject.log_in_and_claim(ONE, "a", policy, 1).await;
        let (newer, _) = subject.log_in_and_claim(OTHER, "b", policy, 1).await;
        // The older session is already superseded.
        let claims = [
            (&older, claimed(&[], &[])),
            (&newer, claimed(&[ONE], &[])),
            (&older, claimed(&[], &[])),
        ];
        for (claim, expected) in claims.clone() {
            assert_eq!(subject.claim_one(claim).await, expected, "{policy}");
        }
        subject
            .assert_states(&[("a", Superseded), ("b", Live)])
            .await;
        // After a loss of all data they come back in any order. Once the newer session has claimed, it wins.
        subject.close_session("a", false).await;
        subject.close_session("b", false).await;
        for (claim, _) in claims {
            subject.claim_one(claim).await.unwrap();
        }
        subject.claim_one(&newer).await.unwrap();
        subject
            .assert_states(&[("a", Superseded), ("b", Live)])
            .await;
    }
}

/// A client's login arrives late, after the client has logged in by another connector.
async fn a_late_login_with_the_proof_does_not_affect_the_newer_session(kind: Kind) {
    for policy in [Reject, KickOld, Allow] {
        let subject = Subject::new(kind).await;
        let late = subject.prepare_with_secret(ONE, "late", policy, 1).await;
        subject.log_in_and_claim(OTHER, "b", policy, 1).await;
        subject.registry.login(&late, &[]).await.unwrap();
        subject.assert_states(&[("b", Live), ("late", Live)]).await;
        subject.close_session("late", true).await;
        let copy = subject.registry.login(&late, &[]).await;
        assert_eq!(copy, Err(StoreError::StaleOperation));
        subject.assert_states(&[("b", Live)]).await;
    }
}

async fn after_a_flush_a_claim_restores_the_proof(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (claim, _) = subject.log_in_and_claim(ONE, "a", Reject, 1).await;
    // As after a loss of all data: the client comes back before its old connector has restored the entry.
    subject.close_session("a", false).await;
    let (_, replaced) = subject.log_in_and_claim(OTHER, "b", Reject, 1).await;
    assert_eq!(replaced, [""; 0]);
    assert_eq!(subject.claim_one(&claim).await, claimed(&[], &[OTHER]));
    // An entry that its connector has restored has its proof again.
    let (_, replaced) = subject.log_in_and_claim(OTHER, "c", Reject, 1).await;
    assert_eq!(replaced, ["b", "a"]);
    subject
        .assert_states(&[("a", Superseded), ("b", Superseded), ("c", Live)])
        .await;
}

async fn the_proof_of_one_user_has_no_effect_for_another(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.log_in_and_claim(ONE, "a", Reject, 1).await;
    let foreign = Login {
        user: user("v"),
        ..subject.prepare_with_secret(OTHER, "b", Reject, 1).await
    };
    let answer = subject.registry.login(&foreign, &[]).await;
    assert!(
        matches!(&answer, Ok(LoggedIn::Yes { predecessors, others: false, .. }) if predecessors.is_empty()),
        "{answer:?}"
    );
    subject.assert_states(&[("a", Live)]).await;
}

async fn the_entries_of_a_user_are_bounded(kind: Kind) {
    let subject = Subject::new(kind).await;
    for n in 0..110 {
        let login = subject.try_login(ONE, &format!("s{n}"), Allow).await;
        let is_entered = matches!(login, Ok(LoggedIn::Yes { .. }));
        assert_eq!(is_entered, n < 100, "{n}: {login:?}");
    }
    // A repeated login gets the first answer, and a client that comes back finds a place.
    subject.log_in(ONE, "s7", Allow).await;
    assert_eq!(subject.sessions().await.len(), 100);
    subject.close_session("s0", false).await;
    subject.log_in_and_claim(ONE, "a", Allow, 1).await;
    let (_, replaced) = subject.log_in_and_claim(ONE, "b", Allow, 1).await;
    assert_eq!(replaced, ["a"]);
}

async fn a_client_that_comes_back_a_thousand_times_leaves_few_entries(kind: Kind) {
    let subject = Subject::new(kind).await;
    for n in 0..1_000 {
        let name = format!("s{n:04}");
        let (_, replaced) = subject.log_in_and_claim(ONE, &name, Reject, 1).await;
        assert!(replaced.len() <= 33, "{}", replaced.len());
        if n > 0 {
            assert_eq!(
                replaced[0],
                format!("s{:04}", n - 1),
                "the newest comes first"
            );
        }
    }
    let states = subject.states().await;
    assert!(states.len() <= 34, "{}", states.len());
    let live = states.iter().filter(|(_, it)| *it == Live);
    let live: Vec<_> = live.map(|(name, _)| &**name).collect();
    assert_eq!(live, ["s0999"]);
}

async fn hints_reach_only_their_incarnation(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (mine, theirs) = (subject.hints().await, subject.hints().await);
    let mut heard = mine.listen(&incarnation(ONE));
    let mut others = mine.listen(&incarnation("connector-3/cc"));
    eventually("the first hint arrives", async || {
        // A hint may be lost before the subscription is confirmed.
        let _ = theirs.hint(&incarnation(ONE), &user("first")).await;
        heard.try_recv().is_ok()
    })
    .await;
    let (whose, second) = (incarnation(ONE), user("}u{ 哈"));
    theirs.hint(&whose, &second).await.unwrap();
    loop {
        let next = tokio::time::timeout(LONG, heard.recv()).await.unwrap();
        match next.unwrap() {
            again if again == user("first") => {}
            other => break assert_eq!(other, second),
        }
    }
    assert!(others.try_recv().is_err());
}

async fn an_incarnation_can_listen_again(kind: Kind) {
    let subject = Subject::new(kind).await;
    let hints = subject.hints().await;
    for _ in 0..3 {
        let mut heard = hints.listen(&incarnation(ONE));
        eventually("a hint arrives", async || {
            let _ = hints.hint(&incarnation(ONE), &user("u")).await;
            heard.try_recv().is_ok()
        })
        .await;
    }
}

async fn only_the_last_listener_of_an_incarnation_gets_hints(kind: Kind) {
    let subject = Subject::new(kind).await;
    let hints = subject.hints().await;
    let mut former = hints.listen(&incarnation(ONE));
    let mut latter = hints.listen(&incarnation(ONE));
    eventually("a hint arrives", async || {
        let _ = hints.hint(&incarnation(ONE), &user("u")).await;
        latter.try_recv().is_ok()
    })
    .await;
    assert_eq!(former.recv().await, None, "the first listener has ended");
}

#[tokio::test]
async fn login_ranks_do_not_go_back_when_redis_loses_everything() {
    let mut subject = Subject::new(Kind::Redis).await;
    let before = subject.log_in(ONE, "a", Reject).await;
    subject.server().say("FLUSHALL");
    let slipped_in = subject.log_in(OTHER, "b", Reject).await;
    assert!(slipped_in > before);
    // The connector of the first session claims, and the session wins.
    let claim = subject.claim_as(ONE, "a", Reject, before).await;
    assert_eq!(claim, claimed(&[OTHER], &[]));
}

#[tokio::test]
async fn login_ranks_do_not_go_back_when_memory_loses_everything() {
    let subject = Subject::new(Kind::Memory).await;
    let before = subject.log_in(ONE, "a", Reject).await;
    let snapshot = subject.memory().snapshot();
    subject.memory().restart(Some(Snapshot::default()));
    assert_eq!(subject.sessions().await, Vec::<String>::new());
    // In memory, login ranks follow a clock of milliseconds.
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(subject.log_in(OTHER, "b", Reject).await > before);
    subject.memory().restart(Some(snapshot));
    assert_eq!(subject.sessions().await, ["a"]);
}

/// Login ranks do not go back even if the server's clock is behind the clock that gave them.
#[tokio::test]
async fn a_claim_raises_the_next_login_rank_above_its_own() {
    let subject = Subject::new(Kind::Redis).await;
    let ahead = 1 << 52;
    let claim = subject.claim_as(ONE, "a", KickOld, ahead).await;
    assert_eq!(claim, claimed(&[], &[]));
    assert_eq!(subject.log_in(OTHER, "b", KickOld).await, ahead + 1);
}

#[tokio::test]
async fn a_full_redis_refuses_logins_but_lets_sessions_close() {
    let mut subject = Subject::new(Kind::Redis).await;
    let login_rank = subject.log_in(ONE, "a", KickOld).await;
    subject.log_in(OTHER, "b", KickOld).await;
    let attempt = subject.prepare(ONE, "c", KickOld).await;
    subject.server().say("CONFIG SET maxmemory 1");
    let login = subject.registry.login(&attempt, &[]).await;
    assert_eq!(login, Err(StoreError::Full));
    let claim = subject.claim_as(ONE, "a", KickOld, login_rank).await;
    assert_eq!(claim, Err(StoreError::Full));
    assert_eq!(subject.sessions().await, ["a", "b"]);
    let agreed = subject.registry.propose_policy(KickOld, LONG).await;
    assert_eq!(agreed, Ok(KickOld));
    subject.close_session("a", true).await;
    assert_eq!(subject.reap_user(OTHER).await, 1);
    assert_eq!(subject.sessions().await, Vec::<String>::new());
    subject.server().say("CONFIG SET maxmemory 0");
    let late = subject.try_login(ONE, "a", KickOld).await;
    assert_eq!(late, Err(StoreError::StaleOperation));
}

#[tokio::test]
async fn hints_arrive_again_after_the_connection_was_lost() {
    let mut subject = Subject::new(Kind::Redis).await;
    let (hints, others) = (subject.hints().await, subject.hints().await);
    let mut heard = hints.listen(&incarnation(ONE));
    for _ in 0..2 {
        eventually("a hint arrives", async || {
            let _ = others.hint(&incarnation(ONE), &user("u")).await;
            heard.try_recv().is_ok()
        })
        .await;
        subject.server().say("CLIENT KILL TYPE pubsub");
        while heard.try_recv().is_ok() {}
    }
}

#[tokio::test]
async fn hints_that_nobody_takes_are_dropped_and_block_no_others() {
    let subject = Subject::new(Kind::Redis).await;
    let hints = subject.hints().await;
    let (idle, mut heard) = (
        hints.listen(&incarnation(OTHER)),
        hints.listen(&incarnation(ONE)),
    );
    for _ in 0..3 {
        let many = (0..1_000).map(|_| user("u"));
        join_all(many.map(async |it| hints.hint(&incarnation(OTHER), &it).await)).await;
    }
    eventually("a hint for another incarnation arrives", async || {
        let _ = hints.hint(&incarnation(ONE), &user("u")).await;
        heard.try_recv().is_ok()
    })
    .await;
    assert!(idle.len() <= 2_000, "{}", idle.len());
    assert!(!idle.is_empty());
}

#[tokio::test]
async fn a_user_without_sessions_is_remembered_as_long_as_tombstones() {
    let options = StoreOptions::default();
    let tombstone_life = i64::try_from(options.tombstone_life.as_millis()).unwrap();
    let mut subject = Subject::with(Kind::Redis, options).await;
    let left = |subject: &mut Subject| -> i64 { subject.server().number("PTTL gc:{u}:user:rank") };
    let first = subject.log_in(ONE, "a", Reject).await;
    assert!(left(&mut subject) > tombstone_life);
    subject.close_session("a", false).await;
    assert!((1..=tombstone_life).contains(&left(&mut subject)));
    // The user's connector still reads the entries for a while. That must not prolong the life.
    assert_eq!(subject.sessions().await, [""; 0]);
    assert!((1..=tombstone_life).contains(&left(&mut subject)));
    assert!(subject.log_in(ONE, "b", Reject).await > first);
    assert!(left(&mut subject) > tombstone_life);
    assert_eq!(subject.reap_user(ONE).await, 1);
    assert!((1..=tombstone_life).contains(&left(&mut subject)));
}

#[tokio::test]
async fn registered_logins_expire_unless_they_are_read() {
    let options = StoreOptions {
        log_life: Duration::from_secs(2),
        channel_life: Duration::from_secs(2),
        ..StoreOptions::default()
    };
    let mut subject = Subject::with(Kind::Redis, options).await;
    subject.log_in(ONE, "a", Reject).await;
    for key in ["entries", "rank"] {
        let left = subject
            .server()
            .number(&format!("PTTL gc:{{u}}:user:{key}"));
        assert!((1..=2_000).contains(&left), "{key}: {left}");
    }
    // Reading the entries renews them, so they still exist after their life.
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(2_500) {
        assert_eq!(subject.sessions().await, ["a"]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let keys = subject.server().keys();
    assert!(keys.iter().any(|key| key.ends_with(":user:rank")));
    eventually("the entries have expired", async || {
        let keys = subject.server().keys();
        !keys.iter().any(|key| key.contains(":user:"))
    })
    .await;
}
