//! A PostgreSQL of its own, for tests that kill it, stop it, fill its disk or move its clock. Durable, with the house's
//! settings, on a port of its own; gone when it is dropped.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use crate::lodging::{free_port, root};

/// What `initdb` is told; nothing that is worth more than these tests is behind it.
const SUPERUSER_PASSWORD: &str = "superuser";
/// A private server serves few, and its log stays short.
const SMALLER: &str = "shared_buffers = 64MB\nmax_connections = 300\nmax_wal_size = 256MB\nmin_wal_size = 80MB\n";

/// By how many seconds the clock of a process is ahead of the others'; negative where it is behind.
pub(crate) const CLOCK_SKEW: &str = "TEST_CLOCK_SKEW";

/// What is special about a server.
#[derive(Clone, Copy, Default)]
pub(crate) struct Special {
    /// Whether its clock can be moved.
    pub(crate) clock: bool,
    /// How many megabytes of disk it has; needs root.
    pub(crate) disk: Option<u32>,
    /// Whether its write-ahead log is on another disk that is large enough.
    pub(crate) log_elsewhere: bool,
}

/// See the module.
pub(crate) struct Server {
    special: Special,
    port: u16,
    /// Who must own the data: PostgreSQL refuses to run as root.
    user: Option<(u32, u32)>,
    /// The process that keeps the small disk mounted, in a mount namespace that goes with it.
    disk: Option<Child>,
    postmaster: Mutex<Option<Child>>,
    folder: TempDir,
}

