//! The OpenAPI 3.1 document, from the operations and their types. It is committed in `api/openapi/openapi.json`; a test
//! fails where it drifts, and writes it anew with `ANNALS_UPDATE_OPENAPI=1`.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::LazyLock;

use domain::Currency;
use domain::text::Country;
use schemars::generate::{Contract, SchemaSettings};
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::aliases::ALIASES;
use crate::extract::headers::{
    IDEMPOTENCY_KEY, LAST_EVENT_ID, LONGEST_WAIT, MIN_SEQUENCE, PARKED, READ_AGE, READ_SEQUENCE, REPLAYED, SEQUENCE,
    TOKEN,
};
use crate::extract::ids::{any_id_schema, id_schema};
use crate::extract::query::MAX_LIMIT;
use crate::operation::{Keys, Kind, Operation};
use crate::resource::BASE;
use crate::router::OPERATIONS;

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let text = serde_json::to_string_pretty(&document()).unwrap_or_default();
    text + "\n"
});

/// The document as it is served.
pub fn document_text() -> &'static str {
    &DOCUMENT
}

const ABOUT: &str = "Every change is an event that is stored once, in order, for good; resources are folds of them.\n\n\
    * A write answers `Annals-Sequence`; a read that sends it as `Annals-Min-Sequence` has seen that write. Keep it as \
    the text that it is: it is a number, and `<number>@<incarnation>` once the log had to be restored.\n\
    * `{id}` takes our ids (`cus_…`) and `ext:` with the `external_id` that you gave at creation.\n\
    * Personal fields are null without the scope `personal:read`, and for good once a person was erased.\n\
    * What changes something takes an `Idempotency-Key`, and must have one where money moves; queries take none.\n\
    * Errors are problems (RFC 9457): branch on `code`, show `detail`, quote `request_id`.\n\
    * Fields and words of enumerations may be added to answers at any time.";

/// The two directions of schemas: what is taken may leave out what is answered always.
struct Schemas {
    taken: SchemaGenerator,
    answered: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let generator = |contract: Contract| {
            let settings = SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
                settings.contract = contract;
            });
            settings.into_generator()
        };
        Self { taken: generator(Contract::Deserialize), answered: generator(Contract::Serialize) }
    }

    /// All that was named, by name. A type that is taken and answered must look the same both ways.
    fn named(mut self) -> Map<String, Value> {
        let mut all: BTreeMap<String, Value> = self.answered.take_definitions(true).into_iter().collect();
        for (name, schema) in self.taken.take_definitions(true) {
            all.entry(name).or_insert(schema);
        }
        all.into_iter().collect()
    }
}

/// The document.
pub fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for operation in OPERATIONS.iter() {
        let methods = paths.entry(format!("{BASE}{}", operation.path)).or_default();
        methods.insert(operation.method.as_str().to_lowercase(), describe(operation, &mut schemas));
    }
    let mut tags: Vec<&str> = OPERATIONS.iter().map(Operation::context).collect();
    tags.dedup();
    let mut components = schemas.named();
    components.insert("Problem".into(), problem_schema());
    components.insert("Country".into(), codes_of::<Country>("A country of ISO 3166-1 alpha-2.", 2));
    components.insert("Currency".into(), codes_of::<Currency>("A currency of ISO 4217.", 3));
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Annals",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "externalDocs": { "description": "The Kafka topic of the events (AsyncAPI 3)", "url": "/asyncapi.json" },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }, { "header": [] }],
        "tags": tags.iter().map(|tag| json!({ "name": tag })).collect::<Value>(),
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "An API key: `ann_live_…`." },
                "header": { "type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key." },
            },
            "headers": headers(),
        },
    });
    name_countries(&mut document);
    document
}

/// Every code of that many capital letters that the type takes: narrower than what is stored, for lists grow.
fn codes_of<T: FromStr>(about: &str, letters: u32) -> Value {
    let code = |mut number: u32| {
        let letter = |_| {
            let letter = char::from(b'A' + (number % 26) as u8);
            number /= 26;
            letter
        };
        (0..letters).map(letter).collect::<String>()
    };
    let mut codes: Vec<String> = (0..26_u32.pow(letters)).map(code).filter(|code| code.parse::<T>().is_ok()).collect();
    codes.sort_unstable();
    json!({ "type": "string", "description": about, "enum": codes })
}

