//! A connection whose patience with its peer ends: one that takes nothing of what it is sent would hold its place, and
//! what is ready for it, for as long as it likes.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

/// How long a peer may take nothing while there is something for it.
const TAKES_WITHIN: Duration = Duration::from_secs(30);
/// The same once the process shall end.
const AT_LAST: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    stop: CancellationToken,
    /// How long the peer may take nothing, and how long once the process shall end.
    patience: (Duration, Duration),
    /// When patience ends; none while the peer takes what comes.
    ends: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Over a connection of a process that shall end once `stop` is cancelled.
    pub fn new(stream: S, stop: CancellationToken) -> Self {
        Self { stream, stop, patience: (TAKES_WITHIN, AT_LAST), ends: None }
    }

    /// What came of a write, or that patience has ended.
    fn within(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.ends = None;
            return written;
        }
        let (usual, at_last) = self.patience;
        let latest = Instant::now() + if self.stop.is_cancelled() { at_last } else { usual };
        let ends = self.ends.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(latest)));
        if ends.deadline() > latest {
            ends.as_mut().reset(latest);
        }
        ends.as_mut().poll(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing any more")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.within(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.within(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up_and_sooner_at_the_end() {
        let (short, long) = (Duration::from_millis(100), Duration::from_secs(600));
        for (stopped, patience) in [(false, (short, long)), (true, (long, short))] {
            let (near, _far) = tokio::io::duplex(8);
            let stop = CancellationToken::new();
            let mut patient = Patient { patience, ..Patient::new(near, stop.clone()) };
            if stopped {
                stop.cancel();
            }
            let begun = Instant::now();
            let error = patient.write_all(&[0; 16]).await.unwrap_err();
            assert!(error.kind() == io::ErrorKind::TimedOut && begun.elapsed() >= short, "{error}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_goes_on_taking_is_waited_for() {
        let (near, mut far) = tokio::io::duplex(8);
        let patience = (Duration::from_secs(1), Duration::ZERO);
        let mut patient = Patient { patience, ..Patient::new(near, CancellationToken::new()) };
        let slowly = async {
            let mut bytes = [0; 8];
            for _ in 0..6 {
                tokio::time::sleep(patience.0 / 4).await;
                far.read_exact(&mut bytes).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(patient.write_all(&[0; 48]), slowly);
        written.unwrap();
    }
}
