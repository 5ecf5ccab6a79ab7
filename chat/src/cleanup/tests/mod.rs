//! Two chats over a store in memory, with a clock that the test sets.

pub(super) mod leases;

use super::*;
use crate::api::Api;
use crate::calls::Calls;
use crate::config::Limits;
use channel_store::memory::{MemoryStore, Snapshot};
use channel_store::{
    DroppedBy, HistoryRange, Incarnation, IndexEntry, Join, Membership, Place, SessionId,
    StoreOptions, User, UserId,
};
use leases::PartialLeases;
use proto::chat::v1::chat_service_server::ChatService;
use proto::chat::v1::{JoinRequest, ListMembersRequest};
use runtime::Shutdown;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Request;

const LEASE: Duration = Duration::from_secs(10);
/// The time for a lease, its observation, two polls, and the check of the channel.
const AT_THE_LATEST: Duration = Duration::from_secs(14);
const DETACHED: Duration = Duration::from_secs(60);

struct Scene {
    store: Arc<MemoryStore>,
    chats: [Api; 2],
}

impl Scene {
    fn new(detached_life: Duration) -> Self {
        Self::seen_by(detached_life, |leases| leases)
    }

    /// The same with chats that use other leases.
    fn seen_by(
        detached_life: Duration,
        see: impl FnOnce(Arc<dyn Leases>) -> Arc<dyn Leases>,
    ) -> Self {
        let store = MemoryStore::new(StoreOptions {
            detached_life,
            lease: LEASE,
            ..StoreOptions::default()
        });
        let leases = see(store.leases());
        let chat = || {
            let cleanup = Cleanup::begin(store.clone(), leases.clone(), store.registry());
            let calls = Calls::new(
                store.clone(),
                cleanup,
                Arc::default(),
                Limits::default(),
                Shutdown::new(),
            );
            Api(calls)
        };
        Self {
            chats: [chat(), chat()],
            store,
        }
    }

    /// A connector that works and has members in the room.
    async fn connector(&self, incarnation: &Incarnation) {
        let leases = self.store.leases();
        leases.schedule(incarnation).await.unwrap();
        leases.renew(incarnation, LEASE).await.unwrap();
        let place = Place::Channel(room());
        let entry = IndexEntry { place, nonce: 1 };
        leases.index_add(incarnation, &[entry]).await.unwrap();
        for name in ["ann", "bob", "cid"] {
            let join = Join::new(
                room(),
                User {
                    id: UserId::new(name).unwrap(),
                    is_number: false,
                },
                Membership::Session {
                    incarnation: incarnation.clone(),
                    session: SessionId::new(format!("{incarnation} {name}")).unwrap(),
                    operation: 1,
                },
            );
            self.store.join(join).await.unwrap();
        }
    }

    /// The store keeps the channels and loses everything about connectors.
    fn forgets_connectors(&self) {
        let channels = self.store.snapshot();
        let on = channels.with_leases_of(&Snapshot::default());
        self.store.restart(Some(on));
    }

    /// A detached member joins, or renews its membership.
    async fn bot_joins(&self, chat: usize) {
        self.joins(chat, "bot", None).await;
    }

    /// The same for this time.
    async fn joins(&self, chat: usize, user: &str, ttl: Option<Duration>) {
        let join = JoinRequest {
            channel: room().to_string(),
            user: user.into(),
            ttl: ttl.map(|it| it.try_into().unwrap()),
            ..JoinRequest::default()
        };
        self.chats[chat].join(Request::new(join)).await.unwrap();
    }

    async fn is_listed(&self) {
        self.lists(&room()).await;
    }

    async fn lists(&self, channel: &ChannelName) {
        let page = ListMembersRequest {
            channel: channel.to_string(),
            ..ListMembersRequest::default()
        };
        self.chats[0]
            .list_members(Request::new(page))
            .await
            .unwrap();
    }

