//! What back ends are refused, over gRPC and over plain HTTP.

use super::Findings;
use super::system::Locked;
use std::process::Command;
use testkit::permit::Permit;

/// A call, its request about a channel of the pattern `game:*`, and the scope that it needs.
const CALLS: [(&str, &str, &str); 12] = [
    (
        "chat.v1.ChatService/Send",
        r#"{"channel":"game:1","user":"bot","body":{}}"#,
        "send",
    ),
    (
        "chat.v1.ChatService/Broadcast",
        r#"{"channels":["game:1"],"user":"bot","body":{}}"#,
        "send",
    ),
    (
        "chat.v1.ChatService/History",
        r#"{"channel":"game:1"}"#,
        "read",
    ),
    (
        "chat.v1.ChatService/ListMembers",
        r#"{"channel":"game:1"}"#,
        "read",
    ),
    (
        "chat.v1.ChatService/GetChannel",
        r#"{"channel":"game:1"}"#,
        "read",
    ),
    (
        "chat.v1.ChatService/Join",
        r#"{"channel":"game:1","user":"bot"}"#,
        "members",
    ),
    (
        "chat.v1.ChatService/DeleteChannel",
        r#"{"channel":"game:2"}"#,
        "admin",
    ),
    (
        "chat.v1.UserService/AddToChannel",
        r#"{"channel":"game:1","user":"ann"}"#,
        "members",
    ),
    (
        "chat.v1.UserService/PushToUsers",
        r#"{"users":["ann"],"route":"r","body":{}}"#,
        "users",
    ),
    (
        "chat.v1.UserService/Disconnect",
        r#"{"users":["ann"]}"#,
        "users",
    ),
    ("chat.v1.NodeService/ListConnectors", "{}", "nodes"),
    (
        "connector.v1.SessionService/Leave",
        r#"{"channel":"game:1"}"#,
        "connector",
    ),
];

/// What came of a call: the reason of a refusal, or nothing.
fn call(
    system: &Locked,
    is_grpc: bool,
    method: &str,
    request: &str,
    token: Option<&str>,
) -> String {
    let header = token.map(|it| format!("authorization: Bearer {it}"));
    let address = system.back_ends().to_string();
    let mut command = if is_grpc {
        let mut command = Command::new("grpcurl");
        command.args(["-plaintext", "-format-error", "-d", request]);
        command
    } else {
        let mut command = Command::new("curl");
        command.args([
            "-sS",
            "--max-time",
            "10",
            "-d",
            request,
            "-H",
            "content-type: application/json",
        ]);
        command
    };
    if let Some(header) = &header {
        command.args(["-H", header]);
    }
    if is_grpc {
        command.args([&address, method]);
    } else {
        command.arg(format!("http://{address}/{method}"));
    }
    let output = command
        .output()
        .expect("run ./tests/run, which installs it");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// That an answer names this reason.
fn says(answer: &str, reason: &str) -> Result<(), String> {
    if answer.contains(reason) {
        Ok(())
    } else {
        Err(format!("{answer:?}, not {reason}"))
    }
}

/// That an answer is no refusal of access. What is wrong with the request beyond that does not matter here.
fn is_let_in(answer: &str) -> Result<(), String> {
    let refusals = [
        "TOKEN_MISSING",
        "TOKEN_REFUSED",
        "SCOPE_MISSING",
        "CHANNEL_NOT_ALLOWED",
    ];
    match refusals.iter().find(|it| answer.contains(**it)) {
        None => Ok(()),
        Some(_) => Err(answer.to_owned()),
    }
}

#[tokio::test]
async fn no_back_end_calls_without_the_right_token() {
    let _permit = Permit::shared().await;
    let everything = "send,read,members,users,nodes,admin";
    let tokens = [
        ("send", "send", None),
        ("read", "read", None),
        ("members", "members", None),
        ("users", "users", None),
        ("nodes", "nodes", None),
        ("admin", "admin", None),
        ("connector", "connector", None),
        // All scopes but those that do not go with patterns.
        (
            "elsewhere",
            "send,read,members,users,admin",
            Some("lobby:*"),
        ),
        ("everything", everything, None),
    ];
    let system = Locked::start(&tokens, &[]).await;
    let mut findings = Findings::default();
    for (method, request, scope) in CALLS {
        for is_grpc in [true, false] {
            // The contract of connectors is not served over plain HTTP at all.
            if scope == "connector" && !is_grpc {
                continue;
            }
            let name = format!(
                "{method} {}",
                if is_grpc { "over gRPC" } else { "over HTTP" }
            );
            let ask = |token: Option<&str>| {
                let token = token.map(|it| system.token(it));
                call(&system, is_grpc, method, request, token.as_deref())
            };
            let allowed = || is_let_in(&ask(Some(scope)));
            let allowed = allowed();
            findings.row(
                &format!("{name} without a token"),
                says(&ask(None), "TOKEN_MISSING"),
                allowed.clone(),
            );
            findings.row(
                &format!("{name} with a stranger's"),
                says(&ask(Some("stranger")), "TOKEN_REFUSED"),
                allowed.clone(),
            );
            let other = if scope == "send" { "read" } else { "send" };
            findings.row(
                &format!("{name} with a token to {other}"),
                says(&ask(Some(other)), "SCOPE_MISSING"),
                allowed.clone(),
            );
            let reason = if matches!(scope, "nodes" | "connector") {
                "SCOPE_MISSING"
            } else {
                "CHANNEL_NOT_ALLOWED"
            };
            findings.row(
                &format!("{name} for other channels"),
                says(&ask(Some("elsewhere")), reason),
                allowed,
            );
        }
    }
    assert!(
        !system.log().contains(&system.token("send")),
        "no token is logged"
    );
    findings.check(90);
}
