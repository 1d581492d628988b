//! From a JSON value to what an operation takes, in a deserializer of our own: serde's would take an array for an object.

use serde::de::value::{MapDeserializer, SeqDeserializer, StringDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde_json::Value;

use crate::problem::{Problem, codes};

/// Reads a body as what an operation takes.
pub fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    let source = Source { value, text: false };
    serde_path_to_error::deserialize(source).map_err(|error| {
        let pointer = pointer(error.path());
        explain(pointer, &error.into_inner().to_string())
    })
}

/// Reads the parameters of a query string; a pointer is `?name`.
pub fn typed_query<T: DeserializeOwned>(parameters: Vec<(String, String)>) -> Result<T, Problem> {
    let value = parameters.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
    let source = Source { value: Value::Object(value), text: true };
    serde_path_to_error::deserialize(source).map_err(|error| {
        let pointer = pointer(error.path());
        let problem = explain(pointer, &error.into_inner().to_string());
        let pointer = problem.errors().first().map(|field| field.pointer.trim_start_matches('/').to_owned());
        problem.at_field(&format!("?{}", pointer.unwrap_or_default()))
    })
}

/// The problem behind what serde says of the field at `pointer`.
fn explain(mut pointer: String, message: &str) -> Problem {
    let named = |prefix: &str| message.strip_prefix(prefix).and_then(|rest| rest.split('`').next());
    if let Some(field) = named("unknown field `") {
        let segment = format!("/{}", escape(field));
        if !pointer.ends_with(&segment) {
            pointer.push_str(&segment);
        }
        return Problem::of_field(codes::UNKNOWN_FIELD, pointer, "is not a field here; leave it out");
    }
    if let Some(field) = named("missing field `") {
        return Problem::field(format!("{pointer}/{}", escape(field)), "is required");
    }
    let detail = match message.split_once(", expected ") {
        Some((found, expected)) if found.starts_with("invalid type: null") => {
            format!("must not be null, but {}", expectation(expected))
        }
        Some((found, expected)) if found.starts_with("invalid") => format!("must be {}", expectation(expected)),
        Some((found, expected)) if found.starts_with("unknown variant") => {
            // No caller is told of `none`, the status of what is not there.
            format!("must be {}", expected.replace("`none`, ", ""))
        }
        _ => message.to_owned(),
    };
    Problem::field(pointer, detail)
}

/// A path of serde's as a JSON Pointer.
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |mut pointer, segment| {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", escape(key))),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
        pointer
    })
}

/// A key as a segment of a JSON Pointer.
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// What serde expects, in words that callers know.
fn expectation(expected: &str) -> String {
    match expected {
        "i64" | "i32" | "i16" => "an integer".into(),
        "u64" | "u32" | "u16" | "u8" | "usize" => "an integer from 0 up".into(),
        "f64" => "a number".into(),
        "a string" | "a borrowed string" | "str" | "string" => "a text".into(),
        "a sequence" => "an array".into(),
        "a map" => "an object".into(),
        "a boolean" => "true or false".into(),
        "a formatted date and time string or a unix timestamp" | "an RFC 3339 formatted date and time string" => {
            "a time of RFC 3339 such as 2026-11-20T10:00:00Z".into()
        }
        other if other.starts_with("struct ") => "an object".into(),
        other => other.to_owned(),
    }
}

/// A JSON value as serde reads it. Where `text` is set, texts are read as numbers and booleans where these are wanted.
struct Source {
    value: Value,
    text: bool,
}

type Error = serde_json::Error;

impl Source {
    fn unexpected(&self) -> Unexpected<'_> {
        match &self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(value) if value.is_f64() => Unexpected::Other("a fraction"),
            Value::Number(_) => Unexpected::Other("a number"),
            Value::String(value) => Unexpected::Str(value),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
        }
    }

    /// A text that stands for a number or a boolean, as that.
    fn parsed(mut self) -> Self {
        if self.text
            && let Value::String(text) = &self.value
            && let Ok(value @ (Value::Number(_) | Value::Bool(_))) = serde_json::from_str(text)
        {
            self.value = value;
        }
        self
    }
}

