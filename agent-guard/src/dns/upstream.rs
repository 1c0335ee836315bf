//! The name servers that are asked in the agent's place.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, Query, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout_at},
};

/// How long a question may take, aliases included: C libraries wait five seconds.
pub const PATIENCE: Duration = Duration::from_millis(4_500);

/// How long one server has before the next is asked beside it: two that are dead leave time for a third.
const LEAD: Duration = Duration::from_millis(1_500);

/// How often the list of servers is gone through.
const ROUNDS: usize = 2;

/// Sockets of one agent's questions, so that the guard keeps descriptors for its other work.
const MAX_SOCKETS: usize = 256;

/// Largest answer over UDP: what passes every network in one piece.
pub const UDP_PAYLOAD: u16 = 1232;

/// Name servers, the one that answered last first.
pub struct Upstreams {
    servers: Vec<SocketAddr>,
    preferred: AtomicUsize,
    sockets: Arc<Semaphore>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No server answered.
    Silence,
    /// The last that did, did with this.
    Code(ResponseCode),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence => f.write_str("no name server answered"),
            Self::Code(code) => write!(f, "the name servers answered: {code}"),
        }
    }
}

impl Upstreams {
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        let sockets = Arc::new(Semaphore::new(MAX_SOCKETS));
        Self { servers, preferred: AtomicUsize::new(0), sockets }
    }

    /// Asks until a server says what there is, or that there is nothing, and no longer than `until`. One that
    /// is slow may still answer while the next are asked.
    pub async fn ask(
        &self,
        name: &Name,
        kind: RecordType,
        until: Instant,
    ) -> Result<Message, Failure> {
        let mut failure = Failure::Silence;
        let first = self.preferred.load(Ordering::Relaxed);
        let servers = self.servers.iter().copied().enumerate().cycle().skip(first);
        let mut turns = servers.take(self.servers.len() * ROUNDS);
        let mut asked = JoinSet::new();
        loop {
            let next = turns.next();
            if let Some((index, server)) = next {
                let (sockets, name) = (Arc::clone(&self.sockets), name.clone());
                asked.spawn(async move {
                    // Nobody closes it.
                    let _permit = sockets.acquire().await;
                    (index, server, exchange(server, &name, kind).await)
                });
            }
            let wait = if next.is_some() { until.min(Instant::now() + LEAD) } else { until };
            let (index, server, answer) = match timeout_at(wait, asked.join_next()).await {
                Ok(Some(Ok(ended))) => ended,
                Err(_) if wait < until => continue,
                // Time is up, or everybody has failed.
                _ => return Err(failure),
            };
            match answer {
                Ok(answer) => {
                    let code = answer.metadata.response_code;
                    if matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    failure = Failure::Code(code);
                }
                Err(error) => tracing::debug!("name server {server}: {error}"),
            }
        }
    }
}

/// Asks over UDP, and over TCP where the answer did not fit.
async fn exchange(server: SocketAddr, name: &Name, kind: RecordType) -> io::Result<Message> {
    let mut question = Query::query(name.clone(), kind);
    question.set_query_class(DNSClass::IN);
    // A random id; the port, which the kernel chooses, is random too.
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(question);
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD);
    query.set_edns(edns);
    let bytes = query.to_vec().map_err(io::Error::other)?;

    let answer = over_udp(server, &query, &bytes).await?;
    if answer.metadata.truncation { over_tcp(server, &query, &bytes).await } else { Ok(answer) }
}

async fn over_udp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    // Connected: the kernel drops what comes from anybody else.
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let len = socket.recv(&mut buffer).await?;
        // What does not belong to the question may be forged; the answer may still come.
        if let Some(answer) = answer_to(query, buffer.get(..len).unwrap_or_default()) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), bytes].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    answer_to(query, &buffer).ok_or_else(|| io::Error::other("an answer to something else"))
}

fn answer_to(query: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = answer.metadata.id == query.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.metadata.op_code == query.metadata.op_code
        && answer.queries == query.queries;
    same.then_some(answer)
}
