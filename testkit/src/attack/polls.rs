//! Clients open sessions that poll, as fast as a socket allows, and never use them. The connector keeps each session
//! until the time to log in is over.

use crate::impact::load::{Attack, Target};
use crate::polling::{Http, opening};
use tokio::task::JoinSet;

const SOCKETS: usize = 4;
/// At most this many requests of one socket are unanswered.
const PIPELINED: usize = 100;
/// Requests of one socket in one round.
const REQUESTS: usize = 15_000;
/// How often the socket is opened again for them.
const CONNECTS: usize = 500;

/// `GET /socket.io/?EIO=3&transport=polling`, pipelined. It counts `sessions`, `refused` and `other answers`.
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
