//! Ends the processes that a test process leaves behind when it dies itself, even by a kill that runs no destructor. A
//! shell reads from a pipe that only the test process can write to. When the pipe ends, the shell kills all process
//! groups that were added and not removed.

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

/// From now on the process group is killed if this process dies.
pub(crate) fn watch(group: u32) {
    tell('+', group);
}

/// Removes a process group. Its leader was waited for, so another process may get its number.
pub(crate) fn forget(group: u32) {
    tell('-', group);
}

fn tell(sign: char, group: u32) {
    let mut stdin = WATCHDOG.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(stdin, "{sign} {group}").expect("the watchdog runs");
}
