//! Bytes from the ring buffer, checked. Nothing in them is trusted to make sense.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_guard_common::{
    decide::Reason,
    event::{Action, EventHeader, Outcome, PATH_ROOM},
    hook::Hook,
    limits::{NAME_MAX, PATH_ALIGN},
};
use thiserror::Error;

/// An event as the kernel wrote it, with its numbers known to mean something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireEvent<'a> {
    /// The fixed part.
    pub header: EventHeader,
    /// Where it was decided.
    pub hook: Hook,
    /// What was done.
    pub action: Action,
    /// Why it was decided so.
    pub reason: Reason,
    /// What became of it.
    pub outcome: Outcome,
    /// Names from the object up to the root of its file system.
    pub names: Vec<&'a [u8]>,
}

/// Bytes that are no event. The event is lost, and to be counted in
/// [`Losses::malformed`](super::Losses::malformed).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// Shorter than the fixed part and the path that it announces.
    #[error("an event of {len} bytes, which needs {needed}")]
    Short {
        /// Bytes there are.
        len: usize,
        /// Bytes there should be.
        needed: usize,
    },
    /// A path longer than any program writes.
    #[error("an event with a path of {0} bytes, above the bound of {PATH_ROOM}")]
    PathTooLong(u32),
    /// A name of the path that is empty, too long or without its NUL.
    #[error("an event whose path has no valid name at byte {0}")]
    Name(usize),
    /// A number without a meaning.
    #[error("an event with {field} {value}, which does not exist")]
    Number {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u8,
    },
}

impl<'a> WireEvent<'a> {
    /// Reads one event; bytes after it mean nothing.
    ///
    /// # Errors
    /// [`WireError`] where the bytes are no event.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let short = |needed| WireError::Short { len: bytes.len(), needed };
        let (fixed, rest) = bytes
            .split_at_checked(size_of::<EventHeader>())
            .ok_or(short(size_of::<EventHeader>()))?;
        // SAFETY: `fixed` is exactly as long as the header, the read needs no alignment, and the
        // header holds only integers and arrays of them, for which any bytes are a valid value.
        let header = unsafe { fixed.as_ptr().cast::<EventHeader>().read_unaligned() };