impl Server {
    pub(crate) async fn start(special: Special) -> Self {
        let folder = tempfile::Builder::new().prefix("annals-server-").tempdir().unwrap();
        let user = is_root().then(|| (id_of_postgres("-u"), id_of_postgres("-g")));
        for name in ["disk", "elsewhere"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            if let Some((uid, gid)) = user {
                std::os::unix::fs::chown(folder.path().join(name), Some(uid), Some(gid)).unwrap();
            }
        }
        let may_enter = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), may_enter).unwrap();
        let disk = special.disk.map(|size| mount(&folder.path().join("disk"), size));
        if special.clock {
            build_clock(&folder.path().join("clock.so"));
            std::fs::write(folder.path().join("clock"), 0_i64.to_ne_bytes()).unwrap();
        }
        let server = Self { special, port: free_port(), user, disk, postmaster: Mutex::default(), folder };
        server.create();
        server.up().await;
        server.make_roles().await;
        server
    }

    /// Where a database of its own can be made.
    pub(crate) fn url(&self) -> String {
        format!("postgres://127.0.0.1:{}/postgres", self.port)
    }

    /// The settings under which a process has the server's clock.
    pub(crate) fn clock(&self) -> Vec<(&'static str, PathBuf)> {
        if !self.special.clock {
            return Vec::new();
        }
        let file = |name| self.folder.path().join(name);
        vec![("LD_PRELOAD", file("clock.so")), ("TEST_CLOCK", file("clock"))]
    }

    /// Moves the clock of the server, and of all processes that have it, to so many seconds ahead of this machine's.
    pub(crate) fn set_clock_ahead(&self, seconds: i64) {
        // Written where it is: the file is mapped.
        let mut file = File::options().write(true).open(self.folder.path().join("clock")).unwrap();
        file.write_all(&seconds.to_ne_bytes()).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("disk/data")
    }

    /// A program of PostgreSQL, as the user and on the disk of this server.
    fn program(&self, name: &str) -> Command {
        let program = programs().join(name);
        let mut command = match (&self.disk, self.user) {
            (Some(disk), Some((uid, gid))) => {
                let mut enter = Command::new("nsenter");
                enter.args([&format!("--target={}", disk.id()), "--mount"]);
                enter.args([format!("--setuid={uid}"), format!("--setgid={gid}"), "--".into()]).arg(program);
                enter
            }
            (_, user) => {
                let mut command = Command::new(program);
                if let Some((uid, gid)) = user {
                    command.uid(uid).gid(gid);
                }
                command
            }
        };
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn create(&self) {
        let password = self.folder.path().join("password");
        std::fs::write(&password, SUPERUSER_PASSWORD).unwrap();
        let mut initdb = self.program("initdb");
        initdb.arg("-D").arg(self.data()).arg(format!("--pwfile={}", password.display()));
        initdb.args(["-U", "postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256", "--no-sync"]);
        // The first segment is written whole: a small disk has small ones.
        initdb.arg(if self.disk.is_some() { "--wal-segsize=1" } else { "--wal-segsize=16" });
        if self.special.log_elsewhere {
            initdb.arg("-X").arg(self.folder.path().join("elsewhere/log"));
        }
        assert!(initdb.status().unwrap().success(), "no cluster could be made");
        let mut settings = std::fs::read_to_string(root().join("deploy/postgres/postgresql.conf")).unwrap();
        write!(settings, "\n{SMALLER}port = {}\n", self.port).unwrap();
        if self.disk.is_some() {
            settings.push_str("max_wal_size = 8MB\nmin_wal_size = 2MB\n");
        }
        std::fs::write(self.folder.path().join("annals.conf"), settings).unwrap();
    }

    /// Starts the server and waits until it takes connections. One that was killed is first left by its last processes.
    pub(crate) async fn up(&self) {
        let begun = Instant::now();
        while !self.try_up().await {
            assert!(begun.elapsed() < Duration::from_secs(60), "the server does not start: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts the server, if it is down; whether it takes connections now.
    pub(crate) async fn try_up(&self) -> bool {
        self.spawn();
        for _ in 0..600 {
            if self.try_superuser().await.is_some() {
                return true;
            }
            if !self.runs() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    fn spawn(&self) {
        let mut postmaster = self.postmaster();
        if let Some(child) = postmaster.as_mut()
            && child.try_wait().unwrap().is_none()
        {
            return;
        }
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let settings = self.folder.path().join("annals.conf");
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data()).args(["-c", &format!("config_file={}", settings.display())]);
        command.args(["-c", &format!("hba_file={}", self.data().join("pg_hba.conf").display())]);
        *postmaster = Some(command.envs(self.clock()).stderr(log).spawn().unwrap());
    }

    /// Whether the postmaster lives.
    pub(crate) fn runs(&self) -> bool {
        self.postmaster().as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    fn postmaster(&self) -> MutexGuard<'_, Option<Child>> {
        self.postmaster.lock().unwrap()
    }

    /// The postmaster and every process that it has made.
    fn processes(&self) -> Vec<u32> {
        let Some(postmaster) = self.postmaster().as_ref().map(Child::id) else { return Vec::new() };
        let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"));
        let children = children.unwrap_or_default();
        std::iter::once(postmaster).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }

    /// The processes that serve connections of a role, by pid.
    pub(crate) fn backends(&self, role: &str) -> Vec<u32> {
        let serves = |pid: &u32| {
            let title = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            title.starts_with(&format!("postgres: {role} "))
        };
        self.processes().into_iter().filter(serves).collect()
    }

    /// `kill -9` of the postmaster; what it has made ends by itself.
    pub(crate) fn kill(&self) {
        if let Some(child) = self.postmaster().as_mut() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends the server: `INT` breaks connections off and puts the data in order, `QUIT` does not.
    pub(crate) async fn end(&self, name: &str) {
        if let Some(pid) = self.postmaster().as_ref().map(Child::id) {
            signal(pid, name);
        }
        while self.runs() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// `STOP`s or `CONT`inues every process of it: a machine that hangs.
    pub(crate) fn signal_all(&self, name: &str) {
        self.processes().into_iter().for_each(|pid| signal(pid, name));
    }

    /// Takes the last room on the small disk.
    pub(crate) fn fill_disk(&self) {
        let disk = self.disk.as_ref().unwrap().id();
        let full = format!("dd if=/dev/zero of='{}' bs=64k 2>/dev/null", self.ballast().display());
        let mut enter = Command::new("nsenter");
        enter.args([&format!("--target={disk}"), "--mount", "--", "sh", "-c", &full]);
        assert!(!enter.status().unwrap().success(), "the disk is never full");
    }

    /// Gives it back.
    pub(crate) fn free_disk(&self) {
        let disk = self.disk.as_ref().unwrap().id();
        let mut enter = Command::new("nsenter");
        enter.args([&format!("--target={disk}"), "--mount", "--", "rm"]).arg(self.ballast());
        assert!(enter.status().unwrap().success());
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("disk/ballast")
    }

    /// A connection of the superuser.
    pub(crate) async fn superuser(&self) -> PgConnection {
        self.try_superuser().await.unwrap_or_else(|| panic!("the server does not answer: {}", self.log()))
    }

    async fn try_superuser(&self) -> Option<PgConnection> {
        let options = PgConnectOptions::new().host("127.0.0.1").port(self.port).database("postgres");
        let options = options.username("postgres").password(SUPERUSER_PASSWORD);
        let connecting = tokio::time::timeout(Duration::from_secs(2), PgConnection::connect_with(&options));
        connecting.await.ok()?.ok()
    }

    /// Carries out, as superuser, what no login of Annals may.
    pub(crate) async fn administer(&self, sql: &str) {
        let mut conn = self.superuser().await;
        for statement in sql.split("; ") {
            sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut conn).await.unwrap();
        }
        conn.close().await.unwrap();
    }

    /// The logins of Annals, as `./dev` makes them; their passwords are those of the shared server.
    async fn make_roles(&self) {
        let psql = Command::new(programs().join("psql"))
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-U", "postgres", "-d", "postgres", "-f"])
            .arg(root().join("deploy/postgres/roles.sql"))
            .env("PGPASSWORD", SUPERUSER_PASSWORD)
            .stdout(Stdio::null())
            .status();
        assert!(psql.unwrap().success(), "the roles could not be made");
    }

    /// The last lines of its log.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pids = self.processes();
        // Those that are stopped could not end.
        pids.iter().for_each(|pid| signal(*pid, "CONT"));
        if let Some(child) = self.postmaster().as_mut() {
            signal(child.id(), "QUIT");
            let _ = child.wait();
        }
        if let Some(disk) = &mut self.disk {
            let _ = disk.kill();
            let _ = disk.wait();
        }
    }
}

/// Sends a signal; a process that has ended meanwhile is none the worse.
pub(crate) fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args(["-s", name, &pid.to_string()]).stderr(Stdio::null()).status();
}

pub(crate) fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

fn id_of_postgres(which: &str) -> u32 {
    let output = Command::new("id").args([which, "postgres"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().expect("there is a user `postgres`")
}

/// The programs of PostgreSQL 15 where there are any, else the newest, as in `./dev`.
fn programs() -> PathBuf {
    let version = |path: &PathBuf| path.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    let found = std::fs::read_dir("/usr/lib/postgresql").unwrap().map(|entry| entry.unwrap().path().join("bin"));
    let found = found.filter(|path| path.join("initdb").exists() && version(path).is_some());
    found.max_by_key(|path| (version(path) == Some(15), version(path))).expect("PostgreSQL is installed")
}

/// The library that moves a process's clock.
fn build_clock(to: &Path) {
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O2", "-o"]).arg(to).arg(root().join("tests/e2e/clock.c"));
    assert!(compile.status().unwrap().success(), "the clock could not be built");
}

/// Mounts a small disk in a namespace of its own: nothing outside sees it, and it goes with the process that holds it,
/// which ends when its input does.
fn mount(at: &Path, megabytes: u32) -> Child {
    let at = at.display();
    let hold = format!("mount -t tmpfs -o size={megabytes}m,mode=0777 annals '{at}' && echo mounted && exec cat");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", &hold]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "mounted\n", "a small disk needs root and the right to mount");
    child
}
