//! The operator's hook decides: about logins, about channels, and about messages.

use super::*;
use crate::testing::hook::{Operator, TIMEOUT, asking};
use proto::access::v1::{
    AuthorizeSendResponse, Denial, Denied, Granted, LoginResponse, RefreshResponse,
    authorize_send_response, login_response, refresh_response,
};
use std::net::{IpAddr, Ipv4Addr};
use tokio::time::sleep;

const JOIN: &str = "chat.handler.join";
/// Longer than any pause between two tries to ask.
const LONG: Duration = Duration::from_secs(10);

/// A client of a connector whose hook decides about logins, and about what these rules say.
async fn asked_about_logins(rules: &str) -> (Scene, Operator) {
    let (operator, service) = Operator::in_process();
    let access = asking(service, 1_000, true, rules);
    (guest(&access, WireFormat::JSON).await, operator)
}

/// A client of a connector that lets everybody log in, and whose hook decides about what these rules say.
async fn asked_about_channels(rules: &str) -> (Scene, Operator) {
    let (operator, service) = Operator::in_process();
    let access = asking(service, 1_000, false, rules);
    (guest(&access, WireFormat::JSON).await, operator)
}

fn granted(user: &str) -> Granted {
    Granted {
        user: user.to_owned(),
        ..Granted::default()
    }
}

fn yes(granted: Granted) -> LoginResponse {
    let outcome = Some(login_response::Outcome::Granted(granted));
    LoginResponse { outcome }
}

fn no(denial: Denial) -> LoginResponse {
    let denied = Denied {
        denial: denial.into(),
        reason: "a word for the log".to_owned(),
    };
    let outcome = Some(login_response::Outcome::Denied(denied));
    LoginResponse { outcome }
}

fn refreshed(granted: Granted) -> RefreshResponse {
    let outcome = Some(refresh_response::Outcome::Granted(granted));
    RefreshResponse { outcome }
}

impl Scene {
    /// The chat lets the client into a channel, whose log ends at ("a", 4). Returns the name of the channel.
    async fn is_let_in(script: &mut Script, instance: &mut Instance) -> String {
        is_followed(script).await;
        let join = instance.join().await;
        join.answer(Ok(joined("a", 5))).channel
    }

    /// The client logs in without a channel.
    async fn logs_in(&mut self) {
        let told = self.ask(1, LOGIN, &json!({"userId": "u"})).await;
        assert_eq!(body_of(&told)["code"], 0, "{told:?}");
    }

    /// The client is in "room", which the hook has allowed for so many seconds.
    async fn is_in_room(&mut self, operator: &mut Operator, seconds: i64) {
        let login = request(1, LOGIN, &json!({"userId": "u", "lessonId": "room"}));
        tokio::join!(self.me.handle(login, Instant::now()), async {
            operator.channels().await.allow(&["room"], seconds);
            Self::is_let_in(&mut self.script, &mut self.instance).await;
        });
        let told = self.client.next().await;
        assert_eq!(body_of(&told)["code"], 0, "{told:?}");
    }

