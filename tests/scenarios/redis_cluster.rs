//! Redis Cluster: a primary dies, hands over, or gives its slots away, while members send.

use std::time::Duration;
use testkit::checker::Kind;
use testkit::cluster::{Cluster, NODE_TIMEOUT, slot};
use testkit::followers::{Followers, ROOM, WHOLE_LOG, assert_consistent};
use testkit::permit::Permit;
use testkit::pomelo::{Client, joined, left};
use testkit::system::{Plan, Services};
use testkit::{SOON, long, wait};
use tokio::time::Instant;

/// How many leaves a connector has under way in one shard at once.
const LEAVES_AT_ONCE: usize = 64;

/// From a primary's death to the next acknowledgement.
const BACK: Duration = Duration::from_secs(4);

struct Running {
    services: Services,
    followers: Followers,
    cluster: Cluster,
    _permit: Permit,
}

impl Running {
    /// Starts services on a Cluster, and members that send.
    async fn begin() -> Self {
        let plan = Plan::of(2, 2).alone().chat_flags(&WHOLE_LOG);
        let permit = plan.permit().await;
        let cluster = Cluster::start().await;
        let services = plan.services(&cluster.url(), &cluster.url()).await;
        let followers = Followers::start(&services.addresses(), 6, 4).await;
        followers.start_sending();
        followers.until_each_acknowledged(50).await;
        Self {
            services,
            followers,
            cluster,
            _permit: permit,
        }
    }

    /// Checks that everybody has what the log has, and that nobody was disconnected.
    async fn ends_well(&self, except: &[Kind]) {
        self.followers.until_each_acknowledged(50).await;
        let server = self.cluster.any().await;
        let history = self
            .followers
            .stop_and_collect(&self.services.api(0), server)
            .await;
        println!("{}", self.followers.report());
        assert_eq!(self.followers.sum(|notes| notes.disconnected), 0);
        let lost = assert_consistent(&history, except);
        println!("{} acknowledged and lost with the primary", lost.len());
    }
}

/// Publications that the replica has not received are lost, and clients are told. Everything else is there.
#[tokio::test]
async fn a_killed_cluster_primary_is_replaced_and_those_who_saw_lost_messages_are_told() {
    let mut running = Running::begin().await;
    let (primary, replica) = running.cluster.of(ROOM).await;
    running.cluster.nodes[primary].kill();
    let killed = Instant::now();
    let again = running
        .followers
        .until_acknowledged_since(killed + Duration::from_millis(300))
        .await;
    let again = again + Duration::from_millis(300);
    println!("on after {again:?}");
    assert!(again <= NODE_TIMEOUT + BACK, "{again:?}");
    running.cluster.until_primary(ROOM, replica).await;
    running.ends_well(&[Kind::Forgotten]).await;
}

#[tokio::test]
async fn a_planned_failover_of_a_cluster_primary_loses_nothing() {
    let running = Running::begin().await;
    for _ in 0..if long() { 10 } else { 2 } {
        let (primary, replica) = running.cluster.of(ROOM).await;
        let failover = ["CLUSTER", "FAILOVER"];
        let began = Instant::now();
        running.cluster.nodes[replica].command(&failover).await;
        running.cluster.until_primary(ROOM, replica).await;
        running.followers.until_each_acknowledged(50).await;
        wait::eventually("the old primary follows", 2 * SOON, async || {
            let link = running.cluster.nodes[primary].info("replication", "master_link_status");
            link.await.as_deref() == Some("up")
        })
        .await;
        // Within two node time-outs the others vote only once for a replica of one primary. A second failover would
        // hang.
        while began.elapsed() < 3 * NODE_TIMEOUT {
            running.followers.until_each_acknowledged(50).await;
        }
    }
    assert_eq!(running.followers.sum(|notes| notes.losses().len()), 0);
    running.ends_well(&[]).await;
}

/// One primary hangs and is not replaced. Leaves of its channels wait, and leaves of other channels do not.
#[tokio::test]
async fn leaves_on_a_shard_that_hangs_delay_no_leaves_on_another() {
    let plan = Plan::of(1, 1).alone();
    let _permit = plan.permit().await;
    let cluster = Cluster::without_failover().await;
    let services = plan.services(&cluster.url(), &cluster.url()).await;
    let connector = services.connectors[0].address();
    let hanging = cluster.of_primary(ROOM).await;
    let mut elsewhere = None;
    for number in 0.. {
        let channel = format!("elsewhere-{number}");
        if cluster.of_primary(&channel).await != hanging {
            elsewhere = Some(channel);
            break;
        }
    }
    let elsewhere = elsewhere.expect("there are three shards");

    let listener = Client::join(connector, "listener", &elsewhere).await;
    let leaver = Client::join(connector, "leaver", &elsewhere).await;
    listener.until_push(&joined("leaver")).await;
    let mut members = Vec::new();
    for number in 0..2 * LEAVES_AT_ONCE {
        members.push(Client::join(connector, &format!("member-{number}"), ROOM).await);
    }
    cluster.nodes[hanging].freeze();
    drop(members);
    wait::eventually("the connector knows that they are gone", SOON, async || {
        services.connectors[0].connections().await == 2
    })
    .await;
    drop(leaver);
    listener.until_push(&left("leaver")).await;

    cluster.nodes[hanging].thaw();
    wait::eventually("the others have left, too", 3 * SOON, async || {
        let members = services.api(0).members(ROOM).await;
        members.is_ok_and(|members| members.is_empty())
    })
    .await;
}

/// The slot of the room moves to another primary and back, and then many slots move.
#[tokio::test]
async fn slots_that_move_under_load_lose_nothing() {
    let running = Running::begin().await;
    let cluster = &running.cluster;
    let slot = slot(ROOM);
    for _ in 0..if long() { 10 } else { 2 } {
        let from = cluster.of_primary(ROOM).await;
        let to = (0..3).find(|node| *node != from).expect("another primary");
        cluster.move_slot(slot, from, to);
        let moved = Instant::now();
        let again = running.followers.until_acknowledged_since(moved).await;
        running.followers.until_each_acknowledged(50).await;
        println!("slot {slot} moved from {from} to {to}; on after {again:?}");
        cluster.until_primary(ROOM, to).await;
    }
    let slots = if long() { 2_000 } else { 200 };
    let from = cluster.of_primary(ROOM).await;
    let to = (0..3).find(|node| *node != from).expect("another primary");
    cluster.move_slots(from, to, slots).await;
    assert_eq!(running.followers.sum(|notes| notes.losses().len()), 0);
    running.ends_well(&[]).await;
}
