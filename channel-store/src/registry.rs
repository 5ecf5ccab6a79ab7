//! Who is logged in, cluster-wide (MEMBERSHIP.md).
//!
//! Each login of a user leaves an entry under the user's name, with a login rank: later logins have higher ones. A
//! connector writes its own sessions' entries, and may mark as superseded what they outrank; it takes away nobody
//! else's but those of the dead. So whoever is superseded is told by the connector that holds the socket.
//!
//! A client may hold a secret, of which the entry keeps a [`Proof`]. A client that shows it at a later login takes the place
//! of the sessions that have it, whatever the policy. It proves the place, not the identity.

use crate::error::StoreError;
use crate::membership::Predecessor;
use crate::name::{Incarnation, SessionId, UserId};
use crate::server::ServerLifetime;
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// What becomes of a user's second login: the same for the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoginPolicy {
    /// It is refused while the first one lasts.
    #[default]
    Reject,
    /// It ends the first one.
    KickOld,
    /// Both last.
    Allow,
}

impl LoginPolicy {
    /// As operators write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::KickOld => "kick-old",
            Self::Allow => "allow",
        }
    }

    /// Reads what [`LoginPolicy::as_str`] writes.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Reject, Self::KickOld, Self::Allow]
            .into_iter()
            .find(|policy| policy.as_str() == name)
    }

    /// True if of two entries with these ranks the first is to stay.
    #[must_use]
    pub fn outranks(self, rank: Rank<'_>, other: Rank<'_>) -> bool {
        match self {
            Self::Reject => rank < other,
            Self::KickOld => rank > other,
            Self::Allow => false,
        }
    }
}

/// What entries of one user are compared by: who came later has the higher rank. A store that has lost data while its clock
/// was behind may give one login rank twice; then the names of the sessions decide, byte by byte.
pub type Rank<'a> = (u64, &'a SessionId);

impl fmt::Display for LoginPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an entry keeps of a client's secret: enough to know it again, and not to tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Proof([u8; 16]);

impl Proof {
    /// From the first 128 bits of a cryptographic hash of the secret.
    #[must_use]
    pub fn new(hash: [u8; 16]) -> Self {
        Self(hash)
    }

    /// Reads what `Display` writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number = u128::from_str_radix(text, 16).ok()?;
        (text.len() == 32).then(|| Self(number.to_be_bytes()))
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A session that wants to be, or is, logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Who.
    pub user: UserId,
    /// Random, for one login only.
    pub session: SessionId,
    /// Of the connector that holds the socket.
    pub incarnation: Incarnation,
    /// No effect later than this, by the store's clock: milliseconds since 1970.
    pub deadline: u64,
    /// The cluster's.
    pub policy: LoginPolicy,
    /// Of the secret that its client holds, if it holds one.
    pub proof: Option<Proof>,
}

/// A session that is logged in says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// As it logged in, but for the deadline.
    pub login: Login,
    /// The rank that its login was answered with.
    pub login_rank: u64,
    /// The predecessors that its login was answered with.
    pub predecessors: Arc<[Predecessor]>,
}

impl Claim {
    /// What it is compared by.
    #[must_use]
    pub fn rank(&self) -> Rank<'_> {
        (self.login_rank, &self.login.session)
    }
}

/// What became of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoggedIn {
    /// It has an entry.
    Yes {
        /// Its rank.
        login_rank: u64,
        /// There are other entries.
        others: bool,
        /// Sessions whose memberships it takes over where it joins: those that have the same proof, and the user's
        /// lingering ones. Of very many the newest ones.
        predecessors: Vec<Predecessor>,
    },
    /// It is logged in without an entry: under [`LoginPolicy::Allow`] a user with very many sessions has some that
    /// can't be resumed.
    Unregistered,
    /// Nothing was changed: these incarnations hold the user.
    Taken(Vec<Incarnation>),
}

/// Whom a claim concerns beside the session itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Incarnations of entries that it outranks: each is marked as superseded.
    pub superseded: Vec<Incarnation>,
    /// Incarnations of live entries that outrank it.
    pub better: Vec<Incarnation>,
}

/// What an entry says of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryState {
    /// Its client is there, as far as is known.
    Live,
    /// Its connector is to close the socket. It stays so until the entry is closed.
    Superseded,
    /// Its client is gone, and it is still a member for a while. It holds nobody off.
    Lingering,
}

/// One login, as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEntry {
    /// Whose.
    pub session: SessionId,
    /// Which login of its user it was.
    pub login_rank: u64,
    /// Of the connector that holds the socket.
    pub incarnation: Incarnation,
    /// What it says of its session.
    pub state: EntryState,
    /// Of its client's secret.
    pub proof: Option<Proof>,
}

