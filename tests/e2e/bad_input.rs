//! Bad input: each operation of the OpenAPI document gets everything that clients get wrong. Each is told what to mend,
//! and nothing is appended. A new operation is in here as soon as it is in the document.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::OnceLock;

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Call};
use crate::house::{House, Tenant};
use crate::orders::order;
use crate::tests;

tests![
    every_operation_wants_a_key_that_may,
    every_operation_hides_what_is_not_there,
    every_body_is_parsed_strictly,
    every_query_is_parsed_strictly,
    fields_of_a_customer_are_checked,
    fields_of_an_order_are_checked,
    a_batch_is_bounded,
    a_price_that_gets_too_large_is_told,
    every_condition_that_no_longer_holds_is_told,
    every_key_stands_for_one_request,
    unknown_paths_and_methods_are_problems_too,
    a_key_in_the_address_is_refused,
];

/// An operation of the OpenAPI document.
struct Operation {
    method: Method,
    path: String,
    example: Option<Value>,
    queries: bool,
    conditional: bool,
    keyed: bool,
    /// Whether its body may be left out.
    optional: bool,
}

impl Operation {
    fn has_id(&self) -> bool {
        self.path.contains("{id}")
    }

    fn prefix(&self) -> &'static str {
        match self.path.split('/').nth(1).unwrap() {
            "customers" => "cus",
            "orders" => "ord",
            "privacy" | "gdpr" => "prq",
            "notes" => "nte",
            "plans" => "pln",
            "subscriptions" | "payments" => "sub",
            "agents" => "agt",
            "runs" => "run",
            "replays" => "rpl",
            // What stands there has a name.
            "admin" => "prj",
            other => panic!("whose ids are below /{other}? Say so here"),
        }
    }

    /// The operation at one id.
    fn at(&self, tenant: &Tenant, id: &str) -> Call {
        let call = tenant.call(self.method.clone(), &self.path.replace("{id}", id).replace("{name}", "events.jsonl"));
        if self.method == Method::POST { call.header("idempotency-key", "bad-input") } else { call }
    }

    /// The operation with its example, at a well-formed id.
    fn good(&self, tenant: &Tenant, id: &str) -> Call {
        match &self.example {
            Some(example) => self.at(tenant, id).json(example),
            None => self.at(tenant, id),
        }
    }

    /// A well-formed id of nothing.
    fn nobody(&self) -> String {
        if self.has_id() { format!("{}_01h455vb4pex5vsknk084sn02q", self.prefix()) } else { String::new() }
    }
}

async fn operations(house: &House) -> Vec<Operation> {
    let document = house.visitor().get("!/openapi.json").expect(200).await.body;
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap().iter().filter(|(_, o)| o.get("operationId").is_some()) {
            let Some(path) = path.strip_prefix("/api/v1") else { continue };
            let content = &operation["requestBody"]["content"]["application/json"];
            let example =
                content.get("example").or_else(|| content["examples"].as_object()?.values().next()?.get("value"));
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            operations.push(Operation {
                method: method.to_uppercase().parse().unwrap(),
                path: path.to_owned(),
                example: example.cloned().or_else(|| operation.get("requestBody").map(|_| json!({}))),
                queries: parameters.iter().any(|p| p["in"] == "query"),
                optional: operation["requestBody"]["required"] == false,
                conditional: parameters.iter().any(|p| p["name"] == "If-Match"),
                keyed: parameters.iter().any(|p| p["name"] == "Idempotency-Key"),
            });
        }
    }
    assert!(operations.len() >= 20, "{} operations", operations.len());
    operations
}

async fn every_operation_wants_a_key_that_may(house: &House) {
    let tenant = house.tenant().await;
    let nobody = tenant.key(&["personal:read"]).await;
    let head = tenant.events_head().await;
    let mut mistyped = tenant.secret.clone();
    let last = mistyped.pop().unwrap();
    mistyped.push(if last == '0' { '1' } else { '0' });
    for operation in operations(house).await {
        let id = operation.nobody();
        let what = format!("{} {}", operation.method, operation.path);
        operation.good(&tenant.using(tenant.with_key(None)), &id).problem(401, "unauthenticated").await;
        operation.good(&tenant.using(tenant.with_key(Some("nonsense"))), &id).problem(401, "invalid-api-key").await;
        operation.good(&tenant.using(tenant.with_key(Some(&mistyped))), &id).problem(401, "invalid-api-key").await;
        let refused = operation.good(&tenant.using(nobody.clone()), &id).problem(403, "forbidden").await;
        assert!(refused.body["detail"].as_str().unwrap().contains(':'), "{what} names the scope: {}", refused.text);
    }
    assert_eq!(tenant.events_head().await, head, "nothing was appended");
}

