//! The outermost layer: gives each request an id and a place in its trace, refuses what no operation should see, renders
//! problems, and writes one line of log. The log has the route, never the path or the parameters: they may be personal.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use axum::response::IntoResponse;
use tower::ServiceExt;
use tracing::Instrument;

use crate::aliases;
use crate::extract::query::no_credential;
use crate::extract::trace::{REQUEST_ID, TRACEPARENT, Trace};
use crate::problem::{Problem, codes};
use crate::router::Told;

/// How many bytes all headers together may have, and how many headers there may be.
const HEADERS: (usize, usize) = (16 * 1024, 100);

/// Answers one request.
pub async fn answer(router: Router, mut request: Request) -> Response<Body> {
    let begun = Instant::now();
    let trace = Trace::of(request.headers());
    let method = request.method().clone();
    let span = tracing::info_span!("request", request_id = trace.request_id, trace = %trace.parent);
    request.extensions_mut().insert(trace.clone());
    let routed = async {
        match admit(&mut request) {
            Ok(()) => router.oneshot(request).await.unwrap_or_else(|never| match never {}),
            Err(problem) => {
                let (parts, mut body) = request.into_parts();
                crate::extract::body::drain(&mut body, &parts.headers).await;
                problem.into_response()
            }
        }
    };
    let response = finish(routed.instrument(span.clone()).await, &trace);
    span.in_scope(|| tell(&method, &response, begun.elapsed()));
    response
}

/// Refuses what is too large or carries a credential in its URL; rewrites what came by another path.
fn admit(request: &mut Request) -> Result<(), Problem> {
    let headers = request.headers();
    if size(headers) > HEADERS.0 || headers.len() > HEADERS.1 {
        return Err(Problem::of(codes::HEADERS_TOO_LARGE));
    }
    no_credential(request.uri().path(), request.uri().query())?;
    let rewritten = aliases::rewrite(request.method(), request.uri()).map_err(|allow| {
        let problem = Problem::of(codes::METHOD_NOT_ALLOWED);
        HeaderValue::try_from(allow).map_or(problem.clone(), |allow| problem.header(header::ALLOW, allow))
    })?;
    if let Some((uri, alias)) = rewritten {
        *request.uri_mut() = uri;
        if alias.method != alias.to_method {
            *request.method_mut() = alias.to_method.clone();
        }
        request.extensions_mut().insert(alias);
    }
    Ok(())
}

fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Renders the problem, if it is one, and adds what every answer has.
fn finish(response: Response<Body>, trace: &Trace) -> Response<Body> {
    let mut response = match response.extensions().get::<Problem>().cloned() {
        Some(problem) => {
            let (parts, _) = response.into_parts();
            let mut rendered = problem.render(&trace.request_id);
            if let Some(allow) = parts.headers.get(header::ALLOW) {
                rendered.headers_mut().insert(header::ALLOW, allow.clone());
            }
            *rendered.extensions_mut() = parts.extensions;
            rendered
        }
        None => response,
    };
    let headers = response.headers_mut();
    for (name, value) in [(REQUEST_ID, trace.request_id.clone()), (TRACEPARENT, trace.parent.to_string())] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// One line of log and the figures of one request.
fn tell(method: &Method, response: &Response<Body>, took: Duration) {
    let told = response.extensions().get::<Told>();
    let operation = told.map_or("none", |told| told.operation.name);
    let route = told.map_or("", |told| told.operation.path.as_str());
    let status = response.status();
    let code = response.extensions().get::<Problem>().map_or("", |problem| problem.code().code);
    metrics::counter!("annals_http_requests_total", "operation" => operation, "status" => status.as_str().to_owned())
        .increment(1);
    metrics::histogram!("annals_http_request_seconds", "operation" => operation).record(took.as_secs_f64());
    let milliseconds = took.as_secs_f64() * 1_000.0;
    let (tenant, actor) = told.and_then(|told| told.principal).unzip();
    let (tenant, actor) = (tenant.map(tracing::field::display), actor.map(tracing::field::display));
    let status = status.as_u16();
    if status >= StatusCode::INTERNAL_SERVER_ERROR.as_u16() {
        tracing::error!(%method, route, operation, status, code, milliseconds, tenant, actor, "answered");
    } else {
        tracing::info!(%method, route, operation, status, code, milliseconds, tenant, actor, "answered");
    }
}