impl UserEntry {
    /// What it is compared by.
    #[must_use]
    pub fn rank(&self) -> Rank<'_> {
        (self.login_rank, &self.session)
    }

    /// True if this session is to give way to the one that claims.
    #[must_use]
    pub fn gives_way_to(&self, claim: &Claim) -> bool {
        if self.is_kin_of(&claim.login) {
            return self.rank() < claim.rank();
        }
        let is_named = || (claim.predecessors.iter()).any(|it| it.session == self.session);
        let policy = claim.login.policy;
        self.state == EntryState::Lingering && is_named()
            || policy.outranks(claim.rank(), self.rank())
    }

    /// True if the one that claims is to give way to this session.
    #[must_use]
    pub fn outranks(&self, claim: &Claim) -> bool {
        self.state == EntryState::Live
            && if self.is_kin_of(&claim.login) {
                self.rank() > claim.rank()
            } else {
                let policy = claim.login.policy;
                policy.outranks(self.rank(), claim.rank())
            }
    }

    /// True if both clients hold the same secret.
    #[must_use]
    pub fn is_kin_of(&self, login: &Login) -> bool {
        login.proof.is_some() && self.proof == login.proof
    }
}

/// What the registry has of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEntries {
    /// All entries.
    pub entries: Vec<UserEntry>,
    /// True if the asking incarnation was reaped here.
    pub tombstoned: bool,
    /// The server lifetime that answered.
    pub lifetime: ServerLifetime,
}

/// The registry. All of it may be repeated.
#[async_trait]
pub trait UserRegistry: Send + Sync + 'static {
    /// Enters a session, unless the policy is [`LoginPolicy::Reject`] and others hold the user. First the entries of
    /// incarnations that are known to be dead are taken away. A login with the proof of a live entry is let in under
    /// every policy, and lingering entries hold nobody off. Nobody is superseded by this: see
    /// [`UserRegistry::claim`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the outcome is unknown; so with all that follow. [`StoreError::Full`],
    /// [`StoreError::ConnectorDead`], [`StoreError::Late`]; [`StoreError::StaleOperation`]: it was closed already.
    async fn login(&self, login: &Login, dead: &[Incarnation]) -> Result<LoggedIn, StoreError>;

    /// Puts the session's entry back if it is missing, with the login rank that it had, and marks as superseded what
    /// it outranks: older entries of the same proof, predecessors that linger, and else what the policy says. Only for a
    /// session that has joined, and whose client is there. A claim that comes late, when the entry is superseded or
    /// lingers, concerns nobody. At most 500 a call, answered in their order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] for all; for each one as [`UserRegistry::login`].
    async fn claim(&self, claims: &[Claim])
    -> Result<Vec<Result<Claimed, StoreError>>, StoreError>;

    /// A session's client is gone, and the session stays a member for a while: its entry holds nobody off any more. One
    /// that is superseded stays so. Works out of memory.
    ///
    /// # Errors
    /// As [`UserRegistry::login`].
    async fn linger(&self, user: &UserId, session: &SessionId) -> Result<(), StoreError>;

    /// Takes a session's entry away. `fence`: a copy of its login or of a claim may still travel, and comes too late
    /// from now on. Works out of memory.
    ///
    /// # Errors
    /// As [`UserRegistry::login`].
    async fn close(
        &self,
        user: &UserId,
        session: &SessionId,
        fence: bool,
    ) -> Result<(), StoreError>;

    /// Takes the entries of a dead incarnation away, and lets none of it come any more; answers how many there were.
    /// Works out of memory.
    ///
    /// # Errors
    /// As [`UserRegistry::login`].
    async fn reap(&self, user: &UserId, incarnation: &Incarnation) -> Result<u64, StoreError>;

    /// What is registered of these users, in their order; keeps that from expiring. At most 500 a call.
    ///
    /// # Errors
    /// As [`UserRegistry::login`].
    async fn entries(
        &self,
        incarnation: &Incarnation,
        users: &[UserId],
    ) -> Result<Vec<UserEntries>, StoreError>;

    /// Says which policy a connector has, and answers the one that is in force: the first that was said, until nobody
    /// has said it for so long.
    ///
    /// # Errors
    /// As [`UserRegistry::login`].
    async fn propose_policy(
        &self,
        policy: LoginPolicy,
        lasts: Duration,
    ) -> Result<LoginPolicy, StoreError>;
}

/// Words from one connector to another, by way of the store: look at this user. One that is lost costs time only.
#[async_trait]
pub trait Hints: Send + Sync + 'static {
    /// Says it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn hint(&self, incarnation: &Incarnation, user: &UserId) -> Result<(), StoreError>;

    /// Hears what is said to an incarnation, until the receiver is dropped. Those beyond what it holds are lost.
    fn listen(&self, incarnation: &Incarnation) -> mpsc::Receiver<UserId>;
}

/// Hints that wait for a listener at most.
pub(crate) const HINTS: usize = 1_024;
/// Predecessors that a login is answered with at most: what a session's joins carry. Chat takes no more.
pub const PREDECESSORS: usize = 64;
/// Entries of a user under [`LoginPolicy::Allow`], apart from those of clients that come back.
pub(crate) const ENTRIES: usize = 100;
/// Superseded entries of a user whose connectors have not seen to them yet. The oldest ones beyond are forgotten.
pub(crate) const SUPERSEDED: usize = 32;