/// Countries are described where they stand, as stored events have it; here they get their list.
fn name_countries(value: &mut Value) {
    let named = json!({ "$ref": "#/components/schemas/Country" });
    if value.get("pattern").is_some_and(|pattern| pattern == "^[A-Z]{2}$")
        && let Some(fields) = value.as_object_mut()
    {
        let nullable = fields.get("type").is_some_and(Value::is_array);
        let about = fields.get("description").cloned();
        *fields = Map::new();
        match nullable {
            true => fields.insert("anyOf".into(), json!([named, { "type": "null" }])),
            false => fields.insert("$ref".into(), named["$ref"].clone()),
        };
        fields.extend(about.map(|about| ("description".to_owned(), about)));
        return;
    }
    match value {
        Value::Object(fields) => fields.values_mut().for_each(name_countries),
        Value::Array(values) => values.iter_mut().for_each(name_countries),
        _ => {}
    }
}

fn describe(operation: &Operation, schemas: &mut Schemas) -> Value {
    let mut described = Map::new();
    let scopes: Vec<&str> = operation.scopes().iter().map(|scope| scope.name).collect();
    let scope = format!("Needs the scope `{}`.", scopes.join("` or `"));
    let about = [operation.about, &scope].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(" ");
    described.insert("operationId".into(), operation.name.into());
    described.insert("tags".into(), json!([operation.context()]));
    described.insert("summary".into(), operation.summary.clone().into());
    described.insert("description".into(), about.into());
    described.insert("parameters".into(), parameters(operation, schemas).into());
    if let Some(body) = &operation.body {
        let schema = (body.schema)(&mut schemas.taken);
        let content = json!({ "application/json": { "schema": schema, "example": (body.example)() } });
        described.insert("requestBody".into(), json!({ "required": !body.optional, "content": content }));
    }
    described.insert("responses".into(), responses(operation, schemas).into());
    described.insert("x-scope".into(), scopes.join(" ").into());
    described.insert("x-rate-class".into(), format!("{:?}", operation.rate).to_lowercase().into());
    let aliases: Vec<String> = ALIASES
        .iter()
        .filter(|alias| alias.to_method == operation.method && alias.to == operation.path)
        .map(|alias| match alias.method == alias.to_method {
            true => format!("{BASE}{}", alias.path),
            false => format!("{} {BASE}{}", alias.method, alias.path),
        })
        .collect();
    if !aliases.is_empty() {
        described.insert("x-aliases".into(), json!(aliases));
    }
    Value::Object(described)
}

