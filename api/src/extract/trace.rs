//! Where a request comes from: its id and its W3C trace context, taken over where they are well formed, else made.

use std::fmt;

use axum::http::HeaderMap;

/// The header with the request's id, in and out.
pub const REQUEST_ID: &str = "x-request-id";
/// The header of the W3C trace context, in and out.
pub const TRACEPARENT: &str = "traceparent";

/// The id of a request and its place in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// 1 to 64 of `A-Za-z0-9._-`: safe in logs and in the metadata of events.
    pub request_id: String,
    /// Our own span in the caller's trace.
    pub parent: TraceParent,
}

/// A W3C `traceparent`, version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    flags: u8,
}

impl Trace {
    /// What the headers say; made where they say nothing or nothing usable.
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let request_id = text(REQUEST_ID).filter(|id| is_request_id(id));
        let request_id = request_id.map_or_else(|| format!("req_{}", eventstore::new_id().simple()), str::to_owned);
        let parent = text(TRACEPARENT).and_then(TraceParent::parse).unwrap_or_else(TraceParent::begin);
        Self { request_id, parent: parent.child() }
    }
}

fn is_request_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl TraceParent {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, digits: usize| {
            let lower = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            (text.len() == digits && lower).then(|| u128::from_str_radix(text, 16).ok()).flatten()
        };
        // Later versions may append fields; their first four are read as version 00's.
        let known = hex(version, 2)? != 0xff && (version != "00" || parts.next().is_none());
        let (trace, span, flags) = (hex(trace, 32)?, hex(span, 16)?, hex(flags, 2)?);
        let whole = known && trace != 0 && span != 0;
        whole.then_some(Self { trace, span: u64::try_from(span).ok()?, flags: u8::try_from(flags).ok()? })
    }

    fn begin() -> Self {
        Self { trace: u128::from_be_bytes(random()).max(1), span: 1, flags: 0 }
    }

    /// A span of our own in the same trace.
    fn child(self) -> Self {
        Self { span: u64::from_be_bytes(random()).max(1), ..self }
    }
}

/// Random bytes; zeros where the system has none, which breaks no promise.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let _ = getrandom::fill(&mut bytes);
    bytes
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(name: &'static str, value: &str) -> Trace {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        Trace::of(&headers)
    }

    #[test]
    fn a_request_id_is_taken_over_only_if_it_is_harmless() {
        assert_eq!(trace(REQUEST_ID, "a.B_c-9").request_id, "a.B_c-9");
        for bad in ["", "a b", "a\"b", &"x".repeat(65), "a/b"] {
            assert!(trace(REQUEST_ID, bad).request_id.starts_with("req_"), "{bad}");
        }
    }

    #[test]
    fn our_span_stands_in_the_callers_trace() {
        let ours = trace(TRACEPARENT, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").parent.to_string();
        assert!(ours.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && ours.ends_with("-01"), "{ours}");
        assert!(!ours.contains("00f067aa0ba902b7"));
        for bad in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "x",
        ] {
            assert!(!trace(TRACEPARENT, bad).parent.to_string().contains("4bf92f3577b34da6"), "{bad}");
        }
    }
}
