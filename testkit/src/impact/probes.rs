//! Probes during an attack: an orchestrator asks whether a service lives and is ready, new users log in, and a back end
//! lists members. Each probe repeats at a steady pace and notes the answers.

use crate::chat_api::ChatApi;
use crate::pomelo::LOGIN;
use crate::websocket::{self, CLOSE, TEXT, Terms};
use crate::{ANSWERED, http, pace};
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

const PACE: Duration = Duration::from_millis(200);
/// How long an orchestrator waits by default before it takes a service to be dead.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a new user tries to connect.
const TRIES: usize = 3;

/// What a probe asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// `/livez` of the connector.
    ConnectorLives,
    /// `/livez` of chat.
    ChatLives,
    /// `/readyz` of the connector.
    ConnectorReady,
    /// `/readyz` of chat.
    ChatReady,
    /// A new user's login, over JSON.
    Login,
    /// A back end's unary call.
    Call,
}

impl Asked {
    /// All probes.
    pub const ALL: [Self; 6] = [
        Self::ConnectorLives,
        Self::ChatLives,
        Self::ConnectorReady,
        Self::ChatReady,
        Self::Login,
        Self::Call,
    ];

    fn patience(self) -> Duration {
        match self {
            Self::Login | Self::Call => ANSWERED,
            _ => PATIENCE,
        }
    }
}

/// One request of a probe and its outcome.
#[derive(Debug, Clone)]
pub struct Probe {
    /// What was asked.
    pub asked: Asked,
    /// When it was asked.
    pub at: Instant,
    /// How long the answer took.
    pub took: Duration,
    /// The text of a refusal, or that there was no answer in time.
    pub outcome: Result<(), String>,
}

/// Running probes.
pub struct Probes {
    notes: Arc<Mutex<Vec<Probe>>>,
    _tasks: JoinSet<()>,
}

/// The addresses that the probes ask.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// The connector's port for clients.
    pub connector: SocketAddr,
    /// The connector's admin port.
    pub connector_admin: SocketAddr,
    /// Chat's port.
    pub chat: SocketAddr,
    /// Chat's admin port.
    pub chat_admin: SocketAddr,
}

impl Probes {
    /// Begins to ask.
    #[must_use]
    pub fn start(ports: Ports) -> Self {
        let notes = Arc::<Mutex<Vec<Probe>>>::default();
        let mut tasks = JoinSet::new();
        let api = ChatApi::at(ports.chat);
        for asked in Asked::ALL {
            let (notes, api) = (Arc::clone(&notes), api.clone());
            tasks.spawn(async move {
                let mut ticks = interval(PACE);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                for number in 0.. {
                    ticks.tick().await;
                    let at = Instant::now();
                    let answer =
                        pace::timeout(asked.patience(), ask(asked, ports, &api, number)).await;
                    let probe = Probe {
                        asked,
                        at,
                        took: pace::since(at),
                        outcome: answer.unwrap_or_else(|_| Err("no answer".to_owned())),
                    };
                    notes
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(probe);
                }
            });
        }
        Self {
            notes,
            _tasks: tasks,
        }
    }

    /// The requests that began in this time and are finished, with an answer or without.
    #[must_use]
    pub fn within(&self, begin: Instant, end: Instant) -> Vec<Probe> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let within = notes
            .iter()
            .filter(|probe| (begin..end).contains(&probe.at));
        within.cloned().collect()
    }
}

async fn ask(asked: Asked, ports: Ports, api: &ChatApi, number: usize) -> Result<(), String> {
    match asked {
        Asked::ConnectorLives => get(ports.connector_admin, "/livez").await,
        Asked::ChatLives => get(ports.chat_admin, "/livez").await,
        Asked::ConnectorReady => get(ports.connector_admin, "/readyz").await,
        Asked::ChatReady => get(ports.chat_admin, "/readyz").await,
        Asked::Login => log_in_in_the_end(ports.connector, number).await,
        Asked::Call => {
            let listed = api.members(super::bystanders::ROOM).await;
            listed.map(|_| ()).map_err(|status| status.to_string())
        }
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<(), String> {
    let answer = http::get(address, path).await.ok_or("no answer")?;
    if answer.status == 200 {
        return Ok(());
    }
    Err(format!(
        "{}: {}",
        answer.status,
        answer.body.replace('\n', " ")
    ))
}

/// Logs in as clients do: if the connection is reset before the answer, it tries again.
async fn log_in_in_the_end(connector: SocketAddr, number: usize) -> Result<(), String> {
    let mut told = Ok(());
    for _ in 0..TRIES {
        told = log_in(connector, number).await;
        let is_cut_off = told
            .as_ref()
            .is_err_and(|told| told.contains("reset by peer"));
        if !is_cut_off {
            break;
        }
    }
    told
}

async fn log_in(connector: SocketAddr, number: usize) -> Result<(), String> {
    let told = |error: io::Error| error.to_string().replace(['\r', '\n'], " ");
    let socket = websocket::connect(connector, "/ws", Terms::default()).await;
    let (mut writer, mut reader) = socket.map_err(told)?;
    let body = json!({ "userId": format!("visitor-{number}"), "lessonId": "visitors" });
    let login = json!({ "id": 1, "route": LOGIN, "body": body }).to_string();
    writer.frame(TEXT, login.as_bytes()).await.map_err(told)?;
    let reply = loop {
        let frame = reader.frame().await.map_err(told)?.ok_or("dropped")?;
        if frame.opcode == CLOSE {
            return Err(format!("{:?}", frame.close()));
        }
        let message: Value = serde_json::from_slice(&frame.payload).unwrap_or_default();
        if message["id"] == 1 {
            break message["body"].clone();
        }
    };
    let _ = writer.frame(CLOSE, &1000u16.to_be_bytes()).await;
    if reply["code"] == 0 {
        Ok(())
    } else {
        Err(reply.to_string())
    }
}