macro_rules! scalars {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.parsed().deserialize_any(visitor)
        }
    )*};
}

macro_rules! as_it_is {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.deserialize_any(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Source {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.text;
        let beneath = move |value| Self { value, text };
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => number.deserialize_any(visitor),
            Value::String(value) => visitor.visit_string(value),
            Value::Array(values) => visitor.visit_seq(SeqDeserializer::new(values.into_iter().map(beneath))),
            Value::Object(entries) => {
                visitor.visit_map(MapDeserializer::new(entries.into_iter().map(|(key, value)| (key, beneath(value)))))
            }
        }
    }

    scalars! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
    }

    as_it_is! {
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_seq deserialize_map deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.value.is_object() {
            self.deserialize_any(visitor)
        } else {
            Err(Error::invalid_type(self.unexpected(), &"an object"))
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::String(text) => {
                let text: StringDeserializer<Error> = text.into_deserializer();
                text.deserialize_enum(name, variants, visitor)
            }
            _ => Err(Error::invalid_type(self.unexpected(), &"a text")),
        }
    }
}

impl IntoDeserializer<'_, Error> for Source {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(default)]
        #[allow(dead_code, reason = "only parsed")]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code, reason = "only parsed")]
        amount: i64,
        #[serde(default)]
        #[allow(dead_code, reason = "only parsed")]
        at: Option<chrono::DateTime<chrono::Utc>>,
    }

    fn untyped(value: Value) -> (&'static str, String, String) {
        let problem = typed::<Outer>(value).unwrap_err();
        let error = problem.errors()[0].clone();
        (problem.code().code, error.pointer, error.detail)
    }

    #[test]
    fn fields_are_named_by_pointer_and_told_what_they_must_be() {
        assert_eq!(untyped(json!({"x/y": 1})).1, "/x~1y");
        let (code, pointer, _) = untyped(json!({"inner": [{"amount": 1, "b": 2}]}));
        assert_eq!((code, pointer.as_str()), ("unknown-field", "/inner/0/b"));
        let (code, pointer, detail) = untyped(json!({"inner": [{}]}));
        assert_eq!((code, pointer.as_str(), detail.as_str()), ("validation-failed", "/inner/0/amount", "is required"));
        for bad in [json!(1.0), json!("1"), json!(true), json!(9_223_372_036_854_775_808_u64), json!([1])] {
            let (code, pointer, detail) = untyped(json!({"inner": [{"amount": bad}]}));
            assert_eq!((code, pointer.as_str()), ("validation-failed", "/inner/0/amount"), "{bad}");
            assert!(detail.contains("integer"), "{detail}");
        }
        let (_, pointer, detail) = untyped(json!({"inner": [{"amount": 1, "at": "yesterday"}]}));
        assert_eq!(pointer, "/inner/0/at", "{detail}");
        assert_eq!(untyped(json!([])).1, "", "an array is no object");
        assert_eq!(untyped(json!({"inner": [[1]]})).1, "/inner/0");
    }

    #[test]
    fn query_parameters_are_texts_that_may_stand_for_numbers() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Query {
            limit: Option<u8>,
            name: Option<String>,
        }
        let read = |pairs: &[(&str, &str)]| {
            typed_query::<Query>(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        let query = read(&[("limit", "7"), ("name", "7")]).unwrap();
        assert_eq!((query.limit, query.name.as_deref()), (Some(7), Some("7")));
        assert_eq!(read(&[("limit", "x")]).unwrap_err().errors()[0].pointer, "?limit");
        let unknown = read(&[("colour", "x")]).unwrap_err();
        assert_eq!((unknown.code().code, unknown.errors()[0].pointer.as_str()), ("unknown-field", "?colour"));
    }
}
