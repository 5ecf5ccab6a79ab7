//! Where Redis is and how to log in there, as the operator's URL says.
//!
//! ```text
//! redis://[user:password@]host[:6379][/database]                       one server
//! redis+unix:///path                                                   one server, over a Unix socket
//! redis+sentinel://[user:password@]host[:26379][,…]/master[/database]  the primary that the sentinels name
//! redis-cluster://[user:password@]host[:6379][,…]                      a cluster, of which some nodes are listed
//! ```
//!
//! With `rediss` in place of `redis`, all connections are encrypted, also those to sentinels.

use super::schema::SchemaMismatch;
use redis::{ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo};
use std::fmt;
use std::path::PathBuf;
use url::Url;

/// Why a service must not start with this Redis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The text is not the URL of a Redis server. The message never shows the URL, because it may hold a password.
    #[error("not a usable Redis URL: {0}")]
    Url(String),
    /// The file with the certificates to trust can't be used.
    #[error("no usable certificates in {file}: {reason}")]
    Certificates {
        /// The file that was given.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The URL is that of a cluster, but the server belongs to none.
    #[error("{server} is not a cluster: use redis:// in place of redis-cluster://")]
    NoCluster {
        /// Where it listens.
        server: String,
    },
    /// The server holds what another release has stored, and this program can't use it.
    #[error(transparent)]
    Schema(SchemaMismatch),
}

/// Where one server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// Host and port.
    Tcp(String, u16),
    /// The path of a socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// What kind of Redis a URL names.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Server(Address),
    Sentinels {
        sentinels: Vec<Address>,
        master: String,
        /// How to log in to the sentinels themselves.
        settings: RedisConnectionInfo,
    },
    /// Some nodes, from which the others are learned.
    Cluster(Vec<Address>),
}

/// Where Redis is and how to log in there.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    pub(super) kind: Kind,
    /// User, password and database. They are the same for all nodes.
    pub(super) settings: RedisConnectionInfo,
    /// True if connections are encrypted.
    pub(crate) encrypted: bool,
}

impl Location {
    /// Takes a URL apart.
    pub(crate) fn parse(url: &str) -> Result<Self, OpenError> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| unusable("it has no scheme, such as redis://"))?;
        let (encrypted, form) = match scheme {
            "redis" | "valkey" => (false, Form::Server),
            "rediss" | "valkeys" => (true, Form::Server),
            "redis+unix" | "valkey+unix" | "unix" => (false, Form::Socket),
            "redis+sentinel" => (false, Form::Sentinels),
            "rediss+sentinel" => (true, Form::Sentinels),
            "redis-cluster" => (false, Form::Cluster),
            "rediss-cluster" => (true, Form::Cluster),
            _ => return Err(unusable("its scheme is none that is known here")),
        };
        let (kind, settings) = match form {
            Form::Server => server(rest)?,
            Form::Socket => socket(url)?,
            Form::Sentinels => sentinels(rest)?,
            Form::Cluster => cluster(rest)?,
        };
        Ok(Self {
            kind,
            settings,
            encrypted,
        })
    }
}

enum Form {
    Server,
    Socket,
    Sentinels,
    Cluster,
}

fn unusable(reason: &str) -> OpenError {
    OpenError::Url(reason.to_owned())
}

fn info(url: &str) -> Result<(Address, RedisConnectionInfo), OpenError> {
    let info = url
        .into_connection_info()
        .map_err(|error| OpenError::Url(error.to_string()))?;
    let address = match info.addr() {
        ConnectionAddr::Tcp(host, port) => Address::Tcp(host.clone(), *port),
        ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
        _ => return Err(unusable("its address is neither a host nor a Unix socket")),
    };
    Ok((address, info.redis_settings().clone()))
}

fn server(rest: &str) -> Result<(Kind, RedisConnectionInfo), OpenError> {
    if rest.contains('#') {
        return Err(unusable("it has a fragment, which means nothing here"));
    }
    let (address, settings) = info(&format!("redis://{rest}"))?;
    Ok((Kind::Server(address), settings))
}

fn socket(url: &str) -> Result<(Kind, RedisConnectionInfo), OpenError> {
    let (address, settings) = info(url)?;
    Ok((Kind::Server(address), settings))
}

fn cluster(rest: &str) -> Result<(Kind, RedisConnectionInfo), OpenError> {
    let several = Several::parse(rest, 6379)?;
    if !several.path.is_empty() || !several.query.is_empty() {
        return Err(unusable(
            "a cluster has one database only: nothing may follow its nodes",
        ));
    }
    let settings = login(several.login, "")?;
    Ok((Kind::Cluster(several.addresses), settings))
}

