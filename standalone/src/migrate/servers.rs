//! Pomelo's `servers.json`: the processes of a system by their types.

use super::notes::Notes;
use runtime::redis_settings::pomelo::part;
use serde_json::{Map, Value};

/// The processes that have a counterpart.
#[derive(Debug, Default)]
pub(super) struct Servers {
    /// Frontends, but for gates.
    pub(super) connectors: Vec<Server>,
    /// Backends of the type `chat`.
    pub(super) chats: Vec<Server>,
    /// The other types, with the address of their first process.
    pub(super) others: Vec<(String, String)>,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) id: String,
    pub(super) host: String,
    /// Where clients of a frontend, or other processes, connect.
    pub(super) port: u16,
    pub(super) max_connections: Option<u64>,
}

/// Keys that have a meaning here.
const KNOWN: [&str; 9] = [
    "id",
    "host",
    "port",
    "clientHost",
    "clientPort",
    "wsPort",
    "frontend",
    "max-connections",
    "clusterCount",
];
/// What is in the place of keys without a counterpart.
const INSTEAD: [(&str, &str); 3] = [
    ("args", "options of Node.js mean nothing here"),
    (
        "auto-restart",
        "systemd starts a process again (deploy/systemd)",
    ),
    ("cpu", "write CPUAffinity= into the unit of systemd"),
];
/// The most processes that one entry may stand for.
const MOST: u64 = 1_000;

impl Servers {
    /// Reads the part for this environment. An error begins with the place.
    pub(super) fn of(root: &Value, env: Option<&str>, notes: &mut Notes) -> Result<Self, String> {
        let lists = root.as_object().into_iter().flatten();
        let lists = lists.filter(|(_, value)| value.is_array());
        let lists: Vec<_> = lists.map(|(name, _)| name.as_str()).collect();
        let (types, path) = part(root, env, &lists)?;
        let mut servers = Self::default();
        for (kind, list) in types {
            let path = format!("{path}{kind}");
            let Value::Array(list) = list else {
                return Err(format!("{path}: expected a list of servers, in brackets"));
            };
            servers.take(kind, list, &path, notes)?;
        }
        Ok(servers)
    }

    fn take(
        &mut self,
        kind: &str,
        list: &[Value],
        path: &str,
        notes: &mut Notes,
    ) -> Result<(), String> {
        let mut unknown: Vec<(String, Vec<String>)> = Vec::new();
        let mut counted = 0;
        let mut is_chat = false;
        for (index, entry) in list.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Value::Object(entry) = entry else {
                return Err(format!("{path}: expected an object, in braces"));
            };
            let entry = Entry { entry, path: &path };
            let is_frontend = entry.is_frontend()?;
            if kind == "gate" || kind == "master" {
                continue;
            }
            let all = entry.servers(kind, is_frontend, &mut counted)?;
            for key in entry.unknown() {
                let ids = all.iter().map(|server| server.id.clone());
                match unknown.iter_mut().find(|(known, _)| known == key) {
                    Some((_, known)) => known.extend(ids),
                    None => unknown.push((key.to_owned(), ids.collect())),
                }
            }
            match (is_frontend, kind) {
                (true, _) => self.connectors.extend(all),
                (false, "chat") => {
                    is_chat = true;
                    self.chats.extend(all);
                }
                (false, _) => {
                    let first = all.first();
                    let address = first.map(|it| format!("{}:{}", it.host, it.port));
                    let is_new = self.others.iter().all(|(other, _)| other != kind);
                    if let Some(address) = address.filter(|_| is_new) {
                        self.others.push((kind.to_owned(), address));
                    }
                }
            }
        }
        let mut note = |text: &str| match is_chat {
            true => notes.for_chats(text),
            false => notes.for_connectors(text),
        };
        match kind {
            "gate" => note(&format!(
                "{path} has no counterpart: put a balancer in front of the connectors (docs/deploying.md), and give its address to \
                 clients. gate.gateHandler.queryEntry is not answered"
            )),
            "master" => note(&format!(
                "{path} has no counterpart: there is no master, and processes find each other in Redis"
            )),
            _ if self.others.iter().any(|(other, _)| other == kind) => note(&format!(
                "{path} has no counterpart: write its handlers as a gRPC service (docs/handlers.md), and name it in routes of \
                 connector.toml"
            )),
            _ => {}
        }
        for (key, ids) in unknown {
            let known = INSTEAD.iter().find(|(name, _)| *name == key);
            let instead = known.map(|(_, it)| format!(": {it}")).unwrap_or_default();
            let ids = ids.join(", ");
            note(&format!(
                "{path}: {key} of {ids} has no counterpart{instead}"
            ));
        }
        Ok(())
    }
}

