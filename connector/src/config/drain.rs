//! How a connector stops without a storm at the others.

use crate::client::Pace;
use runtime::cli::duration;
use std::time::Duration;

/// How long others have to notice that this connector stops, if they may be on other machines.
const NOTICE: Duration = Duration::from_secs(5);

/// How a connector stops: it says so, keeps serving for a while, and then closes its connections one after another.
#[derive(Debug, Clone, clap::Args)]
pub struct DrainSettings {
    /// How long a connector that stops goes on as before, but for /readyz and /healthz, so that balancers notice and send nobody any more
    ///
    /// Without it: 5s, or 0s on loopback. After SIGINT it is 0s.
    #[arg(id = "drain.notice", long = "drain-notice", value_name = "TIME", value_parser = duration)]
    pub notice: Option<Duration>,

    /// How many connections are closed in a second after that, at least
    #[arg(
        id = "drain.rate",
        long = "drain-rate",
        default_value_t = 500,
        value_name = "NUMBER",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub rate: u32,

    /// The time in which all of them are closed. If there are so many that --drain-rate would take longer, they are closed faster
    #[arg(
        id = "drain.window",
        long = "drain-window",
        default_value = "45s",
        value_name = "TIME",
        value_parser = duration
    )]
    pub window: Duration,

    /// How long all of this may take. What is left then is closed at once. It must be longer than --drain-notice and --drain-window
    /// together. Whatever starts this process must wait ten seconds longer before it kills it
    #[arg(
        id = "drain.deadline",
        long = "drain-deadline",
        default_value = "60s",
        value_name = "TIME",
        value_parser = duration
    )]
    pub deadline: Duration,
}

/// The ids of these settings, for the groups of the help.
pub const DRAIN: (&str, &[&str]) = (
    "Stopping",
    &[
        "drain.notice",
        "drain.rate",
        "drain.window",
        "drain.deadline",
    ],
);

impl DrainSettings {
    /// How long the connector goes on as before.
    #[must_use]
    pub fn notice(&self, is_reached_by_others: bool) -> Duration {
        let default = if is_reached_by_others {
            NOTICE
        } else {
            Duration::ZERO
        };
        self.notice.unwrap_or(default)
    }

    /// How fast connections are closed.
    pub(crate) fn pace(&self) -> Pace {
        Pace {
            rate: self.rate,
            window: self.window,
        }
    }

    /// # Errors
    /// Why the times do not fit together.
    pub fn check(&self) -> Result<(), String> {
        let needed = self.notice.unwrap_or(NOTICE) + self.window;
        if self.deadline > needed {
            return Ok(());
        }
        Err(format!(
            "--drain-deadline is {:?}, and --drain-notice and --drain-window take {needed:?} together: make it longer, or these shorter",
            self.deadline
        ))
    }
}
