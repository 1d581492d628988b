//! What the operator sets, by environment. A wrong setting says which and why; all wrong ones are told at once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;
use commands::egress::{Allowed, AllowedError};
use commands::vault::{RootKey, RootKeyError};
use eventstore::{Credentials, Role, WriteDsn, chain};
use projections::KafkaConfig;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::EnvFilter;

use crate::telemetry::LogFormat;

/// One variable of the environment.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// What it is where it is not set; none where it must be, or may stay empty.
    pub default: Option<&'static str>,
    /// Whether it is never shown.
    pub secret: bool,
}

const fn setting(name: &'static str, default: Option<&'static str>, about: &'static str) -> Setting {
    Setting { name, about, default, secret: false }
}

const fn secret(name: &'static str, about: &'static str) -> Setting {
    Setting { name, about, default: None, secret: true }
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    setting("ANNALS_DATABASE_URL", None, "where the log is: postgres://host:port/database, without a user"),
    setting("ANNALS_READ_DATABASE_URL", None, "where the read models are, if elsewhere"),
    secret("ANNALS_OWNER_PASSWORD", "password of annals_owner; only `annals migrate` needs it"),
    secret("ANNALS_API_PASSWORD", "password of annals_api"),
    secret("ANNALS_WRITER_PASSWORD", "password of annals_writer"),
    secret("ANNALS_READER_PASSWORD", "password of annals_reader"),
    secret("ANNALS_PROJECTOR_PASSWORD", "password of annals_projector"),
    setting(
        "ANNALS_KAFKA_BROKERS",
        None,
        "host:port, more of them parted by commas; without it the log feeds the projectors",
    ),
    setting("ANNALS_KAFKA_TOPIC", Some("annals.events.v1"), "the topic of the events"),
    setting("ANNALS_KAFKA_PARTITIONS", Some("8"), "how many partitions it has: 1, 2, 4, 8, 16, 32 or 64"),
    setting("ANNALS_KAFKA_RETENTION_HOURS", Some("168"), "how long it keeps events"),
    setting("ANNALS_KEYS_DIR", None, "the key store: a folder that is backed up apart from the database"),
    setting("ANNALS_KEYS_COPY_DIR", None, "its copy, best on another disk"),
    secret("ANNALS_ROOT_KEY", "32 bytes in base64 that wrap the key store"),
    setting("ANNALS_ROOT_KEY_FILE", None, "a file that holds them, in place of ANNALS_ROOT_KEY"),
    setting("ANNALS_LISTEN", Some("127.0.0.1:8080"), "the address that is listened on"),
    setting("ANNALS_ERASURE_DELAY_SECONDS", Some("86400"), "how long an approved erasure can be called off"),
    setting(
        "ANNALS_EGRESS_ALLOW",
        None,
        "networks that agents may be called in beside the public internet, and without TLS: 10.1.0.0/16, more parted by commas",
    ),
    setting("ANNALS_EGRESS_CA_FILE", None, "root certificates in PEM that are trusted for them beside the system's"),
    setting("ANNALS_LOG", Some("info"), "which log lines are written: info, debug, api=debug,info"),
    setting("ANNALS_LOG_FORMAT", Some("json"), "json, or text for people"),
];

/// Variables of that prefix that are no settings of the service: of the importer, and of our own tests.
const OTHERS: &[&str] = &["ANNALS_API_KEY", "ANNALS_URL", "ANNALS_UPDATE_OPENAPI", "ANNALS_UPDATE_SCHEMAS"];

/// Everything that a process needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the log is.
    pub log: WriteDsn,
    /// Where the read models are.
    pub read: WriteDsn,
    /// Kafka; without it the projectors are fed from the log.
    pub kafka: Option<KafkaConfig>,
    /// The key store.
    pub keys_dir: PathBuf,
    /// Its copy.
    pub keys_copy_dir: PathBuf,
    /// What wraps it.
    pub root_key: RootKeyFrom,
    /// The address that is listened on; port 0 takes any.
    pub listen: SocketAddr,
    /// How long an approved erasure can be called off.
    pub erasure_delay: TimeDelta,
    /// Networks that may be called beside the public internet.
    pub egress_allow: Allowed,
    /// Root certificates that are trusted beside the system's.
    pub egress_ca_file: Option<PathBuf>,
    /// Which log lines are written.
    pub log_filter: String,
    /// How they look.
    pub log_format: LogFormat,
    /// What this process does.
    pub roles: Roles,
}

