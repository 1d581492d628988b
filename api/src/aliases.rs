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

/// The canonical URI of a request, and the alias that it came by; `None` where it is canonical already. The error names
/// the methods that an alias takes.
pub fn rewrite(method: &Method, uri: &Uri) -> Result<Option<(Uri, &'static Alias)>, String> {
    let Some(below) = uri.path().strip_prefix(BASE) else { return Ok(None) };
    let named: Vec<&Alias> = ALIASES.iter().filter(|alias| alias.path == below).collect();
    let Some(alias) = named.iter().find(|alias| takes(&alias.method, method)) else {
        let methods: Vec<&str> = named.iter().map(|alias| alias.method.as_str()).collect();
        return if methods.is_empty() { Ok(None) } else { Err(methods.join(",")) };
    };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    Ok(format!("{BASE}{}{query}", alias.to).parse().ok().map(|uri| (uri, *alias)))
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
            let found = crate::router::OPERATIONS.iter().any(|op| op.method == alias.method && op.path == alias.to);
            assert!(found, "{} leads nowhere", alias.path);
        }
    }
}
