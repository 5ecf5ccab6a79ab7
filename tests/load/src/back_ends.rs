//! Loads what back ends use: watches and pushes. There is no floor to compare with.

use crate::modes::{Figures, SETTLE, WARM_UP};
use crate::order::Faults;
use crate::subject::{Subject, cpu};
use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use proto::chat::v1::send_request::Content;
use proto::chat::v1::user_service_client::UserServiceClient;
use proto::chat::v1::watch_response::Event;
use proto::chat::v1::{
    PushToUsersRequest, SendRequest, SendStreamRequest, WatchPlace, WatchRequest, WatchResponse,
    push_to_users_request,
};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use testkit::chat_api::ChatApi;
use testkit::json::Client;
use testkit::pomelo::LOGIN;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// The channel that everybody watches.
const BUSY: &str = "busy";
/// Messages in one frame of a stream of sends.
const FRAME: usize = 500;
/// How long something may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(60);

/// A way in which back ends load a server
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Mode {
    /// Many watchers of one channel, in which a window of messages is always full: deliveries a second, and what they cost
    Watch {
        /// The number of watchers, spread over the chats
        #[arg(long, default_value_t = 100)]
        watchers: usize,
        /// Messages that are under way at once
        #[arg(long, default_value_t = 32)]
        window: usize,
        /// The size of a body in bytes
        #[arg(long, default_value_t = 128)]
        bytes: usize,
        /// How many seconds to measure
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// One watcher of many silent channels by their prefix: what it costs Redis and chat
    QuietWatch {
        /// The number of channels
        #[arg(long, default_value_t = 10_000)]
        channels: usize,
        /// How many seconds to measure, without the watcher and with it
        #[arg(long, default_value_t = 60.0)]
        seconds: f64,
    },
    /// Messages to live users: calls a second, and users a second
    Push {
        /// The number of users, each with one connection
        #[arg(long, default_value_t = 500)]
        users: usize,
        /// Users in one call
        #[arg(long, default_value_t = 1)]
        at_once: usize,
        /// Calls that are under way at once
        #[arg(long, default_value_t = 16)]
        window: usize,
        /// How many seconds to measure
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
}

impl Mode {
    /// Runs this mode with a subject that was started.
    pub(crate) async fn run(&self, subject: &Subject) -> anyhow::Result<(Figures, Faults)> {
        let run = Run {
            subject,
            figures: Figures::new(),
        };
        let local = LocalSet::new();
        match *self {
            Self::Watch {
                watchers,
                window,
                bytes,
                seconds,
            } => {
                let time = Duration::from_secs_f64(seconds);
                local
                    .run_until(run.watch(watchers, window, bytes, time))
                    .await
            }
            Self::QuietWatch { channels, seconds } => {
                let time = Duration::from_secs_f64(seconds);
                local.run_until(run.quiet_watch(channels, time)).await
            }
            Self::Push {
                users,
                at_once,
                window,
                seconds,
            } => {
                let time = Duration::from_secs_f64(seconds);
                local
                    .run_until(run.push(users, at_once, window, time))
                    .await
            }
        }
    }
}

struct Run<'a> {
    subject: &'a Subject,
    figures: Figures,
}

/// What watchers have seen.
#[derive(Default)]
struct Seen {
    delivered: Cell<u64>,
    faults: RefCell<Faults>,
}

impl Run<'_> {
    fn note(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }

    /// Waits for this time, and notes what each kind of process used meanwhile. Returns the seconds and the microseconds of CPU
    /// time of all of them.
    async fn measure(&mut self, suffix: &str, time: Duration) -> anyhow::Result<(f64, f64)> {
        let own = std::process::id();
        let (before, own_before) = (self.subject.used()?, cpu(own)?);
        let commands = self.subject.commands().await;
        let began = Instant::now();
        sleep(time).await;
        let seconds = began.elapsed().as_secs_f64();
        let mut all = 0.0;
        for (kind, used) in self.subject.used()? {
            let used = (used - before.get(kind).copied().unwrap_or_default()) as f64;
            all += used;
            self.note(&format!("cpu_percent_{kind}{suffix}"), used / 1e7 / seconds);
        }
        if let (Some(before), Some(after)) = (commands, self.subject.commands().await) {
            let count = (after - before) as f64;
            self.note(
                &format!("redis_commands_per_second{suffix}"),
                count / seconds,
            );
        }
        let busy = (cpu(own)? - own_before) as f64 / 1e9 / seconds;
        self.note("generator_busy", busy);
        Ok((seconds, all / 1e3))
    }

    async fn watch(
        mut self,
        watchers: usize,
        window: usize,
        bytes: usize,
        time: Duration,
    ) -> anyhow::Result<(Figures, Faults)> {
        let apis = self.subject.apis()?;
        let seen = Rc::<Seen>::default();
        for number in 0..watchers {
            let request = WatchRequest {
                places: vec![WatchPlace {
                    channel: BUSY.to_owned(),
                    position: None,
                }],
                ..WatchRequest::default()
            };
            let mut events = begin_watch(&apis[number % apis.len()], request).await?;
            let seen = Rc::clone(&seen);
            tokio::task::spawn_local(async move {
                let mut last = None;
                while let Ok(Some(event)) = events.message().await {
                    seen.take(event, &mut last);
                }
                seen.faults.borrow_mut().ended += 1;
            });
        }
        let sent = Rc::<Cell<u64>>::default();
        let counted = Rc::clone(&sent);
        let api = apis[0].clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = talk(&api, window, bytes, &counted).await {
                eprintln!("the sender has ended: {error}");
            }
        });
        sleep(WARM_UP).await;
        let (delivered, before) = (seen.delivered.get(), sent.get());
        let (seconds, cpu_us) = self.measure("", time).await?;
        let delivered = (seen.delivered.get() - delivered) as f64;
        self.note("deliveries_per_second", delivered / seconds);
        self.note("cpu_us_each", cpu_us / delivered.max(1.0));
        self.note("sends_per_second", (sent.get() - before) as f64 / seconds);
        let faults = *seen.faults.borrow();
        Ok((self.figures, faults))
    }

    async fn quiet_watch(
        mut self,
        channels: usize,
        time: Duration,
    ) -> anyhow::Result<(Figures, Faults)> {
        let apis = self.subject.apis()?;
        let names: Vec<_> = (0..channels).map(|n| format!("quiet:{n}")).collect();
        let frames: Vec<_> = names.chunks(FRAME).map(frame).collect();
        let mut client = apis[0].client();
        let answers = client.send_stream(tokio_stream::iter(frames)).await?;
        let mut answers = answers.into_inner();
        let mut count = 0;
        while let Some(answer) = answers.message().await? {
            count += answer.outcomes.len();
        }
        ensure!(
            count == channels,
            "{count} channels of {channels} were begun"
        );
        sleep(SETTLE).await;
        self.measure("_before", time).await?;
        let request = WatchRequest {
            prefix: Some("quiet:".to_owned()),
            ..WatchRequest::default()
        };
        let began = Instant::now();
        let mut events = begin_watch(&apis[0], request).await?;
        let mut opened = 0;
        loop {
            let event = timeout(PATIENCE, events.message()).await;
            match event
                .context("the watch does not start")??
                .and_then(|it| it.event)
            {
                Some(Event::Opened(_)) => opened += 1,
                Some(Event::Started(_)) => break,
                Some(_) => {}
                None => bail!("the watch has ended"),
            }
        }
        self.note("started_after_ms", began.elapsed().as_secs_f64() * 1e3);
        self.note("channels", f64::from(opened));
        tokio::task::spawn_local(async move { while let Ok(Some(_)) = events.message().await {} });
        sleep(SETTLE).await;
        self.measure("", time).await?;
        Ok((self.figures, Faults::default()))
    }

    async fn push(
        mut self,
        users: usize,
        at_once: usize,
        window: usize,
        time: Duration,
    ) -> anyhow::Result<(Figures, Faults)> {
        let apis = self.subject.apis()?;
        let names: Vec<_> = (0..users).map(|n| format!("user-{n}")).collect();
        let mut clients = Vec::new();
        for (number, user) in names.iter().enumerate() {
            let servers = &self.subject.servers;
            let client = Client::connect(servers[number % servers.len()]).await;
            let login = json!({ "userId": user, "lessonId": null });
            let answer = client.request(LOGIN, login).await;
            ensure!(answer["code"] == 0, "{answer}");
            clients.push(client);
        }
        let (calls, reached) = (Rc::<Cell<u64>>::default(), Rc::<Cell<u64>>::default());
        let faults = Rc::<RefCell<Faults>>::default();
        let mut callers = JoinSet::new();
        for number in 0..window {
            let mut service = UserServiceClient::new(apis[number % apis.len()].channel());
            let (calls, reached) = (Rc::clone(&calls), Rc::clone(&reached));
            let (faults, names) = (Rc::clone(&faults), names.clone());
            callers.spawn_local(async move {
                let mut some = names.iter().cycle().skip(number * at_once);
                loop {
                    let request = PushToUsersRequest {
                        users: some.by_ref().take(at_once).cloned().collect(),
                        content: Some(push_to_users_request::Content::BodyJson("{}".into())),
                        ..PushToUsersRequest::default()
                    };
                    match service.push_to_users(request).await {
                        Ok(answer) => {
                            let outcomes = answer.into_inner().outcomes;
                            let sessions = outcomes.iter().map(|it| u64::from(it.sessions));
                            reached.set(reached.get() + sessions.sum::<u64>());
                            calls.set(calls.get() + 1);
                        }
                        Err(_) => faults.borrow_mut().refused += 1,
                    }
                }
            });
        }
        sleep(WARM_UP).await;
        let before = (calls.get(), reached.get());
        let (seconds, cpu_us) = self.measure("", time).await?;
        let called = (calls.get() - before.0) as f64;
        let pushed = (reached.get() - before.1) as f64;
        self.note("calls_per_second", called / seconds);
        self.note("pushes_per_second", pushed / seconds);
        self.note("cpu_us_each", cpu_us / pushed.max(1.0));
        callers.shutdown().await;
        // The last ones are on their way.
        sleep(SETTLE).await;
        let received = clients
            .iter()
            .map(|it| it.inbox().read().pushes.len() as u64);
        faults.borrow_mut().lost += reached.get().saturating_sub(received.sum());
        let faults = *faults.borrow();
        Ok((self.figures, faults))
    }
}

