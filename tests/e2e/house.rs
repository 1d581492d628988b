//! A house of our own: a database, a topic, a key store and the whole app in this process, taken away at the end.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use eventstore::{Credentials, EventStore, Role, StoreConfig, WriteDsn};
use libtest_mimic::{Failed, Trial};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::runtime::Runtime;

static HOUSE: OnceLock<Mutex<Option<&'static House>>> = OnceLock::new();

/// What the tests share.
pub(crate) struct House {
    runtime: Runtime,
    pub(crate) dsn: WriteDsn,
    pub(crate) database: String,
    pub(crate) store: EventStore,
}

type Body = for<'a> fn(&'a House) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// One test; a panic in it is its failure.
pub(crate) fn trial(name: &'static str, body: Body) -> Trial {
    Trial::test(name.trim_start_matches("e2e::"), move || {
        let house = House::get();
        let run = std::panic::AssertUnwindSafe(|| house.runtime.block_on(body(house)));
        std::panic::catch_unwind(run).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Failed::from(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
        })
    })
}

/// A setting of the instance that `./dev` started.
pub(crate) fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with ./dev test"))
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

impl House {
    /// The one house of this run, opened when first needed.
    pub(crate) fn get() -> &'static Self {
        let mut house = HOUSE.get_or_init(|| Mutex::new(None)).lock().unwrap();
        house.get_or_insert_with(|| Box::leak(Box::new(Self::open())))
    }

    fn open() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (dsn, database) = runtime.block_on(create_database());
        let store = runtime.block_on(connect(&dsn));
        Self { runtime, dsn, database, store }
    }

    /// Takes away what `open` made.
    pub(crate) fn close() {
        let Some(house) = HOUSE.get().and_then(|house| house.lock().unwrap().take()) else { return };
        house.runtime.block_on(async {
            house.store.close().await;
            drop_database(&house.database).await;
        });
    }
}

/// Another handle on a log, as another process would have it.
pub(crate) async fn connect(dsn: &WriteDsn) -> EventStore {
    let poll = Duration::from_millis(5);
    let config = StoreConfig { dsn: dsn.clone(), roles: "tests".into(), poll, readers: 8 };
    EventStore::connect(config).await.unwrap()
}

/// A migrated database of our own.
pub(crate) async fn create_database() -> (WriteDsn, String) {
    let name = format!("annals_test_{}", uuid::Uuid::now_v7().simple());
    let admin = WriteDsn { url: setting("ANNALS_DATABASE_URL"), credentials: credentials() };
    let mut conn = PgConnection::connect_with(&admin.options(Role::Owner).unwrap()).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut conn).await.unwrap();
    let (server, _) = admin.url.rsplit_once('/').unwrap();
    let dsn = WriteDsn { url: format!("{server}/{name}"), credentials: admin.credentials };
    eventstore::migrate::run(&dsn, &dsn).await.unwrap();
    (dsn, name)
}

/// Takes a database away, as soon as the last connection to it is closed.
pub(crate) async fn drop_database(name: &str) {
    let admin = WriteDsn { url: setting("ANNALS_DATABASE_URL"), credentials: credentials() };
    let mut conn = PgConnection::connect_with(&admin.options(Role::Owner).unwrap()).await.unwrap();
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
