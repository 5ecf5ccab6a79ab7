//! The life of one client socket, from the upgrade to its last byte.
//!
//! Inputs of its loop: messages from the client, the connection's closing (by whoever), and time. What messages ask for is
//! carried out one after the other before more is read, which is how a slow chat pushes back on the socket.

use crate::codec::{self, Codec, EngineIo, Input, Protocol, WireFormat};
use crate::connection::Connection;
use crate::disconnect::Disconnect;
use crate::inlet::{Inlet, Read};
use crate::session::{Client, Services};
use crate::websocket::{self, Event, Opcode};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// How long a client may take to answer a close before its socket goes.
const LINGER: Duration = Duration::from_secs(1);

/// The times and sizes that bound a client.
#[derive(Debug, Clone)]
pub(crate) struct ClientLimits {
    /// Between heartbeats; a client silent for twice that is dropped (K5).
    pub heartbeat: Duration,
    /// The same for clients of Socket.IO.
    pub socket_io: Heartbeats,
    /// From the connection to the end of the handshake.
    pub handshake: Duration,
    /// From the connection to the login.
    pub idle: Duration,
    /// Bytes of one message.
    pub message: usize,
}

/// Heartbeats of Socket.IO's clients.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeats {
    /// Between two.
    pub interval: Duration,
    /// How long one may be overdue.
    pub timeout: Duration,
}

/// What one read of the socket asks for.
#[derive(Default)]
struct Work {
    inputs: Vec<Input>,
    /// After all of them.
    end: Option<Disconnect>,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.end.is_none()
    }
}

/// A client socket that is served.
pub(crate) struct Socket {
    connection: Arc<Connection>,
    inlet: Inlet,
    codec: Codec,
    client: Client,
    clock: Clock,
}

impl Socket {
    /// Its times count from now. It lives on the heap, as a task carries what it is given twice.
    pub(crate) fn new(
        connection: Arc<Connection>,
        inlet: Inlet,
        limits: &ClientLimits,
        services: Arc<Services>,
    ) -> Box<Self> {
        Box::new(Self {
            codec: Codec::new(connection.format(), limits.heartbeat),
            client: Client::new(services, Arc::clone(&connection)),
            clock: Clock::start(connection.format(), limits),
            connection,
            inlet,
        })
    }

    /// Serves it until it is over; what the session has to undo is under way then. `first` was read already.
    pub(crate) async fn serve(mut self: Box<Self>, first: Vec<u8>) {
        // Boxed for the same reason as the commands below: an idle connection carries none of this along.
        Box::pin(self.begin(first)).await;
        let reason = self.run().await;
        tracing::debug!(%reason, "connection over");
        Box::pin(self.end()).await;
    }

    async fn begin(&mut self, mut first: Vec<u8>) {
        let mut work = Work::default();
        self.codec.open(&mut work.inputs);
        self.hear(&mut work, |inlet, heard| {
            let fed = inlet.feed(&mut first, |event| heard.event(event));
            heard.end = heard.end.or(fed.err());
        });
        self.carry_out(work).await;
    }

    async fn end(self: Box<Self>) {
        let Self {
            connection,
            mut inlet,
            client,
            ..
        } = *self;
        client.close().await;
        // Nobody waits for a peer that doesn't answer the close.
        let answered = async {
            inlet.drain().await;
            connection.fetched().await;
        };
        let _ = timeout(LINGER, answered).await;
        connection.abort();
    }

    async fn run(&mut self) -> Disconnect {
        let connection = Arc::clone(&self.connection);
        let mut alarm = pin!(sleep_until(self.clock.next()));
        loop {
            let mut work = Work::default();
            tokio::select! {
                biased;
                reason = connection.closed() => return reason,
                read = poll_fn(|context| self.poll_read(context, &mut work)) => {
                    if !matches!(read, Ok(true)) {
                        connection.abort();
                    }
                    let alarms = self.clock.alarms;
                    if !work.is_empty() {
                        // Its future is large: an idle connection shall not carry it along.
                        Box::pin(self.carry_out(work)).await;
                    }
                    if self.clock.alarms != alarms {
                        alarm.as_mut().reset(self.clock.next());
                    }
                }
                () = &mut alarm => {}
            }
            // Looked at after every read, too: who talks without pause, and never beats, is silent all the same (K5).
            if alarm.deadline() <= Instant::now() {
                self.ring();
                alarm.as_mut().reset(self.clock.next());
            }
        }
    }

    /// Ready(false): the client has closed its side without a farewell.
    fn poll_read(&mut self, context: &mut Context<'_>, work: &mut Work) -> Poll<io::Result<bool>> {
        self.hear(work, |inlet, heard| {
            let read = ready!(inlet.poll_read(context, |event| heard.event(event)))?;
            Poll::Ready(Ok(match read {
                Read::End => false,
                Read::Some(fed) => {
                    heard.end = heard.end.or(fed.err());
                    true
                }
            }))
        })
    }

