//! What is no operation: health, figures, the descriptions of the API, the topic and its events, the pages about problems.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use eventstore::chain;
use serde_json::{Value, json};

use crate::problem::{Code, Problem, codes};
use crate::router::OPERATIONS;
use crate::state::State;
use crate::{asyncapi, openapi, telemetry};

/// Scripts, styles and pictures from here alone. Swagger UI writes styles into its elements.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The pages' routes.
pub fn router(state: &Arc<State>) -> Router {
    let (ready, figures) = (state.clone(), state.clone());
    Router::new()
        .route("/health/live", get(async || json_page(StatusCode::OK, &json!({ "status": "live" }))))
        .route("/health/ready", get(async move || self::ready(&ready).await))
        .route("/metrics", get(async move || self::metrics(&figures)))
        .route("/openapi.json", get(async || text_page("application/json", openapi::document_text().to_owned())))
        .route("/asyncapi.json", get(async || text_page("application/json", asyncapi::document_text().to_owned())))
        .route("/schemas/events/{event_type}/{version}", get(async |Path((name, version))| schema(name, version)))
        .route("/docs", get(async || Redirect::permanent("/docs/")))
        .route("/docs/", get(async || docs("")))
        .route("/docs/{*file}", get(async |Path(file): Path<String>| docs(&file)))
        .route("/problems/{code}", get(problem))
}

fn metrics(state: &State) -> Response<Body> {
    metrics::gauge!("annals_log_lines_lost").set(telemetry::lost_lines() as f64);
    text_page("text/plain; version=0.0.4", state.metrics.render())
}

async fn ready(state: &State) -> Response<Body> {
    let (ready, body) = state.health.ready().await;
    json_page(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
}

/// The JSON schema of an event's payload: what its `dataschema` names.
fn schema(name: String, version: String) -> Response<Body> {
    let kind = domain::event_type(&name);
    match kind.zip(version.parse().ok()).and_then(|(kind, version)| kind.schema_of(version)) {
        Some(schema) => {
            let mut response = text_page("application/schema+json", schema.to_string());
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
            response
        }
        None => Problem::new(codes::NOT_FOUND, "There is no event of this type and version.").into_response(),
    }
}

/// Every code that this API may answer with: the house's, then the rules of its contexts.
pub fn all_codes() -> Vec<Code> {
    let mut all = codes::ALL.to_vec();
    for code in OPERATIONS.iter().flat_map(|operation| &operation.problems) {
        if !all.contains(code) {
            all.push(*code);
        }
    }
    all
}

/// What a problem means, for people and for programs.
async fn problem(Path(code): Path<String>, headers: HeaderMap) -> Response<Body> {
    let Some(code) = all_codes().into_iter().find(|known| known.code == code) else {
        return Problem::new(codes::NOT_FOUND, "There is no problem of this name.").into_response();
    };
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let body = json!({
        "type": format!("/problems/{}", code.code),
        "code": code.code,
        "title": code.title,
        "status": code.status,
        "description": code.about,
    });
    if !accepts.contains("text/html") {
        return json_page(StatusCode::OK, &body);
    }
    let Code { code, title, status, about } = code;
    let about = about.split('`').enumerate().fold(String::new(), |html, (index, part)| {
        let part = part.replace('&', "&amp;").replace('<', "&lt;");
        if index % 2 == 1 { format!("{html}<code>{part}</code>") } else { html + &part }
    });
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{code}</title>\
         <h1>{title}</h1><p><code>{code}</code>, status {status}</p><p>{about}</p></html>"
    );
    let mut response = text_page("text/html; charset=utf-8", page);
    let policy = HeaderValue::from_static("default-src 'none'");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

static DOCS: LazyLock<Arc<utoipa_swagger_ui::Config<'static>>> = LazyLock::new(|| {
    let config = utoipa_swagger_ui::Config::from("/openapi.json");
    Arc::new(config.display_request_duration(true).persist_authorization(false).validator_url("none"))
});

/// A file of the page that shows the API's description; all of them are in the binary.
fn docs(file: &str) -> Response<Body> {
    match utoipa_swagger_ui::serve(file, DOCS.clone()) {
        Ok(Some(file)) => {
            let mut response = Response::new(Body::from(file.bytes.into_owned()));
            let headers = response.headers_mut();
            if let Ok(kind) = HeaderValue::from_str(&file.content_type) {
                headers.insert(header::CONTENT_TYPE, kind);
            }
            headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(DOCS_POLICY));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
            response
        }
        Ok(None) => Problem::new(codes::NOT_FOUND, "There is no such file.").into_response(),
        Err(error) => {
            tracing::error!(error = chain(&*error), "a page of the documentation failed");
            Problem::of(codes::INTERNAL).into_response()
        }
    }
}

fn json_page(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = text_page("application/json", body.to_string());
    *response.status_mut() = status;
    response
}

fn text_page(kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
