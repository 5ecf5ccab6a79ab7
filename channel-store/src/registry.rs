//! The logins of all users in the whole cluster (docs/design/membership.md).
//!
//! Each login of a user leaves an entry under the user's name, with a login rank: a later login has a higher one. A
//! connector writes the entries of its own sessions, and may mark others as superseded that they outrank. It removes entries
//! of others only if their incarnation is dead. So the connector that holds the socket tells a client that it was superseded.
//!
//! A client may hold a secret, of which the entry keeps a [`Proof`]. A client that shows it at a later login takes the place
//! of the sessions with the same proof, whatever the policy is. The secret does not prove who the client is.

use crate::error::StoreError;
use crate::membership::Predecessor;
use crate::name::{Incarnation, SessionId, UserId};
use crate::restrictions::{Forbidden, Restrictions, ShownToken};
use crate::server::ServerLifetime;
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// What happens at a user's second login. It is the same for the whole cluster.
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

    /// True if, of two entries with these ranks, the first one has to stay.
    #[must_use]
    pub fn outranks(self, rank: Rank<'_>, other: Rank<'_>) -> bool {
        match self {
            Self::Reject => rank < other,
            Self::KickOld => rank > other,
            Self::Allow => false,
        }
    }
}

/// What two entries of one user are compared by: the login rank, and then the session's name. A store that has lost data
/// while its clock was behind may give one login rank twice. Then the names of the sessions decide, byte by byte.
pub type Rank<'a> = (u64, &'a SessionId);

impl fmt::Display for LoginPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an entry keeps of a client's secret: a hash, which recognizes the secret and does not reveal it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Proof([u8; 16]);

impl Proof {
    /// Takes the first 128 bits of a cryptographic hash of the secret.
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

/// A login of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user who logs in.
    pub user: UserId,
    /// The session: a random name, for one login only.
    pub session: SessionId,
    /// The incarnation of the connector that holds the socket.
    pub incarnation: Incarnation,
    /// After this time the login has no effect: the store's clock, milliseconds since 1970.
    pub deadline: u64,
    /// The policy of the cluster.
    pub policy: LoginPolicy,
    /// The proof of the client's secret, if the client has one.
    pub proof: Option<Proof>,
    /// The token that the client has shown. `None` if none is needed.
    pub token: Option<ShownToken>,
    /// The most live sessions of the user under [`LoginPolicy::Allow`], this one included. 0: there is no limit.
    pub most_sessions: u32,
}

/// The claim of a session that is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The same login, but with a new deadline.
    pub login: Login,
    /// The login rank from the answer to its login.
    pub login_rank: u64,
    /// The predecessors from the answer to its login.
    pub predecessors: Arc<[Predecessor]>,
}

impl Claim {
    /// What the entry is compared by.
    #[must_use]
    pub fn rank(&self) -> Rank<'_> {
        (self.login_rank, &self.login.session)
    }
}

/// The result of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoggedIn {
    /// The session has an entry.
    Yes {
        /// Its login rank.
        login_rank: u64,
        /// True if the user has other entries.
        others: bool,
        /// Sessions whose memberships it takes over where it joins: those with the same proof, and the lingering ones of the
        /// user. If there are very many, these are the newest ones.
        predecessors: Vec<Predecessor>,
    },
    /// The session is logged in without an entry. Under [`LoginPolicy::Allow`], a user with very many sessions has some
    /// that can't be resumed.
    Unregistered,
    /// Nothing was changed, because these incarnations hold the user.
    Taken(Vec<Incarnation>),
    /// Nothing was changed, because the user has as many live sessions as a user may have. These incarnations hold them.
    Full(Vec<Incarnation>),
    /// Nothing was changed, because this login is forbidden.
    Forbidden(Forbidden),
}

/// Whom a claim concerns, apart from the session itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Incarnations of the entries that it outranks, and that have a client which has to be told. Entries that linger are marked
    /// as superseded, too, but have none, and end after the grace.
    pub superseded: Vec<Incarnation>,
    /// Incarnations of the live entries that outrank it.
    pub better: Vec<Incarnation>,
    /// Nothing was changed, because the session may not be logged in (any more): it must be closed.
    pub forbidden: Option<Forbidden>,
}

/// The state of an entry's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryState {
    /// Its client is there, as far as the store knows.
    Live,
    /// Its connector has to close the socket. The entry stays in this state until it is closed.
    Superseded,
    /// Its client is gone, and the session stays a member for a while. It holds nobody off.
    Lingering,
}

/// The entry of one login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEntry {
    /// The session.
    pub session: SessionId,
    /// Its login rank.
    pub login_rank: u64,
    /// The incarnation of the connector that holds the socket.
    pub incarnation: Incarnation,
    /// The state of the session.
    pub state: EntryState,
    /// The proof of its client's secret, if it has one.
    pub proof: Option<Proof>,
}

