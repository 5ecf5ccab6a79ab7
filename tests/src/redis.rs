//! A `redis-server` of a test's own, which can be stopped, killed, frozen and started again with its data.

use crate::process::Process;
use crate::wait;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// What to do about a machine without one.
const MISSING: &str = "install redis-server, or run ./tests/run, which does";

/// A port may be taken between asking the kernel for it and Redis binding it: so often it is tried again.
const TRIES: usize = 5;

/// A Redis on loopback, with an append-only file.
pub struct Redis {
    process: Process,
    port: u16,
    directory: TempDir,
}

impl Redis {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// When `redis-server` is not installed, or does not start.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        for _ in 0..TRIES {
            let port = free_port();
            let mut process = spawn(port, &directory);
            if answers(port, &mut process).await {
                return Self {
                    process,
                    port,
                    directory,
                };
            }
        }
        panic!("redis-server does not start on a free port");
    }

    /// As the product's flags take it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Stops it as an operator would.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop(&mut self) {
        self.process.terminate();
        self.process.ended_within(crate::SOON).await;
    }

    /// Kills it, -9. What it has answered is in its file.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port with the same data.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(self.port, &self.directory);
        assert!(
            answers(self.port, &mut self.process).await,
            "redis-server does not start again on port {}",
            self.port
        );
    }

    /// Lets it hang: connections stay, nothing is answered.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// How often each command has been called since the start, those inside scripts included.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn calls(&self) -> BTreeMap<String, u64> {
        let info = command(self.port, "INFO commandstats")
            .await
            .expect("Redis answers");
        info.lines()
            .filter_map(|line| {
                let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
                let calls = rest.split(',').next()?.parse().ok()?;
                Some((name.to_owned(), calls))
            })
            .collect()
    }
}

fn spawn(port: u16, directory: &TempDir) -> Process {
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        // With everysec Redis may answer before it has written, while an earlier fsync is still under way.
        .args([
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--save",
            "",
        ])
        .args(["--daemonize", "no", "--loglevel", "notice"])
        .arg("--dir")
        .arg(directory.path());
    let installed = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join("redis-server").is_file())
    });
    assert!(installed, "{MISSING}");
    Process::spawn("redis-server", &mut command)
}

/// Waits for the first answer; false when it ended instead, as it does when the port is taken.
async fn answers(port: u16, process: &mut Process) -> bool {
    wait::some("redis-server answers", crate::SOON, async || {
        if process.poll().is_some() {
            return Some(false);
        }
        let answer = command(port, "PING").await;
        (answer.as_deref() == Some("PONG")).then_some(true)
    })
    .await
}

fn free_port() -> u16 {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("the kernel has a free port")
        .port()
}

/// Sends one inline command and reads a simple or bulk string.
async fn command(port: u16, text: &str) -> Option<String> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let mut stream = BufReader::new(stream);
    stream
        .write_all(format!("{text}\r\n").as_bytes())
        .await
        .ok()?;
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let line = line.trim_end();
    if let Some(simple) = line.strip_prefix('+') {
        return Some(simple.to_owned());
    }
    let length: usize = line.strip_prefix('$')?.parse().ok()?;
    let mut bulk = vec![0; length];
    stream.read_exact(&mut bulk).await.ok()?;
    String::from_utf8(bulk).ok()
}
