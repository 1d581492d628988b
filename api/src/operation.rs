//! What an operation is: a value. Its route, its OpenAPI entry, authorisation, limits, idempotency and aliases follow
//! from it; [`crate::resource`] makes those that every resource has.

use std::future::Future;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, header};
use domain::names::Scope;
use eventstore::Loaded;
use futures::future::BoxFuture;
use projections::ReadPoint;
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use crate::call::Call;
use crate::extract::headers::{PARKED, PREFERENCE_APPLIED, READ_AGE, REPLAYED};
use crate::problem::{Code, Problem, codes};

/// Describes a type to the OpenAPI document.
pub type SchemaFn = fn(&mut SchemaGenerator) -> Schema;

/// Carries an operation out.
pub type Handler = Box<dyn Fn(Call) -> BoxFuture<'static, Result<Answer, Problem>> + Send + Sync>;

/// Whether something changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something may change: the answer has an `Annals-Sequence`, and the request may have an `Idempotency-Key`.
    Command,
    /// Nothing changes: the answer says what it has seen.
    Query,
    /// It is about the house, and neither reads nor writes what a tenant has.
    Upkeep,
}

/// How much an operation costs, and so which limit it will count against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateClass {
    /// One resource, or a page of them.
    Read,
    /// One command.
    Write,
    /// Up to a thousand commands.
    Batch,
    /// A figure over all that a tenant has.
    Report,
}

/// Whether a POST may bring a key that makes its repetition harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// It means nothing here.
    None,
    /// It may.
    Accepted,
    /// It must: money moves.
    Required,
}

/// A parameter of a query string.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// What it takes.
    pub schema: Value,
    /// Whether it must be given.
    pub required: bool,
}

/// What an operation takes in its body.
#[derive(Clone, Copy, Debug)]
pub struct BodyOf {
    /// What it must look like.
    pub schema: SchemaFn,
    /// One that works.
    pub example: fn() -> Value,
    /// Whether it may be left out, and then is `{}`.
    pub optional: bool,
}

/// One operation of the API.
pub struct Operation {
    /// GET, POST or PATCH.
    pub method: Method,
    /// Below `/api/v1`; a parameter is called `{id}`, and one of what is beneath a resource `{name}`.
    pub path: String,
    /// `context.aggregate.command`, permanent: it names spans, metrics and commands in the metadata of events.
    pub name: &'static str,
    /// What a key needs to call it.
    pub scope: Scope,
    /// Others, one of which may do in its place: which one is needed depends on a parameter, and the handler asks for it.
    pub or_scopes: &'static [Scope],
    /// What it will be limited by.
    pub rate: RateClass,
    /// Whether something changes.
    pub kind: Kind,
    /// Whether it takes an `Idempotency-Key`.
    pub keys: Keys,
    /// The status of a success.
    pub status: u16,
    /// A line for people.
    pub summary: String,
    /// The rest that there is to say.
    pub about: &'static str,
    /// Problems beside those that follow from its shape.
    pub problems: Vec<Code>,
    /// The parameters that it takes, but for those of a page.
    pub parameters: fn(&mut SchemaGenerator) -> Vec<Parameter>,
    /// Whether it takes `limit` and `cursor`.
    pub paged: bool,
    /// Whether it takes `If-Match`.
    pub conditional: bool,
    /// What it takes in its body.
    pub body: Option<BodyOf>,
    /// What it answers.
    pub answer: SchemaFn,
    /// Whether the answer has an `ETag`.
    pub tagged: bool,
    /// Whether it begins what takes long, and so takes `Prefer: wait=N`.
    pub waits: bool,
    /// Whether it answers with Server-Sent Events, and so takes `Last-Event-ID`.
    pub streams: bool,
    /// The types that its answer may have; the first, unless it says another.
    pub media: &'static [&'static str],
    /// What carries it out.
    pub handler: Handler,
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({})", self.method, self.path, self.name)
    }
}

impl Operation {
    fn new(method: Method, path: impl Into<String>, name: impl Into<String>, scope: Scope) -> Self {
        Self {
            method,
            path: path.into(),
            // Operations are made once, and are there until the process ends.
            name: String::leak(name.into()),
            scope,
            or_scopes: &[],
            rate: RateClass::Read,
            kind: Kind::Query,
            keys: Keys::None,
            status: 200,
            summary: String::new(),
            about: "",
            problems: Vec::new(),
            parameters: |_| Vec::new(),
            paged: false,
            conditional: false,
            body: None,
            answer: |_| Schema::from(true),
            tagged: false,
            waits: false,
            streams: false,
            media: &["application/json"],
            handler: Box::new(|_| Box::pin(async { Err(Problem::not_found()) })),
        }
    }

