//! `/diff`: what became of the resources of a type between two moments.

use std::collections::BTreeSet;

use axum::http::Method;
use domain::TypedId;
use domain::agents::Agent;
use domain::billing::Subscription;
use domain::commerce::{Customer, Order};
use domain::names::{AGENTS_READ, BILLING_READ, COMMERCE_READ, Scope};
use projections::documents::{Change, of};
use projections::{Document, DocumentType, Documented};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::as_of::{Place, moment_schema};
use crate::call::{Call, page_of};
use crate::operation::{Answer, Operation};
use crate::problem::Problem;
use crate::resource::{Resource, shown_document, to_json};
use crate::schema;
use crate::strict::escape;

/// The operation.
pub(super) fn operation() -> Operation {
    Operation::query(Method::GET, "/diff", "audit.difference.list", COMMERCE_READ)
        .or_scopes(&[BILLING_READ, AGENTS_READ])
        .about(
            "Compare the resources of a type at two moments, newest first",
            "One entry for each that was created or had an event after `from` and up to `to`: where it stood at both, and \
             the fields that differ. Values are those that `as_of` shows you at either moment, so what you may not see, and \
             what was erased, is null on both sides and does not differ. The scope is that which reads the type.",
        )
        .takes::<DiffQuery>()
        .paged()
        .answers(described)
        .handled(list)
}

/// What is compared.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DiffQuery {
    /// The type of the resources.
    #[serde(rename = "type")]
    kind: Kind,
    /// The earlier moment: a sequence, bare or as `Annals-Read-Sequence` gave it, or a time of RFC 3339, which means the
    /// highest sequence recorded by then.
    #[schemars(schema_with = "moment_schema")]
    from: String,
    /// The later moment; now if absent.
    #[serde(default)]
    #[schemars(schema_with = "moment_schema")]
    to: Option<String>,
}

/// A type that has a history.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ComparedType")]
enum Kind {
    Customer,
    Order,
    Subscription,
    Agent,
}

impl Kind {
    fn shape(self) -> Shape {
        match self {
            Self::Customer => shape::<Customer>(),
            Self::Order => shape::<Order>(),
            Self::Subscription => shape::<Subscription>(),
            Self::Agent => shape::<Agent>(),
        }
    }
}

/// What is to be known of a type.
struct Shape {
    object: &'static str,
    scope: Scope,
    document: DocumentType,
    shown: fn(Document) -> Value,
}

fn shape<A: Resource + Documented>() -> Shape {
    Shape { object: A::OBJECT, scope: A::READ, document: of::<A>(), shown: shown_document::<A> }
}

/// What became of one resource.
#[derive(Debug, Serialize, JsonSchema)]
struct Difference {
    /// Always `difference`.
    object: &'static str,
    /// The resource.
    #[schemars(with = "String")]
    id: Value,
    /// Its type.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Whether it was there at the earlier moment.
    change: ChangeKind,
    /// Where it stood at the earlier moment; null where it was created later.
    from: Option<Stand>,
    /// Where it stood at the later moment.
    to: Stand,
    /// What you see differ, by pointer. Empty where only what you may not see differs, or nothing any more.
    fields: Vec<Field>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "DifferenceKind")]
enum ChangeKind {
    /// It was created between the two.
    Created,
    /// It was there at both.
    Changed,
}

/// Where a resource stands.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DifferenceEnd")]
struct Stand {
    /// Its version.
    version: i64,
    /// The tenant's sequence of the event that made it so.
    sequence: i64,
}

/// A field that differs.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DifferingField")]
struct Field {
    /// RFC 6901, into the resource.
    pointer: String,
    /// What it was; null where there was none.
    before: Value,
    /// What it is; null where there is none.
    after: Value,
}

fn described(generator: &mut SchemaGenerator) -> Schema {
    let mut described = schema::list(generator.subschema_for::<Difference>()).to_value();
    for (name, about) in [
        ("from", "The sequence that the earlier moment is."),
        ("to", "The sequence that the later moment is; the same on every page."),
    ] {
        described["properties"][name] = json!({ "type": "integer", "format": "int64", "description": about });
        if let Some(required) = described["required"].as_array_mut() {
            required.push(name.into());
        }
    }
    described.try_into().unwrap_or_default()
}

