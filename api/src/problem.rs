//! What went wrong, as RFC 9457 has it. The `detail` says what to do; nothing internal leaks.

use std::fmt;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use eventstore::chain;
use serde_json::{Map, Value, json};

/// Declares problem codes and the table of them.
macro_rules! codes {
    ($($constant:ident = $status:literal $code:literal, $title:literal, $about:literal;)*) => {
        /// The codes that any operation may answer with.
        pub mod codes {
            use super::Code;
            $(#[doc = $about] pub const $constant: Code = Code { code: $code, status: $status, title: $title, about: $about };)*
            /// All of them.
            pub const ALL: &[Code] = &[$($constant),*];
        }
    };
}

/// A kind of problem: permanent, since callers branch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// Kebab-case, the last segment of `type`.
    pub code: &'static str,
    /// The HTTP status that it comes with.
    pub status: u16,
    /// A line for people, the same each time.
    pub title: &'static str,
    /// What it means and what to do, for `/problems/<code>`.
    pub about: &'static str,
}

impl Code {
    /// A rule of the domain that was broken: 409.
    pub const fn rule(code: &'static str, title: &'static str, about: &'static str) -> Self {
        Self { code, status: 409, title, about }
    }
}

codes! {
    MALFORMED_JSON = 400 "malformed-json", "The body is not JSON",
        "The body could not be read as JSON: it is empty, cut off, not UTF-8, nested too deep, or followed by more. Send one JSON value.";
    DUPLICATE_KEY = 400 "duplicate-key", "A key stands twice in one object",
        "Readers disagree on which of two equal keys counts, so neither is taken. Name each key once.";
    INVALID_CURSOR = 400 "invalid-cursor", "The cursor belongs to another query",
        "A cursor is good for the query that it came from: same path, filters and order. Begin again without a cursor.";
    IDEMPOTENCY_KEY_MISSING = 400 "idempotency-key-missing", "The operation needs an Idempotency-Key",
        "This operation moves money. Send an `Idempotency-Key` header with a value of your own, and repeat the same value when you repeat the request.";
    IDEMPOTENCY_KEY_INVALID = 400 "idempotency-key-invalid", "The Idempotency-Key can't be used",
        "An `Idempotency-Key` has 1 to 255 printable ASCII characters, bare or in double quotes.";
    BAD_REQUEST = 400 "bad-request", "A header can't be understood",
        "A header of the request does not have the form that this API documents. The detail names it.";
    UNAUTHENTICATED = 401 "unauthenticated", "The request names no API key, or more than one",
        "Send an API key as `Authorization: Bearer <key>` or `X-API-Key: <key>`.";
    INVALID_API_KEY = 401 "invalid-api-key", "The API key is not valid",
        "The key is mistyped, unknown or revoked. Create another one, or check which one is deployed.";
    API_KEY_EXPIRED = 401 "api-key-expired", "The API key has expired",
        "The key was issued with an expiry that has passed. Create another one.";
    CREDENTIAL_IN_URL = 401 "credential-in-url", "A credential stands in the URL",
        "URLs end up in logs and histories. Send the key in a header, and replace the one that was sent.";
    FORBIDDEN = 403 "forbidden", "The key lacks a scope",
        "The key is valid and may not do this. The detail names the scope that it lacks.";
    APPROVAL_REQUIRED = 403 "approval-required", "Another principal must approve",
        "What can't be undone needs two principals: another key than the one that asked, with the approving scope.";
    NOT_FOUND = 404 "not-found", "There is no such thing here",
        "The path or the id is unknown to this tenant.";
    METHOD_NOT_ALLOWED = 405 "method-not-allowed", "The path does not take this method",
        "The `Allow` header names the methods that the path takes.";
    REQUEST_TIMEOUT = 408 "request-timeout", "The request did not arrive in time",
        "The body came too slowly. Send it again.";
    ALREADY_EXISTS = 409 "already-exists", "The name is taken",
        "Another resource has this external id or another value that is unique. `existing` names it.";
    IDEMPOTENCY_IN_PROGRESS = 409 "idempotency-in-progress", "The first request is still being carried out",
        "A request with the same `Idempotency-Key` has not ended. Repeat this one after the time in `Retry-After`.";
    LOG_RESTORED = 409 "log-restored", "What you have seen was lost when the log was restored",
        "The operator had to restore the log to an earlier moment. `sequence` is the last one of this tenant that is as it was; what came after it is lost. Read the resource again, and repeat the commands that were answered with a later `Annals-Sequence`, each with its `Idempotency-Key`: what survived has no second effect.";
    SUBJECT_ERASED = 409 "subject-erased", "The person was erased",
        "Nothing more can be written about a person whose data was erased.";
    VERSION_CONFLICT = 412 "version-conflict", "The resource has changed",
        "The version in `If-Match` is not the newest one. GET the resource, decide again, and send its new `ETag`.";
    PAYLOAD_TOO_LARGE = 413 "payload-too-large", "The body is too large",
        "A body may have 1 MiB. Split it, or send less.";
    UNSUPPORTED_MEDIA_TYPE = 415 "unsupported-media-type", "The body is not declared as JSON",
        "Send `Content-Type: application/json`.";
    HEADERS_TOO_LARGE = 431 "headers-too-large", "The headers are too large",
        "All headers together may have 16 KiB, and a request may have 100 of them.";
    VALIDATION_FAILED = 422 "validation-failed", "A field is not valid",
        "`errors` names each field by a JSON Pointer (`/lines/0/quantity`; `?limit` for a query parameter) and says what it must be.";
    UNKNOWN_FIELD = 422 "unknown-field", "A field is unknown",
        "Fields and parameters that this API does not know are refused, so that a mistyped one is not lost. `errors` names it.";
    WEBHOOK_URL_FORBIDDEN = 422 "webhook-url-forbidden", "The URL may not be called",
        "Only public hosts are called, over https, unless the operator allows others. The detail says what is wrong with this URL.";
    IDEMPOTENCY_KEY_REUSED = 422 "idempotency-key-reused", "The Idempotency-Key stands for another request",
        "The key was used before with another body or for another resource. Take a new key for a new request.";
    RATE_LIMITED = 429 "rate-limited", "More is asked for at a time than one tenant may",
        "The tenant has as much under way in this process as one may have. End some of it, or repeat the request after the time in `Retry-After`.";
    INTERNAL = 500 "internal-error", "Something is wrong on our side",
        "The request could not be carried out for a reason that is ours. Quote `request_id` when you ask about it.";
    UNAVAILABLE = 503 "unavailable", "The service can't answer at the moment",
        "Something that the operation needs does not answer. Repeat the request after the time in `Retry-After`; with an `Idempotency-Key` that is always safe.";
    READ_MODEL_BEHIND = 503 "read-model-behind", "The list or report has not come that far",
        "The write named in `Annals-Min-Sequence` is stored and not yet in this list or report. Repeat the request after the time in `Retry-After`.";
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// RFC 6901 into the body; `?name` for a query parameter.
    pub pointer: String,
    /// What it must be.
    pub detail: String,
}

