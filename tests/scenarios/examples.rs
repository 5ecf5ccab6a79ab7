//! The programs in `examples/`, each in a copy of what a fresh clone has, and started by the line that its README gives.

use crate::browsers::chromium;
use crate::tokens::AccessFile;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use testkit::json::Client;
use testkit::pomelo::{LOGIN, SEND};
use testkit::process::Process;
use testkit::readme::fences;
use testkit::relay::Relay;
use testkit::service::Standalone;
use testkit::{SOON, python, wait, workspace};

/// The line of a README installs packages, which takes a while on a busy machine.
const INSTALLING: Duration = Duration::from_secs(300);

/// An example and the client libraries as they are in a fresh clone: nothing is built or installed, and no bot has a place.
fn fresh_clone(example: &str) -> TempDir {
    let clone = TempDir::new().expect("a folder");
    // Files alone, because other tests write caches into the folders meanwhile.
    let script = "cd \"$1\"; find clients \"examples/$2\" \
        \\( -name dist -o -name node_modules -o -name .venv -o -name __pycache__ \\) -prune -o -type f \
        ! -name global-channels.json ! -name python-bot.json -print0 \
        | tar --create --null --files-from=- | tar --extract --directory \"$3\"";
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script, "copy"])
        .arg(workspace())
        .arg(example)
        .arg(clone.path());
    let copied = bash.status().expect("bash is there");
    assert!(copied.success(), "{bash:?}");
    clone
}

/// The one line that the README of an example gives.
fn line(example: &str) -> String {
    let readme = workspace().join("examples").join(example).join("README.md");
    let fences = fences(&fs::read_to_string(readme).expect("a README"));
    let first = fences.first().expect("a line to start it");
    assert_eq!(first.info, "sh");
    let [line] = &first.lines[..] else {
        panic!("one line starts {example}: {:?}", first.lines);
    };
    line.clone()
}

/// One of the two bots.
struct Kind {
    example: &'static str,
    /// What its line runs at last.
    program: [&'static str; 2],
    /// The file with its place.
    place: &'static str,
}

const NODE: Kind = Kind {
    example: "node-bot",
    program: ["node", "bot.js"],
    place: "global-channels.json",
};
const PYTHON: Kind = Kind {
    example: "python-bot",
    program: [".venv/bin/python", "bot.py"],
    place: "python-bot.json",
};

struct Bot {
    kind: Kind,
    clone: TempDir,
    url: String,
    process: Process,
}

impl Bot {
    /// Starts it by the line of its README.
    async fn start(kind: Kind, relay: &Relay) -> Self {
        let clone = fresh_clone(kind.example);
        let url = format!("http://{}", relay.address());
        let mut bash = Command::new("bash");
        bash.args(["-c", &line(kind.example)]);
        bash.current_dir(clone.path()).env("CHAT_URL", &url);
        let mut bot = Self {
            process: Process::spawn(kind.example, &mut bash),
            kind,
            clone,
            url,
        };
        bot.is_in_within(INSTALLING).await;
        bot
    }

    fn folder(&self) -> PathBuf {
        self.clone.path().join("examples").join(self.kind.example)
    }

    async fn is_in_within(&mut self, time: Duration) {
        let told = format!("{} is in lobby.", self.kind.example);
        let is_in = |line: &str| (line == told).then_some(());
        self.process.until_line_within(time, &told, is_in).await;
    }

    /// Starts the program again, which was installed by then.
    fn restart(&mut self) {
        let [program, file] = self.kind.program;
        let mut command = Command::new(program);
        command.arg(file).current_dir(self.folder());
        command.env("CHAT_URL", &self.url);
        self.process = Process::spawn(self.kind.example, &mut command);
    }

    /// Waits until the file has this place in the log.
    async fn until_stored(&self, offset: u64) {
        let file = self.folder().join(self.kind.place);
        wait::eventually("the place is stored", SOON, async || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let mut stored: Value = serde_json::from_str(&text).unwrap_or_default();
            // The storage of the library in Python keeps several texts in one file.
            if let Some(text) = stored["global-channels"].as_str() {
                stored = serde_json::from_str(text).expect("JSON");
            }
            stored["positions"]["lobby"]["offset"].as_u64() == Some(offset)
        })
        .await;
    }
}

/// Somebody who asks the bot.
struct Person(Client);

impl Person {
    async fn come(name: &str, server: &Standalone) -> Self {
        let client = Client::connect(server.address()).await;
        let login = json!({"userId": name, "lessonId": "lobby"});
        assert_eq!(client.request(LOGIN, login).await["code"], 0);
        Self(client)
    }

    async fn say(&self, content: &str) {
        let sent = self.0.request(SEND, json!({"content": content})).await;
        assert_eq!(sent["code"], 0, "{sent}");
    }

    /// The whole log of the channel: for each publication, who has done what.
    async fn log(&self) -> Vec<(String, String)> {
        let asked = json!({"channel": "lobby", "newestFirst": false, "pageSize": 1_000});
        let page = self.0.request("chat.handler.history", asked).await;
        let publications = page["publications"].as_array().expect("publications");
        let publications = publications.iter().map(|it| {
            let user = it["body"]["userId"].as_str().expect("a user");
            let what = it["body"]["content"].as_str().or(it["route"].as_str());
            (user.to_owned(), what.expect("a route").to_owned())
        });
        publications.collect()
    }

    async fn count(&self, user: &str, what: &str) -> usize {
        let log = self.log().await.into_iter();
        log.filter(|it| it.0 == user && it.1 == what).count()
    }

