//! Reaping over a store in memory, with a clock that the test sets.

use super::*;
use crate::cleanup::tests::leases::PartialLeases;
use channel_store::memory::{MemoryStore, Snapshot};
use channel_store::{
    ChannelName, ChannelStore, Join, LoggedIn, Login, LoginPolicy, Membership, SessionId,
    StoreOptions, User, UserId,
};

const LEASE: Duration = Duration::from_secs(10);
/// The time until the lease is seen for the first time, then its length and the margin. Each wait may be a millisecond
/// longer, because timers are not more exact than that.
const AT_THE_LATEST: Duration = Duration::from_millis(12_510);

struct Scene {
    store: Arc<MemoryStore>,
    leases: Arc<dyn Leases>,
}

impl Scene {
    fn new() -> Self {
        let store = MemoryStore::new(StoreOptions::default());
        let leases = store.leases();
        Self { store, leases }
    }

    fn reaper(&self) -> Reaper {
        self.reaper_over(self.leases.clone())
    }

    fn reaper_over(&self, leases: Arc<dyn Leases>) -> Reaper {
        let registry = self.store.registry();
        let places = PlaceReaper::new(self.store.clone(), registry.clone());
        Reaper::begin(places, leases, registry)
    }

    /// A connector with one member in each of these channels.
    async fn connector(&self, incarnation: &Incarnation, channels: &[ChannelName]) {
        self.renew(incarnation).await;
        for (nonce, channel) in (1..).zip(channels) {
            let place = Place::Channel(channel.clone());
            let entry = IndexEntry { place, nonce };
            self.leases.index_add(incarnation, &[entry]).await.unwrap();
        }
        for channel in channels {
            let join = Join::new(
                channel.clone(),
                User {
                    id: UserId::new(incarnation.as_str()).unwrap(),
                    is_number: false,
                },
                Membership::Session {
                    incarnation: incarnation.clone(),
                    session: SessionId::new(format!("{incarnation} in {channel}")).unwrap(),
                    operation: 1,
                },
            );
            self.store.join(join).await.unwrap();
        }
    }

    /// A connector tries to log a user in.
    async fn log_in(&self, incarnation: &Incarnation, name: &UserId) -> Result<bool, StoreError> {
        self.renew(incarnation).await;
        let place = Place::User(name.clone());
        let entry = IndexEntry { place, nonce: 1 };
        let indexed = self.leases.index_add(incarnation, &[entry]).await;
        indexed.unwrap();
        self.log_in_late(incarnation, name).await
    }

    /// The same, with a login that began before the connector's death.
    async fn log_in_late(
        &self,
        incarnation: &Incarnation,
        name: &UserId,
    ) -> Result<bool, StoreError> {
        let login = Login {
            user: name.clone(),
            session: SessionId::new(format!("{incarnation} of {name}")).unwrap(),
            incarnation: incarnation.clone(),
            deadline: u64::MAX,
            policy: LoginPolicy::Reject,
            proof: None,
            token: None,
            most_sessions: 0,
        };
        let login = self.store.registry().login(&login, &[]).await?;
        Ok(matches!(login, LoggedIn::Yes { .. }))
    }

    async fn logins(&self, users: &[UserId]) -> usize {
        let (registry, whoever) = (self.store.registry(), incarnation("whoever"));
        let looks = registry.entries(&whoever, users).await.unwrap();
        looks.iter().map(|look| look.entries.len()).sum()
    }

    async fn renew(&self, incarnation: &Incarnation) {
        self.leases.schedule(incarnation).await.unwrap();
        self.leases.renew(incarnation, LEASE).await.unwrap();
    }

    async fn members(&self, channels: &[ChannelName]) -> usize {
        let mut members = 0;
        for channel in channels {
            let page = self.store.members(channel, None, 100).await.unwrap();
            members += page.members.len();
        }
        members
    }

    /// How many joins and leaves were published in a channel.
    async fn announcements(&self, channel: &ChannelName) -> usize {
        let range = channel_store::HistoryRange::Oldest;
        let page = self.store.history(channel, &range, 100).await.unwrap();
        page.entries.len()
    }
}

fn incarnation(name: &str) -> Incarnation {
    Incarnation::new(name).unwrap()
}

fn channels() -> Vec<ChannelName> {
    let name = |n| ChannelName::new(format!("room-{n}")).unwrap();
    (0..20).map(name).collect()
}