/// A problem to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem(Box<Parts>);

#[derive(Clone, Debug, PartialEq)]
struct Parts {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    beside: Map<String, Value>,
    headers: Vec<(header::HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem with what to do about it.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let (errors, beside, headers) = (Vec::new(), Map::new(), Vec::new());
        Self(Box::new(Parts { code, detail: detail.into(), errors, beside, headers }))
    }

    /// A problem whose code says it all.
    pub fn of(code: Code) -> Self {
        Self::new(code, code.about)
    }

    /// A field that is not valid.
    pub fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::of_field(codes::VALIDATION_FAILED, pointer, detail)
    }

    /// A problem of that code with one field.
    pub fn of_field(code: Code, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(code, "").with_error(pointer, detail)
    }

    /// Nothing of that id or path, for this tenant.
    pub fn not_found() -> Self {
        Self::new(codes::NOT_FOUND, "There is nothing under this id. Check the id and which tenant the key belongs to.")
    }

    /// The caller has seen what was lost when the log was restored; up to `survived` everything is as it was.
    pub fn log_restored(survived: eventstore::Token) -> Self {
        let detail = format!(
            "The log was restored to an earlier moment. Of this tenant everything up to sequence {0} is as it was; what came \
             after it is lost. Read the resource again, and repeat the commands that were answered with an \
             `Annals-Sequence` beyond {0}, each with its `Idempotency-Key`.",
            survived.number
        );
        Self::new(codes::LOG_RESTORED, detail).with("sequence", survived.number)
    }

    /// Something that is needed does not answer.
    pub fn unavailable() -> Self {
        Self::of(codes::UNAVAILABLE).retry_after(1)
    }

    /// A failure of ours: the log gets the cause, the caller an id to quote.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        Self::of(codes::INTERNAL)
    }

    /// Names one more field.
    pub fn with_error(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.0.errors.push(FieldError { pointer: pointer.into(), detail: detail.into() });
        self
    }

    /// The same problem in a part of the body: its pointers begin with `prefix`.
    pub fn beneath(mut self, prefix: &str) -> Self {
        for error in self.0.errors.iter_mut().filter(|error| error.pointer.is_empty() || error.pointer.starts_with('/'))
        {
            error.pointer.insert_str(0, prefix);
        }
        self
    }

    /// The same problem where its pointers are names in a part of the request: `?` for parameters, `/` for the body.
    pub fn within(mut self, prefix: &str) -> Self {
        for error in self.0.errors.iter_mut().filter(|error| !error.pointer.starts_with(['/', '?'])) {
            error.pointer.insert_str(0, prefix);
        }
        self
    }

    /// The same problem of another field.
    pub fn at_field(mut self, pointer: &str) -> Self {
        for error in &mut self.0.errors {
            pointer.clone_into(&mut error.pointer);
        }
        self
    }

    /// One more member of the body.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.beside.insert(name.to_owned(), value.into());
        self
    }

    /// One more header.
    pub fn header(mut self, name: header::HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.0.headers.push((name, value.into()));
        self
    }

    /// Says when to ask again.
    pub fn retry_after(self, seconds: u64) -> Self {
        self.header(header::RETRY_AFTER, seconds)
    }

    /// The kind of problem.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The fields that are not valid.
    pub fn errors(&self) -> &[FieldError] {
        &self.0.errors
    }

    /// The body.
    pub fn to_json(&self, request_id: &str) -> Value {
        let Parts { code, detail, errors, beside, .. } = &*self.0;
        let detail = match errors.first() {
            Some(error) if detail.is_empty() && error.pointer.is_empty() => format!("The body {}.", error.detail),
            Some(error) if detail.is_empty() => format!("`{}` {}.", error.pointer, error.detail),
            _ => detail.clone(),
        };
        let mut body = json!({
            "type": format!("/problems/{}", code.code),
            "title": code.title,
            "status": code.status,
            "detail": detail,
            "code": code.code,
            "request_id": request_id,
        });
        if let Some(body) = body.as_object_mut() {
            body.extend(beside.clone());
            if !errors.is_empty() {
                let errors = errors.iter().map(|e| json!({ "pointer": e.pointer, "detail": e.detail }));
                body.insert("errors".into(), errors.collect());
            }
        }
        body
    }

    /// The answer to a request.
    pub fn render(&self, request_id: &str) -> Response<Body> {
        let mut response = Response::new(Body::from(self.to_json(request_id).to_string()));
        *response.status_mut() = StatusCode::from_u16(self.0.code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in &self.0.headers {
            headers.insert(name, value.clone());
        }
        response
    }
}

