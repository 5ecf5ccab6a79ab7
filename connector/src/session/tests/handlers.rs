//! Requests for handlers of the operator: what a handler gets, what the client is told, and the order.

use super::*;
use crate::chat_client::CALL;
use crate::metering::HANDLER_REQUESTS;
use crate::testing::handler::Handler;
use channel_store::FeedSink;
use proto::route::v1::HandleRequest;
use wire::Disconnect;

const MOVE: &str = "game.handler.move";
const ANSWER: &str = r#"{"code":0,"at":[1,2]}"#;

/// A connector whose routes "game.*" lead to `game` and whose routes "shop.*" lead to `shop`.
async fn operated() -> (Scene, Handler, Handler) {
    let (game, game_service) = Handler::in_process();
    let (shop, shop_service) = Handler::in_process();
    let routes = Routes::in_process(&[("game.*", game_service), ("shop.*", shop_service)]);
    (scene_with(routes).await, game, shop)
}

/// The same, with a client that is logged in as "u" in "room".
async fn operated_and_logged_in() -> (Scene, Handler, Handler) {
    let (mut scene, game, shop) = operated().await;
    tokio::join!(scene.me.handle(login(1, "u"), Instant::now()), async {
        is_followed(&mut scene.script).await;
        scene.instance.join().await.answer(Ok(joined("a", 5)));
    });
    scene.client.next().await;
    (scene, game, shop)
}

/// Another client of the same connector, which is logged in without a channel.
async fn another(scene: &Scene, user: &str, format: WireFormat) -> (Handlers, client::Client) {
    let (socket, mut client) = client::client(format).await;
    let mut handlers = Handlers::new(Arc::clone(&scene.services), socket);
    let body = json!({"userId": user, "lessonId": null});
    let login = request(1, LOGIN, &body);
    handlers.handle(login, Instant::now()).await;
    client.next().await;
    (handlers, client)
}

fn move_to(id: u64) -> Request {
    request(id, MOVE, &json!({"n": id}))
}

