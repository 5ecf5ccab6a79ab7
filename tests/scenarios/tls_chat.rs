//! Chat's port with a certificate: callers with grpcurl and curl, connectors with an authority of their own, and callers that
//! need a certificate themselves.

use crate::tls_clients::encrypted;
use std::net::SocketAddr;
use std::process::Command;
use testkit::permit::Permit;
use testkit::pomelo::{Client, SENT};
use testkit::redis::Redis;
use testkit::service::{Chat, Connector};
use testkit::tls::{Authority, Identity, text};
use testkit::{SOON, http, wait};

/// What a program prints, and whether it succeeds.
fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} does not run: {error}"));
    let printed = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&printed).into_owned(),
    )
}

/// Sends a message with grpcurl.
fn grpcurl(address: SocketAddr, flags: &[&str]) -> (bool, String) {
    let message = r#"{"channel":"room","user":"bot","body":{"content":"hello"}}"#;
    let address = address.to_string();
    let call = [
        "-max-time",
        "10",
        "-d",
        message,
        &address,
        "chat.v1.ChatService/Send",
    ];
    run("grpcurl", &[flags, &call].concat())
}

#[tokio::test]
async fn back_ends_call_chat_over_tls_with_grpcurl_and_curl() {
    let _permit = Permit::shared().await;
    let (authority, redis) = (Authority::new(), Redis::start().await);
    let chat = Chat::start(&redis, &authority.issue("chat").flags()).await;
    let ca = authority.ca();
    let (is_ok, printed) = grpcurl(chat.address(), &["-cacert", text(&ca)]);
    assert!(is_ok && printed.contains("position"), "{printed}");
    let (is_ok, printed) = grpcurl(chat.address(), &["-plaintext"]);
    assert!(!is_ok, "{printed}");
    let (is_ok, printed) = grpcurl(chat.address(), &[]);
    assert!(!is_ok && printed.contains("certificate"), "{printed}");
    let url = format!("https://{}/chat.v1.ChatService/History", chat.address());
    for version in ["--http1.1", "--http2"] {
        let curl = ["--silent", "--show-error", "--cacert", text(&ca), version];
        let (is_ok, printed) = run(
            "curl",
            &[
                &curl[..],
                &["--json", r#"{"channel":"room","bodyAsStruct":true}"#, &url],
            ]
            .concat(),
        );
        assert!(is_ok && printed.contains("hello"), "{version}: {printed}");
    }
}

#[tokio::test]
async fn with_an_authority_for_clients_chat_serves_only_callers_with_a_certificate_of_it() {
    let _permit = Permit::shared().await;
    let (authority, redis) = (Authority::new(), Redis::start().await);
    let (own, ca) = (authority.issue("chat"), authority.ca());
    let flags = [&own.flags()[..], &["--tls-client-ca", text(&ca)]].concat();
    let chat = Chat::start(&redis, &flags).await;
    let with = |caller: &Identity| {
        let (certificate, key) = (text(&caller.certificate), text(&caller.key));
        grpcurl(
            chat.address(),
            &["-cacert", text(&ca), "-cert", certificate, "-key", key],
        )
    };
    let (is_ok, printed) = with(&authority.issue("games"));
    assert!(is_ok && printed.contains("position"), "{printed}");
    let (is_ok, printed) = grpcurl(chat.address(), &["-cacert", text(&ca)]);
    assert!(!is_ok, "no certificate: {printed}");
    let (is_ok, printed) = with(&Authority::new().issue("games"));
    assert!(!is_ok, "a certificate of another authority: {printed}");
}

/// With a file of tokens, a certificate counts as a token if a line names it.
#[tokio::test]
async fn certificates_have_the_scopes_of_their_lines_in_the_file_of_tokens() {
    let _permit = Permit::shared().await;
    let (authority, redis) = (Authority::new(), Redis::start().await);
    let (own, ca) = (authority.issue("chat"), authority.ca());
    let tokens = authority.file("tokens");
    let lines = "games subject=games send room\nreader subject=\"a reader\" read\nconnectors subject=con connector\n";
    std::fs::write(&tokens, lines).expect("a file");
    let guards = [
        "--tls-client-ca",
        text(&ca),
        "--api-tokens-file",
        text(&tokens),
    ];
    let chat = Chat::start(&redis, &[&own.flags()[..], &guards].concat()).await;
    let with = |name: &str| {
        let caller = authority.issue(name);
        let (certificate, key) = (text(&caller.certificate), text(&caller.key));
        grpcurl(
            chat.address(),
            &["-cacert", text(&ca), "-cert", certificate, "-key", key],
        )
    };
    let (is_ok, printed) = with("games");
    assert!(is_ok && printed.contains("position"), "{printed}");
    let (is_ok, printed) = with("a reader");
    assert!(!is_ok && printed.contains("the scope send"), "{printed}");
    let (is_ok, printed) = with("stranger");
    assert!(!is_ok && printed.contains("Unauthenticated"), "{printed}");
    let audit = |name: &str| {
        let line = format!("\"token\":\"{name}\"");
        chat.lines().iter().any(|it| it.contains(&line))
    };
    assert!(audit("games") && audit("reader"), "{:#?}", chat.lines());

    // A connector needs no token if its certificate has the scope.
    let url = format!("https://{}", chat.address());
    for (name, is_ready) in [("con", true), ("games", false)] {
        let caller = authority.issue(name);
        let flags = [
            "--chat-ca",
            text(&ca),
            "--chat-certificate",
            text(&caller.certificate),
            "--chat-key",
            text(&caller.key),
        ];
        let connector = connector(&url, &redis, &flags).await;
        if is_ready {
            connector.ready().await;
            let client = Client::join(connector.address(), "anna", "room").await;
            assert_eq!(client.say("over TLS").await, SENT);
        } else {
            says(&connector, "lacks the scope connector").await;
        }
    }
}

/// Starts a connector that calls this chat with these flags.
async fn connector(chat: &str, redis: &Redis, flags: &[&str]) -> Connector {
    Connector::begin("connector-1", chat, &redis.url(), flags).await
}

/// Waits until `/readyz` says this.
async fn says(connector: &Connector, words: &str) {
    let mut last = String::new();
    let told = wait::within(SOON, async || {
        last = http::get(connector.admin(), "/readyz").await?.body;
        last.contains(words).then_some(())
    });
    let told = told.await;
    assert!(told.is_some(), "no {words:?} in: {last}");
}

#[tokio::test]
async fn connectors_call_chat_over_tls_with_their_own_authority_and_certificate() {
    let _permit = Permit::shared().await;
    let (authority, redis) = (Authority::new(), Redis::start().await);
    let (own, ca) = (authority.issue("chat"), authority.ca());
    let flags = [&own.flags()[..], &["--tls-client-ca", text(&ca)]].concat();
    let chat = Chat::start(&redis, &flags).await;
    let caller = authority.issue("connector");
    let identity = [
        "--chat-certificate",
        text(&caller.certificate),
        "--chat-key",
        text(&caller.key),
    ];
    let trust = ["--chat-ca", text(&ca)];
    let url = format!("https://{}", chat.address());
    let good = connector(&url, &redis, &[&trust[..], &identity].concat()).await;
    good.ready().await;
    let client = Client::join(good.address(), "anna", "room").await;
    assert_eq!(client.say("over TLS").await, SENT);
    // A name is checked as an address is.
    let named = format!("https://localhost:{}", chat.address().port());
    let named = connector(&named, &redis, &[&trust[..], &identity].concat()).await;
    named.ready().await;
}

#[tokio::test]
async fn a_connector_that_does_not_trust_chat_says_why_in_readyz() {
    let _permit = Permit::shared().await;
    let (authority, redis) = (Authority::new(), Redis::start().await);
    let elsewhere = authority.issue_for("chat", &["chat.test", "10.1.2.3"]);
    let chat = Chat::start(&redis, &elsewhere.flags()).await;
    let url = format!("https://{}", chat.address());
    let ca = authority.ca();
    let wrong_name = connector(&url, &redis, &["--chat-ca", text(&ca)]).await;
    says(&wrong_name, "not valid for name").await;
    let public_ones = connector(&url, &redis, &[]).await;
    says(&public_ones, "UnknownIssuer").await;
    let plain = connector(&format!("http://{}", chat.address()), &redis, &[]).await;
    says(&plain, "chat: not ready").await;

    let strict = authority.issue("strict");
    let flags = [&strict.flags()[..], &["--tls-client-ca", text(&ca)]].concat();
    let strict = Chat::start(&redis, &flags).await;
    let url = format!("https://{}", strict.address());
    let nobody = connector(&url, &redis, &["--chat-ca", text(&ca)]).await;
    says(&nobody, "CertificateRequired").await;
    assert_eq!(nobody.readyz().await, Some(503));
}

#[tokio::test]
async fn standalone_serves_back_ends_over_tls_too_and_may_ask_them_for_certificates() {
    let _permit = Permit::shared().await;
    let authority = Authority::new();
    let ca = authority.ca();
    let flags = ["--grpc-client-ca", text(&ca)];
    let (standalone, _) = encrypted(&authority, &flags).await;
    let call = |flags: &[&str]| {
        let flags = [&["-cacert", text(&ca)], flags].concat();
        grpcurl(standalone.grpc(), &flags)
    };
    let caller = authority.issue("games");
    let (certificate, key) = (text(&caller.certificate), text(&caller.key));
    let (is_ok, printed) = call(&["-cert", certificate, "-key", key]);
    assert!(is_ok && printed.contains("position"), "{printed}");
    let (is_ok, printed) = call(&[]);
    assert!(!is_ok, "{printed}");
}

#[tokio::test]
async fn settings_that_can_not_work_are_refused_at_the_start_in_one_line() {
    let authority = Authority::new();
    let (own, ca) = (authority.issue("own"), authority.ca());
    let other = authority.issue("other");
    let (certificate, key) = (text(&own.certificate), text(&own.key));
    let connector = testkit::binaries::path("connector");
    let chat = testkit::binaries::path("chat");
    for (program, flags, words) in [
        (
            &connector,
            &["--tls-certificate", certificate][..],
            "needs --tls-key",
        ),
        (
            &connector,
            &["--tls-certificate", "/none", "--tls-key", key],
            "cannot read /none",
        ),
        (
            &connector,
            &[
                "--tls-certificate",
                certificate,
                "--tls-key",
                text(&other.key),
            ],
            "do not fit together",
        ),
        (
            &connector,
            &["--chat-ca", text(&ca)],
            "begins with https://",
        ),
        (
            &connector,
            &["--chat", "https://chat", "--chat-key", key],
            "need each other",
        ),
        (
            &connector,
            &["--route-ca", text(&ca)],
            "begins with https://",
        ),
        (
            &chat,
            &["--tls-client-ca", text(&ca)],
            "needs --tls-certificate",
        ),
    ] {
        let (is_ok, printed) = run(text(program), flags);
        assert!(!is_ok && printed.contains(words), "{flags:?}: {printed}");
        assert_eq!(printed.trim_end().lines().count(), 1, "{printed}");
    }
}
