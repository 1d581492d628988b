//! A place for Annals to live in: a database, a topic, a key store, a port. Leaving it leaves nothing behind.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use commands::vault::{HighWaterFile, RootKey};
use commands::{Executor, Vault, VaultConfig};
use domain::{TenantId, TypedId};
use eventstore::{Credentials, EventFilter, EventStore, HighWater, Role, StoreConfig, WriteDsn};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use secrecy::ExposeSecret;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use tokio::process::Command;

use crate::client::{Answer, Client};
use crate::server::{Server, Special};

/// Made of 32 zero bytes: nothing that these tests seal is worth more.
const ROOT_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// What an ordinary key of the tests may do.
const SCOPES: &[&str] = &[
    "commerce:read",
    "commerce:write",
    "billing:read",
    "billing:write",
    "agents:read",
    "agents:write",
    "tenancy:read",
    "tenancy:write",
    "crm:read",
    "crm:write",
    "privacy:read",
    "privacy:write",
    "privacy:approve",
    "personal:read",
    "analytics:read",
    "audit:read",
    "audit:write",
    "operations:read",
    "operations:write",
];

/// A setting of the instance that `./dev` started.
pub(crate) fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with ./dev test"))
}

/// Where the repository is.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A file that `./dev` has put below its folder; the copy of the tree that a fault is put in has none of its own.
pub(crate) fn dev_file(name: &str) -> PathBuf {
    let places = root().ancestors().map(|folder| folder.join(".dev").join(name));
    places
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("there is no .dev/{name}: see ./dev up --test"))
}

/// The program under test.
pub(crate) fn binary() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().unwrap().parent().unwrap().join("annals")
}

/// Builds the program, so that no test ever runs an old one.
pub(crate) fn build() {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--workspace", "--bin", "annals"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(cargo.status().unwrap().success(), "the program could not be built");
}

fn credentials() -> Credentials {
    let password = |role: &str| setting(&format!("ANNALS_{role}_PASSWORD")).into();
    Credentials {
        owner: Some(password("OWNER")),
        api: password("API"),
        writer: password("WRITER"),
        reader: password("READER"),
        projector: password("PROJECTOR"),
    }
}

/// Another handle on a log, as another process would have it.
pub(crate) async fn connect(dsn: &WriteDsn) -> EventStore {
    let poll = Duration::from_millis(5);
    let config = StoreConfig { dsn: dsn.clone(), roles: "tests".into(), poll, readers: 8, high_water: None };
    EventStore::connect(config).await.unwrap()
}

