//! The contract between connectors, back ends and chat: `proto/chat/v1/chat.proto`, compiled.
//!
//! Nothing else lives here, so that whoever speaks to chat in Rust needs this crate alone.

/// Package `chat.v1`.
pub mod v1 {
    #![expect(
        missing_docs,
        reason = "documented in chat.proto; prost copies what it can"
    )]
    tonic::include_proto!("chat.v1");

    /// The descriptor set of `chat.v1` and what it imports, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/chat_v1.bin"));
}
