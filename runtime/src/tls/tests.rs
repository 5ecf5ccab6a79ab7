//! Certificates in files, on both ends of a connection.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::client::TlsStream as ClientStream;
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::server::TlsStream;

type Authority = CertifiedIssuer<'static, KeyPair>;

const ALPN: &[&[u8]] = &[b"http/1.1"];

fn authority() -> Authority {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

/// The certificate and the key, in PEM.
fn issue(authority: &Authority, common_name: &str, uri: Option<&str>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["chat.test".to_owned()]).unwrap();
    parameters
        .distinguished_name
        .push(DnType::CommonName, common_name);
    if let Some(uri) = uri {
        let uri = uri.try_into().unwrap();
        parameters.subject_alt_names.push(SanType::URI(uri));
    }
    parameters.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let certificate = parameters.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// A folder with an authority, and the certificate of a port.
struct Scene {
    folder: TempDir,
    authority: Authority,
}

impl Scene {
    fn new() -> Self {
        let scene = Self {
            folder: tempfile::tempdir().unwrap(),
            authority: authority(),
        };
        scene.write("ca", &scene.authority.pem());
        scene.issue("first");
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn issue(&self, common_name: &str) {
        let (certificate, key) = issue(&self.authority, common_name, None);
        self.write("certificate", &certificate);
        self.write("key", &key);
    }

    fn files(&self) -> ServerFiles {
        ServerFiles {
            certificate: self.path("certificate"),
            key: self.path("key"),
            client_ca: None,
        }
    }

    fn trust(&self) -> ClientFiles {
        ClientFiles {
            ca: Some(self.path("ca")),
            identity: None,
        }
    }

    /// Connects to a port, and returns the common name in its certificate.
    async fn name(&self, server: &ServerTls) -> String {
        let client = ClientTls::begin(self.trust(), ALPN).unwrap();
        let (client, _server) = connect(&client, server).await;
        let chain = client.unwrap();
        let chain = chain.get_ref().1.peer_certificates();
        ClientCertificate::of(chain).unwrap().common_name.unwrap()
    }
}

async fn connect(
    client: &ClientTls,
    server: &ServerTls,
) -> (
    io::Result<ClientStream<DuplexStream>>,
    io::Result<TlsStream<DuplexStream>>,
) {
    let (one, two) = duplex(64 << 10);
    let name = ServerName::try_from("chat.test").unwrap();
    let (client, server) = (client.connector(), server.acceptor());
    tokio::join!(client.connect(name, one), server.accept(two))
}

/// Lets the watchers look at the files.
async fn look() {
    tokio::time::sleep(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_certificate_is_served_within_ten_seconds_and_open_connections_stay() {
    let scene = Scene::new();
    let server = ServerTls::begin("certificate of a test", scene.files(), ALPN).unwrap();
    assert_eq!(scene.name(&server).await, "first");
    let client = ClientTls::begin(scene.trust(), ALPN).unwrap();
    let (client, open) = connect(&client, &server).await;
    scene.issue("second");
    look().await;
    assert_eq!(scene.name(&server).await, "second");
    let (mut client, mut open) = (client.unwrap(), open.unwrap());
    open.write_all(b"still here").await.unwrap();
    open.flush().await.unwrap();
    let mut heard = [0; 10];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_cant_be_used_leaves_the_old_one_in_place() {
    let scene = Scene::new();
    let server = ServerTls::begin("certificate of a test", scene.files(), ALPN).unwrap();
    let (stranger, _) = issue(&scene.authority, "other", None);
    for broken in ["", "nonsense", &*stranger] {
        scene.write("certificate", broken);
        look().await;
        assert_eq!(scene.name(&server).await, "first", "{broken}");
    }
    fs::remove_file(scene.path("key")).unwrap();
    look().await;
    assert_eq!(scene.name(&server).await, "first");
    scene.issue("repaired");
    look().await;
    assert_eq!(scene.name(&server).await, "repaired");
}

/// Kubernetes mounts a secret as links into a folder, and changes it by replacing one link to that folder.
#[tokio::test(start_paused = true)]
async fn a_symbolic_link_to_another_folder_counts_as_a_change() {
    use std::os::unix::fs::symlink;
    let scene = Scene::new();
    for (folder, name) in [("one", "first"), ("two", "second")] {
        fs::create_dir(scene.path(folder)).unwrap();
        let (certificate, key) = issue(&scene.authority, name, None);
        fs::write(scene.path(folder).join("tls.crt"), certificate).unwrap();
        fs::write(scene.path(folder).join("tls.key"), key).unwrap();
    }
    symlink("one", scene.path("..data")).unwrap();
    let files = ServerFiles {
        certificate: scene.path("..data/tls.crt"),
        key: scene.path("..data/tls.key"),
        client_ca: None,
    };
    let server = ServerTls::begin("certificate of a test", files, ALPN).unwrap();
    assert_eq!(scene.name(&server).await, "first");
    symlink("two", scene.path("..new")).unwrap();
    fs::rename(scene.path("..new"), scene.path("..data")).unwrap();
    look().await;
    assert_eq!(scene.name(&server).await, "second");
}

#[tokio::test(start_paused = true)]
async fn with_an_authority_for_clients_only_its_certificates_get_in() {
    let scene = Scene::new();
    let files = ServerFiles {
        client_ca: Some(scene.path("ca")),
        ..scene.files()
    };
    let server = ServerTls::begin("certificate of a test", files, ALPN).unwrap();
    let caller = |authority: &Authority, name: &str| {
        let (certificate, key) = issue(authority, name, Some("spiffe://cluster/games"));
        let own = (
            scene.write("own", &certificate),
            scene.write("own-key", &key),
        );
        ClientTls::begin(
            ClientFiles {
                identity: Some(own),
                ..scene.trust()
            },
            ALPN,
        )
        .unwrap()
    };
    let (_client, served) = connect(&caller(&scene.authority, "games"), &server).await;
    let served = served.unwrap();
    let expected = ClientCertificate {
        common_name: Some("games".to_owned()),
        dns_names: vec!["chat.test".to_owned()],
        uri_names: vec!["spiffe://cluster/games".to_owned()],
    };
    assert_eq!(
        ClientCertificate::of(served.get_ref().1.peer_certificates()),
        Some(expected)
    );

    let (_client, served) = connect(&caller(&authority(), "games"), &server).await;
    assert!(served.is_err(), "another authority");
    let nobody = ClientTls::begin(scene.trust(), ALPN).unwrap();
    let (_client, served) = connect(&nobody, &server).await;
    assert!(served.is_err(), "no certificate");
}

/// Otherwise a caller could come in with a ticket although its certificate has expired or its authority is not trusted any more.
#[tokio::test]
async fn callers_resume_their_sessions_with_tickets_unless_each_of_them_must_show_its_certificate()
{
    let scene = Scene::new();
    let (certificate, key) = issue(&scene.authority, "games", None);
    let files = ClientFiles {
        identity: Some((
            scene.write("own", &certificate),
            scene.write("own-key", &key),
        )),
        ..scene.trust()
    };
    for (client_ca, second) in [
        (None, HandshakeKind::Resumed),
        (Some(scene.path("ca")), HandshakeKind::Full),
    ] {
        let client = ClientTls::begin(files.clone(), ALPN).unwrap();
        let files = ServerFiles {
            client_ca,
            ..scene.files()
        };
        let server = ServerTls::begin("certificate of a test", files, ALPN).unwrap();
        for expected in [HandshakeKind::Full, second] {
            let (client, served) = connect(&client, &server).await;
            let (mut client, mut served) = (client.unwrap(), served.unwrap());
            assert_eq!(client.get_ref().1.handshake_kind(), Some(expected));
            // Tickets come before what the server says first.
            served.write_all(b"hello").await.unwrap();
            served.flush().await.unwrap();
            client.read_exact(&mut [0; 5]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn files_that_cant_be_used_are_refused_with_their_names() {
    let scene = Scene::new();
    let refused = |certificate: &Path, key: &Path| {
        let settings = TlsSettings {
            certificate: Some(certificate.to_owned()),
            key: Some(key.to_owned()),
        };
        settings.check().unwrap_err().to_string()
    };
    let (certificate, key) = (scene.path("certificate"), scene.path("key"));
    let none = scene.path("none");
    let text = refused(&none, &key);
    assert!(
        text.starts_with("cannot read ") && text.contains("none: No such file"),
        "{text}"
    );
    let text = refused(&key, &key);
    assert!(text.contains("holds no certificate"), "{text}");
    let text = refused(&certificate, &certificate);
    assert!(text.contains("holds no private key"), "{text}");
    let (_, other) = issue(&scene.authority, "other", None);
    let text = refused(&certificate, &scene.write("other", &other));
    assert!(
        text.contains("do not fit together: the key belongs to another"),
        "{text}"
    );
    let half = TlsSettings {
        certificate: Some(certificate),
        key: None,
    };
    let text = half.check().unwrap_err().to_string();
    assert!(text.contains("--tls-certificate needs --tls-key"), "{text}");
    assert_eq!(TlsSettings::default().check(), Ok(()));
    let ca = ClientFiles {
        ca: Some(none),
        identity: None,
    };
    assert!(ca.check().is_err());
    assert!(Arc::strong_count(&ClientTls::begin(scene.trust(), ALPN).unwrap()) == 1);
}
