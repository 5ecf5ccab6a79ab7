//! What becomes of the members of a connector that is no more, or seemed to be: no ghost, and no false leave.

use std::time::Duration;
use tests::pomelo::{Client, SEND, heard, joined, left, said};
use tests::system::{Plan, System};
use tests::{SOON, wait};
use tokio::time::Instant;

const LEASE: Duration = Duration::from_secs(1);
/// Observation, polls and the reaping itself.
const FUNERAL: Duration = Duration::from_secs(4);
const CHANNELS: usize = 20;
const MEMBERS: usize = 300;

fn plan(connectors: usize, chats: usize) -> Plan {
    let lease = ["--lease", "1s"];
    let plan = Plan::of(connectors, chats);
    plan.connector_flags(&lease).chat_flags(&lease)
}

fn room(number: usize) -> String {
    format!("room-{number}")
}

/// Members of the first connector, and a watcher on the second for each channel.
struct Rooms {
    watchers: Vec<Client>,
    members: Vec<(String, Client)>,
}

impl Rooms {
    async fn fill(system: &System, channels: usize, members: usize) -> Self {
        let mut rooms = Self {
            watchers: Vec::new(),
            members: Vec::new(),
        };
        for number in 0..channels {
            let watcher = format!("watcher-{number}");
            let watcher = system.member(1, &watcher, &room(number)).await;
            rooms.watchers.push(watcher);
        }
        for number in 0..members {
            let user = format!("user-{number}");
            let client = system.member(0, &user, &room(number % channels)).await;
            rooms.members.push((user, client));
        }
        rooms
    }

    /// Leaves that watchers were told of so far.
    fn leaves(&self) -> usize {
        let pushes = self.watchers.iter().flat_map(|watcher| watcher.pushes());
        pushes.filter(|push| push.starts_with("onLeave")).count()
    }

    async fn until_everybody_left(&self, within: Duration) {
        wait::eventually("everybody has left", within, async || {
            self.leaves() >= self.members.len()
        })
        .await;
    }

    /// Each member joined once and left once; nobody else did, and only the watchers are there.
    async fn each_left_once(&self, system: &System, chat: usize) {
        for (number, watcher) in self.watchers.iter().enumerate() {
            let name = format!("watcher-{number}");
            let members = system.api(chat).members(&room(number)).await;
            assert_eq!(members.expect("chat answers"), [(name.clone(), 1)]);
            let mut told = watcher.pushes();
            let here = self
                .members
                .iter()
                .skip(number)
                .step_by(self.watchers.len());
            let mut expected = vec![joined(&name)];
            for (user, _) in here {
                expected.extend([joined(user), left(user)]);
            }
            told.sort();
            expected.sort();
            assert_eq!(told, expected);
            assert_eq!(watcher.ended(), None);
        }
    }
}

#[tokio::test]
async fn the_members_of_a_killed_connector_leave_once_within_lease_and_four_seconds() {
    let mut system = plan(2, 2).start().await;
    let rooms = Rooms::fill(&system, CHANNELS, MEMBERS).await;
    assert_eq!(rooms.leaves(), 0);
    system.connectors[0].kill();
    let killed = Instant::now();
    rooms.until_everybody_left(LEASE + FUNERAL).await;
    assert!(killed.elapsed() < LEASE + FUNERAL);
    rooms.each_left_once(&system, 0).await;
}

