use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;

use super::testing::*;
use super::*;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A host with a certificate of this name, until this year.
async fn host(issuer: &Issuer, name: &str, until: i32) -> Host {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_after = date_time_ymd(until, 1, 1);
    let certificate = params.signed_by(&key, issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Host::start(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            while !read_request(&mut stream).await.is_empty() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
            }
        }
    })
    .await
}

async fn call(host: &Host, trusted: &Issuer) -> Result<Incoming, EgressError> {
    let answers = Answers::new(&[&["127.0.0.1"]]);
    let egress = egress_trusting("127.0.0.1", answers, vec![trusted.pem().into_bytes()]);
    egress.post_json(to(format!("https://provider.test:{}/", host.address.port()))).await
}

#[tokio::test]
async fn a_host_proves_its_name_by_a_root_that_the_operator_trusts() {
    let issuer = authority("ours");
    assert_eq!(call(&host(&issuer, "provider.test", 2099).await, &issuer).await.unwrap().body, b"{}");
}

#[tokio::test]
async fn a_certificate_that_proves_nothing_is_refused() {
    let (issuer, stranger) = (authority("ours"), authority("another"));
    for (host, fault) in [
        (host(&issuer, "other.test", 2099).await, CertificateFault::OtherName),
        (host(&stranger, "provider.test", 2099).await, CertificateFault::UnknownIssuer),
        (host(&issuer, "provider.test", 2001).await, CertificateFault::Expired),
    ] {
        let error = call(&host, &issuer).await.unwrap_err();
        assert_eq!(error, EgressError::Certificate(fault));
        assert!(error.is_unsent());
    }
}

#[tokio::test]
async fn a_host_without_tls_is_no_connection() {
    let host = Host::start(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    assert_eq!(call(&host, &authority("ours")).await, Err(EgressError::Connect));
}

#[test]
fn roots_that_hold_no_certificate_are_refused() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    for (pem, none) in
        [("", true), ("hello", true), ("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n", false)]
    {
        let config = EgressConfig { extra_roots: vec![pem.as_bytes().to_vec()], ..EgressConfig::default() };
        let error = Egress::new(config).unwrap_err();
        assert_eq!(matches!(error, EgressConfigError::NoCertificate), none, "{pem}");
    }
}
