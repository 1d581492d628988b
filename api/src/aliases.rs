//! Paths under which the roadmaps name what has another canonical path. They are rewritten before routing, so that
//! limits, idempotency and telemetry see one operation.

use axum::http::{Method, Uri};

use crate::resource::BASE;

/// Another path of an operation.
#[derive(Debug, PartialEq, Eq)]
pub struct Alias {
    /// Of the operation.
    pub method: Method,
    /// As callers may write it, below the base.
    pub path: &'static str,
    /// The canonical path.
    pub to: &'static str,
    /// Fields of the body that the path stands for.
    pub sets: &'static [(&'static str, &'static str)],
}

/// Every alias of the house.
pub const ALIASES: &[Alias] = &[
    Alias { method: Method::GET, path: "/security/audit-logs", to: "/audit-logs", sets: &[] },
    Alias { method: Method::GET, path: "/gdpr/audit-log", to: "/audit-logs", sets: &[] },
    Alias { method: Method::POST, path: "/gdpr/data-deletion", to: "/privacy/requests", sets: &[("kind", "erasure")] },
];

/// The canonical URI of a request, and the alias that it came by; `None` where it is canonical already.
pub fn rewrite(method: &Method, uri: &Uri) -> Option<(Uri, &'static Alias)> {
    let below = uri.path().strip_prefix(BASE)?;
    // A GET's path takes HEAD too; what is left keeps its method and is told what the path takes.
    let alias = ALIASES.iter().find(|alias| alias.path == below && takes(&alias.method, method));
    let alias = alias.or_else(|| ALIASES.iter().find(|alias| alias.path == below))?;
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    Some((format!("{BASE}{}{query}", alias.to).parse().ok()?, alias))
}

fn takes(declared: &Method, method: &Method) -> bool {
    declared == method || (declared == Method::GET && method == Method::HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_becomes_its_canonical_path_with_its_parameters() {
        let rewritten = |method, uri: &'static str| {
            rewrite(&method, &Uri::from_static(uri)).map(|(uri, alias)| (uri.to_string(), alias.sets.len()))
        };
        let trail = Some(("/api/v1/audit-logs?limit=1".to_owned(), 0));
        assert_eq!(rewritten(Method::GET, "/api/v1/gdpr/audit-log?limit=1"), trail);
        assert_eq!(
            rewritten(Method::POST, "/api/v1/gdpr/data-deletion"),
            Some(("/api/v1/privacy/requests".to_owned(), 1))
        );
        assert_eq!(rewritten(Method::GET, "/api/v1/audit-logs"), None);
        assert_eq!(rewritten(Method::GET, "/gdpr/audit-log"), None);
    }

    #[test]
    fn every_alias_leads_to_an_operation() {
        for alias in ALIASES {
            let found = crate::router::OPERATIONS.iter().any(|op| op.method == alias.method && op.path == alias.to);
            assert!(found, "{} leads nowhere", alias.path);
        }
    }
}
