//! The scripts: each a file of its own, joined at build time with the fragments that it shares with others.
//!
//! A script is called by its hash; the link loads all of them before it hands out a connection.

use redis::Script;
use std::sync::LazyLock;

macro_rules! joined {
    ($first_line:literal: $($file:literal),+) => {
        Script::new(concat!($first_line, "\n", $(include_str!(concat!("lua/", $file, ".lua"))),+))
    };
}

/// All scripts of this version.
pub(super) struct Scripts {
    pub(super) publish: Script,
    pub(super) join: Script,
    pub(super) leave: Script,
    pub(super) expire: Script,
    pub(super) read: Script,
    pub(super) touch: Script,
    pub(super) reap: Script,
    pub(super) look: Script,
    pub(super) list: Script,
    pub(super) login: Script,
    pub(super) claim: Script,
    pub(super) close: Script,
    pub(super) reap_user: Script,
    pub(super) look_user: Script,
    pub(super) agree: Script,
    pub(super) renew: Script,
    pub(super) index_add: Script,
    pub(super) index_drop: Script,
    pub(super) declare_dead: Script,
    pub(super) vouch: Script,
    pub(super) resign: Script,
    pub(super) note: Script,
    pub(super) due: Script,
    pub(super) strike: Script,
}

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    publish: joined!("#!lua": "epoch", "append", "publish"),
    join: joined!("#!lua": "epoch", "append", "members", "join"),
    leave: joined!("#!lua flags=allow-oom": "epoch", "append", "members", "leave"),
    expire: joined!("#!lua flags=allow-oom": "epoch", "append", "members", "expire"),
    read: joined!("#!lua flags=allow-oom": "epoch", "read"),
    touch: joined!("#!lua flags=allow-oom": "touch"),
    reap: joined!("#!lua flags=allow-oom": "epoch", "append", "members", "reap"),
    look: joined!("#!lua flags=allow-oom": "look"),
    list: joined!("#!lua flags=allow-oom": "list"),
    login: joined!("#!lua": "user", "login"),
    claim: joined!("#!lua": "user", "claim"),
    close: joined!("#!lua flags=allow-oom": "user", "close"),
    reap_user: joined!("#!lua flags=allow-oom": "user", "reap_user"),
    look_user: joined!("#!lua flags=allow-oom": "user", "look_user"),
    agree: joined!("#!lua flags=allow-oom": "agree"),
    renew: joined!("#!lua flags=allow-oom": "lease", "renew"),
    index_add: joined!("#!lua": "lease", "index_add"),
    index_drop: joined!("#!lua flags=allow-oom": "lease", "index_drop"),
    declare_dead: joined!("#!lua flags=allow-oom": "lease", "declare_dead"),
    vouch: joined!("#!lua flags=allow-oom": "lease", "vouch"),
    resign: joined!("#!lua flags=allow-oom": "lease", "resign"),
    note: joined!("#!lua flags=allow-oom": "note"),
    due: joined!("#!lua flags=allow-oom": "due"),
    strike: joined!("#!lua flags=allow-oom": "strike"),
});

impl Scripts {
    /// Every script, to be loaded.
    pub(super) fn all(&self) -> [&Script; 24] {
        [
            &self.publish,
            &self.join,
            &self.leave,
            &self.expire,
            &self.read,
            &self.touch,
            &self.reap,
            &self.look,
            &self.list,
            &self.login,
            &self.claim,
            &self.close,
            &self.reap_user,
            &self.look_user,
            &self.agree,
            &self.renew,
            &self.index_add,
            &self.index_drop,
            &self.declare_dead,
            &self.vouch,
            &self.resign,
            &self.note,
            &self.due,
            &self.strike,
        ]
    }
}