/// Without a body: the edge renders it, for it knows the request's id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(self.0.code.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.extensions_mut().insert(self);
        response
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.code, self.0.detail)
    }
}

impl std::error::Error for Problem {}

impl From<eventstore::StoreError> for Problem {
    fn from(error: eventstore::StoreError) -> Self {
        tracing::error!(error = chain(&error), "the event store failed a request");
        match error {
            eventstore::StoreError::Decode(domain::DecodeError::Unknown { name, schema_version }) => Self::new(
                codes::UNAVAILABLE,
                format!(
                    "The history of this resource has `{name}` in version {schema_version}, which a newer version of this \
                     service wrote. The process that answers does not know it yet."
                ),
            )
            .retry_after(5),
            _ => Self::unavailable(),
        }
    }
}

impl From<commands::VaultError> for Problem {
    fn from(error: commands::VaultError) -> Self {
        tracing::error!(error = chain(&error), "the vault failed a request");
        Self::unavailable()
    }
}

impl From<commands::ResolveError> for Problem {
    fn from(error: commands::ResolveError) -> Self {
        match error {
            commands::ResolveError::Store(error) => error.into(),
            commands::ResolveError::Vault(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_kebab_case() {
        let mut seen = HashSet::new();
        for code in codes::ALL {
            assert!(seen.insert(code.code), "{} twice", code.code);
            assert!(code.code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", code.code);
            assert!(StatusCode::from_u16(code.status).is_ok_and(|s| s.is_client_error() || s.is_server_error()));
        }
    }

    #[test]
    fn a_problem_names_code_request_and_fields() {
        let body = Problem::field("/email", "must be an e-mail address").with("existing", "cus_x").to_json("req_1");
        assert_eq!(body["type"], "/problems/validation-failed");
        assert_eq!(body["status"], 422);
        assert_eq!(body["request_id"], "req_1");
        assert_eq!(body["existing"], "cus_x");
        assert_eq!(body["errors"], json!([{ "pointer": "/email", "detail": "must be an e-mail address" }]));
    }
}
