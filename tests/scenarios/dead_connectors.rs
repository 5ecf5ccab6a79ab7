//! What happens to the members of a connector that died, or seemed to: nobody stays behind, and nobody leaves by
//! mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use testkit::checker::History;
use testkit::follower::{Follower, Leaving, Notes};
use testkit::followers::{Followers, ROOM, WHOLE_LOG, assert_consistent};
use testkit::history::{Event, Outcome};
use testkit::permit::Permit;
use testkit::pomelo::{Client, heard, left};
use testkit::redis::Redis;
use testkit::system::{Plan, Services};
use testkit::{SOON, long, pace, wait};
use tokio::time::Instant;

const LEASE: Duration = Duration::from_secs(1);
/// From the end of a lease to the last leave: chats observe the lease, poll, and reap.
const REAPING: Duration = Duration::from_secs(4);

fn plan(connectors: usize, chats: usize) -> Plan {
    let lease = ["--lease", "1s"];
    let plan = Plan::of(connectors, chats);
    plan.connector_flags(&lease).chat_flags(&lease)
}

/// The users of the log's entries with this route, and how often each has one.
fn users(history: &History, route: &str) -> BTreeMap<String, usize> {
    let mut users = BTreeMap::new();
    for content in history.log.entries.values() {
        if content.route == route {
            let body: serde_json::Value = serde_json::from_str(&content.body).expect("JSON");
            let user = body["userId"].as_str().expect("a user").to_owned();
            *users.entry(user).or_default() += 1;
        }
    }
    users
}

/// How many leaves a follower was told of.
fn leaves(notes: &Notes) -> usize {
    let events = notes.events.iter();
    events
        .filter(|event| matches!(event, Event::Received(_, content) if content.route == "onLeave"))
        .count()
}

/// Many channels. Each has members on the first connector, and one on the second that sends and watches.
struct Channels {
    rooms: Vec<Followers>,
}

impl Channels {
    const CHANNELS: usize = 100;
    /// Members of the first channel: more than one run of the script that reaps removes.
    const LARGEST: usize = 450;

    async fn gather(connectors: &[SocketAddr], members: usize) -> Self {
        let pace = Duration::from_millis(if long() { 1_000 } else { 250 });
        let mut rooms = Vec::new();
        for number in 0..Self::CHANNELS {
            let room = format!("room-{number}");
            let mut followers = Followers::empty(&room, connectors);
            followers.add(&format!("speaker-{number}"), Some(pace), 1);
            followers.until_online().await;
            let each = (members - Self::LARGEST) / (Self::CHANNELS - 1);
            let members = if number == 0 { Self::LARGEST } else { each };
            for member in 0..members {
                followers.add(&format!("user-{number}-{member}"), None, 0);
            }
            followers.until_online().await;
            followers.start_sending();
            rooms.push(followers);
        }
        Self { rooms }
    }

    fn speakers(&self) -> impl Iterator<Item = &Follower> {
        self.rooms.iter().flat_map(|followers| followers.at(1))
    }

    /// Every other member. When their connector dies these stay away, and the others come back at once.
    fn gone(&self) -> impl Iterator<Item = &Follower> {
        let rooms = self.rooms.iter();
        rooms.flat_map(|followers| followers.at(0).step_by(2))
    }

    /// How many leaves the speakers were told of.
    fn leaves(&self) -> usize {
        let speakers = self.speakers();
        speakers.map(|it| leaves(&it.notes().read())).sum()
    }

    /// Waits until each speaker has one more message acknowledged.
    async fn until_each_acknowledged(&self) {
        let acknowledged = || self.rooms.iter().flat_map(Followers::acknowledged);
        let before: Vec<_> = acknowledged().collect();
        wait::eventually("every speaker goes on", 3 * SOON, async || {
            acknowledged()
                .zip(&before)
                .all(|(now, before)| now > *before)
        })
        .await;
    }

    async fn until_online(&self) {
        for followers in &self.rooms {
            followers.until_online().await;
        }
    }

    fn sum(&self, what: impl Fn(&Notes) -> usize) -> usize {
        self.rooms
            .iter()
            .map(|followers| followers.sum(&what))
            .sum()
    }
}

struct KilledConnector {
    channels: Channels,
    services: Services,
    redis: Redis,
    lease: Duration,
    killed: Instant,
    /// How many had left when a chat was killed, if one was.
    left_before: Option<usize>,
    _permit: Permit,
}