impl Seen {
    /// Takes what a watcher was given. Offsets must have no hole.
    fn take(&self, event: WatchResponse, last: &mut Option<u64>) {
        match event.event {
            Some(Event::Publication(it)) => {
                let position = it.publication.and_then(|it| it.position);
                let offset = position.unwrap_or_default().offset;
                let mut faults = self.faults.borrow_mut();
                match last.replace(offset) {
                    Some(before) if offset <= before => faults.repeated += 1,
                    Some(before) => faults.lost += offset - before - 1,
                    None => {}
                }
                self.delivered.set(self.delivered.get() + 1);
            }
            Some(Event::Gap(_)) => self.faults.borrow_mut().lost += 1,
            _ => {}
        }
    }
}

async fn begin_watch(
    api: &ChatApi,
    request: WatchRequest,
) -> anyhow::Result<Streaming<WatchResponse>> {
    Ok(api.client().watch(request).await?.into_inner())
}

/// Keeps a window of messages full, over one stream.
async fn talk(api: &ChatApi, window: usize, bytes: usize, sent: &Cell<u64>) -> anyhow::Result<()> {
    let (frames, stream) = mpsc::channel(window);
    let message = SendRequest {
        channel: BUSY.to_owned(),
        user: "sender".to_owned(),
        content: Some(Content::BodyJson(
            format!("{{\"p\":\"{}\"}}", "x".repeat(bytes.saturating_sub(8))).into(),
        )),
        ..SendRequest::default()
    };
    let some = |count| SendStreamRequest {
        messages: vec![message.clone(); count],
    };
    frames.send(some(window)).await?;
    let answers = api
        .client()
        .send_stream(ReceiverStream::new(stream))
        .await?;
    let mut answers = answers.into_inner();
    while let Some(answer) = answers.message().await? {
        sent.set(sent.get() + answer.outcomes.len() as u64);
        frames.send(some(answer.outcomes.len())).await?;
    }
    bail!("the stream has ended")
}

fn frame(channels: &[String]) -> SendStreamRequest {
    let message = |channel: &String| SendRequest {
        channel: channel.clone(),
        user: "founder".into(),
        content: Some(Content::BodyJson("{}".into())),
        ..SendRequest::default()
    };
    SendStreamRequest {
        messages: channels.iter().map(message).collect(),
    }
}
