//! A topic of a Kafka cluster.

mod config;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rdkafka::{
    ClientContext,
    config::ClientConfig,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{FutureProducer, FutureRecord, Producer as _},
};
use serde::Deserialize;

pub use self::config::KafkaConfig;
use super::{
    far_text::far_text,
    transport::{Retry, Transport, Undelivered},
};

/// A topic, and the client that sends to it.
pub struct Kafka {
    config: KafkaConfig,
    host: String,
    producer: FutureProducer<Told>,
    told: Told,
}

/// What the client says of itself: the last of it explains why lines do not get there.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Option<String>>>);

impl ClientContext for Told {
    fn log(&self, _: RDKafkaLogLevel, _: &str, message: &str) {
        tracing::debug!("kafka: {}", far_text(message));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let text = format!("{error}: {}", far_text(reason));
        tracing::debug!("kafka: {text}");
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }
}

impl Kafka {
    /// One that connects on its own.
    ///
    /// # Errors
    /// A file is not what it has to be.
    pub fn open(config: &KafkaConfig) -> anyhow::Result<Self> {
        Self::with(config, &config.client()?)
    }

    fn with(config: &KafkaConfig, client: &ClientConfig) -> anyhow::Result<Self> {
        let told = Told::default();
        Ok(Self {
            config: config.clone(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            producer: client.create_with_context(told.clone())?,
            told,
        })
    }

    /// What went wrong, with what the client said of it meanwhile.
    fn undelivered(&self, delivered: usize, error: &KafkaError) -> Undelivered {
        let retry = match error.rdkafka_error_code() {
            // The line itself is what brokers do not take.
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidRecord) => {
                Retry::Never(1)
            }
            _ => Retry::Later(None),
        };
        let told = self.told.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let error = match told {
            Some(told) => format!("{error}; {told}"),
            None => error.to_string(),
        };
        Undelivered { delivered, error, retry }
    }
}

impl Transport for Kafka {
    async fn deliver(&mut self, lines: &[Bytes]) -> Result<(), Undelivered> {
        // A client that has found its own order broken takes nothing any more.
        if self.producer.client().fatal_error().is_some() {
            self.reopen().map_err(Undelivered::later)?;
        }
        *self.told.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut on_their_way = Vec::with_capacity(lines.len());
        let mut result = Ok(());
        for line in lines {
            let key = key(&self.host, line);
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let record = FutureRecord::to(&self.config.topic).key(&key).payload(line);
            match self.producer.send_result(record) {
                Ok(sent) => on_their_way.push(sent),
                Err((error, _)) => {
                    result = Err(self.undelivered(on_their_way.len(), &error));
                    break;
                }
            }
        }
        // All are waited for: what is still on its way when it is sent again comes twice.
        for (number, sent) in on_their_way.into_iter().enumerate().rev() {
            let arrived = match sent.await {
                Ok(arrived) => arrived.map_err(|(error, _)| error),
                Err(_) => Err(KafkaError::Canceled),
            };
            if let Err(error) = arrived {
                result = Err(self.undelivered(number, &error));
            }
        }
        result
    }

    fn reopen(&mut self) -> Result<(), String> {
        *self = Self::open(&self.config).map_err(|error| format!("{error:#}"))?;
        Ok(())
    }
}

/// What of a line says whose it is, in whichever encoding.
#[derive(Deserialize)]
struct Event {
    agent_guard: Option<Own>,
    unmapped: Option<Unmapped>,
}

#[derive(Deserialize)]
struct Unmapped {
    agent_guard: Own,
}

#[derive(Deserialize)]
struct Own {
    agent: Agent,
}

#[derive(Deserialize)]
struct Agent {
    id: u32,
}

/// The key of a line: the host and the number of the agent on it. Events of one agent stay in order, and those of
/// many hosts, which all number agents from 1 on, are spread over the partitions.
fn key(host: &str, line: &[u8]) -> String {
    let event: Option<Event> = serde_json::from_slice(line).ok();
    let own = event.and_then(|event| {
        event.agent_guard.or_else(|| event.unmapped.map(|unmapped| unmapped.agent_guard))
    });
    match own {
        Some(Own { agent: Agent { id } }) => format!("{host}/{id}"),
        None => host.to_owned(),
    }
}
