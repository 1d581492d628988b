//! Ids as callers write them, in paths and bodies: ours (`cus_…`), or `ext:` and what the caller named it at creation.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::str::FromStr;

use chrono::{DateTime, Datelike, Utc};
use commands::Executor;
use domain::text::ExternalId;
use domain::{Aggregate, StreamType, TenantId, TypedId};
use futures::future::BoxFuture;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use crate::problem::Problem;

/// What an id in the caller's own words begins with.
pub const EXTERNAL: &str = "ext:";

/// Another resource that a body names.
#[derive(Clone, Debug)]
pub struct Ref<A> {
    target: Target,
    aggregate: PhantomData<fn() -> A>,
}

/// An id as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Ours.
    Ours(Uuid),
    /// The caller's.
    External(ExternalId),
}

impl Target {
    /// Reads an id of a resource of that kind; the error says what it must be.
    pub fn parse<A: Aggregate>(text: &str) -> Result<Self, String> {
        let read = match text.strip_prefix(EXTERNAL) {
            Some(external) => ExternalId::from_str(external).ok().map(Self::External),
            None => text.parse::<A::Id>().ok().map(|id| Self::Ours(id.uuid())),
        };
        read.ok_or_else(|| format!("must be an id that begins with `{}_`, or `ext:` and your own id", A::Id::PREFIX))
    }
}

impl<A: Aggregate> Ref<A> {
    /// The id, once [`crate::intent::resolve`] has looked it up.
    pub fn id(&self) -> Result<A::Id, Problem> {
        match &self.target {
            Target::Ours(id) => Ok(A::Id::from(*id)),
            Target::External(_) => Err(Problem::not_found()),
        }
    }
}

/// A reference of any kind, to be looked up before a command is made of the body that has it.
pub trait Referent: Send + Sync {
    /// What it refers to.
    fn stream(&self) -> StreamType;
    /// The caller's own id, where it was written so.
    fn external(&self) -> Option<&ExternalId>;
    /// Takes the id that the caller's own id led to.
    fn found(&mut self, id: Uuid);
    /// Whether there is such a resource.
    fn exists(&self, executor: Executor, tenant: TenantId) -> BoxFuture<'static, Result<bool, Problem>>;
}

impl<A: Aggregate> Referent for Ref<A> {
    fn stream(&self) -> StreamType {
        A::STREAM
    }

    fn external(&self) -> Option<&ExternalId> {
        match &self.target {
            Target::Ours(_) => None,
            Target::External(external) => Some(external),
        }
    }

    fn found(&mut self, id: Uuid) {
        self.target = Target::Ours(id);
    }

    fn exists(&self, executor: Executor, tenant: TenantId) -> BoxFuture<'static, Result<bool, Problem>> {
        let id = self.id();
        Box::pin(async move { Ok(executor.load_known::<A>(tenant, id?).await?.exists()) })
    }
}

impl<'de, A: Aggregate> Deserialize<'de> for Ref<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        let target = Target::parse::<A>(&text).map_err(serde::de::Error::custom)?;
        Ok(Self { target, aggregate: PhantomData })
    }
}

impl<A: Aggregate> JsonSchema for Ref<A> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Ref_{}", A::Id::PREFIX).into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        id_schema(A::Id::PREFIX)
    }
}

/// An id of that kind, as paths and bodies take it.
pub fn id_schema(prefix: &str) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": format!("^({prefix}_[0-7][0-9a-hjkmnp-tv-z]{{25}}|ext:.+)$"),
        "minLength": 5,
        "maxLength": 259,
        "description": format!("Ours (`{prefix}_…`), or `ext:` and the `external_id` that it was created with."),
    })
}

/// An id of any kind, ours.
pub fn any_id_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^[a-z]{3}_[0-7][0-9a-hjkmnp-tv-z]{25}$" })
}

/// A moment of RFC 3339, as bodies and parameters bring it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub DateTime<Utc>);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = DateTime::parse_from_rfc3339(text).ok();
        let parsed = parsed.map(|time| domain::context::micros(time.with_timezone(&Utc)));
        // Years that RFC 3339 can write, and reports can span.
        let sane = parsed.filter(|time| (1900..=9999).contains(&time.year()));
        sane.map(Self).ok_or_else(|| "must be a time of RFC 3339 from 1900 on, such as 2026-11-20T10:00:00Z".to_owned())
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Moment {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Moment".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use domain::commerce::Customer;

    use super::*;

    #[test]
    fn an_id_is_ours_or_the_callers() {
        let uuid: Uuid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(Target::parse::<Customer>("cus_01h455vb4pex5vsknk084sn02q"), Ok(Target::Ours(uuid)));
        assert_eq!(Target::parse::<Customer>("ext:a/b"), Ok(Target::External("a/b".parse().unwrap())));
        for bad in ["ord_01h455vb4pex5vsknk084sn02q", "ext:", "", "01890a5d-ac96-774b-bcce-b302099a8057"] {
            assert!(Target::parse::<Customer>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_moment_is_rfc_3339_and_becomes_utc() {
        let moment: Moment = "1997-01-01T02:00:00.1234567+02:00".parse().unwrap();
        assert_eq!(moment.0.to_rfc3339(), "1997-01-01T00:00:00.123456+00:00");
        for bad in ["1997-01-01", "1997-01-01T00:00:00", "tomorrow", ""] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
    }
}