    /// Something that changes nothing.
    pub fn query(method: Method, path: impl Into<String>, name: impl Into<String>, scope: Scope) -> Self {
        Self::new(method, path, name, scope)
    }

    /// Something that may change something.
    pub fn command(method: Method, path: impl Into<String>, name: impl Into<String>, scope: Scope) -> Self {
        Self {
            rate: RateClass::Write,
            kind: Kind::Command,
            keys: Keys::Accepted,
            ..Self::new(method, path, name, scope)
        }
    }

    /// Something about the house.
    pub fn upkeep(method: Method, path: impl Into<String>, name: impl Into<String>, scope: Scope) -> Self {
        Self { kind: Kind::Upkeep, ..Self::new(method, path, name, scope) }
    }

    /// A line for people, and the rest that there is to say.
    pub fn about(mut self, summary: impl Into<String>, about: &'static str) -> Self {
        self.summary = summary.into();
        self.about = about;
        self
    }

    /// Needs another scope than its resource's own.
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// May need one of these instead, which depends on a parameter.
    pub fn or_scopes(mut self, scopes: &'static [Scope]) -> Self {
        self.or_scopes = scopes;
        self
    }

    /// Answers a success with that status.
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Counts against that limit.
    pub fn rate(mut self, rate: RateClass) -> Self {
        self.rate = rate;
        self
    }

    /// Money moves: a key must come with it.
    pub fn moves_money(mut self) -> Self {
        self.keys = Keys::Required;
        self
    }

    /// May also answer with these problems: the rules of its aggregate.
    pub fn refuses(mut self, problems: &[Code]) -> Self {
        self.problems.extend_from_slice(problems);
        self
    }

    /// Takes these parameters.
    pub fn takes<T: schemars::JsonSchema>(mut self) -> Self {
        self.parameters = crate::schema::parameters_of::<T>;
        self
    }

    /// Takes `limit` and `cursor`.
    pub fn paged(mut self) -> Self {
        self.paged = true;
        self
    }

    /// Takes a body like this one.
    pub fn body<T: schemars::JsonSchema>(mut self, example: fn() -> Value) -> Self {
        self.body = Some(BodyOf { schema: |generator| generator.subschema_for::<T>(), example, optional: false });
        self
    }

    /// Its body may be left out.
    pub fn body_optional(mut self) -> Self {
        if let Some(body) = &mut self.body {
            body.optional = true;
        }
        self
    }

    /// Takes `If-Match`, and answers with an `ETag`.
    pub fn conditional(mut self) -> Self {
        self.conditional = true;
        self.tagged()
    }

    /// Answers with an `ETag`.
    pub fn tagged(mut self) -> Self {
        self.tagged = true;
        self
    }

    /// Begins what takes long: 202, and with `Prefer: wait=N` as soon as it has ended.
    pub fn waits(mut self) -> Self {
        self.waits = true;
        self.status(202)
    }

    /// Answers with Server-Sent Events for as long as the caller listens, and takes `Last-Event-ID`.
    pub fn streams(mut self) -> Self {
        self.streams = true;
        self.of_media(&["text/event-stream"]).refuses(&[codes::RATE_LIMITED])
    }

    /// Answers with one of these types.
    pub fn of_media(mut self, media: &'static [&'static str]) -> Self {
        self.media = media;
        self
    }

    /// Its body must be there.
    pub fn body_required(mut self) -> Self {
        if let Some(body) = &mut self.body {
            body.optional = false;
        }
        self
    }

    /// Answers like this.
    pub fn answers(mut self, schema: SchemaFn) -> Self {
        self.answer = schema;
        self
    }

    /// Is carried out like this.
    pub fn handled<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, Problem>> + Send + 'static,
    {
        self.handler = Box::new(move |call| Box::pin(handler(call)));
        self
    }

    /// The scopes one of which is needed.
    pub fn scopes(&self) -> Vec<Scope> {
        [&[self.scope], self.or_scopes].concat()
    }

    /// Whether its path has an `{id}`.
    pub fn has_id(&self) -> bool {
        self.path.contains("{id}")
    }

    /// Whether its path has a `{name}`.
    pub fn has_name(&self) -> bool {
        self.path.contains("{name}")
    }

    /// The context that it belongs to.
    pub fn context(&self) -> &'static str {
        self.name.split('.').next().unwrap_or(self.name)
    }

    /// Every problem that it may answer with.
    pub fn all_problems(&self) -> Vec<Code> {
        use codes as c;
        let mut all = vec![
            c::UNAUTHENTICATED,
            c::INVALID_API_KEY,
            c::API_KEY_EXPIRED,
            c::CREDENTIAL_IN_URL,
            c::FORBIDDEN,
            c::BAD_REQUEST,
            c::HEADERS_TOO_LARGE,
            c::VALIDATION_FAILED,
            c::UNKNOWN_FIELD,
            c::INTERNAL,
            c::UNAVAILABLE,
        ];
        if self.has_id() {
            all.push(c::NOT_FOUND);
        }
        if self.body.is_some() {
            all.extend([c::MALFORMED_JSON, c::DUPLICATE_KEY, c::REQUEST_TIMEOUT, c::PAYLOAD_TOO_LARGE]);
            all.push(c::UNSUPPORTED_MEDIA_TYPE);
        }
        if self.paged {
            all.push(c::INVALID_CURSOR);
        }
        if self.keys != Keys::None {
            all.extend([c::IDEMPOTENCY_KEY_INVALID, c::IDEMPOTENCY_KEY_REUSED, c::IDEMPOTENCY_IN_PROGRESS]);
        }
        if self.keys == Keys::Required {
            all.push(c::IDEMPOTENCY_KEY_MISSING);
        }
        if self.conditional {
            all.push(c::VERSION_CONFLICT);
        }
        if self.conditional || self.kind == Kind::Query {
            all.push(c::LOG_RESTORED);
        }
        if self.kind == Kind::Query && !(self.tagged || self.body.is_none() && self.has_id()) {
            all.push(c::READ_MODEL_BEHIND);
        }
        all.extend_from_slice(&self.problems);
        all
    }
}