#[tokio::test(start_paused = true)]
async fn members_of_a_silent_connector_leave_once_even_if_several_chats_reap_it() {
    let (scene, channels) = (Scene::new(), channels());
    let _reaper = [scene.reaper(), scene.reaper(), scene.reaper()];
    let (dead, alive) = (incarnation("c:1"), incarnation("c:2"));
    scene.connector(&dead, &channels).await;
    scene.connector(&alive, &channels).await;
    let renewing = AbortOnDropHandle::new(tokio::spawn({
        let (leases, alive) = (scene.leases.clone(), alive.clone());
        async move {
            loop {
                leases.schedule(&alive).await.unwrap();
                leases.renew(&alive, LEASE).await.unwrap();
                sleep(LEASE / 3).await;
            }
        }
    }));
    sleep(LEASE).await;
    assert_eq!(
        scene.members(&channels).await,
        40,
        "the lease has not expired yet"
    );
    sleep(AT_THE_LATEST - LEASE).await;
    assert_eq!(scene.members(&channels).await, 20);
    for channel in &channels {
        assert_eq!(
            scene.announcements(channel).await,
            3,
            "two joins, one leave"
        );
    }
    // After twice the settle time nothing is left of it.
    sleep(2 * SETTLE_TIME + 4 * POLL).await;
    assert_eq!(scene.leases.index(&dead).await.unwrap(), []);
    assert_eq!(scene.leases.index(&alive).await.unwrap().len(), 20);
    assert_eq!(scene.members(&channels).await, 20);
    drop(renewing);
    sleep(AT_THE_LATEST).await;
    assert_eq!(scene.members(&channels).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_at_the_last_moment_stays_live() {
    let (scene, channels) = (Scene::new(), channels());
    let _reaper = scene.reaper();
    let late = incarnation("c:1");
    scene.connector(&late, &channels).await;
    for _ in 0..10 {
        // The length of the lease is over, and the margin is not.
        sleep(LEASE + Duration::from_millis(1_400)).await;
        scene.renew(&late).await;
    }
    assert_eq!(scene.members(&channels).await, 20);
}

#[tokio::test(start_paused = true)]
async fn a_reaping_that_a_failover_lost_is_repeated_by_the_second_look() {
    let (scene, channels) = (Scene::new(), channels());
    let _reaper = scene.reaper();
    let dead = incarnation("c:1");
    scene.connector(&dead, &channels).await;
    let before: Snapshot = scene.store.snapshot();
    sleep(AT_THE_LATEST).await;
    assert_eq!(scene.members(&channels).await, 0);
    scene.store.restart(Some(before));
    assert_eq!(scene.members(&channels).await, 20);
    sleep(SETTLE_TIME + POLL).await;
    assert_eq!(scene.members(&channels).await, 0);
    sleep(4 * SETTLE_TIME).await;
    assert_eq!(scene.leases.index(&dead).await.unwrap(), []);
    assert!(scene.leases.directory().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn reaping_goes_on_if_the_chat_that_began_it_is_gone() {
    let (scene, channels) = (Scene::new(), channels());
    let first = scene.reaper();
    let dead = incarnation("c:1");
    scene.connector(&dead, &channels).await;
    scene.leases.resign(&dead).await.unwrap();
    scene.leases.schedule(&dead).await.unwrap();
    while scene.members(&channels).await > 10 {
        tokio::task::yield_now().await;
        sleep(Duration::from_millis(1)).await;
    }
    drop(first);
    let _second = scene.reaper();
    sleep(3 * SETTLE_TIME).await;
    assert_eq!(scene.members(&channels).await, 0);
    let directory = scene.leases.directory().await.unwrap();
    assert!(
        directory.is_empty(),
        "the connector is removed from the directory"
    );
    for channel in &channels {
        assert_eq!(scene.announcements(channel).await, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_gets_its_full_time() {
    let (scene, channels) = (Scene::new(), channels());
    let _reaper = scene.reaper();
    let lost = incarnation("c:1");
    scene.leases.schedule(&lost).await.unwrap();
    sleep(2 * POLL).await;
    let state = scene.leases.observe(std::slice::from_ref(&lost)).await;
    assert!(state[0].as_ref().is_ok_and(|it| !it.unwrap().dead));
    // Its owner takes the lease over.
    sleep(LEASE - 2 * POLL).await;
    scene.connector(&lost, &channels).await;
    sleep(LEASE).await;
    assert_eq!(scene.members(&channels).await, 20);
}

fn users() -> Vec<UserId> {
    let name = |n| UserId::new(format!("user-{n}")).unwrap();
    (0..20).map(name).collect()
}

#[tokio::test(start_paused = true)]
async fn users_of_a_dead_connector_can_log_in_again_and_its_late_logins_fail() {
    let (scene, users) = (Scene::new(), users());
    let _reaper = scene.reaper();
    let dead = incarnation("c:1");
    for user in &users {
        assert_eq!(scene.log_in(&dead, user).await, Ok(true));
    }
    let restarted = incarnation("c:2");
    assert_eq!(
        scene.log_in_late(&restarted, &users[0]).await,
        Ok(false),
        "the lease has not expired yet"
    );
    sleep(AT_THE_LATEST).await;
    assert_eq!(scene.logins(&users).await, 0);
    for user in &users {
        let late = scene.log_in_late(&dead, user).await;
        assert_eq!(late, Err(StoreError::ConnectorDead));
        assert_eq!(scene.log_in_late(&restarted, user).await, Ok(true));
    }
    sleep(3 * SETTLE_TIME).await;
    assert_eq!(scene.leases.index(&dead).await.unwrap(), []);
    assert_eq!(
        scene.logins(&users).await,
        20,
        "logins of the other connector stay"
    );
}

#[tokio::test(start_paused = true)]
async fn logins_that_a_failover_restored_are_reaped_by_the_second_look() {
    let (scene, users) = (Scene::new(), users());
    let _reaper = scene.reaper();
    let dead = incarnation("c:1");
    for user in &users {
        assert_eq!(scene.log_in(&dead, user).await, Ok(true));
    }
    let channels = channels();
    scene.connector(&dead, &channels).await;
    let before: Snapshot = scene.store.snapshot();
    sleep(AT_THE_LATEST).await;
    assert_eq!(scene.logins(&users).await, 0);
    scene.store.restart(Some(before));
    assert_eq!(scene.logins(&users).await, 20);
    sleep(SETTLE_TIME + 2 * AT_THE_LATEST).await;
    assert_eq!(scene.logins(&users).await, 0);
    assert_eq!(scene.members(&channels).await, 0);
    sleep(4 * SETTLE_TIME).await;
    assert_eq!(scene.leases.index(&dead).await.unwrap(), []);
}

/// How far clocks are set, in milliseconds.
const STEPS: [i64; 4] = [-15_000, 15_000, -300_000, 300_000];

#[tokio::test(start_paused = true)]
async fn setting_a_clock_neither_declares_a_connector_dead_nor_keeps_one_alive() {
    for step in STEPS {
        let (scene, channels) = (Scene::new(), channels());
        let _reaper = scene.reaper();
        let (dead, alive) = (incarnation("c:1"), incarnation("c:2"));
        scene.connector(&dead, &channels).await;
        scene.connector(&alive, &channels).await;
        let died = Instant::now();
        for _ in 0..3 {
            sleep(LEASE / 4).await;
            scene.store.set_clock(None, step);
            sleep(LEASE / 20).await;
            scene.renew(&alive).await;
        }
        sleep_until(died + LEASE + MARGIN).await;
        let members = scene.members(&channels).await;
        assert_eq!(
            members, 40,
            "{step}: no connector was silent for long enough"
        );
        scene.renew(&alive).await;
        sleep_until(died + AT_THE_LATEST).await;
        let members = scene.members(&channels).await;
        assert_eq!(
            members, 20,
            "{step}: the dead connector was silent for long enough"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_could_not_be_read_is_observed_from_the_beginning() {
    let (scene, channels) = (Scene::new(), channels());
    let leases = PartialLeases::of(&scene.leases);
    let _reaper = scene.reaper_over(leases.clone());
    let (hidden, seen) = (incarnation("c:1"), incarnation("c:2"));
    scene.connector(&hidden, &channels).await;
    scene.connector(&seen, &channels).await;
    sleep(LEASE - POLL).await;
    leases.hide(&hidden);
    sleep(POLL).await;
    leases.show(&hidden);
    sleep(AT_THE_LATEST - LEASE).await;
    let members = scene.members(&channels).await;
    assert_eq!(members, 20, "the other lease could be read all the time");
    sleep(LEASE - POLL).await;
    assert_eq!(scene.members(&channels).await, 20);
    sleep(2 * POLL).await;
    assert_eq!(scene.members(&channels).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_frozen_observes_leases_from_the_beginning() {
    let (scene, channels) = (Scene::new(), channels());
    let leases = PartialLeases::of(&scene.leases);
    let _reaper = scene.reaper_over(leases.clone());
    let silent = incarnation("c:1");
    scene.connector(&silent, &channels).await;
    sleep(LEASE / 2).await;
    // The process and its connectors stand still. The store's answer to the last look comes afterwards.
    leases.hold();
    sleep(LEASE).await;
    leases.release();
    sleep(LEASE).await;
    let members = scene.members(&channels).await;
    assert_eq!(members, 20, "the connector may have been frozen as well");
    sleep(AT_THE_LATEST - LEASE + POLL).await;
    assert_eq!(scene.members(&channels).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_before_its_death_is_written_stays_live() {
    let (scene, channels) = (Scene::new(), channels());
    let leases = PartialLeases::of(&scene.leases);
    let _reaper = scene.reaper_over(leases.clone());
    let late = incarnation("c:1");
    scene.connector(&late, &channels).await;
    leases.renews_before_declaration(LEASE);
    sleep(3 * LEASE).await;
    assert!(leases.declarations() > 0);
    assert_eq!(scene.members(&channels).await, 20);
}

#[tokio::test(start_paused = true)]
async fn each_connector_chooses_the_length_of_its_lease() {
    let (scene, channels) = (Scene::new(), channels());
    let _reaper = scene.reaper();
    let (short, long) = (incarnation("c:1"), incarnation("c:2"));
    scene.connector(&short, &channels).await;
    scene.connector(&long, &channels).await;
    let lengths = [(&short, LEASE / 5), (&long, 2 * LEASE)];
    for (incarnation, length) in lengths {
        scene.leases.renew(incarnation, length).await.unwrap();
    }
    sleep(LEASE / 5 + AT_THE_LATEST - LEASE).await;
    assert_eq!(scene.members(&channels).await, 20);
    sleep(LEASE + LEASE / 2).await;
    assert_eq!(scene.members(&channels).await, 20);
    sleep(LEASE / 2).await;
    assert_eq!(scene.members(&channels).await, 0);
}
