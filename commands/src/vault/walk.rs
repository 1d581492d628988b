//! Finds personal values in JSON: those to be sealed in the text of a payload, those to be opened in a value.
//!
//! Sealing works on the text and replaces just the spans of `{"$open": …}`, so every other byte of a payload stays as
//! its event wrote it (numbers too, which a detour over [`Value`] would round).

use std::fmt;
use std::ops::Range;

use domain::RetentionClass;
use domain::personal::{ERASED, HIDDEN, OPEN, SEALED, SECRET};
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::seal::{Envelope, SealError};

/// The payload is no JSON, or has an `$open` that is not of the one form. Never shows any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payload has an open personal value of an unknown form")]
pub struct WalkError;

/// A value that waits to be sealed.
#[derive(Debug)]
pub(super) struct OpenPlace<'a> {
    span: Range<usize>,
    /// Where it stands (RFC 6901).
    pub path: String,
    pub class: RetentionClass,
    pub subject: Uuid,
    /// Its JSON text.
    pub json: &'a str,
}

/// What stands in `{"$open": …}`, as `Personal` writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Open<'a> {
    class: RetentionClass,
    subject: Uuid,
    #[serde(borrow)]
    value: &'a RawValue,
}

/// Every open value of a payload in compact JSON, as `serde_json` writes it, in the order of the text. What is inside
/// an open value is part of it.
pub(super) fn open_places(text: &str) -> Result<Vec<OpenPlace<'_>>, WalkError> {
    // Inside strings JSON escapes the quotes, so text without this has no such key.
    if !text.contains("\"$open\"") {
        return Ok(Vec::new());
    }
    let mut walk = Walk { text, path: String::new(), found: Vec::new() };
    let mut parser = serde_json::Deserializer::from_str(text);
    walk.deserialize(&mut parser).and_then(|()| parser.end()).map_err(|_| WalkError)?;
    Ok(walk.found)
}

/// The text with each of its open values replaced by what `seal` makes of it.
pub(super) fn replace<E>(
    text: &str,
    places: &[OpenPlace<'_>],
    mut seal: impl FnMut(&OpenPlace<'_>) -> Result<String, E>,
) -> Result<String, E> {
    let mut out = String::with_capacity(text.len() + places.len() * 200);
    let mut done = 0;
    for place in places {
        out.push_str(&text[done..place.span.start]);
        out.push_str("{\"");
        out.push_str(SEALED);
        out.push_str("\":\"");
        out.push_str(&seal(place)?);
        out.push_str("\"}");
        done = place.span.end;
    }
    out.push_str(&text[done..]);
    Ok(out)
}

struct Walk<'a> {
    text: &'a str,
    path: String,
    found: Vec<OpenPlace<'a>>,
}

impl<'a> Walk<'a> {
    fn take(&mut self, raw: &'a RawValue) -> Option<()> {
        let inner = raw.get().as_ptr().addr().checked_sub(self.text.as_ptr().addr())?;
        let start = self.text.get(..inner)?.strip_suffix("{\"$open\":")?.len();
        let end = inner + raw.get().len();
        self.text.get(end..)?.strip_prefix('}')?;
        let open: Open<'a> = serde_json::from_str(raw.get()).ok()?;
        self.found.push(OpenPlace {
            span: start..end + 1,
            path: self.path.clone(),
            class: open.class,
            subject: open.subject,
            json: open.value.get(),
        });
        Some(())
    }
}

impl<'a> DeserializeSeed<'a> for &mut Walk<'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for &mut Walk<'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let here = self.path.len();
        let mut first = true;
        while let Some(is_open) = map.next_key_seed(Key(&mut self.path))? {
            if is_open {
                let raw: &'a RawValue = map.next_value()?;
                self.path.truncate(here);
                let alone = first && map.next_key::<IgnoredAny>()?.is_none();
                return if alone && self.take(raw).is_some() { Ok(()) } else { Err(A::Error::custom(WalkError)) };
            }
            map.next_value_seed(&mut *self)?;
            self.path.truncate(here);
            first = false;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<(), A::Error> {
        let here = self.path.len();
        for index in 0_usize.. {
            self.path.push('/');
            self.path.push_str(&index.to_string());
            let more = seq.next_element_seed(&mut *self)?.is_some();
            self.path.truncate(here);
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Adds a key to the path, escaped as RFC 6901 has it, and tells whether it is `$open`.
struct Key<'p>(&'p mut String);

impl<'a> DeserializeSeed<'a> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        self.0.push('/');
        for letter in key.chars() {
            match letter {
                '~' => self.0.push_str("~0"),
                '/' => self.0.push_str("~1"),
                other => self.0.push(other),
            }
        }
        Ok(key == OPEN)
    }
}

/// What a JSON value is to the vault.
enum Kind<'a> {
    Sealed(&'a str),
    Erased,
    Open,
    Other,
}

fn kind(value: &Value) -> Kind<'_> {
    let Value::Object(map) = value else { return Kind::Other };
    let mut entries = map.iter();
    match (entries.next(), entries.next()) {
        (Some((key, Value::String(text))), None) if key == SEALED => Kind::Sealed(text),
        (Some((key, Value::Bool(true))), None) if key == ERASED => Kind::Erased,
        (Some((key, _)), None) if key == OPEN => Kind::Open,
        _ => Kind::Other,
    }
}

