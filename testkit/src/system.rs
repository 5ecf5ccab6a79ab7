//! A whole system: one Redis, several chats and several connectors, each of which is a process.

use crate::chat_api::ChatApi;
use crate::permit::Permit;
use crate::pomelo::Client;
use crate::redis::Redis;
use crate::service::{Chat, Connector};
use crate::{SOON, wait};
use std::net::SocketAddr;

/// What to start, and with which settings.
pub struct Plan {
    connectors: usize,
    chats: usize,
    own_chat: bool,
    alone: bool,
    descriptors: Option<u32>,
    chat_flags: Vec<&'static str>,
    connector_flags: Vec<&'static str>,
}

impl Plan {
    /// This many connectors, each of which knows every chat, and this many chats.
    #[must_use]
    pub fn of(connectors: usize, chats: usize) -> Self {
        Self {
            connectors,
            chats,
            own_chat: false,
            alone: false,
            descriptors: None,
            chat_flags: Vec::new(),
            connector_flags: Vec::new(),
        }
    }

    /// The first connector knows only the first chat, the second connector only the second chat, and so on.
    #[must_use]
    pub fn each_its_own_chat(mut self) -> Self {
        self.own_chat = true;
        self
    }

    /// No other test runs at the same time, because this one measures, or needs the whole machine.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Each connector may open this many file descriptors, and can't raise the limit.
    #[must_use]
    pub fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Further flags for each connector.
    #[must_use]
    pub fn connector_flags(mut self, flags: &[&'static str]) -> Self {
        self.connector_flags.extend(flags);
        self
    }

    /// The login policy, instead of `reject`.
    #[must_use]
    pub fn login_policy(self, policy: &'static str) -> Self {
        self.connector_flags(&["--login-policy", policy])
    }

    /// Further flags for each chat.
    #[must_use]
    pub fn chat_flags(mut self, flags: &[&'static str]) -> Self {
        self.chat_flags.extend(flags);
        self
    }

    /// Starts the system and waits until everything is ready.
    ///
    /// # Panics
    /// If something doesn't start.
    pub async fn start(self) -> System {
        let permit = self.permit().await;
        let redis = Redis::start().await;
        let Services { connectors, chats } = self.services(&redis.url(), &redis.url()).await;
        System {
            connectors,
            chats,
            redis,
            _permit: permit,
        }
    }

    /// Waits until this test may run.
    pub async fn permit(&self) -> Permit {
        if self.alone {
            Permit::alone().await
        } else {
            Permit::shared().await
        }
    }

    /// Starts the services without a Redis, and waits until they are ready. Chats and connectors get different URLs of
    /// Redis.
    ///
    /// # Panics
    /// If something doesn't start.
    pub async fn services(&self, for_chats: &str, for_connectors: &str) -> Services {
        self.services_at(&[for_chats], &[for_connectors]).await
    }

    /// The same with several URLs: the first is for the first chat or connector, and so on.
    ///
    /// # Panics
    /// If something doesn't start.
    pub async fn services_at(&self, for_chats: &[&str], for_connectors: &[&str]) -> Services {
        let mut chats = Vec::new();
        for number in 0..self.chats {
            let redis = for_chats[number % for_chats.len()];
            let chat = Chat::begin(redis, &self.chat_flags).await;
            chat.ready().await;
            chats.push(chat);
        }
        let mut connectors = Vec::new();
        for number in 0..self.connectors {
            let known: Vec<_> = if self.own_chat {
                vec![chats[number].url()]
            } else {
                chats.iter().map(Chat::url).collect()
            };
            let id = format!("connector-{}", number + 1);
            let redis = for_connectors[number % for_connectors.len()];
            let flags = &self.connector_flags;
            let chats = known.join(",");
            let connector =
                Connector::begin_within(self.descriptors, &id, &chats, redis, flags).await;
            connector.ready().await;
            connectors.push(connector);
        }
        Services { connectors, chats }
    }
}

/// Running services. Their Redis belongs to the test.
pub struct Services {
    /// The connectors, `connector-1` first.
    pub connectors: Vec<Connector>,
    /// The chats.
    pub chats: Vec<Chat>,
}

impl Services {
    /// The addresses for clients.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let connectors = self.connectors.iter();
        connectors.map(|connector| connector.address()).collect()
    }

    /// A back end's client of one of the chats.
    #[must_use]
    pub fn api(&self, chat: usize) -> ChatApi {
        ChatApi::at(self.chats[chat].address())
    }

    /// Waits until all services are ready.
    ///
    /// # Panics
    /// If one isn't in time.
    pub async fn ready(&self) {
        for chat in &self.chats {
            chat.ready().await;
        }
        for connector in &self.connectors {
            connector.ready().await;
        }
    }
}

/// A running system. The connectors are dropped first, and Redis last.
pub struct System {
    /// The connectors, `connector-1` first.
    pub connectors: Vec<Connector>,
    /// The chats.
    pub chats: Vec<Chat>,
    /// The one Redis.
    pub redis: Redis,
    _permit: Permit,
}

impl System {
    /// Two connectors, two chats, one Redis.
    ///
    /// # Panics
    /// If something doesn't start.
    pub async fn start() -> Self {
        Plan::of(2, 2).start().await
    }

    /// A member of a channel on one of the connectors. It has received its own onJoin.
    ///
    /// # Panics
    /// If any of this fails.
    pub async fn member(&self, connector: usize, user: &str, channel: &str) -> Client {
        Client::join(self.connectors[connector].address(), user, channel).await
    }

    /// A client of one of the connectors that is not logged in.
    ///
    /// # Panics
    /// If it can't connect.
    pub async fn visitor(&self, connector: usize) -> Client {
        Client::connect(self.connectors[connector].address()).await
    }

    /// A back end's client of one of the chats.
    #[must_use]
    pub fn api(&self, chat: usize) -> ChatApi {
        ChatApi::at(self.chats[chat].address())
    }

    /// Waits until one of the chats lists exactly these members, with the number of their sessions, sorted by name.
    ///
    /// # Panics
    /// If none does in time.
    pub async fn until_members(&self, channel: &str, expected: &[(&str, u32)]) {
        let chats: Vec<_> = (0..self.chats.len()).map(|chat| self.api(chat)).collect();
        let what = format!("the members of {channel} are {expected:?}");
        wait::some(&what, SOON, async || {
            for chat in &chats {
                let Ok(members) = chat.members(channel).await else {
                    continue;
                };
                let names = members.iter().map(|(user, n)| (user.as_str(), *n));
                if names.eq(expected.iter().copied()) {
                    return Some(());
                }
            }
            None
        })
        .await;
    }
}

/// The index of the one of two chats through which all publications go at present. All sends of a channel go to the
/// same chat.
///
/// # Panics
/// If nobody sends, or the sends don't all go through one chat in time.
pub async fn busy(chats: &[Chat]) -> usize {
    let counted = async || [chats[0].publications().await, chats[1].publications().await];
    let mut before = counted().await;
    wait::some("one chat takes all sends", SOON, async || {
        let now = counted().await;
        let grown = [now[0] - before[0], now[1] - before[1]];
        if grown[0] + grown[1] < 20 {
            return None;
        }
        before = now;
        let idle = grown.iter().position(|grown| *grown == 0)?;
        Some(1 - idle)
    })
    .await
}