    /// The joins and leaves that were published in the room. Reading them starts no check.
    async fn announcements(&self) -> Vec<String> {
        let (room, range) = (room(), HistoryRange::Oldest);
        let page = self.store.history(&room, &range, 100).await.unwrap();
        let told = page.entries.iter().map(|it| {
            let body = String::from_utf8_lossy(it.payload.body()).into_owned();
            format!("{} {body}", it.payload.route())
        });
        told.collect()
    }

    async fn leaves(&self) -> Vec<String> {
        let mut told = self.announcements().await;
        told.retain(|it| it.starts_with("onLeave"));
        told.sort();
        told
    }
}

fn room() -> ChannelName {
    ChannelName::new("room").unwrap()
}

fn incarnation() -> Incarnation {
    Incarnation::new("c:1").unwrap()
}

fn everybody() -> [String; 3] {
    ["ann", "bob", "cid"].map(|it| format!(r#"onLeave {{"userId":"{it}"}}"#))
}

async fn members_of_a_forgotten_connector_leave_after(meet: impl AsyncFnOnce(&Scene)) {
    let scene = Scene::new(100 * LEASE);
    scene.connector(&incarnation()).await;
    scene.forgets_connectors();
    sleep(10 * LEASE).await;
    assert_eq!(
        scene.leaves().await.len(),
        0,
        "no chat knows of the connector"
    );
    let met = Instant::now();
    meet(&scene).await;
    sleep_until(met + LEASE).await;
    assert_eq!(scene.leaves().await.len(), 0, "the connector may be alive");
    sleep_until(met + AT_THE_LATEST).await;
    assert_eq!(scene.leaves().await, everybody());
    sleep(Duration::from_secs(600)).await;
    assert_eq!(scene.leaves().await, everybody(), "each member leaves once");
    let directory = scene.store.leases().directory().await.unwrap();
    assert_eq!(directory.len(), 0, "the reaping is complete");
}

#[tokio::test(start_paused = true)]
async fn a_join_finds_members_of_a_forgotten_connector_and_they_leave_once() {
    members_of_a_forgotten_connector_leave_after(async |scene| scene.bot_joins(0).await).await;
}

#[tokio::test(start_paused = true)]
async fn listing_a_channel_finds_members_of_a_forgotten_connector() {
    members_of_a_forgotten_connector_leave_after(async |scene| scene.is_listed().await).await;
}

#[tokio::test(start_paused = true)]
async fn several_chats_may_find_members_of_a_forgotten_connector() {
    members_of_a_forgotten_connector_leave_after(async |scene| {
        for chat in [0, 1, 0, 1] {
            scene.bot_joins(chat).await;
            sleep(Duration::from_millis(700)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_cannot_be_read_does_not_delay_the_check_of_others() {
    let mut partial = None;
    let scene = Scene::seen_by(100 * LEASE, |leases| {
        partial.insert(PartialLeases::of(&leases)).clone()
    });
    scene.connector(&incarnation()).await;
    scene.forgets_connectors();
    let away = ChannelName::new("away").unwrap();
    partial.unwrap().lose_channel(&away);
    scene.lists(&away).await;
    scene.is_listed().await;
    sleep(AT_THE_LATEST).await;
    assert_eq!(scene.leaves().await, everybody());
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_was_listed_while_the_directory_was_away_is_checked_later() {
    let mut partial = None;
    let scene = Scene::seen_by(100 * LEASE, |leases| {
        partial.insert(PartialLeases::of(&leases)).clone()
    });
    scene.connector(&incarnation()).await;
    scene.forgets_connectors();
    let partial = partial.unwrap();
    partial.lose_directory(true);
    scene.is_listed().await;
    sleep(AT_THE_LATEST).await;
    assert_eq!(scene.leaves().await.len(), 0);
    partial.lose_directory(false);
    // The check is tried again every second.
    sleep(AT_THE_LATEST + Duration::from_secs(1)).await;
    assert_eq!(scene.leaves().await, everybody());
}

/// The connector is dead, and has members that its index does not name. Somebody lists the channel after this time.
async fn members_of_a_dead_connector_leave_after_a_listing(after: Duration) {
    let (scene, dead) = (Scene::new(100 * LEASE), incarnation());
    scene.connector(&dead).await;
    let leases = scene.store.leases();
    let lost = leases.index(&dead).await.unwrap();
    let dropped = leases.index_drop(&dead, &lost, DroppedBy::Owner);
    assert_eq!(dropped.await, Ok(1));
    leases.resign(&dead).await.unwrap();
    leases.schedule(&dead).await.unwrap();
    sleep(after).await;
    assert_eq!(
        scene.leaves().await.len(),
        0,
        "the members are not in the index"
    );
    scene.is_listed().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.leaves().await, everybody());
    sleep(Duration::from_secs(600)).await;
    assert_eq!(scene.leaves().await, everybody(), "each member leaves once");
    assert_eq!(leases.index(&dead).await.unwrap(), []);
    assert_eq!(leases.directory().await.unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn members_that_the_reaper_has_not_found_yet_leave_after_a_listing() {
    members_of_a_dead_connector_leave_after_a_listing(Duration::from_secs(600)).await;
}

#[tokio::test(start_paused = true)]
async fn members_that_the_reaper_cannot_find_leave_after_a_listing() {
    members_of_a_dead_connector_leave_after_a_listing(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn members_of_a_living_connector_stay() {
    let scene = Scene::new(100 * LEASE);
    scene.connector(&incarnation()).await;
    scene.forgets_connectors();
    scene.is_listed().await;
    for _ in 0..30 {
        sleep(LEASE / 3).await;
        scene.connector(&incarnation()).await;
        scene.is_listed().await;
    }
    assert_eq!(scene.leaves().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_detached_member_leaves_in_time_even_if_nobody_uses_the_channel() {
    let scene = Scene::new(DETACHED);
    scene.bot_joins(0).await;
    sleep(DETACHED / 2).await;
    scene.bot_joins(1).await;
    sleep(DETACHED - Duration::from_millis(10)).await;
    assert_eq!(
        scene.announcements().await.len(),
        1,
        "the membership was renewed"
    );
    sleep(Duration::from_millis(20)).await;
    let told = scene.announcements().await;
    let leave = r#"onLeave {"userId":"bot"}"#;
    assert_eq!(
        told[1..],
        [leave],
        "the leave is published once, by either chat"
    );
    sleep(DETACHED).await;
    scene.bot_joins(1).await;
    sleep(DETACHED + Duration::from_millis(10)).await;
    let told = scene.announcements().await;
    assert_eq!(told.len(), 4, "the channel is remembered again: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn each_detached_member_leaves_when_the_time_of_its_last_join_is_over() {
    const SLACK: Duration = Duration::from_millis(10);
    let scene = Scene::new(DETACHED);
    let users = async || {
        let told = scene.announcements().await;
        let left = told.iter().filter(|it| it.starts_with("onLeave"));
        let users = left.map(|it| it.split('"').nth(3).unwrap_or_default().to_owned());
        users.collect::<Vec<_>>()
    };
    scene.joins(0, "long", Some(100 * DETACHED)).await;
    scene.joins(0, "usual", None).await;
    scene.joins(0, "changed", Some(100 * DETACHED)).await;
    // Time for a first look at the channel.
    sleep(SLACK).await;
    scene.joins(0, "short", Some(DETACHED / 6)).await;
    sleep(DETACHED / 6 - SLACK).await;
    assert_eq!(users().await, Vec::<String>::new());
    sleep(2 * SLACK).await;
    assert_eq!(users().await, ["short"]);
    // The last join decides, also if it makes the membership end earlier.
    scene.joins(0, "changed", Some(DETACHED / 6)).await;
    sleep(DETACHED / 6 + SLACK).await;
    assert_eq!(users().await, ["short", "changed"]);
    sleep(DETACHED).await;
    assert_eq!(users().await, ["short", "changed", "usual"]);
    sleep(98 * DETACHED).await;
    assert_eq!(users().await.len(), 3);
    sleep(DETACHED).await;
    assert_eq!(users().await.pop().unwrap(), "long");
}
