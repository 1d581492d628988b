//! Logs and figures. A line of log is JSON unless the operator wants to read it; neither ever holds personal data.

use std::sync::{Mutex, OnceLock, PoisonError};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Lines that may wait to be written.
const WAITING_LINES: usize = 20_000;

/// What writes the log, and how many lines it has lost.
static WRITER: Mutex<Option<(WorkerGuard, ErrorCounter)>> = Mutex::new(None);

/// Writes logs to stderr from here on, until [`end_logs`]; a second call changes nothing. Panics become log lines too. A
/// thread of its own writes them: where stderr takes nothing (a full pipe, a disk that stands still), requests go on, and
/// lines beyond those that may wait are lost and counted.
pub fn start_logs(filter: &str, format: LogFormat) {
    let mut filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // It tells what stands in the certificate of whoever was called, which anybody may write.
    if let Ok(quiet) = "rustls_platform_verifier=off".parse() {
        filter = filter.add_directive(quiet);
    }
    let writer = NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).thread_name("log");
    let (writer, guard) = writer.finish(std::io::stderr());
    let lost = writer.error_counter();
    let registry = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Json => {
            let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_span_list(false);
            registry.with(lines.with_writer(writer)).try_init()
        }
        LogFormat::Text => registry.with(tracing_subscriber::fmt::layer().with_writer(writer)).try_init(),
    };
    if started.is_ok() {
        *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some((guard, lost));
        std::panic::set_hook(Box::new(|panic| {
            // The message may hold a value; where it happened does not.
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(place, "a task panicked");
        }));
    }
}

/// Waits a moment for the lines that are still to be written.
pub fn end_logs() {
    drop(WRITER.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// How many lines of log were lost because stderr took none.
pub fn lost_lines() -> usize {
    let writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    writer.as_ref().map_or(0, |(_, lost)| lost.dropped_lines())
}

/// The bounds of the histograms of seconds.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Collects the figures of this process; a second call gives the same handle.
pub fn start_metrics() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let builder = PrometheusBuilder::new();
    let recorder = builder.set_buckets_for_metric(Matcher::Suffix("seconds".into()), SECONDS)?.build_recorder();
    let handle = HANDLE.get_or_init(|| recorder.handle()).clone();
    // Another part of the process may have set one in a test; then this one shows nothing.
    let _ = metrics::set_global_recorder(recorder);
    Ok(handle)
}