/// Two others race, from where it was.
#[tokio::test]
async fn a_chat_that_dies_amid_a_funeral_leaves_it_to_others() {
    const TRIES: usize = 8;
    const MANY_CHANNELS: usize = 150;
    for attempt in 1.. {
        let mut system = plan(2, 3).start().await;
        let rooms = Rooms::fill(&system, MANY_CHANNELS, MEMBERS).await;
        for others in &system.chats[1..] {
            others.freeze();
        }
        system.connectors[0].kill();
        // Closer than by waiting in the usual pauses: the whole funeral takes some milliseconds.
        let begun = async {
            while rooms.leaves() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let begun = tokio::time::timeout(SOON, begun).await;
        system.chats[0].kill();
        begun.expect("the funeral has begun");
        // What it has written by now has all arrived when no more comes.
        let mut done = 0;
        wait::eventually("it writes no more", SOON, async || {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let known = std::mem::replace(&mut done, rooms.leaves());
            known == done
        })
        .await;
        for others in &system.chats[1..] {
            others.thaw();
        }
        rooms.until_everybody_left(SOON).await;
        rooms.each_left_once(&system, 1).await;
        if done < MEMBERS {
            return;
        }
        assert!(attempt < TRIES, "it was never amid");
    }
}

#[tokio::test]
async fn a_connector_that_was_frozen_for_too_long_closes_its_sockets_and_speaks_for_nobody() {
    let system = plan(2, 2).start().await;
    let rooms = Rooms::fill(&system, 2, 10).await;
    let frozen = Instant::now();
    system.connectors[0].freeze();
    rooms.until_everybody_left(SOON).await;
    tokio::time::sleep((3 * LEASE).saturating_sub(frozen.elapsed())).await;
    for (_, member) in &rooms.members {
        member.notify(SEND, &said("from the grave")).await;
    }
    system.connectors[0].thaw();
    for (_, member) in &rooms.members {
        member.end(SOON).await;
        assert_eq!(member.kicked().as_deref(), Some("reconnect"));
    }
    rooms.each_left_once(&system, 0).await;

    // It serves again, as another incarnation.
    let again = Client::connect(system.connectors[0].address()).await;
    again.enter("user-0", &room(0)).await;
    let both = [("user-0", 1), ("watcher-0", 1)];
    system.until_members(&room(0), &both).await;
    assert_eq!(again.say("back").await, tests::pomelo::SENT);
    rooms.watchers[0].until_push(&heard("user-0", "back")).await;
}

#[tokio::test]
async fn a_connector_restarted_under_its_name_keeps_its_new_members() {
    let mut system = plan(2, 2).start().await;
    let watcher = system.member(1, "watcher", "room").await;
    let _old = system.member(0, "old", "room").await;
    let _stays = system.member(0, "stays", "room").await;
    system.connectors[0].kill();
    system.connectors[0].restart().await;
    system.connectors[0].ready().await;
    let stays = Client::connect(system.connectors[0].address()).await;
    assert_eq!(stays.login("stays", "room").await, tests::pomelo::LOGGED_IN);
    let new = system.member(0, "new", "room").await;
    let both = [("new", 1), ("old", 1), ("stays", 2), ("watcher", 1)];
    system.until_members("room", &both).await;

    watcher.until_push(&left("old")).await;
    let there = [("new", 1), ("stays", 1), ("watcher", 1)];
    system.until_members("room", &there).await;
    wait::stays("they are there", 2 * LEASE, async || {
        let members = system.api(0).members("room").await.expect("chat answers");
        let names = members.iter().map(|(user, n)| (user.as_str(), *n));
        names.eq(there)
    })
    .await;
    let pushes = watcher.pushes();
    assert!(!pushes.contains(&left("stays")) && !pushes.contains(&left("new")));
    assert_eq!((stays.ended(), new.ended()), (None, None));
}

#[tokio::test]
async fn an_outage_of_redis_for_longer_than_leases_closes_nobody() {
    let mut system = plan(2, 2).start().await;
    let alice = system.member(0, "alice", "room").await;
    let bob = system.member(1, "bob", "room").await;
    bob.until_push(&joined("bob")).await;
    alice.until_push(&joined("bob")).await;
    let before = (alice.pushes(), bob.pushes());
    system.redis.stop().await;
    let undisturbed = async || {
        (alice.ended(), bob.ended()) == (None, None) && (alice.pushes(), bob.pushes()) == before
    };
    wait::stays("nobody hears of it", 3 * LEASE, undisturbed).await;
    system.redis.restart().await;
    system
        .until_members("room", &[("alice", 1), ("bob", 1)])
        .await;
    wait::stays("nobody hears of it", LEASE + FUNERAL, undisturbed).await;
    wait::eventually("it works again", SOON, async || {
        alice.say("back").await == tests::pomelo::SENT
    })
    .await;
    bob.until_push(&heard("alice", "back")).await;
}