impl KilledConnector {
    /// Kills the first of three connectors, which has all the members, and perhaps a chat while it reaps them.
    async fn start(members: usize, and_a_chat: bool) -> Self {
        let (lease, flag) = if long() {
            (Duration::from_secs(10), ["--lease", "10s"])
        } else {
            (LEASE, ["--lease", "1s"])
        };
        // A single chat has no other one that could do what it forgets.
        let chats = if and_a_chat { 3 } else { 1 };
        let plan = Plan::of(3, chats).alone().chat_flags(&WHOLE_LOG);
        let plan = plan.connector_flags(&flag).chat_flags(&flag);
        // Otherwise nobody could log in again before the connector is reaped.
        let plan = plan.login_policy("allow");
        let permit = plan.permit().await;
        let redis = Redis::start().await;
        let mut services = plan.services(&redis.url(), &redis.url()).await;
        let channels = Channels::gather(&services.addresses(), members).await;
        channels.until_each_acknowledged().await;
        assert_eq!(channels.sum(|notes| notes.disconnected), 0);
        assert_eq!(channels.leaves(), 0);
        services.connectors[0].kill();
        let killed = Instant::now();
        for member in channels.gone() {
            member.begin_move(Leaving::Breaking, None);
        }
        let mut left_before = None;
        if and_a_chat {
            // The usual pauses are too long here: reaping takes only some milliseconds.
            while channels.leaves() == 0 {
                assert!(pace::since(killed) < lease + REAPING, "nobody is reaped");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // The chat that has begun to reap. The others go on where it stopped.
            let has_begun = services.chats.iter_mut().position(|chat| {
                let lines = chat.process().lines();
                lines
                    .iter()
                    .any(|line| line.contains("connector declared dead"))
            });
            drop(services.chats.remove(has_begun.expect("a chat has begun")));
            left_before = Some(channels.leaves());
        }
        Self {
            channels,
            services,
            redis,
            lease,
            killed,
            left_before,
            _permit: permit,
        }
    }

    /// Checks that members that stay away leave once and in time, that the others miss nothing, and that nobody else
    /// notices.
    async fn ends_well(self) {
        let channels = &self.channels;
        let gone: BTreeSet<_> = channels.gone().map(|it| it.name().to_owned()).collect();
        let within = self.lease + REAPING;
        let left = within.saturating_sub(pace::since(self.killed));
        wait::eventually("all members that stay away have left", left, async || {
            channels.leaves() >= gone.len()
        })
        .await;
        println!(
            "{} left within {:?}",
            channels.leaves(),
            self.killed.elapsed()
        );
        channels.until_online().await;
        let members = channels.rooms.iter().flat_map(|followers| followers.at(0));
        let (away, back): (Vec<_>, Vec<_>) =
            members.partition(|member| gone.contains(member.name()));
        let lost = |member: &&Follower| member.notes().read().disconnected == 1;
        assert!(back.iter().all(lost), "somebody was not disconnected");
        // Some of them come back after all.
        let late: Vec<_> = away.iter().step_by(10).collect();
        for member in &late {
            let connector = self.services.connectors[2].address();
            member.begin_move(Leaving::Breaking, Some(connector));
        }
        channels.until_online().await;
        channels.until_each_acknowledged().await;
        for followers in &channels.rooms {
            followers.stop_sending().await;
        }
        let api = self.services.api(0);
        let mut had_left = BTreeMap::new();
        for followers in &channels.rooms {
            let history = followers.stop_and_collect(&api, self.redis.address()).await;
            assert_consistent(&history, &[]);
            had_left.append(&mut users(&history, "onLeave"));
        }
        for member in &away {
            assert_eq!(had_left.remove(member.name()), Some(1), "{}", member.name());
        }
        // If the way back of a member took longer than the lease, it has left and joined again. The checker has checked
        // that.
        println!("{} of {} came back late", had_left.len(), back.len());
        assert!(had_left.values().all(|times| *times == 1), "{had_left:?}");
        for member in back.iter().chain(late) {
            let notes = member.notes().read();
            assert_eq!(
                (notes.recovered, notes.losses()),
                ((1, 0), vec![]),
                "{}",
                member.name()
            );
        }
        for speaker in channels.speakers() {
            let notes = speaker.notes().read();
            assert_eq!(notes.disconnected, 0);
            assert_eq!(notes.count(Outcome::Unknown), 0);
            assert_eq!(notes.count(Outcome::Refused), 0);
        }
    }
}

fn members() -> usize {
    if long() { 15_000 } else { 2_000 }
}

#[tokio::test]
async fn the_members_of_a_killed_connector_leave_once_within_lease_and_four_seconds() {
    let killed_connector = KilledConnector::start(members(), false).await;
    killed_connector.ends_well().await;
}

#[tokio::test]
async fn when_a_chat_dies_while_it_reaps_a_connector_other_chats_finish() {
    const TRIES: usize = 4;
    for _ in 0..TRIES {
        let killed_connector = KilledConnector::start(members(), true).await;
        let left_before = killed_connector.left_before.expect("a chat was killed");
        let was_reaping = left_before < killed_connector.channels.gone().count();
        killed_connector.ends_well().await;
        println!("a chat was killed when {left_before} had left");
        if was_reaping {
            return;
        }
    }
    panic!("no chat was killed while it reaped");
}

/// When it thaws, its members have been reaped, and it still has what they have sent since.
#[tokio::test]
async fn a_connector_that_was_frozen_too_long_closes_its_sockets_and_sends_for_nobody() {
    let plan = plan(2, 2).chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let services = plan.services(&redis.url(), &redis.url()).await;
    let followers = Followers::start(&services.addresses(), 8, 8).await;
    followers.start_sending();
    followers.until_each_acknowledged(10).await;

    let frozen = Instant::now();
    services.connectors[0].freeze();
    let reaped = followers.at(0).count();
    for witness in followers.at(1) {
        let told = witness.notes().until(LEASE + REAPING, |notes| {
            (leaves(notes) >= reaped).then_some(())
        });
        assert!(told.await.is_some(), "{} is not told", witness.name());
    }
    tokio::time::sleep((3 * LEASE).saturating_sub(frozen.elapsed())).await;
    let listed = services.api(0).members(ROOM).await.expect("chat answers");
    assert_eq!(listed.len(), followers.at(1).count());
    let waiting: Vec<_> = followers
        .at(0)
        .filter(|it| it.notes().read().unanswered() > 0)
        .collect();
    assert_eq!(waiting.len(), 4, "all speakers wait for an answer");
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);

