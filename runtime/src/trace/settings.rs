//! The settings of traces.

use super::export::{Collector, Exporting, is_encrypted, register_all};
use super::otlp::Origin;
use crate::cli::redact;
use crate::tls::{ClientFiles, ClientTls, TlsError};
use http::Uri;
use http::uri::Authority;
use std::env;
use std::path::PathBuf;

/// The variables by which OpenTelemetry names a collector. The first one that is set counts.
const STANDARD: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
/// gRPC needs HTTP/2.
const ALPN: &[&[u8]] = &[b"h2"];

/// Which traces are kept, and who gets them.
#[derive(Debug, Clone, clap::Args)]
pub struct TraceSettings {
    /// Sends traces to this collector of OpenTelemetry, over OTLP/gRPC, such as http://127.0.0.1:4317. Without it nothing is traced
    ///
    /// The standard variables OTEL_EXPORTER_OTLP_TRACES_ENDPOINT and OTEL_EXPORTER_OTLP_ENDPOINT name one, too, if nothing else does.
    #[arg(
        id = "trace.endpoint",
        long = "trace-endpoint",
        value_name = "URL",
        hide_env_values = true
    )]
    pub endpoint: Option<String>,

    /// The share of requests that are traced, from 0 to 1. Of a request that comes with a traceparent, the caller has decided
    #[arg(
        id = "trace.ratio",
        long = "trace-ratio",
        default_value_t = 0.01,
        value_name = "SHARE",
        value_parser = ratio
    )]
    pub ratio: f64,

    /// The name of this service in traces
    ///
    /// Without it: the name of the program.
    #[arg(id = "trace.service", long = "trace-service", value_name = "NAME")]
    pub service: Option<String>,

    /// PEM file with the certificate authorities to trust for a collector with https, instead of the public ones
    #[arg(id = "trace.ca", long = "trace-ca", value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// The heading of these settings in the help, and their ids.
pub const TRACES: (&str, &[&str]) = (
    "Traces",
    &["trace.endpoint", "trace.ratio", "trace.service", "trace.ca"],
);

/// Why nothing can be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The address of the collector is none.
    #[error(
        "{name}: {shown:?} is no address of a collector: expected http or https, a host, and a port, such as http://127.0.0.1:4317"
    )]
    Address {
        /// The flag, or the variable.
        name: &'static str,
        /// The address without a password.
        shown: String,
    },
    /// A file of certificates can't be used.
    #[error("--trace-ca: {0}")]
    Tls(#[from] TlsError),
}

impl TraceSettings {
    /// Begins to trace, if a collector is named. `service` is the name of the program, and `instance` the one of this process. Needs a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`TraceError`]: with these settings there will never be a trace.
    pub fn begin(&self, service: &str, instance: &str) -> Result<Exporting, TraceError> {
        register_all();
        let Some(endpoint) = self.collector()? else {
            return Ok(Exporting::nothing());
        };
        let tls = if is_encrypted(&endpoint) {
            let files = ClientFiles {
                ca: self.ca.clone(),
                identity: None,
            };
            Some(ClientTls::begin(files, ALPN)?)
        } else {
            None
        };
        let origin = Origin {
            service: self.service.as_deref().unwrap_or(service).to_owned(),
            instance: instance.to_owned(),
        };
        tracing::info!(collector = %endpoint, ratio = self.ratio, "requests are traced");
        traces::begin(self.ratio);
        Ok(Exporting::begin(Collector::new(endpoint, tls), origin))
    }

    /// Checks that the settings can be used now.
    ///
    /// # Errors
    /// One line that names the flag or the variable.
    pub fn check(&self) -> Result<(), String> {
        let endpoint = self.collector().map_err(|error| error.to_string())?;
        match (&self.ca, endpoint) {
            (None, _) => Ok(()),
            (Some(_), Some(endpoint)) if is_encrypted(&endpoint) => {
                let ca = self.ca.clone();
                let files = ClientFiles { ca, identity: None };
                let checked = files.check();
                checked.map_err(|error| TraceError::from(error).to_string())
            }
            (Some(_), _) => Err(
                "--trace-ca: it is for a collector with https, such as --trace-endpoint https://collector:4317"
                    .to_owned(),
            ),
        }
    }

    /// The address of the collector, if there is one.
    fn collector(&self) -> Result<Option<Uri>, TraceError> {
        let own = self.endpoint.clone().map(|it| ("--trace-endpoint", it));
        let standard = || {
            STANDARD.iter().find_map(|&name| {
                let value = env::var(name).ok();
                Some((name, value.filter(|it| !it.is_empty())?))
            })
        };
        let Some((name, text)) = own.or_else(standard) else {
            return Ok(None);
        };
        let uri = text.parse().ok().filter(is_of_collector);
        uri.map(Some).ok_or_else(|| TraceError::Address {
            name,
            shown: redact(&text),
        })
    }
}

/// True if gRPC can be spoken there. Nothing in the URL names a user.
fn is_of_collector(uri: &Uri) -> bool {
    let is_host = |it: &Authority| !it.host().is_empty() && !it.as_str().contains('@');
    matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.authority().is_some_and(is_host)
        && uri.path() == "/"
        && uri.query().is_none()
}

/// Reads a share that may be 0.
fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse::<f64>().ok();
    let ratio = ratio.filter(|it| (0.0..=1.0).contains(it));
    ratio.ok_or_else(|| "expected a share from 0 to 1, such as 0.01".to_owned())
}
