//! The clock of one client: when its handshake, its login or its heartbeat is overdue, and when it is sent a ping.

use crate::limits::{ClientLimits, Heartbeats};
use std::time::Duration;
use tokio::time::Instant;
use wire::{Carrier, Disconnect, EngineIo, Protocol, WireFormat};

/// How much more time a login gets that is under way when its time is over.
const LOGIN_UNDER_WAY: Duration = Duration::from_secs(2);
/// The pause between two checks whether everything was read that had arrived when the client's time was over.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A client that only reads is silent. If it is gone, the kernel notices that nothing is taken any more.
const FOR_EVER: u32 = u32::MAX;

/// What has to be done because time has passed.
pub(super) enum Due {
    Close(Disconnect),
    Ping,
}

/// The clock of one client.
pub(super) struct Clock {
    /// When the handshake has to be over. `None` once it is.
    handshake: Option<Instant>,
    /// When the client has to be logged in. `None` once it is.
    login: Option<Instant>,
    /// The last sign of life that counts. `None` until heartbeats begin.
    heard: Option<Instant>,
    /// When the connector sends its next ping. `None` if the client is the one that sends heartbeats.
    ping: Option<Instant>,
    /// Milliseconds between pings.
    heartbeat: u32,
    /// Milliseconds that a client may be silent. [`FOR_EVER`]: no matter how long.
    max_silence: u32,
    pings: bool,
    /// Whether every message and pong counts as a sign of life. In Pomelo's protocol only heartbeat packages do (K5).
    counts_messages: bool,
    /// Changes whenever the next alarm may have become earlier.
    pub(super) alarm_version: u8,
    /// A login was under way when its time was over, so it has got more time.
    is_login_late: bool,
    /// The client polls, and nothing came after the request that opened its connection.
    pub(super) only_opened: bool,
    /// How many bytes had arrived and were not read when the client's time was over. The client is judged when they are
    /// read.
    unread: Option<u32>,
}

/// Milliseconds as a `u32`, so 49 days at most.
fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

impl Clock {
    pub(super) fn start(format: WireFormat, limits: &ClientLimits) -> Self {
        let now = Instant::now();
        let Heartbeats { interval, timeout } = limits.socket_io;
        let twice = limits.heartbeat.saturating_mul(2);
        let (heartbeat, max_silence, pings) = match format.protocol() {
            Protocol::Pomelo => (limits.heartbeat, twice, false),
            Protocol::Json => (limits.heartbeat, twice, true),
            Protocol::SocketIo(version) => (
                interval,
                interval.saturating_add(timeout),
                version == EngineIo::V4,
            ),
        };
        Self {
            handshake: Some(now + limits.handshake),
            login: Some(now + limits.idle),
            heard: None,
            ping: None,
            heartbeat: milliseconds(heartbeat),
            max_silence: match format.carrier() {
                Carrier::Events => FOR_EVER,
                _ => milliseconds(max_silence),
            },
            pings,
            counts_messages: format.protocol() != Protocol::Pomelo,
            alarm_version: 0,
            is_login_late: false,
            only_opened: false,
            unread: None,
        }
    }

