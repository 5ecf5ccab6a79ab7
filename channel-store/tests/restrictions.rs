//! What is forbidden to users, and how many sessions a user may have. Each test is one history, and every store must pass it.

use crate::conformance::conformance;
use crate::support::{Kind, Subject, eventually, incarnation};
use channel_store::LoginPolicy::{Allow, KickOld, Reject};
use channel_store::{
    Block, Claim, Claimed, Forbidden, LoggedIn, Login, LoginPolicy, Proof, REVOKED_TOKENS, Renewed,
    Restricted, Restriction, Restrictions, SessionId, ShownToken, StoreError, StoreOptions,
    TokenId, UserId, When,
};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use testkit::redis::Redis;

conformance! {
    nobody_logs_in_as_a_blocked_user_until_the_block_ends
    a_block_ends_by_itself_and_can_be_replaced
    tokens_that_were_made_too_early_are_refused
    the_time_before_which_tokens_are_revoked_never_goes_back
    a_single_token_is_revoked_until_that_is_forgotten
    a_forbidden_login_changes_nothing
    what_is_over_does_not_count_while_something_else_lasts
    a_claim_of_a_forbidden_session_changes_nothing
    the_entries_of_a_user_come_with_what_is_forbidden
    a_bounded_number_of_tokens_is_revoked_one_by_one
    a_user_has_a_bounded_number_of_live_sessions
    sessions_of_the_same_client_and_lingering_ones_do_not_count
    sessions_of_dead_connectors_make_room
    lingering_sessions_do_not_hide_others_from_the_count
}

const LONG: Duration = Duration::from_secs(600);
const LATER: When = When::After(LONG);
const SOON: When = When::After(Duration::from_millis(30));
const ONE: &str = "connector-1/aa";
const OTHER: &str = "connector-2/bb";

fn user() -> UserId {
    UserId::new("u").unwrap()
}

fn token(issued: Option<u64>, jti: Option<&str>) -> ShownToken {
    ShownToken {
        issued,
        id: jti.map(TokenId::of),
    }
}

fn block(until: When) -> Restriction {
    Restriction::Block {
        until,
        reason: "spam, \"eggs\" and\\ham".to_owned(),
    }
}

impl Subject {
    async fn a_login(&self, of: &str, name: &str, policy: LoginPolicy) -> Login {
        let renewed = self.leases.renew(&incarnation(of), LONG / 20).await;
        let Ok(Renewed::Live(term) | Renewed::Lost(term)) = renewed else {
            panic!("{renewed:?}");
        };
        Login {
            user: user(),
            session: SessionId::new(name).unwrap(),
            incarnation: incarnation(of),
            deadline: term.until,
            policy,
            proof: None,
            token: None,
            most_sessions: 0,
        }
    }

    async fn enters(&self, login: &Login) -> LoggedIn {
        self.registry.login(login, &[]).await.unwrap()
    }

    /// A login with a token is let in. The session is closed at once.
    async fn lets_in(&self, token: Option<ShownToken>) -> bool {
        let name = format!("{:032x}", fastrand::u128(..));
        let login = Login {
            token,
            ..self.a_login(ONE, &name, Allow).await
        };
        match self.enters(&login).await {
            LoggedIn::Yes { .. } => {
                self.registry
                    .close(&user(), &login.session, false)
                    .await
                    .unwrap();
                true
            }
            LoggedIn::Forbidden(_) => false,
            other => panic!("{other:?}"),
        }
    }

    async fn forbids(&self, change: Restriction) -> Restrictions {
        match self.store.restrict(&user(), &change).await {
            Ok(Restricted::Yes(restrictions)) => restrictions,
            other => panic!("{other:?}"),
        }
    }

    async fn forbidden(&self) -> Restrictions {
        let looks = self.registry.entries(&incarnation(ONE), &[user()]).await;
        looks.unwrap().remove(0).restrictions
    }