/// The number in the body of [`move_to`].
fn number(request: &HandleRequest) -> u64 {
    let body: Value = serde_json::from_slice(&request.body_json).unwrap();
    body["n"].as_u64().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_handler_gets_the_request_as_the_client_sent_it_with_what_is_known_of_the_session() {
    let (mut scene, mut game, _shop) = operated_and_logged_in().await;
    let body = r#"{ "x":1.0, "y":"\u54c8" }"#;
    let request = Request {
        body: RequestBody::Object(body.into()),
        key: Some("mine".into()),
        ..move_to(2)
    };
    let (_, first) = tokio::join!(scene.me.handle(request, Instant::now()), async {
        game.next().await.answer(ANSWER)
    });
    assert_eq!(scene.client.next().await, reply(2, ANSWER));
    assert_eq!(first.body_json, body);
    assert_eq!((&*first.route, &*first.user), (MOVE, "u"));
    assert_eq!((&*first.connector, &*first.protocol), ("c", "json"));
    assert_eq!(first.idempotency_key, "mine");
    assert_eq!(first.channels, ["room"]);
    assert_eq!(first.session, scene.socket.session().unwrap());
    assert!(!first.user_is_number && !first.notify);

    let empty = Request {
        body: RequestBody::Empty,
        ..move_to(3)
    };
    let (_, second) = tokio::join!(scene.me.handle(empty, Instant::now()), async {
        game.next().await.answer(ANSWER)
    });
    assert_eq!(second.body_json, "{}");
    assert_eq!(second.idempotency_key, "");
    assert!(
        second.request > first.request,
        "the later one has a higher number"
    );
}

#[tokio::test(start_paused = true)]
async fn only_a_session_that_is_logged_in_reaches_a_handler() {
    let (mut scene, mut game, _shop) = operated().await;
    scene.me.handle(move_to(1), Instant::now()).await;
    assert_eq!(scene.client.next().await, refused(1, Reason::NotLoggedIn));
    let unknown = request(2, "games.handler.move", &json!({}));
    scene.me.handle(unknown, Instant::now()).await;
    assert_eq!(scene.client.next().await, refused(2, Reason::UnknownRoute));
    game.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_a_request_is_refused_without_a_call() {
    let (mut scene, mut game, _shop) = operated_and_logged_in().await;
    let key = |key: &str| Some(key.into());
    for (request, reason) in [
        (
            Request {
                body: RequestBody::Unusable,
                ..move_to(2)
            },
            Reason::InvalidBody,
        ),
        (
            Request {
                key: key(""),
                ..move_to(2)
            },
            Reason::InvalidKey,
        ),
        (request(2, "game.\u{1}", &json!({})), Reason::UnknownRoute),
        (
            request(2, &format!("game.{}", "x".repeat(124)), &json!({})),
            Reason::UnknownRoute,
        ),
    ] {
        scene.me.handle(request, Instant::now()).await;
        assert_eq!(scene.client.next().await, refused(2, reason));
    }
    game.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn handlers_sends_and_the_servers_own_routes_are_answered_in_one_order() {
    let (mut scene, mut game, mut shop) = operated_and_logged_in().await;
    let Scene {
        me, client, stream, ..
    } = &mut scene;
    me.handle(send(2), Instant::now()).await;
    let requests = async {
        me.handle(move_to(3), Instant::now()).await;
        me.handle(request(4, "shop.buy", &json!({})), Instant::now())
            .await;
        me.handle(request(5, PING, &json!({})), Instant::now())
            .await;
        me.handle(send(6), Instant::now()).await;
    };
    let script = async {
        stream.next().await;
        // Nothing is passed on before the send is answered, and nothing of the shop before the game has answered.
        game.nobody_calls().await;
        stream.sent();
        let call = game.next().await;
        shop.nobody_calls().await;
        call.answer(ANSWER);
        let call = shop.next().await;
        let_run().await;
        call.answer("{}");
        stream.take().await;
    };
    tokio::join!(requests, script);
    for (id, body) in [(2, SENT), (3, ANSWER), (4, "{}"), (5, DONE), (6, SENT)] {
        assert_eq!(client.next().await, reply(id, body));
    }
}

#[tokio::test(start_paused = true)]
async fn a_notify_reaches_its_handler_in_its_place_and_gets_no_reply() {
    let (mut scene, mut game, _shop) = operated_and_logged_in().await;
    let Scene { me, client, .. } = &mut scene;
    let notify = Request {
        id: None,
        ..move_to(2)
    };
    let requests = async {
        me.handle(notify, Instant::now()).await;
        me.handle(move_to(3), Instant::now()).await;
    };
    let script = async {
        let first = game.next().await;
        assert!(first.request.notify);
        game.nobody_calls().await;
        first.answer(ANSWER);
        assert!(!game.next().await.answer(ANSWER).notify);
    };
    tokio::join!(requests, script);
    assert_eq!(client.next().await, reply(3, ANSWER));
    assert!(client.has_nothing());
}

#[tokio::test(start_paused = true)]
async fn answers_of_two_sessions_that_come_in_reverse_go_to_the_right_clients() {
    let (mut scene, mut game, _shop) = operated_and_logged_in().await;
    let (mut other, mut told) = another(&scene, "v", WireFormat::JSON).await;
    let script = async {
        let calls = [game.next().await, game.next().await];
        for call in calls.into_iter().rev() {
            let body = format!(r#"{{"for":"{}"}}"#, call.request.user);
            call.answer(&body);
            let_run().await;
        }
    };
    tokio::join!(
        scene.me.handle(move_to(2), Instant::now()),
        other.handle(move_to(2), Instant::now()),
        script
    );
    assert_eq!(scene.client.next().await, reply(2, r#"{"for":"u"}"#));
    assert_eq!(told.next().await, reply(2, r#"{"for":"v"}"#));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_costs_its_caller_a_refusal_in_time_and_others_nothing() {
    let (mut scene, mut game, _shop) = operated_and_logged_in().await;
    let (mut other, mut told) = another(&scene, "v", WireFormat::JSON).await;
    let received = Instant::now();
    let Scene {
        me, client, stream, ..
    } = &mut scene;
    let hanging = async {
        other.handle(move_to(2), received).await;
        // The time of this one is over when its turn comes, so it is not passed on.
        other.handle(move_to(3), received).await;
    };
    let script = async {
        let mut call = game.next().await;
        me.handle(send(2), Instant::now()).await;
        stream.take().await;
        assert_eq!(client.next().await, reply(2, SENT));
        assert!(received.elapsed().is_zero(), "nobody waits for the handler");
        call.cancelled().await;
    };
    tokio::join!(hanging, script);
    assert_eq!(received.elapsed().as_millis(), CALL.as_millis());
    assert_eq!(told.next().await, refused(2, Reason::UnknownOutcome));
    assert_eq!(told.next().await, refused(3, Reason::Unavailable));
    game.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_learns_that_a_handler_has_failed_but_nothing_of_its_words() {
    let (mut scene, mut game, _shop) = operated_and_logged_in().await;
    let (socket, mut pomelo) = client::client(WireFormat::POMELO).await;
    let mut original = Handlers::new(Arc::clone(&scene.services), socket);
    let login = request(1, LOGIN, &json!({"userId": "v", "lessonId": "room"}));
    tokio::join!(original.handle(login, Instant::now()), async {
        scene.instance.join().await.answer(Ok(joined("a", 6)));
    });
    pomelo.next().await;
    let script = async {
        for _ in 0..2 {
            let secret = Status::invalid_argument("select * from secrets");
            game.next().await.respond(Err(secret));
        }
        game.next().await.answer("[1]");
        let unknown = Status::unimplemented("no such route");
        game.next().await.respond(Err(unknown));
    };
    let requests = async {
        scene.me.handle(move_to(2), Instant::now()).await;
        original.handle(move_to(3), Instant::now()).await;
        scene.me.handle(move_to(4), Instant::now()).await;
        scene.me.handle(move_to(5), Instant::now()).await;
    };
    tokio::join!(requests, script);
    assert_eq!(scene.client.next().await, refused(2, Reason::HandlerFailed));
    assert_eq!(pomelo.next().await, reply(3, r#"{"code":500}"#));
    assert_eq!(scene.client.next().await, refused(4, Reason::HandlerFailed));
    assert_eq!(scene.client.next().await, refused(5, Reason::UnknownRoute));
}

#[tokio::test(start_paused = true)]
async fn a_call_is_cancelled_when_the_connection_is_ended() {
    for reason in [Disconnect::Shutdown, Disconnect::CLOSED] {
        let (mut scene, mut game, _shop) = operated_and_logged_in().await;
        let Scene { me, socket, .. } = &mut scene;
        let begun = Instant::now();
        let script = async {
            let mut call = game.next().await;
            socket.close(reason);
            call.cancelled().await;
        };
        tokio::join!(me.handle(move_to(2), Instant::now()), script);
        me.handle(move_to(3), Instant::now()).await;
        assert!(begun.elapsed().is_zero());
        game.nobody_calls().await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_request_for_a_handler_is_counted_once_by_what_became_of_it() {
    let counters = Counters::default();
    let _recording = metrics::set_default_local_recorder(&counters);
    let (mut scene, mut game, shop) = operated_and_logged_in().await;
    drop(shop);
    let Scene { me, socket, .. } = &mut scene;
    let script = async {
        game.next().await.answer(ANSWER);
        game.next().await.answer("nonsense");
        // This one hangs.
        let hangs = game.next().await;
        let call = game.next().await;
        socket.close(Disconnect::Shutdown);
        drop((hangs, call));
    };
    let requests = async {
        for id in 2..5 {
            me.handle(move_to(id), Instant::now()).await;
        }
        // The one that hung took all of its time.
        let long_ago = Instant::now().checked_sub(CALL).unwrap();
        me.handle(move_to(5), long_ago).await;
        me.handle(move_to(6), Instant::now()).await;
    };
    tokio::join!(requests, script);
    let expected = [
        ("answered", 1),
        ("cancelled", 1),
        ("failed", 1),
        ("late", 1),
        ("unanswered", 1),
    ];
    let expected = expected.map(|(outcome, count)| (vec![outcome.to_owned()], count));
    assert_eq!(counters.series(HANDLER_REQUESTS), expected.into());
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_told_whether_the_user_is_a_number_and_all_channels_sorted() {
    let (mut scene, mut game, _shop) = operated().await;
    let (mut me, mut told) = {
        let (socket, told) = client::client(WireFormat::JSON).await;
        (Handlers::new(Arc::clone(&scene.services), socket), told)
    };
    let login = request(1, LOGIN, &json!({"userId": 5, "lessonId": "room"}));
    tokio::join!(me.handle(login, Instant::now()), async {
        is_followed(&mut scene.script).await;
        scene.instance.join().await.answer(Ok(joined("a", 5)));
    });
    told.next().await;
    let join = request(2, "chat.handler.join", &json!({"channel": "garden"}));
    tokio::join!(me.handle(join, Instant::now()), async {
        let_run().await;
        let garden = channel_store::ChannelName::new("garden").unwrap();
        scene.script.hub.subscribed(&connection(1), &garden);
        scene.script.next_read().await.answer(head(at("a", 4)));
        scene.instance.join().await.answer(Ok(joined("a", 5)));
    });
    told.next().await;
    let (_, call) = tokio::join!(me.handle(move_to(3), Instant::now()), async {
        game.next().await.answer(ANSWER)
    });
    assert_eq!((&*call.user, call.user_is_number), ("5", true));
    assert_eq!(call.channels, ["garden", "room"]);
    assert_eq!(number(&call), 3);
}
