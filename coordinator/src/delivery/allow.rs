//! Which callback addresses may be called.
//!
//! A callback's URL comes with a registration, from whoever may register: without a list, the
//! coordinator would send requests wherever a client wants (SSRF). So nothing is allowed until the
//! configuration names it. URLs are read by the parser that the HTTP client uses too, so that both
//! see the same host (`http://127.0.0.1@evil`, `http://0x7f.1`, `http://a\@b`), and what only serves
//! to confuse (user names, backslashes, control characters) is refused outright.

use std::net::IpAddr;

use reqwest::Url;
use unanimity_types::Target;

use super::text::is_hidden;

/// A pattern that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("allowed callback {pattern:?}: {why}")]
pub struct AllowListError {
    pattern: String,
    why: String,
}

/// The configured addresses that callbacks may have. Participants that attach are always allowed.
///
/// A pattern is `loopback` (any port of this machine's loopback addresses and `localhost`) or
/// `scheme://host[:port][/path]`: host a name, an address or `*.name` (any name below it, not the
/// name itself); port a number, `*` for any, or none for the scheme's own; path a prefix of whole
/// segments.
#[derive(Debug, Clone, Default)]
pub struct AllowList {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
enum Rule {
    Loopback,
    Address { scheme: String, host: HostRule, port: PortRule, path: String },
}

#[derive(Debug, Clone)]
enum HostRule {
    Exactly(String),
    /// With the leading dot.
    Below(String),
}

#[derive(Debug, Clone, Copy)]
enum PortRule {
    Any,
    Exactly(u16),
}

impl AllowList {
    /// Nothing but attached participants.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// This machine only: what `dev` allows.
    #[must_use]
    pub fn loopback() -> Self {
        Self { rules: vec![Rule::Loopback] }
    }