/// A port that is free and that this run hands out once: below those that the kernel gives to outgoing connections, and
/// below those of `./dev`.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 9_000).unwrap();
    loop {
        let port = 10_000 + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 9_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// See the module.
pub(crate) struct Lodging {
    pub(crate) dsn: WriteDsn,
    pub(crate) topic: String,
    database: String,
    folder: TempDir,
    listen: String,
    executor: Executor,
    http: reqwest::Client,
    server: Option<Server>,
}

impl Lodging {
    /// On the server that the tests share.
    pub(crate) async fn new() -> Self {
        Self::on(&setting("ANNALS_DATABASE_URL"), None).await
    }

    /// On a server of its own, for tests that break it.
    pub(crate) async fn private(special: Special) -> Self {
        let server = Server::start(special).await;
        Self::on(&server.url(), Some(server)).await
    }

    async fn on(url: &str, server: Option<Server>) -> Self {
        let name = uuid::Uuid::now_v7().simple().to_string();
        let database = format!("annals_test_{name}");
        let dsn = create_database(url, &database).await;
        let folder = tempfile::Builder::new().prefix("annals-test-").tempdir().unwrap();
        std::fs::write(folder.path().join("root.key"), ROOT_KEY).unwrap();
        let store = connect(&dsn).await;
        let keys = VaultConfig {
            root_key: RootKey::from_base64(ROOT_KEY).unwrap(),
            dir: folder.path().join("keys"),
            copy_dir: folder.path().join("keys-copy"),
        };
        let vault = Vault::open(keys, store.clone()).unwrap();
        let http = reqwest::Client::builder().pool_max_idle_per_host(64).build().unwrap();
        let listen = format!("127.0.0.1:{}", free_port());
        let topic = format!("annals.test.{name}");
        Self { dsn, topic, database, folder, listen, executor: Executor::new(store, vault), http, server }
    }

    /// The server of its own.
    pub(crate) fn server(&self) -> &Server {
        self.private_server().expect("the lodging is private")
    }

    pub(crate) fn private_server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    pub(crate) fn store(&self) -> &EventStore {
        self.executor.store()
    }

    pub(crate) fn executor(&self) -> &Executor {
        &self.executor
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// The name of its database.
    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// Where its keys are, and their copy.
    pub(crate) fn key_dirs(&self) -> [PathBuf; 2] {
        [self.folder.path().join("keys"), self.folder.path().join("keys-copy")]
    }

    /// The mark beside its keys.
    pub(crate) fn high_water(&self) -> Option<HighWater> {
        let [keys, copy] = self.key_dirs();
        HighWaterFile::open(&keys, &copy).unwrap().read().unwrap()
    }

    pub(crate) fn free_address(&self) -> String {
        format!("127.0.0.1:{}", free_port())
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.folder.path().join("annals.log")
    }

    pub(crate) fn visitor(&self) -> Client {
        Client::new(&self.http, &self.address(), None)
    }

    /// The program with the settings of this place and nothing else of ours.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&binary(), arguments)
    }

    /// The same of another program.
    pub(crate) fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ANNALS_")) {
            command.env_remove(name);
        }
        let folder = self.folder.path();
        command
            .args(arguments)
            .env("ANNALS_DATABASE_URL", &self.dsn.url)
            .env("ANNALS_KAFKA_BROKERS", setting("ANNALS_KAFKA_BROKERS"))
            .env("ANNALS_KAFKA_TOPIC", &self.topic)
            .env("ANNALS_KEYS_DIR", folder.join("keys"))
            .env("ANNALS_KEYS_COPY_DIR", folder.join("keys-copy"))
            .env("ANNALS_ROOT_KEY_FILE", folder.join("root.key"))
            .env("ANNALS_LISTEN", &self.listen)
            .env("ANNALS_ERASURE_DELAY_SECONDS", "0")
            // The providers of these tests are on this machine.
            .env("ANNALS_EGRESS_ALLOW", "127.0.0.0/8");
        for role in ["OWNER", "API", "WRITER", "READER", "PROJECTOR"] {
            let name = format!("ANNALS_{role}_PASSWORD");
            command.env(&name, setting(&name));
        }
        command.envs(self.server.as_ref().map(Server::clock).unwrap_or_default());
        command
    }

    /// Moves the server's clock, and makes the tables of the new day as a process would within the hour.
    pub(crate) async fn set_clock_ahead(&self, ahead: TimeDelta) {
        self.server().set_clock_ahead(ahead.num_seconds());
        let mut conn = PgConnection::connect_with(&self.dsn.options(Role::Writer).unwrap()).await.unwrap();
        // Whoever reads one of the tables is left in peace, and asked again.
        while let Err(error) = sqlx::query("SELECT turn_idempotency_days()").execute(&mut conn).await {
            assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some("55P03"), "{error}");
        }
        conn.close().await.unwrap();
    }

    /// What must never be printed.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let credentials = &self.dsn.credentials;
        let all = [&credentials.api, &credentials.writer, &credentials.reader, &credentials.projector];
        all.into_iter().map(|secret| secret.expose_secret().to_owned()).chain([ROOT_KEY.to_owned()]).collect()
    }

    /// A new tenant with a key for everything and another that may only approve.
    pub(crate) async fn tenant(&self) -> Tenant {
        self.new_tenant(false).await
    }

    /// The same, with a clock that can be advanced.
    pub(crate) async fn test_tenant(&self) -> Tenant {
        self.new_tenant(true).await
    }

    async fn new_tenant(&self, for_tests: bool) -> Tenant {
        let name = "Test".parse().unwrap();
        let created = commands::admin::create_tenant(&self.executor, name, for_tests).await.unwrap();
        let (key_id, secret) = self.issue(created.id, SCOPES).await;
        let (_, approver) = self.issue(created.id, &["privacy:read", "privacy:approve"]).await;
        let visitor = self.visitor();
        let first_head = self.store().tenant_head(created.id.uuid()).await.unwrap();
        Tenant {
            id: created.id,
            client: visitor.with_key(Some(&secret)),
            approver: visitor.with_key(Some(&approver)),
            secret,
            key_id,
            first_head,
            executor: self.executor.clone(),
        }
    }

    async fn issue(&self, tenant: TenantId, scopes: &[&str]) -> (String, String) {
        issue(&self.executor, tenant, scopes).await
    }

    /// Closes every connection and takes everything away.
    pub(crate) async fn leave(&self) {
        self.store().close().await;
        match &self.server {
            Some(server) => server.end("QUIT").await,
            None => drop_database(&self.database).await,
        }
        let kafka = ClientConfig::new().set("bootstrap.servers", setting("ANNALS_KAFKA_BROKERS")).clone();
        let admin: AdminClient<DefaultClientContext> = kafka.create().unwrap();
        let _ = admin.delete_topics(&[&self.topic], &AdminOptions::new()).await;
        let _ = std::fs::remove_dir_all(self.folder.path());
    }
}

