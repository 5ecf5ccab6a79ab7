//! Two chats over a store in memory, with the clock in the test's hand.

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
/// A lease, its observation, two polls, and being met.
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

    /// The same with chats that see leases in some way of their own.
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
            let calls = Calls::new(store.clone(), cleanup, Limits::default(), Shutdown::new());
            Api(calls)
        };
        Self {
            chats: [chat(), chat()],
            store,
        }
    }

    /// A connector with some members in the room, as it is when it works.
    async fn connector(&self, incarnation: &Incarnation) {
        let leases = self.store.leases();
        leases.note(incarnation).await.unwrap();
        leases.renew(incarnation, LEASE).await.unwrap();
        let place = Place::Channel(room());
        let entry = IndexEntry { place, nonce: 1 };
        leases.index_add(incarnation, &[entry]).await.unwrap();
        for name in ["ann", "bob", "cid"] {
            let join = Join {
                channel: room(),
                user: User {
                    id: UserId::new(name).unwrap(),
                    is_number: false,
                },
                membership: Membership::Session {
                    incarnation: incarnation.clone(),
                    session: SessionId::new(format!("{incarnation} {name}")).unwrap(),
                    operation: 1,
                },
                deadline: None,
                replaces: Vec::new(),
            };
            self.store.join(join).await.unwrap();
        }
    }

    /// The channels are as they were, and nothing is known of any connector.
    fn forgets_connectors(&self) {
        let channels = self.store.snapshot();
        let on = channels.with_leases_of(&Snapshot::default());
        self.store.restart(Some(on));
    }

    /// A back end's own member joins, or joins again.
    async fn bot_joins(&self, chat: usize) {
        let join = JoinRequest {
            channel: room().to_string(),
            user: "bot".into(),
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

    /// Joins and leaves that the room was told of, without waking anybody.
    async fn told(&self) -> Vec<String> {
        let (room, range) = (room(), HistoryRange::Oldest);
        let page = self.store.history(&room, &range, 100).await.unwrap();
        let told = page.entries.iter().map(|it| {
            let body = String::from_utf8_lossy(it.payload.body()).into_owned();
            format!("{} {body}", it.payload.route())
        });
        told.collect()
    }

    async fn leaves(&self) -> Vec<String> {
        let mut told = self.told().await;
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

async fn the_forgotten_are_buried_when_met(meet: impl AsyncFnOnce(&Scene)) {
    let scene = Scene::new(100 * LEASE);
    scene.connector(&incarnation()).await;
    scene.forgets_connectors();
    sleep(10 * LEASE).await;
    assert_eq!(scene.leaves().await.len(), 0, "nobody knows of them");
    let met = Instant::now();
    meet(&scene).await;
    sleep_until(met + LEASE).await;
    assert_eq!(scene.leaves().await.len(), 0, "they may live");
    sleep_until(met + AT_THE_LATEST).await;
    assert_eq!(scene.leaves().await, everybody());
    sleep(Duration::from_secs(600)).await;
    assert_eq!(scene.leaves().await, everybody(), "each once");
    let directory = scene.store.leases().directory().await.unwrap();
    assert_eq!(directory.len(), 0, "the funeral is over");
}

#[tokio::test(start_paused = true)]
async fn who_joins_meets_members_of_a_forgotten_connector_and_they_leave_once() {
    the_forgotten_are_buried_when_met(async |scene| scene.bot_joins(0).await).await;
}

#[tokio::test(start_paused = true)]
async fn who_lists_a_channel_meets_them_too() {
    the_forgotten_are_buried_when_met(async |scene| scene.is_listed().await).await;
}

#[tokio::test(start_paused = true)]
async fn any_number_of_chats_may_meet_them() {
    the_forgotten_are_buried_when_met(async |scene| {
        for chat in [0, 1, 0, 1] {
            scene.bot_joins(chat).await;
            sleep(Duration::from_millis(700)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_can_not_be_read_keeps_no_other_from_being_checked() {
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
async fn who_was_met_while_the_directory_was_away_is_not_forgotten() {
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
    // It is tried again every second.
    sleep(AT_THE_LATEST + Duration::from_secs(1)).await;
    assert_eq!(scene.leaves().await, everybody());
}

/// Dead, with members whom its index doesn't have; met so long after.
async fn the_dead_ones_members_leave_when_met(after: Duration) {
    let (scene, dead) = (Scene::new(100 * LEASE), incarnation());
    scene.connector(&dead).await;
    let leases = scene.store.leases();
    let lost = leases.index(&dead).await.unwrap();
    let dropped = leases.index_drop(&dead, &lost, DroppedBy::Owner);
    assert_eq!(dropped.await, Ok(1));
    leases.resign(&dead).await.unwrap();
    leases.note(&dead).await.unwrap();
    sleep(after).await;
    assert_eq!(scene.leaves().await.len(), 0, "not in the index");
    scene.is_listed().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.leaves().await, everybody());
    sleep(Duration::from_secs(600)).await;
    assert_eq!(scene.leaves().await, everybody(), "each once");
    assert_eq!(leases.index(&dead).await.unwrap(), []);
    assert_eq!(leases.directory().await.unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_the_funeral_has_not_found_leaves_when_met() {
    the_dead_ones_members_leave_when_met(Duration::from_secs(600)).await;
}

#[tokio::test(start_paused = true)]
async fn whoever_the_funeral_does_not_find_leaves_when_met() {
    the_dead_ones_members_leave_when_met(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn whose_connector_lives_stay() {
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
async fn a_detached_member_leaves_when_its_time_is_over_though_nobody_looks() {
    let scene = Scene::new(DETACHED);
    scene.bot_joins(0).await;
    sleep(DETACHED / 2).await;
    scene.bot_joins(1).await;
    sleep(DETACHED - Duration::from_millis(10)).await;
    assert_eq!(scene.told().await.len(), 1, "it was renewed");
    sleep(Duration::from_millis(20)).await;
    let told = scene.told().await;
    let leave = r#"onLeave {"userId":"bot"}"#;
    assert_eq!(told[1..], [leave], "told once, by whichever chat");
    sleep(DETACHED).await;
    scene.bot_joins(1).await;
    sleep(DETACHED + Duration::from_millis(10)).await;
    let told = scene.told().await;
    assert_eq!(told.len(), 4, "a channel is remembered anew: {told:?}");
}
