//! Who a caller is, by the certificate that it has shown.

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The certificate of a client, which one of the trusted authorities has signed. Ports that ask for client certificates put
/// this into the extensions of each request. The names are the authority's word, and are compared as they are: nothing is
/// decoded, shortened or put into lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The common name of the subject. If there are several, the first one.
    pub common_name: Option<String>,
    /// The DNS names among the alternative names, in their order.
    pub dns_names: Vec<String>,
    /// The URIs among the alternative names, in their order, such as `spiffe://cluster/ns/games`.
    pub uri_names: Vec<String>,
}

impl ClientCertificate {
    /// Reads the names in the first certificate of a chain that was verified. `None` without a certificate, or if it can't be
    /// parsed.
    #[must_use]
    pub fn of(chain: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(chain?.first()?).ok()?;
        let mut names = Self {
            common_name: (parsed.subject().iter_common_name())
                .find_map(|name| name.as_str().ok().map(str::to_owned)),
            ..Self::default()
        };
        let alternatives = parsed.subject_alternative_name().ok().flatten();
        for name in alternatives.iter().flat_map(|it| &it.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.dns_names.push((*name).to_owned()),
                GeneralName::URI(name) => names.uri_names.push((*name).to_owned()),
                _ => {}
            }
        }
        Some(names)
    }

    /// All names: the common name, then the DNS names, then the URIs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.common_name.iter();
        let names = names.chain(&self.dns_names).chain(&self.uri_names);
        names.map(String::as_str)
    }
}
