//! Ends what a test process leaves behind when it dies itself, be it by a kill that runs no destructor: a shell that
//! reads from a pipe which nobody else holds, and at its end kills the process groups that were not signed off.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT
declare -A running
while read -r sign group; do
  if [[ $sign == + ]]; then running[$group]=1; else unset "running[$group]"; fi
done
for group in "${!running[@]}"; do kill -KILL -- "-$group"; done
"#;

static WATCHDOG: LazyLock<Mutex<ChildStdin>> = LazyLock::new(|| {
    let shell = Command::new("bash")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let stdin = shell
        .expect("bash starts, as the tests' watchdog")
        .stdin
        .take()
        .expect("its stdin is a pipe");
    Mutex::new(stdin)
});

/// From now on the process group dies with this process.
pub(crate) fn watch(group: u32) {
    tell('+', group);
}

/// The group's leader was waited for: its number may be given to somebody else.
pub(crate) fn forget(group: u32) {
    tell('-', group);
}

fn tell(sign: char, group: u32) {
    let mut stdin = WATCHDOG.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(stdin, "{sign} {group}").expect("the watchdog listens");
}
