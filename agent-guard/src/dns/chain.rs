//! From a name over its aliases to addresses.

use std::net::IpAddr;

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};

use tokio::time::Instant;

use super::upstream::{Failure, PATIENCE, Upstreams};

/// Aliases that one name may lead through; more are a loop or an attack.
const MAX_ALIASES: usize = 8;

/// Addresses that are used of an answer. Programs try a few; each takes room in the kernel.
const MAX_ADDRESSES: usize = 32;

/// What a name leads to.
#[derive(Clone, Debug)]
pub struct Found {
    /// Whether the last name exists.
    pub code: ResponseCode,
    /// Each alias with its target, in order.
    pub aliases: Vec<(Name, Name)>,
    /// Addresses of the last target.
    pub addresses: Vec<IpAddr>,
    /// Seconds for which all of it holds; `None` where there are no records.
    pub ttl: Option<u32>,
}

/// Follows `name` to its addresses of type `kind`, which is A or AAAA.
pub async fn follow(
    upstreams: &Upstreams,
    name: &Name,
    kind: RecordType,
) -> Result<Found, Failure> {
    let mut found = Found {
        code: ResponseCode::NoError,
        aliases: Vec::new(),
        addresses: Vec::new(),
        ttl: None,
    };
    let mut current = name.clone();
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = upstreams.ask(&current, kind, until).await?;
        let asked = current.clone();
        while let Some(target) = found.take_alias(&answer, &current) {
            if found.aliases.len() > MAX_ALIASES {
                return Err(Failure::Code(ResponseCode::ServFail));
            }
            current = target;
        }
        found.take_addresses(&answer, &current, kind);
        found.code = answer.metadata.response_code;
        // A server that followed the aliases itself has said all; one that did not is asked again.
        if !found.addresses.is_empty() || found.code != ResponseCode::NoError || current == asked {
            return Ok(found);
        }
    }
}

impl Found {
    fn take_alias(&mut self, answer: &Message, current: &Name) -> Option<Name> {
        let (ttl, target) = answer.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *current && record.dns_class == DNSClass::IN => {
                Some((record.ttl, target.0.clone()))
            }
            _ => None,
        })?;
        self.holds_for(ttl);
        self.aliases.push((current.clone(), target.clone()));
        Some(target)
    }

    fn take_addresses(&mut self, answer: &Message, current: &Name, kind: RecordType) {
        for record in &answer.answers {
            let address = match &record.data {
                RData::A(address) if kind == RecordType::A => IpAddr::from(address.0),
                RData::AAAA(address) if kind == RecordType::AAAA => IpAddr::from(address.0),
                _ => continue,
            };
            let fits = record.name == *current
                && record.dns_class == DNSClass::IN
                && self.addresses.len() < MAX_ADDRESSES
                && !self.addresses.contains(&address);
            if fits {
                self.holds_for(record.ttl);
                self.addresses.push(address);
            }
        }
    }

    fn holds_for(&mut self, ttl: u32) {
        self.ttl = Some(self.ttl.map_or(ttl, |held| held.min(ttl)));
    }
}
