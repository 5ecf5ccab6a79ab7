//! Sessions that are added to channels, and removed from them.

use super::*;
use crate::membership::{Asked, SessionCommand};
use crate::testing::at;
use crate::testing::chat::Instance;
use proto::chat::v1::add_outcome::Outcome as Added;
use tonic_types::pb;

/// What a session does with its commands.
#[derive(Clone, Copy)]
enum Manner {
    /// It does them.
    Obeys,
    /// It refuses them.
    Refuses,
    /// It ends.
    Ends,
}

impl Guest {
    /// Looks for commands as the loop of a client does. Returns the number of commands so far.
    fn looks(&mut self, manner: Manner) -> Arc<AtomicUsize> {
        let count = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&count);
        let connection = Arc::clone(&self.connection);
        let registration = Arc::clone(self.registration());
        tokio::spawn(async move {
            let commands = registration.commands();
            while (connection.closed_or(|| commands.is_waiting()).await).is_none() {
                while let Some(command) = commands.next() {
                    counted.fetch_add(1, Ordering::Relaxed);
                    match (manner, command) {
                        (Manner::Obeys, SessionCommand::Join(Asked { answer, .. })) => {
                            answer.send(Ok(at("a", 7))).unwrap();
                        }
                        (Manner::Obeys, SessionCommand::Leave(Asked { answer, .. })) => {
                            answer.send(Ok(true)).unwrap();
                        }
                        (Manner::Refuses, command) => command.refuse(Reason::TooManyChannels),
                        (Manner::Ends, _) => commands.end(),
                    }
                }
            }
        });
        count
    }

    fn joins(&self, node: &Node, channel: &str) -> Arc<Membership> {
        let registration = self.registration();
        let membership = Membership::begin(
            node.lease.roster(),
            Arc::clone(registration.guard()),
            ChannelName::new(channel).unwrap(),
            User {
                id: registration.user().clone(),
                is_number: false,
            },
            registration.session.clone(),
            Some(Arc::clone(registration)),
        );
        membership.joined(&answered(false));
        membership
    }
}

fn add(user: &str, session: &str) -> api::AddToChannelRequest {
    api::AddToChannelRequest {
        channel: "room".to_owned(),
        user: user.to_owned(),
        session: session.to_owned(),
    }
}

fn remove(user: &str) -> api::RemoveFromChannelRequest {
    api::RemoveFromChannelRequest {
        channel: "room".to_owned(),
        user: user.to_owned(),
        session: String::new(),
    }
}

fn reason(status: &pb::Status) -> String {
    let mut details = status.details.iter();
    let info = details.find(|it| it.type_url.ends_with("ErrorInfo"));
    pb::ErrorInfo::decode(&*info.unwrap().value).unwrap().reason
}

/// Each session with its position, or the reason why it did not join.
fn outcomes(response: &api::AddToChannelResponse) -> Vec<(String, Result<u64, String>)> {
    let outcomes = response.outcomes.iter().map(|it| {
        let outcome = match it.outcome.as_ref().unwrap() {
            Added::Position(at) => Ok(at.offset),
            Added::Refused(status) => Err(reason(status)),
        };
        (format!("{}/{}", it.connector, it.session), outcome)
    });
    let mut outcomes: Vec<_> = outcomes.collect();
    outcomes.sort();
    outcomes
}

