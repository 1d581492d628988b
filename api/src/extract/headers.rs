//! The headers that operations understand. One that can't be understood is refused, never ignored.

use axum::http::HeaderMap;
use eventstore::Token;

use crate::problem::{Problem, codes};

/// Makes a repetition of a POST harmless.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Waits until a read has seen that sequence.
pub const MIN_SEQUENCE: &str = "annals-min-sequence";
/// Goes on with a stream of events where it broke off.
pub const LAST_EVENT_ID: &str = "last-event-id";
/// How a sequence looks as callers hold it: bare in the first incarnation of the log, else with the incarnation.
pub const TOKEN: &str = "^[0-9]{1,18}(@[0-9]{1,9})?$";
/// The tenant's sequence of a write.
pub const SEQUENCE: &str = "annals-sequence";
/// The sequence that a read has seen.
pub const READ_SEQUENCE: &str = "annals-read-sequence";
/// How many seconds ago that was the newest.
pub const READ_AGE: &str = "annals-read-age";
/// Says of how many streams a list or report shows what is old: they are parked, and wait for a mended projector.
pub const PARKED: &str = "annals-parked";
/// Says what the caller would like, such as `wait=10`.
pub const PREFER: &str = "prefer";
/// Says which of it was done.
pub const PREFERENCE_APPLIED: &str = "preference-applied";
/// The longest that an answer is held back for the end of what takes long, in seconds: less than a request may take.
pub const LONGEST_WAIT: u64 = 25;
/// Says that an answer is that of an earlier request with the same key.
pub const REPLAYED: &str = "idempotent-replayed";

/// What the headers of a request ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// `Idempotency-Key`, without quotes.
    pub idempotency_key: Option<String>,
    /// `If-Match`: the version that the caller has seen.
    pub if_match: Option<Token>,
    /// `Annals-Min-Sequence`.
    pub min_sequence: Option<Token>,
    /// `Prefer: wait=N`: how many seconds the caller would wait for the end of what takes long.
    pub wait: Option<u64>,
    /// `Last-Event-ID`, as it was sent: it is for streams alone to understand.
    pub last_event_id: Option<String>,
}

impl Headers {
    /// Reads them.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let one = |name: &str| -> Result<Option<&str>, Problem> {
            let mut values = headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (None, _) => Ok(None),
                (Some(value), None) => value.to_str().map(Some).map_err(|_| unreadable(name)),
                (Some(_), Some(_)) => Err(unreadable(name)),
            }
        };
        let key = one(IDEMPOTENCY_KEY).map_err(|_| Problem::of(codes::IDEMPOTENCY_KEY_INVALID))?;
        let minimum = one(MIN_SEQUENCE)?.map(|text| text.trim().parse().map_err(|_| unreadable(MIN_SEQUENCE)));
        Ok(Self {
            idempotency_key: key.map(idempotency_key).transpose()?,
            if_match: one("if-match")?.map(etag).transpose()?.flatten(),
            min_sequence: minimum.transpose()?,
            wait: wait(headers)?,
            last_event_id: last_event_id(headers),
        })
    }
}

/// What a client says that it has seen; two of them are none that anybody could understand.
fn last_event_id(headers: &HeaderMap) -> Option<String> {
    let all = headers.get_all(LAST_EVENT_ID).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    all.map(Into::<String>::into).reduce(|one, other| format!("{one}, {other}"))
}

/// The `wait` among the preferences (RFC 7240), bounded; of other preferences there is nothing to know.
fn wait(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let unknown = || unreadable(PREFER);
    for value in headers.get_all(PREFER) {
        for preference in value.to_str().map_err(|_| unknown())?.split(',') {
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, seconds) = preference.split_once('=').unwrap_or((preference, ""));
            if name.trim().eq_ignore_ascii_case("wait") {
                let seconds: u64 = seconds.trim().trim_matches('"').parse().map_err(|_| unknown())?;
                return Ok(Some(seconds.min(LONGEST_WAIT)));
            }
        }
    }
    Ok(None)
}

