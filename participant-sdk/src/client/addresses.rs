//! Where a client's coordinators are: one URL, several, or a name that stands for several addresses.

use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use tonic::transport::Endpoint;
use unanimity_proto::Connector;
use unanimity_types::Limits;

use crate::error::ClientError;

/// Addresses that a client may be given.
const ADDRESSES_MAX: usize = 64;
/// Addresses of one name that are used.
const RESOLVED_MAX: usize = 16;
/// How long the name service may take.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// The addresses of coordinators: any node of a cluster will do, it tells of the others. More than one is for the
/// time when that one is away.
///
/// From a string with one URL (`http://10.0.0.5:7460`) or several, separated by commas, or from a list of URLs. A
/// name that stands for several hosts is as good as a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses(Vec<String>);

impl Addresses {
    fn gather<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Self {
        let mut urls = Vec::new();
        for text in texts {
            let parts = text.as_ref().split(',').map(|url| url.trim().trim_end_matches('/'));
            urls.extend(parts.filter(|url| !url.is_empty()).map(str::to_owned));
        }
        Self(urls)
    }

    /// The URLs, each once.
    ///
    /// # Errors
    /// There are none, too many, or one that cannot be called.
    pub(super) fn check(self) -> Result<Vec<String>, ClientError> {
        let mut urls: Vec<String> = Vec::new();
        for url in self.0 {
            let invalid = |message: String| ClientError::InvalidUrl { url: url.clone(), message };
            parse(&url).map_err(invalid)?;
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        let message = match urls.len() {
            0 => "no address is given".to_owned(),
            1..=ADDRESSES_MAX => return Ok(urls),
            _ => format!("a client takes at most {ADDRESSES_MAX} addresses"),
        };
        Err(ClientError::InvalidUrl { url: urls.into_iter().next().unwrap_or_default(), message })
    }
}

impl From<&str> for Addresses {
    fn from(urls: &str) -> Self {
        Self::gather([urls])
    }
}

impl From<String> for Addresses {
    fn from(urls: String) -> Self {
        Self::gather([urls])
    }
}

impl From<&String> for Addresses {
    fn from(urls: &String) -> Self {
        Self::gather([urls])
    }
}

impl<T: AsRef<str>> From<Vec<T>> for Addresses {
    fn from(urls: Vec<T>) -> Self {
        Self::gather(urls)
    }
}

impl<T: AsRef<str>> From<&[T]> for Addresses {
    fn from(urls: &[T]) -> Self {
        Self::gather(urls)
    }
}

impl<T: AsRef<str>, const N: usize> From<[T; N]> for Addresses {
    fn from(urls: [T; N]) -> Self {
        Self::gather(urls)
    }
}

/// Reads a URL of a coordinator.
fn parse(url: &str) -> Result<Uri, String> {
    if !url.starts_with("http://") {
        return Err("it must begin with http:// (TLS is not built in yet)".into());
    }
    if url.len() > Limits::TARGET_BYTES_MAX {
        return Err(format!("it has more than {} bytes", Limits::TARGET_BYTES_MAX));
    }
    url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())
}

/// How to connect to a coordinator; `None` if the text is no URL of one.
pub(super) fn endpoint(url: &str, connect_timeout: Duration) -> Option<Endpoint> {
    parse(url).ok()?;
    let endpoint = Endpoint::from_shared(url.to_owned()).ok()?;
    let endpoint = endpoint
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        // A peer that vanished without a word is noticed within 15 s, idle or not.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true);
    Some(endpoint)
}

/// Whether a URL has a name that may stand for several addresses.
pub(super) fn is_named(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default();
    !host.is_empty() && host.trim_matches(['[', ']']).parse::<IpAddr>().is_err()
}

/// The URLs of the addresses that a URL's name stands for now, by the system's name service or the connector's; none if
/// it is not known.
pub(super) async fn resolve(url: &str, connector: Option<&Connector>) -> Vec<String> {
    let Ok(uri) = url.parse::<Uri>() else { return Vec::new() };
    let (host, port) = (uri.host().unwrap_or_default().to_owned(), uri.port_u16().unwrap_or(80));
    let looked_up = async {
        match connector {
            Some(connector) => connector.resolve(host, port).await,
            None => Ok(tokio::net::lookup_host((host, port)).await?.collect()),
        }
    };
    match tokio::time::timeout(RESOLVE_WITHIN, looked_up).await {
        Ok(Ok(found)) => {
            let mut urls: Vec<_> = found.iter().map(|address| format!("http://{address}")).collect();
            urls.dedup();
            urls.truncate(RESOLVED_MAX);
            urls
        }
        Ok(Err(error)) => {
            tracing::debug!(%url, %error, "the name of a coordinator's address is not known");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_in_many_forms_and_each_counts_once() {
        let expected = ["http://a:1", "http://b:2"].map(str::to_owned).to_vec();
        assert_eq!(Addresses::from("http://a:1, http://b:2/,,http://a:1/").check().unwrap(), expected);
        assert_eq!(Addresses::from(["http://a:1", "http://b:2"]).check().unwrap(), expected);
        assert_eq!(Addresses::from(expected.clone()).check().unwrap(), expected);
        assert_eq!(Addresses::from(&expected[..]).check().unwrap(), expected);
        let many: Vec<_> = (0..65).map(|n| format!("http://a:{}", n + 1)).collect();
        for wrong in ["", " ,", "a:1", "https://a:1", "http://", "http://a:1,ftp://b"] {
            assert!(Addresses::from(wrong).check().is_err(), "{wrong:?}");
        }
        assert!(Addresses::from(many).check().is_err());
    }

    #[test]
    fn a_number_is_no_name() {
        for (url, named) in [
            ("http://coordinators.example:7460", true),
            ("http://localhost:7460", true),
            ("http://127.0.0.1:7460", false),
            ("http://[::1]:7460", false),
        ] {
            assert_eq!(is_named(url), named, "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_stands_for_addresses() {
        let found = resolve("http://localhost:7460", None).await;
        assert!(
            found.iter().any(|url| url == "http://127.0.0.1:7460" || url == "http://[::1]:7460"),
            "{found:?}"
        );
    }
}
