//! Ports that ask for no credentials. They are reached from this machine alone, unless the operator wants it otherwise.

use std::net::SocketAddr;
use tracing::Level;

/// Whether ports without credentials may be reached from other machines.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DoorSettings {
    /// Lets ports that ask nobody for credentials be reached from other machines. Only for networks in which everybody may do everything
    #[arg(long)]
    pub insecure: bool,
}

/// The id of the setting, for the groups of the help.
pub const INSECURE: &str = "insecure";

/// A port, and what asks for credentials there.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    /// The flag that says where it listens.
    pub flag: &'static str,
    /// Where it listens. `None`: at a unix socket, whose file says who may connect.
    pub address: Option<SocketAddr>,
    /// What everybody can do who reaches the port.
    pub allows: &'static str,
    /// The setting that makes it ask for credentials.
    pub guard: &'static str,
    /// True if that is set.
    pub is_guarded: bool,
    /// True if it speaks TLS alone.
    pub is_encrypted: bool,
}

impl Door {
    fn is_open_to_others(&self) -> bool {
        !self.is_guarded && self.is_reached_by_others()
    }

    fn is_reached_by_others(&self) -> bool {
        self.address.is_some_and(|it| !it.ip().is_loopback())
    }

    /// What the log says about the port at the start. `None`: it is neither open nor can others read what it is sent.
    fn remark(&self) -> Option<(Level, String)> {
        let Self { allows, guard, .. } = self;
        let secrecy = match self.is_encrypted {
            true => "",
            false => " It is not encrypted: --tls-certificate would change that.",
        };
        if self.is_open_to_others() {
            let text = format!(
                "--insecure: other machines reach this port, and {allows}. {guard} would change that.{secrecy}"
            );
            Some((Level::WARN, text))
        } else if !self.is_guarded {
            let text = format!("this port is open on this machine: {allows}");
            Some((Level::INFO, text))
        } else if self.is_reached_by_others() && !self.is_encrypted {
            let text = "other machines reach this port, and it is not encrypted: tokens and messages cross the network as they \
                        are, unless the network or a proxy encrypts them. --tls-certificate would change that";
            Some((Level::INFO, text.to_owned()))
        } else {
            None
        }
    }
}

impl DoorSettings {
    /// Refuses a port that is open to other machines, unless that is wanted.
    ///
    /// # Errors
    /// One line that names the flag and says what to do.
    pub fn check(&self, door: &Door) -> Result<(), String> {
        let Door {
            flag,
            allows,
            guard,
            ..
        } = door;
        match door.address {
            Some(address) if door.is_open_to_others() && !self.insecure => Err(format!(
                "{flag}: other machines reach {address}, and {allows}. Set {guard}, or --insecure if that is what you want"
            )),
            _ => Ok(()),
        }
    }

    /// Logs once at the start if the port is open, or if others can read what it is sent.
    pub fn report(&self, door: &Door) {
        let flag = door.flag;
        let address = door.address.map(|it| it.to_string()).unwrap_or_default();
        match door.remark() {
            Some((Level::WARN, text)) => tracing::warn!(flag, address, "{text}"),
            Some((_, text)) => tracing::info!(flag, address, "{text}"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(address: &str, is_guarded: bool) -> Door {
        Door {
            flag: "--listen",
            address: Some(address.parse().unwrap()),
            allows: "everybody may do everything there",
            guard: "--guard",
            is_guarded,
            is_encrypted: false,
        }
    }

    #[test]
    fn a_port_that_others_reach_needs_a_guard_or_the_wish_to_be_open() {
        let (closed, open) = (DoorSettings::default(), DoorSettings { insecure: true });
        for address in ["127.0.0.1:1", "[::1]:1", "127.0.0.9:1"] {
            assert_eq!(closed.check(&door(address, false)), Ok(()), "{address}");
        }
        for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[2001:db8::1]:1"] {
            let refused = closed.check(&door(address, false)).unwrap_err();
            assert!(
                refused.starts_with("--listen: ") && refused.contains("--insecure"),
                "{refused}"
            );
            assert!(
                refused.contains("--guard") && refused.contains(address),
                "{refused}"
            );
            assert_eq!(open.check(&door(address, false)), Ok(()), "{address}");
            assert_eq!(closed.check(&door(address, true)), Ok(()), "{address}");
        }
        let unix = Door {
            address: None,
            ..door("127.0.0.1:1", false)
        };
        assert_eq!(closed.check(&unix), Ok(()));
    }

    #[test]
    fn the_log_says_what_is_open_and_what_is_not_encrypted() {
        let remark = |address, is_guarded, is_encrypted| {
            let door = Door {
                is_encrypted,
                ..door(address, is_guarded)
            };
            door.remark()
        };
        let (here, others) = ("127.0.0.1:1", "10.0.0.1:1");
        for (address, is_guarded, is_encrypted, level, words) in [
            (here, false, false, Level::INFO, "open on this machine"),
            (here, false, true, Level::INFO, "open on this machine"),
            (others, false, false, Level::WARN, "It is not encrypted"),
            (others, false, true, Level::WARN, "--guard would change"),
            (others, true, false, Level::INFO, "and it is not encrypted"),
        ] {
            let (logged, text) = remark(address, is_guarded, is_encrypted).unwrap();
            assert_eq!(logged, level, "{text}");
            assert!(text.contains(words), "{text}");
            assert_eq!(
                text.contains("not encrypted"),
                address == others && !is_encrypted,
                "{text}"
            );
        }
        for (address, is_encrypted) in [(here, false), (here, true), (others, true)] {
            assert_eq!(remark(address, true, is_encrypted), None, "{address}");
        }
    }
}
