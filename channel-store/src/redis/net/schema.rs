//! The version of what is stored in Redis, and whose programs may use it.
//!
//! A key holds two numbers, such as `3 2`: what is stored is of version 3, and programs from version 2 on can still use it. One
//! number alone stands for both. So a release may change what is stored while the services of the release before go on, and
//! services that would not understand it refuse to run.

use redis::Script;

/// What a server must hold before a connection to it is handed out.
#[derive(Clone)]
pub(crate) struct Schema {
    /// The key that holds the version of all other keys.
    pub(crate) key: String,
    /// The version of this program.
    pub(crate) version: u32,
    /// The scripts, which are loaded into each server.
    pub(crate) scripts: Vec<&'static Script>,
}

/// Why this program can't use what a server holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaMismatch {
    /// An older release has stored it.
    #[error(
        "Redis holds schema version {found}, and this program needs {needed}: it can't use what an older release has stored. Go \
         on with that release, or let all of its services end and use an empty Redis or another --prefix"
    )]
    Older {
        /// The version that was found.
        found: u32,
        /// The version of this program.
        needed: u32,
    },
    /// A newer release has stored it, and does not share it with this one.
    #[error(
        "Redis holds schema version {found}, which needs programs of version {oldest} or later, and this one is of version \
         {own}: a newer release uses this Redis already. Start that release here, too, or use another --prefix"
    )]
    Newer {
        /// The version that was found.
        found: u32,
        /// The oldest version whose programs may use it.
        oldest: u32,
        /// The version of this program.
        own: u32,
    },
    /// Something else has written the key.
    #[error(
        "the key of the schema version holds {found:?}, which no release writes: another program uses this Redis. Use another \
         --prefix"
    )]
    Foreign {
        /// What was found.
        found: String,
    },
}

impl Schema {
    /// Checks what the key holds.
    pub(super) fn check(&self, found: &str) -> Result<(), SchemaMismatch> {
        let own = self.version;
        let (version, oldest) = found.split_once(' ').unwrap_or((found, found));
        let (Ok(version), Ok(oldest)) = (version.parse::<u32>(), oldest.parse::<u32>()) else {
            let found = found.to_owned();
            return Err(SchemaMismatch::Foreign { found });
        };
        if version < own {
            Err(SchemaMismatch::Older {
                found: version,
                needed: own,
            })
        } else if own < oldest {
            Err(SchemaMismatch::Newer {
                found: version,
                oldest,
                own,
            })
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(version: u32, found: &str) -> Result<(), SchemaMismatch> {
        let schema = Schema {
            key: "gc:schema".into(),
            version,
            scripts: Vec::new(),
        };
        schema.check(found)
    }

    #[test]
    fn a_program_uses_its_own_version_and_newer_ones_that_are_shared_with_it() {
        for found in ["2", "2 2", "2 1", "3 2", "9 1"] {
            assert_eq!(check(2, found), Ok(()), "{found}");
        }
    }

    #[test]
    fn a_program_refuses_what_is_older_and_what_is_newer_and_not_shared() {
        let older = SchemaMismatch::Older {
            found: 1,
            needed: 2,
        };
        assert_eq!(check(2, "1"), Err(older.clone()));
        assert_eq!(check(2, "1 1"), Err(older));
        for (found, version, oldest) in [("3", 3, 3), ("4 3", 4, 3)] {
            let newer = SchemaMismatch::Newer {
                found: version,
                oldest,
                own: 2,
            };
            assert_eq!(check(2, found), Err(newer), "{found}");
        }
    }

    #[test]
    fn what_no_release_writes_is_refused() {
        for found in ["", "two", "2 ", " 2", "2 2 2", "-1", "2,2", "99999999999"] {
            let foreign = SchemaMismatch::Foreign {
                found: found.into(),
            };
            assert_eq!(check(2, found), Err(foreign), "{found:?}");
        }
    }
}
