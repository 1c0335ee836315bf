//! A name server that answers what the input says.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use hickory_proto::{op::Message, rr::Name};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

use crate::conversation::Answer;

/// A name server on loopback.
pub struct Upstream {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answer: Answer,
    asked: HashSet<Name>,
    /// A name that has no rule was asked for only because an alias led there.
    first: bool,
}

impl Upstream {
    pub async fn start() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        tokio::spawn(serve_udp(udp, Arc::clone(&state)));
        tokio::spawn(serve_tcp(tcp, Arc::clone(&state)));
        Self { address, state }
    }

    /// A conversation begins.
    pub fn forget(&self) {
        *self.state.lock().unwrap() = State::default();
    }

    /// What is answered from here on.
    pub fn will(&self, answer: Answer) {
        let mut state = self.state.lock().unwrap();
        state.answer = answer;
        state.first = true;
    }

    /// The first name that was asked for in each step.
    pub fn asked(&self) -> HashSet<Name> {
        self.state.lock().unwrap().asked.clone()
    }
}

async fn serve_udp(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut buffer = vec![0; 4096];
    loop {
        // A client that is gone shows here.
        let Ok((len, client)) = socket.recv_from(&mut buffer).await else { continue };
        let query = &buffer[..len];
        let (reply, truncated) = {
            let mut state = state.lock().unwrap();
            let name =
                Message::from_vec(query).expect("the proxy's query").queries[0].name().clone();
            if std::mem::take(&mut state.first) {
                state.asked.insert(name.to_lowercase());
            }
            (state.answer.to(query), state.answer.truncated)
        };
        if !truncated {
            let _ = socket.send_to(&reply, client).await;
        }
        // Whoever could not use that is told to ask over TCP, and has no need to wait.
        let _ = socket.send_to(&head(query, 0x83, 0, 0), client).await;
    }
}

async fn serve_tcp(listener: TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let Ok(len) = stream.read_u16().await else { continue };
        let mut query = vec![0; usize::from(len)];
        let Ok(_) = stream.read_exact(&mut query).await else { continue };
        let reply = state.lock().unwrap().answer.to(&query);
        let len = (reply.len() as u16).to_be_bytes();
        let _ = stream.write_all(&[&len, reply.as_slice()].concat()).await;
    }
}

impl Answer {
    fn to(&self, query: &[u8]) -> Vec<u8> {
        if self.raw {
            let id = query[..2].iter();
            return id.chain(self.bytes.iter().skip(2)).copied().collect();
        }
        let mut reply = head(query, 0x81, self.code, self.records);
        reply.extend(&self.bytes);
        reply
    }
}

/// The header of an answer, and the question, which ends before the query's EDNS.
fn head(query: &[u8], flags: u8, code: u8, records: u8) -> Vec<u8> {
    let mut head = vec![query[0], query[1], flags, 0x80 | code, 0, 1, 0, records, 0, 0, 0, 0];
    head.extend(&query[12..query.len() - 11]);
    head
}
