//! From operations to routes.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, MethodRouter};
use domain::{AnyId, TenantId, TypedId};
use futures::future::BoxFuture;
use serde_json::{Map, Value};
use tracing::Instrument;

use crate::aliases::Alias;
use crate::call::Call;
use crate::extract::query::{Page, Query};
use crate::extract::trace::Trace;
use crate::extract::{body, headers::Headers};
use crate::operation::{Answer, Operation, RateClass};
use crate::problem::{Problem, codes};
use crate::resource::BASE;
use crate::state::State;
use crate::{agents, analytics, audit, billing, commerce, crm, operations, pages, privacy, strict, tenancy};

/// How long an operation may take. What has begun is finished, but nobody waits for it.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// When it is given up: nothing that it asks for takes so long, so somebody will never answer, and its room is needed.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(150);

/// Every operation of the API; a context adds one line.
pub static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(|| {
    let contexts = [
        commerce::operations(),
        crm::operations(),
        billing::operations(),
        agents::operations(),
        privacy::operations(),
        analytics::operations(),
        audit::operations(),
        tenancy::operations(),
        operations::operations(),
    ];
    contexts.into_iter().flatten().collect()
});

/// What the edge logs of a request, beside what it sees itself.
#[derive(Clone, Debug)]
pub struct Told {
    /// The operation.
    pub operation: &'static Operation,
    /// Who asked, where that is known.
    pub principal: Option<(TenantId, AnyId)>,
}

/// The whole API.
pub fn router(state: &Arc<State>) -> Router {
    let mut router = pages::router(state);
    let mut paths: Vec<&str> = OPERATIONS.iter().map(|operation| operation.path.as_str()).collect();
    paths.sort_unstable();
    paths.dedup();
    for path in paths {
        let operations = OPERATIONS.iter().filter(|operation| operation.path == path);
        let methods = operations.fold(MethodRouter::new(), |methods, operation| {
            let state = state.clone();
            let filter = MethodFilter::try_from(operation.method.clone()).unwrap_or(MethodFilter::GET);
            methods.on(filter, move |request: Request| run(operation, state, request))
        });
        router = router.route(&format!("{BASE}{path}"), methods);
    }
    router.method_not_allowed_fallback(method_not_allowed).fallback(not_found)
}

async fn not_found(request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    refused(&parts, body, Problem::new(codes::NOT_FOUND, "There is nothing at this path. `/docs` lists what there is."))
        .await
}

async fn method_not_allowed(request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    refused(&parts, body, Problem::of(codes::METHOD_NOT_ALLOWED)).await
}

/// A problem, once what is left of the body has been read away.
async fn refused(parts: &Parts, mut body: Body, problem: Problem) -> Response<Body> {
    body::drain(&mut body, &parts.headers).await;
    problem.into_response()
}

/// Carries an operation out in a task of its own: neither a caller that hangs up nor a time-out stops what has begun,
/// and a panic ends no connection. What is only waited for ends with the caller.
async fn run(operation: &'static Operation, state: Arc<State>, request: Request) -> Response<Body> {
    let Ok(permit) = state.room.clone().try_acquire_owned() else {
        return Problem::unavailable().into_response();
    };
    let (parts, body) = request.into_parts();
    let work = state.requests.spawn({
        let state = state.clone();
        async move {
            let _permit = permit;
            tokio::time::timeout(GIVEN_UP_AFTER, carry_out(operation, state, parts, body)).await
        }
        .in_current_span()
    });
    let mut response = match tokio::time::timeout(ENDS_WITHIN, work).await {
        Ok(Ok(Ok((response, None)))) => return response,
        Ok(Ok(Ok((response, Some(later))))) => return wait(&state, response, later).await,
        Ok(Err(error)) => {
            // A panic's message may hold a value; the line of the panic says where it was.
            tracing::error!(panicked = error.is_panic(), "a request broke off");
            Problem::of(codes::INTERNAL).into_response()
        }
        Err(_) | Ok(Ok(Err(_))) => {
            let detail = "The request took too long, and its outcome is unknown. Repeat it; with the same \
                `Idempotency-Key` that is always safe.";
            Problem::new(codes::UNAVAILABLE, detail).retry_after(1).into_response()
        }
    };
    response.extensions_mut().insert(Told { operation, principal: None });
    response
}

/// The response once that has come which the caller prefers to wait for. What was done is done: where nobody more can
/// wait, or the end can't be seen, the answer is the one that says so.
async fn wait(state: &State, first: Response<Body>, later: Later) -> Response<Body> {
    let Ok(_waiting) = state.waiting.try_acquire() else { return first };
    match later.await {
        Ok(mut response) => {
            response.extensions_mut().extend(first.extensions().clone());
            response
        }
        Err(problem) => {
            tracing::warn!(code = problem.code().code, "the end of what takes long could not be seen");
            first
        }
    }
}

/// A response that is still to come.
type Later = BoxFuture<'static, Result<Response<Body>, Problem>>;

async fn carry_out(
    operation: &'static Operation,
    state: Arc<State>,
    mut parts: Parts,
    mut body: Body,
) -> (Response<Body>, Option<Later>) {
    let mut principal = None;
    let (mut response, later) = match answer(operation, state, &mut parts, &mut body, &mut principal).await {
        Ok(answered) => answered,
        Err(problem) => {
            body::drain(&mut body, &parts.headers).await;
            (problem.into_response(), None)
        }
    };
    response.extensions_mut().insert(Told { operation, principal });
    (response, later)
}

