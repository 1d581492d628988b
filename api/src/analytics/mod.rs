//! Reports: what the read models say about what spans resources.

mod explain;

use axum::http::Method;
use chrono::{DateTime, Utc};
use domain::names::ANALYTICS_READ;
use domain::{Currency, TypedId};
use projections::agents::runs::AGENTS_RUNS;
use projections::analytics::cohorts::{self, Cohort};
use projections::analytics::kpis::{self, Kpis};
use projections::analytics::mrr::ANALYTICS_MRR;
use projections::analytics::revenue::{self, RevenuePeriod};
use projections::analytics::sales::ANALYTICS_SALES;
use projections::analytics::{Interval, Range};
use projections::{ReadError, ReadPoint};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::extract::ids::Moment;
use crate::operation::{Answer, Operation, RateClass};
use crate::problem::{Code, Problem};
use crate::resource::to_json;
use crate::standpoint::{AsOf, Moments, seen};
use crate::strict;

use explain::{Explain, Place};

const FIGURE_TOO_LARGE: Code = Code::rule(
    "figure-too-large",
    "A figure is too large",
    "The amounts in one currency come to more than 9223372036854775807 minor units. `/analytics/revenue` gives them period \
     by period.",
);

/// The operations of the context.
pub fn operations() -> Vec<Operation> {
    vec![
        Operation::query(Method::GET, "/analytics/revenue", "analytics.revenue.get", ANALYTICS_READ)
            .about(
                "Revenue by period and currency",
                "Refunds count in the period in which they were made. What comes in again and again (MRR) moves by customer: \
                 `mrr` is that at the period's start, plus `new`, `expansion` and `reactivation`, less `contraction` and `churn`. \
                 With `explain`, a page of the events behind the cell of one `period` and `currency` instead.",
            )
            .rate(RateClass::Report)
            .takes::<RevenueQuery>()
            .paged()
            .answers(explain::or_explained::<Revenue>)
            .handled(revenue),
        Operation::query(Method::POST, "/analytics/cohort-analysis", "analytics.cohorts.get", ANALYTICS_READ)
            .about(
                "Cohorts by the period of the first order",
                "An earlier order that comes late moves the customer's whole history to the right row. Changes nothing; \
                 it is a POST for its body's sake. With `explain`, a page of the events behind the cell of one `cohort` \
                 and `offset` instead.",
            )
            .rate(RateClass::Report)
            .body::<CohortQuery>(|| json!({ "metric": "retention", "interval": "month", "time_zone": "UTC" }))
            .body_optional()
            .paged()
            .answers(explain::or_explained::<CohortAnalysis>)
            .handled(cohorts),
        Operation::query(Method::GET, "/analytics/kpis", "analytics.kpis.get", ANALYTICS_READ)
            .about("Key figures, each with the sequence that it stands at", "")
            .rate(RateClass::Report)
            .takes::<KpisQuery>()
            .refuses(&[FIGURE_TOO_LARGE])
            .answers(report::<Kpis>)
            .handled(kpis),
    ]
}

/// Which revenue is asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RevenueQuery {
    /// From this moment on; from the first order if absent.
    from: Option<Moment>,
    /// Before this moment.
    to: Option<Moment>,
    /// How long a period is; a month if absent.
    interval: Option<Interval>,
    /// In which zone days begin: `UTC` if absent, `Europe/Berlin`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z][A-Za-z0-9_+/-]*$"))]
    time_zone: Option<String>,
    /// What was known: a sequence, bare or as `Annals-Read-Sequence` gave it, or a time of RFC 3339, which means the highest
    /// sequence recorded by then; all that is known if absent.
    as_of: Option<AsOf>,
    /// What had happened by this moment, whenever it came to be known; everything if absent.
    effective_at: Option<Moment>,
    /// Show the events behind one cell.
    explain: Option<bool>,
    /// With `explain`: the cell's period, as the report names it.
    period: Option<String>,
    /// With `explain`: the cell's currency.
    currency: Option<Currency>,
}

/// At which moments key figures are asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KpisQuery {
    /// What was known: a sequence, bare or as `Annals-Read-Sequence` gave it, or a time of RFC 3339, which means the highest
    /// sequence recorded by then; all that is known if absent.
    as_of: Option<AsOf>,
    /// What had happened by this moment, whenever it came to be known; everything if absent.
    effective_at: Option<Moment>,
}

/// Revenue by period and currency.
#[derive(Debug, Serialize, JsonSchema)]
struct Revenue {
    /// Oldest first; periods between the first and the last with anything in them are all there.
    data: Vec<RevenuePeriod>,
}

/// Cohorts by the period of the first order.
#[derive(Debug, Serialize, JsonSchema)]
struct CohortAnalysis {
    /// Oldest first; periods in which nobody bought for the first time are left out.
    cohorts: Vec<Cohort>,
}

