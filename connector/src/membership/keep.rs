//! Keeps the connector's leases: begins, serves and gives up incarnations.

use super::commands::Commands;
use super::incarnation::{HeldLease, SILENCE, new_incarnation};
use super::lease_keeper::LeaseKeeper;
use super::logins::Logins;
use crate::chat_client::Chat;
use crate::metering::DECLARED_DEAD;
use channel_store::{Incarnation, Place, Shard};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use metrics::counter;
use runtime::backoff::pause;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{sleep_until, timeout};

/// The most incarnations that a connector has at once. A dead one counts until its sockets are closed.
const MOST: usize = 3;
/// The number of names that are drawn to find one on a shard that answers.
const NAMES: usize = 32;
/// The pause before the next attempt to begin another incarnation.
const BEGIN_AGAIN: Duration = Duration::from_millis(500);
/// The most suspected places that are handed on at once.
const SUSPECTS: usize = 500;

impl LeaseKeeper {
    /// Keeps at least one lease that is renewed, as far as the store answers. If an incarnation is declared dead, only
    /// the sockets of its own sessions are closed.
    pub(crate) async fn keep(
        &self,
        chat: &Chat,
        logins: &Logins,
        commands: &Commands,
    ) -> Infallible {
        let mut begun: Vec<Arc<HeldLease>> = Vec::new();
        let mut served = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(over) = served.next() => begun.retain(|it| !Arc::ptr_eq(it, &over)),
                lease = self.another(&begun) => {
                    begun.push(Arc::clone(&lease));
                    served.push(self.serve(lease, chat, logins, commands));
                }
                never = self.hand_on_suspects() => match never {},
            }
        }
    }

    /// Serves one incarnation until it is dead or given up, and no socket of it is left.
    async fn serve(
        &self,
        lease: Arc<HeldLease>,
        chat: &Chat,
        logins: &Logins,
        commands: &Commands,
    ) -> Arc<HeldLease> {
        let is_dead = tokio::select! {
            biased;
            is_dead = self.renew_until_over(&lease) => is_dead,
            never = self.reconcile(&lease, chat, logins) => match never {},
            never = listen(&lease, logins) => match never {},
            never = commands.obey(&lease, chat) => match never {},
            () = lease.found_dead.notified() => true,
        };
        let HeldLease { incarnation, .. } = &*lease;
        if is_dead {
            counter!(DECLARED_DEAD).increment(1);
            tracing::error!(%incarnation, "declared dead");
            // A login that registers from now on sees this flag. Those that registered before are closed below.
            lease.over.store(true, Ordering::SeqCst);
            self.held.lock().retain(|it| !Arc::ptr_eq(it, &lease));
            self.asked.notify_one();
            logins.close_all_of(incarnation).await;
        } else {
            tracing::info!(%incarnation, "given up, because an older lease is renewed again");
        }
        // No session is left here, so a reaper may remove what is in the store.
        self.resign(&lease).await;
        lease
    }

    /// A further incarnation, as soon as one is needed: none lives, or none that lives has a shard that answers while
    /// another shard does.
    async fn another(&self, begun: &[Arc<HeldLease>]) -> Arc<HeldLease> {
        loop {
            self.is_silent(begun).await;
            if begun.len() < MOST {
                match self.name(begun).await {
                    // The old shard has answered while names were tried.
                    Some(_) if !is_silent_now(begun) => continue,
                    Some(incarnation) => return Arc::new(HeldLease::new(incarnation, self.length)),
                    None => {}
                }
            }
            pause(BEGIN_AGAIN).await;
        }
    }

    /// Returns when none of the living incarnations has a shard that answers.
    async fn is_silent(&self, begun: &[Arc<HeldLease>]) {
        while !is_silent_now(begun) {
            let living = begun.iter().filter(|it| !it.is_over());
            let from = living
                .map(|it| it.silent_from())
                .collect::<Option<Vec<_>>>();
            match from.and_then(|from| from.into_iter().max()) {
                Some(from) => sleep_until(from).await,
                None => self.asked.notified().await,
            }
        }
    }

    /// A new name on a shard that answers. Shards that are known not to answer are left out. The first incarnation
    /// takes any name: if its shard does not answer, another one begins soon.
    async fn name(&self, begun: &[Arc<HeldLease>]) -> Option<Incarnation> {
        let draw = || {
            let drawn = new_incarnation(&self.id);
            drawn
                .inspect_err(|error| tracing::error!(%error, "no new incarnation"))
                .ok()
        };
        if begun.iter().all(|it| it.is_over()) {
            return draw();
        }
        let silent = begun.iter().filter(|it| !it.is_over());
        let silent = silent.map(|it| self.leases.home(&it.incarnation));
        let silent: BTreeSet<Shard> = silent.collect();
        let mut names = BTreeMap::new();
        for _ in 0..NAMES {
            let name = draw()?;
            let shard = self.leases.home(&name);
            if !silent.contains(&shard) {
                names.entry(shard).or_insert(name);
            }
        }
        let asked = names.into_values().map(async |name| {
            let lease = self.leases.observe(slice::from_ref(&name));
            let lease = timeout(SILENCE, lease).await;
            matches!(lease.as_deref(), Ok([Ok(None)])).then_some(name)
        });
        let mut answers = asked.collect::<FuturesUnordered<_>>();
        while let Some(answer) = answers.next().await {
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    /// Hands suspected places to each incarnation that has them in its index.
    async fn hand_on_suspects(&self) -> Infallible {
        loop {
            let places = self.suspects.some(SUSPECTS).await;
            let held = self.held.lock().clone();
            for lease in held {
                let known = lease.index.lock().among(&places);
                lease.suspects.extend(known);
            }
        }
    }

    /// The connector ends. Its members may be reaped at once, or after a grace.
    pub(crate) async fn end(&self, grace: Duration) {
        let held = std::mem::take(&mut *self.held.lock());
        let ended = held.iter().map(async |lease| {
            if grace.is_zero() {
                self.resign(lease).await;
            } else {
                self.leave_to_itself(lease, grace).await;
            }
        });
        join_all(ended).await;
    }
}

/// True if none of the living incarnations has a shard that answers.
fn is_silent_now(held: &[Arc<HeldLease>]) -> bool {
    let mut living = held.iter().filter(|it| !it.is_over());
    living.all(|it| it.is_silent())
}

/// Suspects each user that another connector hints at.
async fn listen(lease: &HeldLease, logins: &Logins) -> Infallible {
    let mut hints = logins.listen(&lease.incarnation);
    while let Some(user) = hints.recv().await {
        lease.suspects.add(Place::User(user));
    }
    std::future::pending().await
}
