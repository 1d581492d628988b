//! The house that the tests share: a lodging of its own with the whole app running in it, taken away at the end.

use std::future::Future;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use eventstore::{EventStore, WriteDsn};
use libtest_mimic::{Failed, Trial};
use tokio::process::Child;
use tokio::runtime::Runtime;

use crate::canaries::found_in_log;
use crate::client::{Client, MAY_BE_UNAVAILABLE, UNAVAILABLE};
pub(crate) use crate::lodging::{Lodging, Tenant, binary, connect};

static HOUSE: OnceLock<Mutex<Option<&'static House>>> = OnceLock::new();

/// What the tests share.
pub(crate) struct House {
    runtime: Runtime,
    app: Mutex<Option<Child>>,
    pub(crate) lodging: Lodging,
    pub(crate) dsn: WriteDsn,
    pub(crate) store: EventStore,
}

type Body = for<'a> fn(&'a House) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

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

impl House {
    /// The one house of this run, opened when first needed.
    pub(crate) fn get() -> &'static Self {
        let mut house = HOUSE.get_or_init(|| Mutex::new(None)).lock().expect("the house could be opened");
        house.get_or_insert_with(|| Box::leak(Box::new(Self::open())))
    }

    fn open() -> Self {
        crate::lodging::build();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (lodging, app) = runtime.block_on(async {
            let lodging = Lodging::new().await;
            let log = std::fs::File::create(lodging.log_file()).unwrap();
            let mut command = lodging.command(&["all"]);
            command.env("ANNALS_LOG", "debug");
            command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).kill_on_drop(true);
            let app = command.spawn().unwrap();
            let visitor = lodging.visitor();
            for _ in 0..600 {
                if visitor.try_get("!/health/ready").await == Some(200) {
                    return (lodging, app);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            panic!("the app was never ready: {}", std::fs::read_to_string(lodging.log_file()).unwrap());
        });
        let (dsn, store) = (lodging.dsn.clone(), lodging.store().clone());
        Self { runtime, app: Mutex::new(Some(app)), lodging, dsn, store }
    }

    /// Takes away what `open` made; the app must end by itself when it is told to, and nothing personal or secret may
    /// stand in its log, whatever the tests had it do. Where a test has failed, what the app complained of is told: an
    /// answer says no more than that something failed.
    pub(crate) fn close(failed: bool) {
        let Some(house) = HOUSE.get().and_then(|house| house.lock().ok()?.take()) else { return };
        let unavailable = UNAVAILABLE.load(Ordering::Relaxed);
        let found = house.runtime.block_on(async {
            let app = house.app.lock().unwrap().take();
            if let Some(mut app) = app {
                let pid = app.id().unwrap().to_string();
                let _ = std::process::Command::new("kill").args(["-s", "TERM", &pid]).status();
                let ended = tokio::time::timeout(Duration::from_secs(30), app.wait()).await;
                assert!(ended.is_ok_and(|status| status.unwrap().success()), "the app did not end well");
            }
            let log = std::fs::read_to_string(house.lodging.log_file()).unwrap();
            house.lodging.leave().await;
            assert!(log.contains("started") && log.contains("stopped"), "the log was written");
            if failed || unavailable > 0 {
                log.lines()
                    .filter(|line| line.contains(r#""level":"ERROR""#))
                    .take(50)
                    .for_each(|line| eprintln!("{line}"));
            }
            found_in_log(&log, &house.lodging.secrets())
        });
        assert!(found.is_empty(), "the log tells what it must not:\n{}", found.join("\n"));
        if unavailable > 0 {
            eprintln!("{unavailable} reads were answered 503 and repeated");
        }
        assert!(unavailable <= MAY_BE_UNAVAILABLE, "the service was unavailable too often");
    }

    /// A new tenant with keys.
    pub(crate) async fn tenant(&self) -> Tenant {
        self.lodging.tenant().await
    }

    /// A new tenant with keys and a clock that can be advanced.
    pub(crate) async fn test_tenant(&self) -> Tenant {
        self.lodging.test_tenant().await
    }

    /// Somebody without a key.
    pub(crate) fn visitor(&self) -> Client {
        self.lodging.visitor()
    }

    /// Where the app listens.
    pub(crate) fn address(&self) -> String {
        self.lodging.address()
    }

    /// Withdraws a key.
    pub(crate) async fn revoke(&self, tenant: &Tenant, key: &str) {
        commands::admin::revoke_key(self.lodging.executor(), tenant.id, key.parse().unwrap()).await.unwrap();
    }
}
