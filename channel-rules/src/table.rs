//! What is wrong with rules that are right one by one.

use crate::row::ChannelRule;
use channel_store::matches_pattern;

/// What stands for the user in a pattern.
const USER: &str = "{user}";

/// Checks what the keys of one rule say together.
///
/// # Errors
/// One line, which names the first rule that cannot be meant.
pub fn check(rules: &[ChannelRule]) -> Result<(), String> {
    for ChannelRule {
        pattern,
        keep,
        life,
        ..
    } in rules
    {
        if let (Some(keep), Some(life)) = (keep, life)
            && keep > life
        {
            return Err(format!(
                "[[channel]] match = \"{pattern}\": keep is {keep:?} and life is {life:?}, so the log would be gone before: \
                 make life at least as long as keep"
            ));
        }
    }
    Ok(())
}

/// A line for each rule that never holds, because one that stands before it matches all of its channels.
#[must_use]
pub fn warnings(rules: &[ChannelRule]) -> Vec<String> {
    let warnings = rules.iter().enumerate().filter_map(|(at, rule)| {
        let (before, pattern) = (rules.get(..at)?, rule.pattern.as_str());
        let holds = before
            .iter()
            .find(|it| matches_all_of(it.pattern.as_str(), pattern))?;
        Some(format!(
            "[[channel]] match = \"{pattern}\": this rule never holds, because the one for \"{}\" stands before it and matches the \
             same channels: put it before that one, or take it out",
            holds.pattern
        ))
    });
    warnings.collect()
}

/// True if a pattern matches every channel that the other one matches.
///
/// A star of the other one stands for any text, and only a star matches any text. So the other one is matched like a name in which
/// its stars are characters that nothing but a star can match, and so is its user.
fn matches_all_of(wide: &str, narrow: &str) -> bool {
    wide == narrow || (!wide.contains(USER) && matches_pattern(wide, &narrow.replace(USER, "\0")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChannelTable;

    fn rules(toml: &str) -> Vec<ChannelRule> {
        toml::from_str::<ChannelTable>(toml).unwrap().channel
    }

    #[test]
    fn a_rule_that_never_holds_is_warned_of() {
        for (first, second, is_warned) in [
            ("*", "game:1", true),
            ("*", "*", true),
            ("*", "inbox:{user}", true),
            ("game:1", "game:1", true),
            ("inbox:{user}", "inbox:{user}", true),
            ("game:*", "game:1", true),
            ("game:*", "game:eu:*", true),
            ("inbox:*", "inbox:{user}", true),
            ("*:log", "a*:log", true),
            ("game:1", "game:*", false),
            ("game:*", "*:log", false),
            ("game:eu:*", "game:*", false),
            ("inbox:{user}", "inbox:*", false),
            ("inbox:{user}", "inbox:ann", false),
            ("inbox:*n", "inbox:{user}", false),
            ("a*b", "a*", false),
            ("game:1", "game:2", false),
        ] {
            let text = format!("[[channel]]\nmatch = '{first}'\n[[channel]]\nmatch = '{second}'\n");
            let warnings = warnings(&rules(&text));
            assert_eq!(warnings.len(), usize::from(is_warned), "{first} {second}");
            for warning in warnings {
                assert!(
                    warning.contains(&format!("match = \"{second}\"")),
                    "{warning}"
                );
                assert!(warning.contains(&format!("for \"{first}\"")), "{warning}");
            }
        }
    }

    #[test]
    fn a_log_cannot_keep_messages_for_longer_than_it_lives() {
        let check = |keys: &str| check(&rules(&format!("[[channel]]\nmatch = 'a'\n{keys}")));
        let error = check("keep = '2h'\nlife = '1h'").unwrap_err();
        assert!(
            error.starts_with("[[channel]] match = \"a\": keep is 7200s and life is 3600s"),
            "{error}"
        );
        for right in ["keep = '1h'\nlife = '1h'", "keep = '2h'", "life = '1s'", ""] {
            assert_eq!(check(right), Ok(()), "{right}");
        }
    }
}
