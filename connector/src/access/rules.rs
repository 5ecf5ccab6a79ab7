//! The rules of channels: who may join them, and what members may do there. The first rule that matches a name holds.

use super::grants::Grants;
use super::rights::{Right, Rights};
use channel_rules::{ChannelRule, Recover, Who};
use channel_store::{ChannelName, Pattern, UserId};

/// Why rules cannot be used. One line, which names the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The right cannot be given like this.
    #[error(
        "[[channel]] match = {pattern:?}: {right} = \"{who}\" is not possible; expected {expected}"
    )]
    Who {
        /// The pattern of the rule.
        pattern: String,
        /// The right.
        right: Right,
        /// What was written.
        who: Who,
        /// What may be written.
        expected: &'static str,
    },
    /// There is no hook.
    #[error(
        "[[channel]] match = {pattern:?}: {right} = \"hook\" needs a hook that can be asked: set auth.hook.target, such as http://access:5001"
    )]
    Hook {
        /// The pattern of the rule.
        pattern: String,
        /// The right.
        right: Right,
    },
}

/// A rule that can be used.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    pattern: Pattern,
    /// In the order of [`Right::ALL`].
    who: [Who; 4],
    recover: Recover,
}

/// All rules, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Checks the rules of the operator.
    ///
    /// # Errors
    /// [`RuleError`] is about the first rule that cannot be used.
    pub fn new(rules: &[ChannelRule]) -> Result<Self, RuleError> {
        let rules = rules.iter().map(|rule| {
            let pattern = rule.pattern.to_string();
            let written = [rule.join, rule.send, rule.history, rule.members];
            for (right, who) in Right::ALL.into_iter().zip(written) {
                let expected = match right {
                    Right::Join => "\"nobody\", \"users\", \"grant\" or \"hook\"",
                    Right::Send | Right::History | Right::Members => {
                        "\"nobody\", \"members\", \"grant\" or \"hook\""
                    }
                };
                match who {
                    Some(who) if who == not_for(right) => {
                        return Err(RuleError::Who {
                            pattern,
                            right,
                            who,
                            expected,
                        });
                    }
                    _ => {}
                }
            }
            let [join, send, history, members] = written;
            Ok(Rule {
                pattern: rule.pattern.clone(),
                who: [
                    join.unwrap_or(Who::Users),
                    send.unwrap_or(Who::Members),
                    history.unwrap_or(Who::Members),
                    members.unwrap_or(Who::Members),
                ],
                recover: rule.recover.unwrap_or_default(),
            })
        });
        rules.collect::<Result<_, _>>().map(Self)
    }

    /// What this user may do in this channel, if the hook has decided so about what the rule leaves to it. All rights but `join`
    /// are those of a member.
    pub(super) fn judge(
        &self,
        channel: &ChannelName,
        user: &UserId,
        grants: &Grants,
        decided: Rights,
    ) -> Rights {
        let Some(rule) = self.of(channel, user) else {
            return Rights::ALL;
        };
        let rights = Right::ALL.into_iter().zip(rule.who);
        let allowed = rights.filter(|(right, who)| match who {
            Who::Users | Who::Members => true,
            Who::Grant => grants.allow(*right, channel),
            Who::Hook => *right == Right::Send || decided.has(*right),
            Who::Nobody => false,
        });
        allowed.fold(Rights::NONE, |rights, (right, who)| match (right, who) {
            (Right::Send, Who::Hook) => rights.with(right).asking(),
            _ => rights.with(right),
        })
    }

    /// What this user gets when it comes back to this channel.
    pub(super) fn recover(&self, channel: &ChannelName, user: &UserId) -> Recover {
        let rule = self.of(channel, user);
        rule.map(|rule| rule.recover).unwrap_or_default()
    }

    /// What the hook is to decide about in this channel. Sends are not among that: it is asked about each message.
    pub(super) fn to_decide(&self, channel: &ChannelName, user: &UserId) -> Rights {
        let who = self.of(channel, user).into_iter();
        let rights = who.flat_map(|rule| Right::ALL.into_iter().zip(rule.who));
        let left = rights.filter(|(right, who)| *who == Who::Hook && *right != Right::Send);
        left.fold(Rights::NONE, |rights, (right, _)| rights.with(right))
    }

    /// The rule that holds.
    fn of(&self, channel: &ChannelName, user: &UserId) -> Option<&Rule> {
        let (channel, user) = (channel.as_str(), user.as_str());
        let mut rules = self.0.iter();
        rules.find(|rule| rule.pattern.matches_for(channel, user))
    }
}

/// Refuses rules that leave something to a hook, because there is none.
pub(super) fn without_hook(rules: &[ChannelRule]) -> Result<(), RuleError> {
    for rule in rules {
        let written = [rule.join, rule.send, rule.history, rule.members];
        let mut rights = Right::ALL.into_iter().zip(written);
        if let Some((right, _)) = rights.find(|(_, who)| *who == Some(Who::Hook)) {
            let pattern = rule.pattern.as_str().to_owned();
            return Err(RuleError::Hook { pattern, right });
        }
    }
    Ok(())
}

