//! A primary with two replicas, and three Sentinels that watch them.

use crate::process::Process;
use crate::redis::{self, Redis};
use crate::resp;
use crate::{SOON, wait};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The name that the Sentinels know the primary by.
const NAME: &str = "mymaster";

/// After this without an answer a Sentinel takes a server to be down.
pub const DOWN_AFTER: Duration = Duration::from_secs(1);

/// The servers and their Sentinels.
pub struct Sentinels {
    /// The primary first, as it was at the start.
    pub servers: Vec<Redis>,
    sentinels: Vec<(Process, u16)>,
    _directory: TempDir,
}

impl Sentinels {
    /// Starts all of it and waits until each Sentinel knows all servers and both others.
    ///
    /// # Panics
    /// When something doesn't come up.
    pub async fn start() -> Self {
        let primary = Redis::start().await;
        let mut servers = vec![];
        for _ in 0..2 {
            servers.push(Redis::replica_of(primary.address()).await);
        }
        servers.insert(0, primary);
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let mut sentinels = Vec::new();
        for number in 0..3 {
            let port = redis::free_port();
            let file = directory.path().join(format!("sentinel-{number}.conf"));
            let config = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\n\
                 sentinel monitor {NAME} 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds {NAME} {}\n\
                 sentinel failover-timeout {NAME} 5000\n",
                directory.path().display(),
                servers[0].address().port(),
                DOWN_AFTER.as_millis(),
            );
            std::fs::write(&file, config).expect("one may write into one's own directory");
            let mut command = Command::new("redis-server");
            command.arg(&file).arg("--sentinel");
            sentinels.push((Process::spawn("sentinel", &mut command), port));
        }
        let started = Self {
            servers,
            sentinels,
            _directory: directory,
        };
        for sentinel in started.addresses() {
            let what = format!("the Sentinel at {sentinel} knows everybody");
            wait::eventually(&what, 2 * SOON, async || knows_everybody(sentinel).await).await;
        }
        started
    }

    /// As the product's flags take it.
    #[must_use]
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.addresses().map(|a| a.to_string()).collect();
        format!("redis+sentinel://{}/{NAME}", addresses.join(","))
    }

    /// Whom the Sentinels name as the primary now, if they answer.
    pub async fn primary(&self) -> Option<SocketAddr> {
        let sentinel = self.addresses().next()?;
        let asked = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
        let answer = resp::ask(sentinel, &asked).await?;
        let [host, port] = answer.list() else {
            return None;
        };
        format!("{}:{}", host.text()?, port.text()?).parse().ok()
    }

    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let ports = self.sentinels.iter().map(|(_, port)| *port);
        ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }
}

async fn knows_everybody(sentinel: SocketAddr) -> bool {
    let Some(info) = resp::ask(sentinel, &["INFO", "sentinel"]).await else {
        return false;
    };
    let info = info.text().unwrap_or_default();
    info.contains("status=ok") && info.contains("slaves=2,sentinels=3")
}