    pub(super) fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat.into())
    }

    pub(super) fn max_silence(&self) -> Duration {
        Duration::from_millis(self.max_silence.into())
    }

    pub(super) fn ready(&mut self) {
        let now = Instant::now();
        self.handshake = None;
        self.unread = None;
        self.heard = (self.max_silence < FOR_EVER).then_some(now);
        self.ping = self.pings.then_some(now + self.heartbeat());
        self.alarm_version = self.alarm_version.wrapping_add(1);
    }

    pub(super) fn logged_in(&mut self, logged_in: bool) {
        if logged_in {
            self.login = None;
        }
    }

    pub(super) fn heard_heartbeat(&mut self) {
        if self.heard.is_some() {
            self.heard = Some(Instant::now());
            self.unread = None;
        }
    }

    /// Notes that so many bytes were read.
    pub(super) fn has_read(&mut self, bytes: usize) {
        if let Some(unread) = &mut self.unread {
            *unread = unread.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// True if everything was read that had arrived when the client's time was over. `arrived` is what is unread now.
    pub(super) fn has_heard_all(&mut self, arrived: usize) -> bool {
        let arrived = u32::try_from(arrived).unwrap_or(u32::MAX);
        let unread = self.unread.get_or_insert(arrived);
        *unread = arrived.min(*unread);
        *unread == 0
    }

    pub(super) fn heard_message(&mut self) {
        if self.counts_messages {
            self.heard_heartbeat();
        }
    }

    /// When to call [`due`](Self::due) next: not later than anything may be due. Signs of life do not move an alarm
    /// that is already set, so it may ring without anything being due.
    pub(super) fn next(&self) -> Instant {
        if self.unread.is_some() {
            return Instant::now() + LOOK_AGAIN;
        }
        let silence = self.heard.map(|heard| heard + self.max_silence());
        [self.handshake, self.login, silence, self.ping]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| Instant::now() + self.heartbeat())
    }

    /// What is due now, if anything is. `busy` says that a request is under way, which may be the login.
    pub(super) fn due(&mut self, busy: bool) -> Option<Due> {
        let now = Instant::now();
        let is_over = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        if is_over(self.heard.map(|heard| heard + self.max_silence())) {
            return Some(Due::Close(Disconnect::HeartbeatTimeout));
        }
        if is_over(self.handshake) {
            return Some(Due::Close(Disconnect::HandshakeTimeout));
        }
        if is_over(self.login) && busy && !self.is_login_late {
            self.is_login_late = true;
            self.login = Some(now + LOGIN_UNDER_WAY);
        }
        if is_over(self.login) {
            return Some(Due::Close(Disconnect::Idle));
        }
        if is_over(self.ping) {
            self.ping = Some(now + self.heartbeat());
            return Some(Due::Ping);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::LIMITS;
    use tokio::time::{advance, sleep_until};

    /// What is due next, and after how many seconds.
    async fn rings(clock: &mut Clock) -> (u64, Option<Disconnect>) {
        let started = Instant::now();
        loop {
            sleep_until(clock.next()).await;
            match clock.due(false) {
                Some(Due::Close(reason)) => return (started.elapsed().as_secs(), Some(reason)),
                Some(Due::Ping) => return (started.elapsed().as_secs(), None),
                None => {}
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_without_handshake_or_login_is_dropped() {
        let mut clock = Clock::start(WireFormat::POMELO, &LIMITS);
        assert_eq!(
            rings(&mut clock).await,
            (10, Some(Disconnect::HandshakeTimeout))
        );
        let mut clock = Clock::start(WireFormat::POMELO, &LIMITS);
        clock.ready();
        advance(Duration::from_secs(30)).await;
        clock.heard_heartbeat();
        assert_eq!(rings(&mut clock).await, (30, Some(Disconnect::Idle)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pomelo_client_without_heartbeats_for_two_intervals_is_dropped_k5() {
        let mut clock = Clock::start(WireFormat::POMELO, &LIMITS);
        clock.ready();
        clock.logged_in(true);
        advance(Duration::from_secs(40)).await;
        clock.heard_message();
        assert_eq!(
            rings(&mut clock).await,
            (10, Some(Disconnect::HeartbeatTimeout))
        );
    }

    /// The clock of a Pomelo client that has logged in and was silent for too long.
    async fn silent() -> Clock {
        let mut clock = Clock::start(WireFormat::POMELO, &LIMITS);
        clock.ready();
        clock.logged_in(true);
        advance(Duration::from_secs(50)).await;
        let due = clock.due(false);
        assert!(matches!(
            due,
            Some(Due::Close(Disconnect::HeartbeatTimeout))
        ));
        clock
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_that_arrived_in_time_counts_though_it_is_read_late() {
        let mut clock = silent().await;
        assert!(!clock.has_heard_all(100), "a hundred bytes may hold one");
        clock.has_read(60);
        assert!(!clock.has_heard_all(1_040));
        clock.heard_heartbeat();
        assert!(clock.due(false).is_none());
        assert_eq!(
            rings(&mut clock).await,
            (50, Some(Disconnect::HeartbeatTimeout))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_dropped_only_after_what_arrived_in_time_was_read_k5() {
        let mut clock = silent().await;
        assert!(!clock.has_heard_all(100));
        clock.has_read(60);
        assert!(!clock.has_heard_all(1_000));
        clock.has_read(60);
        assert!(clock.has_heard_all(1_000));
        let mut clock = silent().await;
        assert!(clock.has_heard_all(0), "there are no unread bytes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_under_way_when_its_time_is_over_may_end_but_not_wait_for_ever() {
        let mut clock = Clock::start(WireFormat::POMELO, &LIMITS);
        clock.ready();
        advance(Duration::from_secs(40)).await;
        clock.heard_heartbeat();
        advance(Duration::from_secs(20)).await;
        assert!(clock.due(true).is_none());
        advance(LOGIN_UNDER_WAY).await;
        assert!(matches!(
            clock.due(true),
            Some(Due::Close(Disconnect::Idle))
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_io_client_has_its_own_interval_and_timeout_k8() {
        let old = WireFormat::socket_io(EngineIo::V3);
        let mut clock = Clock::start(old, &LIMITS);
        clock.ready();
        clock.logged_in(true);
        let dropped = Some(Disconnect::HeartbeatTimeout);
        assert_eq!(rings(&mut clock).await, (85, dropped));

        let new = WireFormat::socket_io(EngineIo::V4);
        let mut clock = Clock::start(new, &LIMITS);
        clock.ready();
        clock.logged_in(true);
        for _ in 0..3 {
            assert_eq!(rings(&mut clock).await, (25, None));
        }
        assert_eq!(rings(&mut clock).await, (10, dropped));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_events_is_sent_heartbeats_and_need_not_say_anything() {
        let mut clock = Clock::start(WireFormat::SSE, &LIMITS);
        clock.ready();
        clock.logged_in(true);
        for _ in 0..1_000 {
            assert_eq!(rings(&mut clock).await, (25, None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_json_client_is_pinged_and_every_message_counts() {
        let mut clock = Clock::start(WireFormat::JSON, &LIMITS);
        clock.ready();
        clock.logged_in(true);
        assert_eq!(rings(&mut clock).await, (25, None));
        clock.heard_message();
        assert_eq!(rings(&mut clock).await, (25, None));
        assert_eq!(
            rings(&mut clock).await,
            (25, Some(Disconnect::HeartbeatTimeout))
        );
    }
}
