//! The loop of one client, from the upgrade of its socket to the last byte.
//!
//! The loop handles messages from the client, the closing of the connection by either side, and time. Requests are
//! carried out one after the other. While one is under way, nothing more is read at first: if chat is slow, the unread
//! socket pushes back on the client. But after [`PUSH_BACK`] the loop reads on, into a bounded backlog, so that it
//! hears heartbeats and a close. The end of the connection, pings and time-outs are handled all the while.

use super::backlog::{Backlog, Batch, End};
use super::clock::{Clock, Due};
use crate::limits::{Bound, ClientLimits, SessionRates};
use crate::session::{Handlers, Services};
use crate::transport::Connection;
use crate::transport::inlet::{Inlet, Read};
use crate::transport::pass::Pass;
use std::future::poll_fn;
use std::io;
use std::mem::take;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use wire::websocket::{self, Event, Opcode};
use wire::{Codec, Disconnect, Input};

/// How long a client may take to answer a close before its socket is ended.
const LINGER: Duration = Duration::from_secs(1);
/// How long a request may take before the socket is read again.
const PUSH_BACK: Duration = Duration::from_millis(500);
/// How long the farewell waits for the answers to requests. Each request is answered within two seconds.
const ANSWERS: Duration = Duration::from_millis(2_500);

/// A client that is served: its session's handlers and its socket.
pub(crate) struct ClientLoop {
    handlers: Handlers,
    socket: SocketSide,
}

/// The socket without the session. It is served while a request of the session is under way.
struct SocketSide {
    connection: Arc<Connection>,
    inlet: Inlet,
    codec: Codec,
    clock: Clock,
    /// The bytes of unfinished messages and of the backlog that are counted for the process.
    charged: usize,
    /// Counts the socket as half open. `None` once the handshake is over.
    half_open: Option<Arc<Pass>>,
}

impl ClientLoop {
    /// The client's times count from now. Boxed, because a spawned future stores its arguments twice.
    pub(crate) fn new(
        connection: Arc<Connection>,
        inlet: Inlet,
        limits: &ClientLimits,
        rates: SessionRates,
        services: Arc<Services>,
        half_open: Option<Arc<Pass>>,
    ) -> Box<Self> {
        Box::new(Self {
            handlers: Handlers::new(services, Arc::clone(&connection)).paced(rates),
            socket: SocketSide {
                codec: Codec::new(connection.format(), limits.heartbeat).with_limit(limits.message),
                clock: Clock::start(connection.format(), limits),
                connection,
                inlet,
                charged: 0,
                half_open,
            },
        })
    }