#[tokio::test(start_paused = true)]
async fn each_session_of_a_user_is_asked_once_although_letters_and_answers_are_lost() {
    for to in ["chat:", "one:"] {
        let store = store();
        let lossy = Lossy::new(&store, to, 2);
        let one = Node::new(&store, "one", lossy.clone()).await;
        let other = Node::new(&store, "other", lossy.clone()).await;
        let mut guests = [
            one.guest("u", "s1").await,
            other.guest("u", "s2").await,
            one.guest("v", "s3").await,
        ];
        let counts = guests.each_mut().map(|it| it.looks(Manner::Obeys));
        let mut chat = chat(&store, lossy.clone());
        let response = chat
            .add_to_channel(add("u", ""))
            .await
            .unwrap()
            .into_inner();
        let expected = [("one/s1", 7), ("other/s2", 7)];
        let expected = expected.map(|(name, offset)| (name.to_owned(), Ok(offset)));
        assert_eq!(outcomes(&response), expected);
        assert_eq!(response.unanswered_connectors, Vec::<String>::new());
        let response = chat.remove_from_channel(remove("u")).await.unwrap();
        let response = response.into_inner();
        let are_out = |it: &api::RemoveOutcome| it.was_member && it.refused.is_none();
        assert_eq!(response.outcomes.len(), 2);
        assert!(response.outcomes.iter().all(are_out), "{response:?}");
        let counts = counts.map(|it| it.load(Ordering::Relaxed));
        assert_eq!(counts, [2, 2, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_session_is_asked_if_it_belongs_to_the_user() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let mut guests = [one.guest("u", "s1").await, one.guest("u", "s2").await];
    let counts = guests.each_mut().map(|it| it.looks(Manner::Obeys));
    let mut chat = chat(&store, store.inboxes());
    for (user, session, expected) in [("u", "s2", 1), ("v", "s2", 0), ("u", "s3", 0)] {
        let response = chat.add_to_channel(add(user, session)).await.unwrap();
        assert_eq!(response.into_inner().outcomes.len(), expected);
    }
    assert_eq!(counts.map(|it| it.load(Ordering::Relaxed)), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_refuses_or_does_not_answer_says_so_alone_and_one_that_ends_is_left_out() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let mut guests = Vec::new();
    for (session, manner) in [
        ("ends", Some(Manner::Ends)),
        ("obeys", Some(Manner::Obeys)),
        ("refuses", Some(Manner::Refuses)),
        ("sleeps", None),
    ] {
        let mut guest = one.guest("u", session).await;
        manner.map(|it| guest.looks(it));
        guests.push(guest);
    }
    let mut chat = chat(&store, store.inboxes());
    let mut added = async || {
        let begun = Instant::now();
        let response = chat
            .add_to_channel(add("u", ""))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(response.unanswered_connectors, Vec::<String>::new());
        assert!(begun.elapsed() < Duration::from_secs(1));
        outcomes(&response)
    };
    let expected = |slow: &str| {
        [
            ("one/obeys".to_owned(), Ok(7)),
            (
                "one/refuses".to_owned(),
                Err("TOO_MANY_CHANNELS".to_owned()),
            ),
            ("one/sleeps".to_owned(), Err(slow.to_owned())),
        ]
    };
    for _ in 0..64 {
        assert_eq!(added().await, expected("SESSION_UNAVAILABLE"));
    }
    // So many commands wait for it that there is no room for another one.
    assert_eq!(added().await, expected("OVERLOADED"));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_logs_in_meanwhile_is_asked_after_it_was_told_so() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let mut guest = one.logging_in("u", "s1", WireFormat::JSON).await;
    let count = guest.looks(Manner::Obeys);
    let registration = Arc::clone(guest.registration());
    tokio::spawn(async move {
        sleep(Duration::from_millis(50)).await;
        registration.answered();
    });
    let mut chat = chat(&store, store.inboxes());
    let response = chat
        .add_to_channel(add("u", ""))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(outcomes(&response), [("one/s1".to_owned(), Ok(7))]);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

/// A session whose client is gone may be a member for a while longer.
#[tokio::test(start_paused = true)]
async fn a_session_whose_client_is_gone_is_removed_and_not_added() {
    let store = store();
    let mut instance = Instance::new();
    let lands = chat_of(&[&instance]);
    let _stream = instance.stream().await;
    let one = Node::with(&store, "one", store.inboxes(), lands).await;
    let guest = one.guest("u", "s1").await;
    let memberships = [guest.joins(&one, "room"), guest.joins(&one, "other")];
    // This is what the end of a session with a grace does.
    memberships.iter().for_each(|it| it.end());
    let registration = guest.registration();
    let (user, session) = (&registration.user, &registration.session);
    store.registry().linger(user, session).await.unwrap();
    registration.begin_lingering();
    registration.session_is_over();
    guest.connection.close(Disconnect::CLOSED);

    let mut chat = chat(&store, store.inboxes());
    let response = chat
        .add_to_channel(add("u", ""))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(outcomes(&response), []);
    let mut removed = async || {
        let response = chat.remove_from_channel(remove("u")).await.unwrap();
        let response = response.into_inner();
        assert_eq!(response.unanswered_connectors, Vec::<String>::new());
        assert_eq!(response.outcomes.len(), 1);
        let refused = response.outcomes[0].refused.as_ref().map(reason);
        (response.outcomes[0].was_member, refused)
    };
    // Nobody answers the leave.
    let (outcome, leave) = tokio::join!(removed(), instance.leave());
    assert_eq!(outcome, (false, Some("LEAVE_PENDING".to_owned())));
    let first = leave.answer(Ok(Default::default()));
    let (outcome, leave) = tokio::join!(removed(), async {
        loop {
            let leave = instance.leave().await;
            let leave = leave.answer(Ok(Default::default()));
            if leave.operation == first.operation {
                return leave;
            }
        }
    });
    assert_eq!(outcome, (true, None));
    assert_eq!(leave, first, "all copies are the same");
    assert_eq!(leave.channel, "room");
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_does_not_answer_is_named_and_its_sessions_have_no_outcome() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let silent = Node::new(&store, "silent", Lossy::new(&store, "chat:", 1_000)).await;
    let mut guests = [one.guest("u", "s1").await, silent.guest("u", "s2").await];
    guests
        .iter_mut()
        .for_each(|it| drop(it.looks(Manner::Obeys)));
    let mut chat = chat(&store, store.inboxes());
    let response = chat
        .add_to_channel(add("u", ""))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(outcomes(&response), [("one/s1".to_owned(), Ok(7))]);
    assert_eq!(response.unanswered_connectors, ["silent"]);
    let response = chat.remove_from_channel(remove("u")).await.unwrap();
    let response = response.into_inner();
    assert_eq!(response.outcomes.len(), 1);
    assert_eq!(response.unanswered_connectors, ["silent"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_logs_in_before_its_connector_answers_has_one_outcome() {
    let store = store();
    let one = Node::new(&store, "one", store.inboxes()).await;
    let mut first = one.guest("u", "s1").await;
    first.looks(Manner::Obeys);
    // The first letter is lost, so the connector gets the next one after chat has looked.
    let mut chat = chat(&store, Lossy::new(&store, "one:", 1));
    let (response, _second) = tokio::join!(chat.add_to_channel(add("u", "")), async {
        sleep(Duration::from_millis(50)).await;
        let mut second = one.guest("u", "s2").await;
        second.looks(Manner::Obeys);
        second
    });
    let expected = ["one/s1", "one/s2"].map(|name| (name.to_owned(), Ok(7)));
    assert_eq!(outcomes(&response.unwrap().into_inner()), expected);
}
