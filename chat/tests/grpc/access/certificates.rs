//! Callers whose certificate counts as a token, because a line of the file names it.

use super::scopes::{SCOPES, rows};
use super::{Guarded, info, token};
use crate::log::Log;
use crate::web::{Answer, parse};
use chat::PortSettings;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use runtime::tls::{ClientFiles, ClientTls, TlsSettings};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// Longer than any change takes. Only a test that fails waits so long.
const LONG: Duration = Duration::from_secs(20);

/// An authority that chat and its callers trust, and its folder.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(parameters, key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    /// A certificate and its key, with this common name, and with these DNS names and this URI besides.
    fn issue(&self, common_name: &str, dns: &[&str], uri: Option<&str>) -> (PathBuf, PathBuf) {
        let dns = dns.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        let mut parameters = CertificateParams::new(dns).unwrap();
        let name = &mut parameters.distinguished_name;
        name.push(DnType::CommonName, common_name);
        let uri = uri.map(|it| SanType::URI(it.try_into().unwrap()));
        parameters.subject_alt_names.extend(uri);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| self.folder.path().join(format!("{common_name}.{kind}"));
        fs::write(path("pem"), certificate.pem()).unwrap();
        fs::write(path("key"), key.serialize_pem()).unwrap();
        (path("pem"), path("key"))
    }

    /// A chat that asks callers for certificates of this authority.
    async fn chat(&self, lines: &[(&str, &str)]) -> Guarded {
        let (certificate, key) = self.issue("chat", &["chat.test"], None);
        let tls = PortSettings {
            port: TlsSettings {
                certificate: Some(certificate),
                key: Some(key),
            },
            client_ca: Some(self.folder.path().join("ca")),
        };
        Guarded::at(&tls, lines).await
    }

    /// A caller with this certificate.
    fn caller(&self, common_name: &str, dns: &[&str], uri: Option<&str>) -> Caller {
        let files = ClientFiles {
            ca: Some(self.folder.path().join("ca")),
            identity: Some(self.issue(common_name, dns, uri)),
        };
        let tls = ClientTls::begin(files, &[b"http/1.1"]).unwrap();
        Caller(tls.connector())
    }
}

/// Calls with a certificate.
struct Caller(TlsConnector);

impl Caller {
    async fn call(&self, chat: &Guarded, method: &str, request: &Value) -> Answer {
        self.call_with(chat, "", method, request).await
    }