    /// What needs no waiting is done at once.
    fn hear<T>(
        &mut self,
        work: &mut Work,
        read: impl FnOnce(&mut Inlet, &mut Heard<'_>) -> T,
    ) -> T {
        let mut heard = Heard {
            codec: &mut self.codec,
            clock: &mut self.clock,
            inputs: &mut work.inputs,
            out: Vec::new(),
            end: None,
        };
        let result = read(&mut self.inlet, &mut heard);
        let Heard { out, end, .. } = heard;
        if !out.is_empty() {
            self.connection.send(&out, &mut None);
        }
        work.end = end;
        result
    }

    async fn carry_out(&mut self, work: Work) {
        // All of it was decoded just now. What waits here for its turn is answered in time all the same.
        let received = Instant::now();
        for input in work.inputs {
            match input {
                Input::Ready => self.clock.ready(),
                Input::Heartbeat => self.clock.heard_heartbeat(),
                Input::Request(request) => {
                    self.client.handle(request, received).await;
                    self.clock.logged_in(self.client.is_logged_in());
                }
            }
        }
        if let Some(reason) = work.end {
            self.connection.close(reason);
        }
    }

    fn ring(&mut self) {
        match self.clock.due() {
            Some(Due::Close(reason)) => self.connection.close(reason),
            Some(Due::Ping) => {
                let mut frame = Vec::new();
                codec::heartbeat(self.connection.format(), &mut frame);
                self.connection.send(&frame, &mut None);
            }
            None => {}
        }
    }
}

/// What one read brings.
struct Heard<'a> {
    codec: &'a mut Codec,
    clock: &'a mut Clock,
    inputs: &'a mut Vec<Input>,
    /// What is answered at once.
    out: Vec<u8>,
    end: Option<Disconnect>,
}

impl Heard<'_> {
    fn event(&mut self, event: Event<'_>) {
        if self.end.is_some() {
            return;
        }
        match event {
            Event::Message(message) => {
                self.clock.heard_message();
                let decoded = self.codec.decode(message, self.inputs, &mut self.out);
                self.end = decoded.err();
            }
            Event::Ping(payload) => websocket::frame(&mut self.out, Opcode::Pong, payload),
            Event::Pong => self.clock.heard_message(),
            Event::Close(_) => self.end = Some(Disconnect::Client),
        }
    }
}

enum Due {
    Close(Disconnect),
    Ping,
}

/// What a client's silence leads to, and when.
struct Clock {
    /// The handshake, until it is done.
    handshake: Option<Instant>,
    /// The login, until it is done.
    login: Option<Instant>,
    /// The last sign of life that counts, once heartbeats have begun.
    heard: Option<Instant>,
    /// The next ping of ours, where it is for us to send one.
    ping: Option<Instant>,
    heartbeat: Duration,
    /// How long a client may be silent.
    patience: Duration,
    pings: bool,
    /// Pomelo counts its heartbeat packages alone (K5); elsewhere every message and pong counts.
    counts_messages: bool,
    /// Changes whenever the next alarm may have become an earlier one.
    alarms: u8,
}

impl Clock {
    fn start(format: WireFormat, limits: &ClientLimits) -> Self {
        let now = Instant::now();
        let Heartbeats { interval, timeout } = limits.socket_io;
        let (heartbeat, patience, pings) = match format.protocol() {
            Protocol::Pomelo => (limits.heartbeat, 2 * limits.heartbeat, false),
            Protocol::Json => (limits.heartbeat, 2 * limits.heartbeat, true),
            Protocol::SocketIo(version) => (interval, interval + timeout, version == EngineIo::V4),
        };
        Self {
            handshake: Some(now + limits.handshake),
            login: Some(now + limits.idle),
            heard: None,
            ping: None,
            heartbeat,
            patience,
            pings,
            counts_messages: format.protocol() != Protocol::Pomelo,
            alarms: 0,
        }
    }

    fn ready(&mut self) {
        let now = Instant::now();
        self.handshake = None;
        self.heard = Some(now);
        self.ping = self.pings.then_some(now + self.heartbeat);
        self.alarms = self.alarms.wrapping_add(1);
    }

    fn logged_in(&mut self, logged_in: bool) {
        if logged_in {
            self.login = None;
        }
    }

    fn heard_heartbeat(&mut self) {
        if self.heard.is_some() {
            self.heard = Some(Instant::now());
        }
    }

    fn heard_message(&mut self) {
        if self.counts_messages {
            self.heard_heartbeat();
        }
    }

    /// No later than anything may be due. Signs of life don't move an alarm: when it rings, there is another look.
    fn next(&self) -> Instant {
        let silence = self.heard.map(|heard| heard + self.patience);
        [self.handshake, self.login, silence, self.ping]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| Instant::now() + self.heartbeat)
    }

    fn due(&mut self) -> Option<Due> {
        let now = Instant::now();
        let is_over = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        if is_over(self.heard.map(|heard| heard + self.patience)) {
            return Some(Due::Close(Disconnect::HeartbeatTimeout));
        }
        if is_over(self.handshake) {
            return Some(Due::Close(Disconnect::HandshakeTimeout));
        }
        if is_over(self.login) {
            return Some(Due::Close(Disconnect::Idle));
        }
        if is_over(self.ping) {
            self.ping = Some(now + self.heartbeat);
            return Some(Due::Ping);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn size_of_future<T, F: Future>(_: fn(T) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_carries_little_along() {
        assert!(size_of::<Socket>() <= 320);
        let serving = size_of_future(|socket: Box<Socket>| socket.serve(Vec::new()));
        assert!(serving <= 480, "{serving}");
    }

    const LIMITS: ClientLimits = ClientLimits {
        heartbeat: Duration::from_secs(25),
        socket_io: Heartbeats {
            interval: Duration::from_secs(25),
            timeout: Duration::from_secs(60),
        },
        handshake: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        message: 1024,
    };

    /// What the clock leads to, and after how many seconds.
    async fn rings(clock: &mut Clock) -> (u64, Option<Disconnect>) {
        let started = Instant::now();
        loop {
            sleep_until(clock.next()).await;
            match clock.due() {
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
    async fn a_pomelo_client_silent_for_two_intervals_is_dropped_also_when_it_sends_data_k5() {
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
