//! Many clients in one thread. A socket is read when it has something, the messages are checked, and all answers leave
//! in one write. A client has no task, no timer and no queue, so that the generator costs little compared with what it
//! measures.

use crate::message::Stamp;
use crate::order::{Faults, Order, View, compare};
use crate::place::{Place, Told, pause};
use crate::protocol::{LOGIN, Protocol, Received};
use crate::wire::{self, Inflater};
use anyhow::{Context, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};
use testkit::websocket::{BINARY, PING, PONG, TEXT, upgrade_request};

/// The key of each upgrade request. It need not be secret.
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAA==";
/// The most bytes that one read takes.
const READ: usize = 256 << 10;
/// The pause between two heartbeats of a client.
const HEARTBEAT: Duration = Duration::from_secs(25);
/// If nothing new comes for this long, perhaps everything has come.
const QUIET: Duration = Duration::from_millis(20);
/// A run that waits longer than this has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How clients and senders are spread over rooms, and what they send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// The number of rooms. Clients are spread over the rooms and over the servers in turn.
    pub(crate) rooms: u32,
    /// The number of senders in each room.
    pub(crate) senders: u32,
    /// The size of a message.
    pub(crate) bytes: usize,
    /// Whether clients offer to take compressed frames.
    pub(crate) deflate: bool,
    /// The number of the first user, and of the first room: two swarms at one server must not meet.
    pub(crate) first: u32,
    /// Whether clients ask for positions and keep their secrets, so that they can come back.
    pub(crate) keep_places: bool,
}

/// A client.
pub(crate) struct Client {
    /// `None`: it was cut off.
    socket: Option<TcpStream>,
    stage: Stage,
    /// The beginning of a frame whose rest has not come.
    partial: Vec<u8>,
    out: Vec<u8>,
    /// The socket must not be read.
    stalled: bool,
    /// The client's part in its room.
    pub(crate) member: Member,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Upgrading,
    Open,
    Ended,
}

/// A client's part in its room.
pub(crate) struct Member {
    /// The number of the user, which is also its name.
    pub(crate) user: u32,
    /// The number of the room, which is also its name.
    pub(crate) room: u32,
    /// The client has got its own `onJoin`.
    online: bool,
    order: Order,
    /// What it needs to come back, if it keeps that.
    place: Option<Box<Place>>,
    /// The messages that it has sent, if it is a sender.
    pub(crate) sender: Option<Sender>,
}

/// A member that sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender {
    /// Its number among all senders.
    pub(crate) number: u32,
    /// How many messages it has sent.
    pub(crate) sent: u32,
    /// How many of them came back to it.
    pub(crate) returned: u32,
    /// How many of them were answered.
    pub(crate) answered: u32,
}

impl Sender {
    /// How many messages are under way: not returned, or not answered if the protocol has answers.
    pub(crate) fn under_way(&self, protocol: Protocol) -> u32 {
        let done = if protocol.answers() {
            self.returned.min(self.answered)
        } else {
            self.returned
        };
        self.sent - done
    }
}

/// All clients of a run.
pub(crate) struct Swarm {
    /// The protocol of the clients.
    pub(crate) protocol: Protocol,
    layout: Layout,
    inflater: Inflater,
    servers: Vec<SocketAddr>,
    poll: Poll,
    events: Events,
    buffer: Box<[u8]>,
    clients: Vec<Client>,
    began: Instant,
    beats: VecDeque<(u64, usize)>,
    /// Clients that wait before they log in again, and when each of them does.
    waiting: BinaryHeap<Reverse<(u64, usize)>>,
    /// The number of messages that came.
    pub(crate) delivered: u64,
    /// The number of all pushes that came: messages, joins and leaves.
    pub(crate) pushes: u64,
    /// When the last push came, in nanoseconds since the beginning.
    pub(crate) latest: u64,
    /// The number of clients that have their own `onJoin`.
    pub(crate) online: usize,
    /// The number of logins that were tried again.
    pub(crate) retried: u64,
    /// What those were told that keep their places.
    pub(crate) told: Told,
    /// What was wrong so far.
    pub(crate) faults: Faults,
}

