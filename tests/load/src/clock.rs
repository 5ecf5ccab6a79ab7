//! An alarm as exact as the kernel's. Time-outs of a wait for sockets are counted in milliseconds, so an alarm made of
//! them could be a millisecond late.

use mio::unix::SourceFd;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::os::fd::RawFd;

/// An alarm that can be waited for with sockets.
pub(crate) struct Clock {
    timer: OwnedFd,
    number: RawFd,
}

impl Clock {
    /// An alarm that is not set.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let number = timer.as_raw_fd();
        Ok(Self { timer, number })
    }

    /// The source to register with the poll.
    pub(crate) fn source(&self) -> SourceFd<'_> {
        SourceFd(&self.number)
    }

    /// Rings once, after this time.
    pub(crate) fn ring_in(&self, nanoseconds: u64) {
        let nanoseconds = nanoseconds.max(1);
        let value = Timespec {
            tv_sec: (nanoseconds / 1_000_000_000) as i64,
            tv_nsec: (nanoseconds % 1_000_000_000) as _,
        };
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: value,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)
            .expect("a time below a minute");
    }
}
