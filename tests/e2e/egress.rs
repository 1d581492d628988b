//! The way out, as agents take it: nothing that the operator does not allow is connected to, whatever it is called, and a
//! host proves its name.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::agents::{agent, run};
use crate::house::{House, Lodging, Tenant};
use crate::processes::{Running, ready};
use crate::tests;

tests![
    nothing_inside_is_connected_to_by_any_name,
    what_is_no_longer_allowed_is_not_connected_to,
    a_host_proves_its_name,
];

/// A listener that counts the connections that come.
struct Inside {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Inside {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, connections) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default());
        let counted = connections.clone();
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn http(url: &str) -> Value {
    json!({"name": "Agent", "kind": "http", "http": {"url": url}, "retry": {"attempts": 1, "initial_seconds": 0, "factor": 1}})
}

/// An app with these settings, and a tenant.
async fn app(lodging: &Lodging, settings: &[(&str, &str)]) -> (Running, Tenant) {
    let all: Vec<_> = settings.iter().copied().chain([("ANNALS_KAFKA_BROKERS", "")]).collect();
    let running = Running::start(lodging, "all", &all);
    let tenant = lodging.tenant().await;
    ready(&tenant).await;
    (running, tenant)
}

async fn nothing_inside_is_connected_to_by_any_name(_: &House) {
    let lodging = Lodging::new().await;
    let (all, tenant) = app(&lodging, &[("ANNALS_EGRESS_ALLOW", "")]).await;
    let inside = Inside::open().await;
    let port = inside.port;
    for host in [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "127.1",
        "0x7f.1",
        "0177.0.0.1",
        "2130706433",
        "127.0.0.1.",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "0.0.0.0",
        "[::]",
        "127.127.0.1",
        "１２７.０.０.１",
        "127。0。0。1",
        "%31%32%37.0.0.1",
    ] {
        for scheme in ["https", "http"] {
            let url = format!("{scheme}://{host}:{port}/");
            let refused = tenant.post("/agents", &http(&url)).problem(422, "webhook-url-forbidden").await;
            assert_eq!(refused.pointers(), ["/http/url"], "{url}");
            assert!(!refused.text.contains("127.0.0.1"), "{url}: what a name leads to is not told: {}", refused.text);
        }
    }
    assert_eq!(inside.connections(), 0);
    assert_eq!(all.end().await, 0);
    lodging.leave().await;
}

async fn what_is_no_longer_allowed_is_not_connected_to(_: &House) {
    let lodging = Lodging::new().await;
    let inside = Inside::open().await;
    let (all, tenant) = app(&lodging, &[]).await;
    let by_address = agent(&tenant, &http(&format!("http://127.0.0.1:{}/", inside.port))).await;
    let by_name = agent(&tenant, &http(&format!("http://localhost:{}/", inside.port))).await;
    assert_eq!(all.end().await, 0);
    // The operator has changed their mind: a check in the past is worth nothing.
    let strict = Running::start(&lodging, "all", &[("ANNALS_EGRESS_ALLOW", ""), ("ANNALS_KAFKA_BROKERS", "")]);
    ready(&tenant).await;
    for agent in [by_address, by_name] {
        let failed = run(&tenant, agent.id(), &json!({"input": {}})).await;
        assert_eq!(
            (&failed.body["status"], &failed.body["error"]["code"]),
            (&json!("failed"), &json!("url-forbidden"))
        );
    }
    assert_eq!(inside.connections(), 0);
    assert_eq!(strict.end().await, 0);
    lodging.leave().await;
}

/// A host with a certificate for that name; gives its port.
async fn secure(issuer: &CertifiedIssuer<'static, KeyPair>, name: &str) -> u16 {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4_096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

async fn a_host_proves_its_name(_: &House) {
    let lodging = Lodging::new().await;
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let roots = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(roots.path(), issuer.pem()).unwrap();
    let (all, tenant) = app(&lodging, &[("ANNALS_EGRESS_CA_FILE", roots.path().to_str().unwrap())]).await;
    let (right, wrong) = (secure(&issuer, "localhost").await, secure(&issuer, "another.example").await);
    let at = async |port: u16| {
        let agent = agent(&tenant, &http(&format!("https://localhost:{port}/"))).await;
        run(&tenant, agent.id(), &json!({"input": {}})).await
    };
    let done = at(right).await;
    assert_eq!((&done.body["status"], &done.body["result"]), (&json!("succeeded"), &json!({})), "{}", done.text);
    let failed = at(wrong).await;
    assert_eq!((&failed.body["status"], &failed.body["error"]["code"]), (&json!("failed"), &json!("certificate")));
    assert_eq!(all.end().await, 0);
    lodging.leave().await;
}
