//! `chat.v1.UserService`, for back ends: users who are connected now, and their sessions.
//!
//! Connectors hold the sessions, and chat asks them ([`Connectors`]).

mod connectors;
mod disconnect;
mod fields;
mod presence;
mod push;
mod search;
mod sessions;

pub use connectors::Connectors;

use crate::calls::respond;
use proto::chat::v1;
use proto::chat::v1::user_service_server::UserService;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The contract for back ends.
pub(crate) struct Users {
    pub(crate) connectors: Arc<Connectors>,
    /// The largest body of a message, in bytes.
    pub(crate) message_limit: usize,
}

#[tonic::async_trait]
impl UserService for Users {
    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        respond(sessions::list(&self.connectors, request.into_inner()).await)
    }

    async fn batch_get_presence(
        &self,
        request: Request<v1::BatchGetPresenceRequest>,
    ) -> Result<Response<v1::BatchGetPresenceResponse>, Status> {
        respond(presence::presence(&self.connectors, request.into_inner()).await)
    }

    async fn push_to_users(
        &self,
        request: Request<v1::PushToUsersRequest>,
    ) -> Result<Response<v1::PushToUsersResponse>, Status> {
        let limit = self.message_limit;
        respond(push::push(&self.connectors, request.into_inner(), limit).await)
    }

    async fn disconnect(
        &self,
        request: Request<v1::DisconnectRequest>,
    ) -> Result<Response<v1::DisconnectResponse>, Status> {
        respond(disconnect::disconnect(&self.connectors, request.into_inner()).await)
    }
}
