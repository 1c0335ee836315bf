//! Answers, made anew: nothing that a name server sent is passed on as it is.

use std::net::IpAddr;

use hickory_proto::{
    ProtoError,
    op::{Edns, Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record,
        rdata::{A, AAAA, CNAME},
    },
};

use super::{request::Request, upstream::UDP_PAYLOAD};

/// What a client is told.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: ResponseCode,
    pub records: Vec<Record>,
}

impl Answer {
    /// A code and nothing more.
    pub fn code(code: ResponseCode) -> Self {
        Self { code, records: Vec::new() }
    }

    /// Aliases from `name` on, and the addresses of the last.
    pub fn addresses(
        code: ResponseCode,
        name: &Name,
        aliases: &[(Name, Name)],
        addresses: &[IpAddr],
        ttl: u32,
    ) -> Self {
        let mut records = Vec::with_capacity(aliases.len() + addresses.len());
        let mut owner = name.clone();
        for (_, target) in aliases {
            records.push(Record::from_rdata(owner, ttl, RData::CNAME(CNAME(target.clone()))));
            owner = target.clone();
        }
        records.extend(addresses.iter().map(|address| {
            let data = match address {
                IpAddr::V4(address) => RData::A(A(*address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
            };
            Record::from_rdata(owner.clone(), ttl, data)
        }));
        Self { code, records }
    }

    /// The bytes for whoever asked `request`. Where they would be more than `limit`, as many records as fit,
    /// and a word that there are more: some C libraries (musl before 1.2.4) make do with those.
    ///
    /// # Errors
    /// It can not be put into a message.
    pub fn encode(&self, request: &Request, limit: Option<usize>) -> Result<Vec<u8>, ProtoError> {
        let mut message = Message::response(request.id, OpCode::Query);
        message.metadata.recursion_desired = request.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = self.code;
        message.add_query(request.query.clone());
        message.insert_answers(self.records.clone());
        if request.payload.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD);
            message.set_edns(edns);
        }
        let mut bytes = message.to_vec()?;
        while limit.is_some_and(|limit| bytes.len() > limit) && message.answers.pop().is_some() {
            message.metadata.truncation = true;
            bytes = message.to_vec()?;
        }
        Ok(bytes)
    }
}

/// The bytes for whoever sent something that is no question.
pub fn refusal(id: u16, op_code: OpCode, code: ResponseCode) -> Result<Vec<u8>, ProtoError> {
    let mut message = Message::error_msg(id, op_code, code);
    // The upper bits of a code travel in EDNS.
    if code.high() != 0 {
        message.set_edns(Edns::new());
    }
    message.to_vec()
}
