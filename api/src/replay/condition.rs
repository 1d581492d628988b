//! `where`: an expression in CEL over an event as it is shown. It is looked through before anything is read.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::objects::{Key, Map};
use cel::{Context, ExecutionError, Program, Value};
use serde_json::Value as Json;

use super::ReplayError;
use super::selection::Shown;
use crate::audit::ShownEvent;

/// What an expression may name.
const NAMES: [&str; 11] = [
    "sequence",
    "type",
    "schema_version",
    "stream",
    "version",
    "occurred_at",
    "recorded_at",
    "actor",
    "request_id",
    "cause",
    "data",
];

/// The longest expression, in characters.
pub const LONGEST: usize = 2_000;
/// How deep an expression may be: each level takes some of a thread's stack.
const DEPTH: usize = 128;
/// How many macros (`all`, `exists`, `map`, …) may be in one another, or go on with what another gives: each goes through
/// a whole list.
const MACROS: usize = 2;
/// How many sums there may be outside of macros: a sum of texts or lists is a copy of both.
const SUMS: usize = 8;
const TAKES: &str = "computes something in `map`, which takes only what is there (a field, or an element)";
/// How long the events of a chunk may be asked.
const ASKED_WITHIN: Duration = Duration::from_secs(10);

/// An expression that can be asked of events.
pub struct Condition {
    /// As it was written.
    pub text: String,
    program: Program,
    /// What of an event it looks at.
    used: BTreeSet<&'static str>,
}

impl Condition {
    /// Reads an expression; says what is wrong where it is none, or names what there is not.
    pub fn compile(text: &str) -> Result<Self, String> {
        if text.chars().count() > LONGEST {
            return Err(format!("must have at most {LONGEST} characters"));
        }
        let program = Program::compile(text).map_err(|errors| format!("is no expression of CEL: {errors}"))?;
        let (used, context) = (BTreeSet::new(), Context::default());
        let mut names = Names { used, bound: Vec::new(), context, depth: 0, macros: 0, sums: 0, taking: false };
        names.check(program.expression())?;
        let used = names.used;
        Ok(Self { text: text.to_owned(), program, used })
    }

    /// Those of which it is true; an error at the first of which it is neither true nor false.
    pub(super) fn passing(&self, all: Vec<Shown>) -> Result<Vec<Shown>, ReplayError> {
        let (context, begun) = (Context::default(), Instant::now());
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
                    _ => value(&shown.value()),
                },
            );
        }
        match self.program.execute(&scope) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(other) => Err(format!("it gives a value of type {}, which is neither true nor false", other.type_of())),
            Err(error) => Err(error.to_string()),
        }
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

/// Looks through an expression for names that mean nothing.
struct Names<'e> {
    used: BTreeSet<&'static str>,
    /// The variables of the macros around (`all`, `exists`, `map`, …).
    bound: Vec<&'e str>,
    context: Context<'static, 'static>,
    /// How deep it is in the expression, and in how many macros.
    depth: usize,
    macros: usize,
    /// How many sums there were.
    sums: usize,
    /// Whether it is in what a macro takes into the list that it makes, once for each element.
    taking: bool,
}

impl<'e> Names<'e> {
    fn check(&mut self, expression: &'e IdedExpr) -> Result<(), String> {
        if self.depth == DEPTH {
            return Err(format!("is more than {DEPTH} levels deep"));
        }
        self.depth += 1;
        let checked = self.check_parts(expression);
        self.depth -= 1;
        checked
    }