/// Who would make no sense for a right: members have joined already, and without a membership there is nothing else.
fn not_for(right: Right) -> Who {
    match right {
        Right::Join => Who::Members,
        Right::Send | Right::History | Right::Members => Who::Users,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    fn rules(toml: &str) -> Result<Rules, RuleError> {
        #[derive(Deserialize)]
        struct File {
            channel: Vec<ChannelRule>,
        }
        let file: File = toml::from_str(toml).unwrap();
        Rules::new(&file.channel)
    }

    fn judge(rules: &Rules, channel: &str, user: &str, grants: &Grants) -> String {
        let channel = ChannelName::new(channel).unwrap();
        let user = UserId::new(user).unwrap();
        let rights = rules.judge(&channel, &user, grants, Rights::NONE);
        let names = Right::ALL.into_iter().filter(|right| rights.has(*right));
        names.map(Right::name).collect::<Vec<_>>().join(" ")
    }

    const ALL: &str = "join send history members";

    #[test]
    fn the_first_rule_that_matches_holds_and_what_it_leaves_out_is_as_without_rules() {
        let rules = rules(
            r#"
            [[channel]]
            match = "game:lobby"
            send = "nobody"

            [[channel]]
            match = "game:*"
            join = "grant"
            send = "grant"
            history = "nobody"

            [[channel]]
            match = "inbox:{user}"
            members = "nobody"

            [[channel]]
            match = "inbox:*"
            join = "nobody"
            "#,
        )
        .unwrap();
        let none = Grants::default();
        let granted = json!([{"channels": ["g*e:*", "inbox:*"], "allow": ["join", "send"]}]);
        let granted = Grants::parse(&granted).unwrap();
        for (channel, user, grants, expected) in [
            ("game:lobby", "ann", &none, "join history members"),
            ("game:1", "ann", &none, "members"),
            ("game:1", "ann", &granted, "join send members"),
            ("inbox:ann", "ann", &none, "join send history"),
            ("inbox:ann", "bob", &none, "send history members"),
            ("inbox:ann", "bob", &granted, "send history members"),
            ("anything", "ann", &none, ALL),
        ] {
            assert_eq!(
                judge(&rules, channel, user, grants),
                expected,
                "{channel} {user}"
            );
        }
        assert_eq!(judge(&Rules::default(), "game:1", "ann", &none), ALL);
    }

    #[test]
    fn rules_that_make_no_sense_are_refused_with_words() {
        for (right, who, words) in [
            (
                "join",
                "members",
                r#"expected "nobody", "users", "grant" or "hook""#,
            ),
            (
                "send",
                "users",
                r#"expected "nobody", "members", "grant" or "hook""#,
            ),
            ("history", "users", "expected"),
            ("members", "users", "expected"),
        ] {
            let text = format!("[[channel]]\nmatch = 'a*'\n{right} = '{who}'");
            let error = rules(&text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(
                error.starts_with(r#"[[channel]] match = "a*": "#),
                "{error}"
            );
        }
    }

    #[test]
    fn what_a_client_recovers_is_said_by_the_first_rule_that_matches() {
        let rules = rules(
            "[[channel]]\nmatch = 'inbox:{user}'\n[[channel]]\nmatch = '*:*'\nrecover = 'last'\n\
             [[channel]]\nmatch = '*'\nrecover = 'none'",
        )
        .unwrap();
        let recover = |channel: &str, user: &str| {
            let channel = ChannelName::new(channel).unwrap();
            rules.recover(&channel, &UserId::new(user).unwrap())
        };
        assert_eq!(recover("inbox:ann", "ann"), Recover::Log);
        assert_eq!(recover("inbox:ann", "bob"), Recover::Last);
        assert_eq!(recover("lobby", "bob"), Recover::None);
        let none = Rules::default();
        let lobby = ChannelName::new("lobby").unwrap();
        assert_eq!(
            none.recover(&lobby, &UserId::new("u").unwrap()),
            Recover::Log
        );
    }

    #[test]
    fn the_hook_decides_what_a_rule_leaves_to_it_and_is_asked_about_each_message() {
        let rules = rules(
            r#"
            [[channel]]
            match = "game:*"
            join = "hook"
            send = "hook"
            history = "hook"
            "#,
        )
        .unwrap();
        let (game, user) = (
            ChannelName::new("game:1").unwrap(),
            UserId::new("ann").unwrap(),
        );
        let left = rules.to_decide(&game, &user);
        assert_eq!(left, Rights::NONE.with(Right::Join).with(Right::History));
        let other = ChannelName::new("lobby").unwrap();
        assert_eq!(rules.to_decide(&other, &user), Rights::NONE);
        for (decided, expected) in [
            (Rights::NONE, "send members"),
            (Rights::NONE.with(Right::Join), "join send members"),
            (Rights::ALL, ALL),
        ] {
            let none = Grants::default();
            let rights = rules.judge(&game, &user, &none, decided);
            let names = Right::ALL.into_iter().filter(|right| rights.has(*right));
            assert_eq!(
                names.map(Right::name).collect::<Vec<_>>().join(" "),
                expected
            );
            assert!(rights.asks());
            assert!(!rules.judge(&other, &user, &none, decided).asks());
        }
    }

    #[test]
    fn rules_that_need_a_hook_are_refused_if_there_is_none() {
        for right in Right::ALL {
            let text = format!("match = 'a*'\n{right} = 'hook'");
            let rule: ChannelRule = toml::from_str(&text).unwrap();
            let error = without_hook(&[rule]).unwrap_err().to_string();
            assert!(error.contains("set auth.hook.target"), "{error}");
            assert!(error.contains(right.name()), "{error}");
        }
        let rule: ChannelRule = toml::from_str("match = 'a*'\njoin = 'grant'").unwrap();
        assert_eq!(without_hook(&[rule]), Ok(()));
    }
}
