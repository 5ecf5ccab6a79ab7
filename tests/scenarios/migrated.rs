//! A project on Pomelo moves here with its files: `--redis-config` reads its redis.json, and `standalone migrate-pomelo` makes settings
//! of its configuration with which the services start and its clients talk.

use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use testkit::permit::Permit;
use testkit::pomelo::{Client, LOGGED_IN, SENT, heard};
use testkit::process::Process;
use testkit::redis::{Redis, free_port};
use testkit::tls::text;
use testkit::{SOON, binaries, http, wait};

fn write(folder: &Path, name: &str, content: &Value) {
    fs::write(folder.join(name), content.to_string()).expect("a file");
}

fn run(binary: &'static str, arguments: &[&str]) -> Output {
    let mut command = Command::new(binaries::path(binary));
    command.args(arguments).output().expect("it starts")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A process with its settings from files that were made, and its admin port.
struct Started {
    _process: Process,
    admin: SocketAddr,
}

impl Started {
    /// Starts a service with the file that its processes share, and the variables of this one. Only the admin port is another, because
    /// other tests may use that of the files.
    fn with(binary: &'static str, folder: &Path, number: usize) -> Self {
        let variables = fs::read_to_string(folder.join(format!("{binary}-{number}.env")));
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new(binaries::path(binary));
        command.arg("--config");
        command.arg(folder.join(format!("{binary}.toml")));
        for line in variables.expect("variables of each process").lines() {
            if let Some((name, value)) = line.split_once('=') {
                command.env(name, value);
            }
        }
        command.args(["--admin", &admin.to_string()]);
        Self {
            _process: Process::spawn(binary, &mut command),
            admin,
        }
    }

    async fn ready(&self) {
        wait::eventually("the service is ready", SOON, async || {
            let answer = http::get(self.admin, "/readyz").await;
            answer.is_some_and(|answer| answer.status == 200)
        })
        .await;
    }
}

#[tokio::test]
async fn services_start_with_the_settings_that_are_made_of_pomelos_files_and_its_clients_talk() {
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    let project = tempfile::tempdir().expect("a directory");
    let ports = [(); 4].map(|()| free_port());
    let servers = json!({
        "development": { "connector": [{ "id": "dev", "clientPort": 1, "frontend": true }] },
        "production": {
            "connector": [
                { "id": "connector-server-1", "host": "127.0.0.1", "port": 4050, "clientPort": ports[0], "frontend": true,
                  "max-connections": 100, "args": "--max-old-space-size=64" },
                { "id": "connector-server-2", "host": "127.0.0.1", "port": 4051, "clientPort": ports[1], "frontend": true, "cpu": 1 }
            ],
            "chat": [
                { "id": "chat-server-1", "host": "127.0.0.1", "port": ports[2], "auto-restart": "true" },
                { "id": "chat-server-2", "host": "127.0.0.1", "port": ports[3] }
            ],
            "gate": [{ "id": "gate-server-1", "host": "127.0.0.1", "clientPort": 3014, "frontend": true }]
        }
    });
    write(project.path(), "servers.json", &servers);
    let server = json!({ "host": "127.0.0.1", "port": redis.port(), "db": "0" });
    write(
        project.path(),
        "redis.json",
        &json!({ "production": server }),
    );
    write(
        project.path(),
        "master.json",
        &json!({ "production": { "port": 3005 } }),
    );

    let folder = project.path().join("settings");
    let arguments = [
        "migrate-pomelo",
        text(project.path()),
        "--env",
        "production",
        "--connector-config",
        "heartbeat=3,useDict=true,useProtobuf=true",
        "--out",
        text(&folder),
    ];
    let made = run("standalone", &arguments);
    let told = errors(&made);
    assert!(made.status.success(), "{told}");
    for expected in [
        "production.connector: args of connector-server-1 has no counterpart",
        "production.connector: cpu of connector-server-2 has no counterpart",
        "production.chat: auto-restart of chat-server-1 has no counterpart",
        "production.gate has no counterpart",
        "connectorConfig.useProtobuf has no counterpart",
        "master.json has no counterpart",
    ] {
        let is_told = told.lines().any(|line| line.starts_with(expected));
        assert!(is_told, "{expected}: {told}");
    }
    let again = run("standalone", &arguments);
    assert_eq!(again.status.code(), Some(1));
    assert!(errors(&again).contains("is there already"));

    for binary in ["connector", "chat"] {
        let file = folder.join(format!("{binary}.toml"));
        let checked = run(binary, &["config", "check", text(&file)]);
        assert_eq!(errors(&checked), "", "{binary}");
        assert!(checked.status.success(), "{binary}");
    }
    let chats = [1, 2].map(|number| Started::with("chat", &folder, number));
    let connectors = [1, 2].map(|number| Started::with("connector", &folder, number));
    for service in chats.iter().chain(&connectors) {
        service.ready().await;
    }
    let [first, second] = [ports[0], ports[1]].map(|it| SocketAddr::from(([127, 0, 0, 1], it)));
    let ann = Client::connect(first).await;
    assert_eq!(ann.login("ann", "4").await, LOGGED_IN);
    let bob = Client::join(second, "bob", "4").await;
    assert_eq!(ann.say("hello").await, SENT);
    for client in [&ann, &bob] {
        client.until_push(&heard("ann", "hello")).await;
    }
}

/// Everything that the services show of their settings and log is without the password.
#[tokio::test]
async fn the_redis_of_pomelos_file_is_used_and_its_password_is_never_shown() {
    const PASSWORD: &str = "s3cret/%@:é";
    let _permit = Permit::shared().await;
    let redis = Redis::start().await;
    redis
        .command(&["CONFIG", "SET", "requirepass", PASSWORD])
        .await;
    let folder = tempfile::tempdir().expect("a directory");
    let production =
        json!({ "host": "127.0.0.1", "port": redis.port(), "password": PASSWORD, "db": "0" });
    let file =
        json!({ "development": { "host": "127.0.0.1", "port": 1 }, "production": production });
    write(folder.path(), "redis.json", &file);
    let config = folder.path().join("redis.json");
    let url = folder.path().join("url");
    let encoded = "s3cret%2F%25%40%3A%C3%A9";
    let line = format!("redis://:{encoded}@127.0.0.1:{}\n", redis.port());
    fs::write(&url, line).expect("a file");
    let of_pomelo = ["--redis-config", text(&config), "--env", "production"];
    let of_file = ["--redis-file", text(&url)];

    let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut logged = Vec::new();
    let mut admins = Vec::new();
    let mut started = Vec::new();
    for flags in [&of_pomelo[..], &of_file] {
        let mut command = Command::new(binaries::path("chat"));
        command.args(listen).args(flags);
        command.args(["--log-format", "json", "--log-filter", "debug"]);
        let mut chat = Process::spawn("chat", &mut command);
        let admin = chat
            .until_line("its admin port", |line| {
                let event: Value = serde_json::from_str(line).ok()?;
                let is_admin = event["fields"]["message"] == "admin listening"
                    || event["message"] == "admin listening";
                let address = event["fields"]["address"]
                    .as_str()
                    .or(event["address"].as_str());
                address.filter(|_| is_admin)?.parse::<SocketAddr>().ok()
            })
            .await;
        admins.push(admin);
        started.push(chat);
    }
    for admin in admins {
        wait::eventually("chat is ready with this Redis", SOON, async || {
            let answer = http::get(admin, "/readyz").await;
            answer.is_some_and(|answer| answer.status == 200)
        })
        .await;
    }
    for chat in &started {
        logged.extend(chat.lines());
    }
    for flags in [&of_pomelo[..], &of_file] {
        for binary in ["chat", "connector"] {
            let shown = run(binary, &[&["config", "show"], flags].concat());
            assert!(shown.status.success(), "{}", errors(&shown));
            logged.push(String::from_utf8_lossy(&shown.stdout).into_owned());
        }
    }

    // Mistakes name the file and the place.
    write(
        folder.path(),
        "redis.json",
        &json!({ "production": { "pasword": PASSWORD } }),
    );
    for (env, expected) in [
        ("staging", "it has no staging. It has production"),
        ("production", "production.pasword means nothing here"),
    ] {
        for binary in ["chat", "connector"] {
            let wrong = run(binary, &["--redis-config", text(&config), "--env", env]);
            assert_eq!(wrong.status.code(), Some(64), "{binary}");
            let error = errors(&wrong);
            let place = format!("{}: {expected}", config.display());
            assert!(error.contains(&place), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
            logged.push(error);
        }
    }
    for line in &logged {
        assert!(!line.contains("s3cret"), "{line}");
    }
}