/// A success. Personal values in the body are still sealed: they are opened, or made null, at the edge, all at once.
pub struct Answer {
    pub(crate) status: Option<u16>,
    pub(crate) body: Value,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// What the caller is given to hold, once it is known in which incarnation of the log each belongs.
    pub(crate) tokens: Tokens,
    /// What is answered in its place once that has come; it is waited for outside the room of the requests at work.
    pub(crate) later: Option<BoxFuture<'static, Result<Answer, Problem>>>,
    /// What is answered in place of the body, for as long as the caller listens.
    pub(crate) stream: Option<Body>,
}

/// Sequences and versions that an answer tells.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tokens {
    /// The version of the resource, and the sequence of the event that made it.
    pub(crate) tag: Option<(i64, i64)>,
    /// What a reader must wait for to see the write.
    pub(crate) wrote: Option<i64>,
    /// What the read has seen.
    pub(crate) seen: Option<i64>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("later", &self.later.is_some())
            .finish_non_exhaustive()
    }
}

impl Answer {
    /// With the operation's status.
    pub fn new(body: Value) -> Self {
        Self { status: None, body, headers: Vec::new(), tokens: Tokens::default(), later: None, stream: None }
    }

    /// With what an operation makes bit by bit.
    pub fn streaming(stream: Body) -> Self {
        Self { stream: Some(stream), ..Self::new(Value::Null) }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((HeaderName::from_static(name), value.into()));
        self
    }

    /// The version of the resource.
    pub fn tagged<A>(mut self, loaded: &Loaded<A>) -> Self {
        self.tokens.tag = Some((loaded.version, loaded.sequence));
        self
    }

    /// What a reader must wait for to see the write.
    pub fn wrote(mut self, sequence: i64) -> Self {
        self.tokens.wrote = Some(sequence);
        self
    }

    /// What the read has seen, and how many seconds ago that was the newest.
    pub fn has_seen(mut self, sequence: i64, age_seconds: f64) -> Self {
        self.tokens.seen = Some(sequence);
        self.with(READ_AGE, age_seconds.ceil() as i64)
    }

    /// The same of a read model, and how many of the tenant's streams it shows as they were.
    pub fn has_read(self, point: ReadPoint, age_seconds: f64) -> Self {
        let answer = self.has_seen(point.sequence, age_seconds);
        if point.parked > 0 { answer.with(PARKED, point.parked) } else { answer }
    }

    /// What is answered in its place once that has come: the same later on, after `Prefer: wait=N`.
    pub fn later(mut self, waited: u64, answer: impl Future<Output = Result<Self, Problem>> + Send + 'static) -> Self {
        self.later = Some(Box::pin(async move {
            let applied = HeaderValue::from_str(&format!("wait={waited}")).ok();
            let answer = answer.await?;
            Ok(applied.into_iter().fold(answer, |answer, applied| answer.with(PREFERENCE_APPLIED, applied)))
        }));
        self
    }

    /// Where the resource is.
    pub fn at(mut self, path: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(path) {
            self.headers.push((header::LOCATION, value));
        }
        self
    }

    /// The answer of an earlier request with the same key.
    pub fn replayed(mut self, status: Option<i16>) -> Self {
        self.status = status.and_then(|status| u16::try_from(status).ok());
        self.with(REPLAYED, HeaderValue::from_static("true"))
    }
}
