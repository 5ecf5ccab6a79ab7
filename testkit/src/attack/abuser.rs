//! One address that does far more of everything than the limits of a connector allow, and goes on when it is refused or cut off.

use super::{enter, message};
use crate::impact::load::{Attack, Target};
use crate::polling::Http;
use crate::pomelo::SEND;
use crate::websocket::{self, TEXT, Terms, Writer};
use serde_json::{Value, json};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// The address of all that it does, as a proxy names it.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 66));
/// The time between two bursts of requests.
const STEP: Duration = Duration::from_millis(10);
/// Requests in a burst: 1,000 in a second.
const REQUESTS: u64 = 10;
/// Joins in a burst: 500 in a second.
const JOINS: u64 = 5;
/// Sockets that it wants in a round.
const SOCKETS: u32 = 2_000;
/// The pause between two of them.
const APART: Duration = Duration::from_micros(500);
/// Sockets that send the head of a request byte by byte.
const SLOW: u32 = 100;
/// Sessions that begin to poll and never poll again.
const HALF_OPEN: u32 = 200;
/// The pause before it comes back after it was cut off.
const PAUSE: Duration = Duration::from_millis(20);

/// Sends, joins, connects, writes slowly and begins to poll, all at once. It counts what was `refused`, how often it was `cut off`,
/// and which `sockets refused` there were.
#[derive(Debug, Clone, Copy)]
pub struct Abuser;

impl Attack for Abuser {
    async fn run(self, target: Target) {
        let mut tasks = JoinSet::new();
        tasks.spawn(go_on(target.clone(), "sends", REQUESTS));
        tasks.spawn(go_on(target.clone(), "joins", JOINS));
        tasks.spawn(connect_all(target.clone()));
        for number in 0..SLOW {
            tasks.spawn(write_slowly(target.clone(), number));
        }
        tasks.spawn(begin_to_poll(target));
        tasks.join_all().await;
    }
}

fn terms() -> Terms {
    Terms {
        forwarded_for: Some(ADDRESS),
        ..Terms::default()
    }
}

/// A session that makes so many requests in each step. It begins again whenever it is cut off.
async fn go_on(target: Target, what: &'static str, at_once: u64) {
    for life in 0u64.. {
        let name = format!("abuser-{what}-{}-{life}", target.round);
        if let Ok((writer, mut reader)) = enter(target.connector, terms(), &name, &name).await {
            let answers = async {
                let mut writer = writer;
                let mut steps = interval(STEP);
                steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut id = 0;
                loop {
                    tokio::select! {
                        _ = steps.tick() => {
                            for _ in 0..at_once {
                                id += 1;
                                ask(&mut writer, what, id).await?;
                            }
                        }
                        // What has come of a frame stays in the reader's buffer if this is broken off.
                        answer = reader.frame() => {
                            let frame = answer?.ok_or(io::ErrorKind::UnexpectedEof)?;
                            if frame.opcode == websocket::CLOSE {
                                return Err(io::Error::other(format!("{:?}", frame.close())));
                            }
                            let answer: Value = serde_json::from_slice(&frame.payload).unwrap_or_default();
                            if answer["body"]["code"] == 429 {
                                target.tally.count("refused");
                            }
                        }
                    }
                }
            };
            let ended: io::Result<()> = answers.await;
            if ended.is_err() {
                target.tally.count("cut off");
            }
        }
        sleep(PAUSE).await;
    }
}

async fn ask(writer: &mut Writer, what: &str, id: u64) -> io::Result<()> {
    let request = if what == "joins" {
        let channel = format!("abused-{}", fastrand::u64(..));
        json!({ "id": id, "route": "chat.handler.join", "body": { "channel": channel } })
    } else {
        json!({ "id": id, "route": SEND, "body": { "n": id } })
    };
    writer.frame(TEXT, request.to_string().as_bytes()).await
}

async fn connect_all(target: Target) {
    let mut sockets = JoinSet::new();
    for number in 0..SOCKETS {
        let target = target.clone();
        sockets.spawn(async move {
            sleep(APART * number).await;
            match websocket::connect(target.connector, "/ws", terms()).await {
                Ok((mut writer, mut reader)) => {
                    // It never logs in, and waits until it is closed.
                    let _ = message(&mut writer, &mut reader).await;
                }
                Err(_) => target.tally.count("sockets refused"),
            }
        });
    }
    sockets.join_all().await;
}

async fn write_slowly(target: Target, number: u32) {
    sleep(APART * number).await;
    let Ok(mut socket) = TcpStream::connect(target.connector).await else {
        return;
    };
    for byte in b"GET /ws HTTP/1.1\r\nHost: x\r\nX-Slow: ".iter().cycle() {
        if socket.write_all(&[*byte]).await.is_err() {
            return;
        }
        sleep(10 * STEP).await;
    }
}

async fn begin_to_poll(target: Target) {
    let path = "/socket.io/?EIO=4&transport=polling";
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {ADDRESS}\r\n\r\n");
    for _ in 0..HALF_OPEN {
        let Ok(mut http) = Http::connect(target.connector).await else {
            return;
        };
        match http.ask(&request).await {
            Ok((200, _)) => target.tally.count("polls"),
            _ => target.tally.count("polls refused"),
        }
    }
}
