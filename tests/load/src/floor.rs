//! The floor: the least that a broadcaster on tokio does. Each frame that comes is sent to everybody in its sender's
//! room as it is, without a protocol, log or membership, in one process. What a server costs beyond this is the price
//! of its promises.
//!
//! The floor does what makes a broadcaster cheap. A message is framed once for its room. The pending bytes of a room
//! leave in one write for each member, after everything else that was ready has run. Idle connections hold no buffer.

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use slab::Slab;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::mem;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use testkit::websocket::accept_key;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;

/// What the floor prints before its address, once it listens.
pub(crate) const LISTENING: &str = "listening on ";

/// Connections that the kernel holds until they are accepted: as many as a storm makes at once.
const BACKLOG: u32 = 4_096;
/// A member with more unread bytes than this is cut off.
const BOUND: usize = 1 << 20;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; 64 << 10].into());
}

#[derive(Default)]
struct Floor {
    rooms: Mutex<HashMap<String, Arc<Room>>>,
    dirty: Mutex<Vec<Arc<Room>>>,
    wake: Notify,
}

#[derive(Default)]
struct Room(Mutex<Members>);

#[derive(Default)]
struct Members {
    peers: Slab<Arc<Peer>>,
    pending: Vec<u8>,
}

struct Peer {
    socket: OwnedWriteHalf,
    queue: Mutex<VecDeque<Bytes>>,
}

/// Serves until it is killed.
pub(crate) fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(BACKLOG)?;
        println!("{LISTENING}{}", listener.local_addr()?);
        let floor = Arc::new(Floor::default());
        tokio::spawn(floor.clone().flush());
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(floor.clone().admit(stream));
        }
    })
}

impl Floor {
    /// Serves a new connection. The path of its request is `/room/user`.
    async fn admit(self: Arc<Self>, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut request = Vec::with_capacity(512);
        let end = loop {
            match stream.read_buf(&mut request).await {
                Ok(1..) => {}
                _ => return,
            }
            if let Some(end) = memchr::memmem::find(&request, b"\r\n\r\n") {
                break end;
            }
        };
        let Some((room, user, accept)) = parse(&request[..end]) else {
            return;
        };
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        let (reader, socket) = stream.into_split();
        let queue = Mutex::default();
        let peer = Arc::new(Peer { socket, queue });
        let room = self.rooms.lock().entry(room).or_default().clone();
        let key = room.0.lock().peers.insert(peer);
        self.publish(&room, format!("J{user}").as_bytes());
        // A new task, so that what the request needed is freed.
        tokio::spawn(self.attend(reader, room, key));
    }

    async fn attend(self: Arc<Self>, mut reader: OwnedReadHalf, room: Arc<Room>, key: usize) {
        let mut partial = Vec::new();
        while matches!(
            poll_fn(|context| self.poll_read(context, &mut reader, &room, &mut partial)).await,
            Ok(true)
        ) {}
        room.0.lock().peers.remove(key);
        self.publish(&room, b"L");
    }

    /// False: the socket has ended.
    fn poll_read(
        &self,
        context: &mut Context<'_>,
        reader: &mut OwnedReadHalf,
        room: &Arc<Room>,
        partial: &mut Vec<u8>,
    ) -> Poll<io::Result<bool>> {
        BUFFER.with_borrow_mut(|buffer| {
            let left = partial.len();
            buffer[..left].copy_from_slice(partial);
            let mut bytes = ReadBuf::new(&mut buffer[left..]);
            ready!(Pin::new(reader).poll_read(context, &mut bytes))?;
            let count = bytes.filled().len();
            let mut rest = &mut buffer[..left + count];
            while let Some((length, behind)) = take_frame(rest) {
                let (frame, next) = mem::take(&mut rest).split_at_mut(behind);
                self.publish(room, &frame[behind - length..]);
                rest = next;
            }
            partial.clear();
            partial.extend_from_slice(rest);
            Poll::Ready(Ok(count > 0))
        })
    }

    fn publish(&self, room: &Arc<Room>, payload: &[u8]) {
        let mut members = room.0.lock();
        let is_first = members.pending.is_empty();
        frame(payload, &mut members.pending);
        if is_first {
            let mut dirty = self.dirty.lock();
            dirty.push(room.clone());
            if dirty.len() == 1 {
                self.wake.notify_one();
            }
        }
    }

    async fn flush(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            tokio::task::yield_now().await;
            let dirty = mem::take(&mut *self.dirty.lock());
            for room in dirty {
                let mut members = room.0.lock();
                let Members { peers, pending } = &mut *members;
                let mut shared = None;
                for (_, peer) in peers {
                    send(peer, pending, &mut shared);
                }
                pending.clear();
                if pending.capacity() > 64 << 10 {
                    *pending = Vec::new();
                }
            }
        }
    }
}

fn send(peer: &Arc<Peer>, bytes: &[u8], shared: &mut Option<Bytes>) {
    let mut queue = peer.queue.lock();
    let mut written = 0;
    if queue.is_empty() {
        // If the socket is gone, the next read shows it.
        written = peer.socket.try_write(bytes).unwrap_or(0);
        if written == bytes.len() {
            return;
        }
        tokio::spawn(drain(peer.clone()));
    }
    let shared = shared.get_or_insert_with(|| Bytes::copy_from_slice(bytes));
    queue.push_back(shared.slice(written..));
    if queue.iter().map(Bytes::len).sum::<usize>() > BOUND {
        queue.clear();
        let socket = socket2::SockRef::from(peer.socket.as_ref());
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}

async fn drain(peer: Arc<Peer>) {
    while peer.socket.writable().await.is_ok() {
        let mut queue = peer.queue.lock();
        while let Some(first) = queue.front_mut() {
            match peer.socket.try_write(first) {
                Ok(written) => first.advance(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => first.clear(),
            }
            if first.is_empty() {
                queue.pop_front();
            }
        }
        if queue.is_empty() {
            *queue = VecDeque::new();
            return;
        }
    }
}

/// The room, the user, and the answer to the key.
fn parse(request: &[u8]) -> Option<(String, String, String)> {
    let request = std::str::from_utf8(request).ok()?;
    let mut lines = request.lines();
    let path = lines.next()?.split(' ').nth(1)?;
    let (room, user) = path.strip_prefix('/')?.split_once('/')?;
    let mut headers = lines.filter_map(|line| line.split_once(": "));
    let (_, key) = headers.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))?;
    Some((room.to_owned(), user.to_owned(), accept_key(key)))
}

/// Unmasks the frame at the beginning of `bytes`. Returns the length of its payload, and where it ends.
fn take_frame(bytes: &mut [u8]) -> Option<(usize, usize)> {
    let (length, head) = match *bytes.get(1)? & 0x7f {
        126 => (
            u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?).into(),
            4,
        ),
        length => (usize::from(length), 2),
    };
    let end = head + 4 + length;
    let mask: [u8; 4] = *bytes.get(head..)?.first_chunk()?;
    let payload = bytes.get_mut(head + 4..end)?;
    for chunk in payload.chunks_mut(4) {
        for (byte, mask) in chunk.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    Some((length, end))
}

fn frame(payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x82);
    if let Ok(length @ ..126) = u8::try_from(payload.len()) {
        out.push(length);
    } else {
        out.push(126);
        out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    }
    out.extend_from_slice(payload);
}