    /// Everything that was to be forgotten [`SOON`] before this call is forgotten.
    async fn until_soon_is_over(&self) {
        let id = TokenId::of("a clock");
        self.forbids(Restriction::RevokeToken { id, until: SOON })
            .await;
        eventually("it is forgotten", async || {
            !self.forbidden().await.revoked.contains(&id)
        })
        .await;
    }

    async fn names(&self) -> Vec<String> {
        let looks = self.registry.entries(&incarnation(ONE), &[user()]).await;
        let entries = looks.unwrap().remove(0).entries;
        let mut names: Vec<_> = entries.iter().map(|it| it.session.to_string()).collect();
        names.sort();
        names
    }
}

async fn nobody_logs_in_as_a_blocked_user_until_the_block_ends(kind: Kind) {
    let subject = Subject::new(kind).await;
    let restrictions = subject.forbids(block(LATER)).await;
    let blocked = restrictions.block.clone().unwrap();
    assert_eq!(blocked.reason, "spam, \"eggs\" and\\ham");
    for policy in [Reject, KickOld, Allow] {
        let login = Login {
            token: Some(token(Some(u64::from(u32::MAX)), None)),
            proof: Some(Proof::new([1; 16])),
            ..subject.a_login(ONE, "a", policy).await
        };
        let refused = LoggedIn::Forbidden(Forbidden::Blocked(blocked.clone()));
        assert_eq!(subject.enters(&login).await, refused);
    }
    assert!(subject.names().await.is_empty(), "nothing was written");
    let login = Login {
        user: UserId::new("other").unwrap(),
        ..subject.a_login(ONE, "b", Reject).await
    };
    assert!(matches!(subject.enters(&login).await, LoggedIn::Yes { .. }));
    let none = subject.forbids(Restriction::Unblock).await;
    assert_eq!(none, Restrictions::default());
    assert!(subject.lets_in(None).await);
    // It may be repeated.
    subject.forbids(Restriction::Unblock).await;
}

async fn a_block_ends_by_itself_and_can_be_replaced(kind: Kind) {
    let subject = Subject::new(kind).await;
    let until = 253_402_300_799_999;
    let restrictions = subject.forbids(block(When::At(until))).await;
    assert_eq!(restrictions.block.unwrap().until, until);
    assert!(!subject.lets_in(None).await);
    // The new end counts, although it is earlier.
    subject.forbids(block(SOON)).await;
    eventually("the block ends", async || subject.lets_in(None).await).await;
    assert_eq!(subject.forbidden().await, Restrictions::default());
    // A block that is over is none.
    let restrictions = subject.forbids(block(When::At(1))).await;
    assert_eq!(restrictions, Restrictions::default());
    assert!(subject.lets_in(None).await);
}

async fn tokens_that_were_made_too_early_are_refused(kind: Kind) {
    let subject = Subject::new(kind).await;
    let restrictions = subject
        .forbids(Restriction::RevokeIssuedBefore {
            before: When::At(1_700_000_000_500),
            until: LATER,
        })
        .await;
    assert_eq!(restrictions.issued_before, Some(1_700_000_000_500));
    for (shown, is_let_in) in [
        (Some(token(Some(1_700_000_001), None)), true),
        (Some(token(Some(1_700_000_001), Some("a"))), true),
        (Some(token(Some(1_700_000_000), None)), false),
        (Some(token(None, Some("a"))), false),
        // Without tokens nobody has one to revoke.
        (None, true),
    ] {
        assert_eq!(subject.lets_in(shown).await, is_let_in, "{shown:?}");
    }
    // A token that was made at this very time is a newer one.
    subject
        .forbids(Restriction::RevokeIssuedBefore {
            before: When::At(1_700_000_002_000),
            until: LATER,
        })
        .await;
    assert!(
        subject
            .lets_in(Some(token(Some(1_700_000_002), None)))
            .await
    );
    assert!(
        !subject
            .lets_in(Some(token(Some(1_700_000_001), None)))
            .await
    );
    // A block and its end leave revocations alone.
    subject.forbids(block(LATER)).await;
    subject.forbids(Restriction::Unblock).await;
    assert!(!subject.lets_in(Some(token(None, None))).await);
    subject.forbids(block(SOON)).await;
    eventually("the block ends", async || subject.lets_in(None).await).await;
    assert!(!subject.lets_in(Some(token(None, None))).await);
}