/// Every sealed value of a JSON value, with its place; where one was erased, null takes the place at once.
pub(super) fn sealed_places<'a>(
    value: &'a mut Value,
    found: &mut Vec<(&'a mut Value, Envelope)>,
) -> Result<(), SealError> {
    let envelope = match kind(value) {
        Kind::Sealed(text) => Some(Envelope::parse(text)?),
        Kind::Erased => {
            *value = Value::Null;
            None
        }
        Kind::Open | Kind::Other => None,
    };
    match (envelope, value) {
        (Some(envelope), place) => found.push((place, envelope)),
        (None, Value::Object(map)) => {
            for (_, child) in map.iter_mut() {
                sealed_places(child, found)?;
            }
        }
        (None, Value::Array(items)) => {
            for child in items {
                sealed_places(child, found)?;
            }
        }
        (None, _) => {}
    }
    Ok(())
}

/// Null in every place of a personal value, in whichever state it is.
pub(super) fn mask(value: &mut Value) {
    if !matches!(kind(value), Kind::Other) {
        *value = Value::Null;
        return;
    }
    match value {
        Value::Object(map) => map.values_mut().for_each(mask),
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

/// The word for a secret in every place where one is, sealed.
pub(super) fn hide_secrets(value: &mut Value) {
    match value {
        Value::Object(map) if map.len() == 1 && map.contains_key(SECRET) => *value = Value::from(HIDDEN),
        Value::Object(map) => map.values_mut().for_each(hide_secrets),
        Value::Array(items) => items.iter_mut().for_each(hide_secrets),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn open(json: &str) -> String {
        format!(r#"{{"$open":{{"class":"support","subject":"00000000-0000-0000-0000-000000000007","value":{json}}}}}"#)
    }

    fn replaced(text: &str) -> Result<String, WalkError> {
        replace(text, &open_places(text)?, |place| {
            Ok(format!("{} {:?} {}", place.path, place.class, place.json.replace('"', "'")))
        })
    }

    #[test]
    fn open_values_are_found_with_their_paths_and_all_else_stays_to_the_byte() {
        let (name, number, nested) = (open(r#""A\"{}da""#), open("1.50e1"), open(r#"{"$open":1,"x":[2]}"#));
        let text = format!(
            r#"{{"a":{name},"b":[1e2,{{"c/d~e":{number}}},{nested}],"ü\n":[[{number}]],"n":12345678901234567890123.10,"s":"$open"}}"#
        );
        let expected = concat!(
            r#"{"a":{"$sealed":"/a Support 'A\'{}da'"},"b":[1e2,{"c/d~e":{"$sealed":"/b/1/c~1d~0e Support 1.50e1"}},"#,
            r#"{"$sealed":"/b/2 Support {'$open':1,'x':[2]}"}],"ü\n":[[{"$sealed":"/ü"#,
            "\n",
            r#"/0/0 Support 1.50e1"}]],"n":12345678901234567890123.10,"s":"$open"}"#
        );
        assert_eq!(replaced(&text).unwrap(), expected);
        assert_eq!(replaced(&open("null")).unwrap(), r#"{"$sealed":" Support null"}"#, "the root's path is empty");
        for text in ["{}", "not even JSON", r#"{"a":"{\"$open\":1}"}"#, r#"{"a\"$open":1}"#] {
            assert_eq!(replaced(text).unwrap(), text);
        }
    }

    #[test]
    fn an_open_value_of_another_form_is_refused() {
        let whole = open("1");
        for bad in [
            r#"{"$open":1}"#.to_owned(),
            r#"{"$open":{"class":"support"}}"#.to_owned(),
            whole.replace("support", "other"),
            whole.replace("\"value\"", "\"more\":1,\"value\""),
            whole.replace("{\"$open\"", "{ \"$open\""),
            whole.replace("00007", "x"),
            format!("{},\"b\":2}}", &whole[..whole.len() - 1]),
            format!("{{\"b\":2,{}", &whole[1..]),
            format!("{whole}x"),
            whole[..whole.len() - 1].to_owned(),
            format!("{}{whole}{}", "[".repeat(200), "]".repeat(200)),
        ] {
            assert_eq!(replaced(&bad), Err(WalkError), "{bad}");
        }
    }

    #[test]
    fn a_masked_value_has_null_wherever_a_personal_one_was() {
        let mut value = json!({
            "name": {"$sealed": "AQ"},
            "email": {"$erased": true},
            "lines": [{"note": {"$open": {"class": "support"}}, "amount": 1}, {"$sealed": "AQ"}],
            "odd": {"$sealed": "AQ", "more": 1},
            "$sealed": "a caller's own",
        });
        mask(&mut value);
        let expected = json!({
            "name": null,
            "email": null,
            "lines": [{"note": null, "amount": 1}, null],
            "odd": {"$sealed": "AQ", "more": 1},
            "$sealed": "a caller's own",
        });
        assert_eq!(value, expected);
        let mut root = json!({"$sealed": "AQ"});
        mask(&mut root);
        assert_eq!(root, Value::Null);
    }

    #[test]
    fn a_sealed_value_that_cannot_be_read_is_an_error_not_a_silence() {
        let mut value = json!([{"$sealed": "no such thing"}]);
        assert!(matches!(sealed_places(&mut value, &mut Vec::new()), Err(SealError::Malformed)));
    }
}
