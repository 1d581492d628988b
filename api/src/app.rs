//! One process of the house: its roles, wired together, and its end in good order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use commands::egress::{Egress, EgressConfig};
use commands::vault::HighWaterFile;
use commands::{Executor, ProcessHost, Vault, VaultConfig};
use eventstore::{EventStore, HighWaterMark, StoreConfig};
use projections::{Operator, Projections, ReadModels, Relay};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::health::Health;
use crate::state::{Settings, State};
use crate::{pages, router, server, telemetry};

/// How often the log's end is looked at for what other processes append.
const POLL: Duration = Duration::from_millis(5);
/// How many connections the readers of the log may have, and those of the read models.
const READERS: u32 = 16;
/// How often the figures are kept in order.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long requests that nobody waits for any more may take to end.
const REQUESTS_END_WITHIN: Duration = Duration::from_secs(10);

/// The application.
#[derive(Debug)]
pub struct App;

/// An application that runs.
pub struct RunningApp {
    addr: SocketAddr,
    store: EventStore,
    executor: Executor,
    state: Arc<State>,
    server: JoinHandle<()>,
    host: Option<JoinHandle<()>>,
    relay: Option<Relay>,
    projections: Option<Projections>,
    stops: Stops,
}

/// The parts end in this order: nobody asks for what has ended.
#[derive(Default)]
struct Stops {
    server: CancellationToken,
    host: CancellationToken,
    projections: CancellationToken,
    relay: CancellationToken,
}

/// Why a process could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log does not answer.
    #[error("the log's database can't be used")]
    Store(#[from] eventstore::StoreError),
    /// The key store can't be used.
    #[error("the key store can't be used")]
    Vault(#[from] commands::VaultError),
    /// The root key can't be read.
    #[error("the root key can't be read")]
    RootKey(#[from] commands::vault::RootKeyError),
    /// No connection can be made to the outside.
    #[error("the way out can't be opened")]
    Egress(#[from] commands::egress::EgressConfigError),
    /// The file of root certificates can't be read.
    #[error("{} can't be read", .path.display())]
    EgressRoots {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The read models' database can't be used.
    #[error("the read models' database can't be used")]
    ReadModels(#[from] projections::ReadError),
    /// The projectors can't start.
    #[error("the projectors can't start")]
    Projections(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing to relay to.
    #[error("ANNALS_KAFKA_BROKERS is not set: there is nothing to relay to")]
    NoKafka,
    /// The address is taken, or not ours.
    #[error("{address} can't be listened on")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The figures can't be collected.
    #[error("the figures can't be collected")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// A task ended before it was done.
    #[error("a step of the start was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// The log of a process.
pub async fn open_store(config: &Config) -> Result<EventStore, StartError> {
    let roles = config.roles.to_string();
    let roles = if roles.is_empty() { "command line".to_owned() } else { roles };
    let mark = HighWaterFile::open(&config.keys_dir, &config.keys_copy_dir).map_err(commands::VaultError::from)?;
    let high_water: Option<Arc<dyn HighWaterMark>> = Some(Arc::new(mark));
    let store = StoreConfig { dsn: config.log.clone(), roles, poll: POLL, readers: READERS, high_water };
    Ok(EventStore::connect(store).await?)
}

/// The keys of a process that has that log.
pub async fn open_vault(config: &Config, store: EventStore) -> Result<Vault, StartError> {
    let vault = VaultConfig {
        root_key: config.root_key.read()?,
        dir: config.keys_dir.clone(),
        copy_dir: config.keys_copy_dir.clone(),
    };
    Ok(tokio::task::spawn_blocking(move || Vault::open(vault, store)).await??)
}

/// The log and the write side of a process.
pub async fn open_executor(config: &Config) -> Result<Executor, StartError> {
    let store = open_store(config).await?;
    let vault = open_vault(config, store.clone()).await?;
    Ok(Executor::new(store, vault))
}

/// The one way out.
fn open_egress(config: &Config) -> Result<Egress, StartError> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|source| StartError::EgressRoots { path: path.clone(), source })
    };
    let extra_roots = config.egress_ca_file.iter().map(read).collect::<Result<_, _>>()?;
    let egress = EgressConfig { allow: config.egress_allow.clone(), extra_roots, ..EgressConfig::default() };
    Ok(Egress::new(egress)?)
}

impl App {
    /// Starts the roles of the configuration. Whatever they are, health and figures are served.
    pub async fn start(config: Config) -> Result<RunningApp, StartError> {
        let roles = config.roles;
        let executor = open_executor(&config).await?;
        let store = executor.store().clone();
        let stops = Stops::default();
        let relay = match (&config.kafka, roles.relay) {
            (Some(kafka), true) => Some(Relay::start(store.clone(), kafka.clone(), stops.relay.clone())),
            (None, true) if !roles.project => return Err(StartError::NoKafka),
            _ => None,
        };
        let projections = if roles.project {
            let started =
                Projections::start(store.clone(), &config.read, config.kafka.clone(), stops.projections.clone());
            Some(started.map_err(|error| StartError::Projections(error.into()))?)
        } else {
            None
        };
        let egress = open_egress(&config)?;
        let host = roles.work.then(|| ProcessHost::start(executor.clone(), egress.clone(), stops.host.clone()));
        let models = ReadModels::connect(&config.read, READERS)?;
        // Who waits for a write hears of its rows at once where the projectors run in this process too.
        let models = match &projections {
            Some(projections) => models.hearing(projections),
            None => models,
        };
        let (kafka, runs) = (config.kafka.clone(), projections.clone());
        let health = Health::new(executor.clone(), models.clone(), kafka, relay.clone(), runs);
        let settings = Settings { erasure_delay: config.erasure_delay };
        let metrics = telemetry::start_metrics()?;
        let operator = Operator::connect(store.clone(), &config.read);
        let operator = operator.map_err(|error| StartError::Projections(error.into()))?;
        let state = State::new(executor.clone(), (models, operator), egress, settings, health, metrics, &stops.server);
        let state = Arc::new(state);
        let listen = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let addr = listener.local_addr().map_err(listen)?;
        let routes = if roles.serve { router::router(&state) } else { pages::router(&state) };
        let server = tokio::spawn(server::serve(listener, routes, stops.server.clone()));
        tokio::spawn(upkeep(state.clone(), stops.server.clone()));
        tracing::info!(address = %addr, %roles, kafka = config.kafka.is_some(), "started");
        Ok(RunningApp { addr, store, executor, state, server, host, relay, projections, stops })
    }
}

async fn upkeep(state: Arc<State>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(UPKEEP);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        state.metrics.run_upkeep();
    }
}

impl RunningApp {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its write side.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Takes no more requests, finishes those in flight, then the steps and batches in hand, and leaves.
    pub async fn stop(self) {
        self.stops.server.cancel();
        let _ = self.server.await;
        self.state.requests.close();
        if tokio::time::timeout(REQUESTS_END_WITHIN, self.state.requests.wait()).await.is_err() {
            tracing::warn!("some commands did not end in time; their callers will repeat them");
        }
        self.stops.host.cancel();
        if let Some(host) = self.host {
            let _ = host.await;
        }
        self.stops.projections.cancel();
        if let Some(projections) = &self.projections {
            projections.stopped().await;
        }
        self.stops.relay.cancel();
        if let Some(relay) = &self.relay {
            relay.stopped().await;
        }
        self.store.close().await;
        tracing::info!("stopped");
    }
}
