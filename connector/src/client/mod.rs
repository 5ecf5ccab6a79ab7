//! What one client costs and does while its socket lives: the loop that serves it, its clock, and the list of all of them.

mod backlog;
mod client_loop;
mod clients;
mod clock;
mod life;

pub(crate) use clients::Clients;
