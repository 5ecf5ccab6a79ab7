//! The contracts, compiled: `chat.v1` for back ends and `connector.v1` for connectors, which chat serves, and `route.v1`
//! and `access.v1`, which operators implement.
//!
//! Nothing else lives here but the names of status codes and the conversion of times and of JSON objects, so a program that calls chat needs this crate alone.

pub mod codes;
pub mod json;
pub mod time;

/// The contract for back ends.
pub mod chat {
    /// Package `chat.v1`.
    pub mod v1 {
        #![expect(
            missing_docs,
            reason = "documented in the .proto files; prost copies what it can"
        )]
        tonic::include_proto!("chat.v1");
    }
}

/// The contract for connectors.
pub mod connector {
    /// Package `connector.v1`.
    pub mod v1 {
        #![expect(
            missing_docs,
            reason = "documented in the .proto files; prost copies what it can"
        )]
        tonic::include_proto!("connector.v1");
    }
}

/// The contract for handlers that operators write.
pub mod route {
    /// Package `route.v1`.
    pub mod v1 {
        #![expect(
            missing_docs,
            reason = "documented in the .proto files; prost copies what it can"
        )]
        tonic::include_proto!("route.v1");
    }
}

/// The contract for hooks that operators write.
pub mod access {
    /// Package `access.v1`.
    pub mod v1 {
        #![expect(
            missing_docs,
            reason = "documented in the .proto files; prost copies what it can"
        )]
        tonic::include_proto!("access.v1");
    }
}

/// The descriptors of the contracts that chat serves, and of what they import, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contract.binpb"));
