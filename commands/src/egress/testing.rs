//! Hosts and name servers of the tests.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::DateTime;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

pub(super) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Gives one answer after the other, the last one for ever.
pub(super) struct Answers {
    left: Mutex<VecDeque<Vec<IpAddr>>>,
    pub(super) asked: AtomicUsize,
}

impl Answers {
    pub(super) fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|ip| ip.parse().unwrap()).collect();
        Arc::new(Self { left: Mutex::new(answers.iter().map(parse).collect()), asked: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Resolve for Answers {
    async fn resolve(&self, _name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut left = self.left.lock().unwrap();
        let answer = if left.len() > 1 { left.pop_front() } else { left.front().cloned() };
        answer.ok_or_else(|| io::Error::other("no such name"))
    }
}

/// A host on 127.0.0.1 that treats every connection alike and counts them.
pub(super) struct Host {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Host {
    pub(super) async fn start<F, R>(treat: F) -> Self
    where
        F: Fn(TcpStream) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(treat(stream));
            }
        });
        Self { address, connections, task }
    }

    /// How many connections came. Waits a little, lest one is on its way.
    pub(super) async fn connections(&self) -> usize {
        time::sleep(Duration::from_millis(50)).await;
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads a whole request; empty if the connection ended.
pub(super) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
            _ => return String::new(),
        }
    }
}

pub(super) fn egress(allow: &str, resolver: Arc<dyn Resolve>) -> Egress {
    egress_trusting(allow, resolver, Vec::new())
}

pub(super) fn egress_trusting(allow: &str, resolver: Arc<dyn Resolve>, extra_roots: Vec<Vec<u8>>) -> Egress {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Egress::new(EgressConfig { allow: allow.parse().unwrap(), extra_roots, resolver }).unwrap()
}

/// One that may reach loopback, where `provider.test` is.
pub(super) fn local() -> Egress {
    egress("127.0.0.0/8", Answers::new(&[&["127.0.0.1"]]))
}

pub(super) fn to(url: impl Into<String>) -> Outgoing {
    Outgoing {
        url: url.into(),
        headers: vec![("authorization".parse().unwrap(), "Bearer hush".parse().unwrap())],
        body: br#"{"secret":"personal"}"#.to_vec(),
        timeout: Duration::from_secs(5),
        max_body: 1 << 16,
        now: DateTime::from_timestamp(784_111_777, 0).unwrap(),
    }
}
