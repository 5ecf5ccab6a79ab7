//! The life of one client socket, from the upgrade to its last byte.
//!
//! Inputs of its loop: messages from the client, the connection's closing (by whoever), and time. What messages ask for is
//! carried out one after the other. While that goes on nothing more is read, which is how a slow chat pushes back on the
//! socket; but a request that takes long does not make the connector deaf: after [`PUSH_BACK`] it reads on, into a bounded
//! backlog. Closing, heartbeats and time-outs are looked after all the while.

use crate::connection::Connection;
use crate::inlet::{Inlet, Read};
use crate::limits::Bound;
use crate::session::{Client, Services};
use crate::stream::Pass;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use wire::websocket::{self, Event, Opcode};
use wire::{Codec, Disconnect, EngineIo, Input, Protocol, WireFormat};

/// How long a client may take to answer a close before its socket goes.
const LINGER: Duration = Duration::from_secs(1);
/// How long a request may take before the socket is read again.
const PUSH_BACK: Duration = Duration::from_millis(500);
/// Bytes of requests that wait for one under way; from there on the socket is not read.
const BACKLOG: usize = 64 << 10;
/// A login that is under way when its time is over may still end.
const LOGIN_UNDER_WAY: Duration = Duration::from_secs(2);
/// Between two looks whether everything was read that had arrived when a client's time was over.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a farewell waits for the answers to what was carried out: a request is answered within two seconds.
const ANSWERS: Duration = Duration::from_millis(2_500);

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

/// Requests of one read, and what is to become of the connection after them.
#[derive(Default)]
struct Batch {
    inputs: Vec<Input>,
    /// Bytes of the messages that they came in.
    bytes: usize,
    /// When they were read.
    received: Option<Instant>,
    end: Option<End>,
}

/// How a client's side of a connection ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// For this reason, which the client is told.
    Because(Disconnect),
    /// The client has closed its side without a farewell.
    Gone,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.end.is_none()
    }
}

/// What was read while a request was under way, in order.
#[derive(Default)]
struct Backlog {
    batches: VecDeque<Batch>,
    /// Bytes of all of it, and of the batch that is being carried out.
    bytes: usize,
    /// Nothing more is read: the last batch says why.
    ended: bool,
}

impl Backlog {
    fn has_room(&self) -> bool {
        !self.ended && self.bytes < BACKLOG
    }

    fn push(&mut self, batch: Batch) {
        self.ended |= batch.end.is_some();
        self.bytes += batch.bytes;
        if !batch.is_empty() {
            self.batches.push_back(batch);
        }
    }
}

/// A client socket that is served.
pub(crate) struct Socket {
    client: Client,
    wire: Wire,
}

/// The socket without the session: what goes on while a request of the session is under way.
struct Wire {
    connection: Arc<Connection>,
    inlet: Inlet,
    codec: Codec,
    clock: Clock,
    /// Bytes of unfinished messages and of the backlog that are counted for the process.
    charged: usize,
    /// Until the handshake is over.
    half_open: Option<Arc<Pass>>,
}

