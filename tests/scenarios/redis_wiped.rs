//! Redis has lost all its data. Every client that had a position is told, however Redis comes back, and every client
//! with a live socket becomes a member again.

use std::collections::BTreeMap;
use std::time::Duration;
use testkit::chat_api::ChatApi;
use testkit::checker::Kind;
use testkit::follower::{Follower, Leaving, Notes};
use testkit::followers::{Followers, ROOM, WHOLE_LOG, assert_consistent};
use testkit::history::Reason;
use testkit::permit::Permit;
use testkit::redis::Redis;
use testkit::system::{Plan, Services};
use testkit::{SOON, long, wait};

/// Two renewals of a lease of one second, and the time that a busy machine needs to join everybody again.
const REPAIRED: Duration = Duration::from_millis(667 + 1_500);

struct Wiped {
    services: Services,
    followers: Followers,
    redis: Redis,
    _permit: Permit,
}

impl Wiped {
    /// Starts services, and members that have sent messages and are silent now.
    async fn begin(connector_flags: &[&'static str]) -> Self {
        let plan = Plan::of(3, 1)
            .chat_flags(&[WHOLE_LOG, ["--lease", "1s"]].concat())
            .connector_flags(&["--lease", "1s"])
            .connector_flags(connector_flags);
        let permit = plan.permit().await;
        let redis = Redis::without_persistence().await;
        let services = plan.services(&redis.url(), &redis.url()).await;
        // Nobody is at the third connector.
        let mut followers = Followers::start(&services.addresses()[..2], 4, 4).await;
        for number in 4..if long() { 500 } else { 4 } {
            followers.add_listener(&format!("listener{number}")).await;
        }
        followers.start_sending();
        followers.until_each_acknowledged(30).await;
        followers.stop_sending().await;
        Self {
            services,
            followers,
            redis,
            _permit: permit,
        }
    }

    /// Checks that the log began anew, that everybody was told, and that nothing else was wrong.
    async fn ends_well(&self) {
        let api = self.services.api(0);
        let live = self.followers.live().into_iter();
        let live: BTreeMap<_, _> = live.map(|(user, n)| (user, i64::from(n))).collect();
        wait::eventually(
            "the registry knows the live sockets",
            REPAIRED,
            async || self.redis.logins().await == live,
        )
        .await;
        let history = self
            .followers
            .stop_and_collect(&api, self.redis.address())
            .await;
        println!("{}", self.followers.report());
        assert!(history.log.first() == 1, "the log has begun anew");
        for follower in self.followers.all() {
            let losses = follower.notes().read().losses();
            let told = losses.iter().any(|(_, reason)| *reason == Reason::Unknown);
            assert!(told, "{} was told {losses:?}", follower.name());
        }
        let forgotten = assert_consistent(&history, &[Kind::Forgotten]);
        assert!(!forgotten.is_empty(), "nothing was forgotten");
    }
}

/// Waits until a follower is told that its position is unknown.
async fn until_told(follower: &Follower, within: Duration) {
    let unknown = |notes: &Notes| {
        let losses = notes.losses();
        losses
            .iter()
            .any(|(_, reason)| *reason == Reason::Unknown)
            .then_some(())
    };
    let told = follower.notes().until(within, unknown).await;
    assert!(told.is_some(), "{} is not told", follower.name());
}

async fn publish(chat: &ChatApi) {
    let sent = chat.send(ROOM, "herald", r#"{"n":100}"#, "first").await;
    sent.expect("it is taken");
}

#[tokio::test]
async fn after_a_flush_the_next_publication_tells_everybody() {
    let wiped = Wiped::begin(&[]).await;
    wiped.redis.command(&["FLUSHALL"]).await;
    publish(&wiped.services.api(0)).await;
    for follower in wiped.followers.all() {
        until_told(follower, SOON).await;
    }
    wiped.ends_well().await;
}

/// Nobody publishes anything; the touch is enough.
#[tokio::test]
async fn after_a_flush_the_next_touch_tells_everybody() {
    let wiped = Wiped::begin(&["--touch", "1s"]).await;
    wiped.redis.command(&["FLUSHALL"]).await;
    for follower in wiped.followers.all() {
        until_told(follower, Duration::from_secs(4)).await;
    }
    wiped.ends_well().await;
}

/// The client is not recovered, whether its connector does not know the channel yet and must read, or still has the old
/// log in memory and has not noticed anything.
#[tokio::test]
async fn after_a_flush_a_client_that_comes_back_is_told() {
    for connector in [2, 0] {
        a_client_that_comes_back_is_told(connector).await;
    }
}

async fn a_client_that_comes_back_is_told(connector: usize) {
    let wiped = Wiped::begin(&[]).await;
    let follower = wiped.followers.all().last().expect("somebody");
    follower.disconnect(Leaving::Breaking).await;
    wiped.redis.command(&["FLUSHALL"]).await;
    let connector = wiped.services.connectors[connector].address();
    follower.go_to(connector, Leaving::Breaking).await;
    until_told(follower, SOON).await;
    assert_eq!(follower.notes().read().recovered, (0, 1));
    publish(&wiped.services.api(0)).await;
    wiped.ends_well().await;
}

/// They are told at once, because each connection to Redis is new, and reads.
#[tokio::test]
async fn after_a_restart_without_a_file_everybody_is_told() {
    let mut wiped = Wiped::begin(&[]).await;
    wiped.redis.kill();
    wiped.redis.restart().await;
    for follower in wiped.followers.all() {
        until_told(follower, SOON).await;
    }
    wiped.ends_well().await;
}

/// In some rounds nobody sends, in the others everybody does.
#[tokio::test]
async fn after_a_flush_clients_with_a_live_socket_are_soon_members_again() {
    let wiped = Wiped::begin(&[]).await;
    let api = wiped.services.api(0);
    for round in 0..if long() { 20 } else { 4 } {
        if round % 2 == 0 {
            wiped.followers.stop_sending().await;
        } else {
            wiped.followers.start_sending();
            wiped.followers.until_each_acknowledged(10).await;
        }
        wiped.redis.command(&["FLUSHALL"]).await;
        let took = wiped.followers.until_listed(REPAIRED, &api).await;
        println!("members again after {took:?}");
    }
    wiped.followers.until_each_acknowledged(10).await;
    assert_eq!(wiped.followers.sum(|notes| notes.disconnected), 0);
    wiped.ends_well().await;
}

#[tokio::test]
async fn after_a_restart_without_a_file_clients_with_live_sockets_are_soon_members() {
    let mut wiped = Wiped::begin(&[]).await;
    let api = wiped.services.api(0);
    wiped.followers.start_sending();
    wiped.followers.until_each_acknowledged(10).await;
    wiped.redis.kill();
    wiped.redis.restart().await;
    let connected = Duration::from_secs(1);
    let took = wiped
        .followers
        .until_listed(REPAIRED + connected, &api)
        .await;
    println!("members again after {took:?}");
    wiped.followers.until_each_acknowledged(10).await;
    assert_eq!(wiped.followers.sum(|notes| notes.disconnected), 0);
    wiped.ends_well().await;
}
