//! Back ends that call chat over plain HTTP, with client libraries that others wrote: in Node, and in a real browser.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;
use testkit::permit::Permit;
use testkit::process::Process;
use testkit::readme;
use testkit::system::Plan;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Runs a file of tests with mocha. All of them have to pass, and so many there are.
async fn passes(mut command: Command, tests: usize) {
    let mut mocha = Process::spawn("mocha", &mut command);
    let status = mocha.ended_within(Duration::from_secs(120)).await;
    let output = mocha.lines().join("\n");
    assert!(status.success(), "{output}");
    assert!(output.contains(&format!("{tests} passing")), "{output}");
}

#[tokio::test]
async fn connects_own_library_calls_chat_over_each_of_its_protocols() {
    let system = Plan::of(0, 1).start().await;
    let mut command = testkit::mocha("connect.test.js", &[]);
    command.env("CHAT", system.chats[0].address().to_string());
    passes(command, 16).await;
}

#[tokio::test]
async fn a_page_calls_chat_from_a_real_browser_if_its_origin_is_allowed() {
    let page = {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the kernel has a free port");
        free.local_addr().expect("a bound listener").port()
    };
    let origin = format!("http://127.0.0.1:{page}").leak();
    let plan = Plan::of(0, 1).chat_flags(&["--allowed-origins", origin]);
    let system = plan.start().await;
    let mut command = testkit::mocha("page-calls.test.js", &[]);
    command
        .env("CHAT", system.chats[0].address().to_string())
        .env("PAGE", page.to_string())
        .env("CHROMIUM", crate::browsers::chromium());
    passes(command, 6).await;
}

/// A value in JSON may be a single character. As a message, it costs hundreds of bytes.
#[tokio::test]
async fn json_costs_little_memory_whatever_it_holds() {
    let system = Plan::of(0, 1).start().await;
    let chat = &system.chats[0];
    let body = |value: &str, count: usize| {
        let values = vec![value; count].join(",");
        format!(r#"{{"channel":"4","user":"bot","body":{{"a":[{values}]}}}}"#)
    };
    let before = chat.memory().peak;
    // As many as are read at all, and more.
    for request in [
        body("1", 99_000),
        body("[[]]", 30_000),
        body(r#"{"a":1}"#, 33_000),
        body("1", 2_000_000),
        body(&format!("{}{}", "[".repeat(40), "]".repeat(40)), 50_000),
    ] {
        let answer = post(chat.address(), &request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    let grown = chat.memory().peak - before;
    assert!(grown < 64 << 20, "{grown} bytes");
}

/// Sends a message with this JSON, and returns the answer with its head.
async fn post(chat: SocketAddr, json: &str) -> String {
    let mut stream = TcpStream::connect(chat).await.expect("chat listens");
    let length = json.len();
    let head = format!(
        "POST /chat.v1.ChatService/Send HTTP/1.1\r\nhost: chat\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    let request = [head, json.to_owned()].concat();
    let sent = stream.write_all(request.as_bytes()).await;
    sent.expect("chat reads the request");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer).await;
    read.expect("chat answers");
    answer
}

#[tokio::test]
async fn the_examples_of_the_documentation_work_as_printed() {
    let _permit = Permit::alone().await;
    let blocks = readme::run("docs/api.md").await;
    assert!(
        blocks >= 6,
        "docs/api.md has {blocks} blocks marked as `sh test`"
    );
}
