//! How an error is told to operators.

/// An error with all that is behind it, in one line. Every log line tells errors so: `tracing` leaves the sources of a
/// `dyn Error` out where it writes JSON.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
