//! Logins with tokens, their expiry, and the rules of channels.

mod hooked;

use super::*;
use crate::access::testing::{self, SECRET, Signer, now};
use crate::access::{Algorithm, AuthSettings, HookSettings, IssuerSettings, Mode, Rules};
use crate::testing::joining;
use channel_rules::ChannelRule;
use channel_store::FeedSink;
use serde::Deserialize;
use std::path::PathBuf;
use tempfile::TempDir;

mod restrictions;
mod store_away;

const GRACE: Duration = Duration::from_secs(25);
const LEEWAY: Duration = Duration::from_secs(30);

fn settings(mode: Mode, secret: Option<PathBuf>, rules: &str) -> AuthSettings {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        channel: Vec<ChannelRule>,
    }
    let File { channel } = toml::from_str(rules).unwrap();
    AuthSettings {
        mode,
        leeway: LEEWAY,
        expiry_grace: GRACE,
        hook: HookSettings::default(),
        issuers: vec![IssuerSettings {
            secret_file: secret,
            ..testing::settings(&[Algorithm::HS256])
        }],
        channels: channel,
    }
}

/// A connector that wants tokens which are signed with [`SECRET`].
fn tokens_and(rules: &str) -> Arc<AccessControl> {
    let directory = TempDir::new().unwrap();
    let secret = testing::file(&directory, "secret", SECRET);
    AccessControl::begin(&settings(Mode::Jwt, Some(secret), rules), 1 << 10).unwrap()
}

fn tokens() -> Arc<AccessControl> {
    tokens_and("")
}

/// A connector without tokens.
fn rules(rules: &str) -> Arc<AccessControl> {
    AccessControl::begin(&settings(Mode::Open, None, rules), 1 << 10).unwrap()
}

fn token(user: &str, more: &Value) -> String {
    Signer::secret().token(user, more)
}

/// A scene, and a client of this format that has not logged in.
async fn guest(access: &Arc<AccessControl>, format: WireFormat) -> Scene {
    let mut scene = scene_of(Routes::none(), Arc::clone(access)).await;
    (scene.socket, scene.client) = client::client(format).await;
    scene.me = Handlers::new(Arc::clone(&scene.services), Arc::clone(&scene.socket));
    scene
}

impl Scene {
    async fn ask(&mut self, id: u64, route: &str, body: &Value) -> Told {
        self.me
            .handle(request(id, route, body), Instant::now())
            .await;
        self.client.next().await
    }

    /// Lets a request of the client join a channel, whose log ends at ("a", 4).
    async fn joins(&mut self, id: u64, route: &str, body: &Value) -> Told {
        let asked = request(id, route, body);
        tokio::join!(self.me.handle(asked, Instant::now()), async {
            is_followed(&mut self.script).await;
            self.instance.join().await.answer(Ok(joined("a", 5)));
        });
        self.client.next().await
    }

    /// Does what the client's loop would do between two requests, without an answer of chat.
    async fn obeys(&mut self) {
        while let Some(command) = self.me.next_command() {
            self.me.obey(command).await;
        }
    }
}

/// The body of a reply.
fn body_of(told: &Told) -> &Value {
    match told {
        Told::Reply { body, .. } => body,
        other => panic!("{other:?}"),
    }
}

fn push(route: &str, body: &Value) -> Told {
    let (route, body) = (route.to_owned(), body.clone());
    Told::Push { route, body }
}

/// A client that has logged in with a token, in "room".
async fn with_token(access: &Arc<AccessControl>, more: &Value) -> Scene {
    let mut scene = guest(access, WireFormat::JSON).await;
    let login = json!({"token": token("u", more), "lessonId": "room"});
    let told = scene.joins(1, LOGIN, &login).await;
    assert_eq!(body_of(&told)["code"], 0, "{told:?}");
    scene
}

