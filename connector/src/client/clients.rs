//! All clients that this connector serves.

use super::client_loop::ClientLoop;
use super::life::Life;
use crate::limits::{ClientLimits, QueueLimits, SessionRates};
use crate::session::Services;
use crate::transport::Connection;
use crate::transport::inlet::Inlet;
use crate::transport::pass::Pass;
use crate::transport::peer::Peer;
use crate::transport::socket::Socket;
use parking_lot::{Mutex, RwLock};
use slab::Slab;
use std::sync::Arc;
use tokio_util::task::TaskTracker;
use wire::{Disconnect, WireFormat};

/// How many sessions look at their rights at once.
const LOOKS: usize = 1_000;

/// All clients that are served, and what is needed to serve one of them.
pub(crate) struct Clients {
    pub(crate) services: Arc<Services>,
    pub(crate) limits: ClientLimits,
    pub(crate) queues: Arc<QueueLimits>,
    /// How often the sessions of further clients may do things.
    rates: RwLock<SessionRates>,
    connections: Mutex<Slab<Arc<Connection>>>,
    /// The tasks of all clients.
    pub(super) loops: TaskTracker,
}

impl Clients {
    /// Serves no client yet.
    pub(crate) fn new(
        services: Arc<Services>,
        limits: ClientLimits,
        queues: Arc<QueueLimits>,
    ) -> Arc<Self> {
        Arc::new(Self {
            services,
            limits,
            queues,
            rates: RwLock::default(),
            connections: Mutex::default(),
            loops: TaskTracker::new(),
        })
    }

    /// From now on the sessions of further clients may do things this often.
    pub(crate) fn set_rates(&self, rates: SessionRates) {
        *self.rates.write() = rates;
    }

    /// How often the sessions of further clients may do things.
    #[cfg(test)]
    pub(crate) fn rates(&self) -> SessionRates {
        *self.rates.read()
    }

    /// Serves the client of a socket. `first` was read from it before. `token` is what the client has shown with its
    /// upgrade, if anything.
    pub(crate) fn serve_socket(
        self: Arc<Self>,
        socket: impl Into<Socket>,
        pass: Arc<Pass>,
        peer: Option<Peer>,
        first: Vec<u8>,
        format: WireFormat,
        token: Option<Box<str>>,
    ) {
        let (reader, writer) = socket.into().into_split();
        let connection = Connection::new(writer, format, Arc::clone(&self.queues));
        if let Some(token) = token {
            connection.shows(token);
        }
        let inlet = Inlet::of_socket(reader, format, self.limits.message);
        self.serve(connection, peer, inlet, first, Some(pass), || {});
    }

    /// Serves a connection until it is over, and then calls `end`, even if the task panics. `pass` is held until then,
    /// so the connection counts against the bounds. It counts as half open until the handshake of its protocol is over.
    pub(crate) fn serve(
        self: Arc<Self>,
        connection: Arc<Connection>,
        peer: Option<Peer>,
        inlet: Inlet,
        first: Vec<u8>,
        pass: Option<Arc<Pass>>,
        end: impl FnOnce() + Send + 'static,
    ) {
        let key = self.connections.lock().insert(Arc::clone(&connection));
        connection.enter_count();
        self.services.commands.process().opened();
        // The connection is in the list before this check. So a shutdown either finds it there or is noticed here.
        if self.is_closing() {
            connection.close(Disconnect::Shutdown);
        }
        if let Some(pass) = &pass {
            let connection = Arc::downgrade(&connection);
            pass.ends_by(move || {
                if let Some(connection) = connection.upgrade() {
                    connection.close(Disconnect::HandshakeTimeout);
                    // Do not wait for the client to end its side. A client that holds many sockets open never does, and
                    // each of them would keep its place.
                    connection.abort();
                }
            });
        }
        if let Some(peer) = peer {
            connection.comes_from(peer.address);
        }
        let services = Arc::clone(&self.services);
        let client = ClientLoop::new(
            Arc::clone(&connection),
            inlet,
            &self.limits,
            *self.rates.read(),
            services,
            pass.clone(),
        );
        let loops = self.loops.clone();
        let served = Served {
            clients: self,
            key,
            connection,
            end: Some(end),
            life: Life::begin(peer),
            _pass: pass,
        };
        let serving = client.serve(first);
        loops.spawn(async move {
            serving.await;
            // Not before, whatever happens. A variable of its own would take its place twice.
            drop(served);
        });
    }

