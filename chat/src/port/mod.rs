//! Chat's port: connections and their bounds, and the layers that every call passes. It knows no call by its content.
//!
//! A request comes from a connection ([`connections`]) through the gate ([`gate`]) and, if it is for one of chat's own services,
//! is counted ([`measure`]) and bounded ([`guard`]) before its method runs.

pub(crate) mod age;
pub(crate) mod connections;
pub(crate) mod ending;
pub(crate) mod gate;
pub(crate) mod guard;
pub(crate) mod health;
pub(crate) mod measure;
pub(crate) mod streams;

mod request_body;
mod response_body;
pub(crate) mod share;
mod stream;
mod version;
