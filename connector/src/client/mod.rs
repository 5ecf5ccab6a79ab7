//! Serves clients: the loop of one client, its clock, and the list of all clients.

mod backlog;
mod client_loop;
mod clients;
mod clock;
mod drain;
mod life;

pub(crate) use clients::Clients;
pub(crate) use drain::Pace;