/// Where the root key comes from.
#[derive(Clone, Debug)]
pub enum RootKeyFrom {
    /// From a text.
    Text(SecretString),
    /// From a file.
    File(PathBuf),
}

impl RootKeyFrom {
    /// The key.
    pub fn read(&self) -> Result<RootKey, RootKeyError> {
        match self {
            Self::Text(text) => RootKey::from_base64(text.expose_secret()),
            Self::File(path) => RootKey::from_file(path),
        }
    }
}

/// What a process does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Answers the API.
    pub serve: bool,
    /// Publishes the log to Kafka.
    pub relay: bool,
    /// Keeps the read models.
    pub project: bool,
    /// Runs process managers.
    pub work: bool,
}

impl Roles {
    /// Everything in one process.
    pub const ALL: Self = Self { serve: true, relay: true, project: true, work: true };
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles = [(self.serve, "serve"), (self.relay, "relay"), (self.project, "project"), (self.work, "work")];
        let named: Vec<&str> = roles.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
        f.write_str(&named.join("+"))
    }
}

/// Settings that are wrong.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// Reads settings one by one and gathers what is wrong with them.
struct Reader<'a> {
    variables: &'a BTreeMap<String, String>,
    faults: Vec<String>,
}

impl Reader<'_> {
    fn fault(&mut self, name: &str, why: impl fmt::Display) {
        self.faults.push(format!("{name}: {why}"));
    }

    /// What is set, or the default.
    fn get(&self, name: &str) -> Option<String> {
        let set = self.variables.get(name).filter(|value| !value.is_empty()).cloned();
        set.or_else(|| SETTINGS.iter().find(|setting| setting.name == name)?.default.map(str::to_owned))
    }

    fn must(&mut self, name: &str) -> String {
        self.get(name).unwrap_or_else(|| {
            let about = SETTINGS.iter().find(|setting| setting.name == name).map_or("", |setting| setting.about);
            self.fault(name, format!("must be set ({about})"));
            String::new()
        })
    }

    /// What is set, as something else; the default of that where it can't be.
    fn parsed<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>, otherwise: T) -> T {
        let text = self.must(name);
        match parse(&text) {
            Ok(value) => value,
            Err(why) if !text.is_empty() => {
                self.fault(name, format!("`{text}` {why}"));
                otherwise
            }
            Err(_) => otherwise,
        }
    }

    fn url(&mut self, name: &str, credentials: &Credentials) -> WriteDsn {
        let dsn = WriteDsn { url: self.must(name), credentials: credentials.clone() };
        if !dsn.url.is_empty() {
            if dsn.url.contains('@') {
                self.fault(name, "must not name a user: each role logs in with its own password");
            } else if let Err(error) = dsn.options(Role::Api) {
                self.fault(name, format!("must look like postgres://host:port/database ({error})"));
            } else if !dsn.url.starts_with("postgres://") && !dsn.url.starts_with("postgresql://") {
                self.fault(name, "must begin with postgres://");
            }
        }
        dsn
    }

    fn root_key(&mut self) -> RootKeyFrom {
        let (text, file) = (self.get("ANNALS_ROOT_KEY"), self.get("ANNALS_ROOT_KEY_FILE"));
        let (name, from) = match (text, file) {
            (Some(_), Some(_)) => {
                self.fault("ANNALS_ROOT_KEY", "must not be set beside ANNALS_ROOT_KEY_FILE");
                return RootKeyFrom::File(PathBuf::new());
            }
            (None, None) => {
                self.fault("ANNALS_ROOT_KEY_FILE", "must be set, or ANNALS_ROOT_KEY (32 bytes in base64)");
                return RootKeyFrom::File(PathBuf::new());
            }
            (Some(text), None) => ("ANNALS_ROOT_KEY", RootKeyFrom::Text(text.into())),
            (None, Some(file)) => ("ANNALS_ROOT_KEY_FILE", RootKeyFrom::File(file.into())),
        };
        if let Err(error) = from.read() {
            self.fault(name, chain(&error));
        }
        from
    }
}

