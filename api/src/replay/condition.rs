//! `where`: an expression in CEL over an event as it is shown. It is looked through before anything is read.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cel::common::ast::{Expr, IdedExpr, operators};
use cel::extractors::This;
use cel::objects::{Key, Map};
use cel::{Context, ExecutionError, Program, Value};
use eventstore::chain;
use regex::Regex;
use serde_json::Value as Json;

use super::ReplayError;
use super::looks::Looks;
use super::selection::Shown;
use crate::audit::ShownEvent;

/// The longest expression, in characters.
pub const LONGEST: usize = 2_000;
/// The most patterns that one may have: each takes memory of its own.
const PATTERNS: usize = 8;
/// How long the events of a chunk may be asked.
const ASKED_WITHIN: Duration = Duration::from_secs(10);
/// The most that one event may be asked, in nanoseconds by a rough guess: nobody can break an answer off.
const MOST_WORK: u128 = 10_000_000_000;

/// An expression that can be asked of events.
pub struct Condition {
    /// As it was written.
    pub text: String,
    /// What stands between its outermost `&&`: what says no spares those behind it.
    conjuncts: Vec<Conjunct>,
    /// What of an event it looks at.
    used: BTreeSet<&'static str>,
    /// What `matches` asks for.
    patterns: Arc<HashMap<String, Regex>>,
}

struct Conjunct {
    expression: IdedExpr,
    /// How much it has to do for each element of what its macros go through, and how many of these are in one another at
    /// most.
    size: (usize, usize),
}

impl Condition {
    /// Reads an expression; says what is wrong where it is none, or names what there is not.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.chars().count() > LONGEST {
            return Err(format!("must have at most {LONGEST} characters"));
        }
        let program = Program::compile(text).map_err(|errors| {
            // The first of the errors; the lines behind it draw the expression.
            let told = errors.to_string();
            let first = told.lines().next().unwrap_or_default();
            format!("is no expression of CEL: {}", first.trim_start_matches("ERROR: <input>:"))
        })?;
        let (mut used, mut patterns, mut conjuncts) = (BTreeSet::new(), HashMap::new(), Vec::new());
        for expression in split(program.expression()) {
            let looks = Looks::through(expression)?;
            conjuncts.push(Conjunct { expression: expression.clone(), size: (looks.parts, looks.deepest) });
            used.extend(looks.used);
            patterns.extend(looks.patterns);
        }
        if patterns.len() > PATTERNS {
            return Err(format!("has more than {PATTERNS} patterns for `matches`"));
        }
        Ok(Self { text: text.to_owned(), conjuncts, used, patterns: Arc::new(patterns) })
    }

    /// Those of which it is true; an error at the first of which it is neither true nor false.
    pub(super) fn passing(&self, all: Vec<Shown>) -> Result<Vec<Shown>, ReplayError> {
        let (context, begun) = (context(&self.patterns), Instant::now());
        let mut passing = Vec::new();
        for shown in all {
            let sequence = shown.event.sequence;
            if self.holds(&shown, &context).map_err(|what| ReplayError::Condition { sequence, what })? {
                passing.push(shown);
            }
            if begun.elapsed() > ASKED_WITHIN {
                let what = "it takes too long; ask for less of each event".to_owned();
                return Err(ReplayError::Condition { sequence, what });
            }
        }
        Ok(passing)
    }

    fn holds(&self, shown: &Shown, context: &Context<'_, '_>) -> Result<bool, String> {
        let mut scope = context.new_inner_scope();
        let event = ShownEvent::of(&shown.event, ());
        let data = if self.used.contains("data") { shown.value() } else { Json::Null };
        for name in &self.used {
            let optional = |text: &Option<String>| text.as_deref().map_or(Value::Null, string);
            scope.add_variable_from_value(
                *name,
                match *name {
                    "sequence" => Value::Int(event.sequence),
                    "type" => string(event.event_type),
                    "schema_version" => Value::Int(event.schema_version.into()),
                    "stream" => string(&event.stream),
                    "version" => Value::Int(event.version),
                    "occurred_at" => Value::Timestamp(shown.event.occurred_at.fixed_offset()),
                    "recorded_at" => Value::Timestamp(shown.event.recorded_at.fixed_offset()),
                    "actor" => string(event.actor),
                    "request_id" => optional(&event.request_id),
                    "cause" => optional(&event.cause),
                    _ => value(&data),
                },
            );
        }
        let extent = extent(&data);
        let mut holds = Ok(true);
        for conjunct in &self.conjuncts {
            // What is false is so whatever stands beside it: so says the language.
            match conjunct.holds(extent, &scope) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(what) => holds = holds.and(Err(what)),
            }
        }
        holds
    }
}

