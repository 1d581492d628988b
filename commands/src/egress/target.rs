//! URLs that may be called.

use std::fmt;
use std::net::IpAddr;

use url::{Host, Url};

use super::resolve::Reach;

/// How many characters a URL may have, as given and as it is sent.
pub const MAX_URL_CHARS: usize = 2_048;

/// Why a URL may not be called, and what to do. None of these tells what address a name has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// It is no URL by the WHATWG's rules.
    #[error("this is no URL: write it as https://host/path")]
    Unreadable,
    /// It has too many characters.
    #[error("the URL is longer than {MAX_URL_CHARS} characters: shorten it")]
    TooLong,
    /// Neither https nor http.
    #[error("the URL has another scheme: write https://")]
    Scheme,
    /// It holds a user name or a password.
    #[error("the URL holds a user name or a password: take them out and send them in a header")]
    UserInfo,
    /// The host has no admitted address.
    #[error(
        "the host is not on the public internet: name one that is, or have the operator add its network to \
         ANNALS_EGRESS_ALLOW"
    )]
    Address,
    /// Without TLS, to a host that the operator did not name.
    #[error(
        "http:// is not encrypted: write https://, or have the operator add the host's network to \
         ANNALS_EGRESS_ALLOW"
    )]
    Plain,
}

/// A URL that was checked, normalised, without a fragment. What its host's name resolves to is checked anew at each
/// connection. Its `Debug` does not show it, as a path or a query may be secret.
#[derive(Clone, PartialEq, Eq)]
pub struct CheckedUrl(String);

impl fmt::Debug for CheckedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckedUrl(..)")
    }
}

impl CheckedUrl {
    pub(super) fn new(url: Url) -> Self {
        Self(url.into())
    }

    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The URL, to be kept.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// A URL of an allowed form, and where it leads.
pub(super) struct Target {
    pub(super) url: Url,
    pub(super) reach: Reach,
    pub(super) host: Where,
}

/// A host as the URL gives it.
pub(super) enum Where {
    /// An address, in whatever spelling: `127.1`, `0x7f000001`, `[::ffff:7f00:1]`.
    Literal(IpAddr),
    /// A name, in ASCII.
    Name(String),
}

/// Reads a URL by the WHATWG's rules, the ones by which the HTTP client reads it too: two readings of one URL would be
/// a way around the check.
pub(super) fn parse(text: &str) -> Result<Target, Forbidden> {
    if text.chars().nth(MAX_URL_CHARS).is_some() {
        return Err(Forbidden::TooLong);
    }
    let mut url = Url::parse(text).map_err(|_| Forbidden::Unreadable)?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(Forbidden::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Forbidden::UserInfo);
    }
    url.set_fragment(None);
    if url.as_str().len() > MAX_URL_CHARS {
        return Err(Forbidden::TooLong);
    }
    let host = match url.host() {
        Some(Host::Ipv4(ip)) => Where::Literal(ip.into()),
        Some(Host::Ipv6(ip)) => Where::Literal(ip.into()),
        Some(Host::Domain(name)) => Where::Name(name.to_owned()),
        None => return Err(Forbidden::Unreadable),
    };
    Ok(Target { reach: Reach::of(&url), url, host })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_forms_are_read() {
        for (text, why) in [
            ("", Forbidden::Unreadable),
            ("provider.test/v1", Forbidden::Unreadable),
            ("https://", Forbidden::Unreadable),
            ("https://[::1", Forbidden::Unreadable),
            ("https://[fe80::1%25eth0]/", Forbidden::Unreadable),
            ("https://1.2.3.4.5/", Forbidden::Unreadable),
            ("https://provider.test:70000/", Forbidden::Unreadable),
            ("file:///etc/passwd", Forbidden::Scheme),
            ("gopher://provider.test/", Forbidden::Scheme),
            ("ws://provider.test/", Forbidden::Scheme),
            ("unix:/run/x.sock", Forbidden::Scheme),
            ("https://me@provider.test/", Forbidden::UserInfo),
            ("https://:secret@provider.test/", Forbidden::UserInfo),
            ("https://provider.test:443@127.0.0.1/", Forbidden::UserInfo),
        ] {
            assert_eq!(parse(text).err(), Some(why), "{text}");
        }
    }

    #[test]
    fn a_url_is_bounded_as_given_and_as_sent() {
        let whole = |path: String| format!("https://provider.test/{path}");
        assert!(parse(&whole("a".repeat(MAX_URL_CHARS - 22))).is_ok());
        assert_eq!(parse(&whole("a".repeat(MAX_URL_CHARS - 21))).err(), Some(Forbidden::TooLong));
        assert_eq!(parse(&whole("ä".repeat(1_000))).err(), Some(Forbidden::TooLong));
    }

    #[test]
    fn a_fragment_is_dropped_and_names_become_ascii() {
        let target = parse(" HTTPS://Prövider.Test:443/a/../v1?x=1#secret ").unwrap();
        assert_eq!(target.url.as_str(), "https://xn--prvider-b1a.test/v1?x=1");
    }
}