impl UserEntry {
    /// What the entry is compared by.
    #[must_use]
    pub fn rank(&self) -> Rank<'_> {
        (self.login_rank, &self.session)
    }

    /// True if this session has to give way to the one that claims.
    #[must_use]
    pub fn gives_way_to(&self, claim: &Claim) -> bool {
        if self.has_same_proof_as(&claim.login) {
            return self.rank() < claim.rank();
        }
        let is_named = || (claim.predecessors.iter()).any(|it| it.session == self.session);
        let policy = claim.login.policy;
        self.state == EntryState::Lingering && is_named()
            || policy.outranks(claim.rank(), self.rank())
    }

    /// True if the session that claims has to give way to this one.
    #[must_use]
    pub fn outranks(&self, claim: &Claim) -> bool {
        self.state == EntryState::Live
            && if self.has_same_proof_as(&claim.login) {
                self.rank() > claim.rank()
            } else {
                let policy = claim.login.policy;
                policy.outranks(self.rank(), claim.rank())
            }
    }

    /// True if both clients hold the same secret.
    #[must_use]
    pub fn has_same_proof_as(&self, login: &Login) -> bool {
        login.proof.is_some() && self.proof == login.proof
    }
}

/// All entries of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEntries {
    /// The entries.
    pub entries: Vec<UserEntry>,
    /// What is forbidden to the user.
    pub restrictions: Restrictions,
    /// True if the incarnation that asks was reaped here.
    pub tombstoned: bool,
    /// The server lifetime that answered.
    pub lifetime: ServerLifetime,
}

/// The registry. Every call may be repeated.
#[async_trait]
pub trait UserRegistry: Send + Sync + 'static {
    /// Enters a session, unless the policy is [`LoginPolicy::Reject`] and others hold the user. The entries of the
    /// incarnations in `dead` are removed first. A login with the proof of a live entry is accepted under every policy, and
    /// lingering entries hold nobody off. A login supersedes nobody: see [`UserRegistry::claim`]. A login that is
    /// [forbidden](crate::UserRestrictions) changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the outcome is unknown. The same holds for all calls below. [`StoreError::Full`],
    /// [`StoreError::ConnectorDead`], [`StoreError::Late`]; [`StoreError::StaleOperation`] if it was closed already.
    async fn login(&self, login: &Login, dead: &[Incarnation]) -> Result<LoggedIn, StoreError>;

    /// Puts the session's entry back if it is missing, with the login rank that it had. It marks as superseded what the
    /// session outranks: older entries of the same proof, predecessors that linger, and otherwise what the policy says. It is
    /// only for a session that has joined and whose client is there. A claim that comes late, when the entry is superseded or
    /// lingers, concerns nobody. One that is forbidden changes nothing. At most 500 claims in a call. The answers are in their order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] for all of them. Each one may have those of [`UserRegistry::login`].
    async fn claim(&self, claims: &[Claim])
    -> Result<Vec<Result<Claimed, StoreError>>, StoreError>;

    /// The client of a session is gone, and the session stays a member for a while. Its entry holds nobody off any more. An
    /// entry that is superseded stays so. It works when the store's memory is full.
    ///
    /// # Errors
    /// Those of [`UserRegistry::login`].
    async fn linger(&self, user: &UserId, session: &SessionId) -> Result<(), StoreError>;

    /// Removes the entry of a session. With `fence`, a copy of its login or of a claim that may still arrive is refused from
    /// now on. It works when the store's memory is full.
    ///
    /// # Errors
    /// Those of [`UserRegistry::login`].
    async fn close(
        &self,
        user: &UserId,
        session: &SessionId,
        fence: bool,
    ) -> Result<(), StoreError>;

    /// Removes the entries of a dead incarnation, refuses its logins from now on, and returns how many entries there were.
    /// It works when the store's memory is full.
    ///
    /// # Errors
    /// Those of [`UserRegistry::login`].
    async fn reap(&self, user: &UserId, incarnation: &Incarnation) -> Result<u64, StoreError>;

    /// The entries of these users, in their order. It also keeps them from expiring. At most 500 users in a call.
    ///
    /// # Errors
    /// Those of [`UserRegistry::login`].
    async fn entries(
        &self,
        incarnation: &Incarnation,
        users: &[UserId],
    ) -> Result<Vec<UserEntries>, StoreError>;

    /// Proposes the policy of a connector, and returns the one that is in force: the first that was proposed, until nobody
    /// has proposed it for `lasts`.
    ///
    /// # Errors
    /// Those of [`UserRegistry::login`].
    async fn propose_policy(
        &self,
        policy: LoginPolicy,
        lasts: Duration,
    ) -> Result<LoginPolicy, StoreError>;
}

/// Messages from one connector to another: look at the logins of this user. If one is lost, the reconciler finds the same
/// later.
#[async_trait]
pub trait Hints: Send + Sync + 'static {
    /// Sends a hint.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn hint(&self, incarnation: &Incarnation, user: &UserId) -> Result<(), StoreError>;

    /// Receives the hints for an incarnation, until the receiver is dropped. Hints beyond what the receiver holds are lost.
    fn listen(&self, incarnation: &Incarnation) -> mpsc::Receiver<UserId>;
}

/// The most hints that wait for a listener.
pub(crate) const HINTS: usize = 1_024;
/// The most predecessors in the answer to a login. The session's joins name them, and chat accepts no more of them.
pub const PREDECESSORS: usize = 64;
/// The most entries of a user under [`LoginPolicy::Allow`], apart from those of clients that come back.
pub(crate) const ENTRIES: usize = 100;
/// The most superseded entries of a user whose connectors have not closed the sessions yet. Older ones are forgotten.
pub(crate) const SUPERSEDED: usize = 32;
