//! An OpenTelemetry collector, which takes logs by OTLP over gRPC.

mod config;
mod record;
#[cfg(test)]
mod tests;

use std::{
    error::Error as _,
    panic::AssertUnwindSafe,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::logs::v1::{
        ExportLogsPartialSuccess, ExportLogsServiceRequest, logs_service_client::LogsServiceClient,
    },
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    logs::v1::{ResourceLogs, ScopeLogs},
    resource::v1::Resource,
};
use tonic::{
    Code, Request, Status,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use tower::service_fn;

pub use self::config::OtlpConfig;
use super::{
    connect::Address,
    far_text::far_text,
    transport::{Retry, Transport, Undelivered},
};

/// How long the collector may take to answer once there is a connection.
const ANSWER: Duration = Duration::from_secs(15);

/// How often a connection is asked whether it still is one, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Most of an answer that is read, bytes: it holds a number and a message.
const MOST_ANSWER: usize = 64 << 10;

/// A collector.
pub struct Otlp {
    config: OtlpConfig,
    address: Address,
    resource: Resource,
    /// The connection and its headers, while there is one.
    client: Option<(LogsServiceClient<Channel>, MetadataMap)>,
}

impl Otlp {
    /// One that is connected to when there is something to say.
    ///
    /// # Errors
    /// A file is not what it has to be.
    pub fn open(config: &OtlpConfig) -> anyhow::Result<Self> {
        config.headers()?;
        Ok(Self {
            config: config.clone(),
            address: config.address()?,
            resource: resource(),
            client: None,
        })
    }

    /// The connection that there is, or a new one, with the headers as they are now: they may have been renewed.
    fn client(&mut self) -> anyhow::Result<&mut (LogsServiceClient<Channel>, MetadataMap)> {
        let new = match self.client.take() {
            Some(client) => client,
            None => (connect(self.address.clone())?, self.config.headers()?),
        };
        Ok(self.client.insert(new))
    }

    /// Makes one request. What comes back is what the collector says of those that it rejected.
    async fn export(
        &mut self,
        lines: &[Bytes],
    ) -> Result<Option<ExportLogsPartialSuccess>, Undelivered> {
        let mut request = Request::new(self.request(lines));
        let (client, headers) =
            self.client().map_err(|error| Undelivered::later(format_args!("{error:#}")))?;
        *request.metadata_mut() = headers.clone();
        // The library panics where the details of a status are not base64.
        match AssertUnwindSafe(client.export(request)).catch_unwind().await {
            Ok(Ok(answer)) => Ok(answer.into_inner().partial_success),
            Ok(Err(status)) => Err(refused(&status, lines.len())),
            Err(_) => Err(Undelivered::later("the collector's answer is malformed")),
        }
    }

    fn request(&self, lines: &[Bytes]) -> ExportLogsServiceRequest {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let logs = ScopeLogs {
            scope: Some(scope),
            log_records: lines.iter().map(|line| record::log_record(line, now)).collect(),
            ..ScopeLogs::default()
        };
        let logs = ResourceLogs {
            resource: Some(self.resource.clone()),
            scope_logs: vec![logs],
            ..ResourceLogs::default()
        };
        ExportLogsServiceRequest { resource_logs: vec![logs] }
    }
}

impl Transport for Otlp {
    async fn deliver(&mut self, lines: &[Bytes]) -> Result<(), Undelivered> {
        let (mut delivered, mut most) = (0, lines.len());
        while let Some(left) = lines.get(delivered..).filter(|left| !left.is_empty()) {
            let some = left.get(..most).unwrap_or(left);
            let undelivered = match self.export(some).await {
                Ok(partial) => match accepted(partial, some.len()) {
                    Ok(()) => {
                        delivered += some.len();
                        continue;
                    }
                    Err(undelivered) => undelivered,
                },
                // One of them is why: halved until it is alone, nothing else is lost with it.
                Err(Undelivered { retry: Retry::Never(2..), .. }) => {
                    most = some.len().div_ceil(2);
                    continue;
                }
                Err(undelivered) => undelivered,
            };
            if let Retry::Later(_) = undelivered.retry {
                self.client = None;
            }
            let delivered = delivered + undelivered.delivered;
            return Err(Undelivered { delivered, ..undelivered });
        }
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), String> {
        *self = Self::open(&self.config).map_err(|error| format!("{error:#}"))?;
        Ok(())
    }
}

/// Connects when there is something to say, and again where a connection has ended.
fn connect(address: Address) -> anyhow::Result<LogsServiceClient<Channel>> {
    let Address { host, port, tls } = &address;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}"))?
        .origin(format!("{scheme}://{host}:{port}").parse()?)
        .timeout(ANSWER)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    let connector = service_fn(move |_| {
        let address = address.clone();
        async move { address.connect().await.map(|connection| TokioIo::new(connection.stream)) }
    });
    let channel = endpoint.connect_with_connector_lazy(connector);
    Ok(LogsServiceClient::new(channel).max_decoding_message_size(MOST_ANSWER))
}

/// Who tells of all this.
fn resource() -> Resource {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let attributes = [
        ("service.name", env!("CARGO_PKG_NAME").to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("host.name", host),
    ]
    .map(|(name, value)| KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value)) }),
        ..KeyValue::default()
    });
    Resource { attributes: attributes.to_vec(), ..Resource::default() }
}

/// What became of `lines` lines where the collector took the request. It does not say which ones it rejected.
fn accepted(partial: Option<ExportLogsPartialSuccess>, lines: usize) -> Result<(), Undelivered> {
    let Some(ExportLogsPartialSuccess { rejected_log_records, error_message }) = partial else {
        return Ok(());
    };
    let message = far_text(&error_message);
    let rejected = usize::try_from(rejected_log_records).unwrap_or(0).min(lines);
    if rejected == 0 {
        if !message.is_empty() {
            tracing::debug!("the collector took {lines} event(s), and says: {message}");
        }
        return Ok(());
    }
    Err(Undelivered {
        delivered: lines - rejected,
        error: format!("the collector rejected {rejected} of {lines} events: {message}"),
        retry: Retry::Never(rejected),
    })
}

/// What becomes of `lines` lines where the collector did not take the request.
fn refused(status: &Status, lines: usize) -> Undelivered {
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let retry = match status.code() {
        // Where OTLP says so.
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Retry::Later(asked),
        Code::ResourceExhausted if asked.is_some() => Retry::Later(asked),
        // OTLP gives these up. But they are about who asks, not about what is sent: a token that has run out, a wrong
        // address. Somebody mends that, and the events are still wanted then.
        Code::Unauthenticated | Code::PermissionDenied | Code::NotFound | Code::Unimplemented => {
            Retry::Later(asked)
        }
        // So a connection ends that breaks.
        Code::Unknown | Code::Ok => Retry::Later(asked),
        Code::Internal | Code::ResourceExhausted if status.source().is_some() => {
            Retry::Later(asked)
        }
        Code::Internal
        | Code::ResourceExhausted
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::AlreadyExists => Retry::Never(lines),
    };
    let mut cause = status.source();
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    let mut error = format!("{}: {}", status.code().description(), far_text(status.message()));
    if let Some(cause) = cause {
        error.push_str(&format!(": {}", far_text(&cause.to_string())));
    }
    Undelivered { delivered: 0, error, retry }
}
