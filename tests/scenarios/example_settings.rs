//! The settings in deploy/: what is set there exists, and a service takes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testkit::tls::Authority;
use testkit::{binaries, workspace, yaml};

/// How long a service that ends everything at once may take, and chat until it does so.
const DEADLINE: Duration = Duration::from_secs(10);

/// Files that settings may name, by their names.
pub(crate) struct Named {
    authority: Authority,
    token: PathBuf,
    tokens: PathBuf,
    secret: PathBuf,
    redis: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Named {
    pub(crate) fn new() -> Self {
        let authority = Authority::new();
        let chat = Command::new(binaries::path("chat"))
            .args(["token", "create", "connectors", "--scopes", "connector"])
            .output()
            .expect("chat starts");
        let printed = String::from_utf8(chat.stdout).expect("text");
        let (token, line) = printed.split_once('\n').expect("a token and its line");
        let file = |name: &str, text: &str| {
            let path = authority.file(name);
            fs::write(&path, text).expect("written");
            path
        };
        let identity = authority.issue("chat");
        Self {
            token: file("token", token),
            tokens: file("tokens", line),
            secret: file("secret", &"0".repeat(64)),
            redis: file("redis", "redis://127.0.0.1:6379\n"),
            certificate: identity.certificate,
            key: identity.key,
            authority,
        }
    }

    /// A file of the kind that stands at this path where the product is installed.
    fn instead_of(&self, path: &str) -> PathBuf {
        let name = path.rsplit('/').next().unwrap_or_default();
        match name {
            "tls.crt" => self.certificate.clone(),
            "tls.key" => self.key.clone(),
            "ca.crt" => self.authority.ca(),
            "token" | "chat-token" | "connector-token" => self.token.clone(),
            "tokens" => self.tokens.clone(),
            "clients" => self.secret.clone(),
            "url" => self.redis.clone(),
            other => panic!("{path}: this test has no {other}"),
        }
    }

    /// The text with files of this machine in place of those where the product is installed.
    pub(crate) fn put_into(&self, text: &str) -> String {
        let mut result = text.to_owned();
        for word in text.split(|it: char| it.is_whitespace() || it == '"') {
            let is_path = ["/etc/global-channels/", "/run/secrets/"]
                .iter()
                .any(|it| word.starts_with(it));
            if is_path {
                let here = self.instead_of(word);
                result = result.replace(&format!("\"{word}\""), &format!("\"{}\"", here.display()));
            }
        }
        result
    }
}

/// How long a service may take to end after the signal, with the default settings: until it ends everything at once, and ten seconds
/// after that.
pub(crate) fn longest_end(service: &str) -> Duration {
    let output = Command::new(binaries::path(service))
        .args(["config", "show"])
        .output()
        .expect("it starts");
    let shown = String::from_utf8(output.stdout).expect("text");
    let mut lines = shown.lines();
    let deadline = lines.find_map(|line| line.strip_prefix("deadline = \""));
    let deadline = deadline.map(|rest| {
        let seconds = rest.split_once("s\"").expect("seconds").0;
        Duration::from_secs(seconds.parse().expect("a number"))
    });
    assert_eq!(deadline.is_none(), service == "chat", "{shown}");
    deadline.unwrap_or(DEADLINE) + DEADLINE
}

/// What a service says about this file of settings; empty if it takes them.
fn complaints(service: &str, settings: &str) -> String {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("settings.toml");
    fs::write(&path, settings).expect("written");
    let output = Command::new(binaries::path(service))
        .args(["config", "check"])
        .arg(path)
        .output()
        .expect("it starts");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), complaint.is_empty(), "{complaint}");
    complaint
}

fn read(file: &str) -> String {
    let path = workspace().join("deploy").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The settings that a file has as comments: lines with a # and no blank after it.
fn uncommented(text: &str) -> String {
    let lines = text.lines().filter_map(|line| line.strip_prefix('#'));
    let settings = lines.filter(|line| !line.starts_with(' '));
    settings.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn the_files_of_the_packages_are_right_as_they_are_and_with_all_that_they_propose() {
    let named = Named::new();
    for service in ["connector", "chat", "standalone"] {
        let text = read(&format!("etc/{service}.toml"));
        assert_eq!(complaints(service, &text), "", "{service}");
        let proposed = named.put_into(&uncommented(&text));
        assert!(
            proposed.contains("[tls]") || proposed.contains("[connector.tls]"),
            "{proposed}"
        );
        assert_eq!(complaints(service, &proposed), "", "{service}: {proposed}");
    }
}

#[test]
fn every_variable_that_the_packages_propose_is_a_setting() {
    for service in ["connector", "chat"] {
        let reference = Command::new(binaries::path(service))
            .args(["config", "reference"])
            .output();
        let reference = String::from_utf8(reference.expect("it starts").stdout).expect("text");
        let text = uncommented(&read(&format!("etc/{service}.env")));
        let mut count = 0;
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (name, _) = line.split_once('=').expect("a variable");
            assert!(reference.contains(&format!("`{name}`")), "{name}");
            count += 1;
        }
        assert!(count >= 3, "{text}");
    }
}

#[test]
fn connectors_and_chats_take_the_settings_of_the_manifests() {
    let named = Named::new();
    let path: &Path = &workspace().join("deploy/kubernetes/settings.yaml");
    let map = &yaml::documents(&[path])[0]["data"];
    for service in ["connector", "chat"] {
        let settings = map[format!("{service}.toml")].as_str().expect("settings");
        assert_eq!(
            complaints(service, &named.put_into(settings)),
            "",
            "{service}"
        );
    }
}
