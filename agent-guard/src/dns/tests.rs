//! The proxy on real sockets, with name servers that do as they are told.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use agent_guard_common::{event::Outcome, table::NO_RULE};
use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, TXT},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

use super::{
    leases::tests::Store,
    server::{MAX_CONNECTIONS, MAX_PENDING},
    *,
};
use crate::{
    clock,
    event::LookupReason,
    policy::{
        Effect,
        compile::{NameRules, tests::policy},
    },
};

/// What a name server does with a query.
enum Does {
    /// It answers with these records.
    Answers(Vec<Record>),
    /// It answers with this code.
    Code(ResponseCode),
    /// It answers this.
    Says(fn(&Message) -> Vec<Message>),
    /// It says that the answer does not fit.
    Truncates,
    /// It answers after so long.
    Delays(Duration, Vec<Record>),
    Nothing,
}

struct Server {
    address: SocketAddr,
    /// Queries that it got.
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

/// A name server that does what `script` says of each query; `true` over TCP.
async fn server<F>(script: F) -> Server
where
    F: Fn(&Message, bool) -> Does + Send + Sync + 'static,
{
    let script = Arc::new(script);
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let (count, told) = (Arc::clone(&asked), Arc::clone(&script));
    let udp = Arc::new(udp);
    tasks.spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (len, client) = udp.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..len]).unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let (udp, does) = (Arc::clone(&udp), told(&query, false));
            tokio::spawn(async move {
                for reply in perform(&query, does).await {
                    udp.send_to(&reply, client).await.unwrap();
                }
            });
        }
    });
    let count = Arc::clone(&asked);
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut bytes).await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let query = Message::from_vec(&bytes).unwrap();
            for reply in perform(&query, script(&query, true)).await {
                stream.write_u16(reply.len().try_into().unwrap()).await.unwrap();
                stream.write_all(&reply).await.unwrap();
            }
        }
    });
    Server { address, asked, _tasks: tasks }
}

async fn perform(query: &Message, does: Does) -> Vec<Vec<u8>> {
    let answers = match does {
        Does::Answers(records) => vec![answer(query, records)],
        Does::Code(code) => {
            let mut message = answer(query, Vec::new());
            message.metadata.response_code = code;
            vec![message]
        }
        Does::Says(says) => says(query),
        Does::Truncates => {
            let mut message = answer(query, Vec::new());
            message.metadata.truncation = true;
            vec![message]
        }
        Does::Delays(time, records) => {
            tokio::time::sleep(time).await;
            vec![answer(query, records)]
        }
        Does::Nothing => Vec::new(),
    };
    answers.iter().map(|message| message.to_vec().unwrap()).collect()
}

fn answer(query: &Message, records: Vec<Record>) -> Message {
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    message.add_queries(query.queries.clone());
    message.insert_answers(records);
    message
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).unwrap()
}

fn a(owner: &str, address: &str, ttl: u32) -> Record {
    let data = match address.parse().unwrap() {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name(owner), ttl, data)
}

fn cname(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 300, RData::CNAME(CNAME(name(target))))
}

const RULES: &str = "egress:
  rules:
    - {name: api, effect: allow, to: ['api.example:443/tcp']}
    - {name: wild, effect: allow, to: ['*.wild.example:443']}
    - {name: bad, effect: deny, to: ['bad.wild.example']}
    - {name: lan, effect: allow, to: ['10.7.0.0/16:5432']}
";

/// A proxy under test with all that it touches.
struct Bench {
    address: SocketAddr,
    told: mpsc::Receiver<Told>,
    store: Store,
    book: Arc<Mutex<LeaseBook>>,
    _tasks: JoinSet<()>,
}

async fn bench(upstreams: &[SocketAddr]) -> Bench {
    bench_with(upstreams, RULES, |_| {}).await
}

