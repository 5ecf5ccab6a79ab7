//! Which names the admin port may be asked for by.
//!
//! The port asks for no password. So a page that an operator opens must not be able to read it through the browser. The owner of
//! a name could serve a page under it and then let the name point to this port's address: for the browser that is the same site.
//! But the browser says which name it has asked for. So only names are answered that no stranger can own.

use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};
use std::net::IpAddr;

/// How the admin port may be reached.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AdminSettings {
    /// Further names of this host for the admin port; * allows all. Addresses, localhost and names without a dot need not be
    /// named. Repeat the option, or put commas between names
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', value_parser = host)]
    pub admin_hosts: Vec<String>,
}

/// The name of a host without a port, or `*`.
fn host(text: &str) -> Result<String, String> {
    let allowed = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.');
    if text == "*" || !text.is_empty() && text.chars().all(allowed) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("expected the name of a host without a port, such as chat.example.org, or *".to_owned())
    }
}

impl AdminSettings {
    /// Checks where a request comes from.
    ///
    /// # Errors
    /// Why it is refused, in words for a person.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
        let named = headers.get(HOST).map(|it| it.to_str().ok()?.parse().ok());
        let authority: Option<Authority> = match (uri.authority(), named) {
            (Some(authority), _) => Some(authority.clone()),
            (None, Some(None)) => {
                return Err("the header `host` of this request is no host".to_owned());
            }
            (None, Some(named)) => named,
            // Browsers always name a host. Simple probes, in HTTP/1.0, do not.
            (None, None) => None,
        };
        if let Some(authority) = &authority
            && !self.allows(authority.host().trim_matches(['[', ']']))
        {
            return Err(
                "this port is not asked for by this name, because a page that owns such a name could read it through a browser: use \
                 the address, localhost or a name without a dot, or add the name to --admin-hosts"
                    .to_owned(),
            );
        }
        let Some(origin) = headers.get(ORIGIN) else {
            return Ok(());
        };
        let origin = origin.to_str().ok().and_then(|it| it.split_once("://"));
        let is_own = origin.is_some_and(|(_, origin)| {
            authority.is_some_and(|it| it.as_str().eq_ignore_ascii_case(origin))
        });
        if is_own {
            Ok(())
        } else {
            Err("pages of other origins may not read this port".to_owned())
        }
    }

    fn allows(&self, host: &str) -> bool {
        host.parse::<IpAddr>().is_ok()
            || !host.contains('.')
            || self
                .admin_hosts
                .iter()
                .any(|it| it == "*" || it.eq_ignore_ascii_case(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(named: &[&str], headers: &[(&'static str, &str)]) -> Result<(), String> {
        let admin_hosts = named.iter().map(|it| host(it).unwrap()).collect();
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let settings = AdminSettings { admin_hosts };
        settings.check(&Uri::from_static("/metrics"), &headers.collect())
    }

    #[test]
    fn only_names_are_answered_that_no_stranger_can_own() {
        for right in [
            "127.0.0.1",
            "10.1.2.3:9001",
            "[::1]:9001",
            "[fd00::1]",
            "localhost",
            "LOCALHOST:9001",
            "chat-1:9001",
        ] {
            assert_eq!(check(&[], &[("host", right)]), Ok(()), "{right}");
        }
        for wrong in [
            "evil.example",
            "evil.example:9001",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "chat.",
        ] {
            let error = check(&[], &[("host", wrong)]).unwrap_err();
            assert!(error.contains("--admin-hosts"), "{wrong}: {error}");
            assert_eq!(check(&["*"], &[("host", wrong)]), Ok(()), "{wrong}");
        }
        let named = &["Chat.example"];
        assert_eq!(check(named, &[("host", "chat.EXAMPLE:9001")]), Ok(()));
        assert!(check(named, &[("host", "a.chat.example")]).is_err());
        assert!(check(named, &[("host", "chat.example.org")]).is_err());
        assert_eq!(check(&[], &[]), Ok(()), "a probe in HTTP/1.0");
        assert!(check(&["*"], &[("host", "a b")]).is_err());
    }

    #[test]
    fn a_page_of_another_origin_is_refused_whatever_host_it_names() {
        let ask = |origin| check(&["*"], &[("host", "127.0.0.1:9001"), ("origin", origin)]);
        assert_eq!(ask("http://127.0.0.1:9001"), Ok(()));
        for wrong in [
            "http://evil.example",
            "http://127.0.0.1",
            "http://127.0.0.1:9002",
            "https://127.0.0.1:9001.evil.example",
            "null",
            "",
        ] {
            assert!(ask(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_host_is_a_name_without_a_port() {
        for wrong in ["", "a:1", "http://a", "*.example", "a b"] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }
}
