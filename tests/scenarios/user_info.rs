//! What tokens tell everybody about their users: members get it with onJoin, and find it in lists of members. So do back ends.

use crate::tokens::{in_python, issued};
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;
use testkit::grpcurl;
use testkit::json::Client;
use testkit::pomelo::{self, LOGIN};
use testkit::service::Connector;
use testkit::system::{Plan, System};
use testkit::{socket_io, wait};

const JOIN: &str = "chat.handler.join";
const LEAVE: &str = "chat.handler.leave";
const MEMBERS: &str = "chat.handler.members";
/// Connectors compare the store with their members soon after it has lost something.
const REPAIRED: Duration = Duration::from_secs(30);

/// Calls `chat.v1.ChatService` with grpcurl.
fn call(system: &System, method: &str, request: &Value) -> Value {
    let method = format!("chat.v1.ChatService/{method}");
    grpcurl::call(system.chats[0].address(), &method, request)
}

/// The users of a channel with what is known of them, as a client finds them. Nobody, if the server cannot say.
async fn known(client: &Client, channel: &str) -> Vec<Value> {
    let page = client.request(MEMBERS, json!({ "channel": channel })).await;
    let mut members = page["members"].as_array().cloned().unwrap_or_default();
    members.sort_by_key(|member| member["userId"].to_string());
    members
}

fn member(user: &str, info: Option<&Value>) -> Value {
    let mut member = json!({"userId": user, "sessions": 1});
    if let Some(info) = info {
        member["info"] = info.clone();
    }
    member
}

#[tokio::test]
async fn what_tokens_made_in_python_tell_about_users_is_shown_to_members_and_back_ends() {
    let system = Plan::of(0, 1).start().await;
    let (ann, bob) = (json!({"name": "安"}), json!({"name": "Bob", "level": 3}));
    let later = json!({"name": "安", "level": 4});
    let claims = [
        json!({"sub": "ann", "info": ann}),
        json!({"sub": "bob", "info": bob}),
        json!({"sub": "cid"}),
        json!({"sub": "ann", "info": later}),
    ];
    let issued = issued(in_python(), "ES256", "one", 3_600, &claims);
    let directory = TempDir::new().expect("a directory");
    let (keys, config) = (
        directory.path().join("keys"),
        directory.path().join("config"),
    );
    std::fs::write(&keys, json!({"keys": [issued.jwk]}).to_string()).expect("written");
    let issuer = format!(
        "[[auth.issuer]]\nissuer = 'https://id.example'\naudience = ['chat']\n\
         algorithms = ['ES256']\njwks_file = '{}'\n",
        keys.display()
    );
    std::fs::write(&config, issuer).expect("written");
    let config = config.to_str().expect("a path");
    let flags = ["--auth-mode", "jwt", "--config", config];
    let mut connectors = Vec::new();
    for id in ["one", "two"] {
        let connector = Connector::start(id, &[&system.chats[0]], &system.redis, &flags).await;
        connector.ready().await;
        connectors.push(connector);
    }
    let [one, two] = [0, 1].map(|at| connectors[at].address());
    let login = |token: usize| json!({"token": issued.tokens[token], "lessonId": "room"});

    // Each protocol shows it to the others, also on another connector.
    let original = pomelo::Client::connect(two).await;
    let reply = original.request(LOGIN, &login(1).to_string()).await;
    assert!(reply.starts_with(r#"{"code":0,"#), "{reply}");
    let client = Client::connect(one).await;
    // Clients that know their positions stay when the store loses everything.
    let mut body = login(0);
    body["positions"] = true.into();
    assert_eq!(client.request(LOGIN, body).await["code"], 0);
    original
        .until_push(r#"onJoin {"userId":"ann","info":{"name":"安"}}"#)
        .await;
    let socket = socket_io::connect(one, "/socket.io/?EIO=3&transport=websocket").await;
    socket_io::say(&socket, &socket_io::request(1, LOGIN, &login(2))).await;
    original.until_push(&pomelo::joined("cid")).await;
    // A back end tells about its members, too.
    let bot = json!({"about": "tea"});
    let join = json!({"channel": "room", "user": "bot", "info": bot});
    assert_eq!(call(&system, "Join", &join)["published"], true);
    original
        .until_push(r#"onJoin {"userId":"bot","info":{"about":"tea"}}"#)
        .await;

    let everybody = [
        member("ann", Some(&ann)),
        member("bob", Some(&bob)),
        member("bot", Some(&bot)),
        member("cid", None),
    ];
    assert_eq!(known(&client, "room").await, everybody);
    let list = json!({"channel": "room", "infoAsStruct": true});
    let listed = call(&system, "ListMembers", &list);
    let mut listed = listed["members"].as_array().expect("members").clone();
    listed.sort_by_key(|member| member["user"].to_string());
    let infos: Vec<_> = listed.iter().map(|member| &member["info"]).collect();
    assert_eq!(infos, [&ann, &bob, &bot, &Value::Null]);

    // The store loses everything. The connector puts its member back, with what is known of her.
    system.redis.say("FLUSHALL");
    wait::eventually("the member is back", REPAIRED, async || {
        known(&client, "room").await == everybody[..1]
    })
    .await;

    // What a newer token tells is shown where the session joins from now on.
    let refresh = json!({"token": issued.tokens[3]});
    let reply = client.request("connector.handler.refresh", refresh).await;
    assert_eq!(reply["code"], 0, "{reply}");
    let reply = client.request(JOIN, json!({"channel": "other"})).await;
    assert_eq!(reply["code"], 0, "{reply}");
    assert_eq!(known(&client, "other").await, [member("ann", Some(&later))]);
    assert_eq!(known(&client, "room").await[0], everybody[0]);

    // Nothing is known any more of a user who has left.
    let reply = client.request(LEAVE, json!({"channel": "other"})).await;
    assert_eq!(reply["code"], 0, "{reply}");
    call(&system, "Join", &json!({"channel": "other", "user": "ann"}));
    let list = json!({"channel": "other", "infoAsStruct": true});
    let listed = call(&system, "ListMembers", &list);
    assert_eq!(listed["members"], json!([{"user": "ann", "sessions": 1}]));
}
