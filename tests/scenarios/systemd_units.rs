//! The units in deploy/systemd/: systemd accepts them, they let a service do little, and their lines start, reload and stop the
//! service. systemd itself need not run here: a test does with each unit what systemd would do.

use crate::example_settings::longest_end;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;
use testkit::permit::Permit;
use testkit::process::Process;
use testkit::redis::{Redis, free_port};
use testkit::service::Chat;
use testkit::{SOON, binaries, http, wait, workspace};

/// Where the packages put the binaries.
const INSTALLED: &str = "/usr/lib/global-channels";
/// Each template stands for one of its instances here.
const UNITS: [(&str, &str); 3] = [
    ("connector@.service", "connector@1.service"),
    ("chat@.service", "chat@1.service"),
    ("standalone.service", "standalone.service"),
];
/// Drop-ins, and the units that they are for.
const DROP_INS: [(&str, &str); 2] = [
    ("connector-credentials.conf", "connector@1.service"),
    ("chat-credentials.conf", "chat@1.service"),
];
/// In tenths: above this, `systemd-analyze security` fails.
const MOST_EXPOSED: &str = "20";

fn text(file: &str) -> String {
    let path = workspace().join("deploy/systemd").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A folder with the units, which start the binaries of this build.
fn units() -> TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    let binaries = binaries::directory().to_str().expect("a path in UTF-8");
    for (file, instance) in UNITS {
        let unit = text(file).replace(INSTALLED, binaries);
        fs::write(folder.path().join(instance), unit).expect("written");
    }
    for (file, instance) in DROP_INS {
        let drop_ins = folder.path().join(format!("{instance}.d"));
        fs::create_dir(&drop_ins).expect("a directory");
        fs::write(drop_ins.join(file), text(file)).expect("written");
    }
    folder
}

fn analyze(arguments: &[&str], unit: &Path) -> Output {
    let mut command = Command::new("systemd-analyze");
    command
        .args(arguments)
        .arg(unit)
        .output()
        .expect("tests/run installs systemd")
}

/// Everything that a program has written.
fn said(output: &Output) -> String {
    let said = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

/// What a unit says, with what systemd puts in place of its specifiers.
struct Unit(BTreeMap<String, Vec<String>>);

impl Unit {
    fn of(path: &Path) -> Self {
        let mut settings = BTreeMap::<_, Vec<_>>::new();
        for line in fs::read_to_string(path).expect("a unit").lines() {
            if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
                let value = value.replace("%i", "1").replace("%H", "host");
                settings.entry(key.to_owned()).or_default().push(value);
            }
        }
        Self(settings)
    }

    fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    fn the(&self, key: &str) -> &str {
        match self.all(key) {
            [only] => only,
            other => panic!("{key}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn systemd_accepts_every_unit_without_a_warning() {
    let _permit = Permit::shared().await;
    let folder = units();
    for (_, instance) in UNITS {
        let output = analyze(&["verify", "--man=no"], &folder.path().join(instance));
        assert!(output.status.success(), "{instance}: {}", said(&output));
        assert_eq!(said(&output), "", "{instance}");
    }
}

#[tokio::test]
async fn every_unit_lets_its_service_do_little() {
    let _permit = Permit::shared().await;
    let folder = units();
    let threshold = format!("--threshold={MOST_EXPOSED}");
    for (_, instance) in UNITS {
        let arguments = ["security", "--offline=true", "--no-pager", &threshold];
        let output = analyze(&arguments, &folder.path().join(instance));
        assert!(output.status.success(), "{instance}: {}", said(&output));
    }
}

/// Starts what a unit starts, with settings as a host would have them, and does what systemd does to reload and stop it.
async fn lives_as_its_unit_says(instance: &str, variables: &[(&str, String)], admin: u16) {
    let folder = units();
    let unit = Unit::of(&folder.path().join(instance));
    let environment = unit.all("Environment").iter().map(|it| {
        let (name, value) = it.split_once('=').expect("a variable");
        (name.to_owned(), value.to_owned())
    });
    let mut environment: BTreeMap<_, _> = environment.collect();
    // The unit names the file of the package. Here is a copy of it, because a test changes no /etc.
    let file = environment
        .iter()
        .find(|(name, _)| name.ends_with("_CONFIG"));
    let (name, path) = file.expect("the unit names a file of settings");
    let packaged = workspace()
        .join("deploy/etc")
        .join(PathBuf::from(path).file_name().expect("a file"));
    let (name, copy) = (name.clone(), folder.path().join("settings.toml"));
    fs::copy(&packaged, &copy).unwrap_or_else(|error| panic!("{}: {error}", packaged.display()));
    environment.insert(name, copy.display().to_string());
    environment.extend(
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone())),
    );

    let mut words = unit.the("ExecStart").split(' ');
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).envs(environment);
    let mut service = Process::spawn(instance, &mut command);
    let admin = ([127, 0, 0, 1], admin).into();
    wait::eventually("the service is ready", SOON, async || {
        let answer = http::get(admin, "/readyz").await;
        answer.is_some_and(|answer| answer.status == 200)
    })
    .await;

    fs::write(&copy, "log_filter = \"debug\"\n").expect("written");
    // A changed file is noticed without a signal, too, but only after a while.
    let reload = unit.the("ExecReload");
    assert_eq!(reload, "/bin/kill -HUP $MAINPID", "{instance}");
    let reload = reload.replace("$MAINPID", &service.id().to_string());
    let mut words = reload.split(' ');
    let mut reload = Command::new(words.next().expect("a program"));
    let reloaded = reload.args(words).status().expect("kill starts");
    assert!(reloaded.success(), "{instance}");
    service
        .until_line("that its settings were read again", |line| {
            line.contains("settings reloaded").then_some(())
        })
        .await;

    assert_eq!(unit.the("KillSignal"), "SIGTERM");
    let seconds = unit.the("TimeoutStopSec").parse().expect("seconds");
    let within = Duration::from_secs(seconds);
    let (name, _) = instance.split_once(['@', '.']).expect("an instance");
    assert!(within > longest_end(name), "{instance}");
    service.terminate();
    let status = service.ended_within(within).await;
    assert_eq!(status.code(), Some(0), "{instance}");
}

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[tokio::test]
async fn a_connector_lives_as_its_unit_says() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let chat = Chat::start(&redis, &[]).await;
    let admin = free_port();
    let variables = [
        ("CONNECTOR_LISTEN", at(free_port())),
        ("CONNECTOR_ADMIN", at(admin)),
        ("CONNECTOR_REDIS", redis.url()),
        ("CONNECTOR_CHAT", chat.url()),
    ];
    lives_as_its_unit_says("connector@1.service", &variables, admin).await;
}

#[tokio::test]
async fn a_chat_lives_as_its_unit_says() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let admin = free_port();
    let variables = [
        ("CHAT_LISTEN", at(free_port())),
        ("CHAT_ADMIN", at(admin)),
        ("CHAT_REDIS", redis.url()),
    ];
    lives_as_its_unit_says("chat@1.service", &variables, admin).await;
}

#[tokio::test]
async fn standalone_lives_as_its_unit_says() {
    let _permit = Permit::shared().await;
    let admin = free_port();
    let variables = [
        ("STANDALONE_LISTEN", at(free_port())),
        ("STANDALONE_GRPC", at(free_port())),
        ("STANDALONE_ADMIN", at(admin)),
    ];
    lives_as_its_unit_says("standalone.service", &variables, admin).await;
}