    /// Runs a task that a shutdown waits for, as it does for the clients.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.loops.spawn(task);
    }

    /// Lets all sessions look at what they may do, because the rules of channels have changed.
    pub(crate) async fn judge_again(&self) {
        for batch in self.connected(|_| true).chunks(LOOKS) {
            for connection in batch {
                connection.note_out();
            }
            tokio::task::yield_now().await;
        }
    }

    /// The connections that are open now and of which this is true.
    pub(super) fn connected(&self, which: impl Fn(&Connection) -> bool) -> Vec<Arc<Connection>> {
        let connections = self.connections.lock();
        let connected = connections.iter().map(|(_, connection)| connection);
        connected.filter(|it| which(it)).cloned().collect()
    }

    /// True once no new session may begin, because the connector stops.
    pub(crate) fn is_closing(&self) -> bool {
        self.loops.is_closed()
    }
}

/// A connection that is served. Dropping this ends the connection and removes it from every list and count.
struct Served<E: FnOnce()> {
    clients: Arc<Clients>,
    key: usize,
    connection: Arc<Connection>,
    end: Option<E>,
    life: Life,
    _pass: Option<Arc<Pass>>,
}

impl<E: FnOnce()> Drop for Served<E> {
    fn drop(&mut self) {
        // After a panic nobody has ended the socket yet.
        self.connection.abort();
        if let Some(end) = self.end.take() {
            end();
        }
        let removed = self.clients.connections.lock().try_remove(self.key);
        drop(removed);
        self.connection.leave_count();
        self.life.end(&self.connection);
        self.clients.services.commands.process().closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{Bounds, Limits};
    use crate::membership::{Asked, SessionCommand};
    use crate::metering::{CLOSED, CONNECTIONS};
    use crate::session::tests::{is_followed, scene};
    use crate::testing::at;
    use crate::testing::chat::joined;
    use crate::testing::counters::Counters;
    use crate::testing::{LIMITS, soon};
    use crate::transport::close_paced;
    use crate::transport::connection::CLOSE_PAUSE;
    use channel_store::UserId;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn all_connections_are_closed_in_two_seconds_however_many_there_are() {
        let queues = QueueLimits::new(1 << 20, 1 << 20);
        for (count, batches) in [(0_usize, 0), (1, 1), (10_000, 10), (100_000, 40)] {
            let record = Arc::new(Mutex::new(Vec::new()));
            let connections: Vec<_> = std::iter::repeat_with(|| {
                Connection::new(Arc::clone(&record), WireFormat::POMELO, Arc::clone(&queues))
            })
            .take(count)
            .collect();
            let begun = Instant::now();
            close_paced(&connections, Disconnect::Dead).await;
            assert_eq!(begun.elapsed(), batches * CLOSE_PAUSE, "{count}");
            assert!(begun.elapsed() <= Duration::from_secs(2));
            let is_closing = |it: &Arc<Connection>| it.closing() == Some(Disconnect::Dead);
            assert!(connections.iter().all(is_closing));
        }
    }

    /// A text frame, masked as a client's must be, with a mask that changes nothing.
    fn masked(text: &str) -> Vec<u8> {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 126);
        let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
        frame.extend(text.bytes());
        frame
    }

