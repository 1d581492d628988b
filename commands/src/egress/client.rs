//! One exchange over one connection, from the address that was checked to the last byte of the answer.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming as Stream};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time;
use tokio_rustls::TlsConnector;
use url::Position;

use super::bounded::{BoundReached, Bounded};
use super::error::{EgressConfigError, EgressError};
use super::headers::{may_be_sent, retry_after};
use super::resolve::{Admitting, LookupError, Reach};
use super::target::{Target, Where};

/// How long a connection may take to come about, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How many headers an answer may have.
const MAX_HEADERS: usize = 100;
/// How many bytes the headers of one answer may have, interim ones (1xx) each by itself.
const MAX_HEADER_BYTES: usize = 128 * 1024;
/// How many bytes may come before a body: interim answers have no end of their own, and reading them costs time.
const BEFORE_BODY: usize = 256 * 1024;
/// How many bytes of a connection a byte of the body may cost: chunks have a length, and TLS has frames.
const AROUND_BODY: usize = 4;
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

/// What every exchange needs.
pub(super) struct Client {
    tls: TlsConnector,
}

impl Client {
    /// Trusts the system's roots and these.
    pub(super) fn new(roots: &[Vec<u8>]) -> Result<Self, EgressConfigError> {
        let mut extra = Vec::new();
        for pem in roots {
            let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
            let found = found.map_err(|_| EgressConfigError::NoCertificate)?;
            if found.is_empty() {
                return Err(EgressConfigError::NoCertificate);
            }
            extra.extend(found);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider.clone())?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous() // the name of a method that takes any verifier; this one is the platform's
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Sends a request to a target whose literal address, if it has one, was checked. HTTP/1.1 alone, on a connection of
    /// its own: what it is connected to was checked just before, dropping the call closes it, and nothing of one call
    /// is left over for the next. Bodies are never decompressed, so that a small one can't become a large one.
    pub(super) async fn post(
        &self,
        admitting: &Admitting,
        target: Target,
        request: Outgoing,
    ) -> Result<Incoming, EgressError> {
        let headers = headers(request.headers, &target)?;
        let uri: Uri =
            target.url[Position::BeforePath..].parse().map_err(|_| EgressError::Invalid("the URL can't be sent"))?;
        let mut post = Request::post(uri).body(Full::new(Bytes::from(request.body)));
        if let Ok(post) = &mut post {
            *post.headers_mut() = headers;
        }
        let post = post.map_err(|_| EgressError::Invalid("the URL can't be sent"))?;
        let bound = BEFORE_BODY + AROUND_BODY * request.max_body;
        let connected = time::timeout(CONNECT_TIMEOUT, self.connect(admitting, &target, bound)).await;
        exchange(connected.map_err(|_| EgressError::Connect)??, post, request.max_body, request.now).await
    }

    /// A connection to the target, secured where its URL says so, from which so many bytes are read.
    async fn connect(&self, admitting: &Admitting, target: &Target, bound: usize) -> Result<Wire, EgressError> {
        let stream = Bounded::new(reach(admitting, target).await?, bound);
        if target.reach == Reach::Allowed {
            return Ok(Box::new(stream));
        }
        let secured = self.tls.connect(server_name(target)?, stream).await;
        Ok(Box::new(secured.map_err(|error| EgressError::securing(&error))?))
    }
}

/// What is read from and written to, secured or not.
type Wire = Box<dyn Duplex>;

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// A connection to the first of the checked addresses that takes one.
async fn reach(admitting: &Admitting, target: &Target) -> Result<TcpStream, EgressError> {
    let addresses: Vec<IpAddr> = match &target.host {
        Where::Literal(ip) => vec![*ip],
        Where::Name(name) => admitting.lookup(name).await.map_err(|error| match error {
            LookupError::Unresolved => EgressError::Unresolved,
            LookupError::Refused(why) => EgressError::Forbidden(why),
        })?,
    };
    let port = target.url.port_or_known_default().unwrap_or(443);
    let each = CONNECT_TIMEOUT / u32::try_from(addresses.len()).unwrap_or(1).max(1);
    for ip in addresses {
        if let Ok(Ok(stream)) = time::timeout(each, TcpStream::connect(SocketAddr::new(ip, port))).await {
            let _ = stream.set_nodelay(true);
            return Ok(stream);
        }
    }
    Err(EgressError::Connect)
}

fn server_name(target: &Target) -> Result<ServerName<'static>, EgressError> {
    match &target.host {
        Where::Literal(ip) => Ok(ServerName::from(*ip)),
        Where::Name(name) => {
            // A dot at the end is not part of what a certificate is for.
            let name = name.trim_end_matches('.').to_owned();
            ServerName::try_from(name).map_err(|_| EgressError::Invalid("the host's name can't be proven"))
        }
    }
}

/// Sends the request and reads the answer, while the connection is driven beside.
async fn exchange(
    stream: Wire,
    request: Request<Full<Bytes>>,
    max_body: usize,
    now: DateTime<Utc>,
) -> Result<Incoming, EgressError> {
    let mut http = http1::Builder::new();
    http.max_headers(MAX_HEADERS).max_buf_size(MAX_HEADER_BYTES);
    let (mut sender, connection) =
        http.handshake(TokioIo::new(stream)).await.map_err(|error| EgressError::before_headers(&error))?;
    let answered = async {
        let sent = sender.send_request(request).await;
        let response = sent.map_err(|error| EgressError::before_headers(&error))?;
        let content_type = response.headers().get(CONTENT_TYPE);
        Ok(Incoming {
            status: response.status().as_u16(),
            retry_after: retry_after(response.headers(), now),
            content_type: content_type.map(|value| lossy(value.as_bytes())),
            body: body(response, max_body).await?,
        })
    };
    tokio::pin!(answered, connection);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            answer = &mut answered => return answer,
            _ = &mut connection, if open => open = false,
        }
    }
}

fn lossy(value: &[u8]) -> String {
    String::from_utf8_lossy(&value[..value.len().min(MAX_CONTENT_TYPE)]).into_owned()
}

fn headers(given: Vec<(HeaderName, HeaderValue)>, target: &Target) -> Result<HeaderMap, EgressError> {
    let mut headers = HeaderMap::with_capacity(given.len() + 4);
    let host = HeaderValue::from_str(&target.url[Position::BeforeHost..Position::AfterPort]);
    headers.insert(HOST, host.map_err(|_| EgressError::Invalid("the URL can't be sent"))?);
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
async fn body(response: Response<Stream>, max: usize) -> Result<Vec<u8>, EgressError> {
    let too_large = || EgressError::BodyTooLarge(max);
    let mut stream = response.into_body();
    if usize::try_from(stream.size_hint().lower()).map_or(true, |announced| announced > max) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(frame) = stream.frame().await {
        let frame = frame.map_err(|error| match BoundReached::is_behind(&error) {
            true => too_large(),
            false => EgressError::BodyIncomplete,
        })?;
        let Some(chunk) = frame.data_ref() else { continue };
        if chunk.len() > max - body.len() {
            return Err(too_large());
        }
        body.extend_from_slice(chunk);
    }
    Ok(body)
}
