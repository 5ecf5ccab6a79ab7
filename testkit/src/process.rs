//! A process under test. Its output is kept, and printed when the test fails. It never outlives the test.

use crate::{pace, wait, watchdog};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process,
    kill_process_group, prlimit, waitid,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The number of last lines that are printed when the test fails.
const PRINTED_LINES: usize = 80;

/// The resident set of a process, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// The present size.
    pub now: u64,
    /// The largest size so far.
    pub peak: u64,
}

/// A process in a process group of its own.
pub struct Process {
    name: String,
    child: Child,
    exited: Option<ExitStatus>,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Process {
    /// Starts a process without input, and keeps its output.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        Self::spawn_with_input(name, command, Stdio::null())
    }

    /// Like [`spawn`](Self::spawn), with input.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn spawn_with_input(name: &str, command: &mut Command, input: impl Into<Stdio>) -> Self {
        command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error} ({command:?})"));
        watchdog::watch(child.id());
        pace::start();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let readers = vec![
            keep(&lines, child.stdout.take().expect("stdout is a pipe")),
            keep(&lines, child.stderr.take().expect("stderr is a pipe")),
        ];
        Self {
            name: name.to_owned(),
            child,
            exited: None,
            lines,
            readers,
        }
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far, to standard output and standard error.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for a line in which the function finds something.
    ///
    /// # Panics
    /// If it doesn't come in time, or the process ends first.
    pub async fn until_line<T>(&mut self, what: &str, pick: impl FnMut(&str) -> Option<T>) -> T {
        self.until_line_within(crate::SOON, what, pick).await
    }

    /// Like [`Process::until_line`], with another limit of time.
    ///
    /// # Panics
    /// Like [`Process::until_line`].
    pub async fn until_line_within<T>(
        &mut self,
        within: Duration,
        what: &str,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let what = format!("{} writes {what}", self.name);
        wait::some(&what, within, async || {
            let ended = self.poll();
            let found = self.lines().iter().find_map(|line| pick(line));
            assert!(
                found.is_some() || ended.is_none(),
                "{} ended ({ended:?}) before this happened: {what}",
                self.name
            );
            found
        })
        .await
    }

    /// The exit status, if it has ended. Then all its lines have been read.
    pub fn poll(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            // NOWAIT leaves the child as a zombie. Until it is waited for, nobody else can get the number of its group.
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let ended = waitid(WaitId::Pid(self.pid()), look).expect("it is a child of the test");
            if ended.is_some() {
                self.reap();
            }
        }
        self.exited
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// If it doesn't end in time.
    pub async fn ended_within(&mut self, within: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait::some(&what, within, async || self.poll()).await
    }

    /// Kills it with SIGKILL, like a crash, and waits until it has ended.
    pub fn kill(&mut self) {
        if self.exited.is_none() {
            self.reap();
        }
    }

    /// Asks it to end, with SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Asks it and the processes that it has started to end, with SIGTERM.
    pub fn terminate_group(&self) {
        if self.exited.is_none() {
            kill_process_group(self.pid(), Signal::TERM).expect("a child may be signalled");
        }
    }

    /// Stops it with SIGSTOP: its connections stay open, and it answers nothing. Returns when all its threads stand still, because a
    /// busy machine lets them run for a while after the signal.
    ///
    /// # Panics
    /// If the process has ended.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        if self.exited.is_none() {
            let stopped = waitid(WaitId::Pid(self.pid()), WaitIdOptions::STOPPED);
            stopped.expect("it is stopped");
        }
    }

    /// Lets it go on, with SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Limits how many file descriptors it may have open; open ones stay open. Returns the limit before, which may be
    /// set again, because the hard limit stays the one of this process.
    ///
    /// # Panics
    /// If the process has ended.
    pub fn limit_descriptors(&self, limit: Option<u64>) -> Option<u64> {
        let limit = Rlimit {
            current: limit,
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        let before = prlimit(Some(self.pid()), Resource::Nofile, limit);
        before.expect("a child may be limited").current
    }

    /// The memory in use now and at its peak: the resident set.
    ///
    /// # Panics
    /// If the process has ended.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))
            .expect("the process lives");
        let bytes = |label| {
            let kilobytes = status
                .lines()
                .find_map(|line| line.strip_prefix(label))
                .and_then(|rest| rest.trim().strip_suffix(" kB"))
                .and_then(|number| number.trim().parse::<u64>().ok());
            kilobytes.expect("the kernel reports the resident set") * 1024
        };
        Memory {
            now: bytes("VmRSS:"),
            peak: bytes("VmHWM:"),
        }
    }

    fn signal(&self, signal: Signal) {
        if self.exited.is_none() {
            kill_process(self.pid(), signal).expect("a child may be signalled");
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Kills the whole group, so that the processes it has started end, too, and waits.
    fn reap(&mut self) {
        kill_process_group(self.pid(), Signal::KILL).expect("a child may be killed");
        let status = self.child.wait().expect("a child may be waited for");
        watchdog::forget(self.child.id());
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader never panics");
        }
        self.exited = Some(status);
    }

    /// Keeps all processes of a failed test, so that somebody can look at them. The test neither goes on nor ends. If
    /// somebody stops it, the processes end, too.
    fn keep_for_inspection(&self) -> ! {
        // Not with a macro: the output of a macro is shown only when the test has ended.
        let mut output = std::io::stderr();
        for line in self.lines() {
            let _ = writeln!(output, "{line}");
        }
        let (name, id) = (&self.name, self.child.id());
        let _ = writeln!(
            output,
            "The test has failed. {name} (process {id}, its lines are above) and the test's other processes are kept until \
             you press Ctrl-C, because TESTS_KEEP is set."
        );
        loop {
            std::thread::park();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let has_failed = std::thread::panicking();
        if has_failed && self.exited.is_none() && std::env::var_os("TESTS_KEEP").is_some() {
            self.keep_for_inspection();
        }
        self.kill();
        if std::thread::panicking() {
            let lines = self.lines();
            let skipped = lines.len().saturating_sub(PRINTED_LINES);
            eprintln!(
                "---- {} ({}), {skipped} lines before:",
                self.name,
                self.child.id()
            );
            for line in &lines[skipped..] {
                eprintln!("{line}");
            }
        }
    }
}

/// Reads the output on a thread of its own, so that a full pipe never stops the process.
fn keep(
    lines: &Arc<Mutex<Vec<String>>>,
    output: impl Read + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while matches!(output.read_until(b'\n', &mut line), Ok(read) if read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(text);
            line.clear();
        }
    })
}
