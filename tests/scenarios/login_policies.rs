//! The login policies: what happens when one user logs in several times, on any connectors.

use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use testkit::link::{End, Record};
use testkit::pomelo::{self, LOGGED_IN, LOGGED_IN_ALREADY, LOGIN, login_body};
use testkit::system::{Plan, System};
use testkit::{SOON, json as ws, long, pace, wait};
use tokio::task::JoinSet;
use tokio::time::Instant;

const LEASE: Duration = Duration::from_secs(1);
/// From the end of a client's connection until its login is removed from the registry.
const FORGOTTEN: Duration = Duration::from_secs(1);
/// From the end of a dead connector's lease until what it held is reaped: chats observe and poll, and the machine may
/// be busy.
const REAPED: Duration = Duration::from_millis(2_000 + 500);
/// How many users log in at the same time.
const USERS: usize = 25;
const CONNECTORS: usize = 3;

fn plan(policy: &'static str) -> Plan {
    let flags = ["--lease", "1s"];
    let plan = Plan::of(CONNECTORS, 2).chat_flags(&flags);
    let plan = plan.connector_flags(&flags);
    plan.login_policy(policy)
}

/// A client of either protocol.
enum Client {
    Pomelo(pomelo::Client),
    Json(ws::Client),
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        if fastrand::bool() {
            Self::Pomelo(pomelo::Client::connect(address).await)
        } else {
            Self::Json(ws::Client::connect(address).await)
        }
    }

    /// True if the login succeeds, false if it is refused because the user is logged in already.
    async fn login(&self, user: &str, channel: &str) -> bool {
        let answer = self.login_unless_kicked(user, channel).await;
        answer.unwrap_or_else(|| panic!("{user} is not answered: {:?}", self.ended()))
    }

    /// Like `login`. `None`: a later login has kicked this client before it had its answer.
    async fn login_unless_kicked(&self, user: &str, channel: &str) -> Option<bool> {
        // On a busy machine a login may not get its turn. Then nothing was done, and it is tried again.
        let began = Instant::now();
        let body = loop {
            let body = self.try_login(user, channel).await?;
            if body["code"] != 429 {
                break body;
            }
            assert!(began.elapsed() < SOON, "{user} gets no turn: {body}");
        };
        let is = |known: &str| {
            let known: serde_json::Value = serde_json::from_str(known).expect("JSON");
            // A client of /ws gets a reason in place of Pomelo's message.
            let is_refused = body["reason"] == "USER_LOGGED_IN" && known["code"] == 1;
            body["code"] == known["code"] && (is_refused || body["message"] == known["message"])
        };
        assert!(is(LOGGED_IN) || is(LOGGED_IN_ALREADY), "{user}: {body}");
        Some(is(LOGGED_IN))
    }

    /// The body of the answer to a login. `None`: the client was closed before.
    async fn try_login(&self, user: &str, channel: &str) -> Option<serde_json::Value> {
        match self {
            Self::Pomelo(client) => {
                let id = client.start(LOGIN, &login_body(user, channel)).await;
                let answer = client.inbox().until(SOON, |received| {
                    let reply = received.reply(id).map(pomelo::Reply::text);
                    (reply.is_some() || received.end().is_some()).then_some(reply)
                });
                let answer = answer.await.expect("an answer, or an end");
                Some(serde_json::from_str(&answer?).expect("JSON"))
            }
            Self::Json(client) => {
                let id = fastrand::u32(..);
                let body = json!({ "userId": user, "lessonId": channel });
                let login = json!({ "id": id, "route": LOGIN, "body": body });
                client.text(&login.to_string()).await;
                let answer = client.inbox().until(SOON, |received| {
                    let mut replies = received.replies.iter();
                    let reply = replies.find(|reply| reply["id"] == id).cloned();
                    (reply.is_some() || received.end().is_some()).then_some(reply)
                });
                let answer = answer.await.expect("an answer, or an end");
                Some(answer?["body"].take())
            }
        }
    }

    fn ended(&self) -> Option<End> {
        match self {
            Self::Pomelo(client) => client.ended(),
            Self::Json(client) => client.ended(),
        }
    }

    /// Disconnects, with or without a close frame.
    async fn leave(self) {
        let with_close = fastrand::bool();
        match self {
            Self::Pomelo(client) if with_close => drop(client.close().await),
            Self::Pomelo(client) => client.reset().await,
            Self::Json(client) if with_close => drop(client.close().await),
            Self::Json(client) => drop(client),
        }
    }

    /// Checks that it was kicked because of a later login, and told so.
    async fn is_kicked(&self) {
        match self {
            Self::Pomelo(client) => {
                client.end(SOON).await;
                assert_eq!(client.kicked().as_deref(), Some("kick"));
            }
            Self::Json(client) => {
                let end = client.end(SOON).await;
                assert!(matches!(end, End::Closed { code: 4010, .. }), "{end:?}");
                let received = client.inbox().read();
                let mut pushes = received.pushes.iter();
                let kick = pushes.find(|push| push["route"] == "onKick");
                let kick = kick.unwrap_or_else(|| panic!("not told: {:?}", received.texts));
                assert_eq!(kick["body"]["reconnect"], false, "{kick}");
            }
        }
    }
}

