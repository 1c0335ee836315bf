//! Whatever an agent asks and name servers answer, over real sockets: the answer is to the question and
//! fits; only what the policy allows is resolved; no internal address is told or leased; what is told is
//! leased and was told of before; and a wildcard lets few new names out.
#![no_main]

#[path = "dns/conversation.rs"]
mod conversation;
#[path = "dns/promises.rs"]
mod promises;
#[path = "dns/upstream.rs"]
mod upstream;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use agent_guard::{
    dns::{LeaseBook, LeaseStore, Proxy, Resolver, Settings},
    policy::{Policy, compile::NameRules},
};
use agent_guard_common::table::{Lease, LeaseKey};
use libfuzzer_sys::fuzz_target;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    runtime::Runtime,
    sync::mpsc,
    time::timeout,
};

use crate::{
    conversation::{Step, steps},
    upstream::Upstream,
};

const POLICY: &str = "apiVersion: agent-guard.dev/v1alpha1
kind: AgentPolicy
metadata: {name: fuzz}
spec:
  egress:
    rules:
      - {name: api, effect: allow, to: ['api.example:443/tcp']}
      - {name: wild, effect: allow, to: ['*.wild.example:443']}
      - {name: bad, effect: deny, to: ['bad.wild.example']}
      - {name: lan, effect: allow, to: ['10.7.0.0/16:5432']}
";

/// Far longer than any step takes: the name server here always answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// Names under one wildcard that may go out at once, and in the minute that a conversation stays below.
const NEW_NAMES: usize = 30 + 30;

/// What outlives a conversation.
struct World {
    runtime: Runtime,
    upstream: Upstream,
    names: NameRules,
}

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let upstream = runtime.block_on(Upstream::start());
    let names = NameRules::new(&Policy::parse("fuzz.yaml", POLICY).unwrap());
    Mutex::new(World { runtime, upstream, names })
});

fuzz_target!(|bytes: &[u8]| {
    let world = WORLD.lock().unwrap();
    world.runtime.block_on(world.converse(bytes));
});

/// Leases in memory.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<HashMap<LeaseKey, Lease>>>);

impl LeaseStore for Store {
    fn write(&mut self, key: &LeaseKey, lease: &Lease) -> anyhow::Result<()> {
        self.0.lock().unwrap().insert(*key, *lease);
        Ok(())
    }

    fn remove(&mut self, key: &LeaseKey) -> anyhow::Result<()> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }
}

impl World {
    async fn converse(&self, bytes: &[u8]) {
        let settings = Settings {
            names: self.names.clone(),
            default_allow: false,
            enforce: true,
            listed: vec!["10.7.0.0/16".parse().unwrap()],
            internal: Vec::new(),
            upstreams: vec![self.upstream.address],
        };
        let store = Store::default();
        let book = Arc::new(Mutex::new(LeaseBook::new(1, Box::new(store.clone()))));
        let proxy = Proxy::bind().await.unwrap();
        let address = (Ipv4Addr::LOCALHOST, proxy.ports()[0]).into();
        let (sender, mut told) = mpsc::channel(64);
        let _tasks = proxy.serve(Resolver::new(settings, book), sender);

        self.upstream.forget();
        for step in steps(bytes) {
            self.upstream.will(step.answer.clone());
            let reply = ask(address, &step).await;
            let events: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
            let leases = store.0.lock().unwrap();
            promises::hold(&step, reply.as_deref(), &events, &leases);
        }
        for name in self.upstream.asked() {
            assert!(promises::may_be_resolved(&name), "{name:?} was asked for");
        }
        assert!(self.upstream.asked().len() <= NEW_NAMES + 1);
    }
}

/// The proxy's answer.
async fn ask(proxy: SocketAddr, step: &Step) -> Option<Vec<u8>> {
    let answer =
        async { if step.tcp { over_tcp(proxy, step).await } else { over_udp(proxy, step).await } };
    timeout(PATIENCE, answer).await.expect("the proxy hangs")
}

/// After the question comes one that is always answered, so that silence shows.
async fn over_udp(proxy: SocketAddr, step: &Step) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(proxy).await.unwrap();
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let mut receive = async || {
        let len = socket.recv(&mut buffer).await.unwrap();
        buffer[..len].to_vec()
    };
    socket.send(&step.query).await.unwrap();
    if !step.is_noise() {
        return Some(receive().await);
    }
    socket.send(&promises::NOT_A_QUERY).await.unwrap();
    assert_eq!(receive().await[..2], promises::NOT_A_QUERY[..2], "noise was answered");
    None
}

async fn over_tcp(proxy: SocketAddr, step: &Step) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let len = u16::try_from(step.query.len()).unwrap();
    stream.write_all(&[&len.to_be_bytes(), step.query.as_slice()].concat()).await.unwrap();
    let len = stream.read_u16().await.ok()?;
    let mut reply = vec![0; usize::from(len)];
    stream.read_exact(&mut reply).await.unwrap();
    Some(reply)
}
