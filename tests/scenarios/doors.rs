//! A port that asks for no credentials is not reached from other machines, unless the operator wants it.

use std::process::Command;
use testkit::binaries;
use testkit::permit::Permit;

/// Runs a binary that ends at once. Returns its exit code, and what it wrote on stderr.
fn run(binary: &'static str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binaries::path(binary));
    let output = command.args(arguments).output().expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), error)
}

/// The flag, and the setting that makes the port ask for credentials.
const PORTS: [(&str, &str, &str); 2] = [
    ("chat", "--listen", "--api-tokens-file"),
    ("standalone", "--grpc", "--api-tokens-file"),
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
    for (binary, flag, guard) in PORTS {
        for further in [&["--insecure"][..], &[guard, "/etc/tokens"]] {
            let arguments = [&[flag, "0.0.0.0:1"], further, &["config", "show"]].concat();
            let (code, error) = run(binary, &arguments);
            assert_eq!(code, Some(0), "{binary} {arguments:?}: {error}");
        }
    }
}
