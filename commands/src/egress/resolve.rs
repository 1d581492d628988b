//! Names to addresses: asked once for each connection, and only admitted addresses go on to it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use url::Url;

use super::addresses::Allowed;
use super::target::Forbidden;

/// How many addresses of a name are tried: the time for connecting is shared between them.
const ADDRESSES: usize = 8;

/// Answers where a host is.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of a name, of both families, best first.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// Asks the operating system, hence `/etc/hosts` and its name servers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// How far a scheme may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// `https`: the public internet and the operator's networks.
    Public,
    /// `http`: the operator's networks alone, as personal data must not cross the internet in the clear.
    Allowed,
}

impl Reach {
    /// The one of this URL, whose scheme was checked.
    pub(super) fn of(url: &Url) -> Self {
        if url.scheme() == "https" { Self::Public } else { Self::Allowed }
    }

    fn admits(self, allowed: &Allowed, ip: IpAddr) -> bool {
        match self {
            Self::Public => allowed.admits(ip),
            Self::Allowed => allowed.contains(ip),
        }
    }

    fn refusal(self) -> Forbidden {
        match self {
            Self::Public => Forbidden::Address,
            Self::Allowed => Forbidden::Plain,
        }
    }
}

/// Why there is no address to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LookupError {
    /// The name has none, or nobody answered.
    #[error("the name does not resolve")]
    Unresolved,
    /// None of them is admitted.
    #[error(transparent)]
    Refused(#[from] Forbidden),
}

/// Resolves names to admitted addresses at each connect.
#[derive(Clone)]
pub(super) struct Admitting {
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) allowed: Arc<Allowed>,
    pub(super) reach: Reach,
}

impl Admitting {
    /// Refuses an address that was written as such. No resolver sees those.
    pub(super) fn literal(&self, ip: IpAddr) -> Result<(), Forbidden> {
        if self.reach.admits(&self.allowed, ip) { Ok(()) } else { Err(self.reach.refusal()) }
    }

    /// The admitted addresses of a name, at least one.
    pub(super) async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        let found = self.resolver.resolve(name).await.map_err(|_| LookupError::Unresolved)?;
        if found.is_empty() {
            return Err(LookupError::Unresolved);
        }
        let admitted = found.into_iter().filter(|ip| self.reach.admits(&self.allowed, *ip));
        let admitted: Vec<IpAddr> = admitted.take(ADDRESSES).collect();
        if admitted.is_empty() { Err(self.reach.refusal().into()) } else { Ok(admitted) }
    }
}
