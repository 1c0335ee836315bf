//! Which sockets agents may have at all. Families and protocols are an allowlist: what it does not
//! name, no rule can allow.

use crate::decide::{Reason, Transport};

/// `AF_UNSPEC`, the family of no address.
pub const AF_UNSPEC: u16 = 0;
/// `AF_UNIX`
pub const AF_UNIX: u16 = 1;
/// `AF_INET`
pub const AF_INET: u16 = 2;
/// `AF_INET6`
pub const AF_INET6: u16 = 10;
/// `AF_NETLINK`
pub const AF_NETLINK: u16 = 16;

/// `SOCK_STREAM`, without the flags that socket(2) takes beside it.
pub const SOCK_STREAM: u16 = 1;
/// `SOCK_DGRAM`, likewise.
pub const SOCK_DGRAM: u16 = 2;

/// IP protocols (`IPPROTO_*`).
const IPPROTO_DEFAULT: u16 = 0;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;
/// `IPPROTO_MPTCP`
pub const IPPROTO_MPTCP: u16 = 262;

/// The netlink protocol that tells of interfaces and routes.
pub const NETLINK_ROUTE: u16 = 0;

/// The transport that a rule can name (for MPTCP the TCP that it is made of), for a socket's type and protocol. A raw socket may carry the
/// number of TCP and has no ports: its type tells it apart.
#[inline(always)]
pub fn transport(kind: u16, protocol: u16) -> Result<Transport, Reason> {
    match (kind, protocol) {
        (SOCK_STREAM, IPPROTO_TCP | IPPROTO_MPTCP) => Ok(Transport::Tcp),
        (SOCK_DGRAM, IPPROTO_UDP) => Ok(Transport::Udp),
        _ => Err(Reason::Protocol),
    }
}

/// Whether an agent may make a socket of this family, type and protocol, as socket(2) was given them.
#[inline(always)]
pub fn may_be_made(family: i32, kind: i32, protocol: i32) -> bool {
    let (Ok(family), Ok(kind), Ok(protocol)) =
        (u16::try_from(family), u16::try_from(kind), u16::try_from(protocol))
    else {
        return false;
    };
    match (family, kind) {
        (AF_UNIX, _) => true,
        (AF_NETLINK, _) => protocol == NETLINK_ROUTE,
        (AF_INET | AF_INET6, SOCK_STREAM | SOCK_DGRAM) => {
            protocol == IPPROTO_DEFAULT || transport(kind, protocol).is_ok()
        }
        _ => false,
    }
}

/// Whether a route netlink message asks for something and changes nothing: `RTM_GET*`. Message types
/// come in fours: new, delete, get, set; those below 16 are netlink's own.
#[inline(always)]
pub fn is_route_query(message: u16) -> bool {
    message >= 16 && message & 3 == 2
}

/// Protocol levels of options and control messages.
const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;

/// Whether a socket option gives packets a way of their own, or holds what does.
#[inline(always)]
pub fn is_source_route_option(level: i32, name: i32) -> bool {
    // IP_OPTIONS; IPV6_2292PKTOPTIONS, IPV6_RTHDR
    matches!((level, name), (SOL_IP, 4) | (SOL_IPV6, 6 | 57))
}

/// The same for a control message of sendmsg(2).
#[inline(always)]
pub fn is_source_route_message(level: i32, kind: i32) -> bool {
    // IP_RETOPTS; IPV6_2292RTHDR, IPV6_RTHDR
    matches!((level, kind), (SOL_IP, 7) | (SOL_IPV6, 5 | 57))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_mptcp_and_udp_may_be_made_by_their_numbers_and_by_default() {
        for family in [2, 10] {
            for (kind, protocol) in [(1, 0), (1, 6), (1, 262), (2, 0), (2, 17)] {
                assert!(may_be_made(family, kind, protocol), "{family} {kind} {protocol}");
            }
        }
        for kind in [1, 2, 5] {
            assert!(may_be_made(1, kind, 0));
        }
        for kind in [2, 3] {
            assert!(may_be_made(16, kind, 0));
        }
    }

    #[test]
    fn nothing_else_may() {
        for (family, kind, protocol) in [
            (2, 3, 6),   // raw with the number of TCP
            (2, 3, 255), // raw
            (2, 2, 1),   // ping
            (10, 2, 58), // ping over IPv6
            (2, 1, 132), // SCTP
            (2, 5, 132), // SCTP, one to many
            (2, 2, 136), // UDP-Lite
            (2, 6, 33),  // DCCP
            (2, 1, 17),  // a type that the protocol does not have
            (2, 2, 6),
            (2, 1, 256),  // SMC by protocol
            (17, 3, 768), // packet
            (40, 1, 0),   // vsock
            (44, 3, 0),   // XDP
            (38, 5, 0),   // kernel cryptography
            (43, 1, 0),   // SMC
            (41, 5, 0),   // KCM
            (21, 5, 0),   // RDS
            (30, 1, 0),   // TIPC
            (29, 3, 1),   // CAN
            (31, 3, 1),   // Bluetooth
            (16, 3, 4),   // netlink: socket diagnosis
            (16, 3, 16),  // netlink: generic
            (0, 1, 0),
            (45, 1, 0),
            (i32::MAX, 1, 0),
            (-1, 1, 0),
            (2, -1, 0),
            (2, 1, -1),
            (2, 1, 65_536 + 6), // the number of TCP, were it cut off
        ] {
            assert!(!may_be_made(family, kind, protocol), "{family} {kind} {protocol}");
        }
    }

    #[test]
    fn a_query_changes_nothing() {
        for query in [18, 22, 26, 66] {
            assert!(is_route_query(query), "{query}");
        }
        for other in [0, 2, 3, 10, 15, 16, 17, 19, 20, 67] {
            assert!(!is_route_query(other), "{other}");
        }
    }
}
