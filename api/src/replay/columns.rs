//! The columns of an event type, from the JSON schema of its newest version: objects are structs, lists are lists, times
//! are timestamps, and what can have more than one form is JSON text.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, Fields, TimeUnit};
use serde_json::{Map, Value};

/// How deep a schema is followed: what lies deeper is JSON text, and so is what has no end.
const DEPTH: usize = 16;
/// All times are of UTC.
pub(super) const UTC: &str = "+00:00";

/// What a value of a payload is in a table.
#[derive(Clone, Debug, PartialEq)]
enum Column {
    Text,
    Integer,
    Number,
    Boolean,
    Time,
    /// JSON as text.
    Json,
    List(Box<Column>),
    Struct(Vec<(String, Column)>),
}

/// The columns of a type's payload.
#[derive(Debug)]
pub(super) struct Columns {
    of: Vec<(String, Column)>,
    /// Whether a payload must be changed to fit.
    changes: bool,
}

/// The columns of a type; none where there is no such type.
pub(super) fn of_type(name: &str) -> Option<&'static Columns> {
    static ALL: LazyLock<HashMap<&'static str, Columns>> = LazyLock::new(|| {
        domain::catalogue().into_iter().map(|kind| (kind.name, Columns::of(&(kind.schema)().to_value()))).collect()
    });
    ALL.get(name)
}

impl Columns {
    fn of(schema: &Value) -> Self {
        let of = fields(schema, schema, DEPTH);
        let changes = of.iter().any(|(_, column)| column.has_json());
        Self { of, changes }
    }

    /// Whether a payload can be read as it is stored.
    pub(super) fn take_as_stored(&self) -> bool {
        !self.changes
    }

    /// Makes text of what is JSON text in the table.
    pub(super) fn fit(&self, payload: &mut Map<String, Value>) {
        fit(&self.of, payload);
    }

    /// As Arrow has them. Everything may be missing: payloads are removed, and persons erased.
    pub(super) fn fields(&self) -> Fields {
        arrow(&self.of)
    }
}

fn fit(columns: &[(String, Column)], fields: &mut Map<String, Value>) {
    for (name, column) in columns.iter().filter(|(_, column)| column.has_json()) {
        if let Some(value) = fields.get_mut(name) {
            column.fit(value);
        }
    }
}

fn arrow(columns: &[(String, Column)]) -> Fields {
    columns.iter().map(|(name, column)| Field::new(name, column.data_type(), true)).collect()
}

impl Column {
    fn has_json(&self) -> bool {
        match self {
            Self::Json => true,
            Self::List(item) => item.has_json(),
            Self::Struct(fields) => fields.iter().any(|(_, field)| field.has_json()),
            Self::Text | Self::Integer | Self::Number | Self::Boolean | Self::Time => false,
        }
    }

    fn fit(&self, value: &mut Value) {
        match (self, value) {
            (_, Value::Null) => {}
            (Self::Json, value) => *value = Value::String(value.to_string()),
            (Self::List(item), Value::Array(items)) => items.iter_mut().for_each(|value| item.fit(value)),
            (Self::Struct(columns), Value::Object(fields)) => fit(columns, fields),
            _ => {}
        }
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Text | Self::Json => DataType::Utf8,
            Self::Integer => DataType::Int64,
            Self::Number => DataType::Float64,
            Self::Boolean => DataType::Boolean,
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            Self::List(item) => DataType::List(Arc::new(Field::new("element", item.data_type(), true))),
            Self::Struct(fields) => DataType::Struct(arrow(fields)),
        }
    }
}

/// The properties of an object's schema.
fn fields(schema: &Value, root: &Value, depth: usize) -> Vec<(String, Column)> {
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.map(|(name, schema)| (name.clone(), column(schema, root, depth - 1))).collect()
}

fn column(schema: &Value, root: &Value, depth: usize) -> Column {
    if depth == 0 {
        return Column::Json;
    }
    if let Some(reference) = schema["$ref"].as_str() {
        let referred = root.pointer(reference.trim_start_matches('#'));
        return referred.map_or(Column::Json, |referred| column(referred, root, depth - 1));
    }
    if let Some(choices) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
        let choices = choices.iter().filter(|choice| choice["type"] != "null");
        let mut columns = choices.map(|choice| column(choice, root, depth - 1));
        let first = columns.next().unwrap_or(Column::Json);
        return if columns.all(|other| other == first) { first } else { Column::Json };
    }
    let open = schema.get("additionalProperties").is_some_and(|more| *more != Value::Bool(false));
    match kind(schema) {
        Some("string") if schema["format"] == "date-time" => Column::Time,
        Some("string") => Column::Text,
        Some("integer") => Column::Integer,
        Some("number") => Column::Number,
        Some("boolean") => Column::Boolean,
        Some("array") if schema.get("prefixItems").is_none() => {
            Column::List(Box::new(column(&schema["items"], root, depth - 1)))
        }
        Some("object") if !open => match fields(schema, root, depth) {
            // There are no structs of nothing.
            none if none.is_empty() => Column::Json,
            fields => Column::Struct(fields),
        },
        _ => Column::Json,
    }
}

/// The one type that a schema allows beside null.
fn kind(schema: &Value) -> Option<&str> {
    match &schema["type"] {
        Value::String(kind) => Some(kind),
        Value::Array(kinds) => {
            let mut kinds = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null");
            kinds.next().filter(|_| kinds.next().is_none())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(name: &str) -> String {
        let fields = of_type(name).unwrap().of.iter();
        fields.map(|(name, column)| format!("{name} {column:?}")).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn the_columns_of_a_type_are_those_of_its_schema() {
        let money = r#"Struct([("amount", Integer), ("currency", Text)])"#;
        assert_eq!(of("order.refunded"), format!("customer Text; amount {money}; reason Text"));
        let line = format!(
            r#"Struct([("sku", Text), ("name", Text), ("quantity", Integer), ("unit_price", {money}), ("total", {money})])"#
        );
        assert_eq!(of("order.placed"), format!("external_id Text; customer Text; lines List({line}); total {money}"));
        assert_eq!(of("note.written"), "customer Text; kind Text; text Text", "of the newest version");
        assert_eq!(of("customer.erased"), "");
        let retry = r#"Struct([("attempts", Integer), ("initial_seconds", Number), ("factor", Number)])"#;
        assert_eq!(
            of("run.requested"),
            format!(
                "external_id Text; agent Text; agent_version Integer; customer Text; task_type Text; input Json; \
                 timeout_seconds Integer; retry {retry}; at Time"
            )
        );
        assert_eq!(of("erasure.settled"), "outcome Json", "it has more than one form");
    }

    #[test]
    fn what_has_more_than_one_form_becomes_text() {
        let columns = of_type("run.requested").unwrap();
        assert!(!columns.take_as_stored() && of_type("order.placed").unwrap().take_as_stored());
        let mut payload = json!({"input": {"a": [1, null]}, "agent_version": 2});
        columns.fit(payload.as_object_mut().unwrap());
        assert_eq!(payload, json!({"input": r#"{"a":[1,null]}"#, "agent_version": 2}));
        let mut erased = json!({"input": null});
        columns.fit(erased.as_object_mut().unwrap());
        assert_eq!(erased, json!({"input": null}));
    }

    #[test]
    fn what_has_no_end_is_text() {
        let schema = json!({
            "properties": {"tree": {"$ref": "#/$defs/Tree"}},
            "$defs": {"Tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/Tree"}}}},
        });
        assert!(Columns::of(&schema).changes);
    }
}
