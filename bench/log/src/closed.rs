//! New and hot streams in a closed loop: every contender in turn, again and again, each time on a database of its own.

use crate::annals::{self, Annals};
use crate::load::{self, Kind, Measured, Store, Timing, prepare_streams};
use crate::peer::{self, Peer};
use crate::pgbench;
use crate::report::{BASE, Figures, Group};
use crate::server::Server;

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Contender {
    /// Ours: new streams through the store, hot ones through the executor.
    Annals,
    /// Ours, new streams through the executor too.
    AnnalsExecutor,
    /// As its documents have it.
    PostgresEs,
    /// At its best: new streams past the framework, connections not looked at before each use.
    PostgresEsBare,
    /// One insert a commit; knows no hot streams.
    Pgbench,
}

impl Contender {
    pub fn name(self) -> &'static str {
        match self {
            Self::Annals => "annals",
            Self::AnnalsExecutor => "annals, executor",
            Self::PostgresEs => BASE,
            Self::PostgresEsBare => "postgres-es, bare",
            Self::Pgbench => "pgbench",
        }
    }

    fn takes(self, kind: Kind) -> bool {
        match kind {
            Kind::New => true,
            Kind::Hot => !matches!(self, Self::AnnalsExecutor | Self::Pgbench),
        }
    }
}

/// Every contender at each number of writers.
pub async fn measure(
    server: &Server,
    contenders: &[Contender],
    kind: Kind,
    writers: &[usize],
    repeats: usize,
    timing: Timing,
) -> Vec<Group> {
    let contenders: Vec<_> = contenders.iter().copied().filter(|contender| contender.takes(kind)).collect();
    let case = match kind {
        Kind::New => "new streams",
        Kind::Hot => "hot streams",
    };
    let mut groups = Vec::new();
    for &writers in writers {
        let names = contenders.iter().map(|contender| contender.name());
        let mut group = Group::new(case, format!("{writers} writers"), BASE, names);
        for _ in 0..repeats {
            for contender in &contenders {
                group.add(contender.name(), once(server, *contender, kind, writers, timing).await);
            }
        }
        group.print();
        groups.push(group);
    }
    groups
}

async fn once(server: &Server, contender: Contender, kind: Kind, writers: usize, timing: Timing) -> Figures {
    let (database, measured) = match contender {
        Contender::Annals | Contender::AnnalsExecutor => {
            let database = server.new_log().await;
            let annals = Annals::open(server, &database, contender == Contender::AnnalsExecutor).await;
            let (measured, prepared) = run(server, &annals, kind, writers, timing).await;
            annals.close().await;
            annals::check(server, &database, 0, measured.acknowledged + prepared).await;
            (database, measured)
        }
        Contender::PostgresEs | Contender::PostgresEsBare => {
            let database = server.new_database(peer::SCHEMA).await;
            let peer = Peer::open(server, &database, writers, contender == Contender::PostgresEsBare);
            let (measured, prepared) = run(server, &peer, kind, writers, timing).await;
            peer.close().await;
            peer::check(server, &database, measured.acknowledged + prepared).await;
            (database, measured)
        }
        Contender::Pgbench => {
            let database = server.new_database(pgbench::SCHEMA).await;
            server.checkpoint().await;
            let measured = pgbench::closed(server, &database, writers, timing).await;
            pgbench::check(server, &database, measured.acknowledged).await;
            (database, measured)
        }
    };
    server.drop(&database).await;
    Figures::from(measured)
}

/// The measurement, and how many events were there before it.
async fn run<S: Store>(
    server: &Server,
    store: &std::sync::Arc<S>,
    kind: Kind,
    writers: usize,
    timing: Timing,
) -> (Measured, u64) {
    let prepared = match kind {
        Kind::New => 0,
        Kind::Hot => prepare_streams(store).await,
    };
    server.checkpoint().await;
    (load::closed(store, kind, writers, timing).await, prepared)
}
