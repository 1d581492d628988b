//! Bodies are parsed strictly: what two readers could read in two ways, or what we would silently lose, is refused and
//! named by its RFC 6901 pointer.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

mod typed;

pub use typed::{escape, typed, typed_query};

use crate::problem::{Problem, codes};

/// How deep arrays and objects may be nested.
const MAX_DEPTH: usize = 32;

/// Reads one JSON value: no key twice, bounded depth, nothing after it. [`plain`] refuses the rest, item by item in a batch.
pub fn parse(bytes: &[u8]) -> Result<Value, Problem> {
    let refused = RefCell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let strict = Strict { at: &At::Root, depth: 0, refused: &refused };
    let parsed = strict.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    match (parsed, refused.into_inner()) {
        (_, Some(problem)) => Err(problem),
        (Ok(value), None) => Ok(value),
        (Err(error), None) => Err(Problem::new(codes::MALFORMED_JSON, malformed(&error))),
    }
}

/// Refuses what no caller may write: keys that begin with `$`, which mean something in the log, and NUL characters, which
/// Postgres can't store.
pub fn plain(value: &Value) -> Result<(), Problem> {
    check(value, &At::Root)
}

fn check(value: &Value, at: &At<'_>) -> Result<(), Problem> {
    match value {
        Value::String(text) if text.contains('\0') => {
            Err(Problem::field(at.to_string(), "must not contain NUL characters"))
        }
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(index, item)| check(item, &At::Index(at, index)))
        }
        Value::Object(fields) => fields.iter().try_for_each(|(key, field)| {
            let here = At::Key(at, key);
            if key.starts_with('$') {
                Err(Problem::field(here.to_string(), "is reserved: keys must not begin with `$`"))
            } else if key.contains('\0') {
                Err(Problem::field(at.to_string(), "has a key with a NUL character; remove it"))
            } else {
                check(field, &here)
            }
        }),
        _ => Ok(()),
    }
}

fn malformed(error: &serde_json::Error) -> String {
    if error.is_eof() && error.column() == 0 {
        return "The body is empty. Send one JSON value.".into();
    }
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or("it can't be read");
    format!("The body is not JSON: {what}, at line {line}, column {column}. Send one JSON value in UTF-8.")
}

/// Where the reader stands.
enum At<'a> {
    Root,
    Key(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(parent, key) => write!(f, "{parent}/{}", escape(key)),
            Self::Index(parent, index) => write!(f, "{parent}/{index}"),
        }
    }
}

/// Reads a value and refuses what is ambiguous; the problem is left in `refused`, for serde's errors carry only text.
struct Strict<'a> {
    at: &'a At<'a>,
    depth: usize,
    refused: &'a RefCell<Option<Problem>>,
}

impl Strict<'_> {
    fn refuse<E: serde::de::Error>(&self, problem: Problem) -> E {
        self.refused.replace(Some(problem));
        E::custom("refused")
    }

    fn check_depth<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.depth < MAX_DEPTH {
            return Ok(());
        }
        let detail = format!("The body is nested more than {MAX_DEPTH} levels deep. Send a flatter one.");
        Err(self.refuse(Problem::new(codes::MALFORMED_JSON, detail)))
    }

    fn check_key<E: serde::de::Error>(&self, key: &str, known: &Map<String, Value>) -> Result<(), E> {
        let at = At::Key(self.at, key).to_string();
        if known.contains_key(key) {
            Err(self.refuse(Problem::of_field(codes::DUPLICATE_KEY, at, "stands twice; name it once")))
        } else {
            Ok(())
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<Value, S::Error> {
        self.check_depth()?;
        let mut values = Vec::new();
        loop {
            let at = At::Index(self.at, values.len());
            let seed = Strict { at: &at, depth: self.depth + 1, refused: self.refused };
            match items.next_element_seed(seed)? {
                Some(value) => values.push(value),
                None => return Ok(Value::Array(values)),
            }
        }
    }

    fn visit_map<M: MapAccess<'de>>(self, mut entries: M) -> Result<Value, M::Error> {
        self.check_depth()?;
        let mut values = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.check_key(&key, &values)?;
            let at = At::Key(self.at, &key);
            let seed = Strict { at: &at, depth: self.depth + 1, refused: self.refused };
            let value = entries.next_value_seed(seed)?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(text: &[u8]) -> (&'static str, Option<String>) {
        let problem = parse(text).and_then(|value| plain(&value)).unwrap_err();
        (problem.code().code, problem.errors().first().map(|error| error.pointer.clone()))
    }

    #[test]
    fn what_is_not_one_json_value_is_malformed() {
        let deep = "[".repeat(40) + &"]".repeat(40);
        for text in [
            &b""[..],
            b"{",
            b"{}{}",
            b"{} x",
            b"{\"a\":1,}",
            b"{\"a\":\"\xff\"}",
            br#"{"a":"\ud800"}"#,
            br#"{"\udc00":1}"#,
            b"nul",
            b"{\"a\":1e999}",
            b"\xef\xbb\xbf{}",
            deep.as_bytes(),
        ] {
            assert_eq!(refused(text), ("malformed-json", None), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn ambiguous_keys_and_nul_are_refused_by_pointer() {
        assert_eq!(refused(br#"{"a":{"b":1,"b":1}}"#), ("duplicate-key", Some("/a/b".into())));
        assert_eq!(refused(br#"[{"a/b":1,"a\/b":2}]"#), ("duplicate-key", Some("/0/a~1b".into())));
        assert_eq!(refused(br#"{"name":{"$sealed":"AQ"}}"#), ("validation-failed", Some("/name/$sealed".into())));
        assert_eq!(refused(br#"{"a":["x","\u0000"]}"#), ("validation-failed", Some("/a/1".into())));
        assert_eq!(refused(br#"{"a":{"\u0000":1}}"#), ("validation-failed", Some("/a".into())));
    }

    #[test]
    fn values_come_through_as_they_are() {
        let text = br#" {"b":[1,-2,1.5,true,null,"\u00e9\ud83d\ude00"],"a":{}} "#;
        assert_eq!(parse(text).unwrap(), json!({"b":[1,-2,1.5,true,null,"é😀"],"a":{}}));
    }
}
