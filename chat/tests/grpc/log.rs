//! The log of one test.

use parking_lot::Mutex;
use serde_json::Value;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

/// All lines of the log of this thread.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Log {
    /// Everything that is logged on this thread until the guard is dropped.
    pub(crate) fn begin() -> (Self, DefaultGuard) {
        let log = Self::default();
        let lines = tracing_subscriber::fmt().json().flatten_event(true);
        let lines = lines.with_max_level(tracing::Level::DEBUG);
        let subscriber = lines.with_writer(log.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }

    /// The lines of the audit log.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().map(|it| serde_json::from_str(it).unwrap());
        lines.filter(|it: &Value| it["target"] == "audit").collect()
    }

    /// The same once there are so many.
    pub(crate) async fn until(&self, lines: usize) -> Vec<Value> {
        self.until_that(|log| log.audit().len() >= lines).await;
        self.audit()
    }

    /// Waits until something holds for the log.
    pub(crate) async fn until_that(&self, holds: impl Fn(&Self) -> bool) {
        let there = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let there = tokio::time::timeout(Duration::from_secs(20), there).await;
        there.unwrap_or_else(|_| panic!("this never holds: {}", self.text()));
    }
}
