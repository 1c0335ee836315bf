//! The sinks of the configuration: what all have, and what each kind has of its own.

use std::path::PathBuf;

use serde::{Deserialize, de::DeserializeOwned};
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    audit::AuditConfig,
    file::FileConfig,
    filter::{Events, Filter, Kind},
    http::{SplunkConfig, WebhookConfig},
    kafka::KafkaConfig,
    otlp::OtlpConfig,
    syslog::SyslogConfig,
    unix::UnixConfig,
};
use crate::{event::Encoding, policy::NamePattern};

/// Most sinks: each has a thread.
const MOST: usize = 64;

/// Longest name of a sink, bytes: it is shown, and is a directory's.
const LONGEST_NAME: usize = 64;

/// Room in memory for what waits, in MiB: some ten thousand events.
const QUEUE_MIB: u32 = 8;

/// Room on disk for what waits, in MiB: some hundred thousand events.
const SPOOL_MIB: u32 = 256;

/// Largest room of either kind, in MiB.
const MOST_MIB: u32 = 1 << 20;

/// A place that events go to.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkConfig {
    /// How it is called, and its directory in the spool.
    pub name: String,
    /// Which events.
    pub filter: Filter,
    /// How they are written.
    pub encoding: Encoding,
    /// Bytes in memory for what waits.
    pub queue_bytes: usize,
    /// Bytes on disk for what waits; 0: none.
    pub spool_bytes: u64,
    /// Where they go.
    pub to: To,
}

/// A kind of far end, and what it needs.
#[derive(Clone, Debug, PartialEq)]
pub enum To {
    /// A tamper-evident log.
    Audit(AuditConfig),
    /// A file.
    File(FileConfig),
    /// Standard output.
    Stdout(Nothing),
    /// A UNIX-domain socket.
    Unix(UnixConfig),
    /// A syslog receiver.
    Syslog(SyslogConfig),
    /// A webhook.
    Webhook(WebhookConfig),
    /// Splunk's HTTP Event Collector.
    Splunk(SplunkConfig),
    /// An OpenTelemetry collector.
    Otlp(OtlpConfig),
    /// A Kafka cluster.
    Kafka(KafkaConfig),
}

/// The configuration of a far end that needs none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// What is wrong with a sink.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it begins in the text, bytes.
    pub offset: usize,
    /// What, and how to mend it.
    pub problem: String,
}

/// What every sink may have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Common {
    name: Option<Spanned<String>>,
    #[serde(default)]
    events: Events,
    #[serde(default)]
    agents: Vec<Spanned<String>>,
    #[serde(default)]
    kinds: Vec<Kind>,
    #[serde(default)]
    encoding: Encoding,
    queue_mib: Option<Spanned<u32>>,
    spool_mib: Option<Spanned<u32>>,
}

/// The fields of [`Common`].
const COMMON: [&str; 7] =
    ["name", "events", "agents", "kinds", "encoding", "queue_mib", "spool_mib"];

/// The kinds of far ends, as they are written.
const TYPES: [&str; 9] =
    ["audit", "file", "stdout", "unix", "syslog", "webhook", "splunk", "otlp", "kafka"];

/// Bytes of so many MiB.
#[must_use]
pub fn mebibytes(number: u32) -> u64 {
    u64::from(number) << 20
}

/// Reads what stands under `sink` in the configuration.
///
/// # Errors
/// The first mistake.
pub fn read(sinks: Spanned<DeValue<'_>>) -> Result<Vec<SinkConfig>, Mistake> {
    let offset = sinks.span().start;
    let DeValue::Array(sinks) = sinks.into_inner() else {
        return Err(Mistake { offset, problem: "write `[[sink]]` for each sink".to_owned() });
    };
    if sinks.len() > MOST {
        return Err(Mistake { offset, problem: format!("there may be {MOST} sinks at most") });
    }
    let mut read: Vec<SinkConfig> = Vec::new();
    for sink in sinks {
        let offset = sink.span().start;
        let sink = read_one(sink)?;
        if let Some(problem) = read.iter().find_map(|other| clash(other, &sink)) {
            return Err(Mistake { offset, problem });
        }
        read.push(sink);
    }
    Ok(read)
}