async fn bench_with(
    upstreams: &[SocketAddr],
    rules: &str,
    change: impl FnOnce(&mut Settings),
) -> Bench {
    let policy = policy(rules);
    let mut settings = Settings {
        names: NameRules::new(&policy),
        default_allow: policy.egress.default == Effect::Allow,
        enforce: true,
        listed: vec!["10.7.0.0/16".parse().unwrap()],
        internal: Vec::new(),
        upstreams: upstreams.to_vec(),
    };
    change(&mut settings);
    let store = Store::default();
    let book = Arc::new(Mutex::new(LeaseBook::new(1, Box::new(store.clone()))));
    let proxy = Proxy::bind().await.unwrap();
    let address = (Ipv4Addr::LOCALHOST, proxy.ports()[0]).into();
    let (sender, told) = mpsc::channel(4096);
    let tasks = proxy.serve(Resolver::new(settings, Arc::clone(&book)), sender);
    Bench { address, told, store, book, _tasks: tasks }
}

impl Bench {
    async fn raw(&self, bytes: &[u8]) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(bytes, self.address).await.unwrap();
        let mut buffer = vec![0; 65535];
        let received = timeout(Duration::from_secs(20), socket.recv_from(&mut buffer)).await;
        let (len, from) = received.expect("an answer").unwrap();
        assert_eq!(from, self.address);
        Message::from_vec(&buffer[..len]).unwrap()
    }

    async fn ask(&self, text: &str, kind: RecordType) -> Message {
        let query = query(text, kind);
        let answer = self.raw(&query.to_vec().unwrap()).await;
        assert_eq!(answer.metadata.id, query.metadata.id);
        assert_eq!(answer.queries, query.queries);
        answer
    }

    async fn told(&mut self) -> Told {
        timeout(Duration::from_secs(5), self.told.recv()).await.expect("an event").unwrap()
    }

    /// Asks, and takes the one event that there is of it.
    async fn both(&mut self, text: &str, kind: RecordType) -> (Message, Told) {
        let answer = self.ask(text, kind).await;
        let told = self.told().await;
        assert!(self.told.try_recv().is_err(), "more than one event of {text}");
        (answer, told)
    }

    fn leased(&self) -> usize {
        self.store.leases.lock().unwrap().len()
    }
}

fn query(text: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name(text), kind));
    query
}

