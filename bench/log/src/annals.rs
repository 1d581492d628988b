//! Ours: new streams through `EventStore::append`, hot ones through the executor with its cache.

use std::sync::Arc;
use std::time::Duration;

use commands::vault::RootKey;
use commands::{CommandContext, Executor, Vault, VaultConfig, clock};
use domain::billing::{Plan, PlanEvent};
use domain::{Aggregate, AnyId, Context, Event, PlanId, TenantId, TypedId};
use eventstore::{Append, EventStore, NewEvent, StoreConfig, StreamAppend, new_id};
use tempfile::TempDir;
use uuid::Uuid;

use crate::event;
use crate::load::{HOT_STREAMS, Store};
use crate::server::Server;

/// How many tenants share the log.
pub const TENANTS: usize = 16;
/// Of 32 zero bytes: nothing is sealed with it.
const ROOT_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// What stands in the metadata of an event that no command led to.
const METADATA: &str = r#"{"command":"billing.plan.create"}"#;

/// One process of a house, with a log and a key store of its own.
pub struct Annals {
    pub store: EventStore,
    executor: Executor,
    /// Whether new streams go through the executor too.
    through_executor: bool,
    tenants: Vec<TenantId>,
    actor: AnyId,
    /// Streams of the first numbers: those that get hot.
    streams: Vec<PlanId>,
    _keys: TempDir,
}

impl Annals {
    pub async fn open(server: &Server, database: &str, through_executor: bool) -> Arc<Self> {
        let poll = Duration::from_millis(5);
        let config = StoreConfig { dsn: server.dsn(database), roles: "bench".into(), poll, readers: 8, high_water: None };
        let store = EventStore::connect(config).await.expect("a log");
        let keys = tempfile::Builder::new().prefix("annals-bench-").tempdir().expect("a folder");
        let vault = VaultConfig {
            root_key: RootKey::from_base64(ROOT_KEY).expect("a root key"),
            dir: keys.path().join("keys"),
            copy_dir: keys.path().join("keys-copy"),
        };
        let vault = Vault::open(vault, store.clone()).expect("a vault");
        Arc::new(Self {
            executor: Executor::new(store.clone(), vault),
            store,
            through_executor,
            tenants: (0..TENANTS).map(tenant).collect(),
            actor: AnyId::new("key", new_id()),
            streams: (0..HOT_STREAMS).map(|_| PlanId::from(new_id())).collect(),
            _keys: keys,
        })
    }

    pub async fn close(&self) {
        self.store.close().await;
    }

    fn context(&self, tenant: TenantId) -> Context {
        Context::new(tenant, self.actor, clock::now())
    }

    /// The tenant and the stream of that number.
    fn place(&self, n: u64) -> (TenantId, PlanId) {
        let stream = self.streams.get(n as usize).copied().unwrap_or_else(|| PlanId::from(new_id()));
        (self.tenants[n as usize % TENANTS], stream)
    }
}

/// The tenant of that number.
pub fn tenant(number: usize) -> TenantId {
    TenantId::from(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number as u128))
}

impl Store for Annals {
    async fn append(&self, n: u64) -> Result<(), String> {
        let (tenant, stream) = self.place(n);
        let ctx = self.context(tenant);
        if self.through_executor {
            let cc = CommandContext::new(ctx, "billing.plan.create").creating();
            return self.executor.execute::<Plan>(cc, stream, event::create(n)).await.map(|_| ()).map_err(text);
        }
        let events = Plan::default().decide(event::create(n), &ctx).map_err(text)?;
        let append = Append {
            tenant: tenant.uuid(),
            epoch: self.store.epoch(),
            streams: vec![StreamAppend {
                stream_type: Plan::STREAM.name,
                stream_id: stream.uuid(),
                expected_version: 0,
                events: events.iter().map(|event| new_event(&ctx, event)).collect(),
            }],
            ..Append::default()
        };
        self.store.append(append).await.map(|_| ()).map_err(text)
    }

    async fn change(&self, stream: usize, n: u64) -> Result<(), String> {
        let (tenant, stream) = self.place(stream as u64);
        let cc = CommandContext::new(self.context(tenant), "billing.plan.rename");
        self.executor.execute::<Plan>(cc, stream, event::rename(n)).await.map(|_| ()).map_err(text)
    }
}

fn new_event(ctx: &Context, event: &PlanEvent) -> NewEvent {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).expect("random bytes");
    let kind = event.event_type();
    NewEvent {
        event_id: new_id(),
        event_type: kind.name,
        schema_version: kind.schema_version,
        subjects: Vec::new(),
        actor: ctx.actor.to_string(),
        occurred_at: ctx.occurred_at,
        payload: event.payload().expect("a payload"),
        metadata: METADATA.to_owned(),
        salt,
    }
}

fn text(error: impl std::error::Error) -> String {
    format!("{error}: {error:?}")
}

/// Fails unless the log has just these many events after `base`, and its promises hold for them: positions, tenants'
/// sequences and versions are dense, and heads stand at the last.
pub async fn check(server: &Server, database: &str, base: u64, acknowledged: u64) {
    let sql = format!(
        "SELECT count(*), coalesce(max(position), 0), (SELECT position FROM log_head),
             (SELECT sum(sequence)::bigint FROM tenant_heads),
             (SELECT count(*) FROM tenant_heads h
                 WHERE h.sequence <> (SELECT max(sequence) FROM events e WHERE e.tenant_id = h.tenant_id)),
             (SELECT count(*) FROM (SELECT 1 FROM events WHERE position > {base} GROUP BY tenant_id, stream_id
                 HAVING min(version) <> 1 OR max(version) <> count(*)) gaps)
         FROM events WHERE position > {base}"
    );
    let found = server.numbers(database, &sql).await;
    let [new, all] = [acknowledged, base + acknowledged].map(|count| count as i64);
    assert_eq!(found, [new, all, all, all, 0, 0], "what the log has is not what it has acknowledged");
}
