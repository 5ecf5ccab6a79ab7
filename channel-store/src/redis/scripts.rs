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
}

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    publish: joined!("#!lua": "epoch", "append", "publish"),
    join: joined!("#!lua": "epoch", "append", "members", "join"),
    leave: joined!("#!lua flags=allow-oom": "epoch", "append", "members", "leave"),
    expire: joined!("#!lua flags=allow-oom": "epoch", "append", "members", "expire"),
    read: joined!("#!lua flags=allow-oom": "epoch", "read"),
    touch: joined!("#!lua flags=allow-oom": "touch"),
});

impl Scripts {
    /// Every script, to be loaded.
    pub(super) fn all(&self) -> [&Script; 6] {
        [
            &self.publish,
            &self.join,
            &self.leave,
            &self.expire,
            &self.read,
            &self.touch,
        ]
    }
}