impl Config {
    /// From variables of the environment; those without our prefix do not matter.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let variables: BTreeMap<_, _> = variables.into_iter().filter(|(name, _)| name.starts_with("ANNALS_")).collect();
        let mut reader = Reader { variables: &variables, faults: Vec::new() };
        for name in variables.keys().filter(|name| !OTHERS.contains(&name.as_str())) {
            if !SETTINGS.iter().any(|setting| setting.name == name) {
                reader.fault(name, "is no setting; `annals config --help` lists those that are");
            }
        }
        let config = Self::read(&mut reader);
        if reader.faults.is_empty() { Ok(config) } else { Err(ConfigError(reader.faults)) }
    }

    /// From the environment of the process.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(std::env::vars())
    }

    fn read(reader: &mut Reader<'_>) -> Self {
        let mut password = |name: &str| SecretString::from(reader.must(name));
        let (api, writer) = (password("ANNALS_API_PASSWORD"), password("ANNALS_WRITER_PASSWORD"));
        let (reads, projector) = (password("ANNALS_READER_PASSWORD"), password("ANNALS_PROJECTOR_PASSWORD"));
        let owner = reader.get("ANNALS_OWNER_PASSWORD").map(SecretString::from);
        let credentials = Credentials { owner, api, writer, reader: reads, projector };
        let log = reader.url("ANNALS_DATABASE_URL", &credentials);
        let read = match reader.get("ANNALS_READ_DATABASE_URL") {
            Some(_) => reader.url("ANNALS_READ_DATABASE_URL", &credentials),
            None => log.clone(),
        };
        let topic = reader.must("ANNALS_KAFKA_TOPIC");
        let count = reader.parsed("ANNALS_KAFKA_PARTITIONS", partitions, 8);
        let kept = reader.parsed("ANNALS_KAFKA_RETENTION_HOURS", hours, Duration::ZERO);
        let kafka = reader.get("ANNALS_KAFKA_BROKERS").map(|brokers| {
            let kafka = KafkaConfig::new(brokers).on_topic(topic);
            KafkaConfig { partitions: count, retention: kept, ..kafka }
        });
        Self {
            log,
            read,
            kafka,
            keys_dir: reader.must("ANNALS_KEYS_DIR").into(),
            keys_copy_dir: reader.must("ANNALS_KEYS_COPY_DIR").into(),
            root_key: reader.root_key(),
            listen: reader.parsed("ANNALS_LISTEN", address, SocketAddr::from(([127, 0, 0, 1], 0))),
            egress_allow: match reader.get("ANNALS_EGRESS_ALLOW") {
                Some(_) => reader.parsed("ANNALS_EGRESS_ALLOW", networks, Allowed::default()),
                None => Allowed::default(),
            },
            egress_ca_file: reader.get("ANNALS_EGRESS_CA_FILE").map(PathBuf::from),
            erasure_delay: reader.parsed("ANNALS_ERASURE_DELAY_SECONDS", seconds, TimeDelta::zero()),
            log_filter: reader.parsed("ANNALS_LOG", filter, String::new()),
            log_format: reader.parsed("ANNALS_LOG_FORMAT", log_format, LogFormat::Json),
            roles: Roles::default(),
        }
    }

    /// Every setting with what is in force, secrets masked: name, value, and whether it was set.
    pub fn in_force(variables: &BTreeMap<String, String>) -> Vec<(&'static Setting, String, bool)> {
        let shown = |setting: &'static Setting| {
            let set = variables.get(setting.name).filter(|value| !value.is_empty());
            let value = match (set, setting.default) {
                (Some(_), _) if setting.secret => "********".to_owned(),
                (Some(value), _) => value.clone(),
                (None, Some(default)) => default.to_owned(),
                (None, None) => String::new(),
            };
            (setting, value, set.is_some())
        };
        SETTINGS.iter().map(shown).collect()
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an address and a port, such as 127.0.0.1:8080".into())
}

