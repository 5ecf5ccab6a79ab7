//! A program around a client library, which is told by lines of JSON what its clients do, and says what they see.

use serde_json::{Value, json};
use std::io::{PipeWriter, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testkit::process::Process;
use testkit::{SOON, python, workspace};

/// A client library.
#[derive(Debug, Clone, Copy)]
pub(super) enum Library {
    JavaScript,
    Python,
}

impl Library {
    fn command(self) -> Command {
        match self {
            Self::JavaScript => {
                let driver = workspace().join("clients/js/tests/driver.mjs");
                let mut command = Command::new("node");
                command.arg("--expose-gc").arg(driver);
                command
            }
            Self::Python => {
                let mut command = Command::new(python());
                let library = workspace().join("clients/python");
                command.env("PYTHONPATH", library.join("src"));
                command.arg(library.join("tests/driver.py"));
                command
            }
        }
    }
}

/// A process with some clients of one library.
pub(super) struct Driver {
    process: Process,
    input: PipeWriter,
    asked: u64,
}

impl Driver {
    pub(super) fn start(library: Library) -> Self {
        Self::trusting(library, None)
    }

    /// Its clients trust this authority.
    pub(super) fn trusting(library: Library, authority: Option<&Path>) -> Self {
        let mut command = library.command();
        if let Some(file) = authority {
            command.env("NODE_EXTRA_CA_CERTS", file);
            command.env("SSL_CERT_FILE", file);
        }
        let (output, input) = std::io::pipe().expect("a pipe");
        Self {
            process: Process::spawn_with_input(&format!("{library:?}"), &mut command, output),
            input,
            asked: 0,
        }
    }

    /// Tells a client what to do, and returns the number of the answer.
    pub(super) fn tell(&mut self, client: &str, what: &str, mut parameters: Value) -> u64 {
        self.asked += 1;
        parameters["id"] = json!(self.asked);
        parameters["client"] = json!(client);
        parameters["do"] = json!(what);
        writeln!(self.input, "{parameters}").expect("the driver reads");
        self.asked
    }

    /// The answer with this number: what the library returned, or the error that it gave.
    pub(super) async fn answer(&mut self, id: u64, within: Duration) -> Result<Value, Value> {
        let answered = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["answer"] == id).then_some(line)
        };
        let what = format!("the answer {id}");
        let mut answer = (self.process)
            .until_line_within(within, &what, answered)
            .await;
        match answer["error"].take() {
            Value::Null => Ok(answer["ok"].take()),
            error => Err(error),
        }
    }

    /// Tells a client what to do, and waits for the answer.
    pub(super) async fn ask(
        &mut self,
        client: &str,
        what: &str,
        parameters: Value,
    ) -> Result<Value, Value> {
        let id = self.tell(client, what, parameters);
        self.answer(id, SOON).await
    }

    /// The same, where no error is expected.
    pub(super) async fn done(&mut self, client: &str, what: &str, parameters: Value) -> Value {
        let answer = self.ask(client, what, parameters).await;
        answer.unwrap_or_else(|error| panic!("{client} {what}: {error}"))
    }

    /// A client that is online and a member of the channel.
    pub(super) async fn member(&mut self, client: &str, channel: &str, connect: Value) {
        let mut connect = connect;
        if connect["user"].is_null() && connect["tokenFile"].is_null() {
            connect["user"] = json!(client);
        }
        self.done(client, "connect", connect).await;
        self.done(client, "join", json!({"channel": channel})).await;
    }

    /// What a client has told of itself and its channels so far, in this order.
    pub(super) fn events(&self, client: &str) -> Vec<Value> {
        let lines = self.process.lines();
        let lines = lines.iter().filter_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["client"] == client && !line["event"].is_null()).then_some(line)
        });
        lines.collect()
    }

    /// The contents of the messages that a client was given, in this order.
    pub(super) fn heard(&self, client: &str) -> Vec<String> {
        let events = self.events(client);
        let messages = events.iter().filter(|it| it["event"] == "message");
        messages
            .map(|it| it["body"]["content"].as_str().unwrap_or("?").to_owned())
            .collect()
    }

    /// The events of a client with this name.
    pub(super) fn told(&self, client: &str, event: &str) -> Vec<Value> {
        let events = self.events(client).into_iter();
        events.filter(|it| it["event"] == event).collect()
    }

    /// Waits for an event of a client that the function accepts, counting from the first one.
    pub(super) async fn until(
        &mut self,
        client: &str,
        event: &str,
        accepts: impl Fn(&Value) -> bool,
    ) -> Value {
        self.until_within(SOON, client, event, accepts).await
    }

    /// The same, with another limit of time.
    pub(super) async fn until_within(
        &mut self,
        within: Duration,
        client: &str,
        event: &str,
        accepts: impl Fn(&Value) -> bool,
    ) -> Value {
        let wanted = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            let is_it = line["client"] == client && line["event"] == event && accepts(&line);
            is_it.then_some(line)
        };
        let what = format!("{event} of {client}");
        (self.process)
            .until_line_within(within, &what, wanted)
            .await
    }

    /// Waits until a client was given a message with this content.
    pub(super) async fn until_heard(&mut self, client: &str, content: &str) {
        self.until(client, "message", |it| it["body"]["content"] == content)
            .await;
    }

    pub(super) fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
