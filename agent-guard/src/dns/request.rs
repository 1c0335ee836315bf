//! What an agent asks: bytes from the network, judged before anything is done with them.

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name},
};

use super::upstream::UDP_PAYLOAD;
use crate::{event::SafeText, policy::HostName};

/// Bytes of a header.
const HEADER: usize = 12;

/// Least that every client takes over UDP.
const MIN_PAYLOAD: u16 = 512;

/// A question that has the form of one.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: u16,
    pub query: Query,
    pub recursion_desired: bool,
    /// Bytes that the client takes over UDP, where it speaks EDNS.
    pub payload: Option<u16>,
}

/// Why bytes are no question that is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswerable {
    /// Not even a header, or an answer: nobody is told.
    Noise,
    /// It is told with this code.
    Refused { id: u16, op_code: OpCode, code: ResponseCode },
}

/// Reads a request.
pub fn parse(bytes: &[u8]) -> Result<Request, Unanswerable> {
    let [high, low, flags, ..] = *bytes else { return Err(Unanswerable::Noise) };
    let id = u16::from_be_bytes([high, low]);
    if bytes.len() < HEADER || flags & 0x80 != 0 {
        return Err(Unanswerable::Noise);
    }
    let op_code = OpCode::from_u8(flags >> 3 & 0xf);
    let refuse = |code| Err(Unanswerable::Refused { id, op_code, code });
    if op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let Ok(message) = Message::from_vec(bytes) else { return refuse(ResponseCode::FormErr) };
    let [query] = message.queries.as_slice() else { return refuse(ResponseCode::FormErr) };
    let plain = message.metadata.message_type == MessageType::Query
        && message.answers.is_empty()
        && message.authorities.is_empty();
    if !plain {
        return refuse(ResponseCode::FormErr);
    }
    if message.version() != 0 {
        return refuse(ResponseCode::BADVERS);
    }
    if query.query_class() != DNSClass::IN {
        return refuse(ResponseCode::Refused);
    }
    let payload =
        message.edns.as_ref().map(|edns| edns.max_payload().clamp(MIN_PAYLOAD, UDP_PAYLOAD));
    Ok(Request {
        id,
        query: query.clone(),
        recursion_desired: message.metadata.recursion_desired,
        payload,
    })
}

impl Request {
    /// Bytes that an answer over UDP may have.
    pub fn udp_limit(&self) -> usize {
        usize::from(self.payload.unwrap_or(MIN_PAYLOAD))
    }
}

/// The name, where a rule could name it.
pub fn host_name(name: &Name) -> Option<HostName> {
    let labels: Option<Vec<&str>> = name
        .iter()
        .map(|label| str::from_utf8(label).ok().filter(|text| !text.contains('.')))
        .collect();
    HostName::parse(&labels?.join(".")).ok()
}

/// The name for showing, with a dot between labels.
pub fn shown(name: &Name) -> SafeText {
    let labels: Vec<&[u8]> = name.iter().collect();
    SafeText::new(&labels.join(&b'.'))
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RecordType;
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::dns::reply::{Answer, refusal};

    /// What is read of `bytes` can be answered, and the answer read again.
    fn answerable(bytes: &[u8]) {
        let reply = match parse(bytes) {
            Ok(request) => {
                let _ = (host_name(request.query.name()), shown(request.query.name()));
                Answer::code(ResponseCode::NXDomain).encode(&request, Some(request.udp_limit()))
            }
            Err(Unanswerable::Refused { id, op_code, code }) => refusal(id, op_code, code),
            Err(Unanswerable::Noise) => return,
        };
        let reply = Message::from_vec(&reply.unwrap()).unwrap();
        assert_eq!(reply.metadata.id.to_be_bytes(), bytes[..2]);
        assert_eq!(reply.metadata.message_type, MessageType::Response);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_or_left(bytes in vec(any::<u8>(), 0..600)) {
            answerable(&bytes);
        }

        #[test]
        fn a_question_with_a_few_bytes_changed_is_answered_or_left(
            changes in vec((0..40_usize, any::<u8>()), 1..6),
            cut in 0..3_usize,
        ) {
            let mut query = Message::query();
            query.add_query(Query::query(Name::from_ascii("api.example.com.").unwrap(), RecordType::A));
            let mut bytes = query.to_vec().unwrap();
            for (at, byte) in changes {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            bytes.truncate(bytes.len() - cut);
            answerable(&bytes);
        }

        #[test]
        fn a_name_of_any_bytes_is_a_host_name_only_where_it_reads_as_one(
            labels in vec(vec(any::<u8>(), 1..20), 1..5),
        ) {
            let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
            let name = Name::from_labels(labels.iter().copied()).unwrap();
            if let Some(host) = host_name(&name) {
                let read: Vec<Vec<u8>> = host.as_str().split('.').map(|l| l.as_bytes().to_vec()).collect();
                let due: Vec<Vec<u8>> = labels.iter().map(|l| l.to_ascii_lowercase()).collect();
                prop_assert_eq!(read, due);
            }
        }
    }
}
