//! One shard of a cluster hangs and is not replaced. Everything that needs only the other shards goes on, also on a
//! connector whose lease is on the shard that hangs.

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
/// How long a request may take if all its keys are on shards that work.
const IN_TIME: Duration = Duration::from_secs(2);
/// The pause between rounds of visits.
const ROUND: Duration = Duration::from_millis(250);
/// How many connectors are started at most, until the lease of one is on the shard that will hang.
const MOST_CONNECTORS: usize = 40;
/// Members of each connector before the shard hangs, of each protocol.
const MEMBERS: usize = 4;
/// Clients that try again and again to use the shard that hangs.
const RETRYING: usize = 20;

/// How long the shard hangs.
fn absence() -> Duration {
    Duration::from_secs(if long() { 60 } else { 15 })
}

/// Names of users and channels on the shard that will hang, and on the others. Each is given out once.
struct Names {
    working: Vec<String>,
    hanging: Vec<String>,
    given: AtomicUsize,
}

impl Names {
    fn of(cluster: &Cluster, shard: usize) -> Self {
        let (mut working, mut hanging) = (Vec::new(), Vec::new());
        for number in 0..if long() { 10_000 } else { 3_000 } {
            let name = format!("name-{number}");
            match cluster.first_owner(&name) == shard {
                true => hanging.push(name),
                false => working.push(name),
            }
        }
        Self {
            working,
            hanging,
            given: AtomicUsize::new(0),
        }
    }

    fn next<'a>(&self, of: &'a [String]) -> &'a str {
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        of.get(number).expect("there are enough names")
    }

    /// A name on a shard that works.
    fn working(&self) -> &str {
        self.next(&self.working)
    }

    /// A name on the shard that hangs.
    fn hanging(&self) -> &str {
        self.next(&self.hanging)
    }
}

/// The first incarnation of a connector that took a lease.
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

/// Two chats and three connectors on a cluster in which a primary that hangs is not replaced. The lease of the first
/// connector is on the shard that will hang, and that of the last one is not.
struct Scene {
    connectors: Vec<Connector>,
    chats: Vec<Chat>,
    names: Arc<Names>,
    shard: usize,
    cluster: Cluster,
    _permit: Permit,
}

