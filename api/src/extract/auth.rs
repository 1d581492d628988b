//! Who asks: an API key, looked up by its id and compared in constant time. The tenant comes from the key alone.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use chrono::{DateTime, Utc};
use commands::api_key::ParsedApiKey;
use domain::names::{PERSONAL_READ, Scope};
use domain::{AnyId, ApiKeyId, TenantId};
use eventstore::{ApiKeyRecord, EventStore};
use moka::sync::Cache;
use uuid::Uuid;

use crate::problem::{Problem, codes};

/// How long a key is remembered, and so how long a revoked one may still work.
const REMEMBERED_FOR: Duration = Duration::from_secs(5);
/// How many keys are remembered.
const REMEMBERED: u64 = 10_000;

/// Whoever asks, and what it may do.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Whose data it may reach.
    pub tenant: TenantId,
    /// Who it is, as events name it.
    pub actor: AnyId,
    /// Whether the tenant was made for tests, and so has a clock of its own.
    pub for_tests: bool,
    key: Arc<ApiKeyRecord>,
}

impl Principal {
    /// Whether it may do that.
    pub fn may(&self, scope: Scope) -> bool {
        self.key.scopes.iter().any(|name| name == scope.name)
    }

    /// Whether it sees personal data in the clear.
    pub fn sees_personal(&self) -> bool {
        self.may(PERSONAL_READ)
    }

    /// When its key stops working.
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.key.expires_at
    }

    /// Refuses unless it may do that.
    pub fn needs(&self, scope: Scope) -> Result<(), Problem> {
        self.needs_one(&[scope])
    }

    /// Refuses unless it may do one of these.
    pub fn needs_one(&self, scopes: &[Scope]) -> Result<(), Problem> {
        if scopes.iter().any(|scope| self.may(*scope)) {
            return Ok(());
        }
        let names: Vec<&str> = scopes.iter().map(|scope| scope.name).collect();
        let detail = format!("The key lacks the scope `{}`. Use a key that has it.", names.join("` or `"));
        Err(Problem::new(codes::FORBIDDEN, detail).with("scope", names.join(" ")))
    }
}

/// The keys that were asked for lately.
#[derive(Clone)]
pub struct ApiKeys {
    store: EventStore,
    /// By the incarnation of the log that they were read in: a restored log may not have them.
    known: Cache<(i64, Uuid), Option<Known>>,
}

/// A key, and whether its tenant was made for tests, which never changes.
type Known = (Arc<ApiKeyRecord>, bool);

impl ApiKeys {
    /// Over the log's database.
    pub fn new(store: EventStore) -> Self {
        Self { store, known: Cache::builder().max_capacity(REMEMBERED).time_to_live(REMEMBERED_FOR).build() }
    }

    /// The principal behind a request.
    pub async fn authenticate(&self, headers: &HeaderMap, now: DateTime<Utc>) -> Result<Principal, Problem> {
        let text = credential(headers)?;
        let invalid = || challenge(Problem::of(codes::INVALID_API_KEY));
        let parsed = ParsedApiKey::parse(text).map_err(|_| invalid())?;
        let place = (self.store.tail().incarnation(), parsed.id);
        let record = match self.known.get(&place) {
            Some(record) => record,
            None => {
                let record = match self.store.api_key(parsed.id).await? {
                    Some(record) => {
                        let for_tests = self.store.tenant_clock(record.tenant).await?.is_some();
                        Some((Arc::new(record), for_tests))
                    }
                    None => None,
                };
                self.known.insert(place, record.clone());
                record
            }
        };
        let good = |(record, _): &Known| parsed.matches(&record.hash) && !record.revoked;
        let (record, for_tests) = record.filter(good).ok_or_else(invalid)?;
        if record.expires_at.is_some_and(|at| at <= now) {
            return Err(challenge(Problem::of(codes::API_KEY_EXPIRED)));
        }
        let (tenant, actor) = (TenantId::from(record.tenant), ApiKeyId::from(parsed.id).into());
        Ok(Principal { tenant, actor, for_tests, key: record })
    }

    /// Refuses a principal whose key was withdrawn, whatever is remembered of it.
    pub async fn confirm(&self, principal: &Principal) -> Result<(), Problem> {
        let record = self.store.api_key(principal.actor.uuid()).await?;
        if record.is_some_and(|record| !record.revoked) {
            return Ok(());
        }
        Err(challenge(Problem::of(codes::INVALID_API_KEY)))
    }
}

/// The key that a request names, in whichever header. One that names two might be read as either by what stands before us.
fn credential(headers: &HeaderMap) -> Result<&str, Problem> {
    fn text(value: &HeaderValue) -> Option<&str> {
        value.to_str().ok()
    }
    fn bearer(value: &HeaderValue) -> Option<&str> {
        let (scheme, key) = text(value)?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key)
    }
    let bearers = headers.get_all(header::AUTHORIZATION).iter().map(bearer);
    let mut keys = bearers.chain(headers.get_all("x-api-key").iter().map(text)).map(|key| key.map(str::trim));
    let Some(Some(key)) = keys.next() else { return Err(challenge(Problem::of(codes::UNAUTHENTICATED))) };
    if keys.any(|other| other != Some(key)) {
        let detail = "The request names more than one credential. Send one API key, once.";
        return Err(challenge(Problem::new(codes::UNAUTHENTICATED, detail)));
    }
    Ok(key)
}

fn challenge(problem: Problem) -> Problem {
    problem.header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"annals\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of a request with these headers, or the code of the problem.
    fn key_of(given: &[(&'static str, &'static str)]) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, value.parse().unwrap());
        }
        credential(&headers).map(str::to_owned).map_err(|problem| problem.code().code)
    }

    #[test]
    fn a_key_comes_in_either_header() {
        assert_eq!(key_of(&[("authorization", "Bearer k")]), Ok("k".into()));
        assert_eq!(key_of(&[("authorization", "bearer k")]), Ok("k".into()));
        assert_eq!(key_of(&[("x-api-key", "k")]), Ok("k".into()));
        assert_eq!(key_of(&[("authorization", "Basic k")]), Err("unauthenticated"));
        assert_eq!(key_of(&[("authorization", "k")]), Err("unauthenticated"));
        assert_eq!(key_of(&[]), Err("unauthenticated"));
    }

    #[test]
    fn whoever_names_two_keys_is_nobody() {
        assert_eq!(key_of(&[("authorization", "Bearer k"), ("x-api-key", "k")]), Ok("k".into()));
        assert_eq!(key_of(&[("authorization", "Bearer k"), ("authorization", "Bearer k")]), Ok("k".into()));
        for two in [
            [("authorization", "Bearer k"), ("authorization", "Bearer l")],
            [("authorization", "Bearer k"), ("authorization", "Basic k")],
            [("authorization", "Basic k"), ("x-api-key", "k")],
            [("authorization", "Bearer k"), ("x-api-key", "l")],
            [("x-api-key", "k"), ("x-api-key", "l")],
        ] {
            assert_eq!(key_of(&two), Err("unauthenticated"), "{two:?}");
        }
    }
}
