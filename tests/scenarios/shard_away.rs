//! One shard of a cluster hangs, and nobody takes its place: whatever needs only the other shards goes on, also on a
//! connector whose lease is on the one that hangs.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use testkit::chat_api::ChatApi;
use testkit::cluster::Cluster;
use testkit::json::Client;
use testkit::pace::timeout;
use testkit::permit::Permit;
use testkit::pomelo::{Client as PomeloClient, LOGIN};
use testkit::service::{Chat, Connector};
use testkit::{SOON, http, long, pace, wait};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

const JOIN: &str = "chat.handler.join";
const LEAVE: &str = "chat.handler.leave";
const SEND: &str = "chat.handler.send";
/// How long each request may take whose places are on shards that work.
const IN_TIME: Duration = Duration::from_secs(2);
/// Between rounds of visits.
const ROUND: Duration = Duration::from_millis(250);
/// Connectors that are started at most until one has its lease on the shard in question.
const DRAWN: usize = 40;
/// Members of each connector before the shard hangs, of each protocol.
const MEMBERS: usize = 4;
/// Clients of the shard that hangs, which try again and again.
const STUBBORN: usize = 20;

/// How long the shard hangs.
fn absence() -> Duration {
    Duration::from_secs(if long() { 60 } else { 15 })
}

/// Names that lie on one shard, and on any but that; each is given out once.
struct Names {
    well: Vec<String>,
    away: Vec<String>,
    given: AtomicUsize,
}

impl Names {
    fn of(cluster: &Cluster, shard: usize) -> Self {
        let (mut well, mut away) = (Vec::new(), Vec::new());
        for number in 0..if long() { 10_000 } else { 3_000 } {
            let name = format!("name-{number}");
            match cluster.first_owner(&name) == shard {
                true => away.push(name),
                false => well.push(name),
            }
        }
        Self {
            well,
            away,
            given: AtomicUsize::new(0),
        }
    }

    fn next<'a>(&self, of: &'a [String]) -> &'a str {
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        of.get(number).expect("there are enough names")
    }

    /// A name on a shard that works.
    fn well(&self) -> &str {
        self.next(&self.well)
    }

    /// A name on the shard that hangs.
    fn away(&self) -> &str {
        self.next(&self.away)
    }
}

/// The incarnation whose lease a connector has taken first.
async fn incarnation(connector: &Connector) -> String {
    wait::some("a lease is taken", SOON, async || {
        connector.lines().iter().find_map(|line| {
            let event: Value = serde_json::from_str(line).ok()?;
            let fields = event.get("fields").unwrap_or(&event);
            let is_taken = fields["message"] == "lease taken";
            is_taken.then(|| fields["incarnation"].as_str().map(str::to_owned))?
        })
    })
    .await
}

/// Two chats and three connectors on a cluster in which nobody takes a dead primary's place. The first connector has its
/// lease on the shard in question, and the last one has not.
struct Scene {
    connectors: Vec<Connector>,
    chats: Vec<Chat>,
    names: Arc<Names>,
    shard: usize,
    cluster: Cluster,
    _permit: Permit,
}

impl Scene {
    /// `of_directory`: the shard in question is the one of the directory, or else another one.
    async fn new(of_directory: bool) -> Self {
        let permit = Permit::alone().await;
        let cluster = Cluster::without_failover().await;
        let directory = cluster.of_primary("connectors").await;
        let shard = match of_directory {
            true => directory,
            false => (directory + 1) % 3,
        };
        let lease = ["--lease", "3s"];
        let url = cluster.url();
        let mut chats = Vec::new();
        for _ in 0..2 {
            let chat = Chat::begin(&url, &lease).await;
            chat.ready().await;
            chats.push(chat);
        }
        let known: Vec<_> = chats.iter().map(Chat::url).collect();
        let (mut there, mut elsewhere) = (Vec::new(), Vec::new());
        for number in 1..=DRAWN {
            let id = format!("connector-{number}");
            let connector = Connector::begin(&id, &known.join(","), &url, &lease).await;
            connector.ready().await;
            let of_lease = cluster.of_primary(&incarnation(&connector).await).await;
            let (found, most) = match of_lease == shard {
                true => (&mut there, 2),
                false => (&mut elsewhere, 2),
            };
            if found.len() < most {
                found.push(connector);
            }
            if !there.is_empty() && there.len() + elsewhere.len() >= 3 && !elsewhere.is_empty() {
                break;
            }
        }
        assert!(!there.is_empty(), "no lease fell on the shard");
        there.extend(elsewhere);
        there.truncate(3);
        let names = Arc::new(Names::of(&cluster, shard));
        Self {
            connectors: there,
            chats,
            names,
            shard,
            cluster,
            _permit: permit,
        }
    }

    fn api(&self) -> ChatApi {
        ChatApi::at(self.chats[0].address())
    }
}

