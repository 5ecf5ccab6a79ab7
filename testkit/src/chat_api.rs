//! Chat's gRPC contract, as a back end calls it.

use proto::chat::v1::chat_service_client::ChatServiceClient;
use proto::chat::v1::{
    HistoryRequest, JoinRequest, JoinResponse, LeaveRequest, ListMembersRequest, Publication,
    SendRequest, SendResponse, send_request::Content,
};
use std::net::SocketAddr;
use std::time::Duration;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// A connection to one chat.
#[derive(Clone)]
pub struct ChatApi {
    channel: Channel,
}

impl ChatApi {
    /// A client of the chat at this address. It connects when it is first used.
    ///
    /// # Panics
    /// Never: an address always makes an endpoint.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        Self {
            channel: endpoint.connect_lazy(),
        }
    }

    /// The generated client, for calls that have no helper here.
    #[must_use]
    pub fn client(&self) -> ChatServiceClient<Channel> {
        ChatServiceClient::new(self.channel())
    }

    /// The connection, for clients of other services.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The users in a channel with the number of their sessions, sorted by name.
    ///
    /// # Errors
    /// The error that chat answers.
    pub async fn members(&self, channel: &str) -> Result<Vec<(String, u32)>, Status> {
        let mut members = std::collections::BTreeMap::new();
        let mut page_token = String::new();
        loop {
            let request = ListMembersRequest {
                channel: channel.to_owned(),
                page_size: 1_000,
                page_token,
                ..ListMembersRequest::default()
            };
            let page = self.client().list_members(request).await?.into_inner();
            members.extend(page.members.into_iter().map(|m| (m.user, m.sessions)));
            if page.next_page_token.is_empty() {
                return Ok(members.into_iter().collect());
            }
            page_token = page.next_page_token;
        }
    }

    /// The oldest publications that a channel's log holds, up to 100.
    ///
    /// # Errors
    /// The error that chat answers.
    pub async fn history(&self, channel: &str) -> Result<Vec<Publication>, Status> {
        let request = HistoryRequest {
            channel: channel.to_owned(),
            ..HistoryRequest::default()
        };
        let page = self.client().history(request).await?.into_inner();
        Ok(page.publications)
    }

    /// Publishes a JSON object in the name of a user.
    ///
    /// # Errors
    /// The error that chat answers.
    pub async fn send(
        &self,
        channel: &str,
        user: &str,
        json: &str,
        key: &str,
    ) -> Result<SendResponse, Status> {
        let request = SendRequest {
            channel: channel.to_owned(),
            user: user.to_owned(),
            content: Some(Content::BodyJson(json.to_owned().into())),
            idempotency_key: key.to_owned(),
            ..SendRequest::default()
        };
        Ok(self.client().send(request).await?.into_inner())
    }

    /// Adds a detached member.
    ///
    /// # Errors
    /// The error that chat answers.
    pub async fn join(&self, channel: &str, user: &str) -> Result<JoinResponse, Status> {
        let request = JoinRequest {
            channel: channel.to_owned(),
            user: user.to_owned(),
            ..JoinRequest::default()
        };
        Ok(self.client().join(request).await?.into_inner())
    }

    /// Adds a detached member for this time.
    ///
    /// # Errors
    /// The error that chat answers.
    pub async fn join_for(
        &self,
        channel: &str,
        user: &str,
        time: Duration,
    ) -> Result<JoinResponse, Status> {
        let request = JoinRequest {
            channel: channel.to_owned(),
            user: user.to_owned(),
            ttl: time.try_into().ok(),
            ..JoinRequest::default()
        };
        Ok(self.client().join(request).await?.into_inner())
    }

    /// Ends a detached membership. Returns whether there was one.
    ///
    /// # Errors
    /// The error that chat answers.
    pub async fn leave(&self, channel: &str, user: &str) -> Result<bool, Status> {
        let request = LeaveRequest {
            channel: channel.to_owned(),
            user: user.to_owned(),
            ..LeaveRequest::default()
        };
        Ok(self.client().leave(request).await?.into_inner().left)
    }
}