async fn every_operation_hides_what_is_not_there(house: &House) {
    let (tenant, other) = (house.tenant().await, house.tenant().await);
    let theirs = one_of_each(&other, "theirs").await;
    let before = other.events_head().await;
    for operation in operations(house).await.iter().filter(|operation| operation.has_id()) {
        let theirs_too = theirs.get(operation.prefix()).map_or("nothing", String::as_str);
        let wrong = theirs[if operation.prefix() == "cus" { "ord" } else { "cus" }].as_str();
        let unknown = operation.nobody();
        for id in [theirs_too, wrong, unknown.as_str(), "ext:theirs", "17", "%00", "..%2f..", "cus_%F0"] {
            operation.good(&tenant, id).problem(404, "not-found").await;
        }
    }
    assert_eq!(
        (tenant.events_head().await, other.events_head().await),
        (tenant.first_head, before),
        "nothing was appended"
    );
}

/// A body with a field more than it should have.
fn with_field(example: &Value, text: &str) -> String {
    let body = example.to_string();
    let rest = body.strip_prefix('{').unwrap();
    format!("{{{text}{}{rest}", if rest == "}" { "" } else { "," })
}

async fn every_body_is_parsed_strictly(house: &House) {
    let tenant = house.tenant().await;
    let ours = one_of_each(&tenant, "c").await;
    let head = tenant.events_head().await;
    for operation in operations(house).await {
        let Some(example) = &operation.example else { continue };
        let id = if operation.has_id() {
            ours.get(operation.prefix()).map_or("commerce_orders", String::as_str)
        } else {
            ""
        };
        let tenant = if operation.path.ends_with("/approve") { tenant.approving() } else { tenant.clone() };
        let raw = |body: String| operation.at(&tenant, id).raw("application/json", body);
        raw("{\"a\": ".into()).problem(400, "malformed-json").await;
        if !operation.optional {
            raw(String::new()).send().await.is_problem(400, "malformed-json");
        }
        raw("{} {}".into()).problem(400, "malformed-json").await;
        raw(r#"{"a": "\ud800"}"#.into()).problem(400, "malformed-json").await;
        let twice = raw(with_field(example, r#""zz": 1, "zz": 2"#)).problem(400, "duplicate-key").await;
        assert_eq!(twice.pointers(), ["/zz"], "{}", twice.text);
        let sealed = raw(with_field(example, r#""zz": {"$sealed": "AQ"}"#)).problem(422, "validation-failed").await;
        assert_eq!(sealed.pointers(), ["/zz/$sealed"], "{}", sealed.text);
        let nul = raw(with_field(example, r#""zz": "a\u0000b""#)).problem(422, "validation-failed").await;
        assert_eq!(nul.pointers(), ["/zz"], "{}", nul.text);
        let unknown = raw(with_field(example, r#""zz": 1"#)).problem(422, "unknown-field").await;
        assert_eq!(unknown.pointers(), ["/zz"], "{}", unknown.text);
        raw("[]".into()).problem(422, "validation-failed").await;
        raw("7".into()).problem(422, "validation-failed").await;
        raw(format!("{{\"a\": {}1{}}}", "[".repeat(200), "]".repeat(200))).send().await.assert_refused();
        operation.at(&tenant, id).raw("text/plain", example.to_string()).problem(415, "unsupported-media-type").await;
        operation
            .at(&tenant, id)
            .raw("application/json", with_field(example, &format!("\"zz\": \"{}\"", "x".repeat(2_000_000))))
            .problem(413, "payload-too-large")
            .await;
    }
    assert_eq!(tenant.events_head().await, head, "nothing was appended");
}

impl Answer {
    /// Some problem of the client's.
    pub(crate) fn assert_refused(&self) {
        assert!((400..500).contains(&self.status), "{}: {}", self.status, self.text);
        self.is_problem(self.status, self.body["code"].as_str().unwrap_or_default());
    }
}

async fn every_query_is_parsed_strictly(house: &House) {
    let tenant = house.tenant().await;
    for operation in operations(house).await.iter().filter(|operation| operation.queries && !operation.has_id()) {
        for (query, pointer) in
            [("colour=red", "?colour"), ("limit=0", "?limit"), ("limit=101", "?limit"), ("limit=x", "?limit")]
        {
            let call = tenant.call(operation.method.clone(), &format!("{}?{query}", operation.path));
            let answer = match &operation.example {
                Some(example) => call.json(example).send().await,
                None => call.send().await,
            };
            assert_eq!(answer.status, 422, "{} {query}: {}", operation.path, answer.text);
            assert_eq!(answer.pointers(), [pointer], "{}", answer.text);
        }
    }
}

async fn fields_of_a_customer_are_checked(house: &House) {
    let tenant = house.tenant().await;
    let long = "x".repeat(256);
    let future = "2999-01-01T00:00:00Z";
    let cases = [
        ("external_id", json!("")),
        ("external_id", json!(long)),
        ("external_id", json!(7)),
        ("name", json!("   ")),
        ("name", json!(long)),
        ("email", json!("nobody")),
        ("email", json!("a@b@c.de")),
        ("country", json!("gb")),
        ("country", json!("XX")),
        ("country", json!(["GB"])),
        ("occurred_at", json!(future)),
        ("occurred_at", json!("today")),
    ];
    for (field, value) in cases {
        let refused = tenant.post("/customers", &json!({ field: value })).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [format!("/{field}")], "{}", refused.text);
    }
    assert_eq!(tenant.events_head().await, tenant.first_head, "nothing was appended");
}

async fn fields_of_an_order_are_checked(house: &House) {
    let tenant = house.tenant().await;
    tenant.post("/customers", &json!({"external_id": "c"})).expect(201).await;
    let head = tenant.events_head().await;
    let long = "x".repeat(256);
    let cases = [
        ("external_id", json!("")),
        ("customer", json!("")),
        ("customer", json!(7)),
        ("customer", json!("ord_01h455vb4pex5vsknk084sn02q")),
        ("placed_at", json!("1997-02-30T00:00:00Z")),
        ("currency", json!("usd")),
        ("lines", json!({})),
        ("lines/0/sku", json!("")),
        ("lines/0/sku", json!(long)),
        ("lines/0/quantity", json!(-1)),
        ("lines/0/quantity", json!("1")),
        ("lines/0/total/currency", json!("ZZZ")),
    ];
    for (field, value) in cases {
        let mut body = order("ext:c", 5);
        body["external_id"] = json!("o");
        *body.pointer_mut(&format!("/{field}")).unwrap() = value;
        let refused = tenant.post("/orders", &body).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [format!("/{field}")], "{}", refused.text);
    }
    for missing in ["customer", "placed_at", "currency", "lines"] {
        let mut body = order("ext:c", 5);
        body.as_object_mut().unwrap().remove(missing);
        let refused = tenant.post("/orders", &body).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [format!("/{missing}")], "{}", refused.text);
    }
    assert_eq!(tenant.events_head().await, head, "nothing was appended");
}

async fn a_batch_is_bounded(house: &House) {
    let tenant = house.tenant().await;
    for path in ["/customers/batch", "/orders/batch"] {
        for items in [json!([]), json!(vec![json!({}); 1_001])] {
            let refused = tenant.post(path, &json!({"items": items})).problem(422, "validation-failed").await;
            assert_eq!(refused.pointers(), ["/items"], "{}", refused.text);
        }
    }
    assert_eq!(tenant.events_head().await, tenant.first_head, "nothing was appended");
}

async fn a_price_that_gets_too_large_is_told(house: &House) {
    let tenant = house.tenant().await;
    tenant.post("/customers", &json!({"external_id": "c"})).expect(201).await;
    let head = tenant.events_head().await;
    let most = 9_007_199_254_740_991_i64;
    let line = |quantity: i64, field: &str, amount: i64| json!({"sku": "cd", "quantity": quantity, field: {"amount": amount, "currency": "USD"}});
    for (lines, pointer) in [
        (json!([line(2, "unit_price", most)]), "/lines/0"),
        (json!([line(1_000_000_000, "unit_price", most)]), "/lines/0"),
        (json!([line(3, "unit_price", most / 2)]), "/lines/0"),
        (json!([line(1, "total", most), line(1, "total", 1)]), "/lines/1"),
    ] {
        let mut body = order("ext:c", 5);
        body["lines"] = lines;
        let refused = tenant.post("/orders", &body).problem(422, "validation-failed").await;
        assert_eq!(refused.pointers(), [pointer], "{}", refused.text);
    }
    assert_eq!(tenant.events_head().await, head, "nothing was appended");
    let mut body = order("ext:c", 5);
    body["lines"] = json!([line(1, "unit_price", most)]);
    assert_eq!(tenant.post("/orders", &body).expect(201).await.body["total"]["amount"], most);
}

/// Where calls are taken and never answered.
fn nowhere() -> SocketAddr {
    static LISTENER: OnceLock<TcpListener> = OnceLock::new();
    LISTENER.get_or_init(|| TcpListener::bind("127.0.0.1:0").unwrap()).local_addr().unwrap()
}

/// One resource of each kind, none of which moves by itself any more: their ids by prefix.
async fn one_of_each(tenant: &Tenant, external_id: &str) -> HashMap<&'static str, String> {
    let customer = tenant.post("/customers", &json!({"external_id": external_id})).expect(201).await;
    let plan = json!({"name": "Plan", "price": {"amount": 5, "currency": "USD"}, "interval": "month"});
    let plan = tenant.post("/plans", &plan).expect(201).await;
    let http = json!({"url": format!("http://{}/", nowhere())});
    let agent = json!({"name": "Agent", "kind": "http", "http": http, "timeout_seconds": 600});
    let agent = tenant.post("/agents", &agent).expect(201).await;
    let (begun, heard) =
        (tenant.count_events("run.attempt_started").await, tenant.count_events("erasure.stepped").await);
    let made = [
        ("ord", "/orders".to_owned(), order(customer.id(), 1_000)),
        ("nte", "/notes".to_owned(), json!({"customer": customer.id(), "text": "theirs"})),
        ("sub", "/subscriptions".to_owned(), json!({"customer": customer.id(), "plan": plan.id()})),
        ("run", format!("/agents/{}/execute", agent.id()), json!({"input": {}})),
        ("prq", "/privacy/requests".to_owned(), json!({"customer": customer.id(), "kind": "erasure"})),
        ("rpl", "/replays".to_owned(), json!({"format": "jsonl"})),
    ];
    let mut ids =
        HashMap::from([("cus", customer), ("pln", plan), ("agt", agent)].map(|(p, a)| (p, a.id().to_owned())));
    for (prefix, path, body) in made {
        let answer = tenant.post(&path, &body).send().await;
        assert!([201, 202].contains(&answer.status), "{path}: {}", answer.text);
        ids.insert(prefix, answer.id().to_owned());
    }
    tenant.until_events("run.attempt_started", begun + 1).await;
    tenant.until_events("erasure.stepped", heard + 1).await;
    ids
}

async fn every_condition_that_no_longer_holds_is_told(house: &House) {
    let all = operations(house).await;
    let conditional: Vec<_> = all.iter().filter(|operation| operation.conditional && operation.has_id()).collect();
    assert!(conditional.len() >= 6, "{} operations take If-Match", conditional.len());
    for operation in conditional {
        let tenant = house.tenant().await;
        let id = one_of_each(&tenant, "c").await.remove(operation.prefix()).unwrap();
        let (resource, _) = operation.path.split_once("{id}").unwrap();
        let stands = tenant.get(&format!("{resource}{id}")).expect(200).await.header("etag").to_owned();
        let caller = if operation.path.ends_with("/approve") { tenant.approving() } else { tenant.clone() };
        let head = tenant.events_head().await;
        for stale in ["\"0\"", "\"7\"", "\"999999999999999999\""] {
            let refused = operation.good(&caller, &id).header("if-match", stale).problem(412, "version-conflict").await;
            let version = format!("\"{}\"", refused.body["version"]);
            assert_eq!(version, stands, "{}: {}", operation.path, refused.text);
        }
        for malformed in ["1", "\"one\"", "W/\"1\"", ""] {
            operation.good(&caller, &id).header("if-match", malformed).send().await.assert_refused();
        }
        assert_eq!(tenant.events_head().await, head, "{}: nothing was appended", operation.path);
        operation.good(&caller, &id).header("if-match", stands).expect(200).await;
    }
}

/// Another valid body, where there is any.
fn another(example: &Value) -> Option<Value> {
    let fields = [
        "/name",
        "/text",
        "/reason",
        "/email",
        "/external_id",
        "/items/0/external_id",
        "/llm/model",
        "/task_type",
        "/advance_to",
        "/where",
    ];
    let mut other = example.clone();
    let field = fields.into_iter().find(|field| other.pointer(field).is_some());
    assert!(field.is_some() || other == json!({}), "which text of {example} may be another? Say so here");
    let changed = json!(match field? {
        "/email" => "another@example.com",
        "/advance_to" => "2027-12-24T00:00:00Z",
        _ => "another",
    });
    *other.pointer_mut(field?)? = changed;
    Some(other)
}

async fn every_key_stands_for_one_request(house: &House) {
    let all = operations(house).await;
    let keyed: Vec<_> = all.iter().filter(|operation| operation.keyed && operation.method == Method::POST).collect();
    assert!(keyed.len() >= 9, "{} operations take Idempotency-Key", keyed.len());
    for operation in keyed {
        let tenant = house.test_tenant().await;
        let caller = if operation.path.ends_with("/approve") { tenant.approving() } else { tenant.clone() };
        let (mut id, mut second) = (String::new(), String::new());
        if operation.has_id() {
            id = one_of_each(&tenant, "c").await.remove(operation.prefix()).unwrap();
            second = one_of_each(&tenant, "d").await.remove(operation.prefix()).unwrap();
        }
        // What the examples name.
        if !operation.path.starts_with("/customers") {
            tenant.post("/customers", &json!({"external_id": "crm-1815"})).expect(201).await;
        }
        if operation.path.starts_with("/subscriptions") {
            let price = json!({"amount": 1, "currency": "USD"});
            let plan = json!({"external_id": "basic", "name": "Basic", "price": price, "interval": "month"});
            tenant.post("/plans", &plan).expect(201).await;
        }
        let done = operation.good(&caller, &id).send().await;
        assert!((200..300).contains(&done.status), "{}: {} {}", operation.path, done.status, done.text);
        let is_reused = |answer: Answer| match answer.body["data"][0].as_object() {
            // A batch is a request an item.
            Some(item) => {
                assert_eq!((&item["status"], &item["problem"]["code"]), (&json!(422), &json!("idempotency-key-reused")))
            }
            None => answer.is_problem(422, "idempotency-key-reused"),
        };
        if let Some(body) = operation.example.as_ref().and_then(another) {
            is_reused(operation.at(&caller, &id).json(&body).send().await);
        }
        if operation.has_id() {
            is_reused(operation.good(&caller, &second).send().await);
        }
    }
}

async fn unknown_paths_and_methods_are_problems_too(house: &House) {
    let tenant = house.tenant().await;
    tenant.get("/nothing").problem(404, "not-found").await;
    tenant.get("!/nothing").problem(404, "not-found").await;
    let refused = tenant.call(Method::DELETE, "/customers").problem(405, "method-not-allowed").await;
    assert!(refused.header("allow").contains("POST"));
    let problem = house.visitor().get("!/problems/not-found").expect(200).await;
    assert!(problem.text.contains("not-found"));
}

async fn a_key_in_the_address_is_refused(house: &House) {
    let tenant = house.tenant().await;
    for name in ["api_key", "key", "access_token"] {
        tenant.get(&format!("/customers?{name}={}", tenant.secret)).problem(401, "credential-in-url").await;
    }
}
