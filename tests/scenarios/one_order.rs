//! All members on all connectors see the publications of a channel in the same order, whoever sent them, and through
//! whichever chat.

use crate::load::{Load, listeners, senders};
use testkit::long;
use testkit::pomelo::{LOGIN, SEND, SENT, heard, joined, left, login_body};
use testkit::system::{Plan, System};

/// How many messages are sent by all senders together.
fn messages() -> usize {
    if long() { 200_000 } else { 20_000 }
}

/// The senders use two connectors and two chats.
#[tokio::test]
async fn fifty_members_see_every_message_of_eight_senders_in_the_same_order() {
    const SENDERS: usize = 8;
    const MEMBERS: usize = 50;
    // Otherwise all sends of a channel would go to one chat, as long as both are up.
    let plan = Plan::of(2, 2).each_its_own_chat().alone();
    let system = plan.start().await;
    let senders = senders(&system, SENDERS).await;
    let listeners = listeners(&system, MEMBERS - SENDERS).await;

    let load = Load::start(senders, 32, messages() / SENDERS);
    let outcome = load.finish(false).await;

    assert_eq!(outcome.failed, []);
    assert_eq!(outcome.acknowledged.len(), messages());
    outcome.was_seen_by(&listeners).await;
    for (number, chat) in system.chats.iter().enumerate() {
        let publications = chat.publications().await;
        assert!(
            publications > messages() as u64 / 10,
            "chat {number} took no part: {publications} publications"
        );
    }
}

/// F6: in the original, connectors saw different orders if the senders were on different chats.
#[tokio::test]
async fn two_senders_through_different_chats_are_seen_in_the_same_order_everywhere_f06() {
    const COUNT: usize = 1_000;
    let system = Plan::of(2, 2).each_its_own_chat().start().await;
    let senders = senders(&system, 2).await;
    let listeners = listeners(&system, 4).await;
    let outcome = Load::start(senders, 16, COUNT).finish(false).await;
    assert_eq!(outcome.acknowledged.len(), 2 * COUNT);
    outcome.was_seen_by(&listeners).await;
}

/// There is no gap between its join and the messages that follow.
#[tokio::test]
async fn a_client_that_joins_while_others_send_sees_everything_from_its_join_on() {
    let system = System::start().await;
    let speaker = system.member(0, "speaker", "room").await;
    let mut sent = 0;
    for number in 0..20 {
        let user = format!("late{number}");
        let before = sent;
        let visitor = system.visitor(1).await;
        let login = login_body(&user, "room");
        let login = visitor.start(LOGIN, &login).await;
        while visitor.inbox().read().reply(login).is_none() {
            let body = format!(r#"{{"content":"{sent}"}}"#);
            assert_eq!(speaker.request(SEND, &body).await, SENT);
            sent += 1;
        }
        assert_eq!(speaker.say(&sent.to_string()).await, SENT);
        sent += 1;
        visitor
            .until_push(&heard("speaker", &(sent - 1).to_string()))
            .await;

        let join = joined(&user);
        speaker
            .until_push(&heard("speaker", &(sent - 1).to_string()))
            .await;
        let all = speaker.pushes();
        let from = all.iter().position(|push| *push == join);
        let from = from.unwrap_or_else(|| panic!("{user}'s join is not seen"));
        let seen = visitor.pushes();
        assert_eq!(seen, all[from..][..seen.len()], "after {before} messages");
        visitor.close().await;
        speaker.until_push(&left(&user)).await;
    }
}
