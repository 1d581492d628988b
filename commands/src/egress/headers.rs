//! Headers of requests and responses.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use hyper::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// The longest wait that is believed: 30 days.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What belongs to the connection and the framing (RFC 9110, section 7.6.1; RFC 9112): never given from outside.
const OF_THE_CONNECTION: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What the product sets by itself. `accept-encoding` is among them as no compressed body is read.
const OUR_OWN: &[&str] =
    &["accept-encoding", "baggage", "content-type", "idempotency-key", "traceparent", "tracestate"];

/// How long a name may be.
const MAX_NAME: usize = 256;

/// Whether somebody may configure a header of this name for calls to a provider. Some servers take `_` for `-`, so that is
/// taken for it here too.
pub fn may_be_set(name: &HeaderName) -> bool {
    let read = name.as_str().replace('_', "-");
    let ours = OUR_OWN.contains(&read.as_str()) || read.starts_with("annals-");
    read.len() <= MAX_NAME && !ours && may_be_sent(name) && !OF_THE_CONNECTION.contains(&read.as_str())
}

/// Whether a request may bring a header of this name.
pub(super) fn may_be_sent(name: &HeaderName) -> bool {
    !OF_THE_CONNECTION.contains(&name.as_str()) && !name.as_str().starts_with("proxy-")
}

/// How long the host asks to wait (RFC 9110, section 10.2.3): seconds, or a date, which counts from the response's own
/// `Date`, or from `now` where it has none. A date in the past is no wait; what can't be read is none at all.
pub(super) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(value.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs).min(MAX_RETRY_AFTER));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let date = headers.get(DATE).and_then(|date| date.to_str().ok());
    let from = date.and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or_else(|| SystemTime::from(now));
    Some(until.duration_since(from).unwrap_or_default().min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_read_in_both_forms() {
        let now = DateTime::from_timestamp(784_111_777, 0).unwrap(); // Sun, 06 Nov 1994 08:49:37 GMT
        let date = "Sun, 06 Nov 1994 08:50:07 GMT";
        for (value, own_date, seconds) in [
            ("0", None, Some(0)),
            (" 120 ", None, Some(120)),
            ("99999999999999999999999", None, Some(2_592_000)),
            ("4000000", None, Some(2_592_000)),
            (date, None, Some(30)),
            ("Sunday, 06-Nov-94 08:50:07 GMT", None, Some(30)),
            (date, Some("Sun, 06 Nov 1994 08:50:00 GMT"), Some(7)),
            (date, Some("nonsense"), Some(30)),
            (date, Some("Mon, 07 Nov 1994 08:50:00 GMT"), Some(0)),
            ("-1", None, None),
            ("1.5", None, None),
            ("soon", None, None),
            ("", None, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            if let Some(own_date) = own_date {
                headers.insert(DATE, own_date.parse().unwrap());
            }
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn framing_and_our_own_headers_are_not_configured() {
        for name in [
            "Host",
            "content-length",
            "Transfer-Encoding",
            "connection",
            "keep-alive",
            "TE",
            "trailer",
            "upgrade",
            "proxy-authorization",
            "Proxy-Connection",
            "expect",
            "Idempotency-Key",
            "Content-Type",
            "traceparent",
            "tracestate",
            "accept-encoding",
            "annals-run",
            "Annals-Signature",
        ] {
            assert!(!may_be_set(&name.parse().unwrap()), "{name}");
        }
        for name in ["authorization", "cookie", "x-api-key", "anthropic-version", "openai-organization", "user-agent"] {
            assert!(may_be_set(&name.parse().unwrap()), "{name}");
        }
        assert!(may_be_sent(&"idempotency-key".parse().unwrap()));
    }
}
