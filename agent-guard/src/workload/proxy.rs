//! The agent's DNS proxy, where its policy names hosts.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::IpNet;
use tokio::{sync::mpsc, task::JoinSet};

use super::{Installed, Terms};
use crate::{
    clock,
    dns::{self, LeaseBook, Proxy, Resolver, Told, nameservers},
    kernel::{leases::LeaseMap, pins::Pins},
    policy::{Effect, Host, Mode, Policy},
};

/// Where the host's name servers stand.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Events of queries that wait to be recorded. Answers wait behind them.
const MAX_WAITING: usize = 1_024;

/// What a policy needs of name resolution.
pub struct Plan {
    resolver: dns::Settings,
    proxy: Proxy,
}

impl Plan {
    /// Opens a proxy's sockets where the policy names hosts.
    pub async fn new(terms: &Terms, installed: &Installed) -> anyhow::Result<Option<Self>> {
        if installed.names.is_empty() {
            return Ok(None);
        }
        let policy = &terms.policy;
        let resolver = dns::Settings {
            names: installed.names.clone(),
            default_allow: policy.egress.default == Effect::Allow,
            enforce: policy.mode == Mode::Enforce,
            listed: listed(policy),
            internal: terms.dns_internal.clone(),
            upstreams: upstreams(&terms.dns_upstreams)?,
        };
        Ok(Some(Self { resolver, proxy: Proxy::bind().await? }))
    }

    /// The ports to send name queries to.
    pub fn ports(&self) -> [u16; 2] {
        self.proxy.ports()
    }

    /// Starts answering.
    pub fn start(self, pins: &Pins, cgroup: u64) -> anyhow::Result<Running> {
        let store = Box::new(LeaseMap::open(pins)?);
        let book = Arc::new(Mutex::new(LeaseBook::new(cgroup, store)));
        let (sender, told) = mpsc::channel(MAX_WAITING);
        let resolver = Resolver::new(self.resolver, Arc::clone(&book));
        Ok(Running { tasks: self.proxy.serve(resolver, sender), told: Some(told), book })
    }
}

/// A proxy that answers.
pub struct Running {
    tasks: JoinSet<()>,
    /// `None` once somebody has taken it.
    told: Option<mpsc::Receiver<Told>>,
    /// What it leased.
    pub book: Arc<Mutex<LeaseBook>>,
}

impl Running {
    /// The next query that was answered; `None` where there will be no more.
    pub async fn next(&mut self) -> Option<Told> {
        self.told.as_mut()?.recv().await
    }

    /// Where they come.
    pub fn take_told(&mut self) -> Option<mpsc::Receiver<Told>> {
        self.told.take()
    }

    /// Takes expired leases away.
    pub fn sweep(&self) {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).sweep(clock::boot_ns());
    }

    /// Ends it. What comes back was answered and not yet taken.
    pub fn end(mut self) -> Vec<Told> {
        self.tasks.abort_all();
        std::iter::from_fn(|| self.told.as_mut()?.try_recv().ok()).collect()
    }
}

fn upstreams(given: &[SocketAddr]) -> Result<Vec<SocketAddr>, dns::ResolvConfError> {
    if given.is_empty() { nameservers(Path::new(RESOLV_CONF)) } else { Ok(given.to_vec()) }
}

/// The networks that rules allow by address. A rule for every address lists none.
fn listed(policy: &Policy) -> Vec<IpNet> {
    let allowed = policy.egress.rules.iter().filter(|rule| rule.effect == Effect::Allow);
    let nets = allowed.flat_map(|rule| &rule.matcher).filter_map(|target| match &target.host {
        Host::Net(net) if net.prefix_len() > 0 => Some(*net),
        Host::Net(_) | Host::Name(_) | Host::Below(..) => None,
    });
    nets.collect()
}
