//! What a session does because a back end wants it.

use super::*;
use crate::membership::{Asked, SessionCommand};
use crate::testing::{channel, deletion};
use channel_store::Position;
use tokio::sync::oneshot;

const TIME: Duration = Duration::from_millis(650);

type Answer<T> = oneshot::Receiver<Result<T, Reason>>;

fn asked<T>(command: impl FnOnce(Asked<T>) -> SessionCommand) -> (SessionCommand, Answer<T>) {
    let (answer, answered) = oneshot::channel();
    let asked = Asked {
        channel: channel(),
        deadline: Instant::now() + TIME,
        answer,
    };
    (command(asked), answered)
}

fn added(body: &Value) -> Told {
    let (route, body) = ("onAdded".to_owned(), body.clone());
    Told::Push { route, body }
}

fn at_json(epoch: &str, offset: u64) -> Value {
    json!({"epoch": epoch, "offset": offset})
}

fn removed() -> Told {
    let (route, body) = ("onRemoved".to_owned(), json!({"channel": "room"}));
    Told::Push { route, body }
}

/// A client that has logged in as "u" without a channel.
async fn guest(format: WireFormat, more: &Value) -> Scene {
    let mut scene = scene().await;
    (scene.socket, scene.client) = client::client(format).await;
    scene.me = Handlers::new(Arc::clone(&scene.services), Arc::clone(&scene.socket));
    let mut body = json!({"userId": "u", "lessonId": null});
    if format != WireFormat::JSON {
        // Clients of the original join at their login.
        body["lessonId"] = "room".into();
    }
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    let login = request(1, LOGIN, &body);
    if format == WireFormat::JSON {
        scene.me.handle(login, Instant::now()).await;
    } else {
        tokio::join!(scene.me.handle(login, Instant::now()), async {
            is_followed(&mut scene.script).await;
            scene.instance.join().await.answer(Ok(joined("a", 5)));
        });
        let left = scene.instance_leaves().await;
        assert_eq!(left, Ok(true));
    }
    let told = scene.client.next().await;
    assert!(matches!(told, Told::Reply { id: 1, .. }), "{told:?}");
    scene
}

impl Scene {
    /// Removes the session from the channel, and chat answers the leave.
    async fn instance_leaves(&mut self) -> Result<bool, Reason> {
        let (command, answer) = asked(SessionCommand::Leave);
        tokio::join!(self.me.obey(command), async {
            self.instance.leave().await.answer(Ok(Default::default()));
        });
        answer.await.unwrap()
    }

    /// Removes the session and adds it again. It begins where the log ends, and is told so.
    async fn is_added_anew(&mut self) {
        assert_eq!(self.instance_leaves().await, Ok(true));
        assert_eq!(self.client.next().await, removed());
        assert_eq!(self.is_added().await, Ok(at("a", 4)));
        let told = json!({"channel": "room", "position": at_json("a", 4)});
        assert_eq!(self.client.next().await, added(&told));
    }

