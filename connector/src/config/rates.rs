//! How much a session and an address may do in a second.

use crate::limits::SessionRates;
use crate::limits::addresses::AddressRules;
use runtime::cli::bytes;
use runtime::pace::Rate;
use std::ops::RangeInclusive;

/// The range of the settings in bytes.
const BYTES: RangeInclusive<u64> = 0..=1 << 30;

/// What a session and an address may do in a second, and at once. 0 stands for no limit.
///
/// Without a value each of them has its default if strangers can reach this connector, and none if it listens on loopback and
/// lets everybody log in.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RateSettings {
    /// Requests that a session may make in a second; 0: no limit. Beyond it requests get the code 429, and a client that goes on is
    /// closed. Leaves and pings do not count
    ///
    /// Without it: 200, or no limit on loopback if everybody may log in.
    #[arg(long, value_name = "NUMBER")]
    pub request_rate: Option<u32>,

    /// Requests that a session may make at once after a rest
    #[arg(long, default_value_t = 1_000, value_name = "NUMBER")]
    pub request_burst: u32,

    /// Bytes of messages, of every kind, that a session may send in a second; 0: no limit
    ///
    /// Without it: 2MiB, or no limit on loopback if everybody may log in.
    #[arg(long, value_name = "BYTES", value_parser = bytes::<u32>(BYTES))]
    pub byte_rate: Option<u32>,

    /// Bytes that a session may send at once after a rest
    #[arg(long, default_value = "8MiB", value_name = "BYTES", value_parser = bytes::<u32>(BYTES))]
    pub byte_burst: u32,

    /// Channels that a session may join in a second; 0: no limit
    ///
    /// Without it: 20, or no limit on loopback if everybody may log in.
    #[arg(long, value_name = "NUMBER")]
    pub join_rate: Option<u32>,

    /// Channels that a session may join at once after a rest
    #[arg(long, default_value_t = 100, value_name = "NUMBER")]
    pub join_burst: u32,

    /// Pages of history and of members that a session may read in a second; 0: no limit
    ///
    /// Without it: 10, or no limit on loopback if everybody may log in.
    #[arg(long, value_name = "NUMBER")]
    pub read_rate: Option<u32>,

    /// Pages that a session may read at once after a rest
    #[arg(long, default_value_t = 50, value_name = "NUMBER")]
    pub read_burst: u32,

    /// Connections that an address may have (an IPv6 network of 64 bits counts as one address); 0: no limit
    ///
    /// Without it: 1000, or no limit on loopback if everybody may log in.
    #[arg(long, value_name = "NUMBER")]
    pub address_connections: Option<u32>,

    /// Connections that a user may have on all connectors together, under --login-policy allow; 0: no limit
    ///
    /// Without it: 16, or no limit on loopback if everybody may log in. At most 100.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub user_connections: Option<u32>,

    /// Connections that an address may begin in a second; 0: no limit
    ///
    /// Without it: 50, or no limit on loopback if everybody may log in.
    #[arg(long, value_name = "NUMBER")]
    pub address_rate: Option<u32>,

    /// Connections that an address may begin at once after a rest
    #[arg(long, default_value_t = 500, value_name = "NUMBER")]
    pub address_burst: u32,
}

/// The heading for these settings, and the settings below it.
pub const RATES: (&str, &[&str]) = (
    "Rates",
    &[
        "request_rate",
        "request_burst",
        "byte_rate",
        "byte_burst",
        "join_rate",
        "join_burst",
        "read_rate",
        "read_burst",
        "address_connections",
        "user_connections",
        "address_rate",
        "address_burst",
    ],
);

impl RateSettings {
    /// Checks that what is limited is not forbidden.
    ///
    /// # Errors
    /// One line that names the flag.
    pub(crate) fn check(&self) -> Result<(), String> {
        let all = [
            ("request", self.request_rate, self.request_burst),
            ("byte", self.byte_rate, self.byte_burst),
            ("join", self.join_rate, self.join_burst),
            ("read", self.read_rate, self.read_burst),
            ("address", self.address_rate, self.address_burst),
        ];
        let mut wrong = all
            .into_iter()
            .filter(|(_, rate, burst)| *burst == 0 && *rate != Some(0));
        match wrong.next() {
            None => Ok(()),
            Some((name, ..)) => Err(format!(
                "--{name}-burst: 0 would allow nothing at all; expected at least 1. For no limit, set --{name}-rate 0"
            )),
        }
    }

    /// What a session may do. `are_strangers`: people whom the operator does not know can reach this connector.
    pub(crate) fn session(&self, are_strangers: bool) -> SessionRates {
        let rate = |asked: Option<u32>, default, burst| {
            Rate::of(
                asked.unwrap_or(if are_strangers { default } else { 0 }),
                burst,
            )
        };
        SessionRates {
            requests: rate(self.request_rate, 200, self.request_burst),
            bytes: rate(self.byte_rate, 2 << 20, self.byte_burst),
            joins: rate(self.join_rate, 20, self.join_burst),
            reads: rate(self.read_rate, 10, self.read_burst),
        }
    }

    /// How many connections a user may have; 0: no limit.
    pub(crate) fn connections_of_user(&self, are_strangers: bool) -> u32 {
        let asked = self.user_connections;
        asked.unwrap_or(if are_strangers { 16 } else { 0 })
    }

    /// What an address may do.
    pub(crate) fn address(&self, are_strangers: bool) -> AddressRules {
        let or =
            |asked: Option<u32>, default| asked.unwrap_or(if are_strangers { default } else { 0 });
        let connections = or(self.address_connections, 1_000);
        AddressRules {
            connections: (connections > 0).then_some(connections),
            handshakes: Rate::of(or(self.address_rate, 50), self.address_burst),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        rates: RateSettings,
    }

    fn rates(flags: &[&str]) -> RateSettings {
        Command::parse_from([&["connector"], flags].concat()).rates
    }

    #[test]
    fn strangers_have_rates_by_default_and_others_have_none() {
        let rates = rates(&[]);
        let expected = SessionRates {
            requests: Rate::of(200, 1_000),
            bytes: Rate::of(2 << 20, 8 << 20),
            joins: Rate::of(20, 100),
            reads: Rate::of(10, 50),
        };
        assert_eq!(rates.session(true), expected);
        assert_eq!(rates.session(false), SessionRates::default());
        assert_eq!(rates.connections_of_user(true), 16);
        assert_eq!(rates.connections_of_user(false), 0);
        let of_address = |are_strangers| {
            let rules = rates.address(are_strangers);
            (rules.connections, rules.handshakes)
        };
        assert_eq!(of_address(true), (Some(1_000), Rate::of(50, 500)));
        assert_eq!(of_address(false), (None, None));
    }

    #[test]
    fn what_is_set_holds_for_everybody() {
        let rates = rates(&[
            "--request-rate=1",
            "--byte-rate=0",
            "--join-rate=3",
            "--read-rate=4",
            "--address-connections=0",
            "--address-rate=6",
            "--user-connections=7",
        ]);
        for are_strangers in [false, true] {
            let expected = SessionRates {
                requests: Rate::of(1, 1_000),
                bytes: None,
                joins: Rate::of(3, 100),
                reads: Rate::of(4, 50),
            };
            assert_eq!(rates.session(are_strangers), expected);
            let of_address = rates.address(are_strangers);
            assert_eq!(of_address.connections, None);
            assert_eq!(of_address.handshakes, Rate::of(6, 500));
            assert_eq!(rates.connections_of_user(are_strangers), 7);
        }
    }
}
