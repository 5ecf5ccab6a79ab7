//! `chat.v1.UserService`, for back ends: users who are connected now, and their sessions. And `chat.v1.NodeService`, for operators:
//! the connectors themselves.
//!
//! Connectors hold the sessions, and chat asks them ([`Connectors`]).

mod connectors;
mod disconnect;
mod fields;
mod memberships;
mod nodes;
mod presence;
mod push;
mod restrict;
mod search;
mod sessions;

pub use connectors::Connectors;

use crate::access::Permit;
use crate::calls::respond;
use crate::rules::Rules;
use channel_store::ChannelStore;
use proto::chat::v1;
use proto::chat::v1::node_service_server::NodeService;
use proto::chat::v1::user_service_server::UserService;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The contract for back ends.
pub(crate) struct Users {
    pub(crate) connectors: Arc<Connectors>,
    /// Keeps what is forbidden to users.
    pub(crate) store: Arc<dyn ChannelStore>,
    /// The largest body of a message, in bytes.
    pub(crate) message_limit: usize,
}

#[tonic::async_trait]
impl UserService for Users {
    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(sessions::list(&self.connectors, &permit, request.into_inner()).await)
    }

    async fn batch_get_presence(
        &self,
        request: Request<v1::BatchGetPresenceRequest>,
    ) -> Result<Response<v1::BatchGetPresenceResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(presence::presence(&self.connectors, &permit, request.into_inner()).await)
    }

    async fn push_to_users(
        &self,
        request: Request<v1::PushToUsersRequest>,
    ) -> Result<Response<v1::PushToUsersResponse>, Status> {
        let limit = self.message_limit;
        let permit = Permit::of(request.extensions());
        respond(push::push(&self.connectors, &permit, request.into_inner(), limit).await)
    }

    async fn add_to_channel(
        &self,
        request: Request<v1::AddToChannelRequest>,
    ) -> Result<Response<v1::AddToChannelResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(memberships::add(&self.connectors, &permit, request.into_inner()).await)
    }

    async fn remove_from_channel(
        &self,
        request: Request<v1::RemoveFromChannelRequest>,
    ) -> Result<Response<v1::RemoveFromChannelResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(memberships::remove(&self.connectors, &permit, request.into_inner()).await)
    }

    async fn disconnect(
        &self,
        request: Request<v1::DisconnectRequest>,
    ) -> Result<Response<v1::DisconnectResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(disconnect::disconnect(&self.connectors, &permit, request.into_inner()).await)
    }

    async fn block_user(
        &self,
        request: Request<v1::BlockUserRequest>,
    ) -> Result<Response<v1::BlockUserResponse>, Status> {
        let (permit, store) = (Permit::of(request.extensions()), &*self.store);
        respond(restrict::block(store, &self.connectors, &permit, request.into_inner()).await)
    }

    async fn unblock_user(
        &self,
        request: Request<v1::UnblockUserRequest>,
    ) -> Result<Response<v1::UnblockUserResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(restrict::unblock(&*self.store, &permit, request.into_inner()).await)
    }

    async fn revoke_tokens(
        &self,
        request: Request<v1::RevokeTokensRequest>,
    ) -> Result<Response<v1::RevokeTokensResponse>, Status> {
        let (permit, store) = (Permit::of(request.extensions()), &*self.store);
        respond(restrict::revoke(store, &self.connectors, &permit, request.into_inner()).await)
    }

    async fn get_restrictions(
        &self,
        request: Request<v1::GetRestrictionsRequest>,
    ) -> Result<Response<v1::GetRestrictionsResponse>, Status> {
        let permit = Permit::of(request.extensions());
        respond(restrict::get(&self.connectors, &permit, request.into_inner()).await)
    }
}

/// The contract for operators.
pub(crate) struct Nodes {
    pub(crate) connectors: Arc<Connectors>,
    pub(crate) rules: Rules,
}

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn list_connectors(
        &self,
        _: Request<v1::ListConnectorsRequest>,
    ) -> Result<Response<v1::ListConnectorsResponse>, Status> {
        respond(nodes::list(&self.connectors, &self.rules).await)
    }

    async fn drain_connector(
        &self,
        request: Request<v1::DrainConnectorRequest>,
    ) -> Result<Response<v1::DrainConnectorResponse>, Status> {
        respond(nodes::drain(&self.connectors, request.into_inner()).await)
    }
}
