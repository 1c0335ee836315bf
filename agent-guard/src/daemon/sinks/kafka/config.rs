//! What is needed to reach a Kafka cluster.

use std::path::PathBuf;

use anyhow::ensure;
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use serde::Deserialize;

use crate::daemon::sinks::{
    connect::Address,
    secret::Secret,
    tls::{SYSTEM, Tls, TlsConfig},
};

/// Longest name of a topic, as brokers have it.
const LONGEST_TOPIC: usize = 249;

/// How long a line may take to get there, milliseconds: less than a worker waits for a delivery, so that the client
/// knows what became of each.
const DELIVERY_MS: u32 = 20_000;

/// Longest message, bytes: a line and what the protocol adds. Brokers may take less.
const LONGEST_MESSAGE: u32 = 2 << 20;

/// Longest answer, bytes: what is asked for are the brokers and one topic.
const LONGEST_ANSWER: u32 = 8 << 20;

/// A topic of a Kafka cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `HOST:PORT` of brokers, which name the others.
    pub brokers: Vec<String>,
    /// Where events go.
    pub topic: String,
    /// TLS. `server_name` is not for several brokers, each of which has its own.
    pub tls: Option<TlsConfig>,
    /// Name and password.
    pub sasl: Option<SaslConfig>,
}

/// Who this host is to the brokers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaslConfig {
    /// How it is proved.
    pub mechanism: Mechanism,
    /// The name.
    pub username: String,
    /// File with the password.
    pub password_file: PathBuf,
}

/// How a password is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Mechanism {
    /// It is sent.
    #[serde(rename = "PLAIN")]
    Plain,
    /// It is not sent (RFC 5802, with SHA-256).
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// The same with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl KafkaConfig {
    /// The paths that it names.
    #[must_use]
    pub fn paths(&self) -> Vec<&PathBuf> {
        let password = self.sasl.iter().map(|sasl| &sasl.password_file);
        password.chain(self.tls.iter().flat_map(TlsConfig::paths)).collect()
    }

    /// # Errors
    /// What of it can not be.
    pub fn check(&self) -> Result<(), String> {
        if self.brokers.is_empty() {
            return Err("`brokers` has one HOST:PORT at least".to_owned());
        }
        if let Some(broker) = self.brokers.iter().find(|broker| !is_address(broker)) {
            return Err(format!("`brokers` has HOST:PORT, and not `{broker}`"));
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let length = 1..=LONGEST_TOPIC;
        if !length.contains(&self.topic.len())
            || !self.topic.bytes().all(is_plain)
            || [".", ".."].contains(&self.topic.as_str())
        {
            return Err(format!(
                "`topic` has 1 to {LONGEST_TOPIC} letters, digits, `.`, `_` and `-`"
            ));
        }
        match &self.tls {
            Some(tls) if tls.server_name.is_some() => Err(
                "`tls.server_name` is not for brokers: each has to have the name it is reached by"
                    .to_owned(),
            ),
            Some(tls) => tls.check(),
            None if self.sasl.is_some() => Err(
                "`sasl` goes with `tls`: else whoever is in between learns the password, or takes \
                     the events; `tls = {}` trusts the authorities of the system"
                    .to_owned(),
            ),
            None => Ok(()),
        }
    }

    /// All that the client library has to know. It holds the password: it is never to be shown.
    ///
    /// # Errors
    /// A file is not what it has to be.
    pub fn client(&self) -> anyhow::Result<ClientConfig> {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", self.brokers.join(","))
            .set("client.id", env!("CARGO_PKG_NAME"))
            // Every copy of a partition has it before it counts as delivered, in order, and once for each attempt.
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("delivery.timeout.ms", DELIVERY_MS.to_string())
            .set("message.max.bytes", LONGEST_MESSAGE.to_string())
            .set("compression.codec", "lz4")
            // A batch comes whole: only a moment is needed to put it together.
            .set("linger.ms", "5")
            // Agents stay together and in order, in whichever partition other clients would put the same key.
            .set("partitioner", "murmur2_random")
            .set("topic.metadata.refresh.interval.ms", "60000")
            .set("socket.keepalive.enable", "true")
            .set("socket.connection.setup.timeout.ms", "10000")
            .set("receive.message.max.bytes", LONGEST_ANSWER.to_string())
            .set("allow.auto.create.topics", "false")
            .set_log_level(RDKafkaLogLevel::Warning);
        let protocol = match (&self.tls, &self.sasl) {
            (None, _) => "plaintext",
            (Some(_), None) => "ssl",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        client.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            self.put_tls(tls, &mut client)?;
        }
        if let Some(SaslConfig { mechanism, username, password_file }) = &self.sasl {
            client
                .set("sasl.mechanism", mechanism.name())
                .set("sasl.username", username)
                .set("sasl.password", Secret::read(password_file)?.reveal());
        }
        Ok(client)
    }

    fn put_tls(&self, tls: &TlsConfig, client: &mut ClientConfig) -> anyhow::Result<()> {
        // The library reads the files itself. Their mistakes are told as those of all other sinks.
        for broker in &self.brokers {
            let (host, _) = Address::split(broker).unwrap_or_default();
            Tls::load(tls, &host)?;
        }
        let shown = |path: &PathBuf| -> anyhow::Result<String> {
            let text = path.to_str();
            ensure!(text.is_some(), "{} is no UTF-8, which this needs", path.display());
            Ok(text.unwrap_or_default().to_owned())
        };
        let ca = tls.ca.clone().unwrap_or_else(|| PathBuf::from(SYSTEM));
        client
            .set("ssl.ca.location", shown(&ca)?)
            .set("enable.ssl.certificate.verification", "true")
            .set("ssl.endpoint.identification.algorithm", "https");
        for (name, path) in
            [("ssl.certificate.location", &tls.certificate), ("ssl.key.location", &tls.key)]
        {
            if let Some(path) = path {
                client.set(name, shown(path)?);
            }
        }
        Ok(())
    }
}

