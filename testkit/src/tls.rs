//! Certificates for tests, and clients that use them.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{IpAddr, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// An authority of its own, and a folder for the certificates that it issues.
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The PEM files of a certificate and its key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Identity {
    /// The flags for a service that has this certificate at its port.
    #[must_use]
    pub fn flags(&self) -> [&str; 4] {
        [
            "--tls-certificate",
            text(&self.certificate),
            "--tls-key",
            text(&self.key),
        ]
    }

    /// Takes over the files of another certificate, one after the other.
    ///
    /// # Panics
    /// If the files can't be written.
    pub fn replace_by(&self, other: &Self) {
        std::fs::copy(&other.certificate, &self.certificate).expect("a file");
        std::fs::copy(&other.key, &self.key).expect("a file");
    }
}

/// A path as text.
///
/// # Panics
/// If it is not UTF-8.
#[must_use]
pub fn text(path: &Path) -> &str {
    path.to_str().expect("folders of tests have plain names")
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    /// If there is no folder for it.
    #[must_use]
    pub fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters
            .distinguished_name
            .push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().expect("a key");
        let authority = Self {
            folder: tempfile::tempdir().expect("a folder"),
            issuer: CertifiedIssuer::self_signed(parameters, key).expect("an authority"),
        };
        std::fs::write(authority.ca(), authority.issuer.pem()).expect("a file");
        authority
    }

    /// The PEM file with its own certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A file in its folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Issues a certificate with this common name for the IP address 127.0.0.1 and for `localhost`. It is for servers and for
    /// clients.
    ///
    /// # Panics
    /// If the files can't be written.
    #[must_use]
    pub fn issue(&self, common_name: &str) -> Identity {
        self.issue_for(common_name, &["127.0.0.1", "localhost"])
    }

    /// The same for these names and addresses.
    ///
    /// # Panics
    /// The same.
    #[must_use]
    pub fn issue_for(&self, common_name: &str, names: &[&str]) -> Identity {
        self.write(common_name, self.sign(common_name, names, None))
    }

    /// The same as [`issue`](Self::issue), for a certificate that ends at this time.
    ///
    /// # Panics
    /// The same.
    #[must_use]
    pub fn issue_until(&self, common_name: &str, end: SystemTime) -> Identity {
        let names = ["127.0.0.1", "localhost"];
        self.write(common_name, self.sign(common_name, &names, Some(end)))
    }

    fn write(&self, common_name: &str, (certificate, key): (Certificate, KeyPair)) -> Identity {
        let identity = Identity {
            certificate: self.file(&format!("{common_name}.pem")),
            key: self.file(&format!("{common_name}.key")),
        };
        std::fs::write(&identity.certificate, certificate.pem()).expect("a file");
        std::fs::write(&identity.key, key.serialize_pem()).expect("a file");
        identity
    }

    fn sign(
        &self,
        common_name: &str,
        names: &[&str],
        end: Option<SystemTime>,
    ) -> (Certificate, KeyPair) {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut parameters = CertificateParams::new(names).expect("names");
        parameters
            .distinguished_name
            .push(DnType::CommonName, common_name);
        parameters.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if let Some(end) = end {
            parameters.not_after = end.into();
        }
        let key = KeyPair::generate().expect("a key");
        let signed = parameters.signed_by(&key, &self.issuer);
        (signed.expect("a certificate"), key)
    }

    /// Connects with TLS, and returns the stream.
    ///
    /// # Errors
    /// An error of the network or of the handshake.
    pub async fn connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        self.connector().dial(address).await
    }

    /// The bytes with which a client begins a handshake.
    ///
    /// # Panics
    /// If rustls has none.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        let name = ServerName::IpAddress(IpAddr::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST)));
        let client = ClientConnection::new(self.trust().into(), name);
        let mut hello = Vec::new();
        let written = client.expect("a client").write_tls(&mut hello);
        written.expect("a vector takes everything");
        hello
    }

    fn trust(&self) -> ClientConfig {
        let mut trusted = RootCertStore::empty();
        let added = trusted.add(self.issuer.der().clone());
        added.expect("its own certificate");
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has both versions")
            .with_root_certificates(trusted)
            .with_no_client_auth()
    }

    fn connector(&self) -> Dialer {
        Dialer(Arc::new(self.trust()).into())
    }

    /// A proxy that speaks TLS with this address. So clients that know no TLS can use a port that speaks nothing else.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn proxy(&self, to: SocketAddr) -> (SocketAddr, JoinSet<()>) {
        let dialer = self.connector();
        relay(move |mut client| {
            let dialer = dialer.clone();
            async move {
                if let Ok(mut server) = dialer.dial(to).await {
                    // When one side ends, both are dropped, which passes the end on.
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            }
        })
        .await
    }

    /// A proxy that speaks TLS with its clients, in HTTP/2 or HTTP/1.1, and without TLS with this address.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn terminate(&self, to: SocketAddr) -> (SocketAddr, JoinSet<()>) {
        let (certificate, key) = self.sign("proxy", &["127.0.0.1", "localhost"], None);
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has both versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key);
        let mut config = config.expect("they belong together");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        relay(move |client| {
            let acceptor = acceptor.clone();
            async move {
                let accepted = acceptor.accept(client).await;
                if let (Ok(mut client), Ok(mut server)) = (accepted, TcpStream::connect(to).await) {
                    server.set_nodelay(true).expect("a socket");
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            }
        })
        .await
    }
}

/// Listens, and does this with each client at once.
///
/// # Panics
/// If there is no free port.
pub async fn relay<F: Future<Output = ()> + Send + 'static>(
    carry: impl Fn(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("the kernel has a free port");
    let address = listener.local_addr().expect("it is bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut carried = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            client.set_nodelay(true).expect("a socket");
            carried.spawn(carry(client));
        }
    });
    (address, tasks)
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// Connects with TLS.
#[derive(Clone)]
struct Dialer(TlsConnector);

impl Dialer {
    async fn dial(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(IpAddr::from(address.ip()));
        self.0.connect(name, stream).await
    }
}
