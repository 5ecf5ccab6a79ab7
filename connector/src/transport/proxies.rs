//! Proxies that the operator trusts to say where a client is: in the header `X-Forwarded-For`, or in a header of the PROXY protocol
//! at the beginning of a connection. What anybody else says there is ignored.

use super::peer::Peer;
use http::HeaderMap;
use ipnet::IpNet;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use tokio::io::{AsyncRead, AsyncReadExt};
use wire::proxy::Progress;

/// The header that proxies add an address to.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// A proxy, or a network of them: `10.0.0.0/8`, `::1`, or `unix` for whatever connects over a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// Addresses.
    Network(IpNet),
    /// The other end of a unix socket.
    Unix,
}

impl FromStr for Proxy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let address = text.parse::<IpAddr>().map(IpNet::from);
        let network = address.or_else(|_| text.parse::<IpNet>());
        let network = network.map_err(
            |_| "expected an address or a network, such as 10.0.0.5 or 10.0.0.0/8, or unix",
        );
        network.map(Self::Network)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(formatter),
            Self::Unix => formatter.write_str("unix"),
        }
    }
}

/// The proxies that are trusted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    trusted: Vec<Proxy>,
    /// Trusted proxies begin each connection with a header of the PROXY protocol.
    sends_header: bool,
}

impl Proxies {
    pub(crate) fn new(trusted: &[Proxy], sends_header: bool) -> Self {
        Self {
            trusted: trusted.to_vec(),
            sends_header,
        }
    }

    /// True if what this end says about clients counts. `None` stands for a unix socket.
    pub(crate) fn trusts(&self, peer: Option<IpAddr>) -> bool {
        self.trusted.iter().any(|proxy| match (proxy, peer) {
            (Proxy::Network(network), Some(address)) => network.contains(&address.to_canonical()),
            (Proxy::Unix, None) => true,
            _ => false,
        })
    }

    /// True if the connection begins with a header of the PROXY protocol.
    pub(crate) fn sends_header(&self, peer: Option<IpAddr>) -> bool {
        self.sends_header && self.trusts(peer)
    }

    /// Where the client of a request is. Each proxy on the way adds the address it was called from at the end. So the last one that
    /// is no trusted proxy is the client: what stands before it may be made up.
    pub(crate) fn client(&self, peer: Option<Peer>, headers: &HeaderMap) -> Option<Peer> {
        if !self.trusts(peer.map(|it| it.address)) {
            return peer;
        }
        let mut client = peer;
        let values = headers.get_all(FORWARDED_FOR).iter().rev();
        for value in values.filter_map(|it| it.to_str().ok()) {
            for named in value.rsplit(',') {
                let Some(address) = address(named.trim()) else {
                    return client;
                };
                client = Some(address);
                if !self.trusts(Some(address.address)) {
                    return client;
                }
            }
        }
        client
    }
}

/// An address as proxies write it, perhaps with a port.
fn address(text: &str) -> Option<Peer> {
    let address = text.parse::<IpAddr>().map(Peer::from);
    let address = address.or_else(|_| text.parse::<SocketAddr>().map(Peer::from));
    address.ok()
}

/// Reads the header of the PROXY protocol at the beginning of a connection, and not a byte more. `None`: the proxy speaks for itself,
/// as in a health check, or does not know the client.
///
/// # Errors
/// [`ErrorKind::InvalidData`] if there is no such header; otherwise an error of the socket.
pub(crate) async fn read_header(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Peer>> {
    let mut header = Vec::new();
    loop {
        let read = wire::proxy::read(&header);
        match read.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))? {
            Progress::Client(client) => return Ok(client.map(Peer::from)),
            Progress::Missing(bytes) => {
                let begin = header.len();
                header.resize(begin + bytes, 0);
                socket.read_exact(&mut header[begin..]).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn proxies(trusted: &[&str]) -> Proxies {
        let trusted: Vec<_> = trusted.iter().map(|it| it.parse().unwrap()).collect();
        Proxies::new(&trusted, true)
    }

    fn client(trusted: &[&str], peer: Option<&str>, forwarded: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
        }
        let peer = peer.map(|it| Peer::from(it.parse::<SocketAddr>().unwrap()));
        let client = proxies(trusted).client(peer, &headers);
        client.map_or_else(|| "unknown".to_owned(), |it| it.to_string())
    }

    #[test]
    fn what_a_stranger_says_about_its_address_is_ignored() {
        let direct = client(&[], Some("192.0.2.1:5"), &["198.51.100.7"]);
        assert_eq!(direct, "192.0.2.1:5");
        let other = client(&["10.0.0.0/8"], Some("192.0.2.1:5"), &["198.51.100.7"]);
        assert_eq!(other, "192.0.2.1:5");
        assert_eq!(client(&["10.0.0.0/8"], None, &["198.51.100.7"]), "unknown");
    }

    #[test]
    fn the_last_address_that_is_no_trusted_proxy_is_the_client() {
        for (forwarded, expected) in [
            (&["198.51.100.7"][..], "198.51.100.7"),
            (&["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
            (&["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
            (&["1.1.1.1, 198.51.100.7,10.0.0.2"], "198.51.100.7"),
            (
                &["1.1.1.1, 198.51.100.7", "10.0.0.3,10.0.0.2"],
                "198.51.100.7",
            ),
            (&["198.51.100.7:4711"], "198.51.100.7:4711"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["10.0.0.9"], "10.0.0.9"),
            (&[], "10.0.0.1:5"),
            (&["unknown"], "10.0.0.1:5"),
            (&["1.1.1.1, rubbish, 10.0.0.2"], "10.0.0.2"),
        ] {
            let client = client(&["10.0.0.0/8"], Some("10.0.0.1:5"), forwarded);
            assert_eq!(client, expected, "{forwarded:?}");
        }
        assert_eq!(client(&["unix"], None, &["198.51.100.7"]), "198.51.100.7");
        let mapped = client(
            &["10.0.0.1"],
            Some("[::ffff:10.0.0.1]:5"),
            &["198.51.100.7"],
        );
        assert_eq!(mapped, "198.51.100.7");
    }

    #[test]
    fn only_trusted_proxies_begin_connections_with_a_header_and_only_if_that_is_set() {
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let (proxy, stranger) = (address("10.0.0.1"), address("192.0.2.1"));
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let sending = Proxies::new(&trusted, true);
        assert!(sending.sends_header(proxy) && !sending.sends_header(stranger));
        assert!(!Proxies::new(&trusted, false).sends_header(proxy));
    }

    #[test]
    fn a_proxy_is_an_address_or_a_network() {
        for right in ["10.0.0.1", "10.0.0.0/8", "::1", "2001:db8::/32", "unix"] {
            assert!(right.parse::<Proxy>().is_ok(), "{right}");
        }
        for wrong in ["", "10.0.0", "10.0.0.0/33", "proxy", "*"] {
            assert!(wrong.parse::<Proxy>().is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_header_is_read_and_not_a_byte_more() {
        let mut bytes = &b"PROXY TCP4 198.51.100.7 10.0.0.1 4660 80\r\nGET /"[..];
        let client = read_header(&mut bytes).await.unwrap().unwrap();
        assert_eq!(
            (client.to_string().as_str(), bytes),
            ("198.51.100.7:4660", &b"GET /"[..])
        );
        let error = read_header(&mut &b"GET / HTTP/1.1\r\n\r\n"[..])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        let error = read_header(&mut &b"PROXY TCP4 198"[..]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}
