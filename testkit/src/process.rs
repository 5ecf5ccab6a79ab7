//! A process under test: its lines are kept and printed when the test fails, and it never outlives the test.

use crate::{wait, watchdog};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process,
    kill_process_group, prlimit, waitid,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What is printed of a process when its test fails: its last lines.
const PRINTED_LINES: usize = 80;

/// A process's resident set, bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Now.
    pub now: u64,
    /// The most it ever was.
    pub peak: u64,
}

/// A started process, in a group of its own.
pub struct Process {
    name: String,
    child: Child,
    exited: Option<ExitStatus>,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Process {
    /// Starts it, without input and with its output kept.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        Self::spawn_with_input(name, command, Stdio::null())
    }

    /// As [`spawn`](Self::spawn), with something to read.
    ///
    /// # Panics
    /// When it does not start.
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

    /// What it has written so far, standard output and error in one.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for a line.
    ///
    /// # Panics
    /// When it doesn't come in time, or the process ends before.
    pub async fn wrote<T>(&mut self, what: &str, pick: impl FnMut(&str) -> Option<T>) -> T {
        self.wrote_within(crate::SOON, what, pick).await
    }

    /// As [`Process::wrote`], for what may take longer.
    ///
    /// # Panics
    /// As there.
    pub async fn wrote_within<T>(
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
                "{} ended ({ended:?}) without: {what}",
                self.name
            );
            found
        })
        .await
    }

    /// How it ended, if it has, and all its lines are read.
    pub fn poll(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            // Looks without taking: while the child is not waited for, its group's number belongs to it.
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let ended = waitid(WaitId::Pid(self.pid()), look).expect("it is one's child");
            if ended.is_some() {
                self.reap();
            }
        }
        self.exited
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it doesn't in time.
    pub async fn ended_within(&mut self, within: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait::some(&what, within, async || self.poll()).await
    }

    /// Ends it as a crash would, SIGKILL, and waits for that.
    pub fn kill(&mut self) {
        if self.exited.is_none() {
            self.reap();
        }
    }

    /// Asks it to end, SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks it and whatever it has started to end, SIGTERM.
    pub fn terminate_group(&self) {
        if self.exited.is_none() {
            kill_process_group(self.pid(), Signal::TERM).expect("one may signal one's child");
        }
    }

    /// Stops it in its tracks, SIGSTOP: its connections stay, nothing answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on, SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Lets it open no file descriptor that brings it beyond so many; those that it has stay open. Returns what held before,
    /// which may be set again: the hard limit stays what it got of us.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn limit_descriptors(&self, limit: Option<u64>) -> Option<u64> {
        let limit = Rlimit {
            current: limit,
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        let before = prlimit(Some(self.pid()), Resource::Nofile, limit);
        before.expect("one may limit one's child").current
    }

    /// Memory in use now and at its peak, bytes: the resident set.
    ///
    /// # Panics
    /// When the process is gone.
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
            kilobytes.expect("the kernel tells the resident set") * 1024
        };
        Memory {
            now: bytes("VmRSS:"),
            peak: bytes("VmHWM:"),
        }
    }

    fn signal(&self, signal: Signal) {
        if self.exited.is_none() {
            kill_process(self.pid(), signal).expect("one may signal one's child");
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Kills the whole group, so that what the process has started goes with it, and waits.
    fn reap(&mut self) {
        kill_process_group(self.pid(), Signal::KILL).expect("one may kill one's child");
        let status = self.child.wait().expect("one may wait for one's child");
        watchdog::forget(self.child.id());
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader never panics");
        }
        self.exited = Some(status);
    }

    /// Keeps all processes of a test that has failed, so that somebody can look at them. The test does not go on and does
    /// not end: whoever stops it ends the processes, too.
    fn stay(&self) -> ! {
        // Not by a macro: the test's own output is shown only when the test has ended.
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
            self.stay();
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

/// Reads to the end on a thread of its own, so that a full pipe never stops the process.
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
