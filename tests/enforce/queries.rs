//! Name queries by every way there is, as the agent; and a name server for them.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};

use crate::{
    actor::{check, with_raw},
    support::{Act, Call},
};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does each step and prints a line of it:
///
/// ```text
/// connect ADDRESS | wait SECONDS | await FILE | resolve NAME | WAY ADDRESS NAME TYPE
/// ```
///
/// where WAY is `udp`, `connected`, `tcp`, `fastopen`, `mptcp` or `fd=N`.
pub fn perform(steps: &[&str]) {
    for step in steps {
        match one(&step.split(' ').collect::<Vec<_>>()) {
            Ok(line) => println!("{line}"),
            Err(error) => match error.raw_os_error() {
                Some(libc::EACCES | libc::EPERM) => println!("refused"),
                _ => println!("error {error}"),
            },
        }
    }
}

fn one(step: &[&str]) -> io::Result<String> {
    match step {
        ["connect", address] => {
            let act = Act::Connect((*address).to_owned());
            act.attempt(None, Call::Openat).map(|()| "connected".to_owned())
        }
        ["wait", seconds] => {
            std::thread::sleep(Duration::from_secs(seconds.parse().unwrap()));
            Ok("waited".to_owned())
        }
        ["await", file] => {
            println!("awaiting {file}");
            while !Path::new(file).exists() {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok("it is there".to_owned())
        }
        ["resolve", name] => Ok(match (*name, 80).to_socket_addrs() {
            Ok(addresses) => {
                let mut found: Vec<String> =
                    addresses.map(|address| address.ip().to_string()).collect();
                found.sort();
                found.dedup();
                found.join(" ")
            }
            Err(_) => "unknown".to_owned(),
        }),
        [way, address, name, kind] => {
            let query = query(name, kind.parse().unwrap());
            let (reply, from) = exchange(way, address.parse().unwrap(), &query)?;
            let answer = Message::from_vec(&reply).unwrap();
            Ok(format!("{:?} from {from}", answer.metadata.response_code))
        }
        other => panic!("{other:?}: no such step"),
    }
}

pub fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    message.to_vec().unwrap()
}

/// The answer, and whom the kernel says that it comes from.
fn exchange(way: &str, server: SocketAddr, query: &[u8]) -> io::Result<(Vec<u8>, SocketAddr)> {
    match way {
        "udp" | "connected" => {
            let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            over_udp(&UdpSocket::bind(any)?, way == "connected", server, query)
        }
        inherited if inherited.starts_with("fd=") => {
            let descriptor = inherited.trim_start_matches("fd=").parse().unwrap();
            // SAFETY: whoever started this has put a socket there.
            let socket = unsafe { UdpSocket::from_raw_fd(descriptor) };
            let answer = over_udp(&socket, false, server, query);
            std::mem::forget(socket);
            answer
        }
        "tcp" => over_tcp(TcpStream::connect(server)?, Some(query)),
        "fastopen" => {
            let socket = tcp_socket(server, libc::IPPROTO_TCP)?;
            let framed = framed(query);
            with_raw(server, |raw, len| {
                // SAFETY: a buffer and an address with their sizes.
                let sent = unsafe {
                    let (bytes, flags) = (framed.as_ptr().cast(), libc::MSG_FASTOPEN);
                    libc::sendto(socket.as_raw_fd(), bytes, framed.len(), flags, raw, len)
                };
                check(sent as i64).map(drop)
            })?;
            over_tcp(TcpStream::from(socket), None)
        }
        "mptcp" => {
            let socket = tcp_socket(server, libc::IPPROTO_MPTCP)?;
            with_raw(server, |raw, len| {
                // SAFETY: an address and its length.
                check(unsafe { libc::connect(socket.as_raw_fd(), raw, len) }.into()).map(drop)
            })?;
            over_tcp(TcpStream::from(socket), Some(query))
        }
        other => panic!("{other}: no such way"),
    }
}
fn over_udp(
    socket: &UdpSocket,
    connected: bool,
    server: SocketAddr,
    query: &[u8],
) -> io::Result<(Vec<u8>, SocketAddr)> {
    socket.set_read_timeout(Some(PATIENCE))?;
    if connected {
        socket.connect(server)?;
        socket.send(query)?;
    } else {
        socket.send_to(query, server)?;
    }
    let mut buffer = vec![0; 4096];
    let (len, from) = socket.recv_from(&mut buffer)?;
    if connected {
        assert_eq!(socket.peer_addr()?, from, "the peer and the source differ");
    }
    buffer.truncate(len);
    Ok((buffer, from))
}

fn over_tcp(mut stream: TcpStream, query: Option<&[u8]>) -> io::Result<(Vec<u8>, SocketAddr)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    if let Some(query) = query {
        stream.write_all(&framed(query))?;
    }
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer)?;
    Ok((answer, stream.peer_addr()?))
}

fn framed(query: &[u8]) -> Vec<u8> {
    [&u16::try_from(query.len()).unwrap().to_be_bytes(), query].concat()
}

fn tcp_socket(server: SocketAddr, protocol: i32) -> io::Result<OwnedFd> {
    let family = if server.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: plain numbers.
    let socket = check(unsafe { libc::socket(family, libc::SOCK_STREAM, protocol) }.into())?;
    // SAFETY: a descriptor that was just made.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(socket).unwrap()) })
}

/// A name server that tells these addresses, with this time to live, for as long as the test runs.
pub fn name_server(zone: &'static [(&'static str, &'static str)], ttl: u32) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let (len, client) = socket.recv_from(&mut buffer).unwrap();
            let query = Message::from_vec(&buffer[..len]).unwrap();
            let reply = answer(&query, zone, ttl).to_vec().unwrap();
            // Who is gone does not want it.
            let _ = socket.send_to(&reply, client);
        }
    });
    address
}

fn answer(query: &Message, zone: &[(&str, &str)], ttl: u32) -> Message {
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    let question = query.queries[0].clone();
    let asked = question.name().to_ascii().to_ascii_lowercase();
    let known = zone.iter().filter(|(name, _)| format!("{name}.") == asked);
    for (_, address) in known.clone() {
        let data = match address.parse().unwrap() {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        if data.record_type() == question.query_type() {
            message.add_answer(Record::from_rdata(question.name().clone(), ttl, data));
        }
    }
    if known.count() == 0 {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    message.add_query(question);
    message
}