async fn answer(
    operation: &'static Operation,
    state: Arc<State>,
    parts: &mut Parts,
    body: &mut Body,
    told: &mut Option<(TenantId, AnyId)>,
) -> Result<(Response<Body>, Option<Later>), Problem> {
    let now = commands::clock::now();
    let principal = state.keys.authenticate(&parts.headers, now).await?;
    // A test tenant has a time of its own.
    let now = if principal.for_tests { state.executor.now(principal.tenant).await? } else { now };
    *told = Some((principal.tenant, principal.actor));
    state.executor.store().callers().note(principal.tenant.uuid());
    principal.needs_one(&operation.scopes())?;
    let headers = Headers::of(&parts.headers)?;
    let mut names = path_parameters(operation, parts).await?.into_iter();
    let (path_id, path_name) = (names.next(), names.next());
    let mut query = Query::parse(parts.uri.query().unwrap_or_default())?;
    let page = if operation.paged { query.page()? } else { Page::default() };
    let trace = parts.extensions.get::<Trace>().cloned().unwrap_or_else(|| Trace::of(&parts.headers));
    let sets = parts.extensions.get::<&'static Alias>().map_or(&[][..], |alias| alias.sets);
    let body = read_body(operation, &parts.headers, body, sets).await?;
    // What is given out needs nothing of what was sent.
    let call =
        Call { state, operation, principal, trace, headers, path_id, path_name, query, page, body: Value::Null, now };
    if operation.kind == crate::operation::Kind::Command {
        call.query.clone().typed::<crate::extract::query::Nothing>()?;
    }
    let mut answer = (operation.handler)(Call { body, ..call.clone() }).await?;
    call.show(&mut answer.body).await?;
    answer = call.give(answer).await?;
    let later = answer.later.take().map(|later| -> Later {
        Box::pin(async move {
            let mut answer = later.await?;
            call.show(&mut answer.body).await?;
            answer = call.give(answer).await?;
            Ok(respond(operation, answer))
        })
    });
    Ok((respond(operation, answer), later))
}

/// The `{id}` and the `{name}` of the path, percent-decoded. What is no UTF-8 is nobody's.
async fn path_parameters(operation: &Operation, parts: &mut Parts) -> Result<Vec<String>, Problem> {
    if !operation.has_id() {
        return Ok(Vec::new());
    }
    let parameters = RawPathParams::from_request_parts(parts, &()).await.map_err(|_| Problem::not_found())?;
    Ok(parameters.iter().map(|(_, value)| value.to_owned()).collect())
}

async fn read_body(
    operation: &Operation,
    headers: &HeaderMap,
    body: &mut Body,
    sets: &[(&str, &str)],
) -> Result<Value, Problem> {
    let Some(declared) = &operation.body else { return Ok(Value::Null) };
    let typed = headers.contains_key(header::CONTENT_TYPE);
    if typed || !declared.optional {
        body::is_json(headers)?;
    }
    let bytes = body::read(body, headers).await?;
    // Many clients name a type on every POST, whether or not they have anything to say.
    if bytes.is_empty() && declared.optional {
        return Ok(Value::Object(Map::new()));
    }
    body::is_json(headers)?;
    let mut value = strict::parse(&bytes)?;
    // One bad item of a batch harms no other, so a batch looks at each.
    if operation.rate != RateClass::Batch {
        strict::plain(&value)?;
    }
    if let Value::Object(fields) = &mut value {
        for (name, set) in sets {
            if fields.get(*name).is_some_and(|given| given != set) {
                return Err(Problem::field(format!("/{name}"), format!("must be `{set}` under this path, or absent")));
            }
            fields.insert((*name).to_owned(), Value::from(*set));
        }
    }
    Ok(value)
}

/// JSON, written at once: `to_string` goes through the formatter, which takes several times as long.
fn written(body: &Value) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_else(|_| body.to_string().into_bytes())
}

fn respond(operation: &Operation, answer: Answer) -> Response<Body> {
    let mut response = Response::new(answer.stream.unwrap_or_else(|| Body::from(written(&answer.body))));
    let status = answer.status.unwrap_or(operation.status);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(operation.media.first().unwrap_or(&"application/json")));
    for (name, value) in answer.headers {
        headers.insert(name, value);
    }
    if operation.method == Method::GET {
        headers.insert(header::VARY, HeaderValue::from_static("Authorization, X-API-Key"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn operations_have_names_of_their_own_and_scopes_that_fit() {
        let mut seen = HashSet::new();
        for operation in OPERATIONS.iter() {
            assert!(seen.insert(operation.name), "{operation:?}: the name is taken");
            assert!(seen.insert(&*format!("{} {}", operation.method, operation.path).leak()), "{operation:?}");
            assert!(!operation.summary.is_empty(), "{operation:?} says nothing");
            let parameters = usize::from(operation.has_id()) + usize::from(operation.has_name());
            assert_eq!(operation.path.matches('{').count(), parameters, "{operation:?}");
            let verb = operation.scope.name.split(':').nth(1);
            let reads = operation.method == Method::GET || operation.kind == crate::operation::Kind::Query;
            assert_eq!(verb == Some("read"), reads, "{operation:?} needs {}", operation.scope.name);
        }
    }
}