fn unreadable(name: &str) -> Problem {
    let form = match name {
        MIN_SEQUENCE => "once, as a write answered it in `Annals-Sequence`",
        PREFER => "as wait=N, with a number of seconds",
        "if-match" => "once, the `ETag` that a GET answered, such as \"3\" with its quotes, or *",
        _ => "once, in printable ASCII",
    };
    Problem::new(codes::BAD_REQUEST, format!("The header `{name}` can't be understood. Send it {form}."))
}

/// Bare or quoted, 1 to 255 printable ASCII characters.
fn idempotency_key(text: &str) -> Result<String, Problem> {
    let text = text.trim();
    let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let printable = bare.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    if bare.is_empty() || bare.len() > 255 || !printable || bare.contains('"') {
        return Err(Problem::of(codes::IDEMPOTENCY_KEY_INVALID));
    }
    Ok(bare.to_owned())
}

/// A strong entity tag of ours; `*` is no condition, for what does not exist is 404 anyway.
fn etag(text: &str) -> Result<Option<Token>, Problem> {
    if text.trim() == "*" {
        return Ok(None);
    }
    let digits = text.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    digits.and_then(|text| text.parse().ok()).map(Some).ok_or_else(|| unreadable("if-match"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &str) -> Result<Headers, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        Headers::of(&headers).map_err(|problem| problem.code().code)
    }

    #[test]
    fn a_key_may_be_bare_or_quoted() {
        for (text, key) in [("a-1", "a-1"), ("\"a-1\"", "a-1"), (" a b ", "a b")] {
            assert_eq!(read(IDEMPOTENCY_KEY, text).unwrap().idempotency_key.as_deref(), Some(key));
        }
        for bad in ["", "\"\"", "a\"b", &"x".repeat(256)] {
            assert_eq!(read(IDEMPOTENCY_KEY, bad), Err("idempotency-key-invalid"), "{bad}");
        }
    }

    #[test]
    fn a_condition_is_one_strong_tag() {
        let of = |number, incarnation| Some(Token { number, incarnation });
        assert_eq!(read("if-match", "\"3\"").unwrap().if_match, of(3, 1));
        assert_eq!(read("if-match", "\"3@2\"").unwrap().if_match, of(3, 2));
        assert_eq!(read("if-match", "*").unwrap().if_match, None);
        for bad in ["3", "W/\"3\"", "\"x\"", "\"1\", \"2\"", "\"-1\"", "\"3@1\"", "\"3\"@2"] {
            assert_eq!(read("if-match", bad), Err("bad-request"), "{bad}");
        }
    }

    #[test]
    fn a_wait_is_bounded_and_other_preferences_are_nothing_to_us() {
        let waits = |value: &str| read(PREFER, value).map(|headers| headers.wait);
        assert_eq!(waits("wait=10"), Ok(Some(10)));
        assert_eq!(waits("respond-async, Wait = 3; x=1"), Ok(Some(3)));
        assert_eq!(waits("wait=999"), Ok(Some(LONGEST_WAIT)));
        assert_eq!(waits("return=minimal"), Ok(None));
        for bad in ["wait=x", "wait", "wait=-1", "wait=1.5"] {
            assert_eq!(waits(bad), Err("bad-request"), "{bad}");
        }
    }

    #[test]
    fn a_sequence_is_a_number_from_0_up_and_may_name_its_incarnation() {
        let of = |number, incarnation| Some(Token { number, incarnation });
        assert_eq!(read(MIN_SEQUENCE, "12").unwrap().min_sequence, of(12, 1));
        assert_eq!(read(MIN_SEQUENCE, " 12@3 ").unwrap().min_sequence, of(12, 3));
        for bad in ["-1", "x", "1.5", "99999999999999999999", "12@", "12@0", "@2"] {
            assert_eq!(read(MIN_SEQUENCE, bad), Err("bad-request"), "{bad}");
        }
    }
}