async fn issue(executor: &Executor, tenant: TenantId, scopes: &[&str]) -> (String, String) {
    let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let name = "test".parse().unwrap();
    let (receipt, text) = commands::admin::create_key(executor, tenant, name, scopes, None).await.unwrap();
    (receipt.id.to_string(), text.expose_secret().to_owned())
}

/// A tenant, and a client with its key.
#[derive(Clone)]
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) client: Client,
    pub(crate) approver: Client,
    pub(crate) secret: String,
    pub(crate) key_id: String,
    /// Where its log stands before a test begins.
    pub(crate) first_head: i64,
    executor: Executor,
}

impl Deref for Tenant {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Tenant {
    /// Another key of the tenant.
    pub(crate) async fn key(&self, scopes: &[&str]) -> Client {
        self.key_with_id(scopes).await.1
    }

    pub(crate) async fn key_with_id(&self, scopes: &[&str]) -> (String, Client) {
        let (id, secret) = issue(&self.executor, self.id, scopes).await;
        (id, self.client.with_key(Some(&secret)))
    }

    /// The tenant with another key, or none.
    pub(crate) fn using(&self, client: Client) -> Self {
        Self { client, ..self.clone() }
    }

    /// The tenant at another address.
    pub(crate) fn moved_to(&self, address: &str) -> Self {
        Self { client: self.client.at(address), approver: self.approver.at(address), ..self.clone() }
    }

    /// The tenant with the approver's key.
    pub(crate) fn approving(&self) -> Self {
        self.using(self.approver.clone())
    }

    /// Reads until the resource is as wanted.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Answer {
        for _ in 0..600 {
            let answer = self.get(path).expect(200).await;
            if wanted(&answer.body) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} never came to be as wanted: {}", self.get(path).send().await.text);
    }

    /// Waits until anything answers at all.
    pub(crate) async fn until_answers(&self) {
        for _ in 0..600 {
            if self.try_get("!/health/live").await == Some(200) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody answers");
    }

    /// The last sequence of its log.
    pub(crate) async fn events_head(&self) -> i64 {
        self.executor.store().tenant_head(self.id.uuid()).await.unwrap()
    }

    pub(crate) async fn until_head_is_above(&self, sequence: i64) {
        for _ in 0..6_000 {
            if self.events_head().await > sequence {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the log never came past {sequence}");
    }

    /// Waits until the log has that many events of a type: processes append when they come to it.
    pub(crate) async fn until_events(&self, event_type: &str, count: usize) {
        for _ in 0..600 {
            if self.count_events(event_type).await >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no {event_type} came");
    }

    /// How many events of a type the log has.
    pub(crate) async fn count_events(&self, event_type: &str) -> usize {
        let filter = EventFilter { event_type: Some(event_type.into()), stream: None };
        let all = self.executor.store().read_tenant(self.id.uuid(), 0, i64::MAX, &filter, i64::MAX);
        all.await.unwrap().len()
    }
}

/// The server's own database, which nobody lives in.
pub(crate) fn server() -> WriteDsn {
    WriteDsn { url: setting("ANNALS_DATABASE_URL"), credentials: credentials() }
}

/// A migrated database.
pub(crate) async fn create_database(url: &str, name: &str) -> WriteDsn {
    let admin = WriteDsn { url: url.to_owned(), credentials: credentials() };
    let mut conn = PgConnection::connect_with(&admin.options(Role::Owner).unwrap()).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut conn).await.unwrap();
    let (server, _) = admin.url.rsplit_once('/').unwrap();
    let dsn = WriteDsn { url: format!("{server}/{name}"), credentials: admin.credentials };
    eventstore::migrate::run(&dsn, &dsn).await.unwrap();
    dsn
}

/// Takes a database away, as soon as the last connection to it is closed.
pub(crate) async fn drop_database(name: &str) {
    let mut conn = PgConnection::connect_with(&server().options(Role::Owner).unwrap()).await.unwrap();
    let drop = format!("DROP DATABASE IF EXISTS {name}");
    for _ in 0..100 {
        match sqlx::query(AssertSqlSafe(drop.clone())).execute(&mut conn).await {
            Ok(_) => return,
            // 55006: somebody is still connected. PostgreSQL itself waits five seconds for them.
            Err(error) => assert_eq!(error.as_database_error().unwrap().code().unwrap(), "55006", "{error}"),
        }
    }
    panic!("{name} is still in use");
}