    services.connectors[0].thaw();
    for member in followers.at(0) {
        let told = member
            .notes()
            .until(SOON, |notes| notes.kicked.first().cloned());
        let reason = told.await;
        let known = ["reconnect", "connector restarted"];
        assert!(
            reason
                .as_deref()
                .is_some_and(|reason| known.contains(&reason)),
            "{} is told {reason:?}",
            member.name()
        );
    }
    followers.until_online().await;
    followers.until_each_acknowledged(10).await;
    // It serves again, as another incarnation.
    let again = Client::join(services.connectors[0].address(), "again", "elsewhere").await;
    assert_eq!(again.say("back").await, testkit::pomelo::SENT);
    again.until_push(&heard("again", "back")).await;

    let history = followers
        .stop_and_collect(&services.api(0), redis.address())
        .await;
    println!("{}", followers.report());
    // The checker would report an entry of a member that has left and not come back.
    assert_consistent(&history, &[]);
    for witness in followers.at(1) {
        assert_eq!(witness.notes().read().disconnected, 0);
    }
    for member in followers.at(0) {
        let notes = member.notes().read();
        assert_eq!(notes.recovered, (1, 0), "{}", member.name());
        assert_eq!(users(&history, "onLeave")[member.name()], 1);
    }
}

#[tokio::test]
async fn a_connector_restarted_under_its_name_keeps_its_new_members() {
    let mut system = plan(2, 2).login_policy("allow").start().await;
    let watcher = system.member(1, "watcher", "room").await;
    let _old = system.member(0, "old", "room").await;
    let _stays = system.member(0, "stays", "room").await;
    system.connectors[0].kill();
    system.connectors[0].restart().await;
    system.connectors[0].ready().await;
    let stays = Client::connect(system.connectors[0].address()).await;
    assert_eq!(
        stays.login("stays", "room").await,
        testkit::pomelo::LOGGED_IN
    );
    let new = system.member(0, "new", "room").await;
    let both = [("new", 1), ("old", 1), ("stays", 2), ("watcher", 1)];
    system.until_members("room", &both).await;

    watcher.until_push(&left("old")).await;
    let there = [("new", 1), ("stays", 1), ("watcher", 1)];
    system.until_members("room", &there).await;
    wait::stays("they stay members", 2 * LEASE, async || {
        let members = system.api(0).members("room").await.expect("chat answers");
        let names = members.iter().map(|(user, n)| (user.as_str(), *n));
        names.eq(there)
    })
    .await;
    let pushes = watcher.pushes();
    assert!(!pushes.contains(&left("stays")) && !pushes.contains(&left("new")));
    assert_eq!((stays.ended(), new.ended()), (None, None));
}

/// Nobody joins or leaves because of it, and members go on sending.
#[tokio::test]
async fn an_outage_of_redis_longer_than_the_lease_closes_no_session() {
    let plan = plan(2, 2).chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let mut redis = Redis::start().await;
    let services = plan.services(&redis.url(), &redis.url()).await;
    let followers = Followers::start(&services.addresses(), 4, 8).await;
    followers.start_sending();
    followers.until_each_acknowledged(10).await;
    redis.stop().await;
    let refused = followers.count(Outcome::Unknown);
    wait::stays("nobody is disconnected", 3 * LEASE, async || {
        followers.sum(|notes| notes.disconnected) == 0
    })
    .await;
    assert!(
        followers.count(Outcome::Unknown) > refused,
        "nobody was refused"
    );
    redis.restart().await;
    followers.until_each_acknowledged(10).await;
    wait::stays("nobody is disconnected", LEASE + REAPING, async || {
        followers.sum(|notes| notes.disconnected) == 0
    })
    .await;
    followers.until_each_acknowledged(10).await;
    let history = followers
        .stop_and_collect(&services.api(0), redis.address())
        .await;
    println!("{}", followers.report());
    assert_consistent(&history, &[]);
    assert_eq!(users(&history, "onLeave"), BTreeMap::new());
    let joins = users(&history, "onJoin");
    assert_eq!(joins.len(), followers.all().len());
    assert!(joins.values().all(|times| *times == 1), "{joins:?}");
}