    /// A panic in the task of one client ends that client's connection alone. What the connection held is given back.
    /// Otherwise each panic would take one of the connector's places for ever.
    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_task_panics_is_closed_and_removed_from_all_counts() {
        let counters = Counters::default();
        let _recording = metrics::set_default_local_recorder(&counters);
        let mut scene = scene().await;
        let queues = QueueLimits::new(1 << 20, 1 << 20);
        let clients = Clients::new(Arc::clone(&scene.services), LIMITS, queues);
        let limits = Limits::new(Bounds {
            connections: 1,
            half_open: 1,
            handshakes: u32::MAX,
            polling: 0,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut client, (stream, peer)) = (client.unwrap(), accepted.unwrap());

        let pass = Pass::new(limits.enter().unwrap(), limits.begin_handshake());
        let (reader, writer) = stream.into_split();
        // The test keeps a reference, as the hub does for a member.
        let connection = Connection::new(writer, WireFormat::JSON, Arc::clone(&clients.queues));
        let inlet = Inlet::of_socket(reader, WireFormat::JSON, clients.limits.message);
        let is_over = Arc::new(AtomicBool::new(false));
        let end = {
            let is_over = Arc::clone(&is_over);
            move || is_over.store(true, Ordering::Relaxed)
        };
        let held = Arc::clone(&connection);
        Arc::clone(&clients).serve(held, Some(peer.into()), inlet, Vec::new(), Some(pass), end);
        let login =
            r#"{"route":"connector.handler.login","body":{"userId":"u","lessonId":"room"}}"#;
        client.write_all(&masked(login)).await.unwrap();
        soon(async {
            while scene.script.feed.follows().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        is_followed(&mut scene.script).await;
        let join = scene.instance.join().await;
        assert_eq!(clients.connections.lock().len(), 1);
        assert!(
            limits.enter().is_none(),
            "the connection has the only place"
        );
        assert_eq!(counters.gauge(CONNECTIONS).to_bits(), 1_f64.to_bits());
        assert_eq!(scene.logins("u").await, 1);

        join.panic();
        clients.loops.close();
        soon(clients.loops.wait()).await;
        assert!(is_over.load(Ordering::Relaxed));
        assert!(clients.connections.lock().is_empty());
        assert!(limits.enter().is_some(), "the place is free again");
        assert_eq!(counters.gauge(CONNECTIONS).to_bits(), 0_f64.to_bits());
        assert_eq!(counters.get(CLOSED), 1);
        let mut rest = Vec::new();
        // The socket may end with an error, but it ends.
        let _ = soon(client.read_to_end(&mut rest)).await;
        // The join may have taken effect, so a leave follows it.
        scene.instance.leave().await.answer(Ok(Default::default()));
        soon(scene.services.leaves.landed()).await;
        assert_eq!(scene.logins("u").await, 0);
        drop(connection);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_back_end_wants_has_its_turn_between_two_requests_and_while_there_are_none() {
        let mut scene = scene().await;
        let queues = QueueLimits::new(1 << 20, 1 << 20);
        let clients = Clients::new(Arc::clone(&scene.services), LIMITS, queues);
        let limits = Limits::new(Bounds {
            connections: 1,
            half_open: 1,
            handshakes: u32::MAX,
            polling: 0,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut client, (stream, _)) = (client.unwrap(), accepted.unwrap());
        let pass = Pass::new(limits.enter().unwrap(), limits.begin_handshake());
        Arc::clone(&clients).serve_socket(stream, pass, None, Vec::new(), WireFormat::JSON, None);
        let login =
            r#"{"route":"connector.handler.login","body":{"userId":"u","lessonId":"room"}}"#;
        client.write_all(&masked(login)).await.unwrap();
        soon(async {
            while scene.script.feed.follows().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        is_followed(&mut scene.script).await;
        scene.instance.join().await.answer(Ok(joined("a", 5)));

        let history = masked(r#"{"id":2,"route":"chat.handler.history"}"#);
        let twice = [history.clone(), history].concat();
        client.write_all(&twice).await.unwrap();
        let first = scene.instance.history().await;
        let user = UserId::new("u").unwrap();
        let registration = scene.services.logins.of(&user).remove(0);
        let (answer, left) = oneshot::channel();
        let command = SessionCommand::Leave(asked(answer));
        assert!(registration.commands().push(command).is_ok());
        first.answer(Ok(Default::default()));
        scene.instance.leave().await.answer(Ok(Default::default()));
        assert_eq!(soon(left).await, Ok(Ok(true)));
        // In the second request the session is no member any more.
        scene.instance.nobody_calls().await;

        let (answer, added) = oneshot::channel();
        let command = SessionCommand::Join(asked(answer));
        assert!(registration.commands().push(command).is_ok());
        (clients.connections.lock().iter()).for_each(|(_, it)| it.wake());
        is_followed(&mut scene.script).await;
        scene.instance.join().await.answer(Ok(joined("a", 5)));
        assert_eq!(soon(added).await, Ok(Ok(at("a", 4))));
    }

    fn asked<T>(answer: oneshot::Sender<Result<T, wire::Reason>>) -> Asked<T> {
        Asked {
            channel: crate::testing::channel(),
            deadline: Instant::now() + Duration::from_secs(1),
            answer,
        }
    }
}