async fn list(call: Call) -> Result<Answer, Problem> {
    let query: DiffQuery = call.query.clone().typed()?;
    let shape = query.kind.shape();
    call.principal.needs(shape.scope)?;
    let (below, from, to) = match Place::of(&call).await? {
        Some(Place { below, at: [from, to], .. }) => (Some(below), from, Some(to)),
        None => {
            let (from, to) = range(&call, &query).await?;
            (None, from, to)
        }
    };
    let (mut point, age) = call.await_models(&[shape.document.name], to.unwrap_or(from)).await?;
    let age = if to.is_some() { 0.0 } else { age };
    point.sequence = to.unwrap_or(point.sequence);
    let (tenant, range, limit) = (call.tenant().uuid(), (from, point.sequence), call.page.limit as i64 + 1);
    let incarnation = call.state.executor.store().token(tenant, range.1).await?.incarnation;
    let changes = call.state.models.changes(tenant, shape.document, range, below, limit).await;
    let changes = changes.map_err(|error| call.behind(error))?;
    let place = |change: &Change| Place { below: change.after.id, at: range.into(), incarnation }.bytes();
    let stands: Vec<_> =
        changes.iter().map(|change| (change.before.as_ref().map(stand), stand(&change.after))).collect();
    let mut body = page_of(&call, changes, place, |change| sides(&shape, change)).await?;
    // What was sealed anew is not what was changed: values are compared as the caller sees them.
    call.show(&mut body).await?;
    let data = body["data"].as_array_mut().into_iter().flatten();
    for (entry, (from, to)) in data.zip(stands) {
        let (mut before, mut after) = (entry["before"].take(), entry["after"].take());
        let change = if from.is_some() { ChangeKind::Changed } else { ChangeKind::Created };
        let id = same(&mut before, &mut after);
        let mut fields = Vec::new();
        compare(String::new(), &before, &after, &mut fields);
        *entry = to_json(Difference { object: "difference", id, kind: shape.object, change, from, to, fields });
    }
    (body["from"], body["to"]) = (range.0.into(), range.1.into());
    Ok(Answer::new(body).has_read(point, age))
}

/// The sequences that are asked for; without the later one it is what the read model has seen.
async fn range(call: &Call, query: &DiffQuery) -> Result<(i64, Option<i64>), Problem> {
    let from = call.sequence_of("?from", &query.from).await?;
    let Some(to) = &query.to else { return Ok((from, None)) };
    let to = call.sequence_of("?to", to).await?;
    if from > to {
        return Err(Problem::field(
            "?from",
            format!("must not be later than `to`; they are sequences {from} and {to}"),
        ));
    }
    Ok((from, Some(to)))
}

fn stand(document: &Document) -> Stand {
    Stand { version: document.version, sequence: document.sequence }
}

/// Both sides as they are shown; nothing where the resource was not there yet.
fn sides(shape: &Shape, change: Change) -> Value {
    let before = change.before.map_or_else(|| json!({}), shape.shown);
    json!({ "before": before, "after": (shape.shown)(change.after) })
}

/// Takes out what says which resource it is; gives its id.
fn same(before: &mut Value, after: &mut Value) -> Value {
    let mut id = Value::Null;
    for side in [before, after].into_iter().filter_map(Value::as_object_mut) {
        side.remove("object");
        id = side.remove("id").unwrap_or_default();
    }
    id
}

/// Adds what differs: field by field in objects, place by place in arrays. What is null is not there.
fn compare(pointer: String, before: &Value, after: &Value, fields: &mut Vec<Field>) {
    const NOTHING: &Value = &Value::Null;
    match (before, after) {
        _ if before == after => {}
        (Value::Object(old), Value::Object(new)) => {
            for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                let (old, new) = (old.get(name).unwrap_or(NOTHING), new.get(name).unwrap_or(NOTHING));
                compare(format!("{pointer}/{}", escape(name)), old, new, fields);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            for place in 0..old.len().max(new.len()) {
                let (old, new) = (old.get(place).unwrap_or(NOTHING), new.get(place).unwrap_or(NOTHING));
                compare(format!("{pointer}/{place}"), old, new, fields);
            }
        }
        _ => fields.push(Field { pointer, before: before.clone(), after: after.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differing(before: Value, after: Value) -> Vec<(String, Value, Value)> {
        let mut fields = Vec::new();
        compare(String::new(), &before, &after, &mut fields);
        fields.into_iter().map(|field| (field.pointer, field.before, field.after)).collect()
    }

    #[test]
    fn what_differs_is_told_by_the_deepest_pointer_that_both_have() {
        let before = json!({ "a": 1, "b": { "c/d": [1, 2], "e": null }, "f": { "g": 1 }, "same": [{}] });
        let after = json!({ "a": 1, "b": { "c/d": [1, 3, 4] }, "f": null, "same": [{}], "new": { "h": 1 } });
        let expected = [
            ("/b/c~1d/1", json!(2), json!(3)),
            ("/b/c~1d/2", Value::Null, json!(4)),
            ("/f", json!({ "g": 1 }), Value::Null),
            ("/new", Value::Null, json!({ "h": 1 })),
        ];
        assert_eq!(differing(before, after), expected.map(|(at, old, new)| (at.to_owned(), old, new)));
    }

    #[test]
    fn what_is_not_there_and_what_is_null_are_the_same() {
        assert_eq!(differing(json!({ "a": null, "b": [] }), json!({ "b": [null] })), []);
    }
}
