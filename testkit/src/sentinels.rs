//! Redis Sentinels: one that decides alone, or three that watch a primary with two replicas.

use crate::redis::Redis;
use crate::resp;
use crate::{SOON, wait};
use std::net::SocketAddr;
use std::time::Duration;

/// The name of the primary in the Sentinels' configuration.
pub const NAME: &str = "main";

/// If a server does not answer for so long, one of the three Sentinels takes it to be down.
pub const DOWN_AFTER: Duration = Duration::from_secs(1);

/// The same time for a Sentinel that decides alone.
const ALONE_DOWN_AFTER: Duration = Duration::from_millis(500);

/// The servers and their Sentinels.
pub struct Sentinels {
    /// The servers. The one that was the primary at the start comes first.
    pub servers: Vec<Redis>,
    sentinels: Vec<Redis>,
}

/// Starts a Sentinel that watches a primary and may replace it without asking other Sentinels.
///
/// # Panics
/// If it doesn't start.
pub async fn sentinel_of(primary: &Redis) -> Redis {
    start(primary, 1, ALONE_DOWN_AFTER).await
}

/// The URL for the flags of the product.
#[must_use]
pub fn url_of(sentinels: &[&Redis]) -> String {
    let addresses: Vec<_> = sentinels
        .iter()
        .map(|it| it.address().to_string())
        .collect();
    format!("redis+sentinel://{}/{NAME}", addresses.join(","))
}

async fn start(primary: &Redis, quorum: usize, down_after: Duration) -> Redis {
    let config = format!(
        "sentinel monitor {NAME} 127.0.0.1 {} {quorum}\n\
         sentinel down-after-milliseconds {NAME} {}\n\
         sentinel failover-timeout {NAME} {}\n",
        primary.port(),
        down_after.as_millis(),
        5 * down_after.as_millis(),
    );
    Redis::with_files(|directory| {
        let file = directory.join("sentinel.conf");
        std::fs::write(&file, &config).expect("the test can write into its own directory");
        vec![file.display().to_string(), "--sentinel".into()]
    })
    .await
}

impl Sentinels {
    /// Starts everything and waits until each Sentinel knows all servers and both other Sentinels.
    ///
    /// # Panics
    /// If something doesn't start.
    pub async fn start() -> Self {
        let primary = Redis::start().await;
        let mut servers = vec![];
        for _ in 0..2 {
            servers.push(Redis::replica_of(primary.address()).await);
        }
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(start(&primary, 2, DOWN_AFTER).await);
        }
        servers.insert(0, primary);
        for sentinel in &sentinels {
            let what = format!("the Sentinel at {} knows all others", sentinel.address());
            wait::eventually(&what, 2 * SOON, async || knows_all(sentinel).await).await;
        }
        Self { servers, sentinels }
    }

    /// The URL for the flags of the product.
    #[must_use]
    pub fn url(&self) -> String {
        url_of(&self.sentinels.iter().collect::<Vec<_>>())
    }

    /// The present primary, as the first Sentinel names it, if it answers.
    pub async fn primary(&self) -> Option<SocketAddr> {
        let asked = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
        let answer = resp::ask(self.sentinels.first()?.address(), &asked).await?;
        let [host, port] = answer.list() else {
            return None;
        };
        format!("{}:{}", host.text()?, port.text()?).parse().ok()
    }
}

async fn knows_all(sentinel: &Redis) -> bool {
    let Some(info) = resp::ask(sentinel.address(), &["INFO", "sentinel"]).await else {
        return false;
    };
    let info = info.text().unwrap_or_default();
    info.contains("status=ok") && info.contains("slaves=2,sentinels=3")
}
