//! The scripts. Each one is a file of its own, which is joined at build time with the fragments that several scripts share.
//!
//! A script is called by its hash. A link loads all scripts before it hands out a connection.

use redis::Script;
use std::sync::LazyLock;

macro_rules! scripts {
    ($($name:ident = $first_line:literal: $($file:literal),+;)+) => {
        /// All scripts of this version.
        pub(super) struct Scripts {
            $(pub(super) $name: Script,)+
        }

        /// The text of each script, as it is sent to the server.
        #[expect(non_upper_case_globals, reason = "a text has the name of its script")]
        pub(super) mod texts {
            $(pub(in super::super) const $name: &str = concat!(
                $first_line, "\n", $(include_str!(concat!("lua/", $file, ".lua"))),+
            );)+
        }

        pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
            $($name: Script::new(texts::$name),)+
        });

        impl Scripts {
            /// Every script, with its name.
            pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &Script)> {
                [$((stringify!($name), &self.$name)),+].into_iter()
            }
        }
    };
}

scripts! {
    publish = "#!lua": "epoch", "append", "publish";
    join = "#!lua": "epoch", "append", "clock", "members", "join";
    leave = "#!lua flags=allow-oom": "epoch", "append", "clock", "members", "leave";
    expire = "#!lua flags=allow-oom": "epoch", "append", "clock", "members", "expire";
    reap = "#!lua flags=allow-oom": "epoch", "append", "clock", "members", "reap";
    read = "#!lua flags=allow-oom": "epoch", "continuity", "read";
    delete = "#!lua flags=allow-oom": "epoch", "append", "delete";
    trim = "#!lua flags=allow-oom": "epoch", "continuity", "trim";
    summary = "#!lua flags=allow-oom": "clock", "summary";
    note = "#!lua": "note";
    noted = "#!lua flags=allow-oom": "noted";
    quiet = "#!lua flags=allow-oom": "quiet";
    forget = "#!lua flags=allow-oom": "forget";
    touch = "#!lua flags=allow-oom": "touch";
    presence = "#!lua flags=allow-oom": "clock", "presence";
    list_sessions = "#!lua flags=allow-oom": "list_sessions";
    renew = "#!lua flags=allow-oom": "clock", "lease", "renew";
    index_add = "#!lua": "clock", "lease", "index_add";
    index_drop = "#!lua flags=allow-oom": "clock", "lease", "index_drop";
    declare_dead = "#!lua flags=allow-oom": "clock", "lease", "declare_dead";
    restore = "#!lua flags=allow-oom": "clock", "lease", "restore";
    resign = "#!lua flags=allow-oom": "clock", "lease", "resign";
    schedule = "#!lua flags=allow-oom": "clock", "schedule";
    unschedule = "#!lua flags=allow-oom": "unschedule";
    post = "#!lua flags=allow-oom": "clock", "post";
    login = "#!lua": "clock", "restrictions", "user", "login";
    claim = "#!lua": "clock", "restrictions", "user", "claim";
    restrict = "#!lua flags=allow-oom": "clock", "restrictions", "restrict";
    linger = "#!lua flags=allow-oom": "clock", "user", "linger";
    close = "#!lua flags=allow-oom": "clock", "user", "close";
    reap_logins = "#!lua flags=allow-oom": "clock", "user", "reap_logins";
    entries = "#!lua flags=allow-oom": "clock", "restrictions", "user", "entries";
    login_policy = "#!lua flags=allow-oom": "login_policy";
}
