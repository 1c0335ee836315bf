//! Syslog: RFC 5424 over UNIX datagrams, TCP (RFC 6587, octet counting) and TLS (RFC 5425).

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::Deserialize;

use super::{
    connect::{Address, Connection},
    tls::{Tls, TlsConfig},
    transport::{Transport, Undelivered},
    unix::{Datagrams, send_over},
};

/// A syslog receiver.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyslogConfig {
    /// `unix:/PATH`, `tcp:HOST:PORT` or `tls:HOST:PORT`.
    pub to: String,
    /// As what events are filed.
    #[serde(default)]
    pub facility: Facility,
    /// For `tls:`.
    pub tls: Option<TlsConfig>,
}

/// A facility, as syslog numbers them (RFC 5424, table 1); those that a program like this may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Facility {
    User = 1,
    Daemon = 3,
    Auth = 4,
    Authpriv = 10,
    Audit = 13,
    Local0 = 16,
    Local1 = 17,
    Local2 = 18,
    Local3 = 19,
    #[default]
    Local4 = 20,
    Local5 = 21,
    Local6 = 22,
    Local7 = 23,
}

/// Where it is.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Unix(&'a Path),
    Tcp(String, u16),
    Tls(String, u16),
}

impl SyslogConfig {
    fn place(&self) -> Result<Place<'_>, String> {
        let place = self.to.split_once(':').and_then(|(kind, rest)| {
            let address = || Address::split(rest);
            match kind {
                "unix" => Some(Place::Unix(Path::new(rest))),
                "tcp" => address().map(|(host, port)| Place::Tcp(host, port)),
                "tls" => address().map(|(host, port)| Place::Tls(host, port)),
                _ => None,
            }
        });
        place.ok_or_else(|| {
            format!("`to` is unix:/PATH, tcp:HOST:PORT or tls:HOST:PORT, and not `{}`", self.to)
        })
    }

    /// # Errors
    /// What of it can not be.
    pub fn check(&self) -> Result<(), String> {
        match (self.place()?, &self.tls) {
            (Place::Unix(path), _) if !path.is_absolute() => {
                Err(format!("`{}` is no absolute path", path.display()))
            }
            (Place::Tls(..), Some(tls)) => tls.check(),
            (Place::Tls(..), None) | (_, None) => Ok(()),
            (_, Some(_)) => Err("`tls` goes with `to = \"tls:HOST:PORT\"`".to_owned()),
        }
    }

    /// The paths that it names.
    #[must_use]
    pub fn paths(&self) -> Vec<&PathBuf> {
        self.tls.iter().flat_map(TlsConfig::paths).collect()
    }
}

/// A receiver, and the connection to it while there is one.
pub struct Syslog {
    config: SyslogConfig,
    header: Header,
    way: Way,
}

enum Way {
    Datagrams(Datagrams),
    Stream(Box<Address>, Option<Connection>),
}

impl Syslog {
    /// One that is connected to when there is something to say.
    ///
    /// # Errors
    /// The files of TLS are not what they have to be.
    pub fn open(config: &SyslogConfig) -> anyhow::Result<Self> {
        let way = way(config)?;
        Ok(Self { config: config.clone(), header: Header::of_this_host(config.facility), way })
    }
}

fn way(config: &SyslogConfig) -> anyhow::Result<Way> {
    let stream = |host, port, tls| Way::Stream(Box::new(Address { host, port, tls }), None);
    Ok(match config.place().map_err(anyhow::Error::msg)? {
        Place::Unix(path) => Way::Datagrams(Datagrams::new(path.to_owned())),
        Place::Tcp(host, port) => stream(host, port, None),
        Place::Tls(host, port) => {
            let tls = Tls::load(&config.tls.clone().unwrap_or_default(), &host)?;
            stream(host, port, Some(tls))
        }
    })
}

impl Transport for Syslog {
    async fn deliver(&mut self, lines: &[Bytes]) -> Result<(), Undelivered> {
        let Self { header, way, .. } = self;
        match way {
            Way::Datagrams(datagrams) => {
                datagrams.send_all(lines, |line| header.message(line)).await
            }
            Way::Stream(address, connection) => {
                let frames: Vec<u8> = lines.iter().flat_map(|line| header.frame(line)).collect();
                send_over(connection, async || address.connect().await, &frames).await
            }
        }
    }

    fn reopen(&mut self) -> Result<(), String> {
        self.way = way(&self.config).map_err(|error| format!("{error:#}"))?;
        Ok(())
    }
}

/// What all messages of this host begin with.
struct Header {
    facility: Facility,
    /// Host, program and process.
    origin: String,
}

