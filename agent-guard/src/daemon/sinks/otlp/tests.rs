//! Against a collector made from the official definitions.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceResponse,
    logs_service_server::{LogsService, LogsServiceServer},
};
use tokio::task::JoinHandle;
use tonic::{
    Response,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::*;

/// What the collector answers next; where nothing stands here, that it took everything.
type Answers = VecDeque<Result<ExportLogsServiceResponse, Status>>;

#[derive(Clone, Default)]
struct Collector {
    answers: Arc<Mutex<Answers>>,
    taken: Arc<Mutex<Vec<(MetadataMap, ExportLogsServiceRequest)>>>,
    /// A request with this line is refused.
    poison: Arc<Mutex<Option<i64>>>,
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let (headers, _, message) = request.into_parts();
        let poison = self.poison.lock().unwrap();
        if poison.is_some_and(|poison| numbers(&message).contains(&poison)) {
            return Err(Status::invalid_argument("poison"));
        }
        let answer = self.answers.lock().unwrap().pop_front();
        let answer = answer.unwrap_or_else(|| Ok(ExportLogsServiceResponse::default()))?;
        self.taken.lock().unwrap().push((headers, message));
        Ok(Response::new(answer))
    }
}

impl Collector {
    fn will(&self, answer: Result<ExportLogsServiceResponse, Status>) {
        self.answers.lock().unwrap().push_back(answer);
    }

    fn listen(
        &self,
        address: SocketAddr,
        tls: Option<ServerTlsConfig>,
    ) -> (SocketAddr, JoinHandle<()>) {
        let incoming = TcpIncoming::bind(address).unwrap();
        let address = incoming.local_addr().unwrap();
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let serving =
            server.add_service(LogsServiceServer::new(self.clone())).serve_with_incoming(incoming);
        (address, tokio::spawn(async { serving.await.unwrap() }))
    }

    /// Of all lines that were taken.
    fn numbers(&self) -> Vec<i64> {
        self.taken.lock().unwrap().iter().flat_map(|(_, request)| numbers(request)).collect()
    }
}