async fn the_time_before_which_tokens_are_revoked_never_goes_back(kind: Kind) {
    let subject = Subject::new(kind).await;
    let revoke = |before, until| Restriction::RevokeIssuedBefore {
        before: When::At(before),
        until,
    };
    subject.forbids(revoke(2_000_000, LATER)).await;
    let restrictions = subject.forbids(revoke(1_000_000, SOON)).await;
    assert_eq!(restrictions.issued_before, Some(2_000_000));
    subject.until_soon_is_over().await;
    assert!(
        !subject.lets_in(Some(token(Some(1_999), None))).await,
        "what was to be remembered for longer is remembered"
    );
    // By the clock of the store.
    let restrictions = subject
        .forbids(Restriction::RevokeIssuedBefore {
            before: When::After(Duration::ZERO),
            until: LATER,
        })
        .await;
    assert!(restrictions.issued_before.unwrap() > 1_700_000_000_000);
}

async fn a_single_token_is_revoked_until_that_is_forgotten(kind: Kind) {
    let subject = Subject::new(kind).await;
    let revoke = |jti, until| Restriction::RevokeToken {
        id: TokenId::of(jti),
        until,
    };
    subject.forbids(revoke("short", SOON)).await;
    let restrictions = subject.forbids(revoke("long", LATER)).await;
    assert!(restrictions.revoked.contains(&TokenId::of("long")));
    let shown = |jti| Some(token(Some(1), Some(jti)));
    assert!(!subject.lets_in(shown("long")).await);
    assert!(subject.lets_in(shown("other")).await);
    assert!(subject.lets_in(Some(token(None, None))).await);
    eventually("one is forgotten", async || {
        subject.lets_in(shown("short")).await
    })
    .await;
    // Repeated with a shorter time, it is still remembered for the longer one.
    subject.forbids(revoke("long", SOON)).await;
    subject.until_soon_is_over().await;
    assert!(!subject.lets_in(shown("long")).await);
    assert_eq!(subject.forbidden().await.revoked, [TokenId::of("long")]);
}

async fn a_forbidden_login_changes_nothing(kind: Kind) {
    let subject = Subject::new(kind).await;
    let older = subject.a_login(OTHER, "older", Allow).await;
    subject.enters(&older).await;
    subject.forbids(block(LATER)).await;
    let login = subject.a_login(ONE, "a", Allow).await;
    let dead = [incarnation(OTHER)];
    let refused = subject.registry.login(&login, &dead).await.unwrap();
    assert!(matches!(refused, LoggedIn::Forbidden(_)), "{refused:?}");
    assert_eq!(subject.names().await, ["older"]);
}

async fn what_is_over_does_not_count_while_something_else_lasts(kind: Kind) {
    let subject = Subject::new(kind).await;
    let id = TokenId::of("a");
    subject
        .forbids(Restriction::RevokeToken { id, until: LATER })
        .await;
    subject
        .forbids(Restriction::RevokeIssuedBefore {
            before: When::At(1_700_000_000_000),
            until: SOON,
        })
        .await;
    let old = Some(token(Some(1), None));
    eventually("older tokens are let in", async || {
        subject.lets_in(old).await
    })
    .await;
    let rest = Restrictions {
        revoked: vec![id],
        ..Restrictions::default()
    };
    assert_eq!(subject.forbidden().await, rest);
}

