//! What is known of the store of one endpoint, and what of it must go together with this connector.

use channel_rules::RulesHash;
use channel_store::probe::ProbeFeed;
use parking_lot::Mutex;
use proto::connector::v1::Settings;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Settings of this connector that must go together with those of the chats.
#[derive(Debug, Clone)]
pub struct OwnSettings {
    /// `--lease`.
    pub lease: Duration,
    /// `--touch`.
    pub touch: Duration,
    /// `--message-limit`.
    pub message_limit: u64,
    /// `--ready-slots`.
    pub ready_slots: f64,
}

/// What proves endpoints: the feed that hears them, and what they are compared with.
pub(super) struct Prover {
    pub(super) feed: Arc<dyn ProbeFeed>,
    pub(super) own: OwnSettings,
}

/// What is known about the store of one endpoint.
#[derive(Default)]
pub(super) struct Proof {
    /// The store takes publications, for enough of its slots.
    pub(super) works: AtomicBool,
    /// Why the store refuses publications, in words.
    pub(super) refused: Mutex<Option<String>>,
    pub(super) settings: Mutex<Option<Settings>>,
}

impl Proof {
    pub(super) fn works(&self) -> bool {
        self.works.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().clone()
    }

    /// The number of replicas that the chat waits for, if it has told.
    pub(super) fn ack_replicas(&self) -> Option<u32> {
        self.settings.lock().as_ref().map(|it| it.ack_replicas)
    }

    /// Its rules of channels, if they differ from those of this connector. `None` as well if one of the two is not known: an older
    /// chat does not tell them.
    pub(super) fn other_rules(&self, own: &RulesHash) -> Option<OtherRules> {
        let settings = self.settings.lock();
        let theirs = &settings.as_ref()?.rules_hash;
        let own = own.text();
        let differ = !own.is_empty() && !theirs.is_empty() && *theirs != own;
        differ.then(|| OtherRules {
            theirs: theirs.clone(),
            own,
        })
    }

    /// Which of its settings do not go together with those of this connector, although it can be used.
    pub(super) fn notes(&self, own: &OwnSettings) -> Vec<String> {
        let settings = self.settings.lock();
        let Some(settings) = settings.as_ref() else {
            return Vec::new();
        };
        let mut notes = Vec::new();
        let life = length(settings.log_life);
        let touch = own.touch;
        if !life.is_zero() && touch.saturating_mul(3) > life {
            notes.push(format!(
                "its logs live for {life:?}, and --touch {touch:?} is more than a third of that"
            ));
        }
        if settings.message_limit > 0 && own.message_limit > settings.message_limit {
            notes.push(format!(
                "its --message-limit is {}, that of this connector {}",
                settings.message_limit, own.message_limit
            ));
        }
        notes
    }
}

/// The rules of channels of a chat, where they are not those of this connector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OtherRules {
    /// The hash of the chat's rules.
    pub(super) theirs: String,
    /// That of this connector's.
    pub(super) own: String,
}

impl fmt::Display for OtherRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { theirs, own } = self;
        write!(
            f,
            "its rules of channels ({theirs}) are not those of this connector ({own})"
        )
    }
}

/// A length of time that a chat tells. Zero if it tells none.
pub(super) fn length(told: Option<prost_types::Duration>) -> Duration {
    told.and_then(|it| it.try_into().ok()).unwrap_or_default()
}