fn sentinels(rest: &str) -> Result<(Kind, RedisConnectionInfo), OpenError> {
    let several = Several::parse(rest, 26379)?;
    let (master, database) = several.path.split_once('/').unwrap_or((several.path, ""));
    if master.is_empty() {
        return Err(unusable(
            "the master's name is missing, as in redis+sentinel://host:26379/name",
        ));
    }
    let (mut user, mut password) = ("", None);
    for pair in several.query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sentinel-user", value)) => user = value,
            Some(("sentinel-password", value)) => password = Some(value),
            _ => {
                return Err(unusable(
                    "its only parameters are sentinel-user and sentinel-password",
                ));
            }
        }
    }
    let mut own = blank()?;
    // These setters encode what is not encoded yet. They refuse a URL without a host, so a dummy one is there.
    if own
        .set_username(user)
        .and(own.set_password(password))
        .is_err()
    {
        return Err(unusable("the sentinels' user or password is unusable"));
    }
    let (_, own) = info(own.as_str())?;
    let kind = Kind::Sentinels {
        sentinels: several.addresses,
        master: master.to_owned(),
        settings: own,
    };
    Ok((kind, login(several.login, database)?))
}

fn blank() -> Result<Url, OpenError> {
    Url::parse("redis://nowhere/").map_err(|error| OpenError::Url(error.to_string()))
}

/// Reads user, password and database. The host is a dummy.
fn login(login: &str, database: &str) -> Result<RedisConnectionInfo, OpenError> {
    Ok(info(&format!("redis://{login}nowhere/{database}"))?.1)
}

/// A URL that names several hosts.
struct Several<'a> {
    /// User and password with the `@` that follows them, or nothing.
    login: &'a str,
    addresses: Vec<Address>,
    /// Without slashes at its ends.
    path: &'a str,
    query: &'a str,
}

impl<'a> Several<'a> {
    fn parse(rest: &'a str, usual_port: u16) -> Result<Self, OpenError> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let address = |host: &str| {
            let (address, _) = info(&format!("redis://{host}"))?;
            let named_port = !host.ends_with(']') && host.rsplit_once(':').is_some();
            Ok(match address {
                Address::Tcp(host, _) if !named_port => Address::Tcp(host, usual_port),
                named => named,
            })
        };
        Ok(Self {
            login,
            addresses: hosts.split(',').map(address).collect::<Result<_, _>>()?,
            path: path.trim_matches('/'),
            query,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp(host.into(), port)
    }

    #[test]
    fn the_url_of_one_server_is_the_usual_one() {
        let location = Location::parse("redis://u:p%40@h:1/3").unwrap();
        assert!(matches!(location.kind, Kind::Server(address) if address == tcp("h", 1)));
        assert_eq!(location.settings.username(), Some("u"));
        assert_eq!(location.settings.password(), Some("p@"));
        assert_eq!(location.settings.db(), 3);
        assert!(
            matches!(Location::parse("rediss://h").unwrap().kind, Kind::Server(address) if address == tcp("h", 6379))
        );
        let socket = Location::parse("redis+unix:///run/redis.sock?db=2").unwrap();
        assert!(
            matches!(socket.kind, Kind::Server(Address::Unix(path)) if path == Path::new("/run/redis.sock"))
        );
    }

    #[test]
    fn the_url_of_sentinels_has_several_hosts_and_a_name() {
        let location = Location::parse(
            "redis+sentinel://u:p@a,b:5,[::1]/main/2?sentinel-user=s&sentinel-password=x%2F@y+z",
        )
        .unwrap();
        let Kind::Sentinels {
            sentinels,
            master,
            settings,
        } = location.kind
        else {
            panic!("the location has no sentinels");
        };
        assert_eq!(sentinels, [tcp("a", 26379), tcp("b", 5), tcp("::1", 26379)]);
        assert_eq!(master, "main");
        assert_eq!(
            (settings.username(), settings.password()),
            (Some("s"), Some("x/@y+z"))
        );
        assert_eq!(settings.db(), 0);
        let own = location.settings;
        assert_eq!(
            (own.username(), own.password(), own.db()),
            (Some("u"), Some("p"), 2)
        );
    }

    #[test]
    fn the_url_of_a_cluster_has_several_hosts() {
        let location = Location::parse("redis-cluster://:p@a:1,b").unwrap();
        assert!(
            matches!(location.kind, Kind::Cluster(nodes) if nodes == [tcp("a", 1), tcp("b", 6379)])
        );
        assert_eq!(location.settings.password(), Some("p"));
    }

    #[test]
    fn a_wrong_url_is_refused_without_showing_its_password() {
        for url in [
            "",
            "secret",
            "http://:secret@h",
            "redis://:secret@",
            "redis://:secret@h:x",
            "rediss://:secret@h/#insecure",
            "redis://:secret@h/x",
            "redis-cluster://:secret@h/1",
            "redis-cluster://:secret@h,",
            "redis-cluster://:secret@h,h:99999",
            "redis+sentinel://:secret@h",
            "redis+sentinel://:secret@h/",
            "redis+sentinel://:secret@h/main/x",
            "redis+sentinel://h/main?password=secret",
        ] {
            let error = Location::parse(url).err();
            assert!(matches!(error, Some(OpenError::Url(_))), "{url}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}
