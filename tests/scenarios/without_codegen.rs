//! Chat is called with grpcurl and no .proto file, and keeps its promises to back ends.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Command;
use testkit::SOON;
use testkit::pomelo::{joined, left};
use testkit::process::Process;
use testkit::system::{Plan, System};
use tonic::Code;
use tonic_reflection::pb::v1alpha;
use v1alpha::server_reflection_client::ServerReflectionClient;
use v1alpha::server_reflection_request::MessageRequest;
use v1alpha::server_reflection_response::MessageResponse;

/// Runs grpcurl. Returns its output, or its complaint.
async fn grpcurl(arguments: &[&str]) -> Result<String, String> {
    let installed = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join("grpcurl").is_file())
    });
    assert!(installed, "install grpcurl, or run ./tests/run, which does");
    let mut command = Command::new("grpcurl");
    command.arg("-plaintext").args(arguments);
    let mut process = Process::spawn("grpcurl", &mut command);
    let status = process.ended_within(SOON).await;
    let output = process.lines().join("\n");
    if status.success() {
        Ok(output)
    } else {
        Err(output)
    }
}

async fn call(chat: SocketAddr, method: &str, request: &Value) -> Result<Value, String> {
    let method = format!("chat.v1.ChatService/{method}");
    let arguments = ["-d", &request.to_string(), &chat.to_string(), &method];
    let answer = grpcurl(&arguments).await?;
    Ok(serde_json::from_str(&answer).expect("grpcurl prints JSON"))
}

#[tokio::test]
async fn services_and_methods_are_listed_and_described() {
    let system = Plan::of(0, 1).start().await;
    let chat = system.chats[0].address().to_string();
    let services = grpcurl(&[&chat, "list"]).await.expect("a list");
    for service in [
        "chat.v1.ChatService",
        "connector.v1.SessionService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ] {
        assert!(
            services.contains(service),
            "{service} is not in:\n{services}"
        );
    }
    let methods = grpcurl(&[&chat, "list", "chat.v1.ChatService"]).await;
    let methods = methods.expect("a list");
    for method in [
        "Send",
        "SendStream",
        "History",
        "Join",
        "Leave",
        "ListMembers",
        "CountMembers",
        "GetChannel",
        "ListChannels",
        "TrimHistory",
        "DeleteChannel",
    ] {
        let method = format!("chat.v1.ChatService.{method}");
        assert!(methods.lines().any(|line| line == method), "{methods}");
    }
    let description = grpcurl(&[&chat, "describe", "chat.v1.SendRequest"]).await;
    let description = description.expect("a description");
    for field in [
        "string channel = 1",
        "google.protobuf.Struct body = 5",
        "bytes body_json = 6",
    ] {
        assert!(
            description.contains(field),
            "{field} is not in:\n{description}"
        );
    }
}

/// Older tools ask for reflection by its older name.
#[tokio::test]
async fn reflection_answers_by_its_older_name_as_well() {
    let system = Plan::of(0, 1).start().await;
    let chat = system.api(0).channel();
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(chat);
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await;
    let mut answers = answers.expect("it is served").into_inner();
    let answer = answers.message().await.expect("an answer").expect("one");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("no list: {answer:?}");
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    assert!(
        names.iter().any(|name| name == "chat.v1.ChatService"),
        "{names:?}"
    );
}