impl Scene {
    /// `of_directory`: the shard that will hang is the one of the directory. Otherwise it is another one.
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
        for number in 1..=MOST_CONNECTORS {
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
        assert!(!there.is_empty(), "no lease is on the shard");
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

/// Sends a request, which must be answered in time and with success.
async fn ask(client: &Client, route: &str, body: Value) -> Value {
    let began = Instant::now();
    let asked = timeout(2 * SOON, client.request(route, body.clone())).await;
    let answer = asked.unwrap_or_else(|_| panic!("{route} {body} is not answered"));
    let took = pace::since(began);
    assert!(took <= IN_TIME, "{route} {body}: {answer} after {took:?}");
    assert_eq!(answer["code"], 0, "{route} {body}: {answer} after {took:?}");
    answer
}

async fn logged_in(at: SocketAddr, user: &str, channel: &str) -> Client {
    let client = Client::connect(at).await;
    ask(
        &client,
        LOGIN,
        json!({ "userId": user, "lessonId": channel }),
    )
    .await;
    client
}

/// Does everything that a client can do. Each request must be answered in time.
async fn visit(at: SocketAddr, names: Arc<Names>) {
    let (user, home) = (names.working(), names.working());
    let side = names.working();
    let client = logged_in(at, user, home).await;
    ask(&client, SEND, json!({ "content": "hello" })).await;
    ask(&client, JOIN, json!({ "channel": side })).await;
    ask(&client, LEAVE, json!({ "channel": side })).await;
    ask(&client, LEAVE, json!({ "channel": home })).await;
}

/// Logs in again and again with names on the shard that hangs, whatever the answer is.
async fn log_in_again_and_again(at: SocketAddr, user: String, channel: String) {
    loop {
        let client = Client::connect(at).await;
        let login = json!({ "userId": user, "lessonId": channel });
        let _ = timeout(SOON, client.request(LOGIN, login)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Sends again and again, as a member of a channel on the shard that hangs.
async fn send_again_and_again(client: Client) {
    loop {
        let said = json!({ "content": "is anybody there?" });
        let _ = timeout(SOON, client.request(SEND, said)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A member of a channel on a shard that works, from before the shard hangs.
struct Member {
    client: Client,
    user: String,
    channel: String,
    connector: usize,
}

async fn other_shards_go_on(of_directory: bool) {
    let mut scene = Scene::new(of_directory).await;
    let begun = Instant::now();
    let names = Arc::clone(&scene.names);
    let addresses: Vec<_> = scene.connectors.iter().map(|it| it.address()).collect();
    let (mut members, mut pomelo) = (Vec::new(), Vec::new());
    let mut noise = JoinSet::new();
    for (connector, at) in addresses.iter().copied().enumerate() {
        for _ in 0..MEMBERS {
            let (user, channel) = (names.working(), names.working());
            let client = logged_in(at, user, channel).await;
            members.push(Member {
                client,
                user: user.to_owned(),
                channel: channel.to_owned(),
                connector,
            });
            let (user, channel) = (names.working(), names.working());
            pomelo.push((connector, PomeloClient::join(at, user, channel).await));
        }
        for _ in 0..2 {
            let (user, channel) = (names.working(), names.hanging());
            noise.spawn(send_again_and_again(logged_in(at, user, channel).await));
        }
    }
    println!("begun after {:?}", begun.elapsed());
    scene.cluster.nodes[scene.shard].freeze();
    let frozen = Instant::now();
    for number in 0..RETRYING {
        let at = addresses[number % addresses.len()];
        let (user, channel) = (names.hanging().to_owned(), names.hanging().to_owned());
        noise.spawn(log_in_again_and_again(at, user, channel));
    }

    // All services but the one that is killed are ready all the time.
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
    is_ready.expect("all of them are ready all the time");
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
        wait::eventually("members are connected clients", 6 * SOON, async || {
            let members = api.members(channel).await;
            members.is_ok_and(|members| members == [(user.to_owned(), 1)])
        })
        .await;
    }
    // Members of the killed connector, and clients that came and went on the shard that hung, are gone, too.
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
        let side = names.hanging();
        ask(&member.client, JOIN, json!({ "channel": side })).await;
    }
}

#[tokio::test]
async fn when_the_shard_of_a_lease_hangs_clients_of_other_shards_go_on() {
    other_shards_go_on(false).await;
}

#[tokio::test]
async fn when_the_shard_of_the_directory_hangs_clients_of_other_shards_go_on() {
    other_shards_go_on(true).await;
}

/// While the lease of its incarnation is unreachable, a session can join no further channel. With a secret the client
/// is told to come again, and resumes. Without one it is refused for now.
#[tokio::test]
async fn a_session_that_cannot_join_because_its_lease_is_unreachable_can_resume() {
    let scene = Scene::new(false).await;
    let names = Arc::clone(&scene.names);
    let at = scene.connectors[0].address();
    let (home, side) = (names.working(), names.working());
    let watcher = logged_in(scene.connectors[2].address(), names.working(), home).await;
    let user = names.working();
    let client = Client::connect(at).await;
    let login = json!({ "userId": user, "lessonId": home });
    let answer = ask(&client, LOGIN, login.clone()).await;
    let secret = answer["resume"].as_str().expect("a secret").to_owned();
    let plain = PomeloClient::join(at, names.working(), home).await;
    scene.cluster.nodes[scene.shard].freeze();

    let body = json!({ "channel": side }).to_string();
    let refused = plain.request_in_time(JOIN, &body);
    assert!(refused.await.contains("500"), "refused for now");
    assert!(plain.ended().is_none(), "it could not resume");
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
    wait::eventually("the watcher has received it", SOON, async || {
        let pushes = &watcher.inbox().read().pushes;
        pushes.iter().any(|push| push["body"]["content"] == "back")
    })
    .await;
    let pushes = &watcher.inbox().read().pushes;
    let left = pushes.iter().filter(|push| push["route"] == "onLeave");
    assert_eq!(left.count(), 0, "nobody has seen it leave");
}
