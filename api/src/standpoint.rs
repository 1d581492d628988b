//! From where a report looks, as callers write it: `as_of` says what was known, `effective_at` what had happened.

use std::fmt;

use projections::{ReadPoint, Standpoint};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::as_of;
use crate::call::Call;
use crate::extract::ids::Moment;
use crate::problem::Problem;
use crate::resource::to_json;

/// A moment of the tenant's log: a sequence, bare or as `Annals-Read-Sequence` gave it, or a time of RFC 3339, which means
/// the highest sequence recorded by then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct AsOf(String);

impl<'de> Deserialize<'de> for AsOf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = AsOf;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence or a time of RFC 3339")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<AsOf, E> {
                Ok(AsOf(number.to_string()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<AsOf, E> {
                Ok(AsOf(number.to_string()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<AsOf, E> {
                Ok(AsOf(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl JsonSchema for AsOf {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AsOf".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        as_of::moment_schema(generator)
    }
}

/// The two moments that a report may be asked for at.
#[derive(Clone, Debug, Default)]
pub struct Moments {
    /// What was known.
    pub as_of: Option<AsOf>,
    /// What had happened.
    pub effective_at: Option<Moment>,
}

impl Moments {
    /// Where the report looks from. `at` is where its fields stand: `?` or `/`.
    pub async fn standpoint(&self, call: &Call, at: &str) -> Result<Standpoint, Problem> {
        if let Some(Moment(effective)) = self.effective_at {
            call.not_in_the_future(&format!("{at}effective_at"), effective)?;
        }
        let effective_at = self.effective_at.map(|moment| moment.0);
        let Some(AsOf(text)) = &self.as_of else {
            return Ok(Standpoint { effective_at, ..Standpoint::now(call.now) });
        };
        let sequence = call.sequence_of(&format!("{at}as_of"), text).await?;
        let time = text.parse::<Moment>().ok().map(|moment| moment.0);
        let now = as_of::time_of(call.state.executor.store(), call.tenant(), sequence, time).await?;
        Ok(Standpoint { as_of: Some(sequence), effective_at, now })
    }

    /// What was asked for, for the report's manifest.
    pub fn parameters(&self) -> [(String, Value); 2] {
        let effective = self.effective_at.map(|moment| crate::resource::time(moment.0));
        [("as_of".into(), to_json(&self.as_of)), ("effective_at".into(), to_json(effective))]
    }
}

/// Waits until these read models have seen what the caller wants seen, and what the report shall be made of; gives what the
/// answer has seen.
pub async fn seen(call: &Call, standpoint: &Standpoint, projectors: &[&str]) -> Result<(ReadPoint, f64), Problem> {
    let (mut point, age) = call.await_models(projectors, standpoint.as_of.unwrap_or_default()).await?;
    match standpoint.as_of {
        // What was known then never grows old.
        Some(sequence) => {
            point.sequence = sequence;
            Ok((point, 0.0))
        }
        None => Ok((point, age)),
    }
}
