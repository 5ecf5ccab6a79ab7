//! Blocked users and revoked tokens, as their clients see them.

use super::*;
use channel_store::{Restricted, Restriction, TokenId, UserId, UserRestrictions, When};

const LATER: When = When::After(Duration::from_secs(3_600));

impl Scene {
    pub(super) async fn forbid(&self, change: Restriction) {
        let user = UserId::new("u").unwrap();
        let changed = self.store.restrict(&user, &change).await;
        assert!(matches!(changed, Ok(Restricted::Yes(_))), "{changed:?}");
    }

    async fn block(&self) {
        let reason = "spam".to_owned();
        let until = When::At(4_000_000_000_000);
        self.forbid(Restriction::Block { until, reason }).await;
    }
}

pub(super) fn revoke(jti: &str) -> Restriction {
    Restriction::RevokeToken {
        id: TokenId::of(jti),
        until: LATER,
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocked_user_is_refused_with_and_without_tokens_until_the_block_ends() {
    for access in [tokens(), rules("")] {
        let mut scene = guest(&access, WireFormat::JSON).await;
        scene.block().await;
        let login = json!({"token": token("u", &json!({})), "userId": "u"});
        let told = scene.ask(1, LOGIN, &login).await;
        let expected = Refusal::blocked(4_000_000_000_000, "spam").body(Protocol::Json);
        assert_eq!(told, reply(1, &expected));
        assert_eq!(scene.logins("u").await, 0);
        // The connection stays, so that somebody else may log in.
        scene.forbid(Restriction::Unblock).await;
        let told = scene.ask(2, LOGIN, &login).await;
        assert_eq!(body_of(&told)["code"], 0, "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_is_refused_at_the_login() {
    let access = tokens();
    let mut scene = guest(&access, WireFormat::JSON).await;
    scene.forbid(revoke("a")).await;
    scene
        .forbid(Restriction::RevokeIssuedBefore {
            before: When::At((now() - 60) * 1_000),
            until: LATER,
        })
        .await;
    for (id, claims) in [
        (1, json!({"jti": "a"})),
        (2, json!({"iat": now() - 61})),
        (3, json!({"iat": null})),
    ] {
        let login = json!({"token": token("u", &claims)});
        let told = scene.ask(id, LOGIN, &login).await;
        assert_eq!(told, refused(id, Reason::TokenRevoked), "{claims}");
    }
    let login = json!({"token": token("u", &json!({"jti": "b"}))});
    assert_eq!(body_of(&scene.ask(4, LOGIN, &login).await)["code"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_is_refused_at_a_refresh_and_the_session_goes_on_with_the_one_before() {
    let access = tokens();
    let mut scene = guest(&access, WireFormat::JSON).await;
    let login = json!({"token": token("u", &json!({"jti": "first"}))});
    assert_eq!(body_of(&scene.ask(1, LOGIN, &login).await)["code"], 0);
    scene.forbid(revoke("second")).await;
    let second = json!({"token": token("u", &json!({"jti": "second"}))});
    let told = scene.ask(2, REFRESH, &second).await;
    assert_eq!(told, refused(2, Reason::TokenRevoked));
    assert_eq!(scene.socket.closing(), None);
    let third = json!({"token": token("u", &json!({"jti": "third"}))});
    assert_eq!(body_of(&scene.ask(3, REFRESH, &third).await)["code"], 0);
    scene.block().await;
    let told = scene.ask(4, REFRESH, &third).await;
    assert_eq!(body_of(&told)["reason"], "BLOCKED");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_forbidden_leaves_at_once_and_gets_no_grace() {
    for (reason, leaves_at_once) in [
        (Disconnect::CLOSED, false),
        (Disconnect::Blocked, true),
        (Disconnect::TokenRevoked, true),
    ] {
        let grace = Duration::from_secs(60);
        let mut scene = scene_with_grace(Routes::none(), rules(""), grace).await;
        let login = json!({"userId": "u", "lessonId": "room"});
        assert_eq!(body_of(&scene.joins(1, LOGIN, &login).await)["code"], 0);
        scene.socket.close(reason);
        let Scene {
            me, mut instance, ..
        } = scene;
        me.close().await;
        if leaves_at_once {
            instance.leave().await.answer(Ok(Default::default()));
        } else {
            instance.nobody_calls().await;
        }
    }
}