fn seconds(text: &str) -> Result<TimeDelta, String> {
    let seconds = text.parse::<u32>().map_err(|_| "must be a number of seconds from 0 up")?;
    Ok(TimeDelta::seconds(seconds.into()))
}

fn partitions(text: &str) -> Result<i32, String> {
    let count = text.parse().ok().filter(|count| (1..=64).contains(count) && 64 % count == 0);
    count.ok_or_else(|| "must be 1, 2, 4, 8, 16, 32 or 64".into())
}

fn hours(text: &str) -> Result<Duration, String> {
    let hours = text.parse::<u32>().ok().filter(|hours| *hours > 0);
    let hours = hours.ok_or("must be a number of hours from 1 up")?;
    Ok(Duration::from_secs(u64::from(hours) * 3600))
}

fn networks(text: &str) -> Result<Allowed, String> {
    text.parse().map_err(|error: AllowedError| error.to_string())
}

fn filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| format!("is no filter of log lines: {error}"))
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err("must be json or text".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> BTreeMap<String, String> {
        let set = [
            ("ANNALS_DATABASE_URL", "postgres://localhost:5432/annals"),
            ("ANNALS_API_PASSWORD", "hidden-a"),
            ("ANNALS_WRITER_PASSWORD", "hidden-b"),
            ("ANNALS_READER_PASSWORD", "hidden-c"),
            ("ANNALS_PROJECTOR_PASSWORD", "hidden-d"),
            ("ANNALS_KEYS_DIR", "keys"),
            ("ANNALS_KEYS_COPY_DIR", "copy"),
            ("ANNALS_ROOT_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ];
        set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn faults(changes: &[(&str, &str)]) -> String {
        let mut variables = good();
        variables.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Config::from_variables(variables).unwrap_err().to_string()
    }

    #[test]
    fn defaults_fill_what_is_not_set() {
        let config = Config::from_variables(good()).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!((config.erasure_delay, config.kafka.is_none()), (TimeDelta::days(1), true));
        assert_eq!(config.read.url, config.log.url);
    }

    #[test]
    fn a_wrong_setting_says_which_and_why() {
        for (name, value) in [
            ("ANNALS_LISTEN", "here"),
            ("ANNALS_ERASURE_DELAY_SECONDS", "-1"),
            ("ANNALS_LOG_FORMAT", "xml"),
            ("ANNALS_KAFKA_PARTITIONS", "12"),
            ("ANNALS_KAFKA_PARTITIONS", "0"),
            ("ANNALS_KAFKA_RETENTION_HOURS", "0"),
            ("ANNALS_DATABASE_URL", "postgres://me@localhost/annals"),
            ("ANNALS_DATABASE_URL", "mysql://localhost/annals"),
            ("ANNALS_ROOT_KEY", "c2hvcnQ="),
            ("ANNALS_ROOT_KEY_FILE", "/nowhere/root.key"),
            ("ANNALS_KEYS_DIR", ""),
            ("ANNALS_DATABSE_URL", "postgres://localhost/annals"),
        ] {
            let told = faults(&[(name, value)]);
            assert!(told.contains(name) || told.contains("ANNALS_ROOT_KEY"), "{name}={value}: {told}");
            assert_eq!(told.lines().count(), 1, "{told}");
        }
        assert_eq!(faults(&[("ANNALS_LISTEN", "x"), ("ANNALS_LOG_FORMAT", "x")]).lines().count(), 2);
    }

    #[test]
    fn secrets_are_masked() {
        let shown = format!("{:?} {:?}", Config::in_force(&good()), Config::from_variables(good()).unwrap());
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