async fn a_claim_of_a_forbidden_session_changes_nothing(kind: Kind) {
    let subject = Subject::new(kind).await;
    let older = subject.a_login(OTHER, "older", KickOld).await;
    subject.enters(&older).await;
    let login = Login {
        token: Some(token(Some(5), Some("a"))),
        ..subject.a_login(ONE, "a", KickOld).await
    };
    let LoggedIn::Yes { login_rank, .. } = subject.enters(&login).await else {
        panic!("it is let in");
    };
    let claims = [Claim {
        login: login.clone(),
        login_rank,
        predecessors: Arc::default(),
    }];
    let claim = async || {
        let mut claimed = subject.registry.claim(&claims).await.unwrap();
        claimed.remove(0).unwrap()
    };
    let forbidden = |why| Claimed {
        forbidden: Some(why),
        ..Claimed::default()
    };
    let id = TokenId::of("a");
    subject
        .forbids(Restriction::RevokeToken { id, until: LATER })
        .await;
    assert_eq!(claim().await, forbidden(Forbidden::TokenRevoked));
    // Its entry is not put back, either.
    subject
        .registry
        .close(&user(), &login.session, false)
        .await
        .unwrap();
    let blocked = subject.forbids(block(LATER)).await.block.unwrap();
    assert_eq!(claim().await, forbidden(Forbidden::Blocked(blocked)));
    assert_eq!(subject.names().await, ["older"]);
    let looks = subject.registry.entries(&incarnation(ONE), &[user()]).await;
    let entry = looks.unwrap().remove(0).entries.remove(0);
    assert_eq!(entry.state, channel_store::EntryState::Live);
}

async fn the_entries_of_a_user_come_with_what_is_forbidden(kind: Kind) {
    let subject = Subject::new(kind).await;
    assert_eq!(subject.forbidden().await, Restrictions::default());
    let id = TokenId::of("a");
    subject.forbids(block(When::At(253_402_300_799_999))).await;
    subject
        .forbids(Restriction::RevokeToken { id, until: LATER })
        .await;
    let expected = subject
        .forbids(Restriction::RevokeIssuedBefore {
            before: When::At(5),
            until: LATER,
        })
        .await;
    let block = Block {
        until: 253_402_300_799_999,
        reason: "spam, \"eggs\" and\\ham".to_owned(),
    };
    let all = Restrictions {
        block: Some(block),
        issued_before: Some(5),
        revoked: vec![id],
    };
    assert_eq!(expected, all);
    let users = [UserId::new("other").unwrap(), user()];
    let looks = subject.registry.entries(&incarnation(ONE), &users).await;
    let looks: Vec<_> = looks
        .unwrap()
        .into_iter()
        .map(|it| it.restrictions)
        .collect();
    assert_eq!(looks, [Restrictions::default(), all]);
}

async fn a_bounded_number_of_tokens_is_revoked_one_by_one(kind: Kind) {
    let subject = Subject::new(kind).await;
    let revoke = |n: usize, until| Restriction::RevokeToken {
        id: TokenId::of(&n.to_string()),
        until,
    };
    for n in 1..REVOKED_TOKENS {
        subject.forbids(revoke(n, LATER)).await;
    }
    subject
        .forbids(revoke(0, When::After(Duration::from_secs(1))))
        .await;
    let (user, more) = (user(), revoke(REVOKED_TOKENS, LATER));
    let one_more = || subject.store.restrict(&user, &more);
    let full = one_more().await.unwrap();
    // A machine that was busy for a second has room already.
    if full != Restricted::TooMany {
        assert!(matches!(full, Restricted::Yes(it) if it.revoked.len() <= REVOKED_TOKENS));
        return;
    }
    let known = subject.forbids(revoke(1, LATER)).await;
    assert!(known.revoked.len() >= REVOKED_TOKENS - 1);
    // Other restrictions have their place.
    subject.forbids(block(LATER)).await;
    eventually("what is forgotten makes room", async || {
        matches!(one_more().await, Ok(Restricted::Yes(_)))
    })
    .await;
}

