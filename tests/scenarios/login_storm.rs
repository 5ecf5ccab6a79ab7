//! Thousands of clients log in at the same moment. They wait for their turn, and a client that cannot be served in time
//! is told when to try again.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use testkit::json::Client;
use testkit::pomelo::LOGIN;
use testkit::system::Plan;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const CLIENTS: usize = 2_500;
const ROOMS: usize = 250;

/// Logs in, and retries when told to. Returns how many tries it took.
async fn log_in(client: &Client, number: usize) -> Result<usize, Value> {
    let login = json!({ "userId": format!("user {number}"), "lessonId": number % ROOMS + 1 });
    for tries in 1..=20 {
        let answer = client.request(LOGIN, login.clone()).await;
        if answer["code"] == 0 {
            return Ok(tries);
        }
        let pause = answer["retryAfterMs"].as_u64();
        match pause.filter(|_| answer["code"] == 429) {
            Some(pause) => sleep(Duration::from_millis(pause)).await,
            None => return Err(answer),
        }
    }
    Err(json!("told to try again twenty times"))
}

/// No login is answered with 500, and every client that tries again when told to logs in.
#[tokio::test]
async fn in_a_storm_of_logins_clients_wait_for_their_turn_and_all_log_in() {
    let system = Plan::of(1, 1).alone().start().await;
    let address = system.connectors[0].address();
    let mut connecting = JoinSet::new();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        connecting.spawn(async move { (number, Client::connect(address).await) });
        // As many at once as the listener's queue takes.
        if connecting.len() == 100 {
            clients.extend(connecting.join_next().await);
        }
    }
    while let Some(client) = connecting.join_next().await {
        clients.push(client);
    }
    let began = Instant::now();
    let mut logins = JoinSet::new();
    for client in clients {
        let (number, client) = client.expect("it connects");
        logins.spawn(async move {
            let client = Arc::new(client);
            (log_in(&client, number).await, client)
        });
    }
    let (mut tries, mut inside) = (BTreeMap::<usize, usize>::new(), Vec::new());
    while let Some(login) = logins.join_next().await {
        let (login, client) = login.expect("it does not panic");
        let login = login.unwrap_or_else(|answer| panic!("refused: {answer}"));
        *tries.entry(login).or_default() += 1;
        inside.push(client);
    }
    println!("logged in by tries: {tries:?}, after {:?}", began.elapsed());
    assert_eq!(inside.len(), CLIENTS);
    assert!(inside.iter().all(|client| client.ended().is_none()));
}
