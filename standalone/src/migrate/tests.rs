use super::*;
use serde_json::json;
use tempfile::TempDir;

/// A folder with these files.
fn project(files: &[(&str, Value)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content.to_string()).unwrap();
    }
    folder
}

/// Texts of files, each with its name.
type Texts = Vec<(String, String)>;

/// The files that are made, and the notes.
fn migrated(folder: &Path, arguments: &[&str]) -> Result<(Texts, Vec<String>), String> {
    let begin = ["migrate", folder.to_str().unwrap()];
    let arguments = Arguments::parse_from([&begin, arguments].concat());
    let mut notes = Notes::default();
    let files = made(&arguments, &mut notes)?;
    let files = files.into_iter().map(|file| (file.name, file.text));
    Ok((files.collect(), notes.all().map(str::to_owned).collect()))
}

fn text_of(files: &[(String, String)], name: &str) -> String {
    let found = files.iter().find(|(it, _)| it == name);
    found.unwrap_or_else(|| panic!("no {name}")).1.clone()
}

/// Its settings, without comments.
fn settings_of(files: &[(String, String)], name: &str) -> toml::Table {
    text_of(files, name).parse().unwrap()
}

fn chat_of_pomelo() -> Value {
    json!({
        "development": {
            "connector": [
                { "id": "connector-server-1", "host": "127.0.0.1", "port": 4050, "clientPort": 3050, "frontend": true }
            ],
            "chat": [{ "id": "chat-server-1", "host": "127.0.0.1", "port": 6050 }],
            "gate": [{ "id": "gate-server-1", "host": "127.0.0.1", "clientPort": 3014, "frontend": true }]
        },
        "production": {
            "connector": [
                { "id": "connector-server-1", "host": "10.0.0.1", "port": 4050, "clientHost": "a.example", "clientPort": 3050,
                  "frontend": true, "max-connections": 5000, "args": "--max-old-space-size=4096", "auto-restart": "true", "cpu": 2 },
                { "id": "connector-server-2", "host": "10.0.0.1", "port": 4051, "clientPort": "3051", "frontend": "true", "cpu": 3 },
                { "id": "connector-server-3", "host": "10.0.0.2", "port": 4050, "clientPort": 3050, "frontend": true }
            ],
            "chat": [{ "clusterCount": 2, "host": "10.0.0.3", "port": "6050++" }],
            "game": [{ "id": "game-1", "host": "10.0.0.4", "port": 7000 }, { "id": "game-2", "host": "10.0.0.5", "port": 7000 }]
        }
    })
}

#[test]
fn one_process_of_each_kind_has_all_its_settings_in_one_file() {
    let redis = json!({ "development": { "host": "127.0.0.1", "port": 6379, "db": "5" }, "production": {} });
    let folder = project(&[("servers.json", chat_of_pomelo()), ("redis.json", redis)]);
    let config = "heartbeat=3,useDict=true,useProtobuf=true";
    let arguments = ["--env", "development", "--connector-config", config];
    let (files, notes) = migrated(folder.path(), &arguments).unwrap();
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["connector.toml", "chat.toml"]);
    let expected = "id = 'connector-server-1'\nlisten = '127.0.0.1:3050'\nadmin = '127.0.0.1:9101'\nchat = ['http://127.0.0.1:6050']\n\
                    redis = 'redis://127.0.0.1:6379/5'\nheartbeat = '3s'\ndictionary = ''";
    assert_eq!(
        settings_of(&files, "connector.toml"),
        expected.parse().unwrap()
    );
    let expected =
        "listen = '127.0.0.1:6050'\nadmin = '127.0.0.1:9001'\nredis = 'redis://127.0.0.1:6379/5'";
    assert_eq!(settings_of(&files, "chat.toml"), expected.parse().unwrap());
    let is_noted = |what: &str| notes.iter().any(|note| note.starts_with(what));
    assert!(is_noted("development.gate has no counterpart"), "{notes:?}");
    assert!(
        is_noted("connectorConfig.useProtobuf has no counterpart"),
        "{notes:?}"
    );
    assert!(
        !notes
            .iter()
            .any(|note| note.contains("let other machines in"))
    );
}

