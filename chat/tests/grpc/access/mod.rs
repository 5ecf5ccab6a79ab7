//! Who may call chat, if it has a file of tokens.

mod certificates;
mod changes;
mod channels;
mod forms;
mod scopes;

use crate::web::{Answer, ask};
use channel_store::StoreOptions;
use channel_store::memory::MemoryStore;
use chat::{Access, Connectors, Limits, PortSettings, Watching};
use ring::digest::{SHA256, digest};
use runtime::Shutdown;
use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// The token that belongs to a name in these tests.
pub(crate) fn token(name: &str) -> String {
    format!("gct_{name:x<43}")
}

/// The line of that token. The rest is its scopes and, behind a blank, its patterns. If the rest begins with `subject=`, it is the
/// whole line behind the name.
pub(crate) fn line(name: &str, rest: &str) -> String {
    if rest.starts_with("subject=") {
        return format!("{name} {rest}\n");
    }
    let hash = digest(&SHA256, token(name).as_bytes());
    let mut hex = String::new();
    for byte in hash.as_ref() {
        let _ = write!(hex, "{byte:02x}");
    }
    format!("{name} {hex} {rest}\n")
}

/// A whole chat over the store in memory, with a file of tokens.
pub(crate) struct Guarded {
    pub(crate) address: SocketAddr,
    file: PathBuf,
    _folder: TempDir,
}

impl Guarded {
    pub(crate) async fn start(lines: &[(&str, &str)]) -> Self {
        Self::with(lines, Limits::default()).await
    }

    async fn with(lines: &[(&str, &str)], limits: Limits) -> Self {
        Self::begin(&PortSettings::default(), lines, limits).await
    }

    /// At a port with TLS.
    async fn at(tls: &PortSettings, lines: &[(&str, &str)]) -> Self {
        Self::begin(tls, lines, Limits::default()).await
    }

    async fn begin(tls: &PortSettings, lines: &[(&str, &str)], limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        write(&file, lines);
        let access = Access::by_tokens(&file, Duration::from_millis(20)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = tls.port(listener).unwrap();
        let options = StoreOptions::default();
        let watching = Watching::new(options.channel_life);
        let store = MemoryStore::new(options);
        watching.follow(store.watch_feed(watching.clone()));
        let connectors = Connectors::begin(store.registry(), store.leases(), store.inboxes());
        let limits = Limits {
            access,
            allowed_origins: vec!["http://page.example".to_owned()],
            ..limits
        };
        tokio::spawn(chat::serve(
            port,
            store,
            Arc::default(),
            connectors,
            watching,
            limits,
            Shutdown::new(),
        ));
        Self {
            address,
            file,
            _folder: folder,
        }
    }

    /// Writes the file again.
    fn rewrite(&self, lines: &[(&str, &str)]) {
        write(&self.file, lines);
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// A call in JSON with the token of this name.
    pub(crate) async fn call(&self, name: &str, method: &str, request: &Value) -> Answer {
        let authorization = format!("authorization: Bearer {}\r\n", token(name));
        self.call_with(&authorization, method, request).await
    }

    /// A call in JSON with these further headers.
    async fn call_with(&self, headers: &str, method: &str, request: &Value) -> Answer {
        let headers = format!("content-type: application/json\r\n{headers}");
        let body = request.to_string();
        ask(
            self.address,
            "POST",
            &format!("/chat.v1.{method}"),
            &headers,
            body.as_bytes(),
        )
        .await
    }
}

/// An editor writes another file and moves it there.
fn write(file: &PathBuf, lines: &[(&str, &str)]) {
    let lines: String = lines.iter().map(|(name, rest)| line(name, rest)).collect();
    let new = file.with_extension("new");
    fs::write(&new, lines).unwrap();
    fs::rename(new, file).unwrap();
}

/// Sends the token of a name with each call of gRPC.
#[derive(Clone)]
pub(crate) struct With(pub(crate) &'static str);

impl Interceptor for With {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = format!("Bearer {}", token(self.0));
        let value = MetadataValue::try_from(value).unwrap();
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

/// The reason in the details of an error in JSON, and what else the details say.
fn info(answer: &Answer) -> Value {
    let details = answer.json()["details"].clone();
    let mut details = details.as_array().cloned().unwrap_or_default().into_iter();
    let info = details.find(|it| it["type"] == "google.rpc.ErrorInfo");
    let info = info.unwrap_or_else(|| panic!("no ErrorInfo: {answer:?}"));
    assert_eq!(info["debug"]["domain"], "chat.v1");
    info["debug"].clone()
}