#[tokio::test(start_paused = true)]
async fn a_token_in_the_body_or_of_the_upgrade_lets_its_user_in() {
    let access = tokens();
    let shown = token("5", &json!({}));
    for (body, is_shown, is_number) in [
        (json!({"token": shown}), false, false),
        (json!({"token": shown, "userId": 5}), false, true),
        (json!({"token": shown, "userId": "5"}), false, false),
        (json!({}), true, false),
        // The token of the body counts.
        (json!({"token": shown}), true, false),
    ] {
        let mut scene = guest(&access, WireFormat::JSON).await;
        if is_shown {
            scene.socket.shows(shown.clone().into());
        }
        let told = scene.ask(1, LOGIN, &body).await;
        let ttl = body_of(&told)["ttl"].as_u64().unwrap();
        assert!((3_590..=3_600).contains(&ttl), "{told:?}");
        assert_eq!(scene.socket.user(), Some("5"));
        let user = &scene.me.session.as_ref().unwrap().user;
        assert_eq!(user.is_number, is_number, "{body}");
        assert_eq!(scene.socket.shown_token(), None, "it is freed at the login");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_gets_in_without_a_token_of_the_user() {
    let access = tokens();
    let good = token("ann", &json!({}));
    let old = token("ann", &json!({"exp": now() - 60}));
    for (body, reason) in [
        (json!({"userId": "ann"}), Reason::TokenInvalid),
        (
            json!({"userId": "ann", "token": null}),
            Reason::TokenInvalid,
        ),
        (json!({"userId": "ann", "token": ""}), Reason::TokenInvalid),
        (
            json!({"userId": "ann", "token": "a.b.c"}),
            Reason::TokenInvalid,
        ),
        (
            json!({"userId": "bob", "token": good}),
            Reason::TokenInvalid,
        ),
        (
            json!({"userId": "Ann", "token": good}),
            Reason::TokenInvalid,
        ),
        (json!({"userId": "ann", "token": old}), Reason::TokenExpired),
        (
            json!({"userId": "ann", "token": 7}),
            Reason::InvalidParameter,
        ),
        (
            json!({"userId": {}, "token": good}),
            Reason::InvalidParameter,
        ),
    ] {
        for format in [WireFormat::JSON, WireFormat::POMELO] {
            let mut scene = guest(&access, format).await;
            let mut body = body.clone();
            body["lessonId"] = "room".into();
            let told = scene.ask(1, LOGIN, &body).await;
            let told = body_of(&told);
            if format == WireFormat::JSON {
                assert_eq!(told["reason"], reason.name(), "{body}");
            } else if reason != Reason::InvalidParameter {
                assert_eq!(told, &json!({"code": 401}), "{body}");
            }
            assert_eq!(told["code"], reason.code(), "{body}");
            let text = told.to_string();
            assert!(
                !text.contains("signature") && !text.contains("eyJ"),
                "{text}"
            );
            assert!(!scene.me.is_logged_in());
            assert_eq!(scene.logins("ann").await, 0);
        }
    }
}

/// The secret of a place does not say who somebody is.
#[tokio::test(start_paused = true)]
async fn the_secret_of_an_earlier_login_does_not_replace_the_token() {
    let access = tokens();
    let mut scene = guest(&access, WireFormat::JSON).await;
    let login = json!({"token": token("ann", &json!({}))});
    let told = scene.ask(1, LOGIN, &login).await;
    let secret = body_of(&told)["resume"].clone();
    let (socket, told) = client::client(WireFormat::JSON).await;
    scene.me = Handlers::new(Arc::clone(&scene.services), Arc::clone(&socket));
    (scene.socket, scene.client) = (socket, told);
    let body = json!({"userId": "ann", "resume": secret});
    let told = scene.ask(2, LOGIN, &body).await;
    assert_eq!(body_of(&told)["reason"], "TOKEN_INVALID");
}

#[tokio::test(start_paused = true)]
async fn without_tokens_nothing_changes_for_clients() {
    for access in [AccessControl::open(), rules("")] {
        let mut scene = guest(&access, WireFormat::POMELO).await;
        let body = json!({"userId": "u", "lessonId": "room", "token": "whatever"});
        let told = scene.joins(1, LOGIN, &body).await;
        assert_eq!(told, reply(1, LOGGED_IN));
        let told = scene.ask(2, REFRESH, &json!({"token": "x"})).await;
        assert_eq!(body_of(&told), &json!({"code": 500}), "no such route");
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_nobody_could_tell_from_others_are_refused_in_every_mode() {
    for user in [
        " ",
        "\u{3000}\u{a0}",
        "\u{2800}",
        "a\u{200b}",
        "\u{202e}nimda",
        "a\u{feff}",
    ] {
        let mut scene = guest(&AccessControl::open(), WireFormat::POMELO).await;
        let body = json!({"userId": user, "lessonId": "room"});
        let told = scene.ask(1, LOGIN, &body).await;
        assert_eq!(
            told,
            reply(1, r#"{"code":1,"message":"参数无效"}"#),
            "{user:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_channels_of_a_token_are_joined_before_the_next_request() {
    let access = tokens_and("[[channel]]\nmatch = 'closed'\njoin = 'nobody'");
    let mut scene = guest(&access, WireFormat::JSON).await;
    let token = token("u", &json!({"channels": ["closed", "room"]}));
    let told = scene.ask(1, LOGIN, &json!({ "token": token })).await;
    assert_eq!(body_of(&told)["code"], 0);
    assert!(scene.me.is_commanded());
    let (me, script, instance) = (&mut scene.me, &mut scene.script, &mut scene.instance);
    tokio::join!(
        async {
            while let Some(command) = me.next_command() {
                me.obey(command).await;
            }
        },
        async {
            is_followed(script).await;
            let join = instance.join().await.answer(Ok(joined("a", 5)));
            assert_eq!(join.channel, "room", "nobody may join the other one");
        }
    );
    assert!(!scene.me.is_commanded());
    let position = json!({"epoch": "a", "offset": 4});
    let added = json!({"channel": "room", "position": position});
    assert_eq!(scene.client.next().await, push("onAdded", &added));
    scene.instance.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_token_expires_is_told_and_closed_after_the_grace() {
    for format in [WireFormat::JSON, WireFormat::POMELO] {
        let mut scene = guest(&tokens(), format).await;
        let login = json!({"token": token("u", &json!({"exp": now() + 60})), "lessonId": "room"});
        let told = scene.joins(1, LOGIN, &login).await;
        assert!(body_of(&told)["ttl"].as_u64() <= Some(60), "{told:?}");
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_secs(55) + LEEWAY).await;
        assert!(scene.client.has_nothing(), "its time is not over");
        let told = scene.client.next().await;
        assert_eq!(told, push("onExpired", &json!({"closesIn": 25})));
        let lasted = begun.elapsed();
        assert_eq!(scene.socket.closing(), None);
        assert_eq!(scene.socket.closed().await, Disconnect::TokenExpired);
        assert!(begun.elapsed() - lasted >= GRACE);
        scene.socket.conclude();
        match (format, scene.client.next().await) {
            (WireFormat::JSON, Told::Kick(told)) => {
                assert_eq!(told, json!({"reason": "token expired", "reconnect": false}));
                let reason = "token expired".to_owned();
                let told = scene.client.next().await;
                assert_eq!(told, Told::Close { code: 4017, reason });
            }
            (_, Told::Kick(told)) => assert_eq!(told, json!({"reason": "token expired"})),
            (_, other) => panic!("{other:?}"),
        }
    }
}

/// The clock of the issuer may be behind. The leeway counts once, however late the token is shown.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_shown_late_lasts_no_longer_than_another_one() {
    let mut scene = with_token(&tokens(), &json!({"exp": now() - 20})).await;
    let begun = Instant::now();
    let told = scene.client.next().await;
    assert_eq!(told, push("onExpired", &json!({"closesIn": 25})));
    let rest = LEEWAY - Duration::from_secs(20);
    assert!(begun.elapsed() <= rest, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_refreshes_its_token_goes_on_also_within_the_grace() {
    let access = tokens();
    let mut scene = with_token(&access, &json!({"exp": now() + 60})).await;
    tokio::time::sleep(Duration::from_secs(55) + LEEWAY).await;
    let told = scene.client.next().await;
    assert_eq!(told, push("onExpired", &json!({"closesIn": 25})));
    for (token, reason) in [
        (json!("a.b.c"), "TOKEN_INVALID"),
        (json!(token("other", &json!({}))), "TOKEN_INVALID"),
        (
            json!(token("u", &json!({"exp": now() - 60}))),
            "TOKEN_EXPIRED",
        ),
        (json!(null), "TOKEN_INVALID"),
    ] {
        let told = scene.ask(2, REFRESH, &json!({ "token": token })).await;
        assert_eq!(body_of(&told)["reason"], reason);
    }
    let newer = token("u", &json!({"exp": now() + 600}));
    let told = scene.ask(3, REFRESH, &json!({ "token": newer })).await;
    let ttl = body_of(&told)["ttl"].as_u64().unwrap();
    assert!((590..=600).contains(&ttl), "{told:?}");
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert_eq!(scene.socket.closing(), None);
    assert!(scene.client.has_nothing());
    assert_eq!(scene.socket.closed().await, Disconnect::TokenExpired);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_swaps_the_grants_and_ends_what_they_no_longer_allow() {
    let access = tokens_and(
        "[[channel]]\nmatch = 'room'\njoin = 'grant'\nsend = 'grant'\nhistory = 'grant'",
    );
    let caps = |allow: &[&str]| json!({"caps": [{"channels": ["ro*"], "allow": allow}]});
    let mut scene = with_token(&access, &caps(&["join", "send"])).await;
    let history = json!({"channel": "room"});
    let told = scene.ask(2, "chat.handler.history", &history).await;
    assert_eq!(body_of(&told)["reason"], "NOT_ALLOWED");

    // The message was sent under the old grants, so it counts.
    scene.me.handle(send(3), Instant::now()).await;
    let refresh = json!({"token": token("u", &caps(&["join", "history"]))});
    tokio::join!(
        scene
            .me
            .handle(request(4, REFRESH, &refresh), Instant::now()),
        async {
            scene.stream.next().await;
            scene.stream.sent();
        }
    );
    assert_eq!(scene.client.next().await, reply(3, SENT));
    assert_eq!(body_of(&scene.client.next().await)["code"], 0);
    scene.me.handle(send(5), Instant::now()).await;
    let told = scene.client.next().await;
    let refused = body_of(&told);
    assert_eq!(refused["reason"], "NOT_ALLOWED");
    assert!(
        refused["message"].as_str().unwrap().contains("\"send\""),
        "{refused}"
    );
    let asked = request(6, "chat.handler.history", &history);
    tokio::join!(scene.me.handle(asked, Instant::now()), async {
        let page = HistoryResponse::default();
        scene.instance.history().await.answer(Ok(page));
    });
    assert_eq!(body_of(&scene.client.next().await)["code"], 0);

    // Without the right to join, the session is out, as if a back end had removed it.
    let refresh = json!({"token": token("u", &caps(&["send"]))});
    scene
        .me
        .handle(request(7, REFRESH, &refresh), Instant::now())
        .await;
    let removed = push("onRemoved", &json!({"channel": "room"}));
    assert_eq!(scene.client.next().await, removed);
    assert_eq!(body_of(&scene.client.next().await)["code"], 0);
    let left = scene.instance.leave().await.answer(Ok(Default::default()));
    assert_eq!((&*left.channel, &*left.user), ("room", "u"));
    let told = scene
        .ask(8, "chat.handler.join", &json!({"channel": "room"}))
        .await;
    assert_eq!(body_of(&told)["reason"], "NOT_ALLOWED");
}

/// A session that has left one of them stays out.
#[tokio::test(start_paused = true)]
async fn the_channels_of_a_token_are_not_joined_at_a_refresh() {
    let mut scene = with_token(&tokens(), &json!({})).await;
    let refresh = json!({"token": token("u", &json!({"channels": ["another"]}))});
    assert_eq!(body_of(&scene.ask(2, REFRESH, &refresh).await)["code"], 0);
    assert!(scene.me.next_command().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_the_rules_forbid_is_refused_with_the_name_of_the_right() {
    let access = rules(
        "[[channel]]\nmatch = 'room'\nsend = 'nobody'\nhistory = 'nobody'\nmembers = 'nobody'\n\
         [[channel]]\nmatch = 'closed*'\njoin = 'nobody'\n\
         [[channel]]\nmatch = 'inbox:{user}'\n\
         [[channel]]\nmatch = 'inbox:*'\njoin = 'nobody'",
    );
    for format in [WireFormat::JSON, WireFormat::POMELO] {
        let mut scene = guest(&access, format).await;
        for (id, channel) in [(1, "closed"), (2, "inbox:other")] {
            let told = scene
                .ask(id, LOGIN, &json!({"userId": "u", "lessonId": channel}))
                .await;
            assert_eq!(body_of(&told)["code"], 403, "{told:?}");
        }
        assert_eq!(scene.logins("u").await, 0);
        let told = scene
            .joins(3, LOGIN, &json!({"userId": "u", "lessonId": "room"}))
            .await;
        assert_eq!(body_of(&told)["code"], 0);
        let channel = json!({"channel": "room", "body": {}});
        for (id, route, body, right) in [
            (4, "chat.handler.send", &json!({}), "send"),
            (5, "chat.handler.publish", &channel, "send"),
            (6, "chat.handler.history", &channel, "history"),
            (7, "chat.handler.members", &channel, "members"),
            (
                8,
                "chat.handler.join",
                &json!({"channel": "closed:1"}),
                "join",
            ),
        ] {
            let told = scene.ask(id, route, body).await;
            let told = body_of(&told);
            if format == WireFormat::JSON {
                assert_eq!(told["reason"], "NOT_ALLOWED", "{route}");
                assert_eq!(told["retry"], false);
                let message = told["message"].as_str().unwrap();
                assert!(message.contains(&format!("\"{right}\"")), "{message}");
            } else {
                assert_eq!(told, &json!({"code": 403}), "{route}");
            }
        }
        scene.instance.nobody_calls().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rules_that_change_end_memberships_that_they_forbid_unless_a_back_end_wants_them() {
    let access = rules("");
    let mut scene = guest(&access, WireFormat::JSON).await;
    let told = scene
        .joins(1, LOGIN, &json!({"userId": "u", "lessonId": "room"}))
        .await;
    assert_eq!(body_of(&told)["code"], 0);
    let swap = |rule: &str| {
        let rule = format!("match = 'room'\n{rule}");
        let rule: ChannelRule = toml::from_str(&rule).unwrap();
        access.swap(Rules::new(&[rule]).unwrap());
    };
    let mut changes = access.changes();
    swap("send = 'nobody'");
    changes.changed().await.unwrap();
    swap("send = 'nobody'");
    assert!(!changes.has_changed().unwrap(), "they hold already");
    scene.socket.note_out();
    assert!(scene.me.is_commanded());
    scene.obeys().await;
    scene.me.handle(send(2), Instant::now()).await;
    assert_eq!(body_of(&scene.client.next().await)["reason"], "NOT_ALLOWED");

    // A back end wants the session here, so the rules do not end the membership.
    let (answer, added) = tokio::sync::oneshot::channel();
    let asked = crate::membership::Asked {
        channel: crate::testing::channel(),
        deadline: Instant::now() + Duration::from_secs(1),
        answer,
    };
    scene
        .me
        .obey(crate::membership::SessionCommand::Join(asked))
        .await;
    assert!(added.await.unwrap().is_ok());
    swap("join = 'nobody'");
    scene.socket.note_out();
    scene.obeys().await;
    assert!(scene.client.has_nothing());
    scene.me.handle(send(3), Instant::now()).await;
    scene.stream.next().await;
    scene.stream.sent();
    assert_eq!(scene.client.next().await, reply(3, SENT));

    // Another session, which has joined by itself, is out.
    let mut other = with_token(&tokens(), &json!({})).await;
    let rule: ChannelRule = toml::from_str("match = '*'\njoin = 'nobody'").unwrap();
    other.services.access.swap(Rules::new(&[rule]).unwrap());
    other.socket.note_out();
    other.obeys().await;
    let removed = push("onRemoved", &json!({"channel": "room"}));
    assert_eq!(other.client.next().await, removed);
    other.instance.leave().await.answer(Ok(Default::default()));
}

/// What a client is told that comes back to "room" with this offset of epoch "a", where this rule holds: the reply, the pushes, and how its
/// position was moved. The log has messages up to ("a", 3), a join, and then the client's own onJoin.
async fn comes_back(recover: &str, since: u64) -> (Value, Vec<u64>, Vec<(u64, String)>) {
    comes_back_from(recover, json!({"epoch": "a", "offset": since})).await
}

/// The same, for any position.
async fn comes_back_from(recover: &str, since: Value) -> (Value, Vec<u64>, Vec<(u64, String)>) {
    let rules = rules(&format!(
        "[[channel]]\nmatch = 'room'\nrecover = '{recover}'"
    ));
    let mut scene = guest(&rules, WireFormat::JSON).await;
    let log = [
        publication("a", 2),
        publication("a", 3),
        joining("a", 4),
        joining("a", 5),
    ];
    scene.script.feed.log.lock().extend(log);
    let login = json!({"userId": "u", "lessonId": "room", "since": since});
    let told = scene.joins(1, LOGIN, &login).await;
    let reply = body_of(&told).clone();
    scene.script.publish(publication("a", 5));
    let mut offsets = Vec::new();
    while offsets.last() != Some(&5) {
        offsets.extend(scene.client.offsets(1).await);
    }
    let moved = scene.client.moved.drain(..);
    let moved = moved.map(|(_, offset, reason)| (offset, reason)).collect();
    scene.script.nobody_reads().await;
    (reply, offsets, moved)
}

#[tokio::test(start_paused = true)]
async fn a_rule_may_give_those_who_come_back_only_the_newest_message() {
    let skipped = |offset| (offset, "skipped".to_owned());
    for (since, offsets, moved, replayed) in [
        (1, vec![3, 5], vec![skipped(2), skipped(4)], 2),
        (2, vec![3, 5], vec![skipped(4)], 2),
        // It has the newest message.
        (3, vec![5], vec![skipped(4)], 1),
        // It has missed nothing.
        (4, vec![5], vec![], 1),
    ] {
        let (reply, given, told) = comes_back("last", since).await;
        assert_eq!(given, offsets, "{since}");
        assert_eq!(told, moved, "{since}");
        assert_eq!(reply["recovered"], true);
        assert_eq!(reply["recover"], "last");
        assert_eq!(reply["replayed"], replayed, "{since}");
        assert_eq!(reply["position"], json!({"epoch": "a", "offset": 5}));
    }
}

#[tokio::test(start_paused = true)]
async fn an_offset_of_another_epoch_does_not_show_that_a_client_has_the_newest_message() {
    let since = json!({"epoch": "before", "offset": 9});
    let (_, given, told) = comes_back_from("last", since).await;
    assert_eq!(given, [3, 5]);
    let skipped = |offset| (offset, "skipped".to_owned());
    assert_eq!(told, [skipped(2), skipped(4)]);
}

#[tokio::test(start_paused = true)]
async fn a_rule_may_give_those_who_come_back_nothing() {
    for (since, moved) in [(1, vec![(4, "skipped".to_owned())]), (4, vec![])] {
        let (reply, given, told) = comes_back("none", since).await;
        assert_eq!(given, [5], "{since}");
        assert_eq!(told, moved, "{since}");
        assert_eq!(reply["recovered"], false);
        assert_eq!(reply["recover"], "none");
        assert_eq!(reply["replayed"], 1);
        assert_eq!(reply["position"], json!({"epoch": "a", "offset": 5}));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_token_tells_about_its_user_goes_with_each_join_that_follows() {
    let access = tokens();
    let mut scene = guest(&access, WireFormat::JSON).await;
    let shown = token("u", &json!({"info": {"name": "安"}}));
    let mut joins = Vec::new();
    for (id, route, channel, body) in [
        (
            1,
            LOGIN,
            "room",
            json!({"token": shown, "lessonId": "room"}),
        ),
        (
            2,
            "chat.handler.join",
            "second",
            json!({"channel": "second"}),
        ),
        (4, "chat.handler.join", "third", json!({"channel": "third"})),
    ] {
        if id == 4 {
            let newer = token("u", &json!({"info": {"name": "Ann"}}));
            let told = scene.ask(3, REFRESH, &json!({ "token": newer })).await;
            assert_eq!(body_of(&told)["code"], 0);
        }
        let asked = request(id, route, &body);
        tokio::join!(scene.me.handle(asked, Instant::now()), async {
            let_run().await;
            let channel = ChannelName::new(channel).unwrap();
            scene.script.hub.subscribed(&connection(1), &channel);
            scene.script.next_read().await.answer(head(at("a", 4)));
            let join = scene.instance.join().await.answer(Ok(joined("a", 5)));
            joins.push(join.info_json);
        });
        let told = scene.client.next().await;
        assert_eq!(body_of(&told)["code"], 0, "{told:?}");
    }
    let expected = [r#"{"name":"安"}"#, r#"{"name":"安"}"#, r#"{"name":"Ann"}"#];
    assert_eq!(joins, expected);
}