#[test]
fn several_processes_share_a_file_and_each_has_variables_of_its_own() {
    let folder = project(&[("servers.json", chat_of_pomelo())]);
    let (files, notes) = migrated(folder.path(), &["--env", "production", "--insecure"]).unwrap();
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "connector.toml",
        "connector-1.env",
        "connector-2.env",
        "connector-3.env",
        "chat.toml",
        "chat-1.env",
        "chat-2.env",
    ];
    assert_eq!(names, expected);
    let expected = "chat = ['http://10.0.0.3:6050', 'http://10.0.0.3:6051']\ninsecure = true";
    assert_eq!(
        settings_of(&files, "connector.toml"),
        expected.parse().unwrap()
    );
    let without_comment = |name| {
        let text = text_of(&files, name);
        text.lines().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        without_comment("connector-1.env"),
        "CONNECTOR_ID=connector-server-1 CONNECTOR_LISTEN=0.0.0.0:3050 CONNECTOR_ADMIN=127.0.0.1:9101 CONNECTOR_CONNECTIONS=5000"
    );
    assert_eq!(
        without_comment("connector-2.env"),
        "CONNECTOR_ID=connector-server-2 CONNECTOR_LISTEN=0.0.0.0:3051 CONNECTOR_ADMIN=127.0.0.1:9102"
    );
    // Another host, whose ports are free.
    assert!(without_comment("connector-3.env").ends_with("CONNECTOR_ADMIN=127.0.0.1:9101"));
    assert_eq!(
        without_comment("chat-2.env"),
        "CHAT_LISTEN=0.0.0.0:6051 CHAT_ADMIN=127.0.0.1:9002"
    );
    assert!(
        text_of(&files, "chat-2.env")
            .starts_with("# The process cluster-server-chat-1 of 10.0.0.3.")
    );
    assert!(
        text_of(&files, "connector.toml").contains("#routes = [\"game.*=http://10.0.0.4:7000\"]")
    );
    for expected in [
        "production.connector: args of connector-server-1 has no counterpart",
        "production.connector: auto-restart of connector-server-1 has no counterpart",
        "production.connector: cpu of connector-server-1, connector-server-2 has no counterpart",
        "production.game has no counterpart",
        "redis.json is not there",
    ] {
        assert!(
            notes.iter().any(|note| note.starts_with(expected)),
            "{expected}: {notes:?}"
        );
        let comment = format!("# - {expected}");
        assert!(
            text_of(&files, "connector.toml").contains(&comment),
            "{expected}"
        );
    }
}

#[test]
fn nothing_is_opened_to_other_machines_without_being_asked_for() {
    let folder = project(&[("servers.json", chat_of_pomelo())]);
    let (files, notes) = migrated(folder.path(), &["--env", "production"]).unwrap();
    for (name, text) in &files {
        assert!(
            !text.contains("0.0.0.0") && !text.contains("\ninsecure"),
            "{name}: {text}"
        );
    }
    let told = notes
        .iter()
        .filter(|note| note.contains("let other machines in"));
    assert_eq!(told.count(), 2, "{notes:?}");
}

#[test]
fn a_password_stays_in_its_file() {
    let redis = json!({ "production": { "host": "10.0.0.9", "password": "s3cret" } });
    let files = [
        ("servers.json", chat_of_pomelo()),
        ("redis.json", redis),
        ("dictionary.json", json!(["onGift"])),
    ];
    let folder = project(&files);
    let arguments = ["--env", "production", "--connector-config", "useDict=true"];
    let (files, notes) = migrated(folder.path(), &arguments).unwrap();
    assert!(!format!("{files:?}{notes:?}").contains("s3cret"));
    let settings = settings_of(&files, "connector.toml");
    let path = fs::canonicalize(folder.path().join("redis.json")).unwrap();
    assert_eq!(settings["redis_config"].as_str(), path.to_str());
    assert_eq!(settings["env"].as_str(), Some("production"));
    let path = fs::canonicalize(folder.path().join("dictionary.json")).unwrap();
    assert_eq!(settings["dictionary"].as_str(), path.to_str());
}

