//! Programs that others could have written, from the documents alone: `tests/clients/bot.py` answers messages over gRPC, and
//! `tests/clients/archive.js` stores them over HTTP. Everything that they need is killed, and so are they.

use proto::chat::v1::HistoryRequest;
use proto::chat::v1::publication::Content;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use testkit::chat_api::ChatApi;
use testkit::permit::Permit;
use testkit::process::Process;
use testkit::redis::Redis;
use testkit::senders::Senders;
use testkit::service::Chat;
use testkit::{SOON, wait, workspace};

/// Two chats on one Redis.
struct BackEnd {
    chats: [Chat; 2],
    redis: Redis,
    files: TempDir,
    _permit: Permit,
}

impl BackEnd {
    async fn start() -> Self {
        let permit = Permit::shared().await;
        let redis = Redis::start().await;
        Self {
            chats: [
                Chat::start(&redis, &[]).await,
                Chat::start(&redis, &[]).await,
            ],
            redis,
            files: tempfile::tempdir().expect("there is room for temporary files"),
            _permit: permit,
        }
    }

    fn apis(&self) -> Vec<ChatApi> {
        let chats = self.chats.iter();
        chats.map(|it| ChatApi::at(it.address())).collect()
    }

    fn file(&self) -> PathBuf {
        self.files.path().join("file")
    }
}

/// A program that is killed and started again.
struct Program {
    command: Command,
    process: Process,
    /// What it had written when it was killed.
    written: Vec<String>,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let process = Process::spawn("the program", &mut command);
        Self {
            command,
            process,
            written: Vec::new(),
        }
    }

    fn kill(&mut self) {
        self.process.kill();
        self.written.extend(self.process.lines());
    }

    fn restart(&mut self) {
        self.process = Process::spawn("the program", &mut self.command);
    }

    /// All that it has written, each life after the other.
    fn lines(&self) -> Vec<String> {
        [self.written.clone(), self.process.lines()].concat()
    }

    fn count(&self, begin: &str) -> usize {
        let lines = self.lines();
        lines.iter().filter(|it| it.starts_with(begin)).count()
    }
}

/// Lets the senders and the program work, kills the program, each chat and Redis in turn, and sees each time that both go on.
async fn kill_everything_once(
    system: &mut BackEnd,
    program: &mut Program,
    senders: &Senders,
    done: impl Fn(&Program) -> usize,
    while_killed: impl Fn(),
) {
    let goes_on = async |what: &str, program: &Program| {
        let (sent, before) = (senders.acknowledged(), done(program));
        wait::eventually(what, 3 * SOON, async || {
            senders.acknowledged() > sent + 50 && done(program) > before + 50
        })
        .await;
    };
    goes_on("the program works", program).await;
    program.kill();
    while_killed();
    let sent = senders.acknowledged();
    wait::eventually(
        "messages come while the program is dead",
        SOON,
        async || senders.acknowledged() > sent + 20,
    )
    .await;
    program.restart();
    goes_on("the program is back", program).await;
    for chat in 0..system.chats.len() {
        system.chats[chat].kill();
        goes_on("a chat was killed", program).await;
        system.chats[chat].restart().await;
        goes_on("the chat is back", program).await;
    }
    system.redis.kill();
    system.redis.restart().await;
    goes_on("Redis is back", program).await;
    // Redis and the program at once.
    system.redis.kill();
    program.kill();
    while_killed();
    program.restart();
    system.redis.restart().await;
    goes_on("Redis and the program are back", program).await;
}

/// A program in the repository is an example only while it is short: so many lines that are not blank.
fn is_short(file: &Path, most: usize) {
    let source = fs::read_to_string(file).expect("the program's source");
    let lines = source.lines().filter(|line| !line.trim().is_empty());
    let lines = lines.count();
    assert!(lines <= most, "{} has {lines} lines", file.display());
}

/// The bot, with code that is generated as its first lines say.
fn bot(system: &BackEnd) -> Command {
    let root = workspace();
    let clients = root.join("tests/clients");
    let python = testkit::python();
    let stubs = system.files.path().join("stubs");
    fs::create_dir(&stubs).expect("there is room for temporary files");
    let mut generate = Command::new(&python);
    generate.args(["-m", "grpc_tools.protoc", "-I", "proto"]);
    for kind in ["--python_out", "--grpc_python_out"] {
        generate.arg(format!("{kind}={}", stubs.display()));
    }
    generate.args(["google/rpc/status.proto", "chat/v1/channel.proto"]);
    generate.args(["chat/v1/chat_service.proto"]);
    let generated = generate.current_dir(root).status();
    assert!(generated.expect("Python runs").success(), "{generate:?}");
    let bot = clients.join("bot.py");
    is_short(&bot, 50);
    let mut command = Command::new(python);
    command.arg(bot).arg("room:").arg(system.file());
    command.args(system.chats.each_ref().map(|it| it.address().to_string()));
    command.env("PYTHONPATH", stubs);
    command
}