/// What two sinks can not both have.
fn clash(one: &SinkConfig, other: &SinkConfig) -> Option<String> {
    if one.name == other.name {
        return Some(format!("two sinks are called `{}`; give each a `name` of its own", one.name));
    }
    match (&one.to, &other.to) {
        (To::File(one), To::File(other)) if one.path == other.path => {
            Some(format!("two sinks write to {}", one.path.display()))
        }
        (To::Audit(one), To::Audit(other)) if one.path == other.path => {
            Some(format!("two sinks write to {}", one.path.display()))
        }
        (To::Audit(one), To::Audit(other)) if one.key == other.key => Some(format!(
            "two audit logs are signed by {}, and its successor would be that of one alone; give each its own `key`",
            one.key.display()
        )),
        _ => None,
    }
}

fn read_one(sink: Spanned<DeValue<'_>>) -> Result<SinkConfig, Mistake> {
    let span = sink.span();
    let mistake = |offset: usize, problem: String| Mistake { offset, problem };
    let DeValue::Table(mut own) = sink.into_inner() else {
        return Err(mistake(span.start, "write `[[sink]]` for each sink".to_owned()));
    };
    let Some(kind) = own.remove("type") else {
        return Err(mistake(
            span.start,
            format!("missing field `type`: one of {}", TYPES.join(", ")),
        ));
    };
    let mut common = DeTable::new();
    for name in COMMON {
        if let Some((key, value)) = own.remove_entry(name) {
            common.insert(key, value);
        }
    }
    let common: Common = parse(common, &span)?;
    let to = match kind.get_ref().as_str() {
        Some("audit") => To::Audit(parse(own, &span)?),
        Some("file") => To::File(parse(own, &span)?),
        Some("stdout") => To::Stdout(parse(own, &span)?),
        Some("unix") => To::Unix(parse(own, &span)?),
        Some("syslog") => To::Syslog(parse(own, &span)?),
        Some("webhook") => To::Webhook(parse(own, &span)?),
        Some("splunk") => To::Splunk(parse(own, &span)?),
        Some("otlp") => To::Otlp(parse(own, &span)?),
        Some("kafka") => To::Kafka(parse(own, &span)?),
        _ => {
            let given = kind.get_ref().as_str().unwrap_or_default();
            let problem = format!("`{given}` is no type of sink: one of {}", TYPES.join(", "));
            return Err(mistake(kind.span().start, problem));
        }
    };
    to.check().map_err(|problem| mistake(span.start, problem))?;
    if matches!(to, To::Audit(_)) && common.encoding != Encoding::Ocsf {
        let problem = "an audit log is written as OCSF; leave `encoding` out".to_owned();
        return Err(mistake(span.start, problem));
    }

    let name_at = common.name.as_ref().map_or(span.start, |name| name.span().start);
    let name = match common.name {
        Some(name) => name.into_inner(),
        None => to.kind().to_owned(),
    };
    check_name(&name).map_err(|problem| mistake(name_at, problem))?;
    let agent = |pattern: Spanned<String>| {
        let offset = pattern.span().start;
        match NamePattern::parse(pattern.get_ref()) {
            Some(Ok(pattern)) => Ok(pattern),
            Some(Err(error)) => Err(mistake(offset, error.to_string())),
            None => Err(mistake(offset, "an agent's name is not empty and has no `/`".to_owned())),
        }
    };
    let room = |given: Option<Spanned<u32>>, default: u32, least: u32| match given {
        None => Ok(mebibytes(default)),
        Some(given) if (least..=MOST_MIB).contains(given.get_ref()) => {
            Ok(mebibytes(given.into_inner()))
        }
        Some(given) => {
            let problem = format!("this is {least} to {MOST_MIB}, in MiB");
            Err(mistake(given.span().start, problem))
        }
    };
    if !to.is_remote()
        && let Some(given) = &common.spool_mib
    {
        let problem = format!("what goes to {} is not spooled; leave `spool_mib` out", to.kind());
        return Err(mistake(given.span().start, problem));
    }
    let spool = if to.is_remote() { SPOOL_MIB } else { 0 };
    Ok(SinkConfig {
        filter: Filter {
            events: common.events,
            agents: common.agents.into_iter().map(agent).collect::<Result<_, _>>()?,
            kinds: common.kinds,
        },
        encoding: common.encoding,
        queue_bytes: usize::try_from(room(common.queue_mib, QUEUE_MIB, 1)?).unwrap_or(usize::MAX),
        spool_bytes: room(common.spool_mib, spool, 0)?,
        name,
        to,
    })
}

