//! Sessions that poll are made as fast as one socket takes it, and left alone: each is kept until it must have logged in.

use crate::beside::load::{Attack, Target};
use crate::polling::{Http, opening};
use tokio::task::JoinSet;

const SOCKETS: usize = 4;
/// Requests that one socket has under way at most.
const PIPELINED: usize = 100;
/// Requests of one socket in one round, and how often it connects again for them.
const REQUESTS: usize = 15_000;
const CONNECTS: usize = 500;

/// `GET /socket.io/?EIO=3&transport=polling`, pipelined. Counts `sessions` and `refused`, and what else is said.
#[derive(Debug, Clone, Copy)]
pub struct Polls;

impl Attack for Polls {
    async fn run(self, target: Target) {
        let mut sockets = JoinSet::new();
        for _ in 0..SOCKETS {
            sockets.spawn(pipeline(target.clone()));
        }
        sockets.join_all().await;
    }
}

async fn pipeline(target: Target) {
    let batch = opening(3).repeat(PIPELINED);
    let mut requests = 0;
    for _ in 0..CONNECTS {
        let Ok(mut http) = Http::connect(target.connector).await else {
            target.tally.count("connections refused");
            continue;
        };
        while requests < REQUESTS && http.send(batch.as_bytes()).await.is_ok() {
            requests += PIPELINED;
            let mut answered = 0;
            while answered < PIPELINED {
                let Ok((status, _)) = http.answer().await else {
                    break;
                };
                answered += 1;
                target.tally.count(match status {
                    200 => "sessions",
                    429 | 503 => "refused",
                    _ => "other answers",
                });
            }
            if answered < PIPELINED {
                target.tally.count("connections closed");
                break;
            }
        }
        if requests >= REQUESTS {
            return;
        }
    }
}