fn is_address(broker: &str) -> bool {
    Address::split(broker).is_some() && !broker.contains(',')
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use rdkafka::{config::FromClientConfig as _, producer::BaseProducer};

    use super::*;

    fn config(text: &str) -> KafkaConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn mistakes_are_told() {
        config("brokers = ['a.example:9092', '[::1]:9092']\ntopic = 'agents.events'")
            .check()
            .unwrap();
        let longest = "t".repeat(LONGEST_TOPIC);
        config(&format!("brokers = ['a:1']\ntopic = '{longest}'")).check().unwrap();
        for (text, words) in [
            ("brokers = []\ntopic = 't'", "one HOST:PORT"),
            ("brokers = ['a']\ntopic = 't'", "not `a`"),
            ("brokers = ['a:1,b:1']\ntopic = 't'", "not `a:1,b:1`"),
            ("brokers = ['a:1']\ntopic = ''", "1 to 249"),
            ("brokers = ['a:1']\ntopic = '..'", "1 to 249"),
            ("brokers = ['a:1']\ntopic = 'a b'", "1 to 249"),
            (&format!("brokers = ['a:1']\ntopic = '{longest}t'"), "1 to 249"),
            ("brokers = ['a:1']\ntopic = 't'\ntls.server_name = 'a'", "each has to have"),
            ("brokers = ['a:1']\ntopic = 't'\ntls.key = '/k'", "go together"),
            (
                "brokers = ['a:1']\ntopic = 't'\nsasl = {mechanism = 'PLAIN', username = 'u', password_file = '/p'}",
                "`sasl` goes with `tls`",
            ),
        ] {
            let error = config(text).check().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn passwords_come_from_files_and_go_over_tls_that_is_verified() {
        let directory = tempfile::tempdir().unwrap();
        let shown = directory.path().display();
        let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        fs::write(directory.path().join("ca"), made.cert.pem()).unwrap();
        fs::write(directory.path().join("password"), "hunter2\n").unwrap();
        let mode = |mode| {
            let path = directory.path().join("password");
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let config = config(&format!(
            "brokers = ['a:1']\ntopic = 't'\ntls.ca = '{shown}/ca'\n\
             sasl = {{mechanism = 'SCRAM-SHA-512', username = 'u', password_file = '{shown}/password'}}"
        ));
        config.check().unwrap();
        mode(0o600);
        let client = config.client().unwrap();
        assert_eq!(client.get("security.protocol"), Some("sasl_ssl"));
        assert_eq!(client.get("sasl.password"), Some("hunter2"));
        assert_eq!(client.get("enable.ssl.certificate.verification"), Some("true"));
        assert!(!format!("{config:?}").contains("hunter2"));
        // What it is made from can be had by this build of the library.
        BaseProducer::from_config(&client).unwrap();
        mode(0o644);
        assert!(!format!("{:#}", config.client().unwrap_err()).contains("hunter2"));
    }
}