    /// Serves the client until its connection is over. When this returns, the leaves of its session are under way.
    /// `first` was read from the socket before.
    pub(crate) fn serve(
        mut self: Box<Self>,
        first: Vec<u8>,
    ) -> impl Future<Output = ()> + Send + 'static {
        // Boxed like the requests below, so that the task of an idle connection stays small. It is made here, because a future
        // keeps room for its arguments as long as it lives.
        let begun = Box::pin(async move {
            self.begin(first).await;
            self
        });
        async move {
            let mut this = begun.await;
            let reason = this.run().await;
            let session = this.socket.connection.session();
            tracing::debug!(session, %reason, "connection over");
            Box::pin(this.end()).await;
        }
    }

    async fn begin(&mut self, mut first: Vec<u8>) {
        // A polling client counts as opened when its second request comes. Otherwise one write with many first requests
        // could open many clients.
        self.socket.clock.only_opened = self.socket.inlet.is_polled();
        if self.socket.clock.only_opened {
            return;
        }
        let mut batch = Batch::default();
        self.socket.codec.open(&mut batch.inputs);
        self.socket.hear(&mut batch, |inlet, heard| {
            let fed = inlet.feed(&mut first, |event| heard.event(event));
            heard.end = heard.end.or(fed.err().map(Disconnect::from));
        });
        self.carry_out(batch).await;
    }

    async fn end(self: Box<Self>) {
        let Self {
            handlers,
            mut socket,
        } = *self;
        let connection = Arc::clone(&socket.connection);
        let _ = timeout(ANSWERS, handlers.answered()).await;
        connection.conclude();
        handlers.close().await;
        // Do not wait for ever for a client that does not answer the close.
        let answered = async {
            socket.inlet.drain().await;
            connection.flushed().await;
            connection.fetched().await;
        };
        let _ = timeout(LINGER, answered).await;
        connection.abort();
    }

    async fn run(&mut self) -> Disconnect {
        let connection = Arc::clone(&self.socket.connection);
        let mut alarm = pin!(sleep_until(self.socket.clock.next()));
        loop {
            let alarm_version = self.socket.clock.alarm_version;
            tokio::select! {
                biased;
                reason = connection.closed_or(|| self.handlers.is_commanded()) => match reason {
                    Some(reason) => return reason,
                    // A batch without requests: only what back ends want is carried out.
                    None => Box::pin(self.carry_out(Batch::default())).await,
                },
                batch = poll_fn(|context| self.socket.poll_read(context)) => {
                    if batch.is_empty() {
                        self.handlers.heard(batch.beside, Instant::now());
                    } else {
                        // Boxed, because this future is large and the task of an idle connection must stay small.
                        Box::pin(self.carry_out(batch)).await;
                    }
                }
                () = &mut alarm => {}
            }
            if self.socket.clock.alarm_version != alarm_version {
                alarm.as_mut().reset(self.socket.clock.next());
            }
            // Checked after every read, too: a client that sends without a pause, but never a heartbeat, has to be
            // dropped (K5).
            if alarm.deadline() <= Instant::now() {
                self.socket.ring(None);
                alarm.as_mut().reset(self.socket.clock.next());
            }
        }
    }

    /// Carries out requests one after the other, and then those that were read meanwhile. What back ends want of the session
    /// has its turn before them and after each.
    async fn carry_out(&mut self, batch: Batch) {
        let Self { handlers, socket } = self;
        let mut backlog = Backlog {
            bytes: batch.bytes,
            beside: batch.beside,
            ended: batch.end.is_some(),
            ..Backlog::default()
        };
        let mut next = Some(batch);
        if handlers.is_commanded() {
            Box::pin(obey(handlers, socket, &mut backlog)).await;
        }
        while let Some(batch) = next {
            let received = batch.received.unwrap_or_else(Instant::now);
            handlers.heard(take(&mut backlog.beside), received);
            for input in batch.inputs {
                let Input::Request(request) = input else {
                    continue;
                };
                {
                    let mut handling = pin!(handlers.handle(request, received));
                    let is_over = |context: &mut Context<'_>| {
                        Poll::Ready(handling.as_mut().poll(context).is_ready())
                    };
                    // Most requests are done at once.
                    if !poll_fn(is_over).await {
                        Box::pin(socket.meanwhile(handling, &mut backlog)).await;
                    }
                }
                socket.clock.logged_in(handlers.is_logged_in());
                if handlers.is_commanded() {
                    Box::pin(obey(handlers, socket, &mut backlog)).await;
                }
            }
            backlog.bytes -= batch.bytes;
            match batch.end {
                Some(End::Because(reason)) => socket.connection.close(reason),
                Some(End::Gone) => socket.connection.close_plainly(),
                None => {}
            }
            next = backlog.batches.pop_front();
        }
        handlers.heard(backlog.beside, Instant::now());
        if socket.charged > 0 {
            socket.charge(0);
        }
    }
}

/// Carries out what back ends want of the session.
async fn obey(handlers: &mut Handlers, socket: &mut SocketSide, backlog: &mut Backlog) {
    while let Some(command) = handlers.next_command() {
        let obeying = pin!(handlers.obey(command));
        socket.meanwhile(obeying, backlog).await;
    }
}

impl SocketSide {
    /// Handles everything else while a request is under way: the end of the connection, silence and pings. If the
    /// request takes long, what the client sends is read, too, up to a bound, so that its signs of life are heard.
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
            let alarm_version = self.clock.alarm_version;
            let is_time_to_read = Instant::now() >= read_from;
            let is_reading = is_time_to_read && backlog.has_room();
            tokio::select! {
                biased;
                () = &mut handling => return,
                // The request is not given up: it has a time-out of its own, and must not take effect in part.
                _ = connection.closed() => return handling.await,
                batch = poll_fn(|context| self.poll_read(context)), if is_reading => {
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
            if is_over || self.clock.alarm_version != alarm_version {
                let next = self.clock.next();
                alarm.as_mut().reset(if now < read_from {
                    next.min(read_from)
                } else {
                    next
                });
            }
        }
    }

