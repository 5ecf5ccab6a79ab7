//! The whole system as its users meet it: real processes of every service, a real Redis, clients over sockets.
//!
//! Each test is a sentence about behaviour; K, F numbers and promises are those of docs/compatibility.md.

mod command_line;
mod costs;
mod dead_connectors;
mod graceful_end;
mod json_clients;
mod limits;
mod load;
mod membership_faults;
mod one_order;
mod outages;
mod pomelo_libraries;
mod pomelo_protocol;
mod quick_start;
mod recorded;
mod request_faults;
mod rooms;
mod slow_readers;
mod standing_alone;
mod without_codegen;
mod without_peers;
