//! `connector health`: asks the process that runs with the same settings whether it is ready. Containers without a shell use it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long all of it may take, from the connection to the last byte of the answer.
const TIME: Duration = Duration::from_secs(2);
/// The most bytes of an answer.
const LARGEST: usize = 64 << 10;

/// What is asked, and of which process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    /// The address of `--admin`.
    pub(crate) admin: SocketAddr,
    /// True: whether it runs. False: whether it is ready.
    pub(crate) live: bool,
}

impl Question {
    /// Asks, and returns the words of the answer if it is a good one.
    ///
    /// # Errors
    /// What is wrong, in words. Only the words of a process of this `service` are among them.
    pub(crate) fn ask(self, service: &str) -> Result<String, String> {
        let admin = self.admin;
        if admin.port() == 0 {
            return Err(format!(
                "--admin is {admin}, so the system has chosen a free port, and it is not known here: name it with --admin"
            ));
        }
        let asked = reachable(admin);
        let answer = self.request(asked).map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused => {
                format!(
                    "nothing listens at {asked}: {service} does not run, or it has another --admin"
                )
            }
            ErrorKind::TimedOut | ErrorKind::WouldBlock => {
                format!("no answer from {asked} within {} s", TIME.as_secs())
            }
            _ => format!("{asked} can't be asked: {error}"),
        })?;
        let answer = Answer::of(&answer).filter(|it| it.server == Some(service));
        let Some(Answer { status, words, .. }) = answer else {
            return Err(format!(
                "what answers at {asked} is not the admin port of {service}: is --admin the one with which {service} was started?"
            ));
        };
        match status {
            200 => Ok(words.to_owned()),
            _ => Err(words.trim_end().to_owned()),
        }
    }

    fn request(self, address: SocketAddr) -> io::Result<Vec<u8>> {
        let end = Instant::now() + TIME;
        let left = || {
            let left = end.saturating_duration_since(Instant::now());
            match left.is_zero() {
                true => Err(io::Error::from(ErrorKind::TimedOut)),
                false => Ok(left),
            }
        };
        let mut stream = TcpStream::connect_timeout(&address, left()?)?;
        let path = if self.live { "/livez" } else { "/readyz" };
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.set_write_timeout(Some(left()?))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        loop {
            stream.set_read_timeout(Some(left()?))?;
            match stream.read(&mut part) {
                Ok(0) => return Ok(answer),
                Ok(count) => answer.extend(&part[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if answer.len() > LARGEST {
                return Err(io::Error::other("the answer is too long"));
            }
        }
    }
}

/// Where a process that listens here can be reached from the same machine.
fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, admin.port())
}

/// An answer over HTTP.
struct Answer<'a> {
    status: u16,
    /// The service that answers, as the header says.
    server: Option<&'a str>,
    words: &'a str,
}

impl<'a> Answer<'a> {
    fn of(answer: &'a [u8]) -> Option<Self> {
        let (head, words) = std::str::from_utf8(answer).ok()?.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?;
        let server = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("server").then(|| value.trim())
        });
        Some(Self {
            status: status.parse().ok()?,
            server,
            words,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// Asks a listener that answers once with these bytes, and then keeps the connection open for as long as `keep` says.
    fn asked_of(answer: &'static [u8], keep: bool) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = listener.local_addr().unwrap();
        let answering = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap();
            let _ = stream.write_all(answer);
            // Ends when the other side gives up.
            if keep {
                let _ = stream.read(&mut request);
            }
        });
        let asked = Question { admin, live: false }.ask("connector");
        answering.join().unwrap();
        asked
    }

    #[test]
    fn the_words_of_the_service_are_returned_and_the_status_decides() {
        let ready = b"HTTP/1.1 200 OK\r\nserver: connector\r\n\r\nredis: ok\n";
        assert_eq!(asked_of(ready, false).unwrap(), "redis: ok\n");
        let draining = b"HTTP/1.1 503 Service Unavailable\r\nServer: connector\r\n\r\ndraining\n";
        assert_eq!(asked_of(draining, false).unwrap_err(), "draining");
    }

    #[test]
    fn whatever_else_answers_is_not_taken_for_the_service_and_its_words_are_not_shown() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\n\r\nhello\n"[..],
            b"HTTP/1.1 200 OK\r\nserver: chat\r\n\r\nhello\n",
            b"HTTP/1.0 200 OK\r\nserver: connector\r\n\r\nhello\n",
            b"hello, this is no HTTP",
            b"\xff\xfe\r\n\r\nhello",
            b"",
        ] {
            let error = asked_of(answer, false).unwrap_err();
            assert!(error.contains("not the admin port"), "{error}");
            assert!(!error.contains("hello"), "{error}");
        }
    }

    #[test]
    fn an_answer_without_an_end_is_given_up() {
        let error = asked_of(b"HTTP/1.1 200 OK\r\nserver: connector\r\n\r\n", true).unwrap_err();
        assert!(error.starts_with("no answer from"), "{error}");
    }

    #[test]
    fn an_answer_that_is_too_long_is_given_up() {
        static LONG: [u8; LARGEST + 1] = [b'x'; LARGEST + 1];
        let error = asked_of(&LONG, false).unwrap_err();
        assert!(error.contains("too long"), "{error}");
    }

    #[test]
    fn a_service_that_listens_everywhere_is_asked_over_loopback() {
        let reached = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:9101"), "127.0.0.1:9101");
        assert_eq!(reached("[::]:9101"), "[::1]:9101");
        assert_eq!(reached("10.0.0.1:9101"), "10.0.0.1:9101");
    }

    #[test]
    fn a_port_that_the_system_has_chosen_must_be_named() {
        let admin = "127.0.0.1:0".parse().unwrap();
        let error = Question { admin, live: true }.ask("chat").unwrap_err();
        assert!(error.contains("name it with --admin"), "{error}");
    }
}
