//! Query strings, as strict as bodies: unknown and repeated parameters are refused.

use std::collections::HashSet;

use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::problem::{Problem, codes};
use crate::strict;

/// How many entries a page has unless the caller says otherwise.
const DEFAULT_LIMIT: usize = 20;
/// The most entries that a page may have.
pub const MAX_LIMIT: usize = 100;
/// The letters that every API key of ours begins with.
const KEY_PREFIX: &str = "ann_live_";
/// Parameters that credentials are often sent in.
const CREDENTIALS: &[&str] = &["access_token", "api_key", "apikey", "authorization", "token", "x-api-key"];

/// The parameters of a request, in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

/// No parameters but those of a page; an empty body.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Which part of a list is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// How many entries, 1 to 100.
    pub limit: usize,
    /// Where the part before ended.
    pub cursor: Option<String>,
}

impl Query {
    /// Takes a query string apart.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut seen = HashSet::new();
        let mut parameters = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if value.contains('\0') || name.contains('\0') {
                return Err(Problem::field(format!("?{}", name.replace('\0', "")), "must not contain NUL characters"));
            }
            if !seen.insert(name.clone()) {
                return Err(Problem::field(format!("?{name}"), "stands twice; name it once"));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// Takes `limit` and `cursor` out.
    pub fn page(&mut self) -> Result<Page, Problem> {
        let mut take = |name: &str| {
            let index = self.0.iter().position(|(known, _)| known == name)?;
            Some(self.0.remove(index).1)
        };
        let limit = match take("limit") {
            None => DEFAULT_LIMIT,
            Some(text) => {
                let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                limit.ok_or_else(|| Problem::field("?limit", format!("must be an integer from 1 to {MAX_LIMIT}")))?
            }
        };
        Ok(Page { limit, cursor: take("cursor") })
    }

    /// What is left, by name.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What one of them says.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// What is left, as an operation takes it.
    pub fn typed<T: DeserializeOwned>(self) -> Result<T, Problem> {
        strict::typed_query(self.0)
    }

    /// The parameters in one canonical text: what a cursor is bound to.
    pub fn canonical(&self) -> String {
        let mut sorted = self.0.clone();
        sorted.sort();
        form_urlencoded::Serializer::new(String::new()).extend_pairs(sorted).finish()
    }
}

/// Refuses URLs that carry a credential.
pub fn no_credential(path: &str, query: Option<&str>) -> Result<(), Problem> {
    let named = |pair: &str| {
        let name = pair.split('=').next().unwrap_or(pair);
        CREDENTIALS.iter().any(|credential| name.eq_ignore_ascii_case(credential))
    };
    let query = query.unwrap_or_default();
    if path.contains(KEY_PREFIX) || query.contains(KEY_PREFIX) || query.split('&').any(named) {
        return Err(Problem::of(codes::CREDENTIAL_IN_URL));
    }
    Ok(())
}

fn decode(text: &str) -> Result<String, Problem> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(Into::into).map_err(|_| Problem::field("?", "must be UTF-8, percent-encoded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_bounded_and_parameters_named_once() {
        let page = |text: &str| Query::parse(text).and_then(|mut query| query.page());
        assert_eq!(page("").unwrap(), Page { limit: 20, cursor: None });
        assert_eq!(page("limit=100&cursor=a%2Bb").unwrap(), Page { limit: 100, cursor: Some("a+b".into()) });
        for bad in ["limit=0", "limit=101", "limit=x", "limit=-1", "limit=", "limit=1&limit=1", "a=%ff", "a=%00"] {
            assert!(page(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn credentials_in_urls_are_found() {
        for (path, query) in [("/a", "api_key=x"), ("/a", "x=ann_live_1"), ("/ann_live_1", ""), ("/a", "Token=1")] {
            assert!(no_credential(path, Some(query)).is_err(), "{path} {query}");
        }
        assert!(no_credential("/customers/ext:token", Some("limit=1&cursor=apikey")).is_ok());
    }
}