    async fn call_with(
        &self,
        chat: &Guarded,
        headers: &str,
        method: &str,
        request: &Value,
    ) -> Answer {
        let stream = TcpStream::connect(chat.address).await.unwrap();
        let name = ServerName::try_from("chat.test").unwrap();
        let mut stream = self.0.connect(name, stream).await.unwrap();
        let body = request.to_string();
        let request = format!(
            "POST /chat.v1.{method} HTTP/1.1\r\nhost: chat\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        parse(&bytes)
    }
}

fn shows(name: &str) -> String {
    format!("authorization: Bearer {}\r\n", token(name))
}

fn is_refused(answer: &Answer, status: u16, reason: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(info(answer)["reason"], reason);
}

/// As with tokens: for each call seven certificates, of which those with the right scope are let in.
#[tokio::test]
async fn a_call_is_let_in_with_a_certificate_of_its_scope_and_refused_with_every_other_one() {
    let authority = Authority::new();
    let lines = SCOPES.map(|scope| (scope, format!("subject={scope} {scope}")));
    let lines = lines.iter().map(|(name, rest)| (*name, &**rest));
    let chat = authority.chat(&lines.collect::<Vec<_>>()).await;
    let callers = SCOPES.map(|scope| (scope, authority.caller(scope, &[], None)));
    // The channel that the calls are about.
    let first = json!({"channel": "4", "user": "bot", "body": {}});
    let sent = callers[0].1.call(&chat, "ChatService/Send", &first).await;
    assert_eq!(sent.status, 200);
    let mut checked = 0;
    for (method, request, allowed, status) in rows() {
        // Calls that are let in may change what others would find.
        let (right, wrong): (Vec<_>, Vec<_>) =
            (callers.iter()).partition(|(scope, _)| allowed.contains(scope));
        for (scope, caller) in wrong {
            let answer = caller.call(&chat, method, &request).await;
            assert_eq!(answer.status, 403, "{method} with {scope}: {answer:?}");
            is_refused(&answer, 403, "SCOPE_MISSING");
            checked += 1;
        }
        for (scope, caller) in right {
            let answer = caller.call(&chat, method, &request).await;
            assert_eq!(answer.status, status, "{method} with {scope}: {answer:?}");
            checked += 1;
        }
    }
    assert_eq!(checked, rows().len() * SCOPES.len());
}

#[tokio::test]
async fn the_common_name_counts_before_dns_names_and_these_before_uris() {
    let authority = Authority::new();
    let chat = authority
        .chat(&[
            ("common", "subject=\"Games 安\" send games:*"),
            ("dns", "subject=games.test send,read"),
            ("uri", "subject=spiffe://cluster/games send"),
        ])
        .await;
    let (log, _guard) = Log::begin();
    let send = json!({"channel": "games:1", "user": "bot", "body": {}});
    let (dns, uri) = ("games.test", "spiffe://cluster/games");
    let certificates = [
        ("Games 安", &[dns][..], Some(uri), "common"),
        ("other", &["other.test", dns], Some(uri), "dns"),
        ("other", &["other.test"], Some(uri), "uri"),
    ];
    for (before, (common_name, dns, uri, expected)) in certificates.into_iter().enumerate() {
        let caller = authority.caller(common_name, dns, uri);
        let answer = caller.call(&chat, "ChatService/Send", &send).await;
        assert_eq!(answer.status, 200, "{expected}: {answer:?}");
        assert_eq!(log.until(before + 1).await[before]["token"], expected);
    }
    // Patterns of channels narrow a certificate as they narrow a token.
    let caller = authority.caller("Games 安", &[], None);
    let send = json!({"channel": "chess:1", "user": "bot", "body": {}});
    let answer = caller.call(&chat, "ChatService/Send", &send).await;
    is_refused(&answer, 403, "CHANNEL_NOT_ALLOWED");
}

#[tokio::test]
async fn a_certificate_that_no_line_names_is_refused_and_noted_with_its_name() {
    let (log, _guard) = Log::begin();
    let authority = Authority::new();
    let chat = authority.chat(&[("games", "subject=games read")]).await;
    let read = json!({"channel": "4"});
    let stranger = authority.caller("Games", &["games.test"], None);
    let answer = stranger.call(&chat, "ChatService/ListMembers", &read).await;
    is_refused(&answer, 401, "TOKEN_MISSING");
    let lines = log.until(1).await;
    assert_eq!(lines[0]["certificate"], "Games");
    assert_eq!(lines[0]["reason"], "TOKEN_MISSING");
}

#[tokio::test]
async fn a_token_that_is_sent_wins_over_the_certificate_even_if_it_is_not_valid() {
    let authority = Authority::new();
    let chat = authority
        .chat(&[("reader", "read"), ("games", "subject=games send")])
        .await;
    let games = authority.caller("games", &[], None);
    let send = json!({"channel": "4", "user": "bot", "body": {}});
    let method = "ChatService/Send";
    assert_eq!(games.call(&chat, method, &send).await.status, 200);
    for (headers, status, reason) in [
        (shows("reader"), 403, "SCOPE_MISSING"),
        (shows("unknown"), 401, "TOKEN_REFUSED"),
        (
            "authorization: Basic YTpi\r\n".to_owned(),
            401,
            "TOKEN_MISSING",
        ),
        (shows("reader").repeat(2), 401, "TOKEN_MISSING"),
    ] {
        let answer = games.call_with(&chat, &headers, method, &send).await;
        is_refused(&answer, status, reason);
    }
    let read = json!({"channel": "4"});
    let answer = games
        .call_with(&chat, &shows("reader"), "ChatService/ListMembers", &read)
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_certificate_whose_line_is_taken_out_may_call_no_more() {
    let authority = Authority::new();
    let lines = [("games", "subject=games read"), ("other", "read")];
    let chat = authority.chat(&lines).await;
    let games = authority.caller("games", &[], None);
    let read = json!({"channel": "4"});
    let method = "ChatService/ListMembers";
    assert_eq!(games.call(&chat, method, &read).await.status, 200);
    chat.rewrite(&lines[1..]);
    let refused = async {
        while games.call(&chat, method, &read).await.status != 401 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, refused).await.unwrap();
}