/// What a channel's log has: the user and the `content` of each message.
async fn messages(api: &ChatApi, channel: &str) -> Vec<(String, String)> {
    let request = HistoryRequest {
        channel: channel.to_owned(),
        page_size: 1_000,
        ..HistoryRequest::default()
    };
    let page = api.client().history(request).await.expect("the history");
    let page = page.into_inner();
    assert_eq!(page.next_page_token, "", "{channel} has one page");
    let publications = page.publications.into_iter();
    publications
        .map(|it| {
            let Some(Content::BodyJson(json)) = it.content else {
                panic!("{channel} has a publication without JSON");
            };
            let body: Value = serde_json::from_slice(&json).expect("JSON");
            let content = body["content"].as_str().expect("a text").to_owned();
            (it.user, content)
        })
        .collect()
}

#[tokio::test]
async fn a_bot_in_python_answers_each_message_once_whatever_is_killed() {
    let mut system = BackEnd::start().await;
    let apis = system.apis();
    let mut bot = Program::start(bot(&system));
    wait::eventually("the bot watches", SOON, async || bot.count("watching") > 0).await;
    // Every other message is a question.
    let json = |user: &str, n: u64| {
        let asks = ["!echo ", ""][usize::from(n % 2 == 1)];
        format!("{{\"content\":\"{asks}{user} {n}\"}}")
    };
    let senders = Senders::start(3, &apis, "room:", Duration::from_millis(5), json);
    let answered = |bot: &Program| bot.count("answered");
    kill_everything_once(&mut system, &mut bot, &senders, answered, || {}).await;
    let acknowledged = senders.stop().await;

    let channels: BTreeSet<_> = acknowledged.iter().map(|it| it.channel.clone()).collect();
    let acknowledged: BTreeSet<_> = (acknowledged.into_iter())
        .filter(|it| it.number % 2 == 0)
        .map(|it| (it.channel, format!("{} {}", it.user, it.number)))
        .collect();
    // The questions and the answers that the logs have, in their order.
    let (mut questions, mut answers) = (Vec::new(), Vec::new());
    wait::eventually("each question has an answer", 6 * SOON, async || {
        (questions, answers) = (Vec::new(), Vec::new());
        for channel in &channels {
            for (user, content) in messages(&apis[0], channel).await {
                if user == "echo-bot" {
                    answers.push((channel.clone(), content));
                } else if let Some(text) = content.strip_prefix("!echo ") {
                    questions.push((channel.clone(), text.to_owned()));
                }
            }
        }
        answers.len() >= questions.len()
    })
    .await;
    let asked: BTreeSet<_> = questions.iter().cloned().collect();
    let lost: Vec<_> = acknowledged.difference(&asked).collect();
    assert!(lost.is_empty(), "messages are lost: {lost:?}");
    // Each once, and in each channel in the order of the questions.
    assert_eq!(answers, questions);
    let sent = bot.count("answered");
    println!("{} questions, {sent} sends of answers", questions.len());
    assert!(
        sent > questions.len(),
        "no answer was sent again, so the test shows nothing"
    );
    assert_eq!(bot.count("messages are missing"), 0);
}

fn archive(system: &BackEnd) -> Command {
    let archive = workspace().join("tests/clients/archive.js");
    is_short(&archive, 40);
    let mut command = Command::new("node");
    command.arg(archive).arg("room:").arg(system.file());
    command.args(system.chats.each_ref().map(|it| it.url()));
    command
}

#[tokio::test]
async fn an_archive_in_node_stores_each_publication_once_whatever_is_killed() {
    let mut system = BackEnd::start().await;
    let apis = system.apis();
    let file = system.file();
    let mut archive = Program::start(archive(&system));
    let json = |user: &str, n: u64| format!("{{\"content\":\"{user} {n}\"}}");
    let senders = Senders::start(3, &apis, "room:", Duration::from_millis(5), json);
    let read = || fs::read_to_string(&file).unwrap_or_default();
    let stored = |_: &Program| read().lines().count();
    // A crash in the middle of a write leaves half a line, or nothing of the place's last digits.
    let tear = || {
        let torn = format!(
            "{}{{\"publication\":{{\"channel\":\"room:s0:0\",\"pub",
            read()
        );
        fs::write(&file, torn).expect("the archive is ours");
    };
    kill_everything_once(&mut system, &mut archive, &senders, stored, tear).await;
    let acknowledged = senders.stop().await;

    wait::eventually("all is stored", 6 * SOON, async || {
        read().lines().count() >= acknowledged.len()
    })
    .await;
    let mut channels: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in read().lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        // Nothing is missing, so there is no gap.
        let it = event["publication"].as_object().expect(line);
        let channel = it["channel"].as_str().expect(line).to_owned();
        let stored = channels.entry(channel).or_default();
        stored.push(it["publication"].clone());
    }
    for (channel, stored) in &channels {
        let offsets = stored.iter().map(|it| it["position"]["offset"].clone());
        let expected = (1..=stored.len()).map(|it| Value::from(it.to_string()));
        assert!(
            offsets.eq(expected),
            "{channel} is not in order: {stored:#?}"
        );
        let messages = messages(&apis[0], channel).await;
        assert_eq!(stored.len(), messages.len(), "{channel} is not complete");
        let users = stored.iter().map(|it| it["user"].as_str());
        assert!(users.eq(messages.iter().map(|it| Some(it.0.as_str()))));
    }
    for sent in &acknowledged {
        let stored = channels.get(&sent.channel).map_or(0, Vec::len);
        assert!(stored as u64 >= sent.offset, "{sent:?} is lost");
    }
    println!("{} acknowledged", acknowledged.len());
}
