//! Socket.IO packet by packet: requests, and a client with a WebSocket. [`crate::polling`] is the client that polls.

use crate::SOON;
use crate::link::{End, Link, Owed, Record};
use crate::websocket::{Frame, TEXT, Terms};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// The packets that came over a WebSocket.
#[derive(Debug, Default)]
pub struct Packets {
    /// What came, in order, as the frames had it.
    pub packets: Vec<String>,
    end: Option<End>,
}

impl Record for Packets {
    fn message(&mut self, frame: &Frame) -> Result<Option<Owed>, String> {
        if frame.opcode != TEXT {
            return Err("a binary frame from Socket.IO".into());
        }
        let packet = String::from_utf8(frame.payload.to_vec());
        self.packets
            .push(packet.map_err(|error| error.to_string())?);
        Ok(None)
    }

    fn end(&self) -> &Option<End> {
        &self.end
    }

    fn set_end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }
}

/// Opens a WebSocket at this path, such as `/socket.io/?EIO=4&transport=websocket`.
pub async fn connect(address: SocketAddr, path: &str) -> Link<Packets> {
    Link::dial(address, path, Terms::default()).await
}

/// Sends one packet.
pub async fn say(link: &Link<Packets>, packet: &str) {
    link.frame(TEXT, packet.as_bytes()).await;
}

/// Waits until `count` packets have come. Returns all of them.
///
/// # Panics
/// If they do not come in time.
pub async fn until(link: &Link<Packets>, count: usize) -> Vec<String> {
    let came = link.inbox().until(SOON, |record| {
        (record.packets.len() >= count).then(|| record.packets.clone())
    });
    let came = came.await;
    came.unwrap_or_else(|| panic!("{count} packets: {:?}", link.inbox().read().packets))
}

/// A request to a handler as a packet of Socket.IO.
///
/// # Panics
/// If the route is longer than 255 bytes.
#[must_use]
pub fn request(id: u32, route: &str, body: &Value) -> String {
    let mut message: String = id.to_be_bytes().map(char::from).iter().collect();
    let length = u8::try_from(route.len()).expect("a short route");
    message.push(char::from(length));
    message.push_str(route);
    message.push_str(&body.to_string());
    format!("42{}", json!(["message", message]))
}

/// The message in the string of an event packet.
///
/// # Panics
/// If the packet is no such event.
#[must_use]
pub fn message(packet: &str) -> Value {
    let event = packet.strip_prefix("42").expect("an event");
    let event: Value = serde_json::from_str(event).expect("JSON");
    assert_eq!(event[0], "message");
    serde_json::from_str(event[1].as_str().expect("a string")).expect("JSON")
}
