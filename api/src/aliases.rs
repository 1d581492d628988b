//! Paths under which the roadmaps name what has another canonical path. They are rewritten before routing, so that
//! limits, idempotency and telemetry see one operation.

use axum::http::{Method, Uri};

use crate::resource::BASE;

/// Another way to an operation.
#[derive(Debug, PartialEq, Eq)]
pub struct Alias {
    /// As callers may write it.
    pub method: Method,
    /// As callers may write it, below the base; `{id}` is any one segment.
    pub path: &'static str,
    /// Of the operation.
    pub to_method: Method,
    /// The canonical path; its `{id}` is the alias's.
    pub to: &'static str,
    /// Fields of the body that the path stands for.
    pub sets: &'static [(&'static str, &'static str)],
}

/// Every alias of the house.
pub const ALIASES: &[Alias] = &[
    alias(Method::GET, "/security/audit-logs", "/audit-logs"),
    alias(Method::GET, "/gdpr/audit-log", "/audit-logs"),
    Alias {
        method: Method::POST,
        path: "/gdpr/data-deletion",
        to_method: Method::POST,
        to: "/privacy/requests",
        sets: &[("kind", "erasure")],
    },
    alias(Method::GET, "/payments/subscriptions", "/subscriptions"),
    alias(Method::POST, "/payments/subscriptions", "/subscriptions"),
    alias(Method::POST, "/payments/subscriptions/batch", "/subscriptions/batch"),
    alias(Method::GET, "/payments/subscriptions/{id}", "/subscriptions/{id}"),
    alias(Method::PATCH, "/payments/subscriptions/{id}", "/subscriptions/{id}"),
    put("/payments/subscriptions/{id}", "/subscriptions/{id}"),
    put("/subscriptions/{id}", "/subscriptions/{id}"),
    alias(Method::GET, "/payments/subscriptions/{id}/history", "/subscriptions/{id}/history"),
    alias(Method::POST, "/payments/subscriptions/{id}/cancel", "/subscriptions/{id}/cancel"),
    alias(Method::POST, "/payments/subscriptions/{id}/reactivate", "/subscriptions/{id}/reactivate"),
    alias(Method::GET, "/agents/execution-history", "/runs"),
];

/// What a roadmap calls PUT, and is PATCH here: both change what they name.
const fn put(path: &'static str, to: &'static str) -> Alias {
    Alias { method: Method::PUT, path, to_method: Method::PATCH, to, sets: &[] }
}

/// The same method by another path.
const fn alias(method: Method, path: &'static str, to: &'static str) -> Alias {
    let to_method = match method {
        Method::GET => Method::GET,
        Method::PATCH => Method::PATCH,
        _ => Method::POST,
    };
    Alias { method, path, to_method, to, sets: &[] }
}

/// The canonical URI of a request, and the alias that it came by; `None` where it is canonical already. The error names
/// the methods that an alias takes.
pub fn rewrite(method: &Method, uri: &Uri) -> Result<Option<(Uri, &'static Alias)>, String> {
    let Some(below) = uri.path().strip_prefix(BASE) else { return Ok(None) };
    let named: Vec<(&Alias, Option<&str>)> =
        ALIASES.iter().filter_map(|alias| Some((alias, matched(alias.path, below)?))).collect();
    let Some((alias, id)) = named.iter().find(|(alias, _)| takes(&alias.method, method)) else {
        // A path that is canonical too takes more methods than its alias.
        let canonical = named.iter().any(|(alias, _)| alias.path == alias.to);
        let methods: Vec<&str> = named.iter().map(|(alias, _)| alias.method.as_str()).collect();
        return if methods.is_empty() || canonical { Ok(None) } else { Err(methods.join(",")) };
    };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let to = alias.to.replace(ID, id.unwrap_or_default());
    Ok(format!("{BASE}{to}{query}").parse().ok().map(|uri| (uri, *alias)))
}

const ID: &str = "{id}";

/// Whether a path has the form of an alias's, and what stands in the place of its `{id}`.
fn matched<'a>(form: &str, path: &'a str) -> Option<Option<&'a str>> {
    match form.split_once(ID) {
        None => (form == path).then_some(None),
        Some((before, after)) => {
            let id = path.strip_prefix(before)?.strip_suffix(after)?;
            (!id.is_empty() && !id.contains('/')).then_some(Some(id))
        }
    }
}

/// A GET's path takes HEAD too.
fn takes(declared: &Method, method: &Method) -> bool {
    declared == method || (declared == Method::GET && method == Method::HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_becomes_its_canonical_path_with_its_parameters() {
        let rewritten = |method, uri: &'static str| {
            let rewritten = rewrite(&method, &Uri::from_static(uri))?;
            Ok::<_, String>(rewritten.map(|(uri, alias)| (uri.to_string(), alias.sets.len())))
        };
        let trail = Ok(Some(("/api/v1/audit-logs?limit=1".to_owned(), 0)));
        assert_eq!(rewritten(Method::GET, "/api/v1/gdpr/audit-log?limit=1"), trail);
        assert_eq!(
            rewritten(Method::POST, "/api/v1/gdpr/data-deletion"),
            Ok(Some(("/api/v1/privacy/requests".to_owned(), 1)))
        );
        assert_eq!(rewritten(Method::GET, "/api/v1/gdpr/data-deletion"), Err("POST".to_owned()));
        assert_eq!(rewritten(Method::GET, "/api/v1/audit-logs"), Ok(None));
        assert_eq!(rewritten(Method::GET, "/gdpr/audit-log"), Ok(None));
    }

    #[test]
    fn every_alias_leads_to_an_operation() {
        for alias in ALIASES {
            let found = crate::router::OPERATIONS.iter().any(|op| op.method == alias.to_method && op.path == alias.to);
            assert!(found, "{} leads nowhere", alias.path);
        }
    }
}
