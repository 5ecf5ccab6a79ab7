//! The life of a process until its exit code: the tokio runtime, signals, and the drain with its deadline.

use crate::exporter::Metrics;
use crate::telemetry::{LogFormat, keep_reporting, log_format, report_all_held_back};
use crate::tls::expiry;
use crate::{descriptors, huge_pages};
use parking_lot::Mutex;
use std::future::Future;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fmt, io, panic, thread};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a service may take to end what it does, unless it [says](Shutdown::may_take) something else. After that, and after a
/// second signal, it ends everything at once, for which it has this time, too.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Asks a service to end, in two steps. At the first one it takes nothing new, finishes what it has, and returns. At the second
/// one it ends what is left at once. Clones share the request.
#[derive(Clone, Debug)]
pub struct Shutdown {
    requested: CancellationToken,
    hurried: CancellationToken,
    /// Somebody waits for the end, so nothing is waited for before it begins.
    at_once: Arc<AtomicBool>,
    /// How long the first step may take.
    may_take: Arc<Mutex<Duration>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            requested: CancellationToken::new(),
            hurried: CancellationToken::new(),
            at_once: Arc::default(),
            may_take: Arc::new(Mutex::new(DEADLINE)),
        }
    }
}

impl Shutdown {
    /// Not requested yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everybody who holds a clone to end.
    pub fn request(&self) {
        self.requested.cancel();
    }

    /// True once somebody asked.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requested.is_cancelled()
    }

    /// Returns once somebody asked. Safe to drop at any point.
    pub async fn requested(&self) {
        self.requested.cancelled().await;
    }

    /// True if a person waits at a keyboard (SIGINT). Then nobody has to be given notice.
    #[must_use]
    pub fn is_at_once(&self) -> bool {
        self.at_once.load(Ordering::Relaxed)
    }

    /// Asks everybody who holds a clone to end what is left at once.
    pub fn hurry(&self) {
        self.requested.cancel();
        self.hurried.cancel();
    }

    /// Returns once what is left has to end at once. Safe to drop at any point.
    pub async fn hurried(&self) {
        self.hurried.cancelled().await;
    }

    /// From now on the service may take so long before it is hurried.
    pub fn may_take(&self, time: Duration) {
        *self.may_take.lock() = time;
    }
}

/// Runs a service until it returns, on a tokio runtime with this many threads. With one thread, that is the caller's
/// own.
///
/// The first SIGTERM or SIGINT requests the shutdown. A second one, or the time that the service may take, hurries it. A third one,
/// or [`DEADLINE`] after that, ends the process at once. If the service fails, the error is one line on stderr, or an event if the
/// log is JSON, and the exit code is 1. A panic in any task is logged. At the start, the limit of file descriptors is raised and huge
/// pages are switched off.
pub fn run<F, E>(name: &str, threads: usize, service: impl FnOnce(Shutdown) -> F) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: From<io::Error> + fmt::Display,
{
    log_panics();
    descriptors::raise();
    huge_pages::avoid();
    let shutdown = Shutdown::new();
    let outcome = runtime(threads)
        .and_then(|runtime| {
            listen_to_signals(shutdown.clone())?;
            Ok(runtime)
        })
        .map_err(E::from)
        .and_then(|runtime| {
            Metrics::install().name_service(name);
            expiry::register_all();
            runtime.spawn(keep_reporting());
            let outcome = runtime.block_on(service(shutdown));
            // Tasks that are left have had their time, and blocking threads must not delay the exit.
            runtime.shutdown_background();
            report_all_held_back();
            outcome
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A reader of JSON logs must get nothing but JSON. People want the reason alone.
            match log_format() {
                Some(LogFormat::Json) => tracing::error!("{name}: {error:#}"),
                _ => eprintln!("{name}: {error:#}"),
            }
            ExitCode::FAILURE
        }
    }
}

fn runtime(threads: usize) -> io::Result<Runtime> {
    let mut builder = match threads {
        0 | 1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

/// Listens for signals on a thread of its own, so that a process whose runtime is stuck can still be stopped.
fn listen_to_signals(shutdown: Shutdown) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    // Registered before `run` goes on. Before that, a signal would kill the process.
    let (terminate, interrupt) = {
        let _context = runtime.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        )
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let code = runtime.block_on(watch_signals(terminate, interrupt, &shutdown));
            process::exit(code);
        })?;
    Ok(())
}

/// Requests the shutdown at the first signal, and hurries it at the second one. Returns the exit code at the third signal, or
/// [`DEADLINE`] after the second step has begun.
async fn watch_signals(mut terminate: Signal, mut interrupt: Signal, shutdown: &Shutdown) -> i32 {
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => {
            tracing::info!("SIGINT: draining");
            shutdown.at_once.store(true, Ordering::Relaxed);
        }
        () = shutdown.requested() => {}
    }
    shutdown.request();
    let may_take = *shutdown.may_take.lock();
    tokio::select! {
        _ = terminate.recv() => tracing::warn!("a second SIGTERM: ending everything at once"),
        _ = interrupt.recv() => tracing::warn!("a second SIGINT: ending everything at once"),
        () = shutdown.hurried() => {}
        () = tokio::time::sleep(may_take) => tracing::warn!(
            "not drained after {} s: ending everything at once",
            may_take.as_secs_f64()
        ),
    }
    shutdown.hurry();
    tokio::select! {
        _ = terminate.recv() => 128 + SignalKind::terminate().as_raw_value(),
        _ = interrupt.recv() => 128 + SignalKind::interrupt().as_raw_value(),
        () = tokio::time::sleep(DEADLINE) => {
            tracing::error!("not ended after further {} s: ending anyway", DEADLINE.as_secs());
            1
        }
    }
}

/// Logs panics. Otherwise a panic would be seen only where its task is joined, and perhaps nowhere.
fn log_panics() {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if tracing::dispatcher::has_been_set() {
            let thread = thread::current();
            tracing::error!(thread = thread.name(), "{panic}");
        } else {
            default(panic);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_learns_of_the_shutdown_request() {
        let shutdown = Shutdown::new();
        let clone = shutdown.clone();
        assert!(!clone.is_requested());
        shutdown.request();
        clone.requested().await;
        assert!(clone.is_requested());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_drain_is_hurried_and_then_ended() {
        let terminate = signal(SignalKind::user_defined1()).unwrap();
        let interrupt = signal(SignalKind::user_defined2()).unwrap();
        let shutdown = Shutdown::new();
        let minute = Duration::from_secs(60);
        shutdown.may_take(minute);
        shutdown.request();
        let started = tokio::time::Instant::now();
        let hurried = async {
            shutdown.hurried().await;
            started.elapsed()
        };
        let ended = watch_signals(terminate, interrupt, &shutdown);
        let (hurried, code) = tokio::join!(hurried, ended);
        assert_eq!((hurried, code), (minute, 1));
        assert_eq!(started.elapsed(), minute + DEADLINE);
    }

    #[test]
    fn the_service_decides_the_exit_code_on_one_thread_or_several() {
        for threads in [0, 1, 2] {
            let ok = run("test", threads, |_| async { io::Result::Ok(()) });
            assert_eq!(format!("{ok:?}"), format!("{:?}", ExitCode::SUCCESS));
            let failed = run("test", threads, |_| async { Err(io::Error::other("no")) });
            assert_eq!(format!("{failed:?}"), format!("{:?}", ExitCode::FAILURE));
        }
    }
}