async fn a_user_has_a_bounded_number_of_live_sessions(kind: Kind) {
    let subject = Subject::new(kind).await;
    let mut logins = Vec::new();
    for n in 0..17 {
        let whose = if n % 2 == 0 { ONE } else { OTHER };
        let login = Login {
            most_sessions: 16,
            ..subject.a_login(whose, &format!("s{n:02}"), Allow).await
        };
        logins.push(login);
    }
    // All at once: they are counted in the step that enters them.
    let answers = join_all(logins.iter().map(|login| subject.enters(login))).await;
    let is_in = |it: &&LoggedIn| matches!(it, LoggedIn::Yes { .. });
    assert_eq!(answers.iter().filter(is_in).count(), 16);
    let refused = answers.iter().position(|it| !is_in(&it)).unwrap();
    let full = LoggedIn::Full(vec![incarnation(ONE), incarnation(OTHER)]);
    assert_eq!(answers[refused], full);
    // A repeated login gets the first answer.
    let inside = (refused + 1) % 17;
    assert_eq!(
        subject.enters(&logins[inside]).await,
        again(&answers[inside])
    );
    // There is no limit for those who set none, and under the other policies no user comes near it.
    for (policy, most_sessions) in [(Allow, 0), (KickOld, 16)] {
        let login = Login {
            most_sessions,
            ..subject.a_login(ONE, "more", policy).await
        };
        assert!(matches!(subject.enters(&login).await, LoggedIn::Yes { .. }));
        subject
            .registry
            .close(&user(), &login.session, false)
            .await
            .unwrap();
    }
    let session = &logins[inside].session;
    subject
        .registry
        .close(&user(), session, false)
        .await
        .unwrap();
    let answer = subject.enters(&logins[refused]).await;
    assert!(
        matches!(answer, LoggedIn::Yes { .. }),
        "there is room again"
    );
}

/// The answer to a copy of a login, when others have come meanwhile.
fn again(first: &LoggedIn) -> LoggedIn {
    let LoggedIn::Yes {
        login_rank,
        predecessors,
        ..
    } = first
    else {
        panic!("{first:?}");
    };
    LoggedIn::Yes {
        login_rank: *login_rank,
        others: true,
        predecessors: predecessors.clone(),
    }
}

async fn sessions_of_the_same_client_and_lingering_ones_do_not_count(kind: Kind) {
    let subject = Subject::new(kind).await;
    let two = async |name: &str, proof: Option<u8>| {
        let login = Login {
            most_sessions: 2,
            proof: proof.map(|it| Proof::new([it; 16])),
            ..subject.a_login(ONE, name, Allow).await
        };
        subject.enters(&login).await
    };
    let is_in = |it: LoggedIn| matches!(it, LoggedIn::Yes { .. });
    assert!(is_in(two("a", Some(1)).await) && is_in(two("b", Some(2)).await));
    assert!(matches!(two("c", Some(3)).await, LoggedIn::Full(_)));
    assert!(matches!(two("c", None).await, LoggedIn::Full(_)));
    // The client of "a" comes back, also a second time.
    assert!(is_in(two("d", Some(1)).await) && is_in(two("e", Some(1)).await));
    let lingers = SessionId::new("b").unwrap();
    for name in ["a", "d"] {
        let over = SessionId::new(name).unwrap();
        subject.registry.close(&user(), &over, false).await.unwrap();
    }
    assert!(matches!(two("c", None).await, LoggedIn::Full(_)));
    subject.registry.linger(&user(), &lingers).await.unwrap();
    assert!(is_in(two("c", None).await));
}

