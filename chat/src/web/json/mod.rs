//! Protobuf messages as JSON and back, by the canonical mapping of protobuf ("ProtoJSON"), for any message that a descriptor
//! describes.
//!
//! Both directions go from bytes to bytes, without a tree of the message between them. A tree would cost hundreds of bytes for
//! each value of three, and a caller may send megabytes of such values.

mod read;
mod reader;
mod scalar;
mod structs;
#[cfg(test)]
mod tests;
mod wire;
mod write;

pub(super) use read::read;
pub(super) use write::{write, write_any};
