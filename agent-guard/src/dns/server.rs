//! The proxy's sockets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use agent_guard_common::event::Outcome;
use hickory_proto::op::{OpCode, ResponseCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};

use super::{
    reply::refusal,
    request::{Request, Unanswerable, parse},
    resolver::{Resolver, Told},
};
use crate::event::{Lookup, LookupReason, SafeText};

/// Questions over UDP that may be under way. Each waits for name servers at most some seconds.
pub(super) const MAX_PENDING: usize = 256;

/// Connections that may be open over each of IPv4 and IPv6. C libraries open one for an answer that did not fit.
pub(super) const MAX_CONNECTIONS: usize = 32;

/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// How often a port is looked for that is free over both protocols.
const BIND_ATTEMPTS: usize = 16;

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
#[error("the DNS proxy can not listen on 127.0.0.1: {0}; is the loopback interface up?")]
pub struct BindError(io::Error);

/// A proxy that listens at the loopback addresses of the network namespace that it was made in.
pub struct Proxy {
    v4: Sockets,
    v6: Option<Sockets>,
}

struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
    port: u16,
}

impl Proxy {
    /// Opens the sockets. A host without IPv6 has none for it.
    ///
    /// # Errors
    /// There is no free port, or no loopback address.
    pub async fn bind() -> Result<Self, BindError> {
        let v4 = Sockets::bind(Ipv4Addr::LOCALHOST.into()).await.map_err(BindError)?;
        let v6 = match Sockets::bind(Ipv6Addr::LOCALHOST.into()).await {
            Ok(sockets) => Some(sockets),
            Err(error) => {
                tracing::debug!("no DNS proxy over IPv6: {error}");
                None
            }
        };
        Ok(Self { v4, v6 })
    }

    /// The ports over IPv4 and IPv6; 0 where there is none.
    #[must_use]
    pub fn ports(&self) -> [u16; 2] {
        [self.v4.port, self.v6.as_ref().map_or(0, |sockets| sockets.port)]
    }

    /// Answers until what comes back is dropped. What is told goes to `told` before the answer goes out.
    #[must_use]
    pub fn serve(self, resolver: Resolver, told: mpsc::Sender<Told>) -> JoinSet<()> {
        let service = Arc::new(Service {
            resolver,
            told,
            pending: Arc::new(Semaphore::new(MAX_PENDING)),
            busy: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        for sockets in [Some(self.v4), self.v6].into_iter().flatten() {
            tasks.spawn(Arc::clone(&service).serve_udp(Arc::new(sockets.udp)));
            tasks.spawn(Arc::clone(&service).serve_tcp(sockets.tcp));
        }
        tasks
    }
}

impl Sockets {
    async fn bind(address: IpAddr) -> io::Result<Self> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let udp = UdpSocket::bind((address, 0)).await?;
            let port = udp.local_addr()?.port();
            match TcpListener::bind((address, port)).await {
                Ok(tcp) => return Ok(Self { udp, tcp, port }),
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && attempt < BIND_ATTEMPTS => {}
                Err(error) => return Err(error),
            }
        }
    }
}

struct Service {
    resolver: Resolver,
    told: mpsc::Sender<Told>,
    pending: Arc<Semaphore>,
    /// Whether it has been told that there are too many questions.
    busy: AtomicBool,
}

