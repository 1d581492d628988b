//! JSON schemas of what the API takes and answers, from the types themselves.

use projections::Documented;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::operation::{Parameter, SchemaFn};
use crate::resource::{AsOf, Resource};

/// The fields of a type as parameters of a query string.
pub fn parameters_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Vec<Parameter> {
    let schema = T::json_schema(generator);
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let parameter = |(name, schema): (&String, &Value)| Parameter {
        name: name.clone(),
        schema: not_null(schema.clone()),
        required: required.contains(&name.as_str()),
    };
    fields.map(parameter).collect()
}

/// A parameter is left out, never null.
fn not_null(mut schema: Value) -> Value {
    if let Some(kinds) = schema.get_mut("type").filter(|kind| kind.is_array()) {
        let named: Vec<Value> = kinds.as_array().into_iter().flatten().filter(|k| *k != "null").cloned().collect();
        *kinds = if let [one] = named.as_slice() { one.clone() } else { Value::Array(named) };
    }
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        let named: Vec<Value> = choices.iter().filter(|choice| choice["type"] != "null").cloned().collect();
        if let [one] = named.as_slice() {
            let mut one = one.clone();
            if let (Some(one), Some(about)) = (one.as_object_mut(), schema.get("description")) {
                one.insert("description".into(), about.clone());
            }
            return one;
        }
    }
    schema
}

/// The parameters that lists of a resource can be filtered by, and the moment that they can be asked for.
pub fn filters_of<A: Resource + Documented>(generator: &mut SchemaGenerator) -> Vec<Parameter> {
    let parameter = |filter: &crate::resource::Filter| Parameter {
        name: filter.name.to_owned(),
        schema: (filter.schema)(generator).to_value(),
        required: false,
    };
    let mut parameters: Vec<_> = A::FILTERS.iter().map(parameter).collect();
    if A::HISTORY.is_some() {
        parameters.extend(parameters_of::<AsOf>(generator));
    }
    parameters
}

/// A resource as it is shown: its id, what it is, its state, and when it came and changed.
pub fn shown<A: Resource>(generator: &mut SchemaGenerator) -> Schema {
    let name = component(A::OBJECT);
    if !generator.definitions().contains_key(&name) {
        let schema = describe::<A>(generator);
        generator.definitions_mut().insert(name.clone(), schema);
    }
    json_schema!({ "$ref": format!("#/components/schemas/{name}") })
}

fn describe<A: Resource>(generator: &mut SchemaGenerator) -> Value {
    let state = A::json_schema(generator);
    let fields = state.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut required: Vec<Value> = state.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut properties = Map::new();
    let prefix = A::STREAM.prefix;
    properties.insert(
        "id".into(),
        json!({ "type": "string", "pattern": format!("^{prefix}_[0-7][0-9a-hjkmnp-tv-z]{{25}}$") }),
    );
    properties.insert("object".into(), json!({ "type": "string", "const": A::OBJECT }));
    properties.extend(fields);
    for beside in A::BESIDE {
        properties.insert(beside.name.into(), (beside.schema)(generator).to_value());
    }
    for (name, about) in [("created_at", "When it began."), ("updated_at", "When it last changed.")] {
        properties.insert(name.into(), json!({ "type": "string", "format": "date-time", "description": about }));
    }
    let beside = A::BESIDE.iter().map(|beside| beside.name);
    required.extend(["id", "object"].into_iter().chain(beside).chain(["created_at", "updated_at"]).map(Value::from));
    if let Some(status) = properties.get("status") {
        without_none(generator, status);
    }
    let about = state.get("description").cloned().unwrap_or_default();
    json!({ "type": "object", "description": about, "properties": properties, "required": required })
}

/// A status that is shown is never `none`: that is what is not there.
pub fn without_none(generator: &mut SchemaGenerator, status: &Value) {
    let choices = |value: &mut Value| {
        if let Some(choices) = value.get_mut("oneOf").and_then(Value::as_array_mut) {
            choices.retain(|choice| choice["const"] != "none");
        }
    };
    let name = find_ref(status).and_then(|reference| reference.rsplit('/').next());
    if let Some(definition) = name.and_then(|name| generator.definitions_mut().get_mut(name)) {
        choices(definition);
    }
}

fn find_ref(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref").and_then(Value::as_str);
    direct.or_else(|| schema.get("allOf")?.get(0)?.get("$ref")?.as_str())
}

/// A page of a list.
pub fn list(entries: Schema) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "object": { "type": "string", "const": "list" },
            "data": { "type": "array", "items": entries },
            "has_more": { "type": "boolean", "description": "Whether there is a next page." },
            "next_cursor": { "type": ["string", "null"], "description": "Send it as `cursor` to get the next page." },
        },
        "required": ["object", "data", "has_more", "next_cursor"],
    })
}

/// A page of resources.
pub fn listed<A: Resource>(generator: &mut SchemaGenerator) -> Schema {
    list(shown::<A>(generator))
}

/// A page of events.
pub fn events(generator: &mut SchemaGenerator) -> Schema {
    list(generator.subschema_for::<crate::audit::ShownEvent<'static, serde_json::Value>>())
}

/// What a batch takes.
pub fn batch_of(generator: &mut SchemaGenerator, item: SchemaFn) -> Schema {
    let item = item(generator);
    json_schema!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "items": { "type": "array", "items": item, "minItems": 1, "maxItems": crate::resource::MAX_ITEMS },
        },
        "required": ["items"],
    })
}

/// What a batch answers.
pub fn batched<A: Resource>(generator: &mut SchemaGenerator) -> Schema {
    let resource = shown::<A>(generator);
    json_schema!({
        "type": "object",
        "properties": {
            "object": { "type": "string", "const": "batch" },
            "data": {
                "type": "array",
                "description": "One for each item, in the same order.",
                "items": { "anyOf": [
                    {
                        "type": "object",
                        "properties": { "status": { "type": "integer", "const": 201 }, "resource": resource },
                        "required": ["status", "resource"],
                    },
                    {
                        "type": "object",
                        "properties": {
                            "status": { "type": "integer", "minimum": 400 },
                            "problem": { "$ref": "#/components/schemas/Problem" },
                        },
                        "required": ["status", "problem"],
                    },
                ]},
            },
        },
        "required": ["object", "data"],
    })
}

/// `customer` as `Customer`, `privacy_request` as `PrivacyRequest`.
pub fn component(object: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default()
    };
    object.split('_').map(capital).collect()
}
