//! What sinks deliver to: a collector made from the official definitions of OTLP, and a Kafka cluster.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    common::v1::{AnyValue, any_value::Value as Any},
    logs::v1::LogRecord,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::oneshot;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// A collector of OTLP logs, which can be away.
pub struct Otlp {
    pub address: SocketAddr,
    got: Arc<Mutex<Vec<LogRecord>>>,
    /// What ends the thread that serves.
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// The service.
struct Taker(Arc<Mutex<Vec<LogRecord>>>);

#[tonic::async_trait]
impl LogsService for Taker {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let logs = request.into_inner().resource_logs.into_iter();
        let records = logs.flat_map(|logs| logs.scope_logs).flat_map(|logs| logs.log_records);
        self.0.lock().unwrap().extend(records);
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

impl Otlp {
    /// Starts it.
    pub fn start() -> Self {
        let mut otlp =
            Self { address: ([127, 0, 0, 1], 0).into(), got: Arc::default(), running: None };
        otlp.come_back();
        otlp
    }

    /// Answers from here on.
    pub fn come_back(&mut self) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        let incoming = runtime.block_on(async { TcpIncoming::bind(self.address).unwrap() });
        self.address = incoming.local_addr().unwrap();
        let service = LogsServiceServer::new(Taker(Arc::clone(&self.got)));
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime.spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
            // All connections end with the runtime.
            let _ = runtime.block_on(ended);
        });
        self.running = Some((end, thread));
    }

    /// Hangs up, and lets nobody in.
    pub fn go_away(&mut self) {
        let Some((end, thread)) = self.running.take() else { return };
        drop(end);
        thread.join().unwrap();
    }

    /// The bodies of the records so far.
    pub fn got(&self) -> Vec<Value> {
        let got = self.got.lock().unwrap();
        got.iter().map(|record| json(record.body.as_ref().unwrap())).collect()
    }
}

impl Drop for Otlp {
    fn drop(&mut self) {
        self.go_away();
    }
}

/// A value of OTLP as JSON.
fn json(value: &AnyValue) -> Value {
    match value.value.as_ref().unwrap() {
        Any::StringValue(text) => text.as_str().into(),
        Any::BoolValue(value) => (*value).into(),
        Any::IntValue(value) => (*value).into(),
        Any::ArrayValue(list) => list.values.iter().map(json).collect(),
        Any::KvlistValue(list) => {
            let entries = list.values.iter();
            entries.map(|entry| (entry.key.clone(), json(entry.value.as_ref().unwrap()))).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// A cluster of one broker with one topic, which is a mock that another build of the client library has inside.
pub struct Kafka {
    pub address: String,
    child: Child,
}

/// The topic.
pub const TOPIC: &str = "agents";

impl Kafka {
    /// Starts it; what it says goes into a file in `directory`.
    pub fn start(directory: &Path) -> Self {
        let log = directory.join("kafka.log");
        // Its input is never written to: it produces nothing, but its cluster is there.
        let child = Command::new("kcat")
            .args(["-P", "-b", "none", "-X", "test.mock.num.brokers=1", "-t", TOPIC])
            .stdin(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .expect("kcat is installed by `cargo xtask setup`");
        let due = Instant::now() + Duration::from_secs(20);
        let address = loop {
            let text = fs::read_to_string(&log).unwrap();
            let told = text.lines().find_map(|line| line.rsplit_once("replaced with "));
            if let Some((_, address)) = told {
                break address.trim().to_owned();
            }
            assert!(Instant::now() < due, "it does not come up: {text}");
            std::thread::sleep(Duration::from_millis(20));
        };
        let kafka = Self { address, child };
        while !kafka.kcat(&["-L"]).contains(&format!("\"{TOPIC}\" with 4 partitions")) {
            assert!(Instant::now() < due, "there is no topic");
        }
        kafka
    }

    /// Has it do nothing.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Has it go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What is in the topic: the keys and the events.
    pub fn got(&self) -> Vec<(String, Value)> {
        let text = self.kcat(&["-C", "-t", TOPIC, "-o", "beginning", "-e", "-q", "-f", "%k %s\\n"]);
        let line = |line: &str| {
            let (key, event) = line.split_once(' ').unwrap();
            (key.to_owned(), serde_json::from_str(event).unwrap())
        };
        text.lines().map(line).collect()
    }

    fn kcat(&self, arguments: &[&str]) -> String {
        let output =
            Command::new("kcat").args(["-b", &self.address]).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
