//! A client of Server-Sent Events with a parser of its own, which keeps what a browser's `EventSource` keeps.

use crate::SOON;
use crate::inbox::Inbox;
use crate::pace::timeout;
use crate::polling::Http;
use bytes::BytesMut;
use serde_json::Value;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

/// An event, as a page gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name. Events without a name are called `message`.
    pub name: String,
    /// The id that counts from it on.
    pub id: String,
    /// What it says.
    pub data: Value,
}

/// All that has come on one stream.
#[derive(Debug, Default)]
pub struct Received {
    /// The status and the headers in lower case, once they have come.
    pub head: Option<(u16, String)>,
    /// The events that a page gets.
    pub events: Vec<Event>,
    /// The id that a browser shows when it comes back.
    pub last_id: String,
    /// How many milliseconds a browser waits before that.
    pub retry: Option<u64>,
    /// How many comments have come.
    pub comments: usize,
    /// The body of an answer that is no stream.
    pub body: String,
    /// The stream is over.
    pub is_over: bool,
    /// What has come of the present line.
    text: BytesMut,
    /// What the lines of the present event have said.
    fields: Fields,
}

#[derive(Debug, Default)]
struct Fields {
    name: String,
    data: String,
    id: String,
}

impl Received {
    /// One line, as the HTML standard says.
    fn line(&mut self, line: &str) {
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "event" => value.clone_into(&mut self.fields.name),
            "data" => {
                self.fields.data.push_str(value);
                self.fields.data.push('\n');
            }
            "id" => value.clone_into(&mut self.fields.id),
            "retry" => self.retry = value.parse().ok(),
            other => panic!("no field of an event: {other}"),
        }
    }

    fn dispatch(&mut self) {
        self.fields.id.clone_into(&mut self.last_id);
        let data = std::mem::take(&mut self.fields.data);
        let name = std::mem::take(&mut self.fields.name);
        if data.is_empty() {
            return;
        }
        let name = Some(name).filter(|it| !it.is_empty());
        self.events.push(Event {
            name: name.unwrap_or_else(|| "message".to_owned()),
            id: self.last_id.clone(),
            data: serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error}: {data}")),
        });
    }
}

/// How a client asks.
#[derive(Debug, Default, Clone)]
pub struct Ask<'a> {
    /// The query of the URL.
    pub query: String,
    /// Further headers.
    pub headers: Vec<(&'a str, String)>,
    /// The socket takes little at once.
    pub small_buffer: bool,
}

impl<'a> Ask<'a> {
    /// Asks with this query.
    #[must_use]
    pub fn of(query: impl Into<String>) -> Self {
        Self {
            query: query.into(),
            ..Self::default()
        }
    }

    /// The same with this header.
    #[must_use]
    pub fn with(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same as a browser asks that has got this id last.
    #[must_use]
    pub fn as_browser(self, last: &str) -> Self {
        let this = self.with("Accept", "text/event-stream");
        match last {
            "" => this,
            last => this.with("Last-Event-ID", last),
        }
    }
}

/// A client that reads a stream.
pub struct Stream {
    inbox: Arc<Inbox<Received>>,
    reading: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Stream {
    /// Asks for a stream, and waits for the head of the answer, whatever it is.
    ///
    /// # Panics
    /// If there is no answer in time.
    pub async fn open(address: SocketAddr, ask: Ask<'_>) -> Self {
        let opened = timeout(SOON, Self::dial(address, ask)).await;
        let stream = opened.expect("an answer in time").expect("an answer");
        let head = stream.inbox.until(SOON, |it| {
            (it.head.is_some() || it.is_over).then(|| it.head.clone())
        });
        let head = head.await.expect("an answer in time");
        assert!(head.is_some(), "the connection ended without an answer");
        stream
    }

    /// Opens a stream that begins, as this user in these channels.
    ///
    /// # Panics
    /// If it does not begin.
    pub async fn of(address: SocketAddr, user: &str, channels: &[&str]) -> Self {
        let stream = Self::open(address, Ask::of(query(user, channels))).await;
        stream.until("onSession").await;
        stream
    }

    /// Sends the request.
    ///
    /// # Errors
    /// The error of the socket.
    pub async fn dial(address: SocketAddr, ask: Ask<'_>) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if ask.small_buffer {
            socket.set_recv_buffer_size(4 << 10)?;
        }
        let mut stream = socket.connect(address).await?;
        let mut request = format!("GET /sse?{} HTTP/1.1\r\nHost: {address}\r\n", ask.query);
        for (name, value) in &ask.headers {
            let _ = write!(request, "{name}: {value}\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        let inbox = Arc::<Inbox<Received>>::default();
        let reading = watch::Sender::new(true);
        let task = read(stream, Arc::clone(&inbox), reading.subscribe());
        Ok(Self {
            inbox,
            reading,
            task: tokio::spawn(task),
        })
    }

    /// The record.
    #[must_use]
    pub fn inbox(&self) -> &Inbox<Received> {
        &self.inbox
    }

    /// The status of the answer.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.inbox.read().head.as_ref().expect("an answer").0
    }

    /// The headers of the answer, in lower case.
    ///
    /// # Panics
    /// If there is no answer.
    #[must_use]
    pub fn head(&self) -> String {
        self.inbox.read().head.clone().expect("an answer").1
    }

    /// Waits for the first event of this name.
    ///
    /// # Panics
    /// If none comes in time.
    pub async fn until(&self, name: &str) -> Event {
        self.until_event(name, |event| event.name == name).await
    }

    /// Waits for the first event of which this is true.
    ///
    /// # Panics
    /// If none comes in time.
    pub async fn until_event(&self, what: &str, is_it: impl Fn(&Event) -> bool) -> Event {
        let came = self
            .inbox
            .until(SOON, |it| it.events.iter().find(|it| is_it(it)).cloned());
        let came = came.await;
        came.unwrap_or_else(|| panic!("no {what} came: {:#?}", self.inbox.read()))
    }

    /// The events that have come.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.inbox.read().events.clone()
    }