fn parameters(operation: &Operation, schemas: &mut Schemas) -> Vec<Value> {
    let mut all = Vec::new();
    if operation.has_id() {
        let prefix = prefix(operation);
        let (schema, example) = match operation.kind {
            Kind::Upkeep if operation.path.starts_with("/admin/projections") => {
                (json!({ "type": "string" }), "commerce_orders".to_owned())
            }
            Kind::Upkeep => (any_id_schema(&mut schemas.taken).to_value(), "sub_01h455vb4pex5vsknk084sn02q".to_owned()),
            _ => (id_schema(prefix).to_value(), format!("{prefix}_01h455vb4pex5vsknk084sn02q")),
        };
        all.push(json!({ "name": "id", "in": "path", "required": true, "schema": schema, "example": example }));
    }
    if operation.has_name() {
        let about = "One of the `name`s that the resource lists.";
        let schema = json!({ "type": "string", "pattern": "^[a-z0-9_.]{1,100}$" });
        all.push(json!({ "name": "name", "in": "path", "required": true, "description": about, "schema": schema, "example": "events.jsonl" }));
    }
    for parameter in (operation.parameters)(&mut schemas.taken) {
        let mut shown = json!({ "name": parameter.name, "in": "query", "schema": parameter.schema });
        if let (Some(shown), Some(about)) = (shown.as_object_mut(), parameter.schema.get("description")) {
            shown.insert("description".into(), about.clone());
            shown.insert("required".into(), parameter.required.into());
        }
        all.push(shown);
    }
    if operation.waits {
        let about = format!("`wait=N`: answer once it has ended, or after N seconds ({LONGEST_WAIT} at most).");
        all.push(json!({
            "name": "Prefer", "in": "header", "description": about,
            "schema": { "type": "string", "pattern": "^wait=[0-9]{1,9}$" }, "example": "wait=10",
        }));
    }
    if operation.streams {
        all.push(json!({
            "name": name(LAST_EVENT_ID), "in": "header",
            "description": "The `id` that came last: the stream goes on right after it. It comes before `after`.",
            "schema": { "type": "string", "pattern": TOKEN }, "example": "0",
        }));
    }
    if operation.paged {
        all.push(json!({
            "name": "limit", "in": "query", "description": "How many entries a page may have.",
            "schema": { "type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 20 },
        }));
        all.push(json!({
            "name": "cursor", "in": "query", "schema": { "type": "string", "pattern": "^[A-Za-z0-9_-]{54,}$" },
            "description": "The `next_cursor` of the page before; good for the same query alone.",
        }));
    }
    if operation.keys != Keys::None {
        all.push(json!({
            "name": name(IDEMPOTENCY_KEY), "in": "header", "required": operation.keys == Keys::Required,
            "description": "A value of your own. Repeating the request with it has no second effect.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!#-~]+$" },
            "example": "7c1f4b0e-refund-1",
        }));
    }
    if operation.conditional {
        all.push(json!({
            "name": "If-Match", "in": "header", "description": "The `ETag` that you have seen; another one is 412.",
            "schema": { "type": "string", "pattern": "^(\\*|\"[0-9]{1,18}(@[0-9]{1,9})?\")$" },
            "example": "\"1\"",
        }));
    }
    if operation.kind == Kind::Query {
        all.push(json!({
            "name": name(MIN_SEQUENCE), "in": "header",
            "description": "The `Annals-Sequence` of a write that the answer must have seen.",
            "schema": { "type": "string", "pattern": TOKEN },
            "example": "0",
        }));
    }
    all
}

/// The prefix of the ids in an operation's path: that of the stream type that its name begins with.
fn prefix(operation: &Operation) -> &'static str {
    let stream = operation.name.rsplit_once('.').map_or("", |(stream, _)| stream);
    domain::names::stream_type(stream).map_or("xxx", |kind| kind.prefix)
}

fn responses(operation: &Operation, schemas: &mut Schemas) -> Map<String, Value> {
    let mut all = Map::new();
    let schema: Schema = (operation.answer)(&mut schemas.answered);
    let content: Map<_, _> =
        operation.media.iter().map(|media| ((*media).to_owned(), json!({ "schema": schema }))).collect();
    let success = json!({
        "description": operation.summary,
        "headers": answered(operation),
        "content": content,
        "links": links(operation),
    });
    all.insert(operation.status.to_string(), success);
    let mut by_status: BTreeMap<u16, Vec<&'static str>> = BTreeMap::new();
    for code in operation.all_problems() {
        let codes = by_status.entry(code.status).or_default();
        if !codes.contains(&code.code) {
            codes.push(code.code);
        }
    }
    for (status, codes) in by_status {
        let named: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
        let content = json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
        let headers = json!({ "X-Request-Id": header("X-Request-Id") });
        let response = json!({ "description": named.join(", "), "headers": headers, "content": content });
        all.insert(status.to_string(), response);
    }
    all
}

/// What can be done with what was just created.
fn links(operation: &Operation) -> Value {
    let creates = operation.kind == Kind::Command && matches!(operation.status, 201 | 202);
    let below = format!("{}/{{id}}", operation.path);
    let next = OPERATIONS.iter().filter(|next| creates && next.path.starts_with(&below));
    let link = |next: &Operation| {
        let link = json!({ "operationId": next.name, "parameters": { "id": "$response.body#/id" } });
        (next.name.rsplit('.').next().unwrap_or(next.name).to_owned(), link)
    };
    next.map(link).collect::<Map<_, _>>().into()
}

/// The headers of a success.
fn answered(operation: &Operation) -> Value {
    let mut names = vec!["X-Request-Id"];
    if operation.tagged {
        names.push("ETag");
    }
    if operation.status == 201 || operation.status == 202 {
        names.push("Location");
    }
    let (mut shown, ours): (Vec<String>, &[&str]) = match operation.kind {
        Kind::Command => (Vec::new(), &[SEQUENCE, REPLAYED]),
        Kind::Query => (Vec::new(), &[READ_SEQUENCE, READ_AGE, PARKED]),
        Kind::Upkeep => (Vec::new(), &[]),
    };
    shown.extend(names.iter().map(|name| (*name).to_owned()));
    shown.extend(ours.iter().map(|header| name(header)));
    shown.into_iter().map(|name| (name.clone(), header(&name))).collect::<Map<_, _>>().into()
}

