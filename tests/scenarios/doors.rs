//! A port that asks for no credentials is not reached from other machines, unless the operator wants it.

use crate::api_tokens::create;
use std::process::Command;
use testkit::binaries;
use testkit::permit::Permit;
use testkit::tls::{Authority, text};

/// Runs a binary that ends at once. Returns its exit code, and what it wrote on stderr.
fn run(binary: &'static str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binaries::path(binary));
    let output = command.args(arguments).output().expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), error)
}

/// The flag, and the setting that makes the port ask for credentials.
const PORTS: [(&str, &str, &str); 4] = [
    ("chat", "--listen", "--api-tokens-file"),
    ("connector", "--listen", "--auth-mode jwt"),
    ("standalone", "--grpc", "--api-tokens-file"),
    ("standalone", "--listen", "--auth-mode jwt"),
];

#[tokio::test]
async fn a_port_that_asks_for_nothing_refuses_to_be_reached_from_other_machines() {
    let _permit = Permit::shared().await;
    for (binary, flag, guard) in PORTS {
        for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
            let (code, error) = run(binary, &[flag, address]);
            assert_eq!(code, Some(64), "{binary} {flag} {address}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
            for word in [flag, address, guard, "--insecure"] {
                assert!(error.contains(word), "{binary}: {word} is not in {error}");
            }
        }
    }
}

/// The settings are only shown here, because tests listen on no other address than loopback.
#[tokio::test]
async fn with_credentials_or_on_purpose_it_may_be_reached() {
    let _permit = Permit::shared().await;
    for (binary, flag, _) in PORTS {
        let arguments = [flag, "0.0.0.0:1", "--insecure", "config", "show"];
        let (code, error) = run(binary, &arguments);
        assert_eq!(code, Some(0), "{binary} {arguments:?}: {error}");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tokens");
    let (_token, line) = create("ops", "read");
    std::fs::write(&file, line).expect("a file");
    let tokens = ["--listen", "0.0.0.0:1", "--api-tokens-file", text(&file)];
    let (code, error) = run("chat", &[&tokens[..], &["config", "show"]].concat());
    assert_eq!(code, Some(0), "{error}");
    let authority = Authority::new();
    let (own, ca) = (authority.issue("own"), authority.ca());
    let certificates = [&own.flags()[..], &["config", "show"]].concat();
    for (binary, flag, client_ca) in [
        ("chat", "--listen", "--tls-client-ca"),
        ("standalone", "--grpc", "--grpc-client-ca"),
    ] {
        // A certificate of the port alone lets everybody call.
        let address = [flag, "0.0.0.0:1"];
        let (code, error) = run(binary, &[&address, &certificates[..]].concat());
        assert_eq!(code, Some(64), "{binary}: {error}");
        assert!(error.contains(client_ca), "{error}");
        let asked = [&address, &[client_ca, text(&ca)][..], &certificates].concat();
        let (code, error) = run(binary, &asked);
        assert_eq!(code, Some(0), "{binary}: {error}");
    }
    let secret = directory.path().join("secret");
    std::fs::write(&secret, [b'x'; 32]).expect("a file");
    let file = directory.path().join("connector.toml");
    let text = format!(
        "listen = '0.0.0.0:1'\n[auth]\nmode = 'jwt'\n[[auth.issuer]]\nissuer = 'https://id.example'\naudience = ['chat']\n\
         algorithms = ['HS256']\nsecret_file = '{}'\n",
        secret.display()
    );
    std::fs::write(&file, text).expect("a file");
    let (code, error) = run(
        "connector",
        &["config", "check", file.to_str().expect("text")],
    );
    assert_eq!(code, Some(0), "{error}");
}
