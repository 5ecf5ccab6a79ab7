//! The WebSocket of a client of any protocol. A task reads it, answers what must be answered, and records what has
//! come. So a test can ask later what was received, and in which order.

use crate::inbox::Inbox;
use crate::websocket::{self, CLOSE, Frame, NO_CODE, PING, PONG, Reader, Terms, Writer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

/// How a connection ended, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The server sent a close frame, as the first or as an answer.
    Closed {
        /// The code of RFC 6455; [`NO_CODE`] if the frame had none.
        code: u16,
        /// The reason in the frame.
        reason: String,
    },
    /// The TCP connection ended without a close frame.
    Dropped,
    /// The server broke its protocol.
    Broken(String),
}

/// A frame that the client must send some time later.
pub struct Owed {
    /// How long after the frame that it answers.
    pub after: Duration,
    /// The frame's opcode.
    pub opcode: u8,
    /// The frame's payload.
    pub payload: Vec<u8>,
}

/// What the client of a protocol records of the frames that it receives.
pub trait Record: Default + Send + 'static {
    /// Records a data frame. Returns the frame that must be sent for it, if there is one.
    ///
    /// # Errors
    /// The text says how the frame breaks the protocol.
    fn message(&mut self, frame: &Frame) -> Result<Option<Owed>, String>;

    /// How the connection ended, if it has ended.
    fn end(&self) -> &Option<End>;

    /// Records how the connection ended. Only the first call counts.
    fn set_end(&mut self, end: End);
}

/// A connected client.
pub struct Link<R> {
    inbox: Arc<Inbox<R>>,
    writer: Arc<Mutex<Writer>>,
    reading: watch::Sender<bool>,
    closing: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl<R: Record> Link<R> {
    /// Connects.
    ///
    /// # Panics
    /// If it can't connect.
    pub async fn dial(address: SocketAddr, path: &str, terms: Terms) -> Self {
        let (writer, reader) = websocket::connect(address, path, terms)
            .await
            .unwrap_or_else(|error| panic!("no WebSocket at {address}{path}: {error}"));
        let inbox = Arc::<Inbox<R>>::default();
        let writer = Arc::new(Mutex::new(writer));
        let reading = watch::Sender::new(true);
        let closing = Arc::new(AtomicBool::new(false));
        let task = Task {
            inbox: Arc::clone(&inbox),
            writer: Arc::clone(&writer),
            reading: reading.subscribe(),
            closing: Arc::clone(&closing),
            reader,
            owed: None,
        };
        Self {
            inbox,
            writer,
            reading,
            closing,
            task: tokio::spawn(task.run()),
        }
    }

    /// The record.
    #[must_use]
    pub fn inbox(&self) -> &Inbox<R> {
        &self.inbox
    }

    /// Sends one frame. It is no error if the connection has ended.
    pub async fn frame(&self, opcode: u8, payload: &[u8]) {
        if opcode == CLOSE {
            self.closing.store(true, Ordering::Relaxed);
        }
        let _ = self.writer.lock().await.frame(opcode, payload).await;
    }

    /// Sends these bytes. It is no error if the connection has ended.
    pub async fn bytes(&self, bytes: &[u8]) {
        let _ = self.writer.lock().await.bytes(bytes).await;
    }

    /// Stops reading, so what the server sends fills the buffers.
    pub fn stop_reading(&self) {
        self.reading.send_replace(false);
    }

    /// Reads again.
    pub fn resume_reading(&self) {
        self.reading.send_replace(true);
    }

    /// Waits for the end of the connection.
    ///
    /// # Panics
    /// If it doesn't end in time.
    pub async fn end(&self, within: Duration) -> End {
        let end = self.inbox.until(within, |record| record.end().clone());
        let end = end.await;
        end.unwrap_or_else(|| panic!("the connection did not end within {within:?}"))
    }

    /// How the connection has ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.inbox.read().end().clone()
    }

    /// Sends a close frame with code 1000 and waits for the server's.
    ///
    /// # Panics
    /// If there is none.
    pub async fn close(&self) -> End {
        self.frame(CLOSE, &1000u16.to_be_bytes()).await;
        self.end(crate::SOON).await
    }

    /// Ends the sending direction with a TCP FIN and without a close frame.
    pub async fn finish(&self) {
        let _ = self.writer.lock().await.finish().await;
    }

    /// Resets the TCP connection, as after a crash of the client's machine.
    pub async fn reset(self) {
        let _ = self.writer.lock().await.reset_on_drop();
    }
}

impl<R> Drop for Link<R> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task<R> {
    inbox: Arc<Inbox<R>>,
    writer: Arc<Mutex<Writer>>,
    reading: watch::Receiver<bool>,
    /// True if a close frame was sent. Then the server's needs no answer.
    closing: Arc<AtomicBool>,
    reader: Reader,
    owed: Option<(Instant, Owed)>,
}

impl<R: Record> Task<R> {
    async fn run(mut self) {
        loop {
            let due = self.owed.as_ref().map(|(due, _)| *due);
            let reading = *self.reading.borrow_and_update();
            let frame = tokio::select! {
                frame = self.reader.frame(), if reading => frame,
                () = sleep_until(due), if due.is_some() => {
                    self.pay().await;
                    continue;
                }
                changed = self.reading.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let end = match frame {
                Ok(Some(frame)) => match self.frame(frame).await {
                    Ok(()) => continue,
                    Err(broken) => End::Broken(broken),
                },
                Ok(None) => End::Dropped,
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    End::Broken(error.to_string())
                }
                Err(_) => End::Dropped,
            };
            self.inbox.write(|record| {
                record.set_end(end);
            });
            return;
        }
    }

    async fn frame(&mut self, frame: Frame) -> Result<(), String> {
        match frame.opcode {
            PING => self.answer(PONG, &frame.payload).await,
            PONG => {}
            CLOSE => {
                let (code, reason) = frame.close();
                let echo = code.to_be_bytes();
                let payload: &[u8] = if code == NO_CODE { &[] } else { &echo };
                if !self.closing.load(Ordering::Relaxed) {
                    self.answer(CLOSE, payload).await;
                }
                self.inbox.write(|record| {
                    record.set_end(End::Closed { code, reason });
                });
            }
            _ => {
                let mut owed = Ok(None);
                self.inbox.write(|record| owed = record.message(&frame));
                if let (Some(owed), None) = (owed?, &self.owed) {
                    self.owed = Some((Instant::now() + owed.after, owed));
                }
            }
        }
        Ok(())
    }

    async fn pay(&mut self) {
        if let Some((_, owed)) = self.owed.take() {
            self.answer(owed.opcode, &owed.payload).await;
        }
    }

    async fn answer(&self, opcode: u8, payload: &[u8]) {
        let _ = self.writer.lock().await.frame(opcode, payload).await;
    }
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}