/// The only field of each line.
fn numbers(request: &ExportLogsServiceRequest) -> Vec<i64> {
    let logs = request.resource_logs.iter().flat_map(|logs| &logs.scope_logs);
    let number = |body: &AnyValue| match body.value.as_ref().unwrap() {
        any_value::Value::KvlistValue(list) => match list.values[0].value.as_ref().unwrap().value {
            Some(any_value::Value::IntValue(number)) => number,
            ref other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let records = logs.flat_map(|logs| &logs.log_records);
    records.map(|record| number(record.body.as_ref().unwrap())).collect()
}

const ANYWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn otlp(text: &str) -> Otlp {
    let config: OtlpConfig = toml::from_str(text).unwrap();
    config.check().unwrap();
    Otlp::open(&config).unwrap()
}

fn to(address: SocketAddr) -> Otlp {
    otlp(&format!("endpoint = 'http://{address}'"))
}

fn lines(numbers: std::ops::Range<u32>) -> Vec<Bytes> {
    numbers.map(|number| Bytes::from(format!("{{\"n\":{number}}}\n"))).collect()
}

/// What comes of two lines where the collector answers with `status`.
async fn after(status: Status) -> Undelivered {
    let collector = Collector::default();
    collector.will(Err(status));
    let (address, _) = collector.listen(ANYWHERE, None);
    let mut otlp = to(address);
    let undelivered = otlp.deliver(&lines(0..2)).await.unwrap_err();
    assert_eq!(undelivered.delivered, 0);
    otlp.deliver(&lines(2..4)).await.unwrap();
    assert_eq!(collector.numbers(), [2, 3], "it goes on after any answer");
    undelivered
}

#[tokio::test]
async fn a_collector_gets_every_line_in_order_and_who_sends_them() {
    let collector = Collector::default();
    let (address, _) = collector.listen(ANYWHERE, None);
    let mut otlp = to(address);
    otlp.deliver(&lines(0..3)).await.unwrap();
    otlp.deliver(&lines(3..5)).await.unwrap();
    assert_eq!(collector.numbers(), [0, 1, 2, 3, 4]);
    let taken = collector.taken.lock().unwrap();
    let resource = taken[0].1.resource_logs[0].resource.as_ref().unwrap();
    let names: Vec<_> =
        resource.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert_eq!(names, ["service.name", "service.version", "host.name"]);
}

#[tokio::test]
async fn what_a_collector_rejects_is_counted_exactly() {
    let collector = Collector::default();
    let partial = |rejected| {
        let error_message = "no\nroom".to_owned();
        let partial = ExportLogsPartialSuccess { rejected_log_records: rejected, error_message };
        Ok(ExportLogsServiceResponse { partial_success: Some(partial) })
    };
    let (address, _) = collector.listen(ANYWHERE, None);
    let mut otlp = to(address);
    for (rejected, delivered, lost) in [(2, 3, 2), (5, 0, 5), (i64::MAX, 0, 5)] {
        collector.will(partial(rejected));
        let undelivered = otlp.deliver(&lines(0..5)).await.unwrap_err();
        assert_eq!((undelivered.delivered, undelivered.retry), (delivered, Retry::Never(lost)));
        assert!(undelivered.error.ends_with(r"no\x0aroom"), "{}", undelivered.error);
    }
    for none in [0, -1] {
        collector.will(partial(none));
        otlp.deliver(&lines(0..5)).await.unwrap();
    }
}

#[tokio::test]
async fn what_may_be_tried_again_is_as_the_protocol_says() {
    for code in [
        Code::Cancelled,
        Code::DeadlineExceeded,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unavailable,
        Code::DataLoss,
    ] {
        assert_eq!(after(Status::new(code, "x")).await.retry, Retry::Later(None), "{code:?}");
    }
    for code in
        [Code::InvalidArgument, Code::FailedPrecondition, Code::Internal, Code::ResourceExhausted]
    {
        let lines = lines(0..1);
        let undelivered = refused(&Status::new(code, "x"), lines.len());
        assert_eq!(undelivered.retry, Retry::Never(1), "{code:?}");
    }
}

#[tokio::test]
async fn a_line_that_a_collector_never_takes_is_found_and_given_up_alone() {
    for poison in [0, 3, 7] {
        let collector = Collector::default();
        *collector.poison.lock().unwrap() = Some(poison);
        let (address, _) = collector.listen(ANYWHERE, None);
        let mut otlp = to(address);
        let lines = lines(0..8);
        let undelivered = otlp.deliver(&lines).await.unwrap_err();
        let before = usize::try_from(poison).unwrap();
        assert_eq!((undelivered.delivered, undelivered.retry), (before, Retry::Never(1)));
        otlp.deliver(&lines[before + 1..]).await.unwrap();
        assert!(collector.numbers().into_iter().eq((0..8).filter(|number| *number != poison)));
    }
}

#[tokio::test]
async fn events_wait_for_a_wrong_token_or_address_to_be_mended() {
    for code in [Code::Unauthenticated, Code::PermissionDenied, Code::NotFound, Code::Unimplemented]
    {
        assert_eq!(after(Status::new(code, "x")).await.retry, Retry::Later(None), "{code:?}");
    }
}

#[tokio::test]
async fn a_collector_says_how_long_it_wants_to_be_left_alone() {
    for code in [Code::ResourceExhausted, Code::Unavailable] {
        let wait = Duration::from_secs(7);
        let details = ErrorDetails::with_retry_info(Some(wait));
        let status = Status::with_error_details(code, "full", details);
        assert_eq!(after(status).await.retry, Retry::Later(Some(wait)), "{code:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_malformed_or_endless_harms_nobody() {
    let mut headers = tonic::codegen::http::HeaderMap::new();
    headers.insert("grpc-status-details-bin", "!!".parse().unwrap());
    let status = Status::with_metadata(Code::Unavailable, "x", MetadataMap::from_headers(headers));
    let undelivered = after(status).await;
    assert_eq!(undelivered, Undelivered::later("the collector's answer is malformed"));

    let collector = Collector::default();
    let error_message = "x".repeat(MOST_ANSWER);
    let partial = ExportLogsPartialSuccess { rejected_log_records: 0, error_message };
    collector.will(Ok(ExportLogsServiceResponse { partial_success: Some(partial) }));
    let (address, _) = collector.listen(ANYWHERE, None);
    let undelivered = to(address).deliver(&lines(0..2)).await.unwrap_err();
    assert!(undelivered.error.len() < 1000, "{}", undelivered.error);
}

#[tokio::test]
async fn what_a_collector_says_is_shown_on_one_line_and_bounded() {
    let undelivered = after(Status::unavailable(format!("\x1b[2J\n{}", "x".repeat(4000)))).await;
    assert!(!undelivered.error.contains(char::is_control), "{}", undelivered.error);
    assert!(undelivered.error.len() < 1000, "{}", undelivered.error);
}

#[tokio::test]
async fn lines_wait_for_a_collector_that_is_away_and_go_to_it_when_it_is_back() {
    let collector = Collector::default();
    let (address, serving) = collector.listen(ANYWHERE, None);
    let mut otlp = to(address);
    otlp.deliver(&lines(0..2)).await.unwrap();
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    // Connections that it had go on until they are asked to end, so another one is needed.
    otlp.reopen().unwrap();
    let undelivered = otlp.deliver(&lines(2..4)).await.unwrap_err();
    assert_eq!((undelivered.delivered, undelivered.retry), (0, Retry::Later(None)));
    assert!(undelivered.error.contains("refused"), "{}", undelivered.error);
    collector.listen(address, None);
    otlp.deliver(&lines(2..4)).await.unwrap();
    assert_eq!(collector.numbers(), [0, 1, 2, 3]);
}

/// A certificate of `name` with its key, signed by itself, as files in `directory`.
fn certificate(directory: &Path, name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for (file, text) in [("crt", &certificate), ("key", &key)] {
        let path = directory.join(format!("{name}.{file}"));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    (certificate, key)
}

#[tokio::test]
async fn over_tls_both_ends_prove_who_they_are_and_headers_go_along() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let (server, server_key) = certificate(path, "collector");
    let (client, _) = certificate(path, "guard");
    std::fs::write(path.join("headers"), "Authorization: Bearer abc\n").unwrap();
    std::fs::set_permissions(path.join("headers"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(server, server_key))
        .client_ca_root(tonic::transport::Certificate::from_pem(client));
    let collector = Collector::default();
    let (address, _) = collector.listen(ANYWHERE, Some(tls));
    let shown = path.display();
    let endpoint = format!("endpoint = 'https://{address}'\ntls.server_name = 'collector'\n");
    let ca = format!("tls.ca = '{shown}/collector.crt'\n");
    let identity =
        format!("tls.certificate = '{shown}/guard.crt'\ntls.key = '{shown}/guard.key'\n");
    let headers = format!("headers_file = '{shown}/headers'\n");

    otlp(&format!("{endpoint}{ca}{identity}{headers}")).deliver(&lines(0..1)).await.unwrap();
    let taken = collector.taken.lock().unwrap()[0].0.clone();
    assert_eq!(taken.get("authorization").unwrap(), "Bearer abc");

    let other_name = endpoint.replace("'collector'", "'other'");
    for (why, text) in [
        ("no certificate is shown", format!("{endpoint}{ca}")),
        ("nobody trusted has signed the collector's", format!("{endpoint}{identity}")),
        ("the collector is another", format!("{other_name}{ca}{identity}")),
    ] {
        let undelivered = otlp(&text).deliver(&lines(1..2)).await.unwrap_err();
        assert!(matches!(undelivered.retry, Retry::Later(_)), "{why}: {undelivered:?}");
    }
    assert_eq!(collector.numbers(), [0]);
}

#[tokio::test]
async fn renewed_headers_are_read_when_the_sink_is_opened_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("headers");
    let write = |text: &str| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("x-token: one");
    let collector = Collector::default();
    let (address, _) = collector.listen(ANYWHERE, None);
    let mut otlp =
        otlp(&format!("endpoint = 'http://{address}'\nheaders_file = '{}'", path.display()));
    otlp.deliver(&lines(0..1)).await.unwrap();
    write("x-token: two");
    otlp.reopen().unwrap();
    otlp.deliver(&lines(1..2)).await.unwrap();
    write("no header");
    assert!(otlp.reopen().unwrap_err().contains("line 1"));
    otlp.deliver(&lines(2..3)).await.unwrap();
    let taken = collector.taken.lock().unwrap();
    let tokens: Vec<_> = taken.iter().map(|(headers, _)| headers.get("x-token").unwrap()).collect();
    assert_eq!(tokens, ["one", "two", "two"]);
}
