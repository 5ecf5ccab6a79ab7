//! The connectors' own page and the original's browser library, in a real Chromium: `tests/clients/browser.test.js`.

use crate::refusals::system::Locked;
use crate::refusals::tokens::{SECRET, SHARED};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testkit::process::Process;
use testkit::redis::free_port;
use testkit::system::{Plan, System};

#[tokio::test]
async fn people_chat_through_the_page_and_miss_nothing_whatever_happens_to_their_connection() {
    // The page of the original's library is served by somebody else.
    let site = free_port();
    let origin = format!("http://127.0.0.1:{site}").leak();
    let flags = ["--heartbeat", "2s", "--allowed-origins", origin];
    let flags = [&flags[..], &["--message-limit", "16KiB"]].concat();
    let system = Plan::of(2, 2).connector_flags(&flags).start().await;
    // One more server lets nobody in without a token.
    let secure = Locked::start(&[], &["--auth-leeway", "0s"]).await;
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pictures");
    let mut command = testkit::mocha("browser.test.js", &system.connectors);
    command
        .env("CHAT", system.chats[0].address().to_string())
        .env("SECURE", secure.clients().to_string())
        .env("ISSUER", SHARED)
        .env("SECRET", std::str::from_utf8(SECRET).expect("text"))
        .env("CHROMIUM", chromium())
        .env("OUTPUT", &pictures)
        .env("SITE", site.to_string());
    let mut mocha = Process::spawn("mocha", &mut command);
    let status = mocha.ended_within(Duration::from_secs(400)).await;
    let output = mocha.lines().join("\n");
    assert!(status.success(), "{output}");
    assert!(output.contains("29 passing"), "{output}");
    for name in [
        "login", "chat", "dark", "phone", "away", "back", "lost", "channels",
    ] {
        let picture = pictures.join(format!("{name}.png"));
        assert!(picture.exists(), "no screenshot {}", picture.display());
    }
}

/// The scripts that connectors serve are committed, so that building a connector needs no Node.
#[test]
fn the_pages_scripts_are_what_is_built_and_all_that_is_served_stays_small() {
    let mut node = Command::new("node");
    node.args(["connector/page/build.mjs", "--check"])
        .current_dir(testkit::workspace());
    let output = node.output().expect("node is missing; install it");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
}

/// Where Chromium is.
pub(crate) fn chromium() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|place| place.join("chromium"));
    let found = places.find(|place| place.exists());
    found.expect("chromium is missing: run ./tests/run, which installs it")
}

/// The page comes with a content security policy. An operator may turn the page off; then the port is for clients
/// alone.
#[tokio::test]
async fn the_page_is_served_unless_the_operator_turns_it_off() {
    let system = System::start().await;
    let fetch = |address: std::net::SocketAddr, path: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--include"]);
        curl.arg(format!("http://{address}{path}"));
        let output = curl.output().expect("curl is missing; install it");
        String::from_utf8_lossy(&output.stdout).to_lowercase()
    };
    let address = system.connectors[0].address();
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/client.js", "text/javascript"),
    ] {
        let answer = fetch(address, path);
        assert!(answer.starts_with("http/1.1 200"), "{path}: {answer}");
        assert!(answer.contains(&format!("content-type: {kind}")), "{path}");
        assert!(answer.contains("content-security-policy: default-src 'none'"));
    }
    assert!(fetch(address, "/page").starts_with("http/1.1 404"));
    let plan = Plan::of(1, 1).connector_flags(&["--no-page"]);
    let system = plan.start().await;
    let answer = fetch(system.connectors[0].address(), "/");
    // Load balancers may ask for it.
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert!(!answer.contains("<html"), "{answer}");
    assert!(fetch(system.connectors[0].address(), "/page.js").starts_with("http/1.1 404"));
}

/// `EventSource` on a page of another origin, over a network that breaks off.
#[tokio::test]
async fn an_event_source_comes_back_by_itself_and_has_no_gap_and_nothing_twice() {
    let site = free_port();
    let origin = format!("http://127.0.0.1:{site}").leak();
    let flags = ["--allowed-origins", origin, "--login-policy", "kick-old"];
    let system = Plan::of(2, 2).connector_flags(&flags).start().await;
    let mut command = testkit::mocha("sse.test.js", &system.connectors);
    command
        .env("CHROMIUM", chromium())
        .env("SITE", site.to_string());
    let mut mocha = Process::spawn("mocha", &mut command);
    let status = mocha.ended_within(Duration::from_secs(180)).await;
    let output = mocha.lines().join("\n");
    assert!(status.success(), "{output}");
    assert!(output.contains("4 passing"), "{output}");
}