/// Asks, and is answered in time.
async fn ask(client: &Client, route: &str, body: Value) -> Value {
    let began = Instant::now();
    let asked = timeout(2 * SOON, client.request(route, body.clone())).await;
    let answer = asked.unwrap_or_else(|_| panic!("{route} {body} is not answered"));
    let took = pace::since(began);
    assert!(took <= IN_TIME, "{route} {body}: {answer} after {took:?}");
    assert_eq!(answer["code"], 0, "{route} {body}: {answer} after {took:?}");
    answer
}

async fn come(at: SocketAddr, user: &str, channel: &str) -> Client {
    let client = Client::connect(at).await;
    ask(
        &client,
        LOGIN,
        json!({ "userId": user, "lessonId": channel }),
    )
    .await;
    client
}

/// Everything that a client does, each in time.
async fn visit(at: SocketAddr, names: Arc<Names>) {
    let (user, home) = (names.well(), names.well());
    let side = names.well();
    let client = come(at, user, home).await;
    ask(&client, SEND, json!({ "content": "hello" })).await;
    ask(&client, JOIN, json!({ "channel": side })).await;
    ask(&client, LEAVE, json!({ "channel": side })).await;
    ask(&client, LEAVE, json!({ "channel": home })).await;
}

/// Who only wants what is on the shard that hangs: logs in, speaks, and goes again, whatever it is told.
async fn stubborn(at: SocketAddr, user: String, channel: String) {
    loop {
        let client = Client::connect(at).await;
        let login = json!({ "userId": user, "lessonId": channel });
        let _ = timeout(SOON, client.request(LOGIN, login)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Says something every now and then in a channel of the shard that hangs, as one who is a member there.
async fn keeps_talking(client: Client) {
    loop {
        let said = json!({ "content": "is anybody there?" });
        let _ = timeout(SOON, client.request(SEND, said)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Members of channels that work, before anything happens.
struct Member {
    client: Client,
    user: String,
    channel: String,
    connector: usize,
}

async fn goes_on_elsewhere(of_directory: bool) {
    let mut scene = Scene::new(of_directory).await;
    let begun = Instant::now();
    let names = Arc::clone(&scene.names);
    let addresses: Vec<_> = scene.connectors.iter().map(|it| it.address()).collect();
    let (mut members, mut pomelo) = (Vec::new(), Vec::new());
    let mut noise = JoinSet::new();
    for (connector, at) in addresses.iter().copied().enumerate() {
        for _ in 0..MEMBERS {
            let (user, channel) = (names.well(), names.well());
            let client = come(at, user, channel).await;
            members.push(Member {
                client,
                user: user.to_owned(),
                channel: channel.to_owned(),
                connector,
            });
            let (user, channel) = (names.well(), names.well());
            pomelo.push((connector, PomeloClient::join(at, user, channel).await));
        }
        for _ in 0..2 {
            let (user, channel) = (names.well(), names.away());
            noise.spawn(keeps_talking(come(at, user, channel).await));
        }
    }
    println!("begun after {:?}", begun.elapsed());
    scene.cluster.nodes[scene.shard].freeze();
    let frozen = Instant::now();
    for number in 0..STUBBORN {
        let at = addresses[number % addresses.len()];
        let (user, channel) = (names.away().to_owned(), names.away().to_owned());
        noise.spawn(stubborn(at, user, channel));
    }

    // Everybody is ready all the time.
    let admins = scene.connectors.iter().map(|it| it.admin());
    let mut admins: Vec<_> = admins
        .chain(scene.chats.iter().map(|it| it.admin()))
        .collect();
    let killed = scene.connectors.len() - 1;
    admins.remove(killed);
    let mut ready = JoinSet::new();
    ready.spawn(async move {
        while frozen.elapsed() < absence() {
            for admin in &admins {
                let answer = http::get(*admin, "/readyz").await.expect("it answers");
                assert_eq!(
                    answer.status,
                    200,
                    "{:?}: {}",
                    frozen.elapsed(),
                    answer.body
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut is_killed = false;
    let mut visits = 0;
    let mut rounds = Vec::new();
    let mut ticks = interval(ROUND);
    while frozen.elapsed() < absence() {
        if !is_killed && frozen.elapsed() > absence() / 2 {
            is_killed = true;
            scene.connectors[killed].kill();
            members.retain(|member| member.connector != killed);
            pomelo.retain(|(connector, _)| *connector != killed);
        }
        ticks.tick().await;
        let began = Instant::now();
        let living = addresses
            .iter()
            .take(addresses.len() - usize::from(is_killed));
        let mut round = JoinSet::new();
        for at in living {
            round.spawn(visit(*at, Arc::clone(&names)));
            visits += 1;
        }
        for member in &members {
            ask(&member.client, SEND, json!({ "content": "still here" })).await;
        }
        for (_, client) in &pomelo {
            let said = pace::timeout(IN_TIME, client.say("still here")).await;
            said.expect("it is answered in time");
        }
        while let Some(visited) = round.join_next().await {
            visited.expect("each request is answered in time");
        }
        rounds.push(began.elapsed());
    }
    let is_ready = ready.join_next().await.expect("it was begun");
    is_ready.expect("everybody is ready all the time");
    println!(
        "{visits} visits in {} rounds: {:?}",
        rounds.len(),
        rounds.iter().max()
    );
    noise.shutdown().await;
    scene.cluster.nodes[scene.shard].thaw();
    let thawed = Instant::now();

    // Nobody was disconnected, and each can go on.
    for member in &members {
        assert!(
            member.client.ended().is_none(),
            "{} was closed",
            member.user
        );
    }
    let mut here: BTreeMap<&str, &str> = BTreeMap::new();
    for member in &members {
        here.insert(&member.channel, &member.user);
    }
    let api = scene.api();
    for (channel, user) in here {
        wait::eventually("members are those who are there", 6 * SOON, async || {
            let members = api.members(channel).await;
            members.is_ok_and(|members| members == [(user.to_owned(), 1)])
        })
        .await;
    }
    // Also those of the connector that was killed, and of those that came and went on the shard.
    let keys = async |pattern: &str| {
        let mut found = Vec::new();
        for node in 0..3 {
            let keys = scene.cluster.nodes[node].command(&["KEYS", pattern]).await;
            found.extend(keys.list().iter().filter_map(|key| key.text()));
        }
        found
    };
    wait::eventually(
        "nobody else is listed or logged in",
        12 * SOON,
        async || {
            let sessions = keys("gc:*:s").await;
            let entries = keys("gc:*:user:entries").await;
            sessions.len() == members.len() + pomelo.len() && entries.len() == sessions.len()
        },
    )
    .await;
    println!("at rest after {:?}", thawed.elapsed());
    for member in &members {
        ask(&member.client, SEND, json!({ "content": "and again" })).await;
        let side = names.away();
        ask(&member.client, JOIN, json!({ "channel": side })).await;
    }
}

#[tokio::test]
async fn with_a_lease_on_a_shard_that_hangs_everybody_elsewhere_goes_on() {
    goes_on_elsewhere(false).await;
}

#[tokio::test]
async fn with_the_directorys_shard_hanging_everybody_elsewhere_goes_on() {
    goes_on_elsewhere(true).await;
}

/// A session of the incarnation whose lease is out of reach can come to no new channel. With a secret it is told to come
/// again, and takes its place with it; without one it is refused for now.
#[tokio::test]
async fn who_wants_a_further_channel_while_its_lease_is_away_comes_back_to_its_place() {
    let scene = Scene::new(false).await;
    let names = Arc::clone(&scene.names);
    let at = scene.connectors[0].address();
    let (home, side) = (names.well(), names.well());
    let watcher = come(scene.connectors[2].address(), names.well(), home).await;
    let user = names.well();
    let client = Client::connect(at).await;
    let login = json!({ "userId": user, "lessonId": home });
    let answer = ask(&client, LOGIN, login.clone()).await;
    let secret = answer["resume"].as_str().expect("a secret").to_owned();
    let plain = PomeloClient::join(at, names.well(), home).await;
    scene.cluster.nodes[scene.shard].freeze();

    let body = json!({ "channel": side }).to_string();
    let refused = plain.request_in_time(JOIN, &body);
    assert!(refused.await.contains("500"), "refused for now");
    assert!(plain.ended().is_none(), "it can't come back to its place");
    let answer = client.request(JOIN, json!({ "channel": side })).await;
    assert_eq!(answer["code"], 500, "{answer}");
    wait::eventually("it is closed", SOON, async || client.ended().is_some()).await;
    let end = format!("{:?}", client.ended());
    assert!(end.contains("4014"), "{end}");

    let client = Client::connect(at).await;
    let mut again = login;
    again["resume"] = secret.into();
    ask(&client, LOGIN, again).await;
    ask(&client, JOIN, json!({ "channel": side })).await;
    let members = scene.api().members(home).await.expect("they are listed");
    assert!(members.contains(&(user.to_owned(), 1)), "{members:?}");
    scene.cluster.nodes[scene.shard].thaw();
    ask(&client, SEND, json!({ "content": "back" })).await;
    wait::eventually("the watcher has heard it", SOON, async || {
        let pushes = &watcher.inbox().read().pushes;
        pushes.iter().any(|push| push["body"]["content"] == "back")
    })
    .await;
    let pushes = &watcher.inbox().read().pushes;
    let left = pushes.iter().filter(|push| push["route"] == "onLeave");
    assert_eq!(left.count(), 0, "nobody has seen it leave");
}
