//! Services of the release before and of this one run together, under load and through rolling upgrades.

use crate::deploys::assert_undisturbed;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use testkit::followers::{Followers, ROOM, WHOLE_LOG, assert_consistent};
use testkit::history::Outcome;
use testkit::redis::Redis;
use testkit::service::Service;
use testkit::system::{Plan, Services};
use testkit::{SOON, wait, workspace};

/// How long a service may take to end.
const END: Duration = Duration::from_secs(30);

/// The directory with the programs of the release before. They are built if they are missing.
fn before() -> PathBuf {
    let script = workspace().join("tests/upgrade");
    let output = Command::new(script)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("tests/upgrade starts");
    assert!(output.status.success(), "tests/upgrade failed");
    let directory = String::from_utf8(output.stdout).expect("the path is UTF-8");
    PathBuf::from(directory.trim_end())
}

/// Stops a service, and starts it again as that of a release. `None`: this one.
async fn replace(service: &mut Service, release: Option<PathBuf>) {
    service.terminate();
    assert!(service.ended_within(END).await.success());
    service.run_from(release);
    service.restart().await;
    service.ready().await;
}

/// A step of a rolling upgrade.
#[derive(Debug, Clone, Copy)]
enum Step {
    Chats,
    Connectors,
}
use Step::{Chats, Connectors};

/// Replaces services one by one, while members send.
async fn roll(
    services: &mut Services,
    step: Step,
    release: Option<&PathBuf>,
    followers: &Followers,
) {
    let all: Vec<&mut Service> = match step {
        Chats => services.chats.iter_mut().map(|it| &mut **it).collect(),
        Connectors => services.connectors.iter_mut().map(|it| &mut **it).collect(),
    };
    for service in all {
        replace(service, release.cloned()).await;
        followers.until_online().await;
        // Now some services of each release are in use.
        followers.until_each_acknowledged(20).await;
    }
}

/// Upgrades from the release before, and then goes back if `and_back`, each in this order.
async fn upgrade(order: [Step; 2], and_back: bool) {
    let before = before();
    let plan = Plan::of(2, 2)
        .alone()
        .chat_flags(&WHOLE_LOG)
        // Clients without a secret move twice within one grace, which connectors of the release before refuse under `reject`.
        .login_policy("kick-old")
        .connector_flags(&["--grace", "60s"]);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let mut services = plan.services(&redis.url(), &redis.url()).await;
    // Ports are chosen by now, so everything begins again as the release before.
    for connector in &mut services.connectors {
        replace(connector, Some(before.clone())).await;
    }
    for chat in &mut services.chats {
        replace(chat, Some(before.clone())).await;
    }
    services.ready().await;

    let addresses = services.addresses();
    let mut followers = Followers::empty(ROOM, &addresses);
    for number in 0..8 {
        let pace = Some(Duration::from_millis(20));
        followers.add(&format!("speaker{number}"), pace, number % 2);
    }
    for number in 0..20 {
        followers.add(&format!("listener{number}"), None, number % 2);
    }
    followers.until_online().await;
    followers.start_sending();
    followers.until_each_acknowledged(20).await;
    for step in order {
        roll(&mut services, step, None, &followers).await;
    }
    if and_back {
        for step in order {
            roll(&mut services, step, Some(&before), &followers).await;
        }
    }
    let api = services.api(0);
    let history = followers.stop_and_collect(&api, redis.address()).await;
    println!("{order:?}: {}", followers.report());
    assert_consistent(&history, &[]);
    assert_eq!(followers.count(Outcome::Refused), 0);
    assert_undisturbed(&followers);
    wait::eventually("everybody is a member once", SOON, async || {
        let members = api.members(ROOM).await;
        members.is_ok_and(|members| members.len() == 28 && members.iter().all(|(_, n)| *n == 1))
    })
    .await;
}

#[tokio::test]
#[ignore = "builds the release before: ./tests/run --long"]
async fn an_upgrade_of_chats_and_then_connectors_loses_nothing_and_repeats_nothing() {
    upgrade([Chats, Connectors], false).await;
}

#[tokio::test]
#[ignore = "builds the release before: ./tests/run --long"]
async fn an_upgrade_of_connectors_first_and_the_way_back_lose_nothing_and_repeat_nothing() {
    upgrade([Connectors, Chats], true).await;
}

/// The key tells of a release that does not share what it stores with this one.
#[tokio::test]
async fn a_service_that_cannot_use_what_a_newer_release_has_stored_refuses_to_start() {
    let redis = Redis::start().await;
    redis.say_words(&["SET", "gc:schema", "9 8"]);
    for (binary, more) in [
        ("chat", &[][..]),
        ("connector", &["--chat", "http://127.0.0.1:1"]),
    ] {
        let mut command = Command::new(testkit::binaries::path(binary));
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--redis", &redis.url()]).args(more);
        let output = command.output().expect("the program starts");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{binary}: {told}");
        for part in [
            "schema version 9",
            "version 8 or later",
            "Start that release",
        ] {
            assert!(told.contains(part), "{binary}: {told}");
        }
    }
    let kept = redis.text("GET gc:schema");
    assert_eq!(kept, "9 8");
}
