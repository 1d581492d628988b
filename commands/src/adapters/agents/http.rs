//! A program behind a URL: it is sent the input as it is, and its JSON is the result.

use domain::agents::{AttemptOutcome, MAX_BYTES};
use domain::personal::SECRET;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::{Call, Failed, post};
use crate::egress::Egress;

/// How many bytes an answer may have: white space between its parts does not count as result.
const MAX_BODY: usize = 2 * MAX_BYTES;

pub(super) async fn call(egress: &Egress, mut call: Call) -> Result<AttemptOutcome, Failed> {
    let http = call.agent["http"].take();
    let configured = http["headers"].as_object().into_iter().flatten();
    let headers = configured.filter_map(|(name, secret)| {
        let name = name.parse::<HeaderName>().ok()?;
        let mut value = HeaderValue::from_str(secret[SECRET].as_str()?).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    });
    let headers = headers.collect();
    let url = http["url"].as_str().unwrap_or_default().to_owned();
    let body = Value::Object(std::mem::take(&mut call.input));
    let result = post(egress, &call, url, headers, &body, MAX_BODY).await?;
    Ok(AttemptOutcome::Succeeded { result, usage: None, cost: None })
}
