//! The files of settings for connectors and chats.

use super::connector_config::ConnectorConfig;
use super::notes::Notes;
use super::servers::{Server, Servers};
use runtime::redis_settings::pomelo::PomeloRedis;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// A file to be written.
#[derive(Debug)]
pub(super) struct SettingsFile {
    pub(super) name: String,
    pub(super) text: String,
}

/// What the settings are made of.
pub(super) struct Origin<'a> {
    pub(super) folder: &'a Path,
    pub(super) env: Option<&'a str>,
    /// Processes may listen for other machines, and everybody is let in.
    pub(super) is_insecure: bool,
    /// `redis.json`, and what it says.
    pub(super) redis: Option<(&'a Path, &'a PomeloRedis)>,
}

/// The first port of `/readyz` and `/metrics` for each service. Pomelo has no such ports.
const CONNECTOR_ADMIN: u16 = 9101;
const CHAT_ADMIN: u16 = 9001;

/// Settings as lines: a key and its value in TOML.
type Lines = Vec<(&'static str, String)>;

/// A service, and how its files are called.
struct Service {
    name: &'static str,
    prefix: &'static str,
    admin: u16,
}

pub(super) fn files(
    origin: &Origin<'_>,
    servers: &Servers,
    config: &ConnectorConfig,
    notes: &mut Notes,
) -> Vec<SettingsFile> {
    let connectors = Service {
        name: "connector",
        prefix: "CONNECTOR",
        admin: CONNECTOR_ADMIN,
    };
    let chats = Service {
        name: "chat",
        prefix: "CHAT",
        admin: CHAT_ADMIN,
    };
    for (list, what) in [(&servers.connectors, "frontend"), (&servers.chats, "chat")] {
        if list.is_empty() {
            notes.for_both(&format!(
                "servers.json has no server of the kind {what}: the settings have the defaults"
            ));
        }
        let was_open = list.iter().filter(|it| !is_loopback(&it.host));
        let was_open: Vec<_> = was_open.map(|it| it.id.as_str()).collect();
        if !was_open.is_empty() && !origin.is_insecure {
            notes.for_both(&format!(
                "{} let other machines in without asking who they are. Here they listen on 127.0.0.1 until you change listen, \
                 and say who may connect: auth.mode of connectors (docs/access.md), api.tokens_file of chats (docs/api-access.md), or \
                 --insecure",
                was_open.join(", ")
            ));
        }
    }
    notes.for_connectors(
        "pages of every site could connect. Here allowed_origins names the sites; the page that a connector serves itself need not be named",
    );

    let mut shared = Lines::new();
    let mut urls: Vec<_> = servers
        .chats
        .iter()
        .map(|chat| text(&format!("http://{}", reached(origin, chat))))
        .collect();
    urls.dedup();
    if !urls.is_empty() {
        shared.push(("chat", format!("[{}]", urls.join(", "))));
    }
    shared.extend(redis(origin));
    let seconds = [
        ("heartbeat", config.heartbeat),
        ("socketio_heartbeat", config.socketio_heartbeat),
        ("socketio_timeout", config.socketio_timeout),
    ];
    for (key, seconds) in seconds {
        shared.extend(seconds.map(|seconds| (key, text(&format!("{seconds}s")))));
    }
    if config.uses_dictionary {
        let file = config.dictionary.as_ref();
        let file = file.map(|file| file.display().to_string());
        shared.push(("dictionary", text(&file.unwrap_or_default())));
    }
    let mut proposed = vec!["#allowed_origins = [\"https://your.site\"]".to_owned()];
    if !servers.others.is_empty() {
        let routes = servers.others.iter();
        let routes: Vec<_> = routes
            .map(|(kind, address)| text(&format!("{kind}.*=http://{address}")))
            .collect();
        proposed.push(format!("#routes = [{}]", routes.join(", ")));
    }
    let mut files = Vec::new();
    let of_connectors: Vec<_> = notes.of_connectors().collect();
    let made = connectors.files(
        origin,
        &servers.connectors,
        &shared,
        &proposed,
        &of_connectors,
    );
    files.extend(made);
    let of_chats: Vec<_> = notes.of_chats().collect();
    files.extend(chats.files(origin, &servers.chats, &redis(origin), &[], &of_chats));
    files
}

impl Service {
    /// The file that all processes share. If there are several, what differs stands in variables, in a file for each of them.
    fn files(
        &self,
        origin: &Origin<'_>,
        servers: &[Server],
        shared: &Lines,
        proposed: &[String],
        notes: &[&str],
    ) -> Vec<SettingsFile> {
        let Self { name, prefix, .. } = self;
        let folder = origin.folder.display();
        let env = origin.env.map(|env| format!(", for {env}"));
        let env = env.unwrap_or_default();
        let mut file = format!(
            "# Settings of {name}, which `standalone migrate-pomelo` has made of {folder}{env}.\n\
             # `{name} config default` prints all settings and what they mean. Check this file with `{name} config check`.\n"
        );
        let own = self.own(origin, servers);
        if let [only] = &own[..] {
            let _ = writeln!(file, "# It is the process {}.\n", servers[0].id);
            lines(&mut file, only);
        } else {
            if !own.is_empty() {
                let _ = writeln!(
                    file,
                    "# It is for {} processes. Each has variables of its own beside it, in {name}-1.env and so on.",
                    own.len()
                );
            }
            file.push('\n');
        }
        lines(&mut file, shared);
        if origin.is_insecure && servers.iter().any(|it| !is_loopback(&it.host)) {
            file.push_str("# As before, nobody has to prove who they are, and other machines may connect.\ninsecure = true\n");
        }
        for line in proposed {
            file.push_str(line);
            file.push('\n');
        }
        if !notes.is_empty() {
            file.push_str("\n# What is different, or has no counterpart:\n");
            for note in notes {
                let _ = writeln!(file, "# - {note}");
            }
        }
        let mut files = vec![SettingsFile {
            name: format!("{name}.toml"),
            text: file,
        }];
        if own.len() > 1 {
            for (number, (server, own)) in servers.iter().zip(&own).enumerate() {
                let mut text = format!("# The process {} of {}.\n", server.id, server.host);
                for (key, value) in own {
                    let value = value.trim_matches('"');
                    let _ = writeln!(text, "{prefix}_{}={value}", key.to_uppercase());
                }
                files.push(SettingsFile {
                    name: format!("{name}-{}.env", number + 1),
                    text,
                });
            }
        }
        files
    }

    /// What belongs to each process alone.
    fn own(&self, origin: &Origin<'_>, servers: &[Server]) -> Vec<Lines> {
        let mut on_host = BTreeMap::<&str, u16>::new();
        let own = servers.iter().map(|server| {
            let before = on_host.entry(&server.host).or_default();
            let admin = format!("127.0.0.1:{}", self.admin.saturating_add(*before));
            *before += 1;
            let mut own = Lines::new();
            if self.prefix == "CONNECTOR" {
                own.push(("id", text(&server.id)));
            }
            own.push(("listen", text(&listened(origin, server))));
            own.push(("admin", text(&admin)));
            let most = server.max_connections.filter(|most| *most > 0);
            own.extend(most.map(|most| ("connections", most.to_string())));
            own
        });
        own.collect()
    }
}

/// Where a process listens. Pomelo listens on all addresses, whatever `host` is.
fn listened(origin: &Origin<'_>, server: &Server) -> String {
    match origin.is_insecure && !is_loopback(&server.host) {
        true => format!("0.0.0.0:{}", server.port),
        false => format!("127.0.0.1:{}", server.port),
    }
}

/// Where others reach it.
fn reached(origin: &Origin<'_>, server: &Server) -> String {
    let Server { host, port, .. } = server;
    match origin.is_insecure && !is_loopback(host) {
        true if host.contains(':') => format!("[{host}]:{port}"),
        true => format!("{host}:{port}"),
        false => format!("127.0.0.1:{port}"),
    }
}

/// A password stays in the file where it is.
fn redis(origin: &Origin<'_>) -> Lines {
    match origin.redis {
        None => Lines::new(),
        Some((path, redis)) if redis.has_password() => {
            let mut lines = vec![("redis_config", text(&path.display().to_string()))];
            lines.extend(origin.env.map(|env| ("env", text(env))));
            lines
        }
        Some((_, redis)) => vec![("redis", text(&redis.url()))],
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host == "::1" || host.starts_with("127.")
}

fn lines(file: &mut String, lines: &Lines) {
    for (key, value) in lines {
        let _ = writeln!(file, "{key} = {value}");
    }
}

/// A text in TOML.
fn text(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}
