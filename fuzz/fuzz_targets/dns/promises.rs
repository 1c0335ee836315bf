//! What holds of every answer, said again and otherwise than in the proxy.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use agent_guard::dns::Told;
use agent_guard_common::{
    event::Outcome,
    table::{Family, Lease, LeaseKey},
};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};

use crate::conversation::Step;

/// A header that is refused at once: an operation that is no query.
pub const NOT_A_QUERY: [u8; 12] = [0xfe, 0xed, 0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Bytes over UDP for whom does not speak EDNS, and for whom does.
const UDP: (usize, usize) = (512, 1232);

/// Seconds that an answer holds.
const TTL: std::ops::RangeInclusive<u32> = 1..=3600;

/// Checks what came of one step.
pub fn hold(step: &Step, reply: Option<&[u8]>, told: &[Told], leases: &HashMap<LeaseKey, Lease>) {
    let public = |key: &LeaseKey| !is_internal(address_of(key));
    assert!(leases.keys().all(public), "an internal address is leased: {leases:?}");
    assert!(told.len() <= 2, "told twice: {told:?}");
    let Some(bytes) = reply else {
        assert!(step.is_noise(), "no answer");
        return;
    };
    assert!(!step.is_noise(), "noise was answered");
    let reply = Message::from_vec(bytes).expect("an answer that can be read");
    assert_eq!(bytes[..2], step.query[..2], "the id");
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert_eq!(u8::from(reply.metadata.op_code), step.query[2] >> 3 & 0xf, "the operation");
    let query = Message::from_vec(&step.query).ok();
    if !step.tcp {
        let edns = query.as_ref().and_then(|query| query.edns.as_ref());
        let limit = edns.map_or(UDP.0, |edns| usize::from(edns.max_payload()).clamp(UDP.0, UDP.1));
        assert!(bytes.len() <= limit, "{} bytes over UDP", bytes.len());
    }
    // That there is no such name may be told of an alias's target.
    if reply.metadata.response_code != ResponseCode::NoError && reply.answers.is_empty() {
        return;
    }

    let query = query.expect("what can not be read is not resolved");
    assert_eq!(reply.queries, query.queries, "the question");
    let [question] = &query.queries[..] else { panic!("resolved: {query:?}") };
    assert_eq!(question.query_class(), DNSClass::IN);
    assert!(may_be_resolved(question.name()), "resolved: {question}");
    let [told] = told else { panic!("an answer that nobody was told of") };
    assert_ne!(told.lookup.outcome, Outcome::Observed);
    assert!(told.lookup.answers.len() >= reply.answers.len());
    let mut owner = question.name().clone();
    for record in &reply.answers {
        assert_eq!((&record.name, record.dns_class), (&owner, DNSClass::IN), "{reply:?}");
        assert!(TTL.contains(&record.ttl), "{record:?}");
        let (address, kind) = match &record.data {
            RData::CNAME(target) => {
                owner = target.0.clone();
                continue;
            }
            RData::A(address) => (IpAddr::from(address.0), RecordType::A),
            RData::AAAA(address) => (IpAddr::from(address.0), RecordType::AAAA),
            other => panic!("told: {other:?}"),
        };
        assert_eq!(question.query_type(), kind);
        if is_internal(address) {
            assert!(is_listed(address), "told: {address}");
        } else {
            let leased = leases.keys().any(|key| address_of(key) == address.to_canonical());
            assert!(leased, "{address} is told and not leased");
        }
    }
}

/// Whether rules allow a name, or a lookup of it that their bounds refuse.
pub fn may_be_resolved(name: &Name) -> bool {
    let labels: Vec<Vec<u8>> = name.iter().map(<[u8]>::to_ascii_lowercase).collect();
    let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
    match labels[..] {
        [b"api", b"example"] => true,
        [first, b"wild", b"example"] => first != b"bad",
        _ => false,
    }
}

fn is_listed(address: IpAddr) -> bool {
    matches!(address.to_canonical(), IpAddr::V4(address) if address.octets()[..2] == [10, 7])
}

fn address_of(key: &LeaseKey) -> IpAddr {
    let [a, b, c, d, ..] = key.addr;
    if key.family == Family::V4 as u32 { Ipv4Addr::new(a, b, c, d).into() } else { key.addr.into() }
}

fn is_internal(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            matches!(a, 0 | 10 | 127 | 224..)
                || (a == 169 && b == 254)
                || (a == 192 && b == 168)
                || (a == 172 && (16..32).contains(&b))
                || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(address) => {
            let first = address.segments()[0];
            address.octets()[..12] == [0; 12] || first & 0xfe00 == 0xfc00 || first >= 0xfe80
        }
    }
}