/// A session, as its client knows it.
struct Session {
    asked: Instant,
    answered: Instant,
    leaving: Instant,
    left: Instant,
}

/// The results of one user's attempts to log in.
#[derive(Default)]
struct Attempts {
    sessions: Vec<Session>,
    /// When each refused login was sent, and when it was answered.
    refusals: Vec<(Instant, Instant)>,
}

impl Attempts {
    /// Logs in at one connector again and again. Each time it retries until it succeeds, and stays for a moment.
    async fn make(address: SocketAddr, user: String, times: usize) -> Self {
        let mut attempts = Self::default();
        let channel = room(&user);
        while attempts.sessions.len() + attempts.refusals.len() < times {
            let client = Client::connect(address).await;
            let asked = loop {
                let asked = Instant::now();
                if client.login(&user, &channel).await {
                    break asked;
                }
                attempts.refusals.push((asked, Instant::now()));
                a_moment().await;
            };
            let answered = Instant::now();
            a_moment().await;
            assert_eq!(client.ended(), None);
            let leaving = Instant::now();
            client.leave().await;
            let left = Instant::now();
            attempts.sessions.push(Session {
                asked,
                answered,
                leaving,
                left,
            });
        }
        attempts
    }

    fn add(&mut self, other: Self) {
        self.sessions.extend(other.sessions);
        self.refusals.extend(other.refusals);
    }

    /// Checks that no two sessions overlap, and that each refusal came while a session was there.
    fn is_exclusive(&mut self, user: &str) {
        self.sessions.sort_by_key(|session| session.answered);
        for pair in self.sessions.windows(2) {
            let over = pair[0].leaving <= pair[1].answered;
            assert!(over, "{user} is logged in twice");
        }
        for (asked, answered) in &self.refusals {
            let mut sessions = self.sessions.iter();
            let held = sessions
                .any(|session| session.asked <= *answered && *asked <= session.left + FORGOTTEN);
            assert!(held, "{user} is refused though nobody is logged in");
        }
    }
}

fn room(user: &str) -> String {
    format!("room-of-{user}")
}

fn user(number: usize) -> String {
    format!("user-{number}")
}

async fn a_moment() {
    let moment = Duration::from_micros(fastrand::u64(..4_000));
    tokio::time::sleep(moment).await;
}

/// How often each user logs in.
fn times() -> usize {
    let all = if long() { 10_000 } else { 1_500 };
    all / USERS
}

fn addresses(system: &System) -> Vec<SocketAddr> {
    let connectors = system.connectors.iter();
    connectors.map(|connector| connector.address()).collect()
}

/// Waits until nobody is in the registry or in any channel.
async fn until_nobody_is_left(system: &System) {
    wait::eventually("the registry is empty", SOON, async || {
        system.redis.logins().await.is_empty()
    })
    .await;
    for number in 0..USERS {
        system.until_members(&room(&user(number)), &[]).await;
    }
}

#[tokio::test]
async fn under_reject_a_user_has_one_session_and_is_refused_only_while_it_lasts() {
    let system = plan("reject").alone().start().await;
    let mut tasks = JoinSet::new();
    for number in 0..USERS {
        for address in addresses(&system) {
            let times = times() / CONNECTORS;
            let task = Attempts::make(address, user(number), times);
            tasks.spawn(async move { (number, task.await) });
        }
    }
    let mut by_user: BTreeMap<usize, Attempts> = BTreeMap::new();
    while let Some(ended) = tasks.join_next().await {
        let (number, attempts) = ended.expect("it ends well");
        by_user.entry(number).or_default().add(attempts);
    }
    let count = |what: fn(&Attempts) -> usize| by_user.values().map(what).sum::<usize>();
    let (held, refused) = (count(|it| it.sessions.len()), count(|it| it.refusals.len()));
    println!("{held} logins, {refused} refusals");
    assert!(held >= USERS * CONNECTORS && refused >= USERS * CONNECTORS);
    for (number, attempts) in &mut by_user {
        attempts.is_exclusive(&user(*number));
    }
    until_nobody_is_left(&system).await;
}