    /// The `content` of the messages that have come.
    #[must_use]
    pub fn contents(&self) -> Vec<String> {
        contents(&self.events())
    }

    /// Where posts go.
    ///
    /// # Panics
    /// If the stream has not begun.
    #[must_use]
    pub fn session(&self) -> String {
        let events = self.events();
        let first = events.first().expect("a first event");
        let session = first.data["body"]["session"].as_str();
        session.expect("the id of a session").to_owned()
    }

    /// The id that a browser shows when it comes back.
    #[must_use]
    pub fn last_id(&self) -> String {
        self.inbox.read().last_id.clone()
    }

    /// Stops reading, so what the server sends fills the buffers.
    pub fn stop_reading(&self) {
        self.reading.send_replace(false);
    }

    /// Reads again.
    pub fn resume_reading(&self) {
        self.reading.send_replace(true);
    }

    /// Waits for the end of the stream.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn end(&self, within: Duration) {
        let ended = self.inbox.until(within, |it| it.is_over.then_some(()));
        assert!(
            ended.await.is_some(),
            "the stream did not end within {within:?}"
        );
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The contents of the messages among these events.
#[must_use]
pub fn contents(events: &[Event]) -> Vec<String> {
    let messages = events.iter().filter(|it| it.name == "onMessage");
    let contents = messages.filter_map(|it| it.data["body"]["content"].as_str());
    contents.map(str::to_owned).collect()
}

/// The query for this user and these channels.
#[must_use]
pub fn query(user: &str, channels: &[&str]) -> String {
    let channels: String = channels.iter().map(|it| format!("&channel={it}")).collect();
    format!("userId={user}{channels}")
}

/// Posts a request to a session. Returns the status and the answer.
///
/// # Panics
/// If there is no answer in time, or if it is no JSON.
pub async fn post(address: SocketAddr, session: &str, request: &Value) -> (u16, Value) {
    let (status, body) = post_text(address, session, &request.to_string()).await;
    let body = serde_json::from_str(&body);
    (status, body.expect("JSON"))
}

/// Posts a text to a session. Returns the status and the body of the answer.
///
/// # Panics
/// If there is no answer in time.
pub async fn post_text(address: SocketAddr, session: &str, text: &str) -> (u16, String) {
    let length = text.len();
    let request = format!(
        "POST /sse/{session} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n{text}"
    );
    let answered = async {
        let mut http = Http::connect(address).await?;
        http.ask(&request).await
    };
    let answered = timeout(SOON, answered).await;
    answered.expect("an answer in time").expect("an answer")
}

async fn read(
    mut stream: TcpStream,
    inbox: Arc<Inbox<Received>>,
    mut reading: watch::Receiver<bool>,
) {
    let mut buffer = BytesMut::new();
    while reading.wait_for(|it| *it).await.is_ok() {
        match stream.read_buf(&mut buffer).await {
            Ok(1..) => inbox.write(|record| take(record, &mut buffer)),
            _ => break,
        }
    }
    // What is left is no line, so it is no part of an event.
    inbox.write(|record| {
        record.body = String::from_utf8_lossy(&buffer).into_owned();
        record.is_over = true;
    });
}

/// Takes a chunk off, as proxies write them: its length, its bytes, and an end of line after each. `None`: there is no whole one.
fn chunk(buffer: &mut BytesMut) -> Option<BytesMut> {
    let end = buffer.windows(2).position(|it| it == b"\r\n")?;
    let length = std::str::from_utf8(&buffer[..end]).expect("a length");
    let length = usize::from_str_radix(length, 16).expect("a length");
    if buffer.len() < end + 2 + length + 2 {
        return None;
    }
    let _ = buffer.split_to(end + 2);
    let chunk = buffer.split_to(length);
    let _ = buffer.split_to(2);
    Some(chunk)
}

/// Takes the whole lines off.
fn take(record: &mut Received, buffer: &mut BytesMut) {
    if record.head.is_none() {
        let Some(end) = buffer.windows(4).position(|it| it == b"\r\n\r\n") else {
            return;
        };
        let head = buffer.split_to(end + 4);
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let status = head.get(9..12).and_then(|it| it.parse().ok());
        record.head = Some((status.expect("a status"), head));
    }
    let is_stream = |(_, head): &(u16, String)| head.contains("content-type: text/event-stream");
    if !record.head.as_ref().is_some_and(is_stream) {
        return;
    }
    let is_chunked = |(_, head): &(u16, String)| head.contains("transfer-encoding: chunked");
    if record.head.as_ref().is_some_and(is_chunked) {
        while let Some(chunk) = chunk(buffer) {
            record.text.unsplit(chunk);
        }
    } else {
        record.text.unsplit(buffer.split());
    }
    while let Some(end) = record.text.iter().position(|it| *it == b'\n') {
        let line = record.text.split_to(end + 1);
        let line = std::str::from_utf8(&line[..end]).expect("UTF-8");
        record.line(line.strip_suffix('\r').unwrap_or(line));
    }
}
