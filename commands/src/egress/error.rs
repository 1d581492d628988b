//! What can go wrong on the way out.

use std::{fmt, io};

use rustls::CertificateError;

use super::bounded::BoundReached;
use super::target::Forbidden;

/// Why there is no egress port.
#[derive(Debug, thiserror::Error)]
pub enum EgressConfigError {
    /// An entry of the root certificates holds none.
    #[error("the root certificates hold no certificate: PEM is expected, -----BEGIN CERTIFICATE----- and so on")]
    NoCertificate,
    /// TLS can't be set up: a root certificate is damaged, or the system has none.
    #[error("TLS can't be set up: are the root certificates whole, and are the system's installed?")]
    Tls(#[from] rustls::Error),
}

/// What is wrong with a host's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// It is for another name.
    OtherName,
    /// Nobody trusted has issued it.
    UnknownIssuer,
    /// Its time is over, or has not come.
    Expired,
    /// Something else.
    Invalid,
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherName => "is for another name",
            Self::UnknownIssuer => "is issued by nobody trusted",
            Self::Expired => "is not valid at this time",
            Self::Invalid => "is not valid",
        })
    }
}

impl From<&CertificateError> for CertificateFault {
    fn from(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::OtherName,
            E::UnknownIssuer => Self::UnknownIssuer,
            E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => Self::Expired,
            _ => Self::Invalid,
        }
    }
}

/// Why there is no answer. None of these holds a URL, an address, a header or a body, nor an error that does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// The URL may not be called, or no longer.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The request can't be sent as it was given.
    #[error("the request is not valid: {0}")]
    Invalid(&'static str),
    /// The name has no address at the moment.
    #[error("the host's name does not resolve")]
    Unresolved,
    /// No connection came about, or no TLS.
    #[error("no connection to the host comes about")]
    Connect,
    /// The host does not prove who it is.
    #[error("the host's certificate {0}")]
    Certificate(CertificateFault),
    /// The time was over before the answer was whole.
    #[error("the host did not answer in time")]
    Timeout,
    /// The connection ended before the headers were whole, or what came was no HTTP.
    #[error("the host closed the connection without an answer, or did not answer in HTTP")]
    NoAnswer,
    /// More or longer headers than are read, or a length in them beyond 64 bits.
    #[error("the headers of the answer are too large")]
    HeadersTooLarge,
    /// A longer body than is read.
    #[error("the body of the answer is larger than {0} bytes")]
    BodyTooLarge(usize),
    /// The connection ended within the body.
    #[error("the body of the answer was cut off")]
    BodyIncomplete,
}

impl EgressError {
    /// Whether the host certainly did not get the request, so that sending it again can't repeat what it did.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Forbidden(_) | Self::Invalid(_) | Self::Unresolved | Self::Connect | Self::Certificate(_))
    }

    /// What an error means that came before the headers of an answer. The error itself goes: it may hold what was sent.
    pub(super) fn before_headers(error: &hyper::Error) -> Self {
        if error.is_parse_too_large() || BoundReached::is_behind(error) {
            Self::HeadersTooLarge
        } else {
            Self::NoAnswer
        }
    }

    /// What an error means that came while TLS came about.
    pub(super) fn securing(error: &io::Error) -> Self {
        let wrapped = error.get_ref().and_then(|wrapped| wrapped.downcast_ref::<rustls::Error>());
        match wrapped {
            Some(rustls::Error::InvalidCertificate(fault)) => Self::Certificate(fault.into()),
            _ => Self::Connect,
        }
    }
}