    /// Reads what has arrived.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Batch> {
        let mut batch = Batch::default();
        let read = ready!(self.hear(&mut batch, |inlet, heard| {
            let read = ready!(inlet.poll_read(context, |event| heard.event(event)))?;
            if let Read::Some { fed, .. } = &read {
                heard.end = heard.end.or(fed.err().map(Disconnect::from));
            }
            Poll::Ready(io::Result::Ok(read))
        }));
        match read {
            Ok(Read::Some { taken, .. }) => {
                self.clock.has_read(taken);
                if take(&mut self.clock.only_opened) {
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
            Err(error) => {
                // The kernel has given the socket up: the client has confirmed nothing for too long.
                if error.kind() == io::ErrorKind::TimedOut {
                    self.connection.close(Disconnect::HeartbeatTimeout);
                }
                self.connection.abort();
            }
        }
        Poll::Ready(batch)
    }

    /// Runs one read and decodes what it brings. The protocol's own answers, such as pongs, are sent at once, and signs
    /// of life go to the clock. Requests are put into `batch`.
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
            beside: 0,
            out: Vec::new(),
            end: None,
        };
        let result = read(&mut self.inlet, &mut heard);
        let Heard {
            out,
            end,
            bytes,
            beside,
            ..
        } = heard;
        if !out.is_empty() {
            self.connection.send(&out, &mut None);
        }
        batch.bytes = bytes;
        batch.beside = beside;
        batch.end = end.map(End::Because);
        let mut has_requests = false;
        for input in &batch.inputs {
            match input {
                Input::Ready => {
                    self.clock.ready();
                    if let Some(pass) = self.half_open.take() {
                        pass.handshake_done();
                    }
                }
                Input::Heartbeat => self.clock.heard_heartbeat(),
                Input::Request(_) => has_requests = true,
            }
        }
        batch.received = has_requests.then(Instant::now);
        result
    }

    /// Counts what the process holds for this client: unfinished messages, and this many bytes of requests. If there is
    /// no room for that, the client is cut off.
    fn charge(&mut self, backlog: usize) {
        let held = self.inlet.held() + backlog;
        let limits = self.connection.limits();
        if !limits.recount(&mut self.charged, held) {
            Bound::Memory.reached();
            self.connection.close(Disconnect::Overloaded);
        }
    }

    /// Does what is due. `busy` is `Some` while a request is under way. It is `Some(true)` if, moreover, nothing can be
    /// read because the backlog is full and the client does not read its answers.
    fn ring(&mut self, busy: Option<bool>) {
        match self.clock.due(busy.is_some()) {
            // Bytes that were not read yet may hold a heartbeat that came in time. It is not the client's fault that
            // nobody has read them, unless the loop waits for this client, which does not read.
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

impl Drop for SocketSide {
    fn drop(&mut self) {
        self.connection.limits().recount(&mut self.charged, 0);
    }
}

/// Collects what one read brings.
struct Heard<'a> {
    codec: &'a mut Codec,
    clock: &'a mut Clock,
    inputs: &'a mut Vec<Input>,
    bytes: usize,
    /// Those that are not in the body of a request.
    beside: usize,
    /// The protocol's own answers.
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
                let before = self.inputs.len();
                let decoded = self.codec.decode(message, self.inputs, &mut self.out);
                self.end = decoded.err().map(Disconnect::from);
                let requests = self.inputs.get(before..).unwrap_or_default();
                let bodies: usize = requests.iter().map(Input::body_bytes).sum();
                // A body that was compressed may be longer than its message.
                self.beside += message.len().saturating_sub(bodies);
            }
            Event::Ping(payload) => {
                self.beside += payload.len();
                websocket::frame(&mut self.out, Opcode::Pong, payload);
            }
            Event::Pong => self.clock.heard_message(),
            Event::Close(_) => self.end = Some(Disconnect::CLOSED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::QueueLimits;
    use crate::testing::{LIMITS, soon};
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use wire::WireFormat;

    fn size_of_future<T, F: Future>(_: fn(T) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_an_idle_connection_is_small() {
        let socket = size_of::<ClientLoop>();
        assert!(socket <= 344, "{socket}");
        let serving = size_of_future(|it: Box<ClientLoop>| it.serve(Vec::new()));
        assert!(serving <= 480, "{serving}");
    }

    /// A connection that speaks Pomelo's packages, and its client, which has sent its handshake.
    async fn socket() -> (SocketSide, TcpStream) {
        socket_within(QueueLimits::new(1 << 20, 64 << 20)).await
    }

    /// The same within these limits.
    async fn socket_within(limits: Arc<QueueLimits>) -> (SocketSide, TcpStream) {
        let format = WireFormat::POMELO.on_a_stream();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (reader, writer) = accepted.unwrap().0.into_split();
        let socket = SocketSide {
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
        (socket, client)
    }

    /// What a client sends while nothing can be refused must not be forgotten either.
    #[tokio::test]
    async fn every_byte_of_a_message_is_in_the_body_of_a_request_or_counts_beside_it() {
        let data = |message: &str| {
            let length = u8::try_from(message.len()).unwrap();
            [&[4, 0, 0, length][..], message.as_bytes()].concat()
        };
        let object = data("\0\x01\x03a.b{\"n\":1}");
        for (message, bodies) in [
            (object.clone(), 7),
            (object.repeat(3), 21),
            (data("\0\x01\x03a.b\"text\""), 0),
            (data("\0\x01\x03a.bgarbage"), 0),
            (data("\x02\x03a.b[1,2,3]"), 0),
            (data("\x02\x04none{\"n\":1}"), 0),
            (b"\x03\0\0\x04beat".to_vec(), 0),
            (b"\x01\0\0\x02{}".to_vec(), 0),
        ] {
            let (mut socket, _client) = socket().await;
            loop {
                let batch = soon(poll_fn(|context| socket.poll_read(context))).await;
                if batch.inputs.contains(&Input::Ready) {
                    break;
                }
            }
            let mut batch = Batch::default();
            socket.hear(&mut batch, |_, heard| heard.event(Event::Message(&message)));
            assert_eq!(batch.bytes, message.len());
            assert_eq!(batch.beside, message.len() - bodies, "{message:?}");
            let mut backlog = Backlog::default();
            backlog.push(batch);
            assert_eq!(backlog.beside, message.len() - bodies, "{message:?}");
        }
        let (mut socket, _client) = socket().await;
        let mut batch = Batch::default();
        socket.hear(&mut batch, |_, heard| heard.event(Event::Ping(b"1234")));
        assert_eq!(batch.beside, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_read_while_its_request_is_under_way() {
        let (mut socket, mut client) = socket().await;
        socket.clock.logged_in(true);
        let request = async {
            for _ in 0..10 {
                client.write_all(&[3, 0, 0, 0]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
        };
        socket
            .meanwhile(pin!(request), &mut Backlog::default())
            .await;
        assert_eq!(socket.connection.closing(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_dropped_while_its_request_is_under_way() {
        let (mut socket, _client) = socket().await;
        socket.clock.logged_in(true);
        let connection = Arc::clone(&socket.connection);
        let begun = Instant::now();
        let (unanswered, mut backlog) = (pin!(std::future::pending()), Backlog::default());
        let reason = tokio::select! {
            () = socket.meanwhile(unanswered, &mut backlog) => None,
            reason = connection.closed() => Some(reason),
        };
        assert_eq!(reason, Some(Disconnect::HeartbeatTimeout));
        assert_eq!(begun.elapsed().as_secs(), 50);
    }

    /// Reads until part of a package is there.
    async fn until_unfinished(socket: &mut SocketSide) {
        while socket.inlet.held() == 0 {
            soon(poll_fn(|context| socket.poll_read(context))).await;
        }
    }

    #[tokio::test]
    async fn unfinished_packages_count_for_the_process_and_end_clients_beyond_the_limit() {
        // Half of the limit is for incoming data. That is enough for one of the two clients, and for its answers.
        let limits = QueueLimits::new(1 << 10, 2_400);
        let half = [&[4, 0, 3, 0xe8][..], &[b'x'; 700]].concat();
        let (mut one, mut client) = socket_within(Arc::clone(&limits)).await;
        client.write_all(&half).await.unwrap();
        until_unfinished(&mut one).await;
        assert!(limits.queued() >= half.len(), "{}", limits.queued());
        assert_eq!(one.connection.closing(), None);

        let (mut two, mut client) = socket_within(Arc::clone(&limits)).await;
        client.write_all(&half).await.unwrap();
        until_unfinished(&mut two).await;
        assert_eq!(two.connection.closing(), Some(Disconnect::Overloaded));
        assert_eq!(one.connection.closing(), None);
        let before = limits.queued();
        drop(two);
        let given_back = before - limits.queued();
        assert!(given_back >= half.len(), "{given_back}");
    }
}