/// Which cohorts are asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CohortQuery {
    /// What the caller will look at; every cell has all of them.
    #[serde(default)]
    metric: Metric,
    /// How long a period is.
    #[serde(default)]
    interval: CohortInterval,
    /// Orders from this moment on; from the first order if absent.
    from: Option<Moment>,
    /// Orders before this moment.
    to: Option<Moment>,
    /// In which zone days begin: `UTC` if absent, `Europe/Berlin`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z][A-Za-z0-9_+/-]*$"))]
    time_zone: Option<String>,
    /// What was known: a sequence, bare or as `Annals-Read-Sequence` gave it, or a time of RFC 3339, which means the highest
    /// sequence recorded by then; all that is known if absent.
    as_of: Option<AsOf>,
    /// What had happened by this moment, whenever it came to be known; everything if absent.
    effective_at: Option<Moment>,
    /// Show the events behind one cell.
    explain: Option<bool>,
    /// With `explain`: the cell's cohort, as the analysis names it.
    cohort: Option<String>,
    /// With `explain`: how many periods after the cohort's own the cell's is.
    offset: Option<u16>,
}

/// What is counted in a cell.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Metric {
    /// Which fraction of the cohort ordered.
    #[default]
    Retention,
    /// How many orders there were.
    Orders,
    /// What they cost.
    Revenue,
}

/// How long the periods of cohorts are.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum CohortInterval {
    /// ISO 8601: Monday to Sunday.
    Week,
    /// A month of the calendar.
    #[default]
    Month,
}

fn range(
    at: &str,
    from: Option<Moment>,
    to: Option<Moment>,
    interval: Interval,
    time_zone: Option<String>,
) -> Result<Range, Problem> {
    let (from, to) = (from.map(|moment| moment.0), to.map(|moment| moment.0));
    if from.zip(to).is_some_and(|(from, to)| from > to) {
        return Err(Problem::field(format!("{at}to"), "must not be earlier than `from`"));
    }
    Ok(Range { from, to, interval, time_zone: time_zone.unwrap_or_else(|| "UTC".into()) })
}

async fn revenue(call: Call) -> Result<Answer, Problem> {
    let query: RevenueQuery = call.query.clone().typed()?;
    let RevenueQuery { from, to, interval, time_zone, as_of, effective_at, explain, period, currency } = query;
    let range = range("?", from, to, interval.unwrap_or(Interval::Month), time_zone)?;
    let moments = Moments { as_of, effective_at };
    let place =
        Place::of(&call, "?", explain, &[("period", period.is_some()), ("currency", currency.is_some())]).await?;
    let standpoint = moments.standpoint(&call, "?").await?;
    let tenant = call.tenant().uuid();
    if let Some(place) = place {
        let standpoint = place.standpoint(standpoint);
        let cell = explain::revenue_cell(&range, period.as_deref(), currency)?;
        let seen = seen(&call, &standpoint, &[ANALYTICS_SALES, ANALYTICS_MRR]).await?;
        let found = call.state.models.explain_revenue(tenant, &range, &standpoint, cell, place.page(&call)).await;
        let found = found.map_err(|error| call.behind(error).within("?"))?;
        let mut parameters = parameters(&range, &moments);
        parameters.extend([("period".into(), to_json(period)), ("currency".into(), to_json(currency))]);
        let fold = projections::analytics::explain::revenue_fold();
        return Explain { found, now: standpoint.now, parameters, fold }.answer(&call, seen).await;
    }
    let seen = seen(&call, &standpoint, &[ANALYTICS_SALES, ANALYTICS_MRR]).await?;
    let revenue = call.state.models.revenue(tenant, &range, &standpoint).await;
    let revenue = revenue.map_err(|error| call.behind(error).within("?"))?;
    let sequence = revenue.sequence;
    let report = to_json(Revenue { data: revenue.periods });
    Ok(answer("revenue", report, sequence, parameters(&range, &moments), revenue::fold(), seen))
}

