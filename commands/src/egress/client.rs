//! The HTTP clients, and one exchange.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Certificate, Client, ClientBuilder, Response, redirect, retry};

use super::error::{EgressConfigError, EgressError};
use super::headers::{may_be_sent, retry_after};
use super::resolve::{Admitting, Reach};
use super::target::Target;

/// How long a connection may take to come about, name and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection is kept for the next call. A kept one leads to an address that was checked when it was opened;
/// the shorter it is kept, the sooner a host that moved, or a network that is no longer allowed, is noticed, and the
/// less often a call meets a connection that the other side is just closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many connections to a host are kept.
const IDLE_PER_HOST: usize = 8;
/// How many headers an answer may have, hyper's default. All of them together may take 417,792 bytes (hyper's read
/// buffer, 8,192 + 100 * 4,096), trailers 16,384; those two bounds are hyper's alone.
const MAX_HEADERS: usize = 100;
/// How much of a content type is kept.
const MAX_CONTENT_TYPE: usize = 256;
/// Who we are.
const AGENT: &str = concat!("annals/", env!("CARGO_PKG_VERSION"));

/// A request. Its `Debug` shows neither URL, values of headers nor body.
#[derive(Clone)]
pub struct Outgoing {
    /// Where to. It is checked again.
    pub url: String,
    /// What is sent beside `content-type`, `accept` (both JSON) and `user-agent`, in whose places it steps if it names
    /// them. Headers of the connection are refused.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// JSON.
    pub body: Vec<u8>,
    /// How long all may take, from the name's resolution to the body's last byte.
    pub timeout: Duration,
    /// How many bytes the answer's body may have.
    pub max_body: usize,
    /// The time of the call, from which a `Retry-After` counts if the answer has no `Date`.
    pub now: DateTime<Utc>,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Outgoing")
            .field("headers", &names)
            .field("bytes", &self.body.len())
            .field("timeout", &self.timeout)
            .field("max_body", &self.max_body)
            .finish_non_exhaustive()
    }
}

/// An answer. Its `Debug` does not show the body.
#[derive(Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The status: any, also a redirect's.
    pub status: u16,
    /// How long the host asks to wait, 30 days at most.
    pub retry_after: Option<Duration>,
    /// What the host says that the body is.
    pub content_type: Option<String>,
    /// The body, never longer than the request's `max_body`.
    pub body: Vec<u8>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("status", &self.status)
            .field("retry_after", &self.retry_after)
            .field("content_type", &self.content_type)
            .field("bytes", &self.body.len())
            .finish()
    }
}

/// One client for each reach, as a resolver is told a name and not the scheme.
pub(super) struct Clients {
    public: Client,
    plain: Client,
}

impl Clients {
    pub(super) fn new(public: Admitting, plain: Admitting, roots: &[Vec<u8>]) -> Result<Self, EgressConfigError> {
        let mut certificates = Vec::new();
        for pem in roots {
            let found = Certificate::from_pem_bundle(pem).map_err(EgressConfigError::Tls)?;
            if found.is_empty() {
                return Err(EgressConfigError::NoCertificate);
            }
            certificates.extend(found);
        }
        let public = builder(public).https_only(true).tls_certs_merge(certificates);
        let plain = builder(plain).tls_certs_only([]);
        Ok(Self {
            public: public.build().map_err(EgressConfigError::Tls)?,
            plain: plain.build().map_err(EgressConfigError::Tls)?,
        })
    }

    /// Sends a request to a target whose literal address, if it has one, was checked.
    pub(super) async fn post(&self, target: Target, request: Outgoing) -> Result<Incoming, EgressError> {
        let client = match target.reach {
            Reach::Public => &self.public,
            Reach::Allowed => &self.plain,
        };
        let headers = headers(request.headers)?;
        let sent = client.post(target.url).headers(headers).body(request.body).send().await;
        let response = sent.map_err(|error| EgressError::before_headers(&error))?;
        let content_type = response.headers().get(CONTENT_TYPE);
        Ok(Incoming {
            status: response.status().as_u16(),
            retry_after: retry_after(response.headers(), request.now),
            content_type: content_type.map(|value| lossy(value.as_bytes())),
            body: body(response, request.max_body).await?,
        })
    }
}

fn lossy(value: &[u8]) -> String {
    String::from_utf8_lossy(&value[..value.len().min(MAX_CONTENT_TYPE)]).into_owned()
}

/// What both clients have in common.
///
/// HTTP/1.1 alone: a call has its connection to itself, so that dropping the call closes it. Bodies are never
/// decompressed, so that a small one can't become a large one; the features for that are off, and these calls keep them
/// off should another crate turn one on. A request is sent once: the client itself would only repeat one that it had
/// not begun to write.
fn builder(admitting: Admitting) -> ClientBuilder {
    Client::builder()
        .dns_resolver(admitting)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_proxy()
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .http1_only()
        .http1_max_headers(MAX_HEADERS)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST)
}

fn headers(given: Vec<(HeaderName, HeaderValue)>) -> Result<HeaderMap, EgressError> {
    let mut headers = HeaderMap::with_capacity(given.len() + 3);
    for (name, mut value) in given {
        if !may_be_sent(&name) {
            return Err(EgressError::Invalid("it brings a header of the connection"));
        }
        value.set_sensitive(true); // not shown by any `Debug`
        headers.append(name, value);
    }
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
    Ok(headers)
}

/// Reads a body to its end, or gives up with the first byte beyond `max`.
async fn body(mut response: Response, max: usize) -> Result<Vec<u8>, EgressError> {
    let too_large = || EgressError::BodyTooLarge(max);
    if response.content_length().is_some_and(|announced| usize::try_from(announced).map_or(true, |n| n > max)) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| EgressError::BodyIncomplete)? {
        if chunk.len() > max - body.len() {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