impl Socket {
    /// Its times count from now. It lives on the heap, as a task carries what it is given twice.
    pub(crate) fn new(
        connection: Arc<Connection>,
        inlet: Inlet,
        limits: &ClientLimits,
        services: Arc<Services>,
        half_open: Option<Arc<Pass>>,
    ) -> Box<Self> {
        Box::new(Self {
            client: Client::new(services, Arc::clone(&connection)),
            wire: Wire {
                codec: Codec::new(connection.format(), limits.heartbeat).with_limit(limits.message),
                clock: Clock::start(connection.format(), limits),
                connection,
                inlet,
                charged: 0,
                half_open,
            },
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
        // A client that polls is there when it has polled once more: many could be begun in one write otherwise.
        self.wire.clock.is_new = self.wire.inlet.is_polled();
        if self.wire.clock.is_new {
            return;
        }
        let mut batch = Batch::default();
        self.wire.codec.open(&mut batch.inputs);
        self.wire.hear(&mut batch, |inlet, heard| {
            let fed = inlet.feed(&mut first, |event| heard.event(event));
            heard.end = heard.end.or(fed.err().map(Disconnect::from));
        });
        self.carry_out(batch).await;
    }

    async fn end(self: Box<Self>) {
        let Self { client, mut wire } = *self;
        let connection = Arc::clone(&wire.connection);
        let _ = timeout(ANSWERS, client.answered()).await;
        connection.conclude();
        client.close().await;
        // Nobody waits for a peer that doesn't answer the close.
        let answered = async {
            wire.inlet.drain().await;
            connection.flushed().await;
            connection.fetched().await;
        };
        let _ = timeout(LINGER, answered).await;
        connection.abort();
    }

    async fn run(&mut self) -> Disconnect {
        let connection = Arc::clone(&self.wire.connection);
        let mut alarm = pin!(sleep_until(self.wire.clock.next()));
        loop {
            let alarms = self.wire.clock.alarms;
            let mut batch = Batch::default();
            tokio::select! {
                biased;
                reason = connection.closed() => return reason,
                () = poll_fn(|context| self.wire.poll_read(context, &mut batch)) => {
                    if !batch.is_empty() {
                        // Its future is large: an idle connection shall not carry it along.
                        Box::pin(self.carry_out(batch)).await;
                    }
                    if self.wire.clock.alarms != alarms {
                        alarm.as_mut().reset(self.wire.clock.next());
                    }
                }
                () = &mut alarm => {}
            }
            // Looked at after every read, too: who talks without pause, and never beats, is silent all the same (K5).
            if alarm.deadline() <= Instant::now() {
                self.wire.ring(None);
                alarm.as_mut().reset(self.wire.clock.next());
            }
        }
    }

    /// Carries out requests one after the other, and those that arrive meanwhile.
    async fn carry_out(&mut self, batch: Batch) {
        let Self { client, wire } = self;
        let mut backlog = Backlog {
            bytes: batch.bytes,
            ended: batch.end.is_some(),
            ..Backlog::default()
        };
        let mut next = Some(batch);
        while let Some(batch) = next {
            let received = batch.received.unwrap_or_else(Instant::now);
            for input in batch.inputs {
                let Input::Request(request) = input else {
                    continue;
                };
                {
                    let mut handling = pin!(client.handle(request, received));
                    let is_over = |context: &mut Context<'_>| {
                        Poll::Ready(handling.as_mut().poll(context).is_ready())
                    };
                    // Most are over at once.
                    if !poll_fn(is_over).await {
                        Box::pin(wire.meanwhile(handling, &mut backlog)).await;
                    }
                }
                wire.clock.logged_in(client.is_logged_in());
            }
            backlog.bytes -= batch.bytes;
            match batch.end {
                Some(End::Because(reason)) => wire.connection.close(reason),
                Some(End::Gone) => wire.connection.close_plainly(),
                None => {}
            }
            next = backlog.batches.pop_front();
        }
        if wire.charged > 0 {
            wire.charge(0);
        }
    }
}

impl Wire {
    /// Goes on with everything else while a request is under way: the connection's end, silence and pings. If the request
    /// takes long, what the client sends meanwhile is read, too, up to a bound, so that its signs of life are heard.
    async fn meanwhile(
        &mut self,
        mut handling: Pin<&mut impl Future<Output = ()>>,
        backlog: &mut Backlog,
    ) {
        let connection = Arc::clone(&self.connection);
        let read_from = Instant::now() + PUSH_BACK;
        let mut alarm = pin!(sleep_until(self.clock.next().min(read_from)));
        self.charge(backlog.bytes);
        loop {
            let alarms = self.clock.alarms;
            let is_time_to_read = Instant::now() >= read_from;
            let is_reading = is_time_to_read && backlog.has_room();
            let mut batch = Batch::default();
            tokio::select! {
                biased;
                () = &mut handling => return,
                // What is under way has an end of its own, and takes effect or not as a whole.
                _ = connection.closed() => return handling.await,
                () = poll_fn(|context| self.poll_read(context, &mut batch)), if is_reading => {
                    backlog.push(batch);
                    self.charge(backlog.bytes);
                }
                () = &mut alarm => {}
            }
            let now = Instant::now();
            let is_over = alarm.deadline() <= now;
            if is_over {
                let is_stuck = is_time_to_read && !backlog.has_room() && connection.is_behind();
                self.ring(Some(is_stuck));
            }
            if is_over || self.clock.alarms != alarms {
                let next = self.clock.next();
                alarm.as_mut().reset(if now < read_from {
                    next.min(read_from)
                } else {
                    next
                });
            }
        }
    }

