//! Tokens that are refreshed while the store does not answer.

use super::restrictions::revoke;
use super::*;
use crate::testing::users::Store;

/// A session 500 ms before it is closed because its token has expired.
async fn at_its_end(access: &Arc<AccessControl>) -> Scene {
    let mut scene = with_token(access, &json!({"exp": now() + 60})).await;
    tokio::time::sleep(Duration::from_secs(55) + LEEWAY).await;
    let expired = scene.client.next().await;
    assert_eq!(expired, push("onExpired", &json!({"closesIn": 25})));
    tokio::time::sleep(GRACE - Duration::from_millis(500)).await;
    assert_eq!(scene.socket.closing(), None);
    scene
}

/// A refresh with a token of this id. The store answers after a second.
async fn refreshes(scene: &mut Scene, jti: &str) {
    scene.users.store(Store::IsSilent);
    let newer = json!({"token": token("u", &json!({ "jti": jti }))});
    let asked = request(2, REFRESH, &newer);
    let users = Arc::clone(&scene.users);
    tokio::join!(scene.me.handle(asked, Instant::now()), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        users.store(Store::Answers);
    });
    let_run().await;
}

/// Otherwise an outage would close all sessions whose tokens expire meanwhile.
#[tokio::test(start_paused = true)]
async fn a_refresh_is_answered_in_time_and_counts() {
    for store in [Store::IsSilent, Store::IsLost] {
        let mut scene = with_token(&tokens(), &json!({"exp": now() + 60})).await;
        scene.users.store(store);
        let begun = Instant::now();
        // A token that is not valid is refused as always, without the store.
        let told = scene.ask(2, REFRESH, &json!({"token": "a.b.c"})).await;
        assert_eq!(told, refused(2, Reason::TokenInvalid));
        assert!(begun.elapsed().is_zero());
        let newer = json!({"token": token("u", &json!({"exp": now() + 600}))});
        let told = scene.ask(3, REFRESH, &newer).await;
        assert_eq!(body_of(&told)["code"], 0, "{told:?}");
        assert!(begun.elapsed() <= CALL, "{:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_secs(500)).await;
        assert_eq!(scene.socket.closing(), None);
        assert!(scene.client.has_nothing());
        // The session lasts as long as its new token, and no longer.
        assert_eq!(scene.socket.closed().await, Disconnect::TokenExpired);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_came_in_time_is_not_overtaken_by_the_end_of_the_old_token() {
    let mut scene = at_its_end(&tokens()).await;
    refreshes(&mut scene, "newer").await;
    let told = scene.client.next().await;
    assert_eq!(body_of(&told)["code"], 0, "{told:?}");
    assert_eq!(scene.socket.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_is_refused_does_not_put_off_the_end_of_the_session() {
    let mut scene = at_its_end(&tokens()).await;
    scene.forbid(revoke("revoked")).await;
    refreshes(&mut scene, "revoked").await;
    assert_eq!(scene.socket.closing(), Some(Disconnect::TokenExpired));
    scene.socket.conclude();
    let told = scene.client.next().await;
    assert_eq!(told, refused(2, Reason::TokenRevoked));
}

/// The requests of one read follow each other without a pause.
#[tokio::test(start_paused = true)]
async fn refreshes_one_after_the_other_do_not_put_off_the_end_of_the_session() {
    let mut scene = at_its_end(&tokens()).await;
    scene.forbid(revoke("revoked")).await;
    scene.users.store(Store::IsSilent);
    let token = json!({"token": token("u", &json!({"jti": "revoked"}))});
    let users = Arc::clone(&scene.users);
    let begun = Instant::now();
    tokio::join!(
        async {
            for id in 2..9 {
                scene.me.handle(request(id, REFRESH, &token), begun).await;
                scene.users.store(Store::IsSilent);
            }
        },
        async {
            while scene.socket.closing().is_none() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                users.store(Store::Answers);
            }
        }
    );
    assert_eq!(scene.socket.closing(), Some(Disconnect::TokenExpired));
}