        let path_len = match usize::try_from(header.path_len) {
            Ok(len) if len <= PATH_ROOM => len,
            _ => return Err(WireError::PathTooLong(header.path_len)),
        };
        let path = rest.get(..path_len).ok_or(short(size_of::<EventHeader>() + path_len))?;
        Ok(Self {
            header,
            hook: Hook::from_number(header.hook).ok_or(number("hook", header.hook))?,
            action: Action::from_number(header.action).ok_or(number("action", header.action))?,
            reason: Reason::from_number(header.reason).ok_or(number("reason", header.reason))?,
            outcome: outcome(header.outcome).ok_or(number("outcome", header.outcome))?,
            names: names(path)?,
        })
    }

    /// The address, where its family is IPv4 or IPv6; an IPv4-mapped one is IPv4.
    #[must_use]
    pub fn addr(&self) -> Option<IpAddr> {
        match i32::from(self.header.family) {
            libc::AF_INET => {
                let [a, b, c, d, ..] = self.header.addr;
                Some(Ipv4Addr::new(a, b, c, d).into())
            }
            libc::AF_INET6 => Some(Ipv6Addr::from(self.header.addr).to_canonical()),
            _ => None,
        }
    }

    /// The name of the thread, up to its NUL.
    #[must_use]
    pub fn comm(&self) -> &[u8] {
        self.header.comm.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

fn number(field: &'static str, value: u8) -> WireError {
    WireError::Number { field, value }
}

fn names(path: &[u8]) -> Result<Vec<&[u8]>, WireError> {
    let mut names = Vec::with_capacity(16);
    let mut at = 0;
    while let Some(rest) = path.get(at..).filter(|rest| !rest.is_empty()) {
        let name = rest.iter().take(NAME_MAX + 1).position(|byte| *byte == 0);
        match name.and_then(|end| rest.get(..end)) {
            Some(name) if !name.is_empty() => {
                names.push(name);
                at += (name.len() + 1).next_multiple_of(PATH_ALIGN);
            }
            _ => return Err(WireError::Name(at)),
        }
    }
    Ok(names)
}

fn outcome(number: u8) -> Option<Outcome> {
    [Outcome::Allowed, Outcome::Denied, Outcome::Killed, Outcome::Observed]
        .into_iter()
        .find(|outcome| *outcome as u8 == number)
}

#[cfg(test)]
pub(super) mod tests {
    use agent_guard_common::table::NO_RULE;
    use proptest::prelude::*;

    use super::*;

    /// A denied read of nothing.
    pub const HEADER: EventHeader = EventHeader {
        boot_ns: 1,
        cgroup: 7,
        inode: 42,
        agent: 1,
        policy: 1,
        pid: 1234,
        tid: 1235,
        ppid: 1,
        uid: 1000,
        gid: 1001,
        dev: 8 << 20 | 1,
        path_len: 0,
        rule: NO_RULE,
        port: 0,
        protocol: 0,
        family: 0,
        hook: Hook::FileOpen as u8,
        action: Action::Read as u8,
        reason: Reason::Default as u8,
        outcome: Outcome::Denied as u8,
        operation: 0,
        reserved: [0; 3],
        target: 0,
        addr: [0; 16],
        comm: *b"cat\0garbage\0\0\0\0\0",
    };

    /// The bytes that a kernel program writes for `header` and a path, leaf first.
    pub fn wire(mut header: EventHeader, names: &[&[u8]]) -> Vec<u8> {
        let mut path = Vec::new();
        for name in names {
            path.extend_from_slice(name);
            path.push(0);
            path.resize(path.len().next_multiple_of(PATH_ALIGN), 0xaa);
        }
        header.path_len = path.len().try_into().unwrap();
        // SAFETY: the header is a plain value without padding (its fields add up to its size), so
        // all of its bytes are initialised.
        let mut bytes = unsafe {
            std::slice::from_raw_parts((&raw const header).cast::<u8>(), size_of::<EventHeader>())
        }
        .to_vec();
        bytes.extend_from_slice(&path);
        bytes
    }

    #[test]
    fn an_event_comes_out_as_it_went_in() {
        let bytes = wire(HEADER, &[b"id_ed25519", b".ssh", b"seven77"]);
        let event = WireEvent::parse(&bytes).unwrap();
        assert_eq!(event.names, [&b"id_ed25519"[..], b".ssh", b"seven77"]);
        assert_eq!((event.hook, event.action), (Hook::FileOpen, Action::Read));
        assert_eq!((event.reason, event.outcome), (Reason::Default, Outcome::Denied));
        assert_eq!(event.header.pid, 1234);
        assert_eq!(event.comm(), b"cat");
    }

    #[test]
    fn a_ring_buffer_slot_may_be_longer_than_its_event() {
        let mut bytes = wire(HEADER, &[b"a"]);
        bytes.extend_from_slice(&[0xff; 9]);
        assert_eq!(WireEvent::parse(&bytes).unwrap().names, [b"a"]);
    }

    #[test]
    fn every_cut_short_of_the_whole_is_refused() {
        let bytes = wire(HEADER, &[b"name", b"dir"]);
        for len in 0..bytes.len() {
            let error = WireEvent::parse(&bytes[..len]).unwrap_err();
            assert!(matches!(error, WireError::Short { .. }), "{len}: {error}");
        }
    }

    #[test]
    fn numbers_without_a_meaning_are_refused() {
        for (field, broken) in [
            ("hook", EventHeader { hook: 200, ..HEADER }),
            ("action", EventHeader { action: 200, ..HEADER }),
            ("reason", EventHeader { reason: 200, ..HEADER }),
            ("outcome", EventHeader { outcome: 4, ..HEADER }),
        ] {
            match WireEvent::parse(&wire(broken, &[])).unwrap_err() {
                WireError::Number { field: named, .. } => assert_eq!(named, field),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn a_name_is_at_most_255_bytes() {
        let longest = [b'n'; NAME_MAX];
        assert_eq!(WireEvent::parse(&wire(HEADER, &[&longest])).unwrap().names, [&longest]);
        let longer = [b'n'; NAME_MAX + 1];
        assert_eq!(WireEvent::parse(&wire(HEADER, &[&longer])).unwrap_err(), WireError::Name(0));
    }

    #[test]
    fn a_path_is_at_most_its_room() {
        let names = [&[b'n'; NAME_MAX][..]; PATH_ROOM / (NAME_MAX + 1)];
        let bytes = wire(HEADER, &names);
        assert_eq!(bytes.len(), size_of::<EventHeader>() + PATH_ROOM);
        assert_eq!(WireEvent::parse(&bytes).unwrap().names.len(), names.len());

        let mut names = names.to_vec();
        names.push(b"a");
        let error = WireEvent::parse(&wire(HEADER, &names)).unwrap_err();
        assert_eq!(error, WireError::PathTooLong(PATH_ROOM as u32 + 8));
    }

    #[test]
    fn an_empty_name_or_one_without_its_end_is_refused() {
        assert_eq!(WireEvent::parse(&wire(HEADER, &[b"a", b""])).unwrap_err(), WireError::Name(8));
        let mut bytes = wire(HEADER, &[b"a"]);
        let start = size_of::<EventHeader>();
        bytes[start..].fill(b'x');
        assert_eq!(WireEvent::parse(&bytes).unwrap_err(), WireError::Name(0));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_that_it_maps() {
        let family = libc::AF_INET6 as u16;
        let addr = Ipv4Addr::new(10, 1, 2, 3).to_ipv6_mapped().octets();
        let bytes = wire(EventHeader { family, addr, ..HEADER }, &[]);
        assert_eq!(
            WireEvent::parse(&bytes).unwrap().addr(),
            Some(Ipv4Addr::new(10, 1, 2, 3).into())
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = WireEvent::parse(&bytes);
        }

        #[test]
        fn an_arbitrary_path_never_panics(
            path in proptest::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..600),
            announced in 0_u32..700,
        ) {
            let mut bytes = wire(HEADER, &[]);
            let at = std::mem::offset_of!(EventHeader, path_len);
            bytes[at..at + 4].copy_from_slice(&announced.to_ne_bytes());
            bytes.extend_from_slice(&path);
            if let Ok(event) = WireEvent::parse(&bytes) {
                prop_assert!(event.names.iter().all(|name| !name.is_empty() && !name.contains(&0)));
            }
        }
    }
}
