//! When certificates end: a metric for alerts, and warnings in the log for those who have none.

use super::pem::Contents;
use crate::families::{Family, register};
use metrics::gauge;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// When the certificate of a file ends.
pub(crate) const EXPIRY: &str = "certificate_expiry_timestamp_seconds";

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// How often it is looked whether a certificate has come near its end.
pub(super) const LOOK: Duration = Duration::from_secs(3_600);

/// What a file is for. The label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The certificate of a port.
    Port,
    /// Whose certificates the clients of a port need.
    PortClientCa,
    /// Whose certificates chats need to have.
    ChatCa,
    /// What this process shows to chats.
    ChatCertificate,
    /// Whose certificates the operator's handlers need to have.
    RouteCa,
    /// Whose certificates the operator's hook needs to have.
    HookCa,
}

impl Role {
    /// The values of the label, in the order of the variants.
    const LABELS: [&'static str; 6] = [
        "port",
        "port_client_ca",
        "chat_ca",
        "chat_certificate",
        "route_ca",
        "hook_ca",
    ];

    fn label(self) -> &'static str {
        Self::LABELS[self as usize]
    }

    /// Nobody can be trusted any more when the last authority has ended: a file often holds an old one and the one that follows.
    /// A chain ends with the first of its certificates.
    fn is_of_authorities(self) -> bool {
        matches!(
            self,
            Self::PortClientCa | Self::ChatCa | Self::RouteCa | Self::HookCa
        )
    }
}

/// Registers the metric, at 0 for every role: the process has no such file.
pub(crate) fn register_all() {
    register(&[Family::gauge(
        EXPIRY,
        "When the certificate in a file ends, in seconds since 1970; 0: there is no such file",
    )
    .by(&[("role", &Role::LABELS)])]);
}

/// How near its end a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Month,
    Week,
    Day,
    Over,
}

impl Stage {
    /// `None`: there is time.
    fn of(left: Duration) -> Option<Self> {
        let stages = [
            (Duration::ZERO, Self::Over),
            (DAY, Self::Day),
            (7 * DAY, Self::Week),
            (30 * DAY, Self::Month),
        ];
        let stage = stages.into_iter().find(|(most, _)| left <= *most);
        stage.map(|(_, stage)| stage)
    }
}

/// The end of the certificate in one file.
pub(super) struct Expiry {
    role: Role,
    /// Seconds since 1970.
    end: i64,
    warned: Option<Stage>,
}

impl Expiry {
    /// Nothing is known of the file yet.
    pub(super) fn of(role: Role) -> Self {
        Self {
            role,
            end: 0,
            warned: None,
        }
    }

    /// Reads what the file holds now, and says when that ends.
    pub(super) fn read(&mut self, file: &Contents<'_>) {
        let ends = CertificateDer::pem_slice_iter(file.bytes).filter_map(|it| {
            let certificate = it.ok()?;
            let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
            Some(parsed.validity().not_after.timestamp())
        });
        let end = match self.role.is_of_authorities() {
            true => ends.max(),
            false => ends.min(),
        };
        self.end = end.unwrap_or_default();
        self.warned = None;
        gauge!(EXPIRY, "role" => self.role.label()).set(self.end as f64);
        self.look(file.file, SystemTime::now());
    }

    /// Warns if the end has come nearer. Each stage is logged once. Returns whether it was.
    pub(super) fn look(&mut self, file: &Path, now: SystemTime) -> bool {
        let Ok(end) = u64::try_from(self.end) else {
            return false;
        };
        if end == 0 {
            return false;
        }
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = Duration::from_secs(end).saturating_sub(now);
        let stage = Stage::of(left);
        if stage <= self.warned {
            return false;
        }
        self.warned = stage;
        let until = ASN1Time::from_timestamp(self.end)
            .map_or_else(|_| end.to_string(), |it| it.to_string());
        let (file, role) = (file.display(), self.role.label());
        match stage {
            Some(Stage::Over) => tracing::error!(
                %file,
                role,
                until,
                "a certificate has expired, and new connections are refused. Replace the file: it is read again at once"
            ),
            _ => tracing::warn!(
                %file,
                role,
                until,
                days = left.as_secs() / DAY.as_secs(),
                "a certificate expires soon, and then new connections are refused. Replace the file: it is read again at once"
            ),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    /// A certificate that ends with this year.
    fn pem(year: i32) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 12, 31);
        params.self_signed(&key).unwrap().pem()
    }

    fn end(year: u64) -> i64 {
        let (_, parsed) = x509_parser::pem::parse_x509_pem(pem(year as i32).as_bytes()).unwrap();
        parsed
            .parse_x509()
            .unwrap()
            .validity()
            .not_after
            .timestamp()
    }

    fn read(role: Role, text: &str) -> i64 {
        let mut expiry = Expiry::of(role);
        expiry.read(&Contents {
            file: Path::new("/f"),
            bytes: text.as_bytes(),
        });
        expiry.end
    }

    #[test]
    fn a_chain_ends_with_its_first_certificate_and_trust_with_the_last_authority() {
        let both = pem(2_090) + &pem(2_080);
        assert_eq!(read(Role::Port, &both), end(2_080));
        assert_eq!(read(Role::ChatCa, &both), end(2_090));
        assert_eq!(read(Role::Port, "no certificate"), 0);
    }

    #[test]
    fn every_role_has_a_label_of_its_own() {
        for (role, label) in [
            Role::Port,
            Role::PortClientCa,
            Role::ChatCa,
            Role::ChatCertificate,
            Role::RouteCa,
            Role::HookCa,
        ]
        .into_iter()
        .zip(Role::LABELS)
        {
            assert_eq!(role.label(), label);
        }
    }

    #[test]
    fn there_is_a_warning_a_month_a_week_and_a_day_before_the_end_and_at_the_end() {
        let file = Path::new("/f");
        let mut expiry = Expiry::of(Role::Port);
        expiry.read(&Contents {
            file,
            bytes: pem(2_080).as_bytes(),
        });
        let end = UNIX_EPOCH + Duration::from_secs(expiry.end as u64);
        let warned_at = [40, 31, 30, 20, 8, 7, 2, 1, 0].map(|days| {
            let before = end - days * DAY;
            (days, expiry.look(file, before))
        });
        let warned = warned_at.into_iter().filter(|(_, warned)| *warned);
        let warned: Vec<_> = warned.map(|(days, _)| days).collect();
        assert_eq!(warned, [30, 7, 1, 0]);
        assert!(!expiry.look(file, end + DAY), "it was said");
    }
}