fn header(name: &str) -> Value {
    json!({ "$ref": format!("#/components/headers/{name}") })
}

/// `annals-sequence` as people write it.
fn name(header: &str) -> String {
    header.split('-').map(crate::schema::component).collect::<Vec<_>>().join("-")
}

fn headers() -> Value {
    let text = |about: &str| json!({ "description": about, "schema": { "type": "string" } });
    let number = |about: &str| json!({ "description": about, "schema": { "type": "integer", "format": "int64" } });
    let mut all = Map::new();
    all.insert("X-Request-Id".into(), text("The request's id: the one that you sent, if it was well formed."));
    all.insert("ETag".into(), text("The version of the resource, for `If-Match`."));
    all.insert("Location".into(), text("Where the resource is."));
    let token = |about: &str| json!({ "description": about, "schema": { "type": "string", "pattern": TOKEN } });
    all.insert(name(SEQUENCE), token("Send it as `Annals-Min-Sequence` to read what was written."));
    all.insert(name(READ_SEQUENCE), token("The last sequence that the answer has seen."));
    all.insert(name(READ_AGE), number("How many seconds ago that was the newest."));
    all.insert(
        name(PARKED),
        number("Of how many streams it shows what is old, for an event can't be applied yet; absent for none."),
    );
    all.insert(name(REPLAYED), text("`true` where an earlier request with the same key was answered again."));
    Value::Object(all)
}

fn problem_schema() -> Value {
    let codes: Vec<&str> = crate::pages::all_codes().iter().map(|code| code.code).collect();
    json!({
        "type": "object",
        "description": "What went wrong and what to do (RFC 9457).",
        "properties": {
            "type": { "type": "string", "description": "A path of this server that describes the code." },
            "title": { "type": "string" },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": { "type": "string", "description": "What to do about it." },
            "code": { "type": "string", "description": "Branch on this one.", "examples": codes },
            "request_id": { "type": "string" },
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "pointer": {
                            "type": "string",
                            "description": "RFC 6901 into the body; `?name` for a parameter, a header by its name.",
                        },
                        "detail": { "type": "string" },
                    },
                    "required": ["pointer", "detail"],
                },
            },
        },
        "required": ["type", "title", "status", "detail", "code", "request_id"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");

    #[test]
    fn the_committed_document_is_that_of_the_operations() {
        if std::env::var_os("ANNALS_UPDATE_OPENAPI").is_some() {
            std::fs::write(COMMITTED, document_text()).unwrap();
        }
        let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
        assert!(committed == document_text(), "the API has changed: run the tests with ANNALS_UPDATE_OPENAPI=1");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(document: &Value, value: &Value) {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                let found = document.pointer(reference.trim_start_matches('#'));
                assert!(found.is_some(), "{reference} leads nowhere");
            }
            match value {
                Value::Object(fields) => fields.values().for_each(|value| walk(document, value)),
                Value::Array(values) => values.iter().for_each(|value| walk(document, value)),
                _ => {}
            }
        }
        let document = document();
        walk(&document, &document);
    }

    #[test]
    fn a_type_looks_the_same_taken_and_answered() {
        let mut schemas = Schemas::new();
        OPERATIONS.iter().for_each(|operation| drop(describe(operation, &mut schemas)));
        let answered: BTreeMap<String, Value> = schemas.answered.take_definitions(true).into_iter().collect();
        for (name, schema) in schemas.taken.take_definitions(true) {
            assert!(answered.get(&name).is_none_or(|other| *other == schema), "{name} has two forms");
        }
    }

    #[test]
    fn every_operation_with_a_body_has_an_example_that_it_takes() {
        for operation in OPERATIONS.iter() {
            if let Some(body) = &operation.body {
                let text = (body.example)().to_string();
                assert!(crate::strict::parse(text.as_bytes()).is_ok(), "{operation:?}");
            }
        }
    }
}
