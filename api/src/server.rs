//! Takes connections and answers their requests, within bounds; finishes what has begun before it ends.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use eventstore::chain;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::edge;
use crate::patient::Patient;

/// How many connections there may be at a time; the next one waits.
const CONNECTIONS: usize = 4_096;
/// How long a connection may be idle, or take to send the head of a request.
const IDLE: Duration = Duration::from_secs(60);
/// After how long a peer that acknowledges nothing is taken for gone: one that vanished would be sent to for a quarter of
/// an hour.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// The most bytes of a head that are taken in; the edge refuses sooner, with a problem.
const HEAD_BYTES: usize = 64 * 1024;
/// The most headers that are taken in; the edge refuses sooner, with a problem.
const HEAD_COUNT: usize = 256;
/// How long requests in flight may take to end, once the process shall.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// Serves until `stop` is cancelled, then takes no more connections and waits for the requests in flight.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(HEAD_BYTES).max_headers(HEAD_COUNT);
    while let Some(accepted) = stop.run_until_cancelled(accept(&listener, &room)).await {
        let (stream, permit) = match accepted {
            Ok((stream, permit)) => (Patient::new(stream, stop.clone()), permit),
            Err(error) => {
                // Out of descriptors, most likely: those that are open will end.
                tracing::warn!(error = chain(&error), "a connection could not be taken");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let router = router.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let router = router.clone();
            async move { Ok::<_, Infallible>(edge::answer(router, request.map(Body::new)).await) }
        });
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection.await {
                tracing::debug!(error = chain(&error), "a connection broke");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(ENDS_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_user_timeout(Some(GONE_AFTER))?;
    Ok((stream, permit))
}