#[test]
fn files_of_the_environments_folder_are_read_and_others_are_named() {
    let one = json!({ "connector": [{ "id": "a", "clientPort": 1, "frontend": true }] });
    let folder = project(&[
        ("production/servers.json", one),
        ("master.json", json!({})),
        ("clientProtos.json", json!({})),
        ("serverProtos.json", json!({ "onMessage": {} })),
        ("mysql.json", json!({})),
    ]);
    let (files, notes) = migrated(folder.path(), &["--env", "production"]).unwrap();
    assert_eq!(
        settings_of(&files, "connector.toml")["listen"].as_str(),
        Some("127.0.0.1:1")
    );
    let named: Vec<_> = notes
        .iter()
        .filter(|it| it.contains(".json has no counterpart"))
        .collect();
    assert_eq!(named.len(), 3, "{notes:?}");
}

#[test]
fn a_mistake_is_told_with_its_file_and_place() {
    let with = |servers: Value| {
        let folder = project(&[("servers.json", servers)]);
        migrated(folder.path(), &["--env", "production"]).unwrap_err()
    };
    let server = |server: Value| json!({ "production": { "connector": [server] } });
    for (servers, place) in [
        (json!([]), "expected an object"),
        (
            json!({ "development": {} }),
            "it has no production. It has development",
        ),
        (
            json!({ "production": { "chat": {} } }),
            "production.chat: expected a list",
        ),
        (
            server(json!(5)),
            "production.connector[0]: expected an object",
        ),
        (
            server(json!({ "id": "a", "frontend": true })),
            "production.connector[0].clientPort: ",
        ),
        (
            server(json!({ "id": "a", "frontend": true, "clientPort": 70_000 })),
            "[0].clientPort: ",
        ),
        (
            server(json!({ "id": "a", "frontend": 1, "clientPort": 1 })),
            "[0].frontend: ",
        ),
        (
            server(json!({ "id": "a\nb", "frontend": true, "clientPort": 1 })),
            "[0].id: ",
        ),
        (
            server(json!({ "id": "a", "host": "h\nx", "port": 1 })),
            "[0].host: ",
        ),
        (
            server(json!({ "clusterCount": 5_000, "port": "1++" })),
            "[0].clusterCount: ",
        ),
    ] {
        let error = with(servers);
        assert!(
            error.contains("servers.json: ") && error.contains(place),
            "{error}"
        );
    }
    let empty = project(&[]);
    let error = migrated(empty.path(), &[]).unwrap_err();
    assert!(error.ends_with("has no servers.json"), "{error}");
    let folder = project(&[("servers.json", chat_of_pomelo())]);
    for wrong in ["heartbeat", "heartbeat=soon", "useDict=1"] {
        let arguments = ["--env", "production", "--connector-config", wrong];
        let error = migrated(folder.path(), &arguments).unwrap_err();
        assert!(error.starts_with("--connector-config "), "{error}");
    }
}

#[test]
fn a_name_that_breaks_the_line_does_not_become_a_setting() {
    let servers = json!({ "production": {
        "connector": [{ "id": "a", "frontend": true, "clientPort": 1, "x\ninsecure = true\n#": 1 }],
    } });
    let folder = project(&[("servers.json", servers)]);
    let (files, _) = migrated(folder.path(), &["--env", "production"]).unwrap();
    assert!(!settings_of(&files, "connector.toml").contains_key("insecure"));
}

#[test]
fn files_are_written_all_or_none_and_never_over_others() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["a", "b"].map(|name| SettingsFile {
        name: name.to_owned(),
        text: "new".to_owned(),
    });
    fs::write(folder.path().join("b"), "old").unwrap();
    let error = write(folder.path(), &files).unwrap_err();
    assert!(error.contains("is there already"), "{error}");
    assert!(!folder.path().join("a").exists());
    let below = folder.path().join("below");
    write(&below, &files).unwrap();
    assert_eq!(fs::read_to_string(below.join("b")).unwrap(), "new");
    assert!(write(&below, &files).is_err());
}