    /// The client's loop waits until there is something to do, and does it.
    async fn does_what_comes(&mut self) {
        soon(self.socket.closed_or(|| self.me.is_commanded())).await;
        self.obeys().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_hook_gets_what_the_client_has_shown_and_lets_its_user_in() {
    for (body, shown, user, is_number) in [
        (json!({"userId": "5", "token": "x"}), "x", "5", false),
        (json!({"userId": 5, "token": "x"}), "x", "5", true),
        (json!({"token": "x"}), "x", "", false),
        (json!({"userId": "5"}), "of the upgrade", "5", false),
        (json!({}), "of the upgrade", "", false),
    ] {
        let (mut scene, mut operator) = asked_about_logins("").await;
        scene.socket.shows("of the upgrade".into());
        scene.socket.comes_from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let login = request(1, LOGIN, &body);
        let (_, asked) = tokio::join!(scene.me.handle(login, Instant::now()), async {
            operator.login().await.answer(yes(granted("5")))
        });
        let told = scene.client.next().await;
        let told = body_of(&told);
        assert_eq!(told["code"], 0, "{told}");
        assert!(told.get("ttl").is_none(), "it does not expire: {told}");
        assert_eq!((&*asked.token, &*asked.user), (shown, user));
        assert_eq!(asked.user_is_number, is_number);
        assert_eq!((&*asked.address, &*asked.protocol), ("127.0.0.1", "json"));
        assert_eq!(asked.connector, "c");
        assert_eq!(scene.socket.user(), Some("5"));
        let session = scene.me.session.as_ref().unwrap();
        assert_eq!(session.user.is_number, is_number);
        assert_eq!(scene.logins("5").await, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_gets_in_without_a_yes_and_only_a_no_is_final() {
    let answers = || {
        [
            (Ok(no(Denial::Unauthenticated)), 401, "TOKEN_INVALID"),
            (Ok(no(Denial::Expired)), 401, "TOKEN_EXPIRED"),
            (Ok(no(Denial::Forbidden)), 403, "NOT_ALLOWED"),
            // The client says that it is somebody else.
            (Ok(yes(granted("bob"))), 401, "TOKEN_INVALID"),
            (Ok(yes(granted(""))), 500, "UNAVAILABLE"),
            (Ok(LoginResponse::default()), 500, "UNAVAILABLE"),
            (Err(Status::internal("bug")), 500, "UNAVAILABLE"),
            (Err(Status::unauthenticated("")), 500, "UNAVAILABLE"),
            (Err(Status::permission_denied("")), 500, "UNAVAILABLE"),
        ]
    };
    for format in [WireFormat::JSON, WireFormat::POMELO] {
        for (answer, code, reason) in answers() {
            let (mut scene, mut operator) = asked_about_logins("").await;
            (scene.socket, scene.client) = client::client(format).await;
            scene.me = Handlers::new(Arc::clone(&scene.services), Arc::clone(&scene.socket));
            let login = request(1, LOGIN, &json!({"userId": "ann", "lessonId": "room"}));
            tokio::join!(scene.me.handle(login, Instant::now()), async {
                operator.login().await.respond(answer);
            });
            let told = scene.client.next().await;
            let told = body_of(&told);
            assert_eq!(told["code"], code, "{told}");
            if format == WireFormat::JSON {
                assert_eq!(told["reason"], reason);
                assert_eq!(told["retry"], code == 500);
            } else {
                assert_eq!(told, &json!({ "code": code }));
            }
            assert!(!told.to_string().contains("for the log"), "{told}");
            assert!(!scene.me.is_logged_in());
            assert_eq!(scene.logins("ann").await, 0);
            scene.instance.nobody_calls().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_too_long_is_not_passed_on() {
    let (mut scene, mut operator) = asked_about_logins("").await;
    let long = "x".repeat(9 << 10);
    let login = json!({"userId": "u", "token": long});
    let told = scene.ask(1, LOGIN, &login).await;
    assert_eq!(body_of(&told)["reason"], "TOKEN_INVALID");
    operator.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn while_the_hook_hangs_a_login_is_told_to_try_again_and_sessions_go_on() {
    let (mut scene, mut operator) = asked_about_logins("").await;
    let login = request(1, LOGIN, &json!({"userId": "u", "lessonId": "room"}));
    tokio::join!(scene.me.handle(login, Instant::now()), async {
        operator.login().await.answer(yes(granted("u")));
        Scene::is_let_in(&mut scene.script, &mut scene.instance).await;
    });
    scene.client.next().await;
    let (socket, mut told) = client::client(WireFormat::JSON).await;
    let mut other = Handlers::new(Arc::clone(&scene.services), socket);
    let login = request(1, LOGIN, &json!({"userId": "v"}));
    let begun = Instant::now();
    let (_, _held) = tokio::join!(other.handle(login, begun), operator.login());
    assert_eq!(begun.elapsed().as_millis(), TIMEOUT.as_millis());
    assert_eq!(told.next().await, refused(1, Reason::Unavailable));
    scene.me.handle(send(2), Instant::now()).await;
    scene.stream.take().await;
    assert_eq!(scene.client.next().await, reply(2, SENT));
    assert_eq!(scene.socket.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn a_session_lasts_as_long_as_the_hook_says_and_goes_on_after_a_refresh() {
    let (mut scene, mut operator) = asked_about_logins("").await;
    let ttl = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let short = Granted {
        ttl: ttl(30),
        ..granted("u")
    };
    let login = request(1, LOGIN, &json!({"userId": "u"}));
    tokio::join!(scene.me.handle(login, Instant::now()), async {
        operator.login().await.answer(yes(short));
    });
    let told = scene.client.next().await;
    assert!(body_of(&told)["ttl"].as_u64() >= Some(28), "{told:?}");
    let told = scene.client.next().await;
    assert_eq!(told, push("onExpired", &json!({"closesIn": 25})));

    // Another user, a no, and no answer: the session goes on as before.
    let denied = RefreshResponse {
        outcome: Some(refresh_response::Outcome::Denied(Denied::default())),
    };
    for (answer, reason) in [
        (Ok(refreshed(granted("other"))), "TOKEN_INVALID"),
        (Ok(denied), "TOKEN_INVALID"),
        (Err(Status::internal("")), "UNAVAILABLE"),
    ] {
        let refresh = request(2, REFRESH, &json!({"token": "y"}));
        tokio::join!(scene.me.handle(refresh, Instant::now()), async {
            operator.refresh().await.respond(answer);
        });
        let told = scene.client.next().await;
        assert_eq!(body_of(&told)["reason"], reason, "{told:?}");
        assert_eq!(scene.socket.closing(), None);
    }
    let refresh = request(3, REFRESH, &json!({"token": "z"}));
    let (_, asked) = tokio::join!(scene.me.handle(refresh, Instant::now()), async {
        operator.refresh().await.answer(refreshed(granted("u")))
    });
    assert_eq!(scene.client.next().await, reply(3, DONE));
    assert_eq!((&*asked.token, &*asked.user), ("z", "u"));
    assert_eq!(asked.session, scene.socket.session().unwrap());
    sleep(Duration::from_secs(1_000)).await;
    assert_eq!(scene.socket.closing(), None);
    assert!(scene.client.has_nothing());
}

#[tokio::test(start_paused = true)]
async fn all_channels_of_a_login_are_asked_about_in_one_call() {
    for has_lesson in [true, false] {
        let (mut scene, mut operator) =
            asked_about_logins("[[channel]]\nmatch = '*'\njoin = 'hook'").await;
        let mut names: Vec<_> = (0..39).map(|it| format!("c{it}")).collect();
        let mut body = json!({"userId": "u"});
        if has_lesson {
            body["lessonId"] = "room".into();
        } else {
            names.push("room".to_owned());
        }
        let answer = Granted {
            channels: names,
            ..granted("u")
        };
        let login = request(1, LOGIN, &body);
        let Scene {
            me,
            script,
            instance,
            ..
        } = &mut scene;
        let (_, asked) = tokio::join!(
            async {
                me.handle(login, Instant::now()).await;
                while let Some(command) = me.next_command() {
                    me.obey(command).await;
                }
            },
            async {
                operator.login().await.answer(yes(answer));
                let asked = operator.channels().await.allow(&["room"], 600);
                assert_eq!(Scene::is_let_in(script, instance).await, "room");
                asked
            }
        );
        assert_eq!(asked.channels.len(), 40);
        assert_eq!(asked.user, "u");
        assert_eq!(asked.session, scene.socket.session().unwrap());
        assert_eq!(body_of(&scene.client.next().await)["code"], 0);
        operator.nobody_calls().await;
        scene.instance.nobody_calls().await;
    }
}

#[tokio::test(start_paused = true)]
async fn if_nobody_can_be_asked_about_its_channel_a_login_may_be_tried_again() {
    let rules = "[[channel]]\nmatch = 'closed'\njoin = 'hook'";
    let (mut scene, mut operator) = asked_about_channels(rules).await;
    for (id, answer, reason) in [
        (1, Err(Status::internal("")), "UNAVAILABLE"),
        (2, Ok(Default::default()), "NOT_ALLOWED"),
    ] {
        let login = request(id, LOGIN, &json!({"userId": "u", "lessonId": "closed"}));
        tokio::join!(scene.me.handle(login, Instant::now()), async {
            operator.channels().await.respond(answer);
        });
        let told = scene.client.next().await;
        assert_eq!(body_of(&told)["reason"], reason, "{told:?}");
        assert_eq!(scene.logins("u").await, 0);
    }
    scene.instance.nobody_calls().await;
    // A channel whose rule does not say so needs no hook.
    let login = json!({"userId": "u", "lessonId": "room"});
    let told = scene.joins(3, LOGIN, &login).await;
    assert_eq!(body_of(&told)["code"], 0);
    operator.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn a_no_is_remembered_for_its_time_and_a_failure_is_not() {
    let rules = "[[channel]]\nmatch = 'r*'\njoin = 'hook'";
    let (mut scene, mut operator) = asked_about_channels(rules).await;
    scene.logs_in().await;
    let join = |id| request(id, JOIN, &json!({"channel": "room"}));
    tokio::join!(scene.me.handle(join(2), Instant::now()), async {
        let failure = Err(Status::internal(""));
        operator.channels().await.respond(failure);
    });
    assert_eq!(scene.client.next().await, refused(2, Reason::Unavailable));
    tokio::join!(scene.me.handle(join(3), Instant::now()), async {
        operator.channels().await.allow(&[], 60);
    });
    let told = scene.client.next().await;
    assert_eq!(body_of(&told)["reason"], "NOT_ALLOWED");
    sleep(Duration::from_secs(50)).await;
    for id in 4..10 {
        let told = scene.ask(id, JOIN, &json!({"channel": "room"})).await;
        assert_eq!(body_of(&told)["reason"], "NOT_ALLOWED");
    }
    operator.nobody_calls().await;
    sleep(LONG).await;
    tokio::join!(scene.me.handle(join(10), Instant::now()), async {
        operator.channels().await.allow(&["room"], 60);
        Scene::is_let_in(&mut scene.script, &mut scene.instance).await;
    });
    assert_eq!(scene.client.next().await, reply(10, DONE));
}

#[tokio::test(start_paused = true)]
async fn after_a_refresh_what_was_decided_about_channels_is_still_kept_up_to_date() {
    let (mut scene, mut operator) =
        asked_about_logins("[[channel]]\nmatch = '*'\njoin = 'hook'").await;
    let login = request(1, LOGIN, &json!({"userId": "u", "lessonId": "room"}));
    tokio::join!(scene.me.handle(login, Instant::now()), async {
        operator.login().await.answer(yes(granted("u")));
        operator.channels().await.allow(&["room"], 60);
        Scene::is_let_in(&mut scene.script, &mut scene.instance).await;
    });
    scene.client.next().await;
    let refresh = request(2, REFRESH, &json!({"token": "y"}));
    tokio::join!(scene.me.handle(refresh, Instant::now()), async {
        operator.refresh().await.answer(refreshed(granted("u")));
    });
    assert_eq!(scene.client.next().await, reply(2, DONE));
    sleep(Duration::from_secs(30)).await;
    operator.nobody_calls().await;
    operator.channels().await.allow(&[], 60);
    scene.does_what_comes().await;
    let removed = push("onRemoved", &json!({"channel": "room"}));
    assert_eq!(scene.client.next().await, removed);
    scene.instance.leave().await.answer(Ok(Default::default()));
}

/// However many channels a client tries, the connector remembers few decisions.
#[tokio::test(start_paused = true)]
async fn decisions_about_channels_that_a_session_is_not_in_are_bounded() {
    let rules = "[[channel]]\nmatch = '*'\njoin = 'hook'";
    let (mut scene, mut operator) = asked_about_channels(rules).await;
    scene.is_in_room(&mut operator, 86_400).await;
    for id in 1..1_000 {
        let join = request(id % 100, JOIN, &json!({ "channel": id }));
        tokio::join!(scene.me.handle(join, Instant::now()), async {
            operator.channels().await.allow(&[], 86_400);
        });
        scene.client.next().await;
    }
    let session = scene.me.session.as_ref().unwrap();
    let decisions = session.decisions().unwrap();
    assert!(decisions.len() <= 201, "{}", decisions.len());
    let allowed = decisions.allowed(&crate::testing::channel(), Rights::NONE);
    assert_ne!(
        allowed,
        Rights::NONE,
        "the channel that it is in is remembered"
    );
}

#[tokio::test(start_paused = true)]
async fn a_decision_is_asked_for_again_when_its_time_is_over_and_a_no_ends_the_membership() {
    let rules = "[[channel]]\nmatch = '*'\njoin = 'hook'";
    let (mut scene, mut operator) = asked_about_channels(rules).await;
    scene.is_in_room(&mut operator, 60).await;
    operator.nobody_calls().await;
    for _ in 0..3 {
        let begun = Instant::now();
        let again = operator.channels().await;
        let waited = begun.elapsed();
        assert!(
            (Duration::from_secs(53)..=Duration::from_secs(60)).contains(&waited),
            "{waited:?}"
        );
        let asked = again.allow(&["room"], 60);
        assert_eq!(asked.channels.len(), 1);
        let_run().await;
        assert!(!scene.me.is_commanded(), "nothing has changed");
    }
    let again = operator.channels().await;
    let revoked = Instant::now();
    again.allow(&[], 60);
    scene.does_what_comes().await;
    assert!(revoked.elapsed() < Duration::from_secs(1));
    let removed = push("onRemoved", &json!({"channel": "room"}));
    assert_eq!(scene.client.next().await, removed);
    let left = scene.instance.leave().await.answer(Ok(Default::default()));
    assert_eq!((&*left.channel, &*left.user), ("room", "u"));
    // The no is remembered for its time, and nobody asks about a channel in which the session is not.
    let told = scene.ask(2, JOIN, &json!({"channel": "room"})).await;
    assert_eq!(body_of(&told)["reason"], "NOT_ALLOWED");
    sleep(Duration::from_secs(600)).await;
    operator.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn while_the_hook_is_away_a_member_stays_and_its_requests_do_not_wait() {
    let rules = "[[channel]]\nmatch = '*'\njoin = 'hook'";
    let (mut scene, mut operator) = asked_about_channels(rules).await;
    scene.is_in_room(&mut operator, 10).await;
    let mut calls = 0;
    for id in 2..12 {
        let hanging = operator.channels().await;
        calls += 1;
        let begun = Instant::now();
        scene.me.handle(send(id), begun).await;
        scene.stream.take().await;
        assert_eq!(scene.client.next().await, reply(id, SENT));
        let told = scene.ask(id, PING, &json!({})).await;
        assert_eq!(told, reply(id, DONE));
        assert!(begun.elapsed().is_zero(), "nothing waits for the hook");
        if id % 2 == 0 {
            hanging.respond(Err(Status::unavailable("restarting")));
            // It is asked once more at once.
            operator.channels().await.respond(Err(Status::internal("")));
        } else {
            sleep(TIMEOUT).await;
        }
        assert!(!scene.me.is_commanded());
    }
    assert_eq!(calls, 10, "it is asked again and again");
    let back = Instant::now();
    operator.channels().await.allow(&[], 10);
    assert!(back.elapsed() < LONG);
    scene.does_what_comes().await;
    let removed = push("onRemoved", &json!({"channel": "room"}));
    assert_eq!(scene.client.next().await, removed);
    scene.instance.leave().await.answer(Ok(Default::default()));
}

#[tokio::test(start_paused = true)]
async fn rules_that_begin_to_say_hook_end_no_membership_before_the_hook_has_said_no() {
    let (mut scene, mut operator) = asked_about_channels("").await;
    let login = json!({"userId": "u", "lessonId": "room"});
    let told = scene.joins(1, LOGIN, &login).await;
    assert_eq!(body_of(&told)["code"], 0);
    let rules = crate::testing::hook::rules("[[channel]]\nmatch = '*'\njoin = 'hook'");
    scene.services.access.swap(rules);
    scene.socket.note_out();
    scene.obeys().await;
    let asked = operator.channels().await;
    sleep(TIMEOUT / 2).await;
    scene.me.handle(send(2), Instant::now()).await;
    scene.stream.take().await;
    assert_eq!(scene.client.next().await, reply(2, SENT), "it is still in");
    asked.allow(&[], 60);
    scene.does_what_comes().await;
    let removed = push("onRemoved", &json!({"channel": "room"}));
    assert_eq!(scene.client.next().await, removed);
    scene.instance.leave().await.answer(Ok(Default::default()));
}

#[tokio::test(start_paused = true)]
async fn rules_that_leave_more_to_the_hook_let_it_be_asked_at_once() {
    let rules = "[[channel]]\nmatch = '*'\njoin = 'hook'";
    let (mut scene, mut operator) = asked_about_channels(rules).await;
    scene.is_in_room(&mut operator, 600).await;
    let join = |id| request(id, JOIN, &json!({"channel": "other"}));
    tokio::join!(scene.me.handle(join(2), Instant::now()), async {
        let asked = operator.channels().await.allow(&[], 600);
        assert_eq!(asked.channels[0].rights, [1]);
    });
    scene.client.next().await;
    let more = format!("{rules}\nhistory = 'hook'");
    let access = Arc::clone(&scene.services.access);
    access.swap(crate::testing::hook::rules(&more));
    scene.socket.note_out();
    scene.obeys().await;
    let asked = operator.channels().await;
    assert_eq!(asked.request.channels[0].rights, [1, 3]);
    // What it had it keeps, until the hook has said something else.
    let read = request(2, "chat.handler.history", &json!({}));
    tokio::join!(scene.me.handle(read, Instant::now()), async {
        let page = HistoryResponse::default();
        scene.instance.history().await.answer(Ok(page));
    });
    assert_eq!(body_of(&scene.client.next().await)["code"], 0);
    asked.allow(&["room"], 600);
    scene.does_what_comes().await;
    // What is known about another channel does not say enough any more.
    tokio::join!(scene.me.handle(join(3), Instant::now()), async {
        let asked = operator.channels().await.allow(&[], 600);
        assert_eq!(asked.channels[0].rights, [1, 3]);
    });
    scene.client.next().await;
    access.swap(crate::testing::hook::rules(rules));
    scene.socket.note_out();
    scene.obeys().await;
    operator.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_hook_decides_about_reading_is_asked_when_it_is_needed() {
    let rules = "[[channel]]\nmatch = 'room'\nhistory = 'hook'\nmembers = 'hook'";
    let (mut scene, mut operator) = asked_about_channels(rules).await;
    let login = json!({"userId": "u", "lessonId": "room"});
    let told = scene.joins(1, LOGIN, &login).await;
    assert_eq!(body_of(&told)["code"], 0, "joining needs no hook");
    // It is asked beside the client, too. That call hangs.
    let _hanging = operator.channels().await;
    let read = request(2, "chat.handler.history", &json!({}));
    tokio::join!(scene.me.handle(read, Instant::now()), async {
        let asked = operator.channels().await.allow(&["room"], 60);
        assert_eq!(asked.channels[0].rights, [3, 4]);
        let page = HistoryResponse::default();
        scene.instance.history().await.answer(Ok(page));
    });
    assert_eq!(body_of(&scene.client.next().await)["code"], 0);
    let read = request(3, "chat.handler.members", &json!({}));
    tokio::join!(scene.me.handle(read, Instant::now()), async {
        let page = ListMembersResponse::default();
        scene.instance.members().await.answer(Ok(page));
    });
    assert_eq!(body_of(&scene.client.next().await)["code"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_a_back_end_has_added_stays_whatever_the_hook_says() {
    let rules = "[[channel]]\nmatch = '*'\njoin = 'hook'\nhistory = 'hook'";
    let (mut scene, mut operator) = asked_about_channels(rules).await;
    scene.logs_in().await;
    let (answer, added) = tokio::sync::oneshot::channel();
    let asked = crate::membership::Asked {
        channel: crate::testing::channel(),
        deadline: Instant::now() + Duration::from_secs(1),
        answer,
    };
    let command = crate::membership::SessionCommand::Join(asked);
    tokio::join!(scene.me.obey(command), async {
        Scene::is_let_in(&mut scene.script, &mut scene.instance).await;
    });
    assert!(added.await.unwrap().is_ok());
    scene.client.next().await;
    operator.channels().await.allow(&[], 600);
    let_run().await;
    scene.obeys().await;
    assert!(scene.client.has_nothing());
    let publish = json!({"channel": "room", "body": {}});
    let publish = request(2, "chat.handler.publish", &publish);
    scene.me.handle(publish, Instant::now()).await;
    scene.stream.take().await;
    assert_eq!(scene.client.next().await, reply(2, SENT));
    let read = json!({"channel": "room"});
    let told = scene.ask(3, "chat.handler.history", &read).await;
    assert_eq!(body_of(&told)["reason"], "NOT_ALLOWED");
}

/// A client in "room", about whose messages the hook is asked.
async fn speaker() -> (Scene, Operator) {
    let rules = "[[channel]]\nmatch = 'room'\nsend = 'hook'";
    let (mut scene, operator) = asked_about_channels(rules).await;
    let login = json!({"userId": 5, "lessonId": "room"});
    let told = scene.joins(1, LOGIN, &login).await;
    assert_eq!(body_of(&told)["code"], 0);
    (scene, operator)
}

fn allowed(changed: Option<&str>) -> AuthorizeSendResponse {
    let json = |text: &str| authorize_send_response::Content::BodyJson(text.into());
    AuthorizeSendResponse {
        allowed: true,
        content: changed.map(json),
    }
}

#[tokio::test(start_paused = true)]
async fn the_hook_sees_each_message_and_may_change_or_refuse_it() {
    let (mut scene, mut operator) = speaker().await;
    let body = r#"{ "n":1.0 }"#;
    let message = Request {
        body: RequestBody::Object(body.into()),
        key: Some("mine".into()),
        ..send(2)
    };
    let (_, asked) = tokio::join!(scene.me.handle(message, Instant::now()), async {
        operator.send().await.answer(allowed(None))
    });
    assert_eq!(asked.body_json, body);
    assert_eq!((&*asked.channel, &*asked.user), ("room", "5"));
    assert!(asked.user_is_number && !asked.ephemeral);
    assert_eq!(asked.idempotency_key, "mine");
    assert_eq!(asked.session, scene.socket.session().unwrap());
    let sent = scene.stream.frame().await.unwrap().remove(0);
    assert_eq!(
        (&*sent.body_json, &*sent.idempotency_key),
        (body.as_bytes(), "mine")
    );
    scene.stream.sent();
    assert_eq!(scene.client.next().await, reply(2, SENT));

    let publish = json!({"channel": "room", "body": {"n": 2}, "ephemeral": true});
    let publish = request(3, "chat.handler.publish", &publish);
    let (_, asked) = tokio::join!(scene.me.handle(publish, Instant::now()), async {
        operator
            .send()
            .await
            .answer(allowed(Some(r#"{"n":"changed"}"#)))
    });
    assert_eq!(
        (&*asked.body_json, asked.ephemeral),
        (&br#"{"n":2}"#[..], true)
    );
    let sent = scene.stream.frame().await.unwrap().remove(0);
    assert_eq!(
        (&*sent.body_json, sent.ephemeral),
        (&br#"{"n":"changed"}"#[..], true)
    );
    scene.stream.sent();
    assert_eq!(scene.client.next().await, reply(3, SENT));

    for (id, answer, reason) in [
        (4, Ok(AuthorizeSendResponse::default()), "NOT_ALLOWED"),
        (5, Ok(allowed(Some("no object"))), "UNAVAILABLE"),
        (6, Err(Status::permission_denied("")), "UNAVAILABLE"),
    ] {
        tokio::join!(scene.me.handle(send(id), Instant::now()), async {
            operator.send().await.respond(answer);
        });
        let told = scene.client.next().await;
        assert_eq!(body_of(&told)["reason"], reason);
    }
    scene.instance.nobody_calls().await;
    // The next message of chat's stream is the next that is allowed.
    tokio::join!(scene.me.handle(send(7), Instant::now()), async {
        operator.send().await.answer(allowed(None));
    });
    let sent = scene.stream.frame().await.unwrap().remove(0);
    assert_eq!(sent.body_json, r#"{"n":7}"#);
    scene.stream.sent();
    assert_eq!(scene.client.next().await, reply(7, SENT));
}

#[tokio::test(start_paused = true)]
async fn messages_keep_their_order_and_a_hook_that_hangs_costs_only_its_callers() {
    let (mut scene, mut operator) = speaker().await;
    // Another session of the connector, in another channel, is not asked about.
    let (socket, mut told) = client::client(WireFormat::JSON).await;
    let mut other = Handlers::new(Arc::clone(&scene.services), socket);
    let login = request(1, LOGIN, &json!({"userId": "v"}));
    other.handle(login, Instant::now()).await;
    told.next().await;

    let Scene {
        me,
        client,
        stream,
        instance,
        ..
    } = &mut scene;
    let begun = Instant::now();
    let speaking = async {
        for id in 2..5 {
            me.handle(send(id), Instant::now()).await;
        }
    };
    let hook = async {
        for id in 2..5 {
            let call = operator.send().await;
            operator.nobody_calls().await;
            let body: Value = serde_json::from_slice(&call.request.body_json).unwrap();
            assert_eq!(body["n"], id);
            sleep(TIMEOUT / 4).await;
            call.answer(allowed(None));
        }
        let_run().await;
        let begun = Instant::now();
        let ping = request(2, PING, &json!({}));
        other.handle(ping, begun).await;
        assert_eq!(told.next().await, reply(2, DONE));
        assert!(begun.elapsed().is_zero());
    };
    tokio::join!(speaking, hook, async {
        for id in 2..5 {
            let sent = stream.frame().await.unwrap().remove(0);
            assert_eq!(sent.body_json, json!({ "n": id }).to_string());
            stream.sent();
        }
    });
    for id in 2..5 {
        assert_eq!(client.next().await, reply(id, SENT));
    }
    assert!(
        begun.elapsed() < TIMEOUT,
        "no message waited for its time to be over"
    );
    // One that the hook never answers is refused when its time is over, and the next one is asked about.
    let begun = Instant::now();
    let (_, _hanging) = tokio::join!(me.handle(send(5), begun), operator.send());
    assert_eq!(begun.elapsed().as_millis(), TIMEOUT.as_millis());
    assert_eq!(client.next().await, refused(5, Reason::Unavailable));
    // The client's own leave does not ask anybody.
    let leave = request(6, "chat.handler.leave", &json!({"channel": "room"}));
    tokio::join!(me.handle(leave, Instant::now()), async {
        instance.leave().await.answer(Ok(Default::default()));
    });
    assert_eq!(client.next().await, reply(6, DONE));
    operator.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_leaves_at_once_although_the_hook_hangs() {
    let (mut scene, mut operator) = speaker().await;
    let begun = Instant::now();
    let (_, mut call) = tokio::join!(scene.me.handle(send(2), begun), async {
        let call = operator.send().await;
        scene.socket.close(Disconnect::Shutdown);
        call
    });
    call.cancelled().await;
    scene.me.close().await;
    scene.instance.leave().await.answer(Ok(Default::default()));
    assert!(begun.elapsed().is_zero());
}

/// A thousand sessions whose decisions are old do not keep those waiting who log in.
#[tokio::test(start_paused = true)]
async fn decisions_that_are_asked_for_again_leave_room_for_logins() {
    let (mut operator, service) = Operator::in_process();
    let access = asking(service, 2, false, "[[channel]]\nmatch = '*'\njoin = 'hook'");
    let mut scene = guest(&access, WireFormat::JSON).await;
    scene.is_in_room(&mut operator, 1).await;
    let (socket, mut told) = client::client(WireFormat::JSON).await;
    let mut other = Handlers::new(Arc::clone(&scene.services), socket);
    let login = request(1, LOGIN, &json!({"userId": "v", "lessonId": "room"}));
    tokio::join!(other.handle(login, Instant::now()), async {
        let call = operator.channels().await;
        assert_eq!(call.request.user, "v");
        call.allow(&["room"], 1);
        scene.instance.join().await.answer(Ok(joined("a", 6)));
    });
    assert_eq!(body_of(&told.next().await)["code"], 0);
    // Both are to be asked about again, and one of the calls hangs.
    let _hanging = operator.channels().await;
    sleep(TIMEOUT / 2).await;
    operator.nobody_calls().await;
    let (socket, mut told) = client::client(WireFormat::JSON).await;
    let mut third = Handlers::new(Arc::clone(&scene.services), socket);
    let login = request(1, LOGIN, &json!({"userId": "w", "lessonId": "room"}));
    tokio::join!(third.handle(login, Instant::now()), async {
        let call = operator.channels().await;
        assert_eq!(call.request.user, "w");
        call.allow(&["room"], 60);
        scene.instance.join().await.answer(Ok(joined("a", 7)));
    });
    assert_eq!(body_of(&told.next().await)["code"], 0);
}