    /// Waits until somebody has done this so often, and no more often.
    async fn until(&self, user: &str, what: &str, times: usize) {
        let named = format!("{times} times {user}: {what}");
        wait::eventually(&named, 3 * SOON, async || {
            let count = self.count(user, what).await;
            assert!(count <= times, "{count} times {user}: {what}");
            count == times
        })
        .await;
    }
}

const HELP: &str = "I answer !help, !who and !last N.";

async fn answers_each_command_once_whatever_is_killed(kind: Kind) {
    let mut server = Standalone::start().await;
    let relay = Relay::to(server.address()).await;
    let mut bot = Bot::start(kind, &relay).await;
    let name = bot.kind.example;
    let welcome = |who: &str| format!("Welcome, {who}! Say !help to see what I can do.");

    // It answers, and greets whoever joins, but not itself.
    let ann = Person::come("ann", &server).await;
    ann.until(name, &welcome("ann"), 1).await;
    ann.say("!help").await;
    ann.until(name, HELP, 1).await;
    ann.say("good morning").await;
    ann.say("!last 2").await;
    let last = format!("{name}: {HELP}\nann: good morning");
    ann.until(name, &last, 1).await;
    ann.say("!who").await;
    let mut here = BTreeSet::new();
    wait::eventually("it says who is there", SOON, async || {
        let (user, said) = ann.log().await.pop().expect("somebody has joined");
        let names = said.strip_prefix("Here are ");
        let names = names.and_then(|it| it.strip_suffix('.'));
        here = (names.into_iter().flat_map(|it| it.split(", ")))
            .map(str::to_owned)
            .collect();
        user == name && !here.is_empty()
    })
    .await;
    assert_eq!(here, BTreeSet::from(["ann".to_owned(), name.to_owned()]));
    assert_eq!(ann.count(name, &welcome(name)).await, 0);

    // The network is away. What is asked meanwhile is answered once.
    relay.refuse();
    ann.until(name, "onLeave", 1).await;
    ann.say("!help").await;
    relay.admit();
    ann.until(name, HELP, 2).await;

    // It is killed, and goes on where it was.
    let log = ann.log().await;
    bot.until_stored(log.len() as u64).await;
    bot.process.kill();
    ann.until(name, "onLeave", 2).await;
    ann.say("!help").await;
    bot.restart();
    ann.until(name, HELP, 3).await;
    ann.say("!last 1").await;
    ann.until(name, &format!("{name}: {HELP}"), 1).await;
    let log = ann.log().await;
    let answers = log
        .iter()
        .filter(|it| it.0 == name && it.1 != "onJoin" && it.1 != "onLeave");
    // One welcome, three times help, what was said last and who was there, and what was said last again.
    assert_eq!(answers.count(), 7, "{log:#?}");

    // The server is killed, and has forgotten everything. The bot says so, and goes on.
    server.restart().await;
    let lost = |line: &str| line.starts_with("lost (unknown)").then_some(());
    bot.process.until_line("that something is lost", lost).await;
    let ben = Person::come("ben", &server).await;
    ben.until(name, &welcome("ben"), 1).await;
    ben.say("!help").await;
    ben.until(name, HELP, 1).await;

    // It ends when it is asked to, and the next start goes on where it was.
    bot.process.terminate();
    let status = bot.process.ended_within(SOON).await;
    assert!(status.success(), "{status}");
    ben.until(name, "onLeave", 1).await;
    ben.say("!help").await;
    bot.restart();
    ben.until(name, HELP, 2).await;
    ben.say("!last 1").await;
    ben.until(name, &format!("{name}: {HELP}"), 1).await;
    assert_eq!(ben.count(name, HELP).await, 2);
    assert_eq!(ben.count(name, &welcome("ben")).await, 1);
}

#[tokio::test]
async fn the_bot_in_node_answers_each_command_once_whatever_is_killed() {
    answers_each_command_once_whatever_is_killed(NODE).await;
}

#[tokio::test]
async fn the_bot_in_python_answers_each_command_once_whatever_is_killed() {
    answers_each_command_once_whatever_is_killed(PYTHON).await;
}

#[test]
fn the_bot_in_python_is_typed_and_in_good_form() {
    let folder = workspace().join("examples/python-bot");
    for arguments in [
        &["mypy", "--no-incremental"][..],
        &["ruff", "check", "--no-cache"],
        &["ruff", "format", "--check", "--no-cache"],
    ] {
        let mut command = Command::new(python());
        command.arg("-m").args(arguments).current_dir(&folder);
        command.env("MYPYPATH", workspace().join("clients/python/src"));
        let output = command.output().expect("Python runs");
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{command:?}: {told}");
    }
}

#[tokio::test]
async fn people_chat_in_react_and_are_told_what_is_lost() {
    let file = AccessFile::new("[[channel]]\nmatch = 'newest-only'\nrecover = 'none'\n");
    let first = file.standalone(&["--message-limit", "4KiB"]).await;
    let second = Standalone::start().await;
    let clone = fresh_clone("react-chat");
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pictures/react");
    let mut command = testkit::mocha("react.test.js", &[]);
    command
        .env("FOLDER", clone.path())
        .env("LINE", line("react-chat"))
        .env(
            "SERVERS",
            format!("{},{}", first.address(), second.address()),
        )
        .env("CHAT", first.grpc().to_string())
        .env("CHROMIUM", chromium())
        .env("OUTPUT", pictures);
    let mut mocha = Process::spawn("mocha", &mut command);
    let status = mocha.ended_within(2 * INSTALLING).await;
    let output = mocha.lines().join("\n");
    assert!(status.success(), "{output}");
    assert!(output.contains("14 passing"), "{output}");
}