    /// Adds the session to the channel, whose log ends at ("a", 4).
    async fn is_added(&mut self) -> Result<Position, Reason> {
        let (command, answer) = asked(SessionCommand::Join);
        tokio::join!(self.me.obey(command), async {
            is_followed(&mut self.script).await;
            self.instance.join().await.answer(Ok(joined("a", 5)));
        });
        answer.await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn an_added_client_is_told_where_its_pushes_begin_before_the_first_of_them() {
    let mut scene = guest(WireFormat::JSON, &json!({})).await;
    assert_eq!(scene.is_added().await, Ok(at("a", 4)));
    scene.script.publish(publication("a", 5));
    let position = json!({"epoch": "a", "offset": 4});
    let told = json!({"channel": "room", "position": position});
    assert_eq!(scene.client.next().await, added(&told));
    assert_eq!(scene.client.offsets(1).await, [5]);

    // It is a member already. Nothing is done, and nobody is told.
    let (command, answer) = asked(SessionCommand::Join);
    scene.me.obey(command).await;
    assert_eq!(answer.await.unwrap(), Ok(at("a", 5)));
    let join = request(2, "chat.handler.join", &json!({"channel": "room"}));
    scene.me.handle(join, Instant::now()).await;
    assert_eq!(scene.client.next().await, refused(2, Reason::AlreadyJoined));
    scene.instance.nobody_calls().await;

    // It leaves as every other member when its client is gone.
    scene.me.close().await;
    let leave = scene.instance.leave().await.answer(Ok(Default::default()));
    assert_eq!((&*leave.channel, &*leave.user), ("room", "u"));
}

#[tokio::test(start_paused = true)]
async fn an_added_client_of_the_original_is_told_no_position_unless_it_has_asked_for_them() {
    let position = json!({"epoch": "a", "offset": 4});
    for (more, told) in [
        (json!({}), json!({"channel": "room"})),
        (
            json!({"positions": true}),
            json!({"channel": "room", "position": position}),
        ),
    ] {
        let mut scene = guest(WireFormat::POMELO, &more).await;
        assert_eq!(scene.client.next().await, removed());
        assert_eq!(scene.is_added().await, Ok(at("a", 4)));
        assert_eq!(scene.client.next().await, added(&told));
        scene.script.publish(publication("a", 5));
        let Told::Push { body, .. } = scene.client.next().await else {
            panic!("no push");
        };
        assert_eq!(body["offset"] == 5, more["positions"] == true, "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_added_gets_what_it_missed_if_it_has_said_at_its_login_where_it_was() {
    let positions = json!({"room": at_json("a", 2), "other": at_json("a", 1)});
    let mut scene = guest(WireFormat::JSON, &json!({ "positions": positions })).await;
    let (command, answer) = asked(SessionCommand::Join);
    tokio::join!(scene.me.obey(command), async {
        is_followed(&mut scene.script).await;
        scene.instance.join().await.answer(Ok(joined("a", 5)));
        let resumed = scene.script.read_from(at("a", 2)).await;
        resumed.answer(page(at("a", 2), vec![], 5));
    });
    assert_eq!(answer.await.unwrap(), Ok(at("a", 2)));
    scene.script.publish(publication("a", 5));
    let read = scene.script.read_from(at("a", 2)).await;
    let missed = vec![publication("a", 3), publication("a", 4)];
    read.answer(page(at("a", 2), missed, 4));
    let told = json!({
        "channel": "room",
        "position": at_json("a", 5),
        "recovered": true,
        "replayed": 3,
    });
    assert_eq!(scene.client.next().await, added(&told));
    assert_eq!(scene.client.offsets(3).await, [3, 4, 5]);

    // It counts once.
    scene.is_added_anew().await;
}

#[tokio::test(start_paused = true)]
async fn where_a_client_was_at_its_login_does_not_count_after_its_own_join() {
    let positions = json!({"room": at_json("a", 2)});
    let mut scene = guest(WireFormat::JSON, &json!({ "positions": positions })).await;
    let join = request(2, "chat.handler.join", &json!({"channel": "room"}));
    tokio::join!(scene.me.handle(join, Instant::now()), async {
        is_followed(&mut scene.script).await;
        scene.instance.join().await.answer(Ok(joined("a", 5)));
    });
    assert_eq!(scene.client.next().await, reply(2, r#"{"code":0}"#));
    scene.is_added_anew().await;
}

#[tokio::test(start_paused = true)]
async fn a_removed_client_is_told_after_its_leave_has_landed_and_nothing_more_comes() {
    let mut scene = logged_in().await;
    let (command, answer) = asked(SessionCommand::Leave);
    tokio::join!(scene.me.obey(command), async {
        let leave = scene.instance.leave().await;
        let_run().await;
        assert!(scene.client.has_nothing(), "the leave has not landed");
        leave.answer(Ok(Default::default()));
    });
    assert_eq!(answer.await.unwrap(), Ok(true));
    scene.script.publish(publication("a", 6));
    assert_eq!(scene.client.next().await, removed());

    // It is no member any more. Nothing is done, and nobody is told.
    let (command, answer) = asked(SessionCommand::Leave);
    scene.me.obey(command).await;
    assert_eq!(answer.await.unwrap(), Ok(false));
    scene.me.handle(send(2), Instant::now()).await;
    assert_eq!(scene.client.next().await, refused(2, Reason::NotJoined));
    scene.instance.nobody_calls().await;
    assert_eq!(scene.script.feed.follows(), [true, false]);
}

/// The answer to a removal promises that the leave has landed, also if the client began it.
#[tokio::test(start_paused = true)]
async fn a_leave_that_is_pending_is_named_until_it_has_landed() {
    let mut scene = logged_in().await;
    let (command, answer) = asked(SessionCommand::Leave);
    // The call stays unanswered.
    let mut calls = Vec::new();
    {
        let obeyed = scene.me.obey(command);
        tokio::pin!(obeyed);
        loop {
            tokio::select! {
                () = &mut obeyed => break,
                called = scene.instance.next() => calls.push(called),
            }
        }
    }
    assert_eq!(answer.await.unwrap(), Err(Reason::LeavePending));
    assert_eq!(scene.client.next().await, removed(), "it has left");
    let (command, answer) = asked(SessionCommand::Leave);
    tokio::join!(scene.me.obey(command), async {
        for called in calls {
            let Called::Leave(call) = called else {
                panic!("another call");
            };
            call.answer(Err(Status::unavailable("")));
        }
        for _ in 0..2 {
            scene.instance.leave().await.answer(Ok(Default::default()));
        }
    });
    assert_eq!(answer.await.unwrap(), Ok(false));
    soon(scene.services.leaves.landed()).await;
    scene.instance.nobody_calls().await;
    let_run().await;
    assert!(scene.client.has_nothing(), "it was told before");
}

#[tokio::test(start_paused = true)]
async fn a_command_waits_for_the_sends_before_it_and_is_not_begun_when_its_time_is_over() {
    let mut scene = logged_in().await;
    scene.me.handle(send(2), Instant::now()).await;
    scene.stream.next().await;
    let begun = Instant::now();
    let (command, answer) = asked(SessionCommand::Leave);
    scene.me.obey(command).await;
    assert_eq!(answer.await.unwrap(), Err(Reason::Unavailable));
    assert_eq!(begun.elapsed(), TIME);
    scene.stream.sent();
    assert_eq!(scene.client.next().await, reply(2, SENT));

    let (late, answer) = asked(SessionCommand::Leave);
    tokio::time::advance(TIME).await;
    scene.me.obey(late).await;
    assert_eq!(answer.await.unwrap(), Err(Reason::Unavailable));
    let (unwanted, answer) = asked(SessionCommand::Leave);
    drop(answer);
    scene.me.obey(unwanted).await;
    scene.instance.nobody_calls().await;

    scene.me.handle(send(3), Instant::now()).await;
    scene.stream.next().await;
    let (command, answer) = asked(SessionCommand::Leave);
    tokio::join!(scene.me.obey(command), async {
        scene.instance.nobody_calls().await;
        scene.stream.sent();
        scene.instance.leave().await.answer(Ok(Default::default()));
    });
    assert_eq!(answer.await.unwrap(), Ok(true));
    assert_eq!(scene.client.next().await, reply(3, SENT));
    assert_eq!(scene.client.next().await, removed());
}

/// It would be told at once that it is a member already.
#[tokio::test(start_paused = true)]
async fn a_session_is_not_added_before_the_outcome_of_its_sends_is_known() {
    let mut scene = logged_in().await;
    scene.me.handle(send(2), Instant::now()).await;
    let (command, answer) = asked(SessionCommand::Join);
    scene.me.obey(command).await;
    assert_eq!(answer.await.unwrap(), Err(Reason::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn a_join_that_fails_is_undone_and_the_client_is_not_told() {
    let mut scene = guest(WireFormat::JSON, &json!({})).await;
    let (command, answer) = asked(SessionCommand::Join);
    let begun = Instant::now();
    let join = {
        let script = async {
            is_followed(&mut scene.script).await;
            scene.instance.join().await
        };
        tokio::join!(scene.me.obey(command), script).1
    };
    assert_eq!(answer.await.unwrap(), Err(Reason::Unavailable));
    assert!(begun.elapsed() <= TIME);
    drop(join);
    let leave = loop {
        match scene.instance.next().await {
            Called::Leave(leave) => break leave.answer(Ok(Default::default())),
            Called::Join(copy) => drop(copy),
            _ => panic!("another call"),
        }
    };
    assert!(leave.fence, "the join may still arrive");
    soon(scene.services.leaves.landed()).await;
    let_run().await;
    assert!(scene.client.has_nothing());
    assert_eq!(scene.socket.closing(), None);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_closing_obeys_nobody() {
    let mut scene = logged_in().await;
    let (command, answer) = asked(SessionCommand::Leave);
    scene.socket.close(Disconnect::Shutdown);
    scene.me.obey(command).await;
    assert!(answer.await.is_err());
    scene.instance.nobody_calls().await;
}

#[tokio::test(start_paused = true)]
async fn a_command_that_waits_when_the_session_ends_is_dropped() {
    let mut scene = logged_in().await;
    let registration = scene.me.session.as_ref().unwrap().registration.clone();
    let (command, answer) = asked(SessionCommand::Leave);
    assert!(registration.commands().push(command).is_ok());
    assert!(scene.me.is_commanded());
    scene.me.close().await;
    assert!(answer.await.is_err());
    scene.instance.leave().await.answer(Ok(Default::default()));
}

fn deleted() -> Told {
    let (route, body) = ("onDeleted".to_owned(), json!({"e": "b", "o": 6}));
    Told::Push { route, body }
}

/// The channel of this client, which has joined at ("a", 5), is deleted.
async fn is_deleted(scene: &mut Scene) {
    scene.script.publish(publication("a", 5));
    let told = scene.client.next().await;
    assert!(matches!(told, Told::Push { .. }), "{told:?}");
    assert_eq!(scene.client.offsets(1).await, [5]);
    scene.script.publish(deletion("b", 6));
    let read = scene.script.read_from(at("a", 5)).await;
    read.answer(page(at("a", 5), vec![deletion("b", 6)], 6));
    assert_eq!(scene.client.next().await, deleted());
    assert!(scene.me.is_commanded());
    assert!(scene.me.next_command().is_none());
    assert!(!scene.me.is_commanded());
    assert_eq!(scene.client.next().await, removed());
}

#[tokio::test(start_paused = true)]
async fn a_client_of_a_deleted_channel_is_out_of_it_and_may_join_again() {
    let mut scene = guest(WireFormat::JSON, &json!({})).await;
    assert_eq!(scene.is_added().await, Ok(at("a", 4)));
    is_deleted(&mut scene).await;
    // The leave finds nothing, unless a failover loses the deletion.
    let leave = scene.instance.leave().await.answer(Ok(Default::default()));
    assert_eq!(leave.channel, "room");
    assert!(!leave.fence, "the join was answered at once");
    let say = request(
        2,
        "chat.handler.publish",
        &json!({"channel": "room", "body": {}}),
    );
    scene.me.handle(say, Instant::now()).await;
    assert_eq!(scene.client.next().await, refused(2, Reason::NotJoined));

    assert_eq!(scene.is_added().await, Ok(at("a", 4)));
    assert_eq!(scene.me.session.as_ref().unwrap().channels.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_membership_that_the_store_refuses_to_repair_ends_although_the_hub_has_met_no_deletion() {
    let mut scene = guest(WireFormat::JSON, &json!({})).await;
    assert_eq!(scene.is_added().await, Ok(at("a", 4)));
    let told = scene.client.next().await;
    assert!(matches!(told, Told::Push { .. }), "{told:?}");
    let session = scene.me.session.as_ref().unwrap();
    session.channels[0].membership.was_deleted();
    assert!(scene.me.is_commanded());
    assert!(scene.me.next_command().is_none());
    assert_eq!(scene.client.next().await, removed());
    let leave = scene.instance.leave().await.answer(Ok(Default::default()));
    assert_eq!(leave.channel, "room");
}
