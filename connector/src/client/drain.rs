//! Closes all connections, one after another: clients that connect again in the same moment would overload the other connectors.

use super::Clients;
use crate::metering::DRAIN_LEFT;
use crate::transport::Connection;
use metrics::gauge;
use runtime::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, timeout};
use wire::{Disconnect, Notice};

/// How long the sockets may take to end once they are told to, and the leaves of their sessions to land. Together they are within
/// [`DEADLINE`](runtime::lifecycle::DEADLINE).
const CLOSE_SOCKETS: Duration = Duration::from_secs(4);
const LAND_LEAVES: Duration = Duration::from_secs(5);

/// Connections are closed in batches, this time apart.
const TICK: Duration = Duration::from_millis(50);

/// A client that is closed in its turn waits for a random time up to this before it connects again. The turns are spread already.
const SHORT_WAIT: Duration = Duration::from_secs(1);

/// How fast connections are closed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// So many in a second at least.
    pub(crate) rate: u32,
    /// All of them within this time.
    pub(crate) window: Duration,
}

impl Pace {
    /// How many connections have been closed this time after the first ones, if there were so many in the beginning.
    fn closed_after(self, time: Duration, count: usize) -> usize {
        let by_rate = f64::from(self.rate) * time.as_secs_f64();
        let by_window =
            count as f64 * (time.as_secs_f64() / self.window.as_secs_f64().max(f64::MIN_POSITIVE));
        (by_rate.max(by_window).ceil() as usize).min(count)
    }
}

impl Clients {
    /// The connector begins to stop: back ends see it, and new sessions are still served.
    pub(crate) fn give_notice(&self) {
        self.services.commands.process().drains();
    }

    /// Closes the clients that poll, and those that read a stream of events, at this pace. Their requests come over new sockets, so this
    /// happens while the port still listens. No new session begins from now on.
    pub(crate) async fn close_asked_apart(&self, pace: Pace, shutdown: &Shutdown) {
        // A client that connects from now on is closed at once, because it is in no list.
        self.loops.close();
        let apart = self.connected(Connection::is_asked_apart);
        self.close_in_turn(apart, pace, shutdown).await;
    }

    /// Closes every socket, at this pace, and lands every leave. Once the shutdown is hurried, everything is closed at once.
    pub(crate) async fn drain(&self, pace: Pace, shutdown: &Shutdown) {
        let all = self.connected(|_| true);
        self.close_in_turn(all, pace, shutdown).await;
        if timeout(CLOSE_SOCKETS, self.loops.wait()).await.is_err() {
            tracing::warn!(
                connections = self.loops.len(),
                "sockets did not close in time"
            );
            let left = self.connected(|_| true);
            left.iter().for_each(|connection| connection.abort());
        }
        let landed = self.services.leaves.landed();
        if timeout(LAND_LEAVES, landed).await.is_err() {
            tracing::error!("some leaves did not land");
        }
    }

    /// Closes these at a pace, in random order, so that no room loses all its members at the same moment.
    async fn close_in_turn(
        &self,
        mut connections: Vec<Arc<Connection>>,
        pace: Pace,
        shutdown: &Shutdown,
    ) {
        fastrand::shuffle(&mut connections);
        let count = connections.len();
        tracing::info!(connections = count, "closing");
        let mut left = connections.into_iter();
        let mut ticks = interval(TICK);
        // A process that was frozen does not make up for the ticks that it missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticked = 0_u32;
        while left.len() > 0 {
            tokio::select! {
                biased;
                () = shutdown.hurried() => break,
                _ = ticks.tick() => ticked += 1,
            }
            let closed = pace.closed_after(TICK * ticked, count);
            let turn = closed - (count - left.len());
            for connection in left.by_ref().take(turn) {
                close(&connection, SHORT_WAIT);
            }
            gauge!(DRAIN_LEFT).set(left.len() as f64);
        }
        // All at once: now only their own waits spread the clients.
        for connection in left {
            close(&connection, pace.window);
        }
        gauge!(DRAIN_LEFT).set(0.0);
    }
}

/// Closes a connection. Its client is asked to wait for a random time before it connects again.
fn close(connection: &Connection, longest_wait: Duration) {
    let wait = longest_wait.mul_f64(fastrand::f64());
    let notice = Notice {
        reconnect_after_ms: u32::try_from(wait.as_millis()).ok(),
        ..Notice::default()
    };
    connection.close_saying(Disconnect::Shutdown, &notice);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many connections are closed after each of these milliseconds.
    fn closed(count: usize, times: &[u64]) -> Vec<usize> {
        let pace = Pace {
            rate: 500,
            window: Duration::from_secs(45),
        };
        let closed = times
            .iter()
            .map(|it| pace.closed_after(Duration::from_millis(*it), count));
        closed.collect()
    }

    #[test]
    fn connections_are_closed_at_the_rate_and_faster_only_if_there_are_more_than_the_window_has_room_for()
     {
        assert_eq!(closed(10, &[0, 50, 1_000]), [0, 10, 10]);
        assert_eq!(
            closed(2_000, &[50, 1_000, 3_950, 4_000]),
            [25, 500, 1_975, 2_000]
        );
        assert_eq!(closed(22_500, &[1_000, 45_000]), [500, 22_500]);
        assert_eq!(
            closed(90_000, &[1_000, 44_950, 45_000]),
            [2_000, 89_900, 90_000]
        );
    }

    #[test]
    fn without_a_window_all_are_closed_in_the_first_turn() {
        let pace = Pace {
            rate: 1,
            window: Duration::ZERO,
        };
        assert_eq!(pace.closed_after(TICK, 1_000), 1_000);
    }
}
