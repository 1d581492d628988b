//! The egress port: every connection that the product opens to a host somebody else named goes through here.
//!
//! A name is resolved once for each connection; addresses that are not on the public internet are taken out of the
//! answer unless the operator allows them (`ANNALS_EGRESS_ALLOW`), and the connection goes to what is left. No redirect
//! is followed, no proxy is used, no cookie is kept, and nothing is sent that the caller did not give, but for
//! `content-type`, `accept` and `user-agent`. Time, headers and body are bounded.
//!
//! Architecture Invariant: between the check of an address and the connection to it, no name is resolved again; and no
//! error of this module repeats a URL's path, a header's value or a body.

mod addresses;
mod bounded;
mod client;
mod error;
mod headers;
mod resolve;
mod target;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time;

pub use addresses::{Allowed, AllowedError};
pub use client::{Incoming, Outgoing};
pub use error::{CertificateFault, EgressConfigError, EgressError};
pub use headers::may_be_set;
pub use resolve::{Resolve, SystemResolver};
pub use target::{CheckedUrl, Forbidden, MAX_URL_CHARS};

use client::Client;
use resolve::{Admitting, LookupError, Reach};
use target::Where;

/// How long a check waits for a name to resolve; afterwards the name counts as one that does not resolve now.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// What an operator sets, and who resolves names.
pub struct EgressConfig {
    /// Networks that may be reached beside the public internet, and by `http://`.
    pub allow: Allowed,
    /// Certificates in PEM, one or more in each, that are trusted as roots beside the system's; the content of
    /// `ANNALS_EGRESS_CA_FILE`.
    pub extra_roots: Vec<Vec<u8>>,
    /// Resolves names.
    pub resolver: Arc<dyn Resolve>,
}

impl Default for EgressConfig {
    /// Public hosts, the system's roots, the system's resolver.
    fn default() -> Self {
        Self { allow: Allowed::default(), extra_roots: Vec::new(), resolver: Arc::new(SystemResolver) }
    }
}

/// The egress port of one process; a clone is the same port.
#[derive(Clone)]
pub struct Egress(Arc<Inner>);

struct Inner {
    public: Admitting,
    client: Client,
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("allowed", &self.0.public.allowed).finish_non_exhaustive()
    }
}

impl Egress {
    /// Reads the root certificates.
    pub fn new(config: EgressConfig) -> Result<Self, EgressConfigError> {
        let public = Admitting { resolver: config.resolver, allowed: Arc::new(config.allow), reach: Reach::Public };
        let client = Client::new(&config.extra_roots)?;
        Ok(Self(Arc::new(Inner { public, client })))
    }

    /// Checks a URL that somebody configures: its form, and the addresses of its host as of now. A name that does not
    /// resolve at the moment is accepted, as every connection checks again.
    pub async fn check(&self, url: &str) -> Result<CheckedUrl, Forbidden> {
        let target = target::parse(url)?;
        let admitting = self.admitting(target.reach);
        match &target.host {
            Where::Literal(ip) => admitting.literal(*ip)?,
            Where::Name(name) => {
                if let Ok(Err(LookupError::Refused(why))) = time::timeout(CHECK_TIMEOUT, admitting.lookup(name)).await {
                    return Err(why);
                }
            }
        }
        Ok(CheckedUrl::new(target.url))
    }

    /// Posts a JSON body and reads the answer, whatever its status: a redirect or a failure is an answer too.
    ///
    /// Everything together is bounded by the request's `timeout`. Dropping the future closes the connection. Nothing is
    /// tried again here.
    pub async fn post_json(&self, request: Outgoing) -> Result<Incoming, EgressError> {
        let target = target::parse(&request.url)?;
        let admitting = self.admitting(target.reach);
        if let Where::Literal(ip) = target.host {
            admitting.literal(ip)?;
        }
        let limit = request.timeout;
        let exchange = self.0.client.post(&admitting, target, request);
        time::timeout(limit, exchange).await.map_err(|_| EgressError::Timeout)?
    }

    fn admitting(&self, reach: Reach) -> Admitting {
        Admitting { reach, ..self.0.public.clone() }
    }
}