impl Swarm {
    /// A swarm without any client.
    pub(crate) fn new(
        protocol: Protocol,
        layout: Layout,
        servers: Vec<SocketAddr>,
        began: Instant,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            protocol,
            layout,
            servers,
            inflater: Inflater::default(),
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            buffer: vec![0; READ].into(),
            clients: Vec::new(),
            began,
            beats: VecDeque::new(),
            waiting: BinaryHeap::new(),
            delivered: 0,
            pushes: 0,
            latest: 0,
            online: 0,
            retried: 0,
            told: Told::default(),
            faults: Faults::default(),
        })
    }

    /// Nanoseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        nanoseconds(self.began)
    }

    /// The number of clients.
    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// How many messages each sender has sent, by number of the sender.
    pub(crate) fn sent(&self) -> Vec<u32> {
        let mut sent = vec![0; (self.layout.rooms * self.layout.senders) as usize];
        for sender in self.clients.iter().filter_map(|it| it.member.sender) {
            sent[sender.number as usize] = sender.sent;
        }
        sent
    }

    /// Adds a client, which begins to connect. The first clients of a room are its senders. `late`: others have sent
    /// before.
    pub(crate) fn add(&mut self, late: bool) -> anyhow::Result<usize> {
        let number = self.clients.len();
        let user = u32::try_from(number)?;
        let Layout {
            rooms,
            senders,
            first,
            keep_places,
            ..
        } = self.layout;
        // Otherwise all clients of a room could be on one server.
        let (room, place) = (user % rooms, user / rooms);
        let socket = self.connect(number, (place + room) as usize)?;
        self.clients.push(Client {
            socket: Some(socket),
            stage: Stage::Connecting,
            partial: Vec::new(),
            out: Vec::new(),
            stalled: false,
            member: Member {
                user: first + user,
                room: first + room,
                online: false,
                place: keep_places.then(Box::default),
                order: Order::new(room, senders, late),
                sender: (place < senders && !late).then_some(Sender {
                    number: room * senders + place,
                    sent: 0,
                    returned: 0,
                    answered: 0,
                }),
            },
        });
        Ok(number)
    }

    /// A new connection of a client to one of the servers.
    fn connect(&self, client: usize, turn: usize) -> anyhow::Result<TcpStream> {
        let mut socket = TcpStream::connect(self.servers[turn % self.servers.len()])?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        registry.register(&mut socket, Token(client), both)?;
        Ok(socket)
    }

    /// Cuts off clients that are online, as a network that fails does: their servers get no goodbye.
    pub(crate) fn cut_off(&mut self, clients: Range<usize>) {
        for client in &mut self.clients[clients] {
            if let Some(socket) = client.socket.take() {
                // It ends with a reset. Otherwise its port would stay taken for a minute, and ports are few.
                let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            }
            client.stage = Stage::Ended;
            client.partial.clear();
            client.out.clear();
            self.online -= usize::from(mem::take(&mut client.member.online));
        }
        let clients = &self.clients;
        self.beats
            .retain(|(_, client)| clients[*client].stage != Stage::Ended);
    }

    /// Lets a client connect again that was cut off. About half of them come to another server than before, as behind a
    /// proxy.
    pub(crate) fn reconnect(&mut self, client: usize) -> anyhow::Result<()> {
        let socket = self.connect(client, client / 2)?;
        let it = &mut self.clients[client];
        it.socket = Some(socket);
        it.stage = Stage::Connecting;
        Ok(())
    }

    /// Registers another source that wakes [`turn`](Self::turn).
    pub(crate) fn wake_by(&self, source: &mut impl mio::event::Source) -> anyhow::Result<()> {
        let registry = self.poll.registry();
        Ok(registry.register(source, Token(usize::MAX), Interest::READABLE)?)
    }

    /// Connects and logs in `clients` more, `at_once` at a time, and returns when all of them are members.
    pub(crate) fn gather(&mut self, clients: usize, at_once: usize) -> anyhow::Result<()> {
        let began = Instant::now();
        let target = self.clients.len() + clients;
        while self.online < target {
            while self.clients.len() < target && self.clients.len() < self.online + at_once {
                self.add(false)?;
            }
            self.turn(Some(Duration::from_millis(100)), &mut |_, _, _, _| {})?;
            if began.elapsed() > PATIENCE || self.faults.ended > 0 {
                bail!(
                    "{} of {target} clients came online: {:?}",
                    self.online,
                    self.faults
                );
            }
        }
        Ok(())
    }

    /// Lets a sender send a message that was due at `due`.
    pub(crate) fn send(&mut self, client: usize, due: u64) {
        let (protocol, bytes) = (self.protocol, self.layout.bytes);
        let Client { member, out, .. } = &mut self.clients[client];
        member.send(protocol, bytes, due, out);
        self.write(client);
    }

    /// Stops reading a client's socket, and lets the kernel buffer little for it.
    pub(crate) fn stall(&mut self, client: usize) -> anyhow::Result<()> {
        let client = &mut self.clients[client];
        client.stalled = true;
        let socket = client.socket.as_ref().context("it is not connected")?;
        SockRef::from(socket).set_recv_buffer_size(4096)?;
        Ok(())
    }

    /// Ends a client's connection, as a client that leaves does.
    pub(crate) fn leave(&mut self, client: usize) {
        let client = &mut self.clients[client];
        client.stage = Stage::Ended;
        if let Some(socket) = &mut client.socket {
            let _ = self.poll.registry().deregister(socket);
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        self.online -= usize::from(mem::take(&mut client.member.online));
    }

    /// Takes what has come, or waits for that. `receive` may append to what the client writes.
    pub(crate) fn turn(
        &mut self,
        wait: Option<Duration>,
        receive: &mut impl FnMut(&mut Member, Received<'_>, u64, &mut Vec<u8>),
    ) -> anyhow::Result<()> {
        let mut events = mem::replace(&mut self.events, Events::with_capacity(0));
        let polled = self.poll.poll(&mut events, wait);
        match polled {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            let client = event.token().0;
            if client >= self.clients.len() {
                continue;
            }
            if event.is_readable() || event.is_read_closed() {
                self.read(client, receive);
            }
            self.write(client);
        }
        self.events = events;
        self.beat();
        self.try_again();
        Ok(())
    }

    fn read(
        &mut self,
        client: usize,
        receive: &mut impl FnMut(&mut Member, Received<'_>, u64, &mut Vec<u8>),
    ) {
        let mut buffer = mem::take(&mut self.buffer);
        loop {
            let it = &mut self.clients[client];
            if it.stalled || matches!(it.stage, Stage::Ended | Stage::Connecting) {
                break;
            }
            let Some(socket) = &mut it.socket else {
                break;
            };
            // The rest of the last read stands before the new bytes.
            let left = it.partial.len();
            buffer[..left].copy_from_slice(&it.partial);
            it.partial.clear();
            match socket.read(&mut buffer[left..]) {
                Ok(0) => {
                    self.end(client);
                    break;
                }
                Ok(count) => {
                    let now = nanoseconds(self.began);
                    let filled = left + count;
                    let used = self.take(client, &buffer[..filled], now, receive);
                    self.clients[client]
                        .partial
                        .extend_from_slice(&buffer[used..filled]);
                    // A read that did not fill the buffer has emptied the socket, so the next bytes wake the poll
                    // again.
                    if filled < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.clients[client]
                        .partial
                        .extend_from_slice(&buffer[..left]);
                    break;
                }
                Err(_) => {
                    self.end(client);
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    fn end(&mut self, client: usize) {
        self.faults.ended += 1;
        self.leave(client);
    }

    /// Takes all complete frames. Returns how many bytes they were.
    fn take(
        &mut self,
        client: usize,
        bytes: &[u8],
        now: u64,
        receive: &mut impl FnMut(&mut Member, Received<'_>, u64, &mut Vec<u8>),
    ) -> usize {
        let Self {
            protocol,
            clients,
            faults,
            delivered,
            pushes,
            latest,
            online,
            retried,
            beats,
            waiting,
            told,
            inflater,
            ..
        } = self;
        let protocol = *protocol;
        let Client {
            stage, member, out, ..
        } = &mut clients[client];
        let (mut used, before) = (0, *pushes);
        if *stage == Stage::Upgrading {
            match wire::upgraded(bytes) {
                Ok(None) => return 0,
                Ok(Some(end)) => {
                    *stage = Stage::Open;
                    used = end;
                    protocol.open(member.room, member.user, &member.parameters(), out);
                }
                Err(_) => {
                    faults.refused += 1;
                    return bytes.len();
                }
            }
        }
        while let Some((first, mut payload, length)) = wire::frame(&bytes[used..]) {
            used += length;
            if first & wire::COMPRESSED != 0 {
                payload = inflater.inflate(payload);
            }
            match first & 0x0f {
                PING => wire::masked(out, PONG, |out| out.extend_from_slice(payload)),
                TEXT | BINARY => protocol.receive(payload, |received, text| {
                    let is_back = member.place.as_ref().is_some_and(|it| it.is_taken());
                    if let Some(place) = &mut member.place {
                        place.take(member.user, received, text, told, faults);
                    }
                    match received {
                        Received::Message(stamp) => {
                            *delivered += 1;
                            *pushes += 1;
                            member.order.message(stamp, faults);
                            if let Some(sender) = &mut member.sender
                                && sender.number == stamp.sender
                            {
                                sender.returned += 1;
                            }
                        }
                        // The client's own `onJoin` follows, or it was the answer that let it in.
                        Received::Answer(LOGIN, true) => {}
                        // The outcome was unknown, or too many came at once. Real clients try again, too.
                        Received::Answer(LOGIN, false) => {
                            *retried += 1;
                            if member.place.is_some() {
                                let pause = pause(text).as_nanos() as u64;
                                waiting.push(Reverse((now + pause, client)));
                            } else {
                                protocol.login(member.room, member.user, "", out);
                            }
                        }
                        Received::Answer(_, done) => {
                            faults.refused += u64::from(!done);
                            if let Some(sender) = &mut member.sender {
                                sender.answered += 1;
                            }
                        }
                        Received::Joined(user) => {
                            *pushes += 1;
                            // The floor also tells a new member of those that came at the same moment.
                            let is_its = member.online || user == member.user;
                            if (protocol != Protocol::Floor || is_its) && !told.all_joined {
                                member.order.joined(user);
                            }
                        }
                        Received::Left => *pushes += 1,
                        Received::Greeting => {
                            let more = member.parameters();
                            protocol.greeted(member.room, member.user, &more, out);
                            beats.push_back((now + HEARTBEAT.as_nanos() as u64, client));
                        }
                        Received::Heartbeat => protocol.pong(out),
                        Received::Kicked(_) | Received::Other => {}
                    }
                    let enters = match received {
                        // A client that is back in its place gets no join.
                        Received::Answer(LOGIN, true) => protocol.answer_is_entry() || is_back,
                        Received::Joined(user) => {
                            user == member.user && !protocol.answer_is_entry()
                        }
                        _ => false,
                    };
                    if enters && !member.online {
                        member.online = true;
                        *online += 1;
                    }
                    receive(member, received, now, out);
                }),
                _ => {}
            }
        }
        if *pushes != before {
            *latest = now;
        }
        used
    }

    fn write(&mut self, client: usize) {
        let Self {
            protocol,
            clients,
            layout,
            ..
        } = self;
        let it = &mut clients[client];
        let Some(socket) = &mut it.socket else {
            return;
        };
        if it.stage == Stage::Connecting {
            // The socket is writable, so it is connected, or it has failed, which the write will show.
            let Ok(server) = socket.peer_addr() else {
                return;
            };
            let _ = socket.set_nodelay(true);
            it.stage = Stage::Upgrading;
            let path = protocol.path(it.member.room, it.member.user);
            it.out = upgrade_request(server, &path, KEY).into_bytes();
            if layout.deflate {
                it.out.truncate(it.out.len() - 2);
                it.out.extend_from_slice(wire::OFFER);
            }
        }
        if it.out.is_empty() || it.stage == Stage::Ended {
            return;
        }
        match socket.write(&it.out) {
            Ok(written) => drop(it.out.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.end(client),
        }
        let out = &mut self.clients[client].out;
        if out.is_empty() && out.capacity() > 4096 {
            *out = Vec::new();
        }
    }

    /// Sends the heartbeats that are due.
    fn beat(&mut self) {
        if self.beats.is_empty() {
            return;
        }
        let now = self.now();
        while let Some(&(due, client)) = self.beats.front()
            && due <= now
        {
            self.beats.pop_front();
            let it = &mut self.clients[client];
            if it.stage == Stage::Open && !it.stalled {
                self.protocol.heartbeat(&mut it.out);
                self.beats
                    .push_back((now + HEARTBEAT.as_nanos() as u64, client));
                self.write(client);
            }
        }
    }

    /// Lets those log in again who have waited for as long as they were told to.
    fn try_again(&mut self) {
        let now = self.now();
        while let Some(&Reverse((due, client))) = self.waiting.peek()
            && due <= now
        {
            self.waiting.pop();
            let Client {
                stage, member, out, ..
            } = &mut self.clients[client];
            if *stage == Stage::Open {
                let more = member.parameters();
                self.protocol.login(member.room, member.user, &more, out);
                self.write(client);
            }
        }
    }

    /// Removes a source that was registered with [`wake_by`](Self::wake_by).
    pub(crate) fn wake_no_more(&self, source: &mut impl mio::event::Source) -> anyhow::Result<()> {
        Ok(self.poll.registry().deregister(source)?)
    }

    /// True if all clients that read have all messages that were sent.
    pub(crate) fn has_all(&self, sent: &[u32]) -> bool {
        self.views().all(|(_, _, order)| order.missing(sent) == 0)
    }

    /// Waits until all clients that read have everything, but not for ever, and compares what they saw.
    pub(crate) fn rest(&mut self) -> anyhow::Result<Faults> {
        let sent = self.sent();
        let end = Instant::now() + PATIENCE / 4;
        loop {
            let before = self.pushes;
            self.turn(Some(QUIET), &mut |_, _, _, _| {})?;
            let is_over = Instant::now() > end;
            // Comparing is expensive.
            if self.pushes != before && !is_over {
                continue;
            }
            let senders = self.clients.iter().filter_map(|it| it.member.sender);
            let under_way = senders.map(|it| u64::from(it.under_way(self.protocol)));
            let mut faults = compare(&self.views().collect::<Vec<_>>(), &sent);
            faults.refused += under_way.sum::<u64>();
            if faults.is_clean() || is_over {
                faults += self.faults;
                return Ok(faults);
            }
        }
    }

    fn views(&self) -> impl Iterator<Item = View<'_>> {
        let present = self.clients.iter();
        let present = present.filter(|it| it.stage == Stage::Open && !it.stalled);
        present.map(|Client { member, .. }| (member.room, member.user, &member.order))
    }
}

impl Member {
    /// What its login says beside its name and its room.
    fn parameters(&self) -> String {
        let place = self.place.as_ref();
        place.map(|it| it.parameters()).unwrap_or_default()
    }

    /// Appends a message that was due at `due` to what the client writes, if it is a sender.
    pub(crate) fn send(&mut self, protocol: Protocol, bytes: usize, due: u64, out: &mut Vec<u8>) {
        let Some(sender) = &mut self.sender else {
            return;
        };
        let stamp = Stamp {
            sender: sender.number,
            number: sender.sent,
            due,
        };
        sender.sent += 1;
        protocol.send(self.room, LOGIN + u64::from(sender.sent), stamp, bytes, out);
    }
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
