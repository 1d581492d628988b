//! A Kafka of its own, for tests that kill it or take from what it has stored. One node, as `./dev` starts it, on ports
//! and in a folder of its own; gone when it is dropped.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tempfile::TempDir;

use crate::lodging::{dev_file, free_port, root};
use crate::server::signal;
use crate::topic::Topic;

/// What its data is called by; any will do.
const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qg";

/// See the module.
pub(crate) struct Broker {
    port: u16,
    process: Mutex<Option<Child>>,
    folder: TempDir,
}

impl Broker {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("annals-kafka-").tempdir().unwrap();
        let broker = Self { port: free_port(), process: Mutex::default(), folder };
        let settings = std::fs::read_to_string(root().join("deploy/kafka/server.properties.template")).unwrap();
        let settings = settings
            .replace("@PORT@", &broker.port.to_string())
            .replace("@CONTROLLER_PORT@", &free_port().to_string())
            .replace("@DATA@", &broker.data().display().to_string());
        std::fs::write(broker.settings(), settings).unwrap();
        let mut format = broker.java();
        format.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"]).arg(broker.settings());
        assert!(format.status().unwrap().success(), "its storage could not be made: {}", broker.log());
        broker.up().await;
        broker
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn settings(&self) -> PathBuf {
        self.folder.path().join("server.properties")
    }

    fn java(&self) -> Command {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = Command::new("java");
        command.args(["-Xms128m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
        command.arg(dev_file("kafka-libs").join("*"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    /// Starts it, and waits until it answers.
    pub(crate) async fn up(&self) {
        let mut start = self.java();
        start.arg("kafka.Kafka").arg(self.settings());
        *self.process.lock().unwrap() = Some(start.spawn().unwrap());
        let begun = Instant::now();
        while !self.answers().await {
            assert!(begun.elapsed() < Duration::from_secs(120), "Kafka does not start: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn answers(&self) -> bool {
        let address = self.address();
        let asked = tokio::task::spawn_blocking(move || {
            let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", address).create().unwrap();
            client.fetch_metadata(None, Duration::from_secs(2)).is_ok()
        });
        asked.await.unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill(&self) {
        if let Some(mut process) = self.process.lock().unwrap().take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// `STOP`s or `CONT`inues it: a machine that hangs.
    pub(crate) fn signal(&self, name: &str) {
        if let Some(process) = self.process.lock().unwrap().as_ref() {
            signal(process.id(), name);
        }
    }

    /// Takes the last bytes from each partition of a topic, as a disk or an unclean election does. It must be down.
    pub(crate) fn cut_tails(&self, topic: &Topic, bytes: u64) {
        for entry in std::fs::read_dir(self.data()).unwrap() {
            let folder = entry.unwrap().path();
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            if name.rsplit_once('-').is_none_or(|(of, _)| of != topic.name) {
                continue;
            }
            let segments = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
            let last = segments.filter(|path| path.extension().is_some_and(|kind| kind == "log")).max().unwrap();
            let segment = File::options().write(true).open(last).unwrap();
            let length = segment.metadata().unwrap().len();
            segment.set_len(length.saturating_sub(bytes)).unwrap();
        }
    }

    /// The last lines of its log.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.signal("CONT");
        self.kill();
    }
}