#[tokio::test]
async fn health_is_reported_for_each_service_and_as_a_whole() {
    let mut system = Plan::of(0, 1).start().await;
    let chat = system.chats[0].address().to_string();
    let check = async |service: &str| {
        let request = json!({ "service": service }).to_string();
        grpcurl(&["-d", &request, &chat, "grpc.health.v1.Health/Check"]).await
    };
    for service in [
        "",
        "chat.v1.ChatService",
        "chat.v1.UserService",
        "chat.v1.NodeService",
        "connector.v1.SessionService",
    ] {
        let answer = check(service).await.expect("an answer");
        assert!(answer.contains(r#""SERVING""#), "{answer}");
    }
    let answer = check("no.such.Service").await.expect_err("unknown");
    assert!(answer.contains("NotFound"), "{answer}");

    system.redis.stop().await;
    testkit::wait::eventually("chat says that it cannot serve", SOON, async || {
        let answer = check("chat.v1.ChatService").await;
        answer.is_ok_and(|answer| answer.contains("NOT_SERVING"))
    })
    .await;
}

#[tokio::test]
async fn grpcurl_joins_lists_sends_and_leaves_and_clients_on_both_connectors_see_it() {
    let system = System::start().await;
    let chat = system.chats[0].address();
    let alice = system.member(0, "alice", "4").await;
    let bob = system.member(1, "bob", "4").await;

    let bot = json!({ "channel": "4", "user": "bot" });
    let answer = call(chat, "Join", &bot).await.expect("a join");
    assert_eq!(answer["published"], true);
    for member in [&alice, &bob] {
        member.until_push(&joined("bot")).await;
    }
    let answer = call(chat, "ListMembers", &json!({ "channel": "4" })).await;
    let mut members = answer.expect("members")["members"].clone();
    let members = members.as_array_mut().expect("a list");
    members.sort_by_key(|member| member["user"].to_string());
    let one = |user| json!({ "user": user, "sessions": 1 });
    assert_eq!(*members, [one("alice"), one("bob"), one("bot")]);

    let message = json!({
        "channel": "4", "user": "bot", "body": { "type": 1, "content": "哈哈" },
    });
    let answer = call(chat, "Send", &message).await.expect("a send");
    // The joins of alice, bob and the bot come before it, and two connectors listen.
    assert_eq!(answer["position"]["offset"], "4", "{answer}");
    assert!(
        answer["position"]["epoch"]
            .as_str()
            .is_some_and(|epoch| !epoch.is_empty())
    );
    assert_eq!(answer["reached"], 2, "{answer}");
    let time = answer["publishTime"].as_str().expect("a time");
    assert!(time.starts_with("20") && time.ends_with('Z'), "{answer}");
    for member in [&alice, &bob] {
        member
            .until_push(r#"onMessage {"content":"哈哈","type":1,"userId":"bot"}"#)
            .await;
    }

    let answer = call(chat, "Leave", &bot).await.expect("a leave");
    assert_eq!(answer["left"], true);
    for member in [&alice, &bob] {
        member.until_push(&left("bot")).await;
    }
}

#[tokio::test]
async fn a_back_end_pushes_under_a_route_of_its_own() {
    let system = System::start().await;
    let alice = system.member(0, "alice", "4").await;
    let message = json!({
        "channel": "4", "user": "bot", "route": "onGift", "body": { "z": 1, "a": 0.5 },
    });
    let chat = system.chats[1].address();
    call(chat, "Send", &message).await.expect("a send");
    alice
        .until_push(r#"onGift {"a":0.5,"z":1,"userId":"bot"}"#)
        .await;
}

#[tokio::test]
async fn a_wrong_request_is_refused_with_the_fields_that_are_wrong() {
    let system = Plan::of(0, 1).start().await;
    let chat = system.chats[0].address();
    let body = json!({ "a": 1 });
    for (request, field) in [
        (json!({ "user": "u", "body": body }), "channel"),
        (json!({ "channel": "4", "body": body }), "user"),
        (
            json!({ "channel": "4", "user": "u".repeat(129), "body": body }),
            "user",
        ),
        (
            json!({ "channel": "c".repeat(257), "user": "u", "body": body }),
            "channel",
        ),
        (
            json!({ "channel": "4", "user": "u", "route": "onJoin", "body": body }),
            "route",
        ),
        (
            json!({ "channel": "4", "user": "u", "route": "onLeave", "body": body }),
            "route",
        ),
        (
            json!({ "channel": "4", "user": "u", "body_json": "W10=" }),
            "body_json",
        ),
        (
            json!({ "channel": "4", "user": "u", "body": body, "idempotency_key": "k".repeat(129) }),
            "idempotency_key",
        ),
    ] {
        let error = call(chat, "Send", &request).await.expect_err("it is wrong");
        assert!(error.contains("InvalidArgument"), "{request}: {error}");
        assert!(
            error.contains("google.rpc.BadRequest"),
            "{request}: {error}"
        );
        assert!(
            error.contains(field),
            "{request}: {error} doesn't name {field}"
        );
        assert!(
            error.contains(r#""reason": "INVALID_ARGUMENT""#),
            "{request}: {error}"
        );
    }
}

/// With the same key it is the same message, whichever chat is called.
#[tokio::test]
async fn a_send_that_is_retried_with_its_key_gets_the_first_answer_from_any_chat() {
    let system = System::start().await;
    let alice = system.member(0, "alice", "4").await;
    let body = r#"{"content":"once"}"#;
    let first = system.api(0).send("4", "bot", body, "k").await;
    let again = system.api(1).send("4", "bot", body, "k").await;
    let first = first.expect("a send").position;
    assert_eq!(again.expect("the same send").position, first);
    let other = system
        .api(1)
        .send("4", "bot", r#"{"content":"other"}"#, "k")
        .await;
    assert_eq!(
        other.expect_err("another content").code(),
        Code::AlreadyExists
    );
    // The same key of another user is another key.
    let third = system.api(1).send("4", "bot2", body, "k").await;
    assert_ne!(third.expect("a send").position, first);
    let pushes = alice.until_pushes(3).await;
    let expected = [
        joined("alice"),
        testkit::pomelo::heard("bot", "once"),
        testkit::pomelo::heard("bot2", "once"),
    ];
    assert_eq!(pushes, expected);
}

/// A detached member joins and leaves without touching the same user's sockets.
#[tokio::test]
async fn a_detached_members_leave_ends_only_that_membership() {
    let system = System::start().await;
    let alice = system.member(0, "alice", "4").await;
    let api = system.api(0);
    for _ in 0..2 {
        let answer = api.join("4", "alice").await.expect("a join");
        assert!(!answer.published, "alice is there already");
    }
    system.until_members("4", &[("alice", 2)]).await;
    assert!(api.leave("4", "alice").await.expect("a leave"));
    assert!(!api.leave("4", "alice").await.expect("no leave"));
    system.until_members("4", &[("alice", 1)]).await;
    assert_eq!(alice.say("still here").await, testkit::pomelo::SENT);
    alice.until_pushes(2).await;
    assert_eq!(alice.push_count(), 2);
}

#[tokio::test]
async fn members_are_listed_in_pages_and_nobody_is_missing() {
    let system = Plan::of(0, 1).start().await;
    let api = system.api(0);
    let mut expected = Vec::new();
    for number in 0..1_200 {
        let user = format!("user{number:04}");
        api.join("4", &user).await.expect("a join");
        expected.push(user);
    }
    let chat = system.chats[0].address();
    let mut seen = std::collections::BTreeSet::new();
    let (mut token, mut pages) = (String::new(), 0);
    loop {
        let request = json!({ "channel": "4", "page_size": 500, "page_token": token });
        let page = call(chat, "ListMembers", &request).await.expect("a page");
        let members = page["members"].as_array().map_or(&[][..], Vec::as_slice);
        // A page of about 500: the store answers in chunks of its own, so a few more are right.
        assert!(members.len() < 600, "{} on one page", members.len());
        for member in members {
            seen.insert(member["user"].as_str().expect("a name").to_owned());
        }
        pages += 1;
        match page["nextPageToken"].as_str() {
            Some(next) if !next.is_empty() => token = next.to_owned(),
            _ => break,
        }
    }
    assert!(
        seen.iter().eq(&expected),
        "{} of {}",
        seen.len(),
        expected.len()
    );
    assert!(pages >= 2, "{pages} pages");
    // A larger page than 1,000 is taken as 1,000, again with a few more or less: never all 1,200.
    let request = json!({ "channel": "4", "page_size": 5_000 });
    let page = call(chat, "ListMembers", &request).await.expect("a page");
    assert_eq!(page["totalUsers"], "1200", "{page}");
    let members = page["members"].as_array().expect("a list").len();
    assert!((900..1_100).contains(&members), "{members} on one page");
}