    /// Reads what is there.
    fn poll_read(&mut self, context: &mut Context<'_>, batch: &mut Batch) -> Poll<()> {
        let read = ready!(self.hear(batch, |inlet, heard| {
            let read = ready!(inlet.poll_read(context, |event| heard.event(event)))?;
            if let Read::Some { fed, .. } = &read {
                heard.end = heard.end.or(fed.err().map(Disconnect::from));
            }
            Poll::Ready(io::Result::Ok(read))
        }));
        match read {
            Ok(Read::Some { taken, .. }) => {
                self.clock.has_read(taken);
                if std::mem::take(&mut self.clock.is_new) {
                    let mut inputs = Vec::new();
                    self.codec.open(&mut inputs);
                    if !inputs.is_empty() {
                        self.clock.ready();
                    }
                }
                if self.charged > 0 || self.inlet.held() > 0 {
                    self.charge(batch.bytes);
                }
            }
            Ok(Read::End) => batch.end = Some(End::Gone),
            Err(_) => self.connection.abort(),
        }
        Poll::Ready(())
    }

    /// What needs no waiting is done at once, and signs of life count from now on.
    fn hear<T>(
        &mut self,
        batch: &mut Batch,
        read: impl FnOnce(&mut Inlet, &mut Heard<'_>) -> T,
    ) -> T {
        let mut heard = Heard {
            codec: &mut self.codec,
            clock: &mut self.clock,
            inputs: &mut batch.inputs,
            bytes: 0,
            out: Vec::new(),
            end: None,
        };
        let result = read(&mut self.inlet, &mut heard);
        let Heard {
            out, end, bytes, ..
        } = heard;
        if !out.is_empty() {
            self.connection.send(&out, &mut None);
        }
        batch.bytes = bytes;
        batch.end = end.map(End::Because);
        let mut has_requests = false;
        for input in &batch.inputs {
            match input {
                Input::Ready => {
                    self.clock.ready();
                    if let Some(pass) = self.half_open.take() {
                        pass.opened();
                    }
                }
                Input::Heartbeat => self.clock.heard_heartbeat(),
                Input::Request(_) => has_requests = true,
            }
        }
        batch.received = has_requests.then(Instant::now);
        result
    }

    /// Counts what this client makes the process hold: unfinished messages and so many bytes of requests. A client
    /// for whom there is no room is cut off.
    fn charge(&mut self, backlog: usize) {
        let held = self.inlet.held() + backlog;
        let limits = self.connection.limits();
        if !limits.recount(&mut self.charged, held) {
            Bound::Memory.reached();
            self.connection.close(Disconnect::Overloaded);
        }
    }

    /// Does what is due. `busy`: a request is under way, and whether it waits for the client itself, which does not read.
    fn ring(&mut self, busy: Option<bool>) {
        match self.clock.due(busy.is_some()) {
            // What lies unread may hold a sign of life that came in time: it is no fault of the client that nobody has
            // come to read it, unless it is the client that is waited for.
            Some(Due::Close(reason)) => {
                let arrived = self.inlet.arrived();
                if self.clock.has_heard_all(arrived) || busy == Some(true) {
                    self.connection.close(reason);
                }
            }
            Some(Due::Ping) => {
                let mut frame = Vec::new();
                wire::heartbeat(self.connection.format(), &mut frame);
                self.connection.send(&frame, &mut None);
            }
            None => {}
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.connection.limits().recount(&mut self.charged, 0);
    }
}

/// What one read brings.
struct Heard<'a> {
    codec: &'a mut Codec,
    clock: &'a mut Clock,
    inputs: &'a mut Vec<Input>,
    bytes: usize,
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
                self.bytes += message.len();
                let decoded = self.codec.decode(message, self.inputs, &mut self.out);
                self.end = decoded.err().map(Disconnect::from);
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
    /// Milliseconds between pings.
    heartbeat: u32,
    /// Milliseconds that a client may be silent.
    patience: u32,
    pings: bool,
    /// Pomelo counts its heartbeat packages alone (K5); elsewhere every message and pong counts.
    counts_messages: bool,
    /// Changes whenever the next alarm may have become an earlier one.
    alarms: u8,
    /// A login was under way when its time was over.
    is_login_late: bool,
    /// Nothing has come of a client that polls.
    is_new: bool,
    /// Bytes that had arrived, and were not read yet, when the client's time was over: it is judged when they are.
    unread: Option<u32>,
}

/// As many as fit: 49 days.
fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

impl Clock {
    fn start(format: WireFormat, limits: &ClientLimits) -> Self {
        let now = Instant::now();
        let Heartbeats { interval, timeout } = limits.socket_io;
        let twice = limits.heartbeat.saturating_mul(2);
        let (heartbeat, patience, pings) = match format.protocol() {
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
            patience: milliseconds(patience),
            pings,
            counts_messages: format.protocol() != Protocol::Pomelo,
            alarms: 0,
            is_login_late: false,
            is_new: false,
            unread: None,
        }
    }

    fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat.into())
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.patience.into())
    }

    fn ready(&mut self) {
        let now = Instant::now();
        self.handshake = None;
        self.unread = None;
        self.heard = Some(now);
        self.ping = self.pings.then_some(now + self.heartbeat());
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
            self.unread = None;
        }
    }

    /// So much of what had arrived was read.
    fn has_read(&mut self, bytes: usize) {
        if let Some(unread) = &mut self.unread {
            *unread = unread.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// True if everything was read that had arrived when the time was over. `arrived`: what is unread now.
    fn has_heard_all(&mut self, arrived: usize) -> bool {
        let arrived = u32::try_from(arrived).unwrap_or(u32::MAX);
        let unread = self.unread.get_or_insert(arrived);
        *unread = arrived.min(*unread);
        *unread == 0
    }

    fn heard_message(&mut self) {
        if self.counts_messages {
            self.heard_heartbeat();
        }
    }

    /// No later than anything may be due. Signs of life don't move an alarm: when it rings, there is another look.
    fn next(&self) -> Instant {
        if self.unread.is_some() {
            return Instant::now() + LOOK_AGAIN;
        }
        let silence = self.heard.map(|heard| heard + self.patience());
        [self.handshake, self.login, silence, self.ping]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| Instant::now() + self.heartbeat())
    }

    /// `busy`: a request is under way, which may be the login.
    fn due(&mut self, busy: bool) -> Option<Due> {
        let now = Instant::now();
        let is_over = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        if is_over(self.heard.map(|heard| heard + self.patience())) {
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
    use crate::limits::QueueLimits;
    use crate::testing::{LIMITS, soon};
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::advance;

    fn size_of_future<T, F: Future>(_: fn(T) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_carries_little_along() {
        let socket = size_of::<Socket>();
        assert!(socket <= 328, "{socket}");
        let serving = size_of_future(|socket: Box<Socket>| socket.serve(Vec::new()));
        assert!(serving <= 480, "{serving}");
    }

    /// What the clock leads to, and after how many seconds.
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

    /// A connection of Pomelo's packages, and the client's end of it, which has sent its handshake.
    async fn wire() -> (Wire, TcpStream) {
        wire_within(QueueLimits::new(1 << 20, 64 << 20)).await
    }

    /// The same within these limits.
    async fn wire_within(limits: Arc<QueueLimits>) -> (Wire, TcpStream) {
        let format = WireFormat::POMELO.on_a_stream();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (reader, writer) = accepted.unwrap().0.into_split();
        let wire = Wire {
            connection: Connection::new(writer, format, limits),
            inlet: Inlet::of_socket(reader, format, LIMITS.message),
            codec: Codec::new(format, LIMITS.heartbeat),
            clock: Clock::start(format, &LIMITS),
            charged: 0,
            half_open: None,
        };
        let mut client = client.unwrap();
        let hello = br#"{"sys":{"type":"test","version":"1"},"user":{}}"#;
        let length = u8::try_from(hello.len()).unwrap();
        client.write_all(&[1, 0, 0, length]).await.unwrap();
        client.write_all(hello).await.unwrap();
        client.write_all(&[2, 0, 0, 0]).await.unwrap();
        (wire, client)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_heard_while_its_request_is_under_way() {
        let (mut wire, mut client) = wire().await;
        wire.clock.logged_in(true);
        let request = async {
            for _ in 0..10 {
                client.write_all(&[3, 0, 0, 0]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
        };
        wire.meanwhile(pin!(request), &mut Backlog::default()).await;
        assert_eq!(wire.connection.closing(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_dropped_while_its_request_is_under_way() {
        let (mut wire, _client) = wire().await;
        wire.clock.logged_in(true);
        let connection = Arc::clone(&wire.connection);
        let begun = Instant::now();
        let (unanswered, mut backlog) = (pin!(std::future::pending()), Backlog::default());
        let reason = tokio::select! {
            () = wire.meanwhile(unanswered, &mut backlog) => None,
            reason = connection.closed() => Some(reason),
        };
        assert_eq!(reason, Some(Disconnect::HeartbeatTimeout));
        assert_eq!(begun.elapsed().as_secs(), 50);
    }

    /// Reads until part of a package is there.
    async fn until_unfinished(wire: &mut Wire) {
        while wire.inlet.held() == 0 {
            let mut batch = Batch::default();
            soon(poll_fn(|context| wire.poll_read(context, &mut batch))).await;
        }
    }

    #[tokio::test]
    async fn unfinished_packages_count_for_the_process_and_end_whom_there_is_no_room_for() {
        // Half of it is for what comes in: enough for one of the two, and for its answers.
        let limits = QueueLimits::new(1 << 10, 2_400);
        let half = [&[4, 0, 3, 0xe8][..], &[b'x'; 700]].concat();
        let (mut one, mut client) = wire_within(Arc::clone(&limits)).await;
        client.write_all(&half).await.unwrap();
        until_unfinished(&mut one).await;
        assert!(limits.queued() >= half.len(), "{}", limits.queued());
        assert_eq!(one.connection.closing(), None);

        let (mut two, mut client) = wire_within(Arc::clone(&limits)).await;
        client.write_all(&half).await.unwrap();
        until_unfinished(&mut two).await;
        assert_eq!(two.connection.closing(), Some(Disconnect::Overloaded));
        assert_eq!(one.connection.closing(), None);
        let before = limits.queued();
        drop(two);
        let given_back = before - limits.queued();
        assert!(given_back >= half.len(), "{given_back}");
    }

    /// Pomelo's client, logged in, whose time is over now.
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
    async fn who_talks_without_pause_and_never_beats_is_judged_by_what_had_arrived_in_time_k5() {
        let mut clock = silent().await;
        assert!(!clock.has_heard_all(100));
        clock.has_read(60);
        assert!(!clock.has_heard_all(1_000));
        clock.has_read(60);
        assert!(clock.has_heard_all(1_000));
        let mut clock = silent().await;
        assert!(clock.has_heard_all(0), "nothing lies unread");
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
