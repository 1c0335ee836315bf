//! The daemon's configuration: `/etc/agent-guard/config.toml`.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::Deserialize;
use thiserror::Error;
use toml::de::{DeTable, Deserializer};

use super::sinks::{self, SinkConfig};
use crate::{guard::TierChoice, lack::Lack, tier::Tier};

/// Largest configuration, bytes: some hundred times what one takes.
const MAX_BYTES: u64 = 1 << 20;

/// Where it is looked for.
pub const PATH: &str = "/etc/agent-guard/config.toml";

/// What the daemon is to do. Everything may be left out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The directory of policies: every `*.yaml` and `*.yml` in it.
    pub policies: PathBuf,
    /// How to enforce.
    pub tier: TierName,
    /// What the tier may lack although a policy asks for it.
    pub allow_degraded: Vec<LackName>,
    /// The control socket.
    pub control: Control,
    /// Metrics and health over HTTP.
    pub metrics: Metrics,
    /// Name resolution for agents.
    pub dns: Dns,
    /// The directory below which sinks keep what waits.
    pub spool: PathBuf,
    /// Where container runtimes keep what they run.
    pub containers: Containers,
    /// Where events go.
    #[serde(skip)]
    pub sink: Vec<SinkConfig>,
}

/// The control socket.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// Its path.
    pub socket: PathBuf,
    /// The group whose members administer beside root.
    pub group: Option<String>,
}

/// Metrics and health over HTTP, for everybody who reaches the address.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Where to listen; nowhere unless it is said.
    pub listen: Option<SocketAddr>,
}

/// Name resolution for agents.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// The name servers to ask; none: those of `/etc/resolv.conf`.
    pub upstreams: Vec<SocketAddr>,
    /// Internal networks that allowed host names may lead to.
    pub internal: Vec<IpNet>,
}

/// Where the container runtimes of the host keep what they run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Containers {
    /// The state directories of containerd: its own, and the one that Docker starts.
    pub containerd: Vec<PathBuf>,
    /// Docker's data (`data-root`).
    pub docker: PathBuf,
    /// The storage of podman and CRI-O (`graphroot`).
    pub storage: PathBuf,
    /// A list of this node's pods, as Kubernetes's API has it in JSON; none: labels and service accounts are not known.
    pub pods: Option<PathBuf>,
}

impl Containers {
    /// All of these places.
    pub fn all(&self) -> Vec<&PathBuf> {
        self.containerd.iter().chain([&self.docker, &self.storage]).chain(&self.pods).collect()
    }
}

impl Default for Containers {
    fn default() -> Self {
        Self {
            containerd: vec!["/run/containerd".into(), "/run/docker/containerd/daemon".into()],
            docker: "/var/lib/docker".into(),
            storage: "/var/lib/containers/storage".into(),
            pods: None,
        }
    }
}

/// A tier, as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TierName {
    /// The strongest that this host offers.
    #[default]
    Auto,
    /// See [`Tier::Lsm`].
    Lsm,
    /// See [`Tier::Trace`].
    Trace,
    /// See [`Tier::Observe`].
    Observe,
}

/// What a tier may lack, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LackName(pub Lack);

impl TryFrom<String> for LackName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        use clap::ValueEnum;
        let known = Lack::value_variants();
        known.iter().find(|lack| lack.name() == name).map(|lack| Self(*lack)).ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|lack| lack.name()).collect();
            format!("`{name}` is nothing that a tier can lack: one of {}", names.join(", "))
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policies: "/etc/agent-guard/policies".into(),
            tier: TierName::Auto,
            allow_degraded: Vec::new(),
            control: Control::default(),
            metrics: Metrics::default(),
            dns: Dns::default(),
            spool: "/var/lib/agent-guard/spool".into(),
            containers: Containers::default(),
            sink: Vec::new(),
        }
    }
}

impl Default for Control {
    fn default() -> Self {
        Self { socket: SOCKET.into(), group: None }
    }
}

/// Where the control socket is unless the configuration says otherwise.
pub const SOCKET: &str = "/run/agent-guard/control.sock";