impl Service {
    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut tasks = JoinSet::new();
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            while tasks.try_join_next().is_some() {}
            let (len, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // A client that is gone shows here; the socket goes on.
                Err(error) => {
                    tracing::debug!("receiving a query: {error}");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let bytes = buffer.get(..len).unwrap_or_default().to_vec();
            match Arc::clone(&self.pending).try_acquire_owned() {
                Ok(permit) => {
                    self.busy.store(false, Ordering::Relaxed);
                    let (service, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    tasks.spawn(async move {
                        if let Some(reply) = service.reply(&bytes, Over::Udp, client).await {
                            send(&socket, &reply, client).await;
                        }
                        drop(permit);
                    });
                }
                Err(_) => {
                    if let Some(reply) = self.too_busy(&bytes, client).await {
                        send(&socket, &reply, client).await;
                    }
                }
            }
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let mut tasks = JoinSet::new();
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            while tasks.try_join_next().is_some() {}
            // Beyond the bound clients wait in the kernel's queue.
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let service = Arc::clone(&self);
                    tasks.spawn(async move {
                        if let Err(error) = service.converse(stream).await {
                            tracing::debug!("a connection for queries: {error}");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::debug!("accepting a connection for queries: {error}");
                    // Out of descriptors, most likely.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Question after question, until the client ends or falls silent.
    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        let client = stream.peer_addr()?;
        loop {
            let mut bytes = match timeout(IDLE, stream.read_u16()).await? {
                Ok(len) => vec![0; usize::from(len)],
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            };
            timeout(IDLE, stream.read_exact(&mut bytes)).await??;
            let Some(reply) = self.reply(&bytes, Over::Tcp, client).await else { return Ok(()) };
            let len = u16::try_from(reply.len()).map_err(io::Error::other)?;
            timeout(IDLE, stream.write_all(&[&len.to_be_bytes(), reply.as_slice()].concat()))
                .await??;
        }
    }

    /// The bytes to answer with; `None` where nobody is to be answered.
    async fn reply(&self, bytes: &[u8], over: Over, client: SocketAddr) -> Option<Vec<u8>> {
        let parsed = parse(bytes);
        if parsed.as_ref().err() == Some(&Unanswerable::Noise) {
            tracing::debug!("{} bytes that are no query", bytes.len());
            return None;
        }
        if let Err(tell) = self.resolver.admit() {
            let code = ResponseCode::Refused;
            if tell {
                self.tell(nameless(LookupReason::Rate, code, (over, client), self.denied())).await;
            }
            if self.resolver.enforces() {
                return unanswered(&parsed, code);
            }
        }
        match parsed {
            Ok(request) => {
                let (answer, told) = self.resolver.answer(&request, client, over.protocol()).await;
                if let Some(told) = told {
                    self.tell(told).await;
                }
                answer.encode(&request, over.limit(&request)).ok()
            }
            Err(Unanswerable::Refused { id, op_code, code }) => {
                // What makes no sense can not be answered in any mode.
                self.tell(nameless(LookupReason::Malformed, code, (over, client), Outcome::Denied))
                    .await;
                refusal(id, op_code, code).ok()
            }
            Err(Unanswerable::Noise) => None,
        }
    }

    async fn too_busy(&self, bytes: &[u8], client: SocketAddr) -> Option<Vec<u8>> {
        let code = ResponseCode::ServFail;
        if !self.busy.swap(true, Ordering::Relaxed) {
            self.tell(nameless(LookupReason::Busy, code, (Over::Udp, client), Outcome::Denied))
                .await;
        }
        unanswered(&parse(bytes), code)
    }

    fn denied(&self) -> Outcome {
        if self.resolver.enforces() { Outcome::Denied } else { Outcome::Observed }
    }

    async fn tell(&self, told: Told) {
        // Nobody listens any more where the run has ended.
        let _ = self.told.send(told).await;
    }
}

/// What a question came over.
#[derive(Clone, Copy)]
enum Over {
    Udp,
    Tcp,
}

impl Over {
    fn protocol(self) -> u16 {
        let number = match self {
            Self::Udp => libc::IPPROTO_UDP,
            Self::Tcp => libc::IPPROTO_TCP,
        };
        u16::try_from(number).unwrap_or_default()
    }

    fn limit(self, request: &Request) -> Option<usize> {
        match self {
            Self::Udp => Some(request.udp_limit()),
            Self::Tcp => None,
        }
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
        tracing::debug!("answering a query: {error}");
    }
}

/// A code for what was not looked at.
fn unanswered(parsed: &Result<Request, Unanswerable>, code: ResponseCode) -> Option<Vec<u8>> {
    let (id, op_code) = match parsed {
        Ok(request) => (request.id, OpCode::Query),
        Err(Unanswerable::Refused { id, op_code, .. }) => (*id, *op_code),
        Err(Unanswerable::Noise) => return None,
    };
    refusal(id, op_code, code).ok()
}

/// An event of what has no name, or whose name was not read.
fn nameless(
    reason: LookupReason,
    code: ResponseCode,
    (over, client): (Over, SocketAddr),
    outcome: Outcome,
) -> Told {
    let lookup = Lookup {
        name: SafeText::default(),
        kind: String::new(),
        client,
        protocol: over.protocol(),
        code: code.into(),
        answers: Vec::new(),
        withheld: Vec::new(),
        outcome,
        reason,
        rule: None,
    };
    Told { lookup, rule: agent_guard_common::table::NO_RULE }
}
