//! The whole system as its users meet it: real processes of every service, a real Redis, clients over sockets.
//!
//! Each test is a sentence about behaviour; K, F numbers and promises are those of docs/compatibility.md.

mod acknowledged_by_replicas;
mod bounds;
mod browsers;
mod channels;
mod chats_in_turn;
mod command_line;
mod compression;
mod costs;
mod dead_connectors;
mod detached_members;
mod ends;
mod full_memory;
mod grace;
mod graceful_end;
mod json_clients;
mod lagging_replica;
mod limits;
mod load;
mod load_generator;
mod login_policies;
mod membership_faults;
mod one_order;
mod outages;
mod pomelo_libraries;
mod pomelo_protocol;
mod quick_start;
mod raw_tcp;
mod recorded;
mod redis_cluster;
mod redis_connections;
mod redis_restarts;
mod redis_wiped;
mod request_faults;
mod rolled_back;
mod rooms;
mod sentinels;
mod slow_readers;
mod small_clients;
mod socket_io;
mod standing_alone;
mod switched_primaries;
mod wanderer;
mod without_codegen;
mod without_peers;