/// Of a line, what the header of its message tells too: of OCSF, or of ECS.
#[derive(Default, Deserialize)]
struct Told<'a> {
    time: Option<u64>,
    severity_id: Option<u8>,
    #[serde(rename = "@timestamp")]
    timestamp: Option<&'a str>,
}

/// Longest host name in a header, bytes (RFC 5424, section 6).
const LONGEST_HOST: usize = 255;

impl Header {
    fn of_this_host(facility: Facility) -> Self {
        let system = rustix::system::uname();
        let name: String = system
            .nodename()
            .to_string_lossy()
            .chars()
            .filter(char::is_ascii_graphic)
            .take(LONGEST_HOST)
            .collect();
        let name = if name.is_empty() { "-" } else { &name };
        Self { facility, origin: format!("{name} agent-guard {}", std::process::id()) }
    }

    /// A line as a message, without its newline.
    fn message(&self, line: &[u8]) -> Vec<u8> {
        // A line that is no such JSON is sent all the same.
        let told: Told<'_> = serde_json::from_slice(line).unwrap_or_default();
        let severity = match told.severity_id {
            Some(1) => 6,
            Some(3) => 4,
            Some(4) => 3,
            Some(5) => 2,
            Some(6) => 1,
            Some(_) | None => 5,
        };
        let priority = self.facility as u8 * 8 + severity;
        let mut text = format!("<{priority}>1 ");
        let at = told.time.and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
        // Writing to a string does not fail, and a time that can not be written is left out.
        let begin = text.len();
        let written = match (at, told.timestamp) {
            (Some(at), _) => write!(text, "{}", humantime::format_rfc3339_millis(at)),
            (None, Some(timestamp)) => write!(text, "{timestamp}"),
            (None, None) => write!(text, "-"),
        };
        if written.is_err() {
            text.truncate(begin);
            text.push('-');
        }
        let _ = write!(text, " {} event - ", self.origin);
        let mut message = text.into_bytes();
        message.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
        message
    }

    /// A line as a message with its length before it.
    fn frame(&self, line: &[u8]) -> Vec<u8> {
        let message = self.message(line);
        let mut frame = format!("{} ", message.len()).into_bytes();
        frame.extend_from_slice(&message);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(to: &str) -> SyslogConfig {
        SyslogConfig { to: to.to_owned(), facility: Facility::Local4, tls: None }
    }

    #[test]
    fn a_place_is_a_socket_or_a_host_and_a_port() {
        assert_eq!(config("unix:/dev/log").place(), Ok(Place::Unix(Path::new("/dev/log"))));
        assert_eq!(config("tcp:log:514").place(), Ok(Place::Tcp("log".into(), 514)));
        assert_eq!(config("tls:[::1]:6514").place(), Ok(Place::Tls("::1".into(), 6514)));
        for to in ["", "log:514", "udp:log:514", "tcp:log", "tcp://log:514", "unix"] {
            assert!(config(to).check().unwrap_err().contains("tls:HOST:PORT"), "{to}");
        }
        assert!(config("unix:dev/log").check().unwrap_err().contains("no absolute path"));
        let tls = SyslogConfig { tls: Some(TlsConfig::default()), ..config("tcp:log:514") };
        assert!(tls.check().unwrap_err().contains("goes with"));
        let half = TlsConfig { key: Some("/k".into()), ..TlsConfig::default() };
        let tls = SyslogConfig { tls: Some(half), ..config("tls:log:514") };
        assert!(tls.check().unwrap_err().contains("go together"));
    }

    #[test]
    fn a_message_has_the_time_and_severity_of_its_event() {
        let header = Header { facility: Facility::Local4, origin: "h agent-guard 7".to_owned() };
        let text = |line: &str| String::from_utf8(header.message(line.as_bytes())).unwrap();
        assert_eq!(
            text("{\"time\":1795000000123,\"severity_id\":3,\"x\":\"\\\\x0a\"}\n"),
            "<164>1 2026-11-18T11:06:40.123Z h agent-guard 7 event - {\"time\":1795000000123,\"severity_id\":3,\"x\":\"\\\\x0a\"}"
        );
        let ecs = text("{\"@timestamp\":\"2026-11-18T11:06:40.123Z\"}\n");
        assert!(ecs.starts_with("<165>1 2026-11-18T11:06:40.123Z h "), "{ecs}");
        assert!(text("no JSON\n").starts_with("<165>1 - h agent-guard 7 event - no JSON"));
        assert!(text("{\"time\":18446744073709551615,\"severity_id\":1}").starts_with("<166>1 "));
        let frame = header.frame("{}\n".as_bytes());
        assert_eq!(frame, b"35 <165>1 - h agent-guard 7 event - {}");
    }
}