impl Conjunct {
    fn holds(&self, extent: (usize, usize), scope: &Context<'_, '_>) -> Result<bool, String> {
        self.bear(extent)?;
        match Value::resolve(&self.expression, scope) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(other) => Err(format!("it gives a value of type {}, which is neither true nor false", other.type_of())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Refuses an event that would take too long: each part of the expression may go over all that the event has, for each
    /// element of each list that a macro goes through.
    fn bear(&self, (longest, size): (usize, usize)) -> Result<(), String> {
        let (parts, deepest) = self.size;
        let times = (longest.max(1) as u128).saturating_pow(u32::try_from(deepest).unwrap_or(u32::MAX));
        let work = times.saturating_mul(parts as u128).saturating_mul(100 + size as u128 / 8);
        if work > MOST_WORK {
            return Err(format!("it takes too long for an event with a list of {longest}; ask for less of it"));
        }
        Ok(())
    }
}

/// What stands between the outermost `&&` of an expression.
fn split(expression: &IdedExpr) -> Vec<&IdedExpr> {
    match &expression.expr {
        Expr::Call(call) if call.func_name == operators::LOGICAL_AND => call.args.iter().flat_map(split).collect(),
        _ => vec![expression],
    }
}

/// What an expression can call.
pub(super) fn context(patterns: &Arc<HashMap<String, Regex>>) -> Context<'static, 'static> {
    let (mut context, patterns) = (Context::default(), patterns.clone());
    let matches = move |This(text): This<Arc<String>>, pattern: Arc<String>| match patterns.get(&*pattern) {
        Some(pattern) => Ok(pattern.is_match(&text)),
        None => Err(ExecutionError::function_error("matches", "its pattern is not written there")),
    };
    if let Err(error) = context.add_function("matches", matches) {
        tracing::error!(error = chain(&error), "`matches` can't be called");
    }
    context
}

/// The longest list or object in a value, and how many characters its texts have in all.
fn extent(json: &Json) -> (usize, usize) {
    let of_all = |own: usize, parts: &mut dyn Iterator<Item = &Json>| {
        parts.map(extent).fold((own, own), |(longest, sum), (long, size)| (longest.max(long), sum + size))
    };
    match json {
        Json::String(text) => (0, text.len()),
        Json::Array(items) => of_all(items.len(), &mut items.iter()),
        Json::Object(fields) => of_all(fields.len(), &mut fields.values()),
        _ => (0, 1),
    }
}

fn string(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

/// JSON as CEL has it; whole numbers are `int`, so that they can be compared and added without a cast.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(yes) => Value::Bool(*yes),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::UInt(number),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => string(text),
        Json::Array(items) => Value::List(Arc::new(items.iter().map(value).collect())),
        Json::Object(fields) => {
            let fields = fields.iter().map(|(name, field)| (Key::from(name.as_str()), value(field)));
            Value::Map(Map { map: Arc::new(fields.collect::<HashMap<_, _>>()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use eventstore::RecordedEvent;
    use serde_json::json;
    use uuid::Uuid;

    use super::super::selection::Data;
    use super::*;

    fn event() -> Shown {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let event = RecordedEvent {
            position: 42,
            tenant_id: Uuid::from_u128(1),
            sequence: 7,
            stream_id: Uuid::from_u128(2),
            stream_type: "commerce.order".into(),
            version: 3,
            event_id: Uuid::from_u128(3),
            event_type: "order.placed".into(),
            schema_version: 1,
            subjects: None,
            actor: "key_01j00000000000000000000000".into(),
            occurred_at: at(1_700_000_000),
            recorded_at: at(1_800_000_000),
            payload: None,
            metadata: Some(r#"{"request_id":"r-1"}"#.into()),
        };
        let data = json!({
            "total": {"amount": 1500, "currency": "USD"}, "lines": [{"sku": "cd", "quantity": 3}], "factor": 1.5, "name": null,
        });
        Shown { event, data: Data::Value(data) }
    }

    fn ask(text: &str) -> Result<bool, String> {
        let condition = Condition::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        condition.passing(vec![event()]).map(|passing| passing.len() == 1).map_err(|error| error.to_string())
    }

    fn ask_anyhow(text: &str) -> Option<bool> {
        Condition::compile(text).ok()?.passing(vec![event()]).map(|passing| passing.len() == 1).ok()
    }

    #[test]
    fn nothing_grows_beyond_what_an_event_has() {
        for text in [
            "['aaaa'].map(x, x + x).map(x, x + x).map(x, x + x).exists(x, x == '')",
            "[data.name].map(x, x + x).exists(x, x == '')",
            "[[0]].map(x, x + [0, 0]).all(x, x == [])",
            "data.lines.map(x, string(x.sku)).exists(x, x == '')",
            "data.lines.map(x, data.lines.map(y, y)).size() == 0",
            "data.lines.filter(x, true).filter(x, true).exists(x, true)",
            "data.lines.exists(x, x.sku + x.sku == '')",
            "data.name + data.name + data.name + data.name + data.name + data.name + data.name + data.name + data.name + '' == ''",
        ] {
            assert!(Condition::compile(text).is_err(), "{text}");
        }
        for text in [
            "data.lines.map(x, x.sku).exists(x, x == 'cd')",
            "data.lines.map(x, x.quantity > 1, x['sku']) == ['cd']",
            "data.lines.filter(x, x.quantity + 1 > 3).size() == 1",
            "data.lines.exists_one(x, x.sku == 'cd') && data.lines.all(x, x.quantity == 3)",
        ] {
            assert_eq!(ask(text), Ok(true), "{text}");
        }
    }

    #[test]
    fn an_expression_sees_the_event_as_it_is_shown() {
        for (text, holds) in [
            ("sequence == 7 && version == 3 && schema_version == 1", true),
            ("type == 'order.placed' && type.startsWith('order.')", true),
            ("type in ['order.refunded', 'note.written']", false),
            ("stream == 'ord_00000000000000000000000002'", true),
            ("actor.startsWith('key_') && request_id == 'r-1' && cause == null", true),
            ("data.total.amount >= 1000 && data.total.amount + 1 == 1501", true),
            ("data.total['currency'] == 'EUR'", false),
            ("data.factor > 1.0 && data.name == null", true),
            ("data.lines.exists(line, line.sku == 'cd' && line.quantity > 2)", true),
            ("data.lines.all(line, line.quantity > 3)", false),
            ("size(data.lines) == 1 && has(data.total) && !has(data.country)", true),
            ("has(data.country) && data.country == 'FR'", false),
            ("type == 'customer.created' && data.country == 'FR'", false),
            ("occurred_at < timestamp('2024-01-01T00:00:00Z') && recorded_at > occurred_at", true),
            ("data.total.currency.matches('^U')", true),
        ] {
            assert_eq!(ask(text), Ok(holds), "{text}");
        }
    }

    #[test]
    fn a_bad_expression_is_told_before_anything_is_read() {
        for (bad, told) in [
            ("data.total.amount >", "no expression of CEL: 1:20: Syntax error"),
            ("", "no expression of CEL"),
            ("amount > 5", "an event has no `amount`"),
            ("data.lines.exists(line, lines.quantity > 2)", "an event has no `lines`"),
            ("line.quantity > 2 || data.lines.exists(line, true)", "an event has no `line`"),
            ("lower(type) == 'x'", "no function `lower`"),
            ("false && type.lower() == 'x'", "no function `lower`"),
            ("type.matches('(a')", "a pattern for `matches` that is none: unclosed group"),
            ("type.matches('\\\\pL{1000}')", "too large"),
            ("type.matches(actor)", "no text written there"),
            (&(0..9).map(|n| format!("type.matches('{n}')")).collect::<Vec<_>>().join(" || "), "8 patterns"),
            ("occurred_at > timestamp('yesterday')", "`timestamp` of `yesterday`, which is none"),
            ("occurred_at - recorded_at > duration('soon')", "`duration` of `soon`, which is none"),
        ] {
            let error = Condition::compile(bad).err().unwrap_or_default();
            assert!(error.contains(told) && !error.contains('\n'), "{bad}: {error}");
        }
    }

    #[test]
    fn what_would_take_a_thread_or_a_processor_for_itself_is_refused() {
        let chain = |count: usize| format!("sequence > {}", vec!["0"; count].join("+"));
        let nested = |count: usize| format!("{}true{}", "(".repeat(count), ")".repeat(count));
        let lists = |count: usize| format!("size({}sequence{}) == 1", "[".repeat(count), "]".repeat(count));
        for (good, holds) in [(chain(100), true), (nested(40), true), (lists(60), true)] {
            assert_eq!(ask(&good), Ok(holds), "{good}");
        }
        let choices = (0..60).map(|n| format!("type == 't.{n}'")).collect::<Vec<_>>().join(" || ");
        assert_eq!(ask(&choices), Ok(false));
        let bad = |text: &str| Condition::compile(text).err().unwrap_or_else(|| panic!("{text} is taken"));
        assert!(bad(&chain(900)).contains("128 levels"));
        assert!(bad(&"x".repeat(LONGEST + 1)).contains("2000 characters"));
        for deep in [nested(900), lists(900)] {
            bad(&deep);
        }
        // Taken or not, no stack is too small for them.
        for deep in ["!".repeat(1_900) + "true", "-".repeat(1_900) + "1 == 1", "data".to_owned() + &".a".repeat(900)] {
            let _ = ask_anyhow(&deep);
        }
        let in_one_another = "data.lines.all(a, data.lines.all(b, data.lines.all(c, a == b && b == c)))";
        assert!(bad(in_one_another).contains("2 macros"));
        assert_eq!(
            ask("data.lines.all(a, data.lines.all(b, a == b)) && data.lines.exists(a, a.quantity > 2)"),
            Ok(true)
        );
    }

    #[test]
    fn what_would_take_too_long_for_an_event_is_refused() {
        let with = |count: usize| {
            let mut shown = event();
            shown.data = Data::Value(json!({ "lines": vec![json!({"sku": "cd", "quantity": 3}); count] }));
            shown
        };
        let ask = |text: &str, count| {
            Condition::compile(text).unwrap().passing(vec![with(count)]).map(|passing| passing.len())
        };
        let pairs = "data.lines.all(a, data.lines.all(b, a.sku == b.sku))";
        assert_eq!(ask(pairs, 200).ok(), Some(1));
        let told = ask(pairs, 20_000).unwrap_err().to_string();
        assert!(told.starts_with("at sequence 7: ") && told.contains("a list of 20000"), "{told}");
        for line_by_line in
            ["data.lines.all(a, a.sku.matches('^c'))", "size(data.lines) > 5 && data.lines[0].quantity == 3"]
        {
            assert_eq!(ask(line_by_line, 20_000).ok(), Some(1), "{line_by_line}");
        }
    }

    #[test]
    fn what_goes_wrong_on_an_event_is_told_with_its_sequence() {
        for (bad, told) in [
            ("data.country == 'FR'", "country"),
            ("data.total", "neither true nor false"),
            ("1 / 0 == sequence", "zero"),
        ] {
            let error = ask(bad).unwrap_err();
            assert!(error.starts_with("at sequence 7: ") && error.contains(told), "{bad}: {error}");
        }
    }
}
