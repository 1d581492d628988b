//! Bodies: bounded in size and time, declared as JSON.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;

use crate::problem::{Problem, codes};

/// The largest body that any operation takes; what a batch of 1,000 items needs is well below.
pub const MAX_BODY: usize = 1024 * 1024;
/// How long a body may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(20);
/// How much of a refused body is still read, so that its sender gets to read the answer, and for how long.
const DRAIN: (usize, Duration) = (8 * 1024 * 1024, Duration::from_secs(2));

/// Reads a whole body.
pub async fn read(body: &mut Body, headers: &HeaderMap) -> Result<Bytes, Problem> {
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(Problem::of(codes::PAYLOAD_TOO_LARGE));
    }
    let collected = async {
        // What is declared costs nothing before it comes.
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::new(codes::MALFORMED_JSON, "The body broke off. Send it again."))?;
            if let Some(data) = frame.data_ref() {
                if bytes.len() + data.len() > MAX_BODY {
                    return Err(Problem::of(codes::PAYLOAD_TOO_LARGE));
                }
                bytes.extend_from_slice(data);
            }
        }
        Ok(Bytes::from(bytes))
    };
    tokio::time::timeout(ARRIVES_WITHIN, collected).await.unwrap_or_else(|_| Err(Problem::of(codes::REQUEST_TIMEOUT)))
}

/// Reads on, within bounds: an answer to a body that nobody reads is lost when the connection breaks.
pub async fn drain(body: &mut Body, headers: &HeaderMap) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let drained = async {
        let mut left = DRAIN.0;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN.1, drained).await;
}

/// Refuses a body that is not declared as JSON; `application/merge-patch+json` and the like are.
pub fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let refused = || Problem::of(codes::UNSUPPORTED_MEDIA_TYPE);
    let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).ok_or_else(refused)?;
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(refused());
    }
    let mut parts = declared.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let json = kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
    let utf8 = parts.all(|parameter| match parameter.to_ascii_lowercase().split_once('=') {
        Some(("charset", charset)) => charset.trim_matches('"') == "utf-8",
        _ => true,
    });
    if json && utf8 { Ok(()) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_declared_as_such() {
        let declared = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            is_json(&headers).is_ok()
        };
        for good in ["application/json", "Application/JSON; charset=UTF-8", "application/merge-patch+json"] {
            assert!(declared(good), "{good}");
        }
        for bad in ["text/plain", "application/xml", "application/json; charset=latin1", "", "json"] {
            assert!(!declared(bad), "{bad}");
        }
        assert!(is_json(&HeaderMap::new()).is_err());
    }

    #[tokio::test]
    async fn a_body_has_at_most_a_mebibyte() {
        let read = async |size: usize| read(&mut Body::from(vec![b' '; size]), &HeaderMap::new()).await;
        assert_eq!(read(MAX_BODY).await.unwrap().len(), MAX_BODY);
        assert_eq!(read(MAX_BODY + 1).await.unwrap_err().code(), codes::PAYLOAD_TOO_LARGE);
    }
}
