//! The rules of channels, as far as chat decides by them itself: which channels take only ephemeral messages. What logs keep is
//! decided by the store.

use crate::error::Error;
use arc_swap::ArcSwapOption;
use channel_rules::{ChannelRule, RulesHash};
use channel_store::{ChannelStore, Pattern, Publish};
use runtime::config::Reloading;
use std::sync::Arc;

/// The rules that are in force. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Rules(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// For each rule in order its pattern, and whether such channels take only ephemeral messages. `None`: no channel does, so a
    /// message costs no more than this look.
    ephemeral_only: ArcSwapOption<Vec<(Pattern, bool)>>,
    hash: RulesHash,
}

impl Rules {
    /// These rules hold for messages that are checked after this.
    pub fn set(&self, rules: &[ChannelRule]) {
        let has_any = rules.iter().any(|rule| rule.ephemeral_only);
        let patterns = has_any.then(|| {
            let rules = rules.iter();
            Arc::new(
                rules
                    .map(|it| (it.pattern.clone(), it.ephemeral_only))
                    .collect(),
            )
        });
        self.0.ephemeral_only.store(patterns);
        self.0.hash.set(rules);
    }

    /// The hash of the rules, as text.
    pub(crate) fn hash(&self) -> String {
        self.0.hash.text()
    }

    /// # Errors
    /// [`Error::EphemeralOnly`].
    pub(crate) fn admit(&self, publish: Publish) -> Result<Publish, Error> {
        let patterns = self.0.ephemeral_only.load();
        let Some(patterns) = &*patterns else {
            return Ok(publish);
        };
        if publish.ephemeral {
            return Ok(publish);
        }
        let channel = publish.channel.as_str();
        let first = patterns
            .iter()
            .find(|(pattern, _)| pattern.matches(channel));
        match first {
            Some((_, true)) => Err(Error::EphemeralOnly),
            _ => Ok(publish),
        }
    }

    /// Puts the rules of changed settings in force, here and in the store, as long as the settings may change. `before` are those
    /// that hold now.
    pub async fn follow<T>(
        self,
        mut before: Vec<ChannelRule>,
        mut latest: Reloading<T>,
        store: Arc<dyn ChannelStore>,
        rules_of: impl Fn(&T) -> &[ChannelRule],
    ) {
        loop {
            let rules = rules_of(&latest.borrow_and_update()).to_vec();
            if rules != before {
                store.set_log_rules(rules.iter().map(ChannelRule::log_rule).collect());
                self.set(&rules);
                let hash = self.hash();
                tracing::info!(
                    rules = rules.len(),
                    hash,
                    "other rules of channels hold now"
                );
                before = rules;
            }
            if latest.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use channel_store::memory::MemoryStore;
    use channel_store::{ChannelName, Payload, Route, StoreOptions, User, UserId};
    use tokio::sync::watch;

    fn message(channel: &str, ephemeral: bool) -> Publish {
        let user = User {
            id: UserId::new("u").unwrap(),
            is_number: false,
        };
        let payload = Payload::new(&Route::new("onMessage").unwrap(), &user, b"{}");
        Publish {
            ephemeral,
            ..Publish::new(ChannelName::new(channel).unwrap(), user.id, payload)
        }
    }

    #[tokio::test]
    async fn when_the_settings_have_other_rules_these_hold_here_and_in_the_store() {
        let store: Arc<dyn ChannelStore> = MemoryStore::new(StoreOptions::default());
        let (settings, latest) = watch::channel(Arc::new(Vec::new()));
        let rules = Rules::default();
        rules.set(&[]);
        let hash = rules.hash();
        let begun = rules.clone();
        let following = begun.follow(Vec::new(), latest, Arc::clone(&store), |it: &Vec<_>| it);
        settings.send_replace(Arc::new(vec![ChannelRule {
            pattern: Pattern::new("cursor:*").unwrap(),
            ephemeral_only: true,
            ..ChannelRule::default()
        }]));
        // It ends when the settings can't change any more.
        drop(settings);
        following.await;
        let refused = rules.admit(message("cursor:1", false)).unwrap_err();
        assert_eq!(refused, Error::EphemeralOnly);
        assert_ne!(rules.hash(), hash);
        let channel = ChannelName::new("cursor:1").unwrap();
        assert_eq!(store.log_rule(&channel).as_deref(), Some("cursor:*"));
    }

    #[test]
    fn only_the_first_rule_that_matches_says_whether_a_channel_takes_messages() {
        let rule = |pattern: &str, ephemeral_only| ChannelRule {
            pattern: Pattern::new(pattern).unwrap(),
            ephemeral_only,
            ..ChannelRule::default()
        };
        let rules = Rules::default();
        assert!(rules.admit(message("cursor:1", false)).is_ok());
        rules.clone().set(&[
            rule("cursor:board", false),
            rule("cursor:*", true),
            rule("typing:{user}", true),
        ]);
        for (channel, is_admitted) in [
            ("cursor:board", true),
            ("cursor:1", false),
            ("typing:ann", false),
            ("room", true),
        ] {
            let admitted = rules.admit(message(channel, false));
            assert_eq!(admitted.is_ok(), is_admitted, "{channel}");
            if let Err(error) = admitted {
                assert_eq!(error, Error::EphemeralOnly);
            }
            assert!(rules.admit(message(channel, true)).is_ok(), "{channel}");
        }
        rules.set(&[]);
        assert!(rules.admit(message("cursor:1", false)).is_ok());
    }
}
