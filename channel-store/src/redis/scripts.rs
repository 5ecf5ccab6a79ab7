//! The scripts: each a file of its own, joined at build time with the fragments that it shares with others.
//!
//! A script is called by its hash; the link loads all of them before it hands out a connection.

use redis::Script;
use std::sync::LazyLock;

macro_rules! scripts {
    ($($name:ident = $first_line:literal: $($file:literal),+;)+) => {
        /// All scripts of this version.
        pub(super) struct Scripts {
            $(pub(super) $name: Script,)+
        }

        /// The text of each script, as the server has it.
        #[expect(non_upper_case_globals, reason = "a text is called as its script")]
        pub(super) mod texts {
            $(pub(in super::super) const $name: &str = concat!(
                $first_line, "\n", $(include_str!(concat!("lua/", $file, ".lua"))),+
            );)+
        }

        pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
            $($name: Script::new(texts::$name),)+
        });

        impl Scripts {
            /// Every script, to be loaded.
            pub(super) fn all(&self) -> impl Iterator<Item = &Script> {
                [$(&self.$name),+].into_iter()
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
    read = "#!lua flags=allow-oom": "epoch", "read";
    touch = "#!lua flags=allow-oom": "touch";
    look = "#!lua flags=allow-oom": "clock", "look";
    list = "#!lua flags=allow-oom": "list";
    renew = "#!lua flags=allow-oom": "clock", "lease", "renew";
    index_add = "#!lua": "clock", "lease", "index_add";
    index_drop = "#!lua flags=allow-oom": "clock", "lease", "index_drop";
    declare_dead = "#!lua flags=allow-oom": "clock", "lease", "declare_dead";
    vouch = "#!lua flags=allow-oom": "clock", "lease", "vouch";
    resign = "#!lua flags=allow-oom": "clock", "lease", "resign";
    note = "#!lua flags=allow-oom": "clock", "note";
    strike = "#!lua flags=allow-oom": "strike";
    login = "#!lua": "clock", "user", "login";
    claim = "#!lua": "clock", "user", "claim";
    linger = "#!lua flags=allow-oom": "clock", "user", "linger";
    close = "#!lua flags=allow-oom": "clock", "user", "close";
    reap_user = "#!lua flags=allow-oom": "clock", "user", "reap_user";
    look_user = "#!lua flags=allow-oom": "clock", "user", "look_user";
    agree = "#!lua flags=allow-oom": "agree";
}