    fn check_parts(&mut self, expression: &'e IdedExpr) -> Result<(), String> {
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => self.check(&select.operand),
            Expr::Call(call) => {
                if self.taking && call.func_name != operators::INDEX {
                    return Err(TAKES.to_owned());
                }
                self.function(&call.func_name)?;
                if call.func_name == operators::ADD {
                    return self.sum(&call.args);
                }
                call.target.iter().try_for_each(|target| self.check(target))?;
                call.args.iter().try_for_each(|argument| self.check(argument))
            }
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.check(element)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| self.entry(&entry.expr)),
            Expr::Struct(of) => Err(format!("there is no type `{}`", of.type_name)),
            Expr::Comprehension(over) => {
                if self.taking {
                    return Err(TAKES.to_owned());
                }
                if self.macros == MACROS {
                    return Err(format!(
                        "has more than {MACROS} macros (all, exists, map, …) in or behind one another"
                    ));
                }
                let outside = self.bound.len();
                self.macros += 1;
                self.check(&over.iter_range)?;
                self.check(&over.accu_init)?;
                self.bound.extend([over.iter_var.as_str(), &over.accu_var]);
                self.bound.extend(over.iter_var2.as_deref());
                [&over.loop_cond, &over.loop_step, &over.result].into_iter().try_for_each(|part| self.check(part))?;
                self.macros -= 1;
                self.bound.truncate(outside);
                Ok(())
            }
        }
    }

    /// A sum copies what it adds up. In a macro that would be done for each element, and what one macro has doubled the next
    /// one would double again: there only numbers are added, and elements to the list that the macro makes.
    fn sum(&mut self, parts: &'e [IdedExpr]) -> Result<(), String> {
        let number = |part: &IdedExpr| {
            use LiteralValue::{Double, Int, UInt};
            matches!(&part.expr, Expr::Literal(Int(_) | UInt(_) | Double(_)))
        };
        // Nobody can write the name of a macro's own list.
        let own = |part: &IdedExpr| matches!(&part.expr, Expr::Ident(name) if name.starts_with('@'));
        if let [made, element] = parts
            && self.macros > 0
            && own(made)
            && matches!(element.expr, Expr::List(_))
        {
            self.taking = true;
            let checked = self.check(element);
            self.taking = false;
            return checked;
        }
        if !parts.iter().any(number) {
            self.sums += 1;
            if self.macros > 0 {
                return Err("adds up in a macro (all, exists, map, …) what is no number written there".to_owned());
            }
            if self.sums > SUMS {
                return Err(format!("has more than {SUMS} sums without a number written in them"));
            }
        }
        parts.iter().try_for_each(|part| self.check(part))
    }

    fn entry(&mut self, entry: &'e EntryExpr) -> Result<(), String> {
        match entry {
            EntryExpr::MapEntry(entry) => {
                self.check(&entry.key)?;
                self.check(&entry.value)
            }
            EntryExpr::StructField(field) => self.check(&field.value),
        }
    }

    fn name(&mut self, name: &'e str) -> Result<(), String> {
        if self.bound.contains(&name) {
            return Ok(());
        }
        let known = NAMES.iter().find(|known| **known == name);
        self.used.extend(known);
        known.map(|_| ()).ok_or_else(|| format!("an event has no `{name}`; it has {}", NAMES.join(", ")))
    }

    /// The interpreter knows best which functions it has: they are called with nothing, and on a number.
    fn function(&self, name: &str) -> Result<(), String> {
        // Operators are functions with other names.
        if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
            return Ok(());
        }
        let unknown = |call: String| {
            let outcome = Program::compile(&call).map(|program| program.execute(&self.context));
            matches!(outcome, Ok(Err(ExecutionError::UndeclaredReference(_))))
        };
        if unknown(format!("{name}()")) && unknown(format!("0.{name}()")) {
            return Err(format!("there is no function `{name}`"));
        }
        Ok(())
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
            ("data.total.amount >", "no expression of CEL"),
            ("", "no expression of CEL"),
            ("amount > 5", "an event has no `amount`"),
            ("data.lines.exists(line, lines.quantity > 2)", "an event has no `lines`"),
            ("line.quantity > 2 || data.lines.exists(line, true)", "an event has no `line`"),
            ("lower(type) == 'x'", "no function `lower`"),
            ("false && type.lower() == 'x'", "no function `lower`"),
        ] {
            let error = Condition::compile(bad).err().unwrap_or_default();
            assert!(error.contains(told), "{bad}: {error}");
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
