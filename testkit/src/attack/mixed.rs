//! Random attacks, one after the other, two at a time.

use super::histories::Histories;
use super::http2::Http2;
use super::polls::Polls;
use super::sockets::Sockets;
use super::unread::Unread;
use crate::impact::load::{Attack, Target};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The number of attacks at the same time.
const AT_ONCE: usize = 2;
/// How long one lasts, in milliseconds.
const LASTING: std::ops::Range<u64> = 200..2_500;

/// All attacks except the one that fills the store: after it the store would have to be emptied.
#[derive(Debug, Clone, Copy)]
pub struct Mixed;

impl Attack for Mixed {
    async fn run(self, target: Target) {
        let mut attackers = JoinSet::new();
        for number in 0..AT_ONCE {
            attackers.spawn(one_by_one(target.clone(), number));
        }
        attackers.join_all().await;
    }
}

/// Runs until it is dropped. Everything that an attack has spawned ends with the attack.
async fn one_by_one(target: Target, number: usize) {
    for round in 0.. {
        let target = Target {
            // No two attacks use the same names.
            round: target.round + 1_000 * (AT_ONCE * round + number + 1),
            ..target.clone()
        };
        let lasting = Duration::from_millis(fastrand::u64(LASTING));
        let _ = match fastrand::u8(..5) {
            0 => timeout(lasting, Polls.run(target)).await,
            1 => timeout(lasting, Histories.run(target)).await,
            2 => timeout(lasting, Unread.run(target)).await,
            3 => timeout(lasting, Sockets.run(target)).await,
            _ => timeout(lasting, Http2::Everything.run(target)).await,
        };
        tokio::task::yield_now().await;
    }
}
