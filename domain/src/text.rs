//! Checked texts: what a caller may write into a field, and how it is compared.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

/// Why a text was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing but white space.
    #[error("must not be empty")]
    Empty,
    /// Longer than the type allows.
    #[error("must be at most {0} characters long")]
    TooLong(usize),
    /// NUL and the other control characters but tab and line breaks.
    #[error("must not contain control characters")]
    Control,
    /// Not an e-mail address.
    #[error("must be an e-mail address such as ada@example.com")]
    Email,
    /// More than one word, or letters that are none.
    #[error("must be 1 to 64 letters and digits of ASCII, or any of _ . : / -")]
    Word,
    /// Not in ISO 3166-1.
    #[error("must be a country code of ISO 3166-1 alpha-2, such as GB")]
    Country,
}

fn check(text: &str, max: usize) -> Result<(), TextError> {
    if text.trim().is_empty() {
        return Err(TextError::Empty);
    }
    if text.len() > max && text.chars().count() > max {
        return Err(TextError::TooLong(max));
    }
    // Replays check every text again: bytes that no control character begins with say at once that there is none.
    let may_begin_control = |byte: u8| byte < 0x20 || byte == 0x7f || byte == 0xc2;
    let control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    if text.bytes().fold(false, |any, byte| any | may_begin_control(byte)) && text.chars().any(control) {
        return Err(TextError::Control);
    }
    Ok(())
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident: |$text:ident| $parse:expr, $schema:tt;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl std::str::FromStr for $name {
            type Err = TextError;
            fn from_str($text: &str) -> Result<Self, TextError> { $parse }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Debug::fmt(&self.0, f) }
        }
        impl From<$name> for String {
            fn from(text: $name) -> String { text.0 }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
        impl JsonSchema for $name {
            fn inline_schema() -> bool { true }
            fn schema_name() -> Cow<'static, str> { stringify!($name).into() }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema { schemars::json_schema!($schema) }
        }
    )*};
}

texts! {
    /// A name or another short line: 1 to 255 characters.
    Line: |text| check(text, 255).map(|()| Self(text.to_owned())), { "type": "string", "minLength": 1, "maxLength": 255 };
    /// What the caller calls a thing: 1 to 255 characters, compared to the letter.
    ExternalId: |text| check(text, 255).map(|()| Self(text.to_owned())), { "type": "string", "minLength": 1, "maxLength": 255 };
    /// Free text: 1 to 5,000 characters.
    Prose: |text| check(text, 5_000).map(|()| Self(text.to_owned())), { "type": "string", "minLength": 1, "maxLength": 5000 };
    /// A word of the caller's for a kind of thing, never about a person: 1 to 64 of `A-Z a-z 0-9 _ . : / -`.
    Word: |text| word(text), { "type": "string", "pattern": "^[A-Za-z0-9_.:/-]{1,64}$" };
    /// What a language model is told before it is asked: 1 to 20,000 characters.
    Prompt: |text| check(text, 20_000).map(|()| Self(text.to_owned())), { "type": "string", "minLength": 1, "maxLength": 20000 };
    /// An e-mail address as its owner writes it; compared by [`Email::canonical`].
    Email: |text| email(text).map(|_| Self(text.trim().to_owned())), { "type": "string", "format": "email", "maxLength": 254 };
    /// A country of ISO 3166-1, two capital letters.
    Country: |text| country(text), { "type": "string", "pattern": "^[A-Z]{2}$" };
}

fn word(text: &str) -> Result<Word, TextError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.:/-".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(good) {
        Ok(Word(text.to_owned()))
    } else {
        Err(TextError::Word)
    }
}

fn country(text: &str) -> Result<Country, TextError> {
    let known =
        text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase()) && rust_iso3166::from_alpha2(text).is_some();
    if known { Ok(Country(text.to_owned())) } else { Err(TextError::Country) }
}

/// Trimmed, NFC, domain in lower-case IDNA, local part lower-cased; dots and plus signs count.
fn email(text: &str) -> Result<String, TextError> {
    check(text, 254).map_err(|error| if error == TextError::Empty { TextError::Empty } else { TextError::Email })?;
    let text: String = text.trim().nfc().collect();
    let (local, domain) = text.rsplit_once('@').ok_or(TextError::Email)?;
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '@' | '<' | '>' | ',' | ';' | '"');
    if local.is_empty() || local.len() > 64 || local.chars().any(bad) {
        return Err(TextError::Email);
    }
    let domain = idna::domain_to_ascii_strict(domain).map_err(|_| TextError::Email)?;
    let whole = domain.contains('.') && domain.split('.').all(|label| !label.is_empty());
    if whole { Ok(format!("{}@{domain}", local.to_lowercase())) } else { Err(TextError::Email) }
}

impl Email {
    /// The form under which two spellings are one address.
    pub fn canonical(&self) -> String {
        email(&self.0).unwrap_or_else(|_| self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_has_control_characters_but_tab_and_line_breaks() {
        for good in ["a", "a\tb\r\nc", "\u{a0}©2026", "é", "\u{2028}x", &"é".repeat(255)] {
            assert_eq!(good.parse::<Line>().map(String::from), Ok(good.to_owned()));
        }
        for bad in ["a\0", "\u{1f}a", "a\u{7f}b", "a\u{80}", "a\u{85}b", "©\u{9f}"] {
            assert_eq!(bad.parse::<Line>(), Err(TextError::Control), "{bad:?}");
        }
        for empty in ["", " ", "\t\n", "\u{a0}"] {
            assert_eq!(empty.parse::<Line>(), Err(TextError::Empty), "{empty:?}");
        }
        assert_eq!("é".repeat(256).parse::<Line>(), Err(TextError::TooLong(255)));
    }

    #[test]
    fn one_address_has_one_canonical_form() {
        let canonical = |text: &str| text.parse::<Email>().unwrap().canonical();
        assert_eq!(canonical(" Ada.L+x@EXAMPLE.com "), "ada.l+x@example.com");
        assert_eq!(canonical("ada@bücher.example"), "ada@xn--bcher-kva.example");
        assert_eq!(canonical("e\u{301}@example.com"), canonical("\u{e9}@example.com"));
        for bad in
            ["", "ada", "@example.com", "ada@", "a b@example.com", "ada@localhost", "ada@exa mple.com", "a@b@c.de"]
        {
            assert!(bad.parse::<Email>().is_err(), "{bad}");
        }
    }

    #[test]
    fn countries_are_those_of_iso_3166() {
        assert!("GB".parse::<Country>().is_ok());
        for bad in ["gb", "XX", "GBR", ""] {
            assert_eq!(bad.parse::<Country>(), Err(TextError::Country), "{bad}");
        }
    }

    #[test]
    fn lines_are_bounded() {
        assert_eq!("  ".parse::<Line>(), Err(TextError::Empty));
        assert_eq!("x".repeat(256).parse::<Line>(), Err(TextError::TooLong(255)));
        assert_eq!("a\0b".parse::<Line>(), Err(TextError::Control));
    }
}
