//! Tests the codecs and the WebSocket reader with the original's recorded bytes (`testkit/recordings/`), with decoders
//! that were written separately, and with arbitrary input.

mod documents;
mod ephemerals;
mod golden;
mod json;
mod pomelo;
mod reference;
mod replay;
mod socketio;
mod sse;
mod websocket;
