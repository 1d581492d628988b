//! Looks through an expression before anything is asked of it: for names that mean nothing, and for what would take memory
//! or a processor for itself.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::{Context, ExecutionError, Program, Value};
use regex::{Regex, RegexBuilder};

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

/// How deep an expression may be: each level takes some of a thread's stack.
const DEPTH: usize = 128;
/// How many macros (`all`, `exists`, `map`, …) may be in one another, or go on with what another gives: each goes through
/// a whole list.
const MACROS: usize = 2;
/// How many sums there may be outside of macros: a sum of texts or lists is a copy of both.
const SUMS: usize = 8;
const TAKES: &str = "computes something in `map`, which takes only what is there (a field, or an element)";
/// The largest automaton of a pattern, and the largest of one that is fast, in bytes; and for how many parts each counts:
/// for each character, a large one may look at all that it has.
const AUTOMATA: [(usize, usize); 2] = [(4 * 1024, 10), (64 * 1024, 1_000)];

/// What was found so far.
pub(super) struct Looks<'e> {
    /// The names of an event's parts.
    pub(super) used: BTreeSet<&'static str>,
    /// What `matches` asks for.
    pub(super) patterns: HashMap<String, Regex>,
    /// How many parts the expression has, patterns for more than one, and how many of its macros are in one another at most.
    pub(super) parts: usize,
    pub(super) deepest: usize,
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

impl<'e> Looks<'e> {
    /// Looks through all of it; says what is wrong first.
    pub(super) fn through(expression: &'e IdedExpr) -> Result<Self, String> {
        let mut looks = Self {
            used: BTreeSet::new(),
            patterns: HashMap::new(),
            parts: 0,
            deepest: 0,
            bound: Vec::new(),
            context: super::condition::context(&Arc::default()),
            depth: 0,
            macros: 0,
            sums: 0,
            taking: false,
        };
        looks.check(expression)?;
        Ok(looks)
    }

    fn check(&mut self, expression: &'e IdedExpr) -> Result<(), String> {
        if self.depth == DEPTH {
            return Err(format!("is more than {DEPTH} levels deep"));
        }
        self.depth += 1;
        self.parts += 1;
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
                match call.func_name.as_str() {
                    operators::ADD => return self.sum(&call.args),
                    "matches" => self.pattern(call)?,
                    "timestamp" | "duration" => self.constant(call)?,
                    _ => {}
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
                self.deepest = self.deepest.max(self.macros);
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

    /// A pattern is made once, of what is written there.
    fn pattern(&mut self, call: &CallExpr) -> Result<(), String> {
        let Some(Expr::Literal(LiteralValue::String(pattern))) = call.args.last().map(|pattern| &pattern.expr) else {
            return Err("has `matches` with a pattern that is no text written there".to_owned());
        };
        let made = AUTOMATA.iter().find_map(|(most, parts)| {
            let made = RegexBuilder::new(pattern.inner()).size_limit(*most).dfa_size_limit(*most * 4).build();
            match made {
                Err(regex::Error::CompiledTooBig(_)) => None,
                made => Some((made, *parts)),
            }
        });
        let (made, parts) = made.ok_or("has a pattern for `matches` that is too large")?;
        let made = made.map_err(|error| {
            // The lines before it draw the pattern.
            let (drawn, why) = (error.to_string(), "a pattern for `matches` that is none");
            let last = drawn.lines().last().unwrap_or_default();
            format!("has {why}: {}", last.strip_prefix("error: ").unwrap_or(last))
        })?;
        self.parts += parts;
        self.patterns.insert(pattern.inner().to_owned(), made);
        Ok(())
    }

    /// A time that is written there is one, or is told at once.
    fn constant(&self, call: &CallExpr) -> Result<(), String> {
        let [IdedExpr { expr: Expr::Literal(LiteralValue::String(text)), .. }] = call.args.as_slice() else {
            return Ok(());
        };
        let (name, text) = (&call.func_name, text.inner());
        let asked = IdedExpr { id: 0, expr: Expr::Call(call.clone()) };
        let known = Value::resolve(&asked, &self.context);
        known.map(|_| ()).map_err(|_| format!("has `{name}` of `{text}`, which is none"))
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
