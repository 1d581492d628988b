//! The events behind a cell of a report: what the read models know of each, and what the log says of it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::{AnyId, Currency, CustomerId, TypedId, names};
use eventstore::{RecordedEvent, Token};
use projections::analytics::explain::{CohortCell, Explanation, Figure, Page, Part, RevenueCell};
use projections::analytics::{Amount, Range};
use projections::{ReadPoint, Standpoint};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{manifest, manifest_schema, report};
use crate::call::{Call, page_of};
use crate::operation::Answer;
use crate::problem::{Problem, codes};
use crate::resource::to_json;
use crate::schema;

/// An event behind a cell.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ExplainedEvent")]
struct Shown<'a> {
    /// The tenant's sequence of it.
    sequence: i64,
    /// Its id.
    event_id: Uuid,
    /// What happened: `order.placed`.
    #[serde(rename = "type")]
    event_type: &'a str,
    /// What it happened to.
    resource: String,
    /// Whose figure it moves.
    customer: CustomerId,
    /// When it counts: when it happened in the business.
    occurred_at: DateTime<Utc>,
    /// The figure of the cell that it adds to; null where it moves no money. `contraction` and `churn` are taken off.
    figure: Option<Figure>,
    /// How much it adds.
    amount: Amount,
    /// How many more subscriptions run after it.
    active_subscriptions: i64,
}

/// Where in an explanation a page begins, and from where all its pages look: at which sequence, and at what time.
pub(super) struct Place {
    at: Option<(Token, DateTime<Utc>)>,
    after: i64,
}

impl Place {
    /// The place where an explanation is asked for. What belongs to one is refused without it, and required with it.
    pub(super) async fn of(
        call: &Call,
        at: &str,
        explain: Option<bool>,
        fields: &[(&str, bool)],
    ) -> Result<Option<Self>, Problem> {
        let explain = explain.unwrap_or_default();
        if let Some((name, _)) = fields.iter().find(|(_, given)| *given != explain) {
            let detail = if explain { "is required with `explain`" } else { "comes with `explain`" };
            return Err(Problem::field(format!("{at}{name}"), detail));
        }
        let cursor = call.cursor().await?;
        if !explain {
            return if cursor.is_some() { Err(Problem::of(codes::INVALID_CURSOR)) } else { Ok(None) };
        }
        let Some(bytes) = cursor else { return Ok(Some(Self { at: None, after: 0 })) };
        let (at, after) = Self::read(&bytes).ok_or_else(|| Problem::of(codes::INVALID_CURSOR))?;
        // In another life of the log these would be other events.
        call.stands(at.0).await?;
        Ok(Some(Self { at: Some(at), after }))
    }

    fn read(bytes: &[u8]) -> Option<((Token, DateTime<Utc>), i64)> {
        let (numbers, []) = bytes.as_chunks::<8>() else { return None };
        let numbers: [_; 4] = numbers.try_into().ok()?;
        let [number, incarnation, now, after] = numbers.map(i64::from_be_bytes);
        Some(((Token { number, incarnation }, DateTime::from_timestamp_micros(now)?), after))
    }

    fn bytes(Token { number, incarnation }: Token, now: DateTime<Utc>, after: i64) -> Vec<u8> {
        [number, incarnation, now.timestamp_micros(), after].map(i64::to_be_bytes).concat()
    }

    /// All pages look from where the first one did.
    pub(super) fn standpoint(&self, standpoint: Standpoint) -> Standpoint {
        match self.at {
            Some((at, now)) => Standpoint { as_of: Some(at.number), now, ..standpoint },
            None => standpoint,
        }
    }

    /// What is read for the page: one more than it shows, which tells whether there is a next one.
    pub(super) fn page(&self, call: &Call) -> Page {
        Page { after: self.after, limit: call.page.limit as i64 + 1 }
    }
}

/// The cell of the revenue report that is named.
pub(super) fn revenue_cell(
    range: &Range,
    period: Option<&str>,
    currency: Option<Currency>,
) -> Result<RevenueCell, Problem> {
    let period = range.interval.begins(period.unwrap_or_default());
    let period = period.ok_or_else(|| Problem::field("?period", "must be a period as the report names it"))?;
    let currency = currency.ok_or_else(|| Problem::field("?currency", "is required with `explain`"))?;
    Ok(RevenueCell { period, currency })
}

/// The cell of the cohort analysis that is named.
pub(super) fn cohort_cell(range: &Range, cohort: Option<&str>, offset: Option<u16>) -> Result<CohortCell, Problem> {
    let cohort = range.interval.begins(cohort.unwrap_or_default());
    let cohort = cohort.ok_or_else(|| Problem::field("/cohort", "must be a cohort as the analysis names it"))?;
    Ok(CohortCell { cohort, offset: offset.unwrap_or_default().into() })
}

/// What was found behind a cell, and how.
pub(super) struct Explain {
    pub(super) found: Explanation,
    pub(super) now: DateTime<Utc>,
    pub(super) parameters: Map<String, Value>,
    pub(super) fold: String,
}

impl Explain {
    /// A page of it.
    pub(super) async fn answer(self, call: &Call, (mut point, age): (ReadPoint, f64)) -> Result<Answer, Problem> {
        let Self { found: Explanation { sequence, parts }, now, parameters, fold } = self;
        let sequences: Vec<i64> = parts.iter().map(|part| part.sequence).collect();
        let events = call.state.executor.store().read_sequences(call.tenant().uuid(), &sequences).await?;
        let events: HashMap<i64, RecordedEvent> = events.into_iter().map(|event| (event.sequence, event)).collect();
        let at = call.state.executor.store().token(call.tenant().uuid(), sequence).await?;
        let place = |part: &Part| Place::bytes(at, now, part.sequence);
        let mut body = page_of(call, parts, place, |part| {
            events.get(&part.sequence).map_or(Value::Null, |event| shown(&part, event))
        })
        .await?;
        body["manifest"] = manifest(sequence, parameters, fold);
        point.sequence = point.sequence.max(sequence);
        Ok(Answer::new(body).has_read(point, age))
    }
}

fn shown(part: &Part, event: &RecordedEvent) -> Value {
    let prefix = names::stream_type(&event.stream_type).map_or("xxx", |kind| kind.prefix);
    to_json(Shown {
        sequence: part.sequence,
        event_id: event.event_id,
        event_type: &event.event_type,
        resource: AnyId::new(prefix, event.stream_id).to_string(),
        customer: part.customer,
        occurred_at: part.occurred_at,
        figure: part.figure,
        amount: part.amount,
        active_subscriptions: part.active_subscriptions,
    })
}

/// A report, or with `explain` a page of the events behind one of its cells.
pub(super) fn or_explained<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let report = report::<T>(generator);
    let mut explained = schema::list(generator.subschema_for::<Shown<'_>>());
    if let Some(fields) = explained.get_mut("properties").and_then(Value::as_object_mut) {
        fields.insert("manifest".into(), manifest_schema());
    }
    json_schema!({ "anyOf": [report, explained] })
}