async fn cohorts(call: Call) -> Result<Answer, Problem> {
    call.query.clone().typed::<crate::extract::query::Nothing>()?;
    let query: CohortQuery = strict::typed(call.body.clone())?;
    let CohortQuery { metric, interval, from, to, time_zone, as_of, effective_at, explain, cohort, offset } = query;
    let interval = match interval {
        CohortInterval::Week => Interval::Week,
        CohortInterval::Month => Interval::Month,
    };
    let range = range("/", from, to, interval, time_zone)?;
    let moments = Moments { as_of, effective_at };
    let place = Place::of(&call, "/", explain, &[("cohort", cohort.is_some()), ("offset", offset.is_some())]).await?;
    let standpoint = moments.standpoint(&call, "/").await?;
    let tenant = call.tenant().uuid();
    let mut parameters = parameters(&range, &moments);
    if let Some(place) = place {
        let standpoint = place.standpoint(standpoint);
        let cell = explain::cohort_cell(&range, cohort.as_deref(), offset)?;
        let seen = seen(&call, &standpoint, &[ANALYTICS_SALES]).await?;
        let found = call.state.models.explain_cohort(tenant, &range, &standpoint, cell, place.page(&call)).await;
        let found = found.map_err(|error| call.behind(error).within("/"))?;
        parameters.extend([("cohort".into(), to_json(cohort)), ("offset".into(), to_json(offset))]);
        let fold = projections::analytics::explain::cohort_fold();
        return Explain { found, now: standpoint.now, parameters, fold }.answer(&call, seen).await;
    }
    let seen = seen(&call, &standpoint, &[ANALYTICS_SALES]).await?;
    let cohorts = call.state.models.cohorts(tenant, &range, &standpoint).await;
    let cohorts = cohorts.map_err(|error| call.behind(error).within("/"))?;
    let sequence = cohorts.sequence;
    parameters.insert("metric".into(), to_json(metric));
    let report = to_json(CohortAnalysis { cohorts: cohorts.cohorts });
    Ok(answer("cohort_analysis", report, sequence, parameters, cohorts::fold(), seen))
}

async fn kpis(call: Call) -> Result<Answer, Problem> {
    let KpisQuery { as_of, effective_at } = call.query.clone().typed()?;
    let moments = Moments { as_of, effective_at };
    let standpoint = moments.standpoint(&call, "?").await?;
    let seen = seen(&call, &standpoint, &[ANALYTICS_SALES, ANALYTICS_MRR, AGENTS_RUNS]).await?;
    let kpis = call.state.models.kpis(call.tenant().uuid(), &standpoint).await.map_err(|error| match error {
        // There is no range that could be narrowed.
        ReadError::SumTooLarge => Problem::of(FIGURE_TOO_LARGE),
        error => call.behind(error),
    })?;
    let sequence = kpis.orders.sequence.min(kpis.mrr.sequence).min(kpis.runs.sequence);
    Ok(answer("kpis", to_json(kpis), sequence, Map::from_iter(moments.parameters()), kpis::fold(), seen))
}

fn parameters(range: &Range, moments: &Moments) -> Map<String, Value> {
    let moment = |time: Option<DateTime<Utc>>| time.map_or(Value::Null, |time| crate::resource::time(time).into());
    let mut parameters = Map::from_iter(moments.parameters());
    parameters.insert("from".into(), moment(range.from));
    parameters.insert("to".into(), moment(range.to));
    parameters.insert("interval".into(), to_json(range.interval));
    parameters.insert("time_zone".into(), range.time_zone.clone().into());
    parameters
}

/// A report with its manifest: what it was made of, and by what.
pub(crate) fn answer(
    object: &str,
    report: Value,
    sequence: i64,
    parameters: Map<String, Value>,
    fold: String,
    (mut point, age): (ReadPoint, f64),
) -> Answer {
    point.sequence = point.sequence.max(sequence);
    let mut body = Map::new();
    body.insert("object".into(), object.into());
    if let Value::Object(report) = report {
        body.extend(report);
    }
    body.insert("manifest".into(), manifest(sequence, parameters, fold));
    Answer::new(Value::Object(body)).has_read(point, age)
}

/// What something was made of, and by what.
fn manifest(sequence: i64, parameters: Map<String, Value>, fold: String) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    json!({ "sequence": sequence, "parameters": parameters, "fold": fold, "version": version })
}

fn manifest_schema() -> Value {
    json!({
        "type": "object",
        "description": "What the report was made of, and by what.",
        "properties": {
            "sequence": { "type": "integer", "description": "The tenant's sequence that the figures stand at." },
            "parameters": { "type": "object", "description": "What was asked for, defaults filled in." },
            "fold": {
                "type": "string",
                "pattern": "^[0-9a-f]{32}$",
                "description": "A hash of how the figures are made of events. Where it differs, so may the figures, of \
                                the same events.",
            },
            "version": { "type": "string", "description": "The version of the program." },
        },
        "required": ["sequence", "parameters", "fold", "version"],
    })
}

/// A report's own schema, with `object` and `manifest`.
pub(crate) fn report<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator);
    if let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        fields.insert("object".into(), json!({ "type": "string" }));
        fields.insert("manifest".into(), manifest_schema());
    }
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.extend(["object".into(), "manifest".into()]);
    }
    let name = T::schema_name().into_owned();
    generator.definitions_mut().insert(name.clone(), schema.to_value());
    schemars::json_schema!({ "$ref": format!("#/components/schemas/{name}") })
}
