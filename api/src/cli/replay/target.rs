//! Where a replay goes, and in which form.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use domain::audit::ReplayFormat;

use super::super::Failure;

/// What a replay is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A line of JSON an event, as `GET /api/v1/events` shows it
    Jsonl,
    /// A line an event, what it says as JSON in the last column
    Csv,
    /// A file a type, with the columns of its schema
    Parquet,
}

impl Format {
    /// Its name, as it stands in manifests and at the end of files.
    fn name(self) -> &'static str {
        ReplayFormat::from(self).name()
    }
}

impl From<Format> for ReplayFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Jsonl => Self::Jsonl,
            Format::Csv => Self::Csv,
            Format::Parquet => Self::Parquet,
        }
    }
}

/// Where a replay goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// To stdout, as lines.
    Stdout(Format),
    /// Into one file.
    File(PathBuf, Format),
    /// Into a Parquet file of each type, in a folder.
    Folder(PathBuf),
}

impl Target {
    /// What is meant by a name and, where that does not say it, a format.
    pub(super) fn of(
        to: &str,
        format: Option<Format>,
        types: Option<&BTreeSet<&'static str>>,
    ) -> Result<Self, Failure> {
        let path = PathBuf::from(to);
        if to == "-" {
            return match format.unwrap_or(Format::Jsonl) {
                Format::Parquet => Err("--to: a Parquet file is written from its end; name a file or a folder".into()),
                format => Ok(Self::Stdout(format)),
            };
        }
        if to.ends_with('/') || path.is_dir() {
            return match format.unwrap_or(Format::Parquet) {
                Format::Parquet => Ok(Self::Folder(path)),
                format => Err(format!("--to: {to} is a folder; name a file for {}", format.name()).into()),
            };
        }
        // What is written takes the place of what has the name: that of a device or a pipe would be gone with all who use it.
        if std::fs::metadata(&path).is_ok_and(|known| !known.is_file()) {
            return Err(format!("--to: {to} is no file; give - for stdout").into());
        }
        let named = path.extension().and_then(|ending| ending.to_str());
        let named = named.and_then(|ending| Format::value_variants().iter().find(|format| format.name() == ending));
        match format.or(named.copied()) {
            Some(Format::Parquet) if types.is_none_or(|types| types.len() != 1) => {
                let told = "--to: a Parquet file has the columns of one type; name it with --type, or give a folder for \
                            a file of each type (one that is there, or with a `/` at its end)";
                Err(told.into())
            }
            Some(format) => Ok(Self::File(path, format)),
            None => Err(format!("--to: {to} ends with none of .jsonl, .csv, .parquet; say which with --format").into()),
        }
    }

    pub(super) fn is_stdout(&self) -> bool {
        matches!(self, Self::Stdout(_))
    }

    pub(super) fn format(&self) -> ReplayFormat {
        match self {
            Self::Stdout(format) | Self::File(_, format) => (*format).into(),
            Self::Folder(_) => ReplayFormat::Parquet,
        }
    }

    /// Where the manifest goes; nowhere beside stdout.
    pub(super) fn manifest(&self) -> Option<PathBuf> {
        match self {
            Self::Stdout(_) => None,
            Self::File(path, _) => Some(beside(path)),
            Self::Folder(path) => Some(path.join("manifest.json")),
        }
    }
}

/// `orders.csv` as `orders.csv.manifest.json`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".manifest.json");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_is_written() {
        let one = BTreeSet::from(["order.placed"]);
        let of = |to: &str, format| Target::of(to, format, Some(&one)).map_err(|error| error.to_string());
        assert_eq!(of("-", None), Ok(Target::Stdout(Format::Jsonl)));
        assert_eq!(of("-", Some(Format::Csv)), Ok(Target::Stdout(Format::Csv)));
        assert_eq!(of("a/b.jsonl", None), Ok(Target::File("a/b.jsonl".into(), Format::Jsonl)));
        assert_eq!(of("b.txt", Some(Format::Csv)), Ok(Target::File("b.txt".into(), Format::Csv)));
        assert_eq!(of("b.parquet", None), Ok(Target::File("b.parquet".into(), Format::Parquet)));
        assert_eq!(of("none/", None), Ok(Target::Folder("none/".into())));
        assert_eq!(of("/", None), Ok(Target::Folder("/".into())), "it is there");
        for (to, format) in [("-", Some(Format::Parquet)), ("none/", Some(Format::Csv)), ("b.txt", None), ("b", None)] {
            assert!(of(to, format).is_err(), "{to}");
        }
        assert!(of("/dev/null", Some(Format::Jsonl)).is_err(), "a device would be replaced by a file");
        let two = BTreeSet::from(["order.placed", "order.refunded"]);
        for types in [None, Some(&two)] {
            assert!(Target::of("b.parquet", None, types).is_err(), "columns of more than one type");
        }
        let manifest = |to: &str| of(to, None).unwrap().manifest();
        assert_eq!(manifest("a/b.csv"), Some("a/b.csv.manifest.json".into()));
        assert_eq!(manifest("a/"), Some("a/manifest.json".into()));
    }
}