/// It is a directory's name too.
fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    match !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(is_plain) {
        true => Ok(()),
        false => {
            Err(format!("the name of a sink has 1 to {LONGEST_NAME} letters, digits, `-` and `_`"))
        }
    }
}

fn parse<T: DeserializeOwned>(
    table: DeTable<'_>,
    span: &std::ops::Range<usize>,
) -> Result<T, Mistake> {
    let value = Spanned::new(span.clone(), DeValue::Table(table));
    T::deserialize(ValueDeserializer::from(value)).map_err(|error| {
        let mut problem = error.message().to_owned();
        if problem.starts_with("unknown field") {
            problem
                .push_str(&format!("; or what every sink may have: type, {}", COMMON.join(", ")));
        }
        Mistake { offset: error.span().map_or(span.start, |span| span.start), problem }
    })
}

impl To {
    /// What kind it is, as it is written.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Audit(_) => "audit",
            Self::File(_) => "file",
            Self::Stdout(_) => "stdout",
            Self::Unix(_) => "unix",
            Self::Syslog(_) => "syslog",
            Self::Webhook(_) => "webhook",
            Self::Splunk(_) => "splunk",
            Self::Otlp(_) => "otlp",
            Self::Kafka(_) => "kafka",
        }
    }

    /// Whether it may be away, and what comes meanwhile is spooled.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Audit(_) | Self::File(_) | Self::Stdout(_) => false,
            Self::Unix(_)
            | Self::Syslog(_)
            | Self::Webhook(_)
            | Self::Splunk(_)
            | Self::Otlp(_)
            | Self::Kafka(_) => true,
        }
    }

    /// The paths that it names.
    #[must_use]
    pub fn paths(&self) -> Vec<&PathBuf> {
        match self {
            Self::Audit(config) => vec![&config.path, &config.key],
            Self::File(config) => vec![&config.path],
            Self::Stdout(_) => Vec::new(),
            Self::Unix(config) => vec![&config.path],
            Self::Syslog(config) => config.paths(),
            Self::Webhook(config) => config.paths(),
            Self::Splunk(config) => config.paths(),
            Self::Otlp(config) => config.paths(),
            Self::Kafka(config) => config.paths(),
        }
    }

    fn check(&self) -> Result<(), String> {
        if let Some(path) = self.paths().into_iter().find(|path| !path.is_absolute()) {
            return Err(format!("`{}` is no absolute path", path.display()));
        }
        match self {
            Self::Audit(config) => config.check(),
            Self::File(config) => config.check(),
            Self::Stdout(_) | Self::Unix(_) => Ok(()),
            Self::Syslog(config) => config.check(),
            Self::Webhook(config) => config.check(),
            Self::Splunk(config) => config.check(),
            Self::Otlp(config) => config.check(),
            Self::Kafka(config) => config.check(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sinks(text: &str) -> Result<Vec<SinkConfig>, String> {
        let mut table = DeTable::parse(text).unwrap();
        read(table.get_mut().remove("sink").unwrap()).map_err(|Mistake { offset, problem }| {
            format!("line {}: {problem}", text[..offset].matches('\n').count() + 1)
        })
    }

    #[test]
    fn what_all_sinks_have_is_read() {
        let read = sinks(
            "[[sink]]\ntype = 'file'\nname = 'all-of_it'\npath = '/e'\nevents = 'all'\nencoding = 'ocsf'\n\
             agents = ['coding-*', 'x']\nkinds = ['file', 'network', 'dns', 'system', 'guard']\nqueue_mib = 1\n\
             rotate_mib = 100\nkeep = 3\n[[sink]]\ntype = 'stdout'\n",
        )
        .unwrap();
        let [file, stdout] = read.as_slice() else { panic!("{read:?}") };
        assert_eq!((file.name.as_str(), stdout.name.as_str()), ("all-of_it", "stdout"));
        assert_eq!((file.filter.events, stdout.filter.events), (Events::All, Events::Denials));
        assert_eq!((file.filter.agents.len(), file.filter.kinds.len()), (2, 5));
        assert_eq!((file.queue_bytes, stdout.queue_bytes), (1 << 20, 8 << 20));
        assert_eq!((file.spool_bytes, stdout.spool_bytes), (0, 0));
        let config = FileConfig { path: "/e".into(), rotate_mib: 100, keep: 3 };
        assert_eq!((&file.to, &stdout.to), (&To::File(config), &To::Stdout(Nothing {})));
    }

    #[test]
    fn a_mistake_in_a_sink_is_told_with_its_line() {
        for (text, words) in [
            ("sink = 3", ["line 1", "write `[[sink]]`"]),
            ("[[sink]]\npath = '/e'", ["line 1", "missing field `type`: one of audit, file"]),
            ("[[sink]]\ntype = 'tape'", ["line 2", "`tape` is no type of sink: one of audit"]),
            ("[[sink]]\ntype = 'stdout'\npath = '/e'", ["line 3", "unknown field `path`"]),
            (
                "[[sink]]\ntype = 'stdout'\nevent = 'all'",
                ["line 3", "every sink may have: type, name, events"],
            ),
            ("[[sink]]\ntype = 'stdout'\nevents = 'some'", ["line 3", "unknown variant `some`"]),
            (
                "[[sink]]\ntype = 'stdout'\nkinds = ['file',\n'x']",
                ["line 4", "unknown variant `x`"],
            ),
            ("[[sink]]\ntype = 'stdout'\nagents = ['a',\n'']", ["line 4", "is not empty"]),
            ("[[sink]]\ntype = 'stdout'\nagents = ['a/b']", ["line 3", "has no `/`"]),
            ("[[sink]]\ntype = 'stdout'\nname = '../x'", ["line 3", "letters, digits"]),
            ("[[sink]]\ntype = 'stdout'\nqueue_mib = 0", ["line 3", "1 to 1048576, in MiB"]),
            ("[[sink]]\ntype = 'stdout'\nqueue_mib = 1048577", ["line 3", "1 to 1048576"]),
            ("[[sink]]\ntype = 'stdout'\nspool_mib = 1", ["line 3", "is not spooled"]),
            ("[[sink]]\ntype = 'file'", ["line 1", "missing field `path`"]),
            ("[[sink]]\ntype = 'file'\npath = 'e'", ["line 1", "`e` is no absolute path"]),
            ("[[sink]]\ntype = 'file'\npath = '/e'\nkeep = 0", ["line 1", "`keep` is 1 to 999"]),
            (
                "[[sink]]\ntype = 'stdout'\n[[sink]]\ntype = 'stdout'",
                ["line 3", "two sinks are called `stdout`"],
            ),
            (
                "[[sink]]\ntype = 'file'\npath = '/e'\n[[sink]]\ntype = 'file'\nname = 'b'\npath = '/e'",
                ["line 4", "two sinks write to /e"],
            ),
            (
                "[[sink]]\ntype = 'audit'\npath = '/e'\n[[sink]]\ntype = 'audit'\nname = 'b'\npath = '/f'",
                ["line 4", "give each its own `key`"],
            ),
            (
                "[[sink]]\ntype = 'audit'\npath = '/e'\nkey = 'k'",
                ["line 1", "`k` is no absolute path"],
            ),
        ] {
            let told = sinks(text).unwrap_err();
            assert!(words.iter().all(|word| told.contains(word)), "{text}: {told}");
        }
    }

    #[test]
    fn far_ends_are_read_and_what_of_them_can_not_be_is_told() {
        let read = sinks(
            "[[sink]]\ntype = 'unix'\npath = '/s'\nsocket = 'datagram'\nspool_mib = 0\n\
             [[sink]]\ntype = 'syslog'\nto = 'tls:a:1'\nfacility = 'audit'\ntls = {ca = '/c'}\n\
             [[sink]]\ntype = 'webhook'\nurl = 'https://a/'\nformat = 'array'\ntoken_file = '/t'\n\
             [[sink]]\ntype = 'splunk'\nurl = 'https://a/'\ntoken_file = '/t'\nindex = 'i'\nspool_mib = 1\n",
        )
        .unwrap();
        let spools: Vec<u64> = read.iter().map(|sink| sink.spool_bytes >> 20).collect();
        assert_eq!(spools, [0, 256, 256, 1]);
        for (text, words) in [
            ("[[sink]]\ntype = 'unix'\npath = 's'", ["line 1", "`s` is no absolute path"]),
            (
                "[[sink]]\ntype = 'unix'\npath = '/s'\nsocket = 'raw'",
                ["line 4", "unknown variant `raw`"],
            ),
            ("[[sink]]\ntype = 'syslog'\nto = 'udp:a:1'", ["line 1", "tls:HOST:PORT"]),
            (
                "[[sink]]\ntype = 'syslog'\nto = 'tls:a:1'\ntls = {key = '/k'}",
                ["line 1", "go together"],
            ),
            (
                "[[sink]]\ntype = 'syslog'\nto = 'tls:a:1'\ntls = {ca = 'c'}",
                ["line 1", "`c` is no absolute path"],
            ),
            (
                "[[sink]]\ntype = 'syslog'\nto = 'tls:a:1'\ntls = {verify = false}",
                ["line 4", "unknown field `verify`"],
            ),
            ("[[sink]]\ntype = 'webhook'\nurl = 'a'", ["line 1", "`url` is http://HOST/PATH"]),
            (
                "[[sink]]\ntype = 'webhook'\nurl = 'https://u:p@a/'",
                ["line 1", "write the token to a file"],
            ),
            (
                "[[sink]]\ntype = 'webhook'\nurl = 'http://a/'\ntls = {}",
                ["line 1", "`tls` goes with"],
            ),
            (
                "[[sink]]\ntype = 'splunk'\nurl = 'http://a/'",
                ["line 1", "missing field `token_file`"],
            ),
            (
                "[[sink]]\ntype = 'splunk'\nurl = 'http://a/'\ntoken = 'x'",
                ["line 4", "unknown field `token`"],
            ),
        ] {
            let told = sinks(text).unwrap_err();
            assert!(words.iter().all(|word| told.contains(word)), "{text}: {told}");
        }
    }

    #[test]
    fn there_may_be_so_many_sinks_and_no_more() {
        let text = |count| {
            (0..count).fold(String::new(), |text, at| {
                format!("{text}[[sink]]\ntype = 'stdout'\nname = 'n{at}'\n")
            })
        };
        assert_eq!(sinks(&text(MOST)).unwrap().len(), MOST);
        assert!(sinks(&text(MOST + 1)).unwrap_err().contains("64 sinks at most"));
    }
}
