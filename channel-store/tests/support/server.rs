//! A real `redis-server` of a test's own, on a free port, with its files in a directory that goes with it.

use redis::{ConnectionLike, Value};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) struct Server {
    process: Child,
    port: u16,
    arguments: Vec<String>,
    directory: TempDir,
}

impl Server {
    /// Starts a server that persists nothing, unless the arguments say otherwise.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(|_| arguments.iter().map(|&it| it.to_owned()).collect())
    }

    /// As [`Self::start`], with arguments that may need more ports or files in the server's directory. They are made
    /// again if a port is taken meanwhile.
    pub(crate) fn start_with(arguments: impl Fn(&Path) -> Vec<String>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Somebody else may take the port between our look and the server's.
        for _ in 0..10 {
            let port = free_port();
            let arguments = arguments(directory.path());
            if let Some(process) = spawn(port, &arguments, &directory) {
                return Self {
                    process,
                    port,
                    arguments,
                    directory,
                };
            }
        }
        panic!("no port is free for redis-server");
    }

    /// A server that copies this one.
    pub(crate) fn start_replica(&self) -> Self {
        let primary = format!("127.0.0.1 {}", self.port);
        let replica = Self::start(&["--replicaof", &primary]);
        let start = Instant::now();
        // Both must know: the primary counts a replica from its first acknowledgement on, which may come a second later.
        while !replica
            .info("replication")
            .contains("master_link_status:up")
            || !self.info("replication").contains("state=online")
        {
            assert!(start.elapsed() < Duration::from_secs(20), "no link");
            std::thread::sleep(Duration::from_millis(20));
        }
        replica
    }

    /// A sentinel that watches a primary under the name `main`, and decides alone.
    pub(crate) fn start_sentinel(primary: &Self) -> Self {
        let port = primary.port;
        Self::start_with(|directory| {
            let file = directory.join("sentinel.conf");
            let settings = format!(
                "sentinel monitor main 127.0.0.1 {port} 1\nsentinel down-after-milliseconds main 500\n\
                 sentinel failover-timeout main 2000\n"
            );
            std::fs::write(&file, settings).unwrap();
            vec![file.display().to_string(), "--sentinel".into()]
        })
    }

    /// A file in the server's directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where the other nodes of a cluster reach it.
    pub(crate) fn bus_port(&self) -> &str {
        let at = self.arguments.iter().position(|it| it == "--cluster-port");
        &self.arguments[at.expect("no node of a cluster") + 1]
    }

    /// A section of what the server says of itself.
    pub(crate) fn info(&self, section: &str) -> String {
        redis::from_redis_value(self.say(&format!("INFO {section}"))).unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Says something to the server, beside all connections under test.
    pub(crate) fn say(&self, command: &str) -> Value {
        self.say_words(&command.split(' ').collect::<Vec<_>>())
    }

    /// As [`Self::say`], for words that hold blanks.
    pub(crate) fn say_words(&self, words: &[&str]) -> Value {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        let (word, arguments) = words.split_first().unwrap();
        let mut command = redis::cmd(word);
        command.arg(arguments);
        connection.req_command(&command).unwrap()
    }

    /// All keys. A test's server is small.
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = redis::from_redis_value(self.say("KEYS *")).unwrap();
        keys.sort();
        keys
    }

    /// Ends the server as a crash does.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again on the same port, with what it has on its disk.
    pub(crate) fn start_again(&mut self) {
        self.process = spawn(self.port, &self.arguments, &self.directory).unwrap();
    }

    /// Stops the process: connections stay, nobody answers.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A server that answers; `None` if it ended at once, as when the port is taken.
fn spawn(port: u16, arguments: &[String], directory: &TempDir) -> Option<Child> {
    let mut command = Command::new("redis-server");
    // A sentinel wants its file first.
    let (file, arguments) = arguments.split_at(usize::from(
        arguments.first().is_some_and(|it| !it.starts_with('-')),
    ));
    let persists_nothing: &[&str] = match file {
        [] => &["--save", "", "--appendonly", "no"],
        _ => &[],
    };
    command
        .args(file)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(persists_nothing)
        .arg("--dir")
        .arg(directory.path())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut process = match command.spawn() {
        Ok(process) => process,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("install redis-server, or run ./tests/run, which does")
        }
        Err(error) => panic!("redis-server: {error}"),
    };
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        if process.try_wait().unwrap().is_some() {
            return None;
        }
        let connection = client.get_connection_with_timeout(Duration::from_millis(200));
        if let Ok(mut connection) = connection {
            // The right one, and it has loaded what it had.
            let info = connection.req_command(redis::cmd("INFO").arg("server"));
            let pid = format!("process_id:{}\r", process.id());
            if let Ok(Value::BulkString(info)) = info
                && String::from_utf8_lossy(&info).contains(&pid)
                && connection
                    .req_command(&redis::cmd("PING"))
                    .is_ok_and(|it| !matches!(it, Value::ServerError(_)))
            {
                return Some(process);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("redis-server does not answer");
}