/// Logs one user in again and again under `kick-old`: three clients at once, of which one stays unless it leaves by
/// itself, then another one, which certainly stays. Returns the last one.
async fn log_in_and_kick_again_and_again(
    connectors: Vec<SocketAddr>,
    user: String,
    times: usize,
) -> Client {
    let channel = room(&user);
    let mut last: Option<Client> = None;
    for _ in 0..times / (CONNECTORS + 1) {
        let mut attempts = JoinSet::new();
        for &address in &connectors {
            let (user, channel) = (user.clone(), channel.clone());
            attempts.spawn(async move {
                let client = Client::connect(address).await;
                a_moment().await;
                let is_in = client.login_unless_kicked(&user, &channel).await;
                assert_ne!(is_in, Some(false), "{user} is refused");
                client
            });
        }
        let mut three = attempts.join_all().await;
        if let Some(last) = last.take() {
            last.is_kicked().await;
        }
        if fastrand::bool() {
            // A late close must remove only its own login.
            three
                .swap_remove(fastrand::usize(..three.len()))
                .leave()
                .await;
        } else {
            let three_are_in = Instant::now();
            while three.iter().filter(|it| it.ended().is_none()).count() > 1 {
                assert!(
                    pace::since(three_are_in) < SOON,
                    "{user} is logged in more than once"
                );
                a_moment().await;
            }
        }
        let next = Client::connect(connectors[fastrand::usize(..connectors.len())]).await;
        assert!(next.login(&user, &channel).await, "{user} is refused");
        for client in &three {
            client.is_kicked().await;
        }
        last = Some(next);
    }
    last.expect("a round")
}

#[tokio::test]
async fn under_kick_old_the_last_login_stays_and_the_others_are_told_why_they_end() {
    let system = plan("kick-old").alone().start().await;
    let mut tasks = JoinSet::new();
    for number in 0..USERS {
        tasks.spawn(log_in_and_kick_again_and_again(
            addresses(&system),
            user(number),
            times(),
        ));
    }
    let mut last = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        last.push(ended.expect("it ends well"));
    }
    let mut entries = BTreeMap::new();
    let one_each = wait::within(SOON, async || {
        entries = system.redis.logins().await;
        let one_each = entries.len() == USERS && entries.values().all(|entries| *entries == 1);
        one_each.then_some(())
    });
    let one_each = one_each.await;
    for (user, _) in entries.iter().filter(|(_, entries)| **entries != 1) {
        let key = format!("gc:{{{user}}}:user:entries");
        println!(
            "{key}: {:?}",
            system.redis.command(&["HGETALL", &key]).await
        );
    }
    assert!(
        one_each.is_some(),
        "not one entry of each user: {entries:?}"
    );
    for number in 0..USERS {
        let user = user(number);
        system.until_members(&room(&user), &[(&user, 1)]).await;
    }
    for client in last {
        assert_eq!(client.ended(), None);
        client.leave().await;
    }
    until_nobody_is_left(&system).await;
}

#[tokio::test]
async fn under_allow_every_login_stays_and_is_registered() {
    let system = plan("allow").alone().start().await;
    let addresses = addresses(&system);
    let sessions = times().min(60);
    let mut attempts = JoinSet::new();
    for number in 0..USERS * sessions {
        let (address, user) = (addresses[number % CONNECTORS], user(number / sessions));
        attempts.spawn(async move {
            let client = Client::connect(address).await;
            assert!(client.login(&user, &room(&user)).await, "{user} is refused");
            client
        });
    }
    let clients = attempts.join_all().await;
    for number in 0..USERS {
        let user = user(number);
        let all = u32::try_from(sessions).expect("few");
        system.until_members(&room(&user), &[(&user, all)]).await;
    }
    let each = i64::try_from(sessions).expect("few");
    let registered: BTreeMap<_, _> = (0..USERS).map(|number| (user(number), each)).collect();
    assert_eq!(system.redis.logins().await, registered);
    for client in clients {
        assert_eq!(client.ended(), None);
        client.leave().await;
    }
    until_nobody_is_left(&system).await;
}

/// Before its lease ends, nobody knows that the connector is dead.
#[tokio::test]
async fn under_reject_a_user_of_a_killed_connector_may_log_in_soon_after_the_lease_ends() {
    let mut system = plan("reject").start().await;
    let first = Client::connect(system.connectors[0].address()).await;
    assert!(first.login("alice", "room").await);
    let second = Client::connect(system.connectors[1].address()).await;
    assert!(!second.login("alice", "room").await);
    system.connectors[0].kill();
    let killed = Instant::now();
    assert!(
        !second.login("alice", "room").await,
        "she is let in too early"
    );
    while !second.login("alice", "room").await {
        assert!(pace::since(killed) < LEASE + REAPED, "she is locked out");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = pace::since(killed);
    println!("let in after {took:?}");
    assert!(took < LEASE + REAPED, "only after {took:?}");
    system.until_members("room", &[("alice", 1)]).await;
    let entries = system.redis.logins().await;
    assert_eq!(entries.into_values().collect::<Vec<_>>(), [1]);
    second.leave().await;
    system.until_members("room", &[]).await;
    wait::eventually("the registry is empty", SOON, async || {
        system.redis.logins().await.is_empty()
    })
    .await;
}