    /// Reads patterns.
    ///
    /// # Errors
    /// The first pattern that means nothing, and why.
    pub fn parse<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, AllowListError> {
        let rules = patterns
            .into_iter()
            .map(|pattern| {
                let pattern = pattern.as_ref();
                Rule::parse(pattern).map_err(|why| AllowListError { pattern: pattern.to_owned(), why })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    /// Whether a target may be called.
    ///
    /// # Errors
    /// Why it may not, for whoever registers it.
    pub fn check(&self, target: &Target) -> Result<(), String> {
        self.callback_url(target).map(|_| ())
    }

    /// The URL to call, as the parser understood it, if it may be called; none for a participant.
    pub(super) fn callback_url(&self, target: &Target) -> Result<Option<Url>, String> {
        match target {
            Target::Participant { .. } => Ok(None),
            Target::Grpc(address) => {
                let url = self.checked(address)?;
                if url.path() != "/" || url.query().is_some() {
                    return Err("a gRPC address is scheme://host:port, without a path".to_owned());
                }
                Ok(Some(url))
            }
            Target::Http(address) => self.checked(address).map(Some),
        }
    }

    fn checked(&self, address: &str) -> Result<Url, String> {
        let url = parse_plain(address)?;
        if self.rules.iter().any(|rule| rule.allows(&url)) {
            return Ok(url);
        }
        let origin = url.origin().ascii_serialization();
        Err(format!("{origin} is not on the list of allowed callbacks (callbacks.allow)"))
    }
}

/// Parses an address, refusing what makes two readers see two hosts.
fn parse_plain(address: &str) -> Result<Url, String> {
    if address.chars().any(|c| is_hidden(c) || c == '\\') {
        return Err("an address has no spaces, control or invisible characters, or backslashes".to_owned());
    }
    let url = Url::parse(address).map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("an address begins with http:// or https://".to_owned());
    }
    let after_scheme = address.split_once("://").map_or("", |(_, rest)| rest);
    let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or("");
    if authority.contains('@') || !url.username().is_empty() || url.password().is_some() {
        return Err("an address has no user name or password".to_owned());
    }
    // The parser forgives a missing or a third slash; a reader of the list would not expect it.
    if authority.is_empty() || url.host_str().is_none_or(str::is_empty) {
        return Err("an address has a host".to_owned());
    }
    Ok(url)
}

impl Rule {
    fn parse(pattern: &str) -> Result<Self, String> {
        if pattern == "loopback" {
            return Ok(Self::Loopback);
        }
        let (scheme, rest) = pattern
            .split_once("://")
            .ok_or("neither `loopback` nor scheme://host[:port][/path]".to_owned())?;
        if rest.contains(['?', '#', '@']) {
            return Err("a pattern has no query, fragment or user name".to_owned());
        }
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        if path.contains('*') {
            return Err(
                "a path is a prefix by itself; `*` stands only for a host's first label or a port".to_owned()
            );
        }
        let (authority, any_port) = match authority.strip_suffix(":*") {
            Some(host) => (host, true),
            None => (authority, false),
        };
        let (authority, below) = match authority.strip_prefix("*.") {
            Some(host) => (host, true),
            None => (authority, false),
        };
        if authority.contains('*') {
            return Err("`*` stands for a host's first label, as in https://*.example.com".to_owned());
        }
        let url = parse_plain(&format!("{scheme}://{authority}{path}"))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        if below && host_ip(&url).is_some() {
            return Err("there are no names below an IP address".to_owned());
        }
        let port = match (any_port, url.port_or_known_default()) {
            (true, _) => PortRule::Any,
            (false, Some(port)) => PortRule::Exactly(port),
            (false, None) => return Err("no port".to_owned()),
        };
        Ok(Self::Address {
            scheme: url.scheme().to_owned(),
            host: if below { HostRule::Below(format!(".{host}")) } else { HostRule::Exactly(host) },
            port,
            path: url.path().to_owned(),
        })
    }

    fn allows(&self, url: &Url) -> bool {
        match self {
            Self::Loopback => {
                url.host_str() == Some("localhost")
                    || host_ip(url).is_some_and(|address| address.is_loopback())
            }
            Self::Address { scheme, host, port, path } => {
                url.scheme() == scheme
                    && host.allows(url)
                    && match port {
                        PortRule::Any => true,
                        PortRule::Exactly(port) => url.port_or_known_default() == Some(*port),
                    }
                    && is_below(url.path(), path)
            }
        }
    }
}

impl HostRule {
    fn allows(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        match self {
            Self::Exactly(name) => host == name,
            Self::Below(suffix) => {
                host.len() > suffix.len() && host.ends_with(suffix.as_str()) && host_ip(url).is_none()
            }
        }
    }
}

/// The host if it is an address. The parser has made `127.0.0.1` of all its spellings.
fn host_ip(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

/// Whether a path is a prefix's own or below it, by whole segments.
fn is_below(path: &str, prefix: &str) -> bool {
    if prefix == "/" {
        return true;
    }
    // The parser resolved `..`, but some servers decode an escaped separator and resolve it again.
    let lower = path.to_ascii_lowercase();
    if lower.contains("%2f") || lower.contains("%5c") || lower.contains("%2e") {
        return false;
    }
    path.strip_prefix(prefix.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_mean_nothing_are_refused() {
        for pattern in [
            "",
            "*",
            "127.0.0.1:80",
            "ftp://host",
            "http://",
            "http://*",
            "http://*:80",
            "http://a*b.example",
            "http://*.*.example",
            "http://user@host",
            "http://host/a*",
            "http://host?x",
            "http://host#x",
            "http://host:99999",
            "http://host:-1",
            "https://*.127.0.0.1",
            "http://a b",
            "file:///etc/passwd",
            "Loopback",
            "http:///path",
            "http://ho\\st",
        ] {
            assert!(AllowList::parse([pattern]).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn good_patterns_pass() {
        for pattern in [
            "loopback",
            "http://127.0.0.1:*",
            "https://*.example.com",
            "https://host",
            "http://[::1]:9000/hooks",
            "http://bücher.example/",
            "HTTPS://Host.Example:8443/a/b/",
        ] {
            assert!(AllowList::parse([pattern]).is_ok(), "{pattern:?}");
        }
    }
}