/// An entry of a list, and its place.
struct Entry<'a> {
    entry: &'a Map<String, Value>,
    path: &'a str,
}

impl<'a> Entry<'a> {
    fn wrong(&self, key: &str, expected: &str) -> String {
        format!("{}.{key}: expected {expected}", self.path)
    }

    fn unknown(&self) -> impl Iterator<Item = &'a str> {
        let keys = self.entry.keys().map(String::as_str);
        keys.filter(|key| !KNOWN.contains(key))
    }

    /// Pomelo takes the text "true", too.
    fn is_frontend(&self) -> Result<bool, String> {
        match self.entry.get("frontend") {
            None => Ok(false),
            Some(Value::Bool(is_frontend)) => Ok(*is_frontend),
            Some(Value::String(text)) if text == "true" => Ok(true),
            Some(Value::String(text)) if text == "false" => Ok(false),
            Some(_) => Err(self.wrong("frontend", "true or false")),
        }
    }

    /// A number, which may be written as text. With `++` behind it, each process of the entry has the next one.
    fn number(&self, key: &str) -> Result<Option<(u64, bool)>, String> {
        let read = match self.entry.get(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) => number.as_u64().map(|it| (it, false)),
            Some(Value::String(text)) => match text.strip_suffix("++") {
                Some(first) => first.parse().ok().map(|it| (it, true)),
                None => text.parse().ok().map(|it| (it, false)),
            },
            Some(_) => None,
        };
        let read = read.ok_or_else(|| self.wrong(key, "a number"))?;
        Ok(Some(read))
    }

    /// The processes that this entry stands for. `counted` is how many the entries of this type before it stand for together, if they
    /// say how many each of them does.
    fn servers(
        &self,
        kind: &str,
        is_frontend: bool,
        counted: &mut u64,
    ) -> Result<Vec<Server>, String> {
        let host = match self.entry.get("host") {
            None => "127.0.0.1",
            Some(Value::String(host)) if is_plain(host, ".-_:") => host,
            Some(_) => return Err(self.wrong("host", "the name or address of a host")),
        };
        let key = match is_frontend {
            true if self.entry.contains_key("clientPort") => "clientPort",
            true => "wsPort",
            false => "port",
        };
        let named = if key == "wsPort" { "clientPort" } else { key };
        let port = self.number(key)?;
        let (port, counts) = port.ok_or_else(|| self.wrong(named, "a port"))?;
        let most = self.number("max-connections")?;
        let count = match self.number("clusterCount")? {
            Some((count @ 1..=MOST, _)) => Some(count),
            Some(_) => return Err(self.wrong("clusterCount", "1 to 1000")),
            None => None,
        };
        let id = match (self.entry.get("id"), count) {
            // Pomelo makes these ids itself.
            (_, Some(_)) => String::new(),
            (Some(Value::String(id)), None) if is_plain(id, ".-_") => id.clone(),
            (_, None) => return Err(self.wrong("id", "letters, digits, hyphens and dots")),
        };
        let first = *counted;
        *counted += count.unwrap_or_default();
        let servers = (0..count.unwrap_or(1)).map(|number| {
            let port = if counts { port + number } else { port };
            let port = u16::try_from(port).ok().filter(|port| *port > 0);
            Ok(Server {
                id: match count {
                    Some(_) => format!("cluster-server-{kind}-{}", first + number),
                    None => id.clone(),
                },
                host: host.to_owned(),
                port: port.ok_or_else(|| self.wrong(named, "a port from 1 to 65535"))?,
                max_connections: most.map(|(most, _)| most),
            })
        });
        servers.collect()
    }
}

/// Letters, digits and some signs. It goes into files in which others would end a value.
fn is_plain(text: &str, signs: &str) -> bool {
    let allowed = |it: char| it.is_ascii_alphanumeric() || signs.contains(it);
    (1..=253).contains(&text.len()) && text.chars().all(allowed)
}
