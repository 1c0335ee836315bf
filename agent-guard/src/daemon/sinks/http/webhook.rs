//! A webhook: events in the body of a POST.

use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;

use super::{
    Fate, authorization,
    client::{Client, parse_url},
};
use crate::daemon::sinks::{
    secret::SecretFile,
    tls::TlsConfig,
    transport::{Transport, Undelivered},
};

/// A webhook.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where events are posted to.
    pub url: String,
    /// What a body is.
    #[serde(default)]
    pub format: Format,
    /// The file with the token that is sent as `Authorization: Bearer`.
    pub token_file: Option<PathBuf>,
    /// For https.
    pub tls: Option<TlsConfig>,
}

/// What a body is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A line for each event.
    #[default]
    Ndjson,
    /// One JSON array.
    Array,
}

impl WebhookConfig {
    /// # Errors
    /// What of it can not be.
    pub fn check(&self) -> Result<(), String> {
        check(&self.url, self.tls.as_ref())
    }

    /// The paths that it names.
    #[must_use]
    pub fn paths(&self) -> Vec<&PathBuf> {
        self.token_file.iter().chain(self.tls.iter().flat_map(TlsConfig::paths)).collect()
    }
}

/// # Errors
/// What can not be.
pub fn check(url: &str, tls: Option<&TlsConfig>) -> Result<(), String> {
    let (url, _, _) = parse_url(url)?;
    match tls {
        Some(_) if url.scheme_str() != Some("https") => {
            Err("`tls` goes with a `url` of https".to_owned())
        }
        Some(tls) => tls.check(),
        None => Ok(()),
    }
}

/// A webhook and the connection to it.
pub struct Webhook {
    config: WebhookConfig,
    client: Client,
    token: Option<SecretFile>,
}

impl Webhook {
    /// One that is connected to when there is something to say.
    ///
    /// # Errors
    /// A file is not what it has to be.
    pub fn open(config: &WebhookConfig) -> anyhow::Result<Self> {
        let client = Client::open(&config.url, config.tls.as_ref())?;
        let token = config.token_file.as_deref().map(SecretFile::open).transpose()?;
        Ok(Self { config: config.clone(), client, token })
    }

    async fn post(&mut self, lines: &[Bytes]) -> Fate {
        let (kind, body) = match self.config.format {
            Format::Ndjson => ("application/x-ndjson", lines.concat().into()),
            Format::Array => ("application/json", array(lines)),
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        match self.token.as_ref().map(|token| authorization("Bearer", token)).transpose() {
            Ok(Some(token)) => drop(headers.insert(AUTHORIZATION, token)),
            Ok(None) => {}
            Err(error) => return Fate::Later(error),
        }
        let path = self.client.path().to_owned();
        match self.client.post(&path, headers, body).await {
            Ok(answer) => Fate::of(&answer),
            Err(error) => Fate::Later(Undelivered::later(error)),
        }
    }
}

fn array(lines: &[Bytes]) -> Bytes {
    let mut body = BytesMut::from("[");
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            body.extend_from_slice(b",");
        }
        body.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
    }
    body.extend_from_slice(b"]\n");
    body.freeze()
}

impl Transport for Webhook {
    async fn deliver(&mut self, lines: &[Bytes]) -> Result<(), Undelivered> {
        super::deliver(lines, async |some| self.post(some).await).await
    }

    fn reopen(&mut self) -> Result<(), String> {
        *self = Self::open(&self.config).map_err(|error| format!("{error:#}"))?;
        Ok(())
    }
}
