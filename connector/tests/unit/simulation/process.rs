//! The processes of a simulation: real connectors and chats, but without sockets.

use super::Faults;
use super::guest::Guest;
use super::network::{FarHints, FarLeases, FarStore, FarUsers, Link, Slots};
use super::truth::Truth;
use crate::access::AccessControl;
use crate::chat_client::{Chat, Source};
use crate::hub::{Hub, TOUCH_INTERVAL};
use crate::limits::QueueLimits;
use crate::membership::LeaseKeeper;
use crate::membership::Logins;
use crate::routes::Routes;
use crate::session::{Services, Terms};
use channel_store::memory::MemoryStore;
use parking_lot::Mutex;
use proto::chat::v1::chat_service_client::ChatServiceClient;
use proto::chat::v1::{DeleteChannelRequest, ListMembersRequest};
use runtime::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;
use wire::Disconnect;

pub(super) const LEASE: Duration = Duration::from_secs(10);

/// A chat, and its link to the store.
pub(super) struct ChatProcess {
    pub(super) link: Arc<Link>,
    pub(super) service: chat::Service,
}

impl ChatProcess {
    pub(super) fn start(
        store: &Arc<MemoryStore>,
        lossy: u32,
        slots: &Arc<Slots>,
        truth: &Arc<Truth>,
    ) -> Self {
        let link = Link::new(lossy, slots);
        let far_store = Arc::new(FarStore {
            link: Arc::clone(&link),
            store: store.clone(),
        });
        let leases = FarLeases::of(store, &link, truth);
        let users = FarUsers::of(store, &link);
        let cleanup = chat::Cleanup::begin(far_store.clone(), leases, users);
        let limits = chat::Limits::default();
        let service = chat::service(
            far_store,
            cleanup,
            Arc::default(),
            Arc::default(),
            &limits,
            Shutdown::new(),
        );
        Self { link, service }
    }

    /// Deletes a channel, as a back end would. False: the outcome is unknown.
    pub(super) async fn delete(&self, channel: &str, key: &str) -> bool {
        let deletion = DeleteChannelRequest {
            channel: channel.to_owned(),
            idempotency_key: key.to_owned(),
        };
        let mut client = ChatServiceClient::new(self.service.clone());
        match client.delete_channel(deletion).await {
            Ok(_) => true,
            Err(status) => status.code() == Code::NotFound,
        }
    }

    /// Lists the members of a channel, as a back end would.
    pub(super) async fn list(&self, channel: &str) {
        let page = ListMembersRequest {
            channel: channel.to_owned(),
            ..ListMembersRequest::default()
        };
        let mut client = ChatServiceClient::new(self.service.clone());
        let _ = client.list_members(page).await;
    }
}

/// A connector. When it is dropped, nothing of it runs any more.
pub(super) struct ConnectorProcess {
    pub(super) link: Arc<Link>,
    services: Arc<Services>,
    queues: Arc<QueueLimits>,
    sockets: Mutex<JoinSet<()>>,
    _tasks: [AbortOnDropHandle<()>; 3],
}

/// How a client's visit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    /// The client was not let in.
    Refused,
    /// The client left.
    Left,
    /// The connector closed the connection for this reason.
    Closed(Disconnect),
    /// The client is gone, and the connector does not know yet.
    Vanished,
}

impl ConnectorProcess {
    pub(super) fn start(
        name: &str,
        store: &Arc<MemoryStore>,
        faults: &Faults,
        slots: &Arc<Slots>,
        truth: &Arc<Truth>,
        choose: impl Fn() -> chat::Service + Send + Sync + 'static,
    ) -> Arc<Self> {
        let Faults {
            policy,
            lossy,
            grace,
            ..
        } = *faults;
        let link = Link::new(lossy, slots);
        let hub = Hub::new(TOUCH_INTERVAL);
        hub.follow(store.feed(hub.clone()));
        let leases = FarLeases::of(store, &link, truth);
        let users = FarUsers::of(store, &link);
        let hints = Arc::new(FarHints {
            link: Arc::clone(&link),
            hints: store.hints(),
        });
        let logins = Logins::new(policy, users, hints, leases.clone());
        let lease = LeaseKeeper::new(name, LEASE, leases, hub.suspects()).unwrap();
        let chat = Chat::new(Source::InProcess(link.to_chat(choose)));
        let services = Services::new(
            lease,
            logins,
            hub,
            chat,
            store.inboxes(),
            Terms {
                routes: Routes::none(),
                access: AccessControl::open(),
                grace,
            },
        );
        Arc::new(Self {
            link,
            _tasks: services.keep(),
            services,
            queues: QueueLimits::new(64 << 20, 64 << 20),
            sockets: Mutex::default(),
        })
    }

    /// The number of incarnations that the connector has.
    pub(super) fn incarnations(&self) -> usize {
        self.services.lease.count()
    }

    /// A client connects and uses its connection as `act` says. If the connector dies meanwhile, no answer comes.
    pub(super) fn visit<F>(
        &self,
        act: impl FnOnce(Guest) -> F + Send + 'static,
    ) -> oneshot::Receiver<Visit>
    where
        F: Future<Output = (Guest, Visit)> + Send,
    {
        let (told, tells) = oneshot::channel();
        let (services, queues) = (Arc::clone(&self.services), Arc::clone(&self.queues));
        self.sockets.lock().spawn(async move {
            let (guest, visit) = act(Guest::connect(&services, &queues)).await;
            guest.close().await;
            let _ = told.send(visit);
        });
        tells
    }
}
