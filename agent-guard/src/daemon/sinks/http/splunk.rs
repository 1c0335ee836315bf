//! Splunk's HTTP Event Collector: each event in an envelope, and a body of as many as there are.

use std::path::PathBuf;

use bytes::{BufMut as _, Bytes, BytesMut};
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Fate, authorization, client::Client, webhook::check};
use crate::daemon::sinks::{
    secret::SecretFile,
    tls::TlsConfig,
    transport::{Transport, Undelivered},
};

/// Where events are posted to unless the address has a path.
const PATH: &str = "/services/collector/event";

/// A collector.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplunkConfig {
    /// Where it is.
    pub url: String,
    /// The file with its token.
    pub token_file: PathBuf,
    /// The index that events go to; none: the token's.
    pub index: Option<String>,
    /// What they are to Splunk.
    #[serde(default = "sourcetype")]
    pub sourcetype: String,
    /// For https.
    pub tls: Option<TlsConfig>,
}

fn sourcetype() -> String {
    "ocsf:agent-guard".to_owned()
}

impl SplunkConfig {
    /// # Errors
    /// What of it can not be.
    pub fn check(&self) -> Result<(), String> {
        check(&self.url, self.tls.as_ref())
    }

    /// The paths that it names.
    #[must_use]
    pub fn paths(&self) -> Vec<&PathBuf> {
        [&self.token_file].into_iter().chain(self.tls.iter().flat_map(TlsConfig::paths)).collect()
    }
}

/// A collector and the connection to it.
pub struct Splunk {
    config: SplunkConfig,
    client: Client,
    token: SecretFile,
    host: String,
}

/// An event, as the collector wants it.
#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a RawValue>,
    host: &'a str,
    source: &'static str,
    sourcetype: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<&'a str>,
    event: &'a RawValue,
}

/// Of a line, what its envelope tells too.
#[derive(Default, Deserialize)]
struct Told {
    /// Milliseconds since the epoch.
    time: Option<u64>,
}

/// What the collector says beside the status.
#[derive(Default, Deserialize)]
struct Said {
    /// Which event of the body is wrong, from 0 on; it has those before.
    #[serde(rename = "invalid-event-number")]
    invalid: Option<usize>,
}

impl Splunk {
    /// One that is connected to when there is something to say.
    ///
    /// # Errors
    /// A file is not what it has to be.
    pub fn open(config: &SplunkConfig) -> anyhow::Result<Self> {
        Ok(Self {
            config: config.clone(),
            client: Client::open(&config.url, config.tls.as_ref())?,
            token: SecretFile::open(&config.token_file)?,
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        })
    }

    async fn post(&mut self, lines: &[Bytes]) -> Fate {
        let mut body = BytesMut::new();
        for line in lines {
            if let Err(error) = self.envelope(line, &mut body) {
                return Fate::Refused(format!("an event is no JSON: {error}"), None);
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match authorization("Splunk", &self.token) {
            Ok(token) => drop(headers.insert(AUTHORIZATION, token)),
            Err(error) => return Fate::Later(error),
        }
        let path = match self.client.path() {
            "/" => PATH.to_owned(),
            path => path.to_owned(),
        };
        match self.client.post(&path, headers, body.freeze()).await {
            Ok(answer) => match Fate::of(&answer) {
                Fate::Refused(error, _) => {
                    let said: Said = serde_json::from_slice(&answer.body).unwrap_or_default();
                    Fate::Refused(error, said.invalid.filter(|at| *at < lines.len()))
                }
                fate => fate,
            },
            Err(error) => Fate::Later(Undelivered::later(error)),
        }
    }

    fn envelope(&self, line: &[u8], body: &mut BytesMut) -> serde_json::Result<()> {
        let told: Told = serde_json::from_slice(line).unwrap_or_default();
        // Splunk counts in seconds. As text: no digit is lost.
        let time = told.time.map(|ms| format!("{}.{:03}", ms / 1000, ms % 1000));
        let time = time.map(RawValue::from_string).transpose()?;
        let SplunkConfig { index, sourcetype, .. } = &self.config;
        let event = serde_json::from_slice(line.strip_suffix(b"\n").unwrap_or(line))?;
        let envelope = Envelope {
            time: time.as_deref(),
            host: &self.host,
            source: "agent-guard",
            sourcetype,
            index: index.as_deref(),
            event,
        };
        serde_json::to_writer(body.writer(), &envelope)?;
        body.put_u8(b'\n');
        Ok(())
    }
}

impl Transport for Splunk {
    async fn deliver(&mut self, lines: &[Bytes]) -> Result<(), Undelivered> {
        super::deliver(lines, async |some| self.post(some).await).await
    }

    fn reopen(&mut self) -> Result<(), String> {
        *self = Self::open(&self.config).map_err(|error| format!("{error:#}"))?;
        Ok(())
    }
}