fn addresses(message: &Message) -> Vec<String> {
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(address.to_string()),
        RData::AAAA(address) => Some(address.to_string()),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

#[tokio::test]
async fn an_allowed_name_is_answered_after_its_addresses_are_leased() {
    let upstream = server(|query, _| match query.queries[0].query_type() {
        RecordType::A => Does::Answers(vec![
            a("api.example", "198.51.100.1", 60),
            a("api.example", "198.51.100.2", 90),
        ]),
        _ => Does::Answers(vec![a("api.example", "2001:db8::1", 60)]),
    })
    .await;
    let mut bench = bench(&[upstream.address]).await;
    let before = clock::boot_ns();
    let (message, told) = bench.both("API.Example", RecordType::A).await;
    assert_eq!(addresses(&message), ["198.51.100.1", "198.51.100.2"]);
    assert!(message.answers.iter().all(|record| (58..=60).contains(&record.ttl)));
    assert_eq!(
        (told.lookup.outcome, told.lookup.reason, told.rule),
        (Outcome::Allowed, LookupReason::Rule, 0)
    );
    assert_eq!(told.lookup.name.as_str(), "API.Example");
    let lease = *bench.store.leases.lock().unwrap().values().next().unwrap();
    let seconds = (lease.slots[0].expires_ns - before) / 1_000_000_000;
    assert!((64..=66).contains(&seconds), "{seconds}");
    assert_eq!(
        (lease.slots[0].low, lease.slots[0].high, lease.slots[0].udp.effect()),
        (443, 443, None)
    );
    let (message, _) = bench.both("api.example", RecordType::AAAA).await;
    assert_eq!((addresses(&message), bench.leased()), (vec!["2001:db8::1".to_owned()], 3));
    let host = bench.book.lock().unwrap().host("198.51.100.2".parse().unwrap(), 0);
    assert_eq!(host.as_deref(), Some("api.example"));
}

#[tokio::test]
async fn a_name_that_no_rule_covers_does_not_exist_and_nobody_is_asked() {
    let upstream = server(|_, _| Does::Nothing).await;
    let mut bench = bench(&[upstream.address]).await;
    for (text, rule, reason) in [
        ("evil.example", NO_RULE, LookupReason::Default),
        ("wild.example", NO_RULE, LookupReason::Default),
        ("a.b.wild.example", NO_RULE, LookupReason::Default),
        ("api.example.evil.com", NO_RULE, LookupReason::Default),
        ("_x.wild.example", NO_RULE, LookupReason::Default),
        ("bad.wild.example", 2, LookupReason::Rule),
    ] {
        for kind in [RecordType::A, RecordType::TXT] {
            let (message, told) = bench.both(text, kind).await;
            assert_eq!(code(&message), ResponseCode::NXDomain, "{text}");
            assert_eq!((told.rule, told.lookup.reason), (rule, reason), "{text}");
            assert_eq!(told.lookup.outcome, Outcome::Denied);
        }
    }
    assert_eq!((upstream.asked.load(Ordering::Relaxed), bench.leased()), (0, 0));
}

#[tokio::test]
async fn a_dot_inside_a_label_makes_no_other_name() {
    let mut bench = bench(&[]).await;
    let mut odd = Message::query();
    let labels: [&[u8]; 2] = [b"api.example", b""];
    let sneaky = Name::from_labels(labels.into_iter().filter(|label| !label.is_empty()));
    odd.add_query(Query::query(sneaky.unwrap(), RecordType::A));
    let message = bench.raw(&odd.to_vec().unwrap()).await;
    assert_eq!(code(&message), ResponseCode::NXDomain);
    assert_eq!(bench.told().await.lookup.reason, LookupReason::Default);
}

#[tokio::test]
async fn only_addresses_are_resolved() {
    let upstream = server(|_, _| Does::Nothing).await;
    let mut bench = bench(&[upstream.address]).await;
    for kind in [
        RecordType::TXT,
        RecordType::PTR,
        RecordType::ANY,
        RecordType::SRV,
        RecordType::MX,
        RecordType::NS,
        RecordType::SOA,
        RecordType::AXFR,
        RecordType::CNAME,
        RecordType::NULL,
        RecordType::Unknown(65_280),
    ] {
        let (message, told) = bench.both("api.example", kind).await;
        assert_eq!(code(&message), ResponseCode::Refused, "{kind}");
        assert_eq!(
            (told.lookup.reason, told.lookup.outcome),
            (LookupReason::QueryType, Outcome::Denied)
        );
    }
    for kind in [RecordType::HTTPS, RecordType::SVCB] {
        let (message, told) = bench.both("api.example", kind).await;
        assert_eq!((code(&message), message.answers.len()), (ResponseCode::NoError, 0));
        assert_eq!(told.lookup.outcome, Outcome::Allowed);
    }
    assert_eq!(upstream.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_is_no_question_is_refused_and_told() {
    let mut bench = bench(&[]).await;
    let good = query("api.example", RecordType::A).to_vec().unwrap();
    let with = |change: fn(&mut Message)| {
        let mut message = query("api.example", RecordType::A);
        change(&mut message);
        message.to_vec().unwrap()
    };
    let cases = [
        (good[..good.len() - 2].to_vec(), ResponseCode::FormErr),
        ([&good[..5], &[0], &good[6..12]].concat(), ResponseCode::FormErr),
        (
            with(|m| {
                m.add_query(Query::query(name("b.example"), RecordType::A));
            }),
            ResponseCode::FormErr,
        ),
        (
            with(|m| {
                m.add_answer(a("api.example", "198.51.100.1", 1));
            }),
            ResponseCode::FormErr,
        ),
        (with(|m| m.metadata.op_code = OpCode::Notify), ResponseCode::NotImp),
        (
            with(|m| {
                m.queries[0].set_query_class(DNSClass::CH);
            }),
            ResponseCode::Refused,
        ),
        (
            with(|m| {
                m.set_edns({
                    let mut e = Edns::new();
                    e.set_version(1);
                    e
                });
            }),
            ResponseCode::BADVERS,
        ),
    ];
    for (bytes, due) in cases {
        let message = bench.raw(&bytes).await;
        assert_eq!(message.metadata.id.to_be_bytes(), bytes[..2]);
        // 16 is BADVERS and BADSIG, by where it stands.
        assert_eq!(u16::from(code(&message)), u16::from(due));
        let told = bench.told().await;
        assert_eq!(
            (told.lookup.reason, told.lookup.outcome),
            (LookupReason::Malformed, Outcome::Denied)
        );
    }
    // Answers, and what is shorter than a header, get none.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for noise in [
        &good[..11],
        &[],
        &with(|m| m.metadata.message_type = hickory_proto::op::MessageType::Response),
    ] {
        socket.send_to(noise, bench.address).await.unwrap();
    }
    let silence = timeout(Duration::from_millis(200), socket.recv_from(&mut [0; 512])).await;
    assert!(silence.is_err() && bench.told.try_recv().is_err());
}

#[tokio::test]
async fn aliases_are_followed_and_shown() {
    // One server tells all at once, the other a step at a time.
    let whole = server(|_, _| {
        Does::Answers(vec![
            a("edge.cdn.net", "198.51.100.7", 20),
            cname("api.example", "api.cdn.net"),
            cname("api.cdn.net", "edge.cdn.net"),
            a("elsewhere.net", "203.0.113.9", 20),
        ])
    })
    .await;
    let steps = server(|query, _| match query.queries[0].name().to_ascii().as_str() {
        "api.example." => Does::Answers(vec![cname("api.example", "api.cdn.net")]),
        "api.cdn.net." => Does::Answers(vec![cname("api.cdn.net", "edge.cdn.net")]),
        _ => Does::Answers(vec![a("edge.cdn.net", "198.51.100.7", 20)]),
    })
    .await;
    for upstream in [whole, steps] {
        let mut bench = bench(&[upstream.address]).await;
        let (message, told) = bench.both("api.example", RecordType::A).await;
        let chain: Vec<(String, RecordType)> =
            message.answers.iter().map(|r| (r.name.to_ascii(), r.record_type())).collect();
        assert_eq!(
            chain,
            [
                ("api.example.".to_owned(), RecordType::CNAME),
                ("api.cdn.net.".to_owned(), RecordType::CNAME),
                ("edge.cdn.net.".to_owned(), RecordType::A),
            ]
        );
        assert_eq!((bench.leased(), told.lookup.answers.len()), (1, 3));
    }
}

#[tokio::test]
async fn a_loop_of_aliases_ends() {
    let upstream = server(|_, _| {
        Does::Answers(vec![cname("api.example", "b.example"), cname("b.example", "api.example")])
    })
    .await;
    let mut bench = bench(&[upstream.address]).await;
    let (message, told) = bench.both("api.example", RecordType::A).await;
    assert_eq!(code(&message), ResponseCode::ServFail);
    assert_eq!(told.lookup.reason, LookupReason::Unanswered);
}

#[tokio::test]
async fn what_does_not_fit_goes_over_tcp_on_both_sides() {
    let many: Vec<String> = (0..32).map(|number| format!("198.51.100.{number}")).collect();
    let due = many.clone();
    let upstream = server(move |_, tcp| {
        if !tcp {
            return Does::Truncates;
        }
        Does::Answers(many.iter().map(|address| a("api.example", address, 60)).collect())
    })
    .await;
    let bench = bench(&[upstream.address]).await;
    let short = bench.ask("api.example", RecordType::A).await;
    assert!(short.metadata.truncation && short.to_vec().unwrap().len() <= 512);
    assert_eq!(addresses(&short), due[..short.answers.len()]);
    assert!((20..32).contains(&short.answers.len()), "{}", short.answers.len());
    // With EDNS it fits.
    let mut wide = query("api.example", RecordType::A);
    wide.set_edns({
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        edns
    });
    let fits = bench.raw(&wide.to_vec().unwrap()).await;
    assert_eq!((fits.metadata.truncation, fits.answers.len()), (false, 32));
    assert_eq!(fits.edns.unwrap().max_payload(), 1232);
    // Two questions over one connection.
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    for _ in 0..2 {
        assert_eq!(addresses(&ask_over(&mut stream).await), due);
    }
    assert_eq!(upstream.asked.load(Ordering::Relaxed), 2, "once over each");
}

/// Asks for the address of `api.example`.
async fn ask_over(stream: &mut TcpStream) -> Message {
    let bytes = query("api.example", RecordType::A).to_vec().unwrap();
    stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

#[tokio::test]
async fn more_questions_than_may_wait_are_answered_at_once_and_told_once() {
    let silent = server(|_, _| Does::Nothing).await;
    let mut bench = bench(&[silent.address]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut question = query("api.example", RecordType::A);
    for id in 0..MAX_PENDING + 2 {
        question.metadata.id = id.try_into().unwrap();
        socket.send_to(&question.to_vec().unwrap(), bench.address).await.unwrap();
    }
    for id in [MAX_PENDING, MAX_PENDING + 1] {
        let mut buffer = vec![0; 512];
        let received = timeout(Duration::from_secs(20), socket.recv(&mut buffer)).await;
        let reply = Message::from_vec(&buffer[..received.unwrap().unwrap()]).unwrap();
        assert_eq!(usize::from(reply.metadata.id), id);
        assert_eq!(code(&reply), ResponseCode::ServFail);
    }
    let lookup = bench.told().await.lookup;
    assert_eq!((lookup.reason, lookup.outcome), (LookupReason::Busy, Outcome::Denied));
    assert!(bench.told.try_recv().is_err(), "told twice");
}

#[tokio::test]
async fn more_connections_than_may_be_open_wait_for_one_to_end() {
    let upstream = server(|_, _| Does::Answers(vec![a("api.example", "198.51.100.1", 60)])).await;
    let bench = bench(&[upstream.address]).await;
    let mut open = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        assert_eq!(code(&ask_over(&mut stream).await), ResponseCode::NoError);
        open.push(stream);
    }
    let mut further = TcpStream::connect(bench.address).await.unwrap();
    let asked = ask_over(&mut further);
    tokio::pin!(asked);
    assert!(timeout(Duration::from_millis(500), &mut asked).await.is_err(), "answered beside all");
    open.pop();
    assert_eq!(code(&asked.await), ResponseCode::NoError);
}

#[tokio::test]
async fn forged_answers_are_not_taken() {
    let upstream = server(|_, _| {
        Does::Says(|query| {
            let good = answer(query, vec![a("api.example", "198.51.100.1", 60)]);
            let forged = |change: fn(&mut Message)| {
                let mut message = answer(query, vec![a("api.example", "203.0.113.66", 60)]);
                change(&mut message);
                message
            };
            vec![
                forged(|m| m.metadata.id ^= 1),
                forged(|m| m.metadata.message_type = hickory_proto::op::MessageType::Query),
                forged(|m| m.queries = vec![Query::query(name("evil.example"), RecordType::A)]),
                forged(|m| m.queries.clear()),
                good,
            ]
        })
    })
    .await;
    let mut bench = bench(&[upstream.address]).await;
    let (message, _) = bench.both("api.example", RecordType::A).await;
    assert_eq!(addresses(&message), ["198.51.100.1"]);
}

#[tokio::test]
async fn records_of_other_names_and_classes_are_left_out() {
    let upstream = server(|_, _| {
        let mut chaos = a("api.example", "203.0.113.1", 60);
        chaos.dns_class = DNSClass::CH;
        Does::Answers(vec![
            a("other.example", "203.0.113.2", 60),
            chaos,
            a("api.example", "2001:db8::9", 60),
            a("API.example", "198.51.100.1", 60),
        ])
    })
    .await;
    let mut bench = bench(&[upstream.address]).await;
    let (message, _) = bench.both("api.example", RecordType::A).await;
    assert_eq!((addresses(&message), bench.leased()), (vec!["198.51.100.1".to_owned()], 1));
}

#[tokio::test]
async fn the_next_server_is_asked_where_one_is_dead_or_fails() {
    let dead = server(|_, _| Does::Nothing).await;
    let failing = server(|_, _| Does::Code(ResponseCode::ServFail)).await;
    let refusing = server(|_, _| Does::Code(ResponseCode::Refused)).await;
    let good = server(|query, _| {
        let owner = query.queries[0].name().to_ascii();
        Does::Answers(vec![a(owner.trim_end_matches('.'), "198.51.100.1", 60)])
    })
    .await;
    // Nobody listens at the discard port here.
    let gone: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let mut bench =
        bench(&[dead.address, gone, failing.address, refusing.address, good.address]).await;
    let start = Instant::now();
    let (message, _) = bench.both("api.example", RecordType::A).await;
    assert_eq!(code(&message), ResponseCode::NoError);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    // Who answered is asked first from then on.
    let start = Instant::now();
    bench.both("a.wild.example", RecordType::A).await;
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(dead.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn where_nobody_answers_the_client_is_told() {
    let dead = server(|_, _| Does::Nothing).await;
    let mut bench = bench(&[dead.address]).await;
    let (message, told) = bench.both("api.example", RecordType::A).await;
    assert_eq!(code(&message), ResponseCode::ServFail);
    assert_eq!(
        (told.lookup.reason, told.lookup.outcome),
        (LookupReason::Unanswered, Outcome::Allowed)
    );
}

#[tokio::test]
async fn a_slow_server_is_asked_once_for_all_who_wait() {
    let slow = server(|_, _| {
        Does::Delays(Duration::from_millis(700), vec![a("api.example", "198.51.100.1", 60)])
    })
    .await;
    let bench = bench(&[slow.address]).await;
    let ask = || bench.ask("api.example", RecordType::A);
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    for message in [one, two, three] {
        assert_eq!(addresses(&message), ["198.51.100.1"]);
    }
    assert_eq!(slow.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_answer_may_come_after_the_next_server_was_asked() {
    let slow = server(|_, _| {
        Does::Delays(Duration::from_secs(2), vec![a("api.example", "198.51.100.1", 60)])
    })
    .await;
    let dead = server(|_, _| Does::Nothing).await;
    let mut bench = bench(&[slow.address, dead.address]).await;
    let (message, _) = bench.both("api.example", RecordType::A).await;
    assert_eq!(addresses(&message), ["198.51.100.1"]);
    assert_eq!((slow.asked.load(Ordering::Relaxed), dead.asked.load(Ordering::Relaxed)), (1, 1));
}

#[tokio::test]
async fn aliases_take_no_more_time_than_one_answer() {
    // Each alias leads to the next, a second later.
    let endless = server(|query, _| {
        let name = query.queries[0].name().to_ascii();
        let name = name.trim_end_matches('.');
        Does::Delays(Duration::from_secs(1), vec![cname(name, &format!("a.{name}"))])
    })
    .await;
    let mut bench = bench(&[endless.address]).await;
    let start = Instant::now();
    let (message, told) = bench.both("api.example", RecordType::A).await;
    assert_eq!(
        (code(&message), told.lookup.reason),
        (ResponseCode::ServFail, LookupReason::Unanswered)
    );
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn no_such_name_and_no_such_address_are_passed_on() {
    let upstream = server(|query, _| match query.queries[0].query_type() {
        RecordType::A => Does::Code(ResponseCode::NXDomain),
        _ => Does::Answers(Vec::new()),
    })
    .await;
    let mut bench = bench(&[upstream.address]).await;
    let (message, told) = bench.both("api.example", RecordType::A).await;
    assert_eq!((code(&message), told.lookup.outcome), (ResponseCode::NXDomain, Outcome::Allowed));
    let (message, _) = bench.both("api.example", RecordType::AAAA).await;
    assert_eq!((code(&message), message.answers.len()), (ResponseCode::NoError, 0));
    bench.both("api.example", RecordType::A).await;
    assert_eq!(upstream.asked.load(Ordering::Relaxed), 2, "remembered for a while");
}

#[tokio::test]
async fn a_time_to_live_is_kept_within_bounds() {
    for (given, told) in [(0, 4..=5), (u32::MAX, 3_598..=3_600)] {
        let upstream =
            server(move |_, _| Does::Answers(vec![a("api.example", "198.51.100.1", given)])).await;
        let mut bench = bench(&[upstream.address]).await;
        let (message, _) = bench.both("api.example", RecordType::A).await;
        assert!(told.contains(&message.answers[0].ttl), "{}", message.answers[0].ttl);
    }
}

#[tokio::test]
async fn addresses_that_rotate_are_each_leased_for_their_own_time() {
    let turn = AtomicUsize::new(1);
    let upstream = server(move |_, _| {
        let number = turn.fetch_add(1, Ordering::Relaxed);
        Does::Answers(vec![a("api.example", &format!("198.51.100.{number}"), 0)])
    })
    .await;
    let mut bench = bench(&[upstream.address]).await;
    let (first, _) = bench.both("api.example", RecordType::A).await;
    tokio::time::sleep(Duration::from_millis(5_100)).await;
    let (second, _) = bench.both("api.example", RecordType::A).await;
    assert_ne!(addresses(&first), addresses(&second));
    assert_eq!(bench.leased(), 2);
    let mut book = bench.book.lock().unwrap();
    book.sweep(clock::boot_ns() + 6_000_000_000);
    assert_eq!(book.len(), 1);
}

#[tokio::test]
async fn internal_addresses_are_withheld_unless_a_rule_lists_them() {
    let upstream = server(|query, _| match query.queries[0].name().to_ascii().as_str() {
        "api.example." => Does::Answers(vec![
            a("api.example", "127.0.0.1", 60),
            a("api.example", "169.254.169.254", 60),
        ]),
        "mixed.wild.example." => Does::Answers(vec![
            a("mixed.wild.example", "192.168.0.1", 60),
            a("mixed.wild.example", "198.51.100.1", 60),
        ]),
        owner => Does::Answers(vec![a(owner.trim_end_matches('.'), "10.7.1.2", 60)]),
    })
    .await;
    let mut bench = bench(&[upstream.address]).await;
    let (message, told) = bench.both("api.example", RecordType::A).await;
    assert_eq!((code(&message), message.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(
        (told.lookup.outcome, told.lookup.reason),
        (Outcome::Denied, LookupReason::Internal)
    );
    assert_eq!(told.lookup.withheld.len(), 2);
    let (message, told) = bench.both("mixed.wild.example", RecordType::A).await;
    assert_eq!(addresses(&message), ["198.51.100.1"]);
    assert_eq!((told.lookup.outcome, told.lookup.withheld.len()), (Outcome::Allowed, 1));
    // A listed network is told, and what its own rule says of ports is all that holds there.
    let (message, _) = bench.both("db.wild.example", RecordType::A).await;
    assert_eq!((addresses(&message), bench.leased()), (vec!["10.7.1.2".to_owned()], 1));
}

#[tokio::test]
async fn internal_networks_that_names_may_lead_to_are_leased() {
    let upstream = server(|_, _| Does::Answers(vec![a("api.example", "127.0.0.9", 60)])).await;
    let mut bench = bench_with(&[upstream.address], RULES, |settings| {
        settings.internal = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let (message, _) = bench.both("api.example", RecordType::A).await;
    assert_eq!((addresses(&message), bench.leased()), (vec!["127.0.0.9".to_owned()], 1));
}

#[tokio::test]
async fn an_answer_whose_addresses_do_not_reach_the_kernel_is_withheld() {
    let upstream = server(|_, _| Does::Answers(vec![a("api.example", "198.51.100.1", 60)])).await;
    let mut bench = bench(&[upstream.address]).await;
    *bench.store.broken.lock().unwrap() = true;
    let (message, told) = bench.both("api.example", RecordType::A).await;
    assert_eq!((code(&message), message.answers.len()), (ResponseCode::ServFail, 0));
    assert_eq!((told.lookup.reason, told.lookup.outcome), (LookupReason::Lease, Outcome::Denied));
}

#[tokio::test]
async fn names_under_a_wildcard_are_no_tunnel() {
    let upstream = server(|_, _| Does::Answers(Vec::new())).await;
    let mut bench = bench(&[upstream.address]).await;
    for number in 0..100 {
        let label = format!("{number:x<63}");
        let (message, told) = bench.both(&format!("{label}.wild.example"), RecordType::A).await;
        assert_eq!(code(&message), ResponseCode::Refused);
        assert_eq!(told.lookup.reason, LookupReason::LongLabel);
    }
    let longest = format!("{}.wild.example", "x".repeat(40));
    assert_eq!(code(&bench.both(&longest, RecordType::A).await.0), ResponseCode::NoError);
    let mut refused = 0;
    for number in 0..100 {
        let message = bench.ask(&format!("{number}.wild.example"), RecordType::A).await;
        refused += usize::from(code(&message) == ResponseCode::Refused);
    }
    assert!((65..=72).contains(&refused), "{refused}");
    let mut told = Vec::new();
    while let Ok(event) = bench.told.try_recv() {
        told.extend((event.lookup.outcome == Outcome::Denied).then_some(event.lookup.reason));
    }
    assert!(told.len() <= 4 && told.iter().all(|reason| *reason == LookupReason::Rate), "{told:?}");
    // A name that is named in full has no such bound.
    assert_eq!(code(&bench.ask("api.example", RecordType::A).await), ResponseCode::NoError);
}

#[tokio::test]
async fn audit_tells_and_lets_through() {
    let upstream = server(|query, _| match query.queries[0].query_type() {
        RecordType::TXT => Does::Answers(vec![Record::from_rdata(
            name("evil.example"),
            60,
            RData::TXT(TXT::new(vec!["a\nb".to_owned()])),
        )]),
        _ => Does::Answers(vec![a("evil.example", "192.168.0.1", 60)]),
    })
    .await;
    let mut bench =
        bench_with(&[upstream.address], RULES, |settings| settings.enforce = false).await;
    let (message, told) = bench.both("evil.example", RecordType::A).await;
    assert_eq!(addresses(&message), ["192.168.0.1"]);
    assert_eq!(
        (told.lookup.outcome, told.lookup.reason),
        (Outcome::Observed, LookupReason::Default)
    );
    let (message, told) = bench.both("evil.example", RecordType::TXT).await;
    assert_eq!((message.answers.len(), told.lookup.outcome), (1, Outcome::Observed));
    assert!(!told.lookup.answers[0].data.as_str().contains('\n'));
    assert_eq!(bench.leased(), 0, "what the policy denies is not leased");
}

#[tokio::test]
async fn under_default_allow_only_denied_names_are_withheld() {
    let upstream = server(|query, _| {
        let owner = query.queries[0].name().to_ascii();
        Does::Answers(vec![a(owner.trim_end_matches('.'), "192.168.0.1", 60)])
    })
    .await;
    let rules = "egress:\n  default: allow\n  rules:\n    - {effect: deny, to: ['bad.example']}\n";
    let mut bench = bench_with(&[upstream.address], rules, |_| {}).await;
    let (message, told) = bench.both("other.example", RecordType::A).await;
    assert_eq!((addresses(&message).len(), told.rule), (1, NO_RULE));
    assert_eq!(code(&bench.both("bad.example", RecordType::A).await.0), ResponseCode::NXDomain);
}

#[tokio::test]
async fn it_answers_over_ipv6_where_there_is_ipv6() {
    let proxy = Proxy::bind().await.unwrap();
    let [v4, v6] = proxy.ports();
    assert_ne!(v4, 0);
    assert_eq!(v6 != 0, UdpSocket::bind("[::1]:0").await.is_ok());
}