async fn sessions_of_dead_connectors_make_room(kind: Kind) {
    let subject = Subject::new(kind).await;
    let login = |login: Login| Login {
        most_sessions: 1,
        ..login
    };
    let held = login(subject.a_login(OTHER, "a", Allow).await);
    subject.enters(&held).await;
    let next = login(subject.a_login(ONE, "b", Allow).await);
    let full = LoggedIn::Full(vec![incarnation(OTHER)]);
    assert_eq!(subject.enters(&next).await, full);
    let dead = [incarnation(OTHER)];
    let answer = subject.registry.login(&next, &dead).await.unwrap();
    assert!(matches!(answer, LoggedIn::Yes { .. }), "{answer:?}");
    assert_eq!(subject.names().await, ["b"]);
    let late = subject.registry.login(&held, &[]).await;
    assert_eq!(late, Err(StoreError::ConnectorDead));
}

/// A client could leave entries behind until there are so many that no further one is entered, and then log in without end.
async fn lingering_sessions_do_not_hide_others_from_the_count(kind: Kind) {
    let subject = Subject::new(kind).await;
    for n in 0..100 {
        let login = subject.a_login(ONE, &format!("s{n}"), Allow).await;
        subject.enters(&login).await;
        subject
            .registry
            .linger(&user(), &login.session)
            .await
            .unwrap();
    }
    let login = subject.a_login(ONE, "more", Allow).await;
    assert_eq!(subject.enters(&login).await, LoggedIn::Unregistered);
    let login = Login {
        most_sessions: 16,
        ..login
    };
    assert!(matches!(subject.enters(&login).await, LoggedIn::Full(_)));
}

#[tokio::test]
async fn each_restriction_lets_the_key_expire_and_not_too_early() {
    let server = Redis::without_persistence().await;
    let mut subject = Subject::on(server, StoreOptions::default()).await;
    let key = "gc:{u}:user:restrictions";
    // The server counts in seconds here.
    let (until, expires) = (When::At(4_000_000_000_001), 4_000_000_001_000);
    let id = TokenId::of("a");
    for change in [
        block(until),
        Restriction::RevokeIssuedBefore {
            before: When::At(5),
            until,
        },
        Restriction::RevokeToken { id, until },
    ] {
        subject.forbids(change.clone()).await;
        let server = subject.server();
        assert_eq!(
            server.number(&format!("PEXPIRETIME {key}")),
            expires,
            "{change:?}"
        );
        server.say(&format!("DEL {key}"));
    }
}

/// Otherwise there could be any number of fields, if something always lasts longer.
#[tokio::test]
async fn a_change_removes_what_is_over() {
    let server = Redis::without_persistence().await;
    let mut subject = Subject::on(server, StoreOptions::default()).await;
    subject.forbids(block(LATER)).await;
    for jti in ["a", "b", "c"] {
        let id = TokenId::of(jti);
        subject
            .forbids(Restriction::RevokeToken { id, until: SOON })
            .await;
    }
    subject.until_soon_is_over().await;
    subject.forbids(block(LATER)).await;
    let fields = subject.server().number("HLEN gc:{u}:user:restrictions");
    assert_eq!(fields, 1);
}

#[tokio::test]
async fn the_key_expires_with_the_last_restriction_and_is_written_when_memory_is_full() {
    let server = Redis::without_persistence().await;
    let mut subject = Subject::on(server, StoreOptions::default()).await;
    subject.server().say("CONFIG SET maxmemory 1");
    subject.forbids(block(LATER)).await;
    let id = TokenId::of("a");
    subject
        .forbids(Restriction::RevokeToken { id, until: SOON })
        .await;
    let key = "gc:{u}:user:restrictions";
    let rest = subject.server().number(&format!("PTTL {key}"));
    assert!((590_000..=601_000).contains(&rest), "{rest}");
    subject.forbids(Restriction::Unblock).await;
    let server = subject.server();
    let is_gone = async || !server.keys().contains(&key.to_owned());
    eventually("it expires", is_gone).await;
}