impl From<TierName> for TierChoice {
    fn from(name: TierName) -> Self {
        match name {
            TierName::Auto => Self::Auto,
            TierName::Lsm => Self::Only(Tier::Lsm),
            TierName::Trace => Self::Only(Tier::Trace),
            TierName::Observe => Self::Only(Tier::Observe),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is larger than any configuration.
    #[error("the configuration {0} has more than {MAX_BYTES} bytes; is this the right file?")]
    TooLarge(PathBuf),
    /// It is none.
    #[error("the configuration {path} is refused: {source}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// A sink in it is none.
    #[error("the configuration {path} is refused: line {line}: {problem}")]
    Sink {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong, and how to mend it.
        problem: String,
    },
    /// A path in it is relative, and the daemon has no directory of its own.
    #[error("the configuration {path} is refused: `{given}` is no absolute path")]
    Relative {
        /// The file.
        path: PathBuf,
        /// The path in it.
        given: PathBuf,
    },
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// It can not be read, or is none.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        if fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
            return Err(ConfigError::TooLarge(path.to_owned()));
        }
        Self::parse(path, &fs::read_to_string(path).map_err(failed)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let refused = |mut error: toml::de::Error| {
            error.set_input(Some(text));
            ConfigError::Refused { path: path.to_owned(), source: Box::new(error) }
        };
        let mut table = DeTable::parse(text).map_err(refused)?;
        let sinks = table.get_mut().remove("sink");
        let mut config = Self::deserialize(Deserializer::from(table)).map_err(refused)?;
        if let Some(sinks) = sinks {
            config.sink = sinks::read(sinks).map_err(|mistake| {
                let before = text.get(..mistake.offset).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                ConfigError::Sink { path: path.to_owned(), line, problem: mistake.problem }
            })?;
        }
        let relative = [&config.policies, &config.control.socket, &config.spool]
            .into_iter()
            .chain(config.containers.all())
            .find(|path| !path.is_absolute())
            .cloned();
        match relative {
            None => Ok(config),
            Some(given) => Err(ConfigError::Relative { path: path.to_owned(), given }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("c.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_a_configuration() {
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn every_field_is_read() {
        let config = parse(
            "policies = '/p'\ntier = 'lsm'\nallow_degraded = ['system']\n\
             [control]\nsocket = '/s'\ngroup = 'sre'\n\
             [metrics]\nlisten = '127.0.0.1:9464'\n\
             [dns]\nupstreams = ['192.0.2.1:53']\ninternal = ['10.0.0.0/8']\n\
             [containers]\ncontainerd = ['/c']\ndocker = '/d'\nstorage = '/g'\npods = '/l'\n\
             [[sink]]\ntype = 'file'\npath = '/e'\nevents = 'all'\n[[sink]]\ntype = 'stdout'\n",
        )
        .unwrap();
        assert_eq!(config.policies, Path::new("/p"));
        assert_eq!(config.tier, TierName::Lsm);
        assert_eq!(config.allow_degraded, [LackName(Lack::System)]);
        assert_eq!(config.control, Control { socket: "/s".into(), group: Some("sre".into()) });
        assert_eq!(config.metrics.listen, Some("127.0.0.1:9464".parse().unwrap()));
        assert_eq!(config.dns.upstreams, ["192.0.2.1:53".parse().unwrap()]);
        assert_eq!(config.dns.internal, ["10.0.0.0/8".parse().unwrap()]);
        let names: Vec<_> = config.sink.iter().map(|sink| sink.name.as_str()).collect();
        assert_eq!(names, ["file", "stdout"]);
        assert_eq!(config.spool, Path::new("/var/lib/agent-guard/spool"));
        let (containerd, docker, storage) = (vec!["/c".into()], "/d".into(), "/g".into());
        let pods = Some("/l".into());
        assert_eq!(config.containers, Containers { containerd, docker, storage, pods });
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        for (text, words) in [
            ("policy = '/p'", ["line 1", "unknown field `policy`"]),
            ("tier = 'strong'", ["line 1", "unknown variant `strong`"]),
            ("\nallow_degraded = ['x']", ["line 2", "one of enforce, listen, unix, system"]),
            ("[[sink]]\ntype = 'tape'", ["line 2", "`tape`"]),
            ("\n[[sink]]\ntype = 'file'", ["line 2", "missing field `path`"]),
            ("[metrics]\nlisten = ':9464'", ["line 2", "invalid socket address"]),
            ("[dns]\nupstreams = ['x']", ["line 2", "invalid socket address"]),
            ("[containers]\ndocker = 'd'", ["c.toml", "`d` is no absolute path"]),
            ("policies = 'p'", ["c.toml", "`p` is no absolute path"]),
        ] {
            let told = parse(text).unwrap_err();
            assert!(words.iter().all(|word| told.contains(word)), "{text}: {told}");
        }
    }
}
