//! One socket as it is shown.

use flyover_core::dump::SockRow;
use flyover_core::{Kind, TcpState};
use flyover_sockets::io::options::WITHDRAWN;
use flyover_sockets::policy::Reason;
use flyover_wire::{Endpoint, Ip};
use serde::Serialize;

use super::kernel::Known;
use crate::stacks::StackInfo;

/// First column of `ss`.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum Netid {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// A kernel socket of another namespace, or one that is gone by now.
    #[serde(rename = "???")]
    Unknown,
}

impl Netid {
    /// As `ss` prints it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Unknown => "???",
        }
    }
}

/// A socket.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub(super) proto: Netid,
    /// As `ss` names it.
    pub(super) state: &'static str,
    /// Bytes to read; of a listener, connections to accept.
    pub(super) recv_q: u32,
    /// Bytes not acknowledged; of a listener, the backlog.
    pub(super) send_q: u32,
    pub(super) local: String,
    pub(super) remote: String,
    /// `packet`, `xdp` or `kernel`.
    pub(super) path: String,
    /// Why the path is `kernel`; empty otherwise.
    pub(super) reason: &'static str,
    /// Number of the stack that knows it.
    pub(super) stack: u32,
    /// `SO_COOKIE` of the kernel socket behind it, as a hexadecimal number.
    pub(super) cookie: String,
    /// No process holds it.
    pub(super) orphan: bool,
}

impl Row {
    /// From a row of a stack's memory, and what the kernel knows of the socket behind it.
    pub(super) fn new(row: &SockRow, stack: &StackInfo, kernel: Option<&Known>) -> Self {
        let mut shown = Self {
            proto: match row.kind {
                Kind::Tcp => Netid::Tcp,
                Kind::Udp => Netid::Udp,
                Kind::Kernel | Kind::Free => Netid::Unknown,
            },
            state: row.state.ss_name(),
            recv_q: row.recv_q,
            send_q: row.send_q,
            local: address(row.local),
            remote: peer(row.local, row.remote),
            path: path(row, stack),
            reason: "",
            stack: stack.id,
            cookie: format!("{:x}", row.cookie),
            orphan: row.orphan,
        };
        let left = row.handed_over || row.sopts & WITHDRAWN != 0;
        if row.kind == Kind::Kernel || left {
            shown.path = "kernel".to_owned();
            shown.reason = match u8::try_from(row.reason) {
                Ok(0) if left => Reason::HandedOver.name(),
                Ok(code) => Reason::from_code(code).name(),
                Err(_) => "",
            };
            if let Some(known) = kernel {
                // The kernel's word is newer than the note that the stack keeps.
                shown.proto = known.proto;
                shown.state = TcpState::from_word(u32::from(known.state)).ss_name();
                (shown.recv_q, shown.send_q) = (known.recv_q, known.send_q);
                shown.local = address(known.local);
                shown.remote = peer(known.local, known.remote);
            }
        }
        shown
    }

    /// A connection within the host of which the stack has no row.
    pub(super) fn young(cookie: u64, known: &Known, stack: &StackInfo) -> Self {
        Self {
            proto: known.proto,
            state: TcpState::from_word(u32::from(known.state)).ss_name(),
            recv_q: known.recv_q,
            send_q: known.send_q,
            local: address(known.local),
            remote: peer(known.local, known.remote),
            path: "kernel".to_owned(),
            reason: "young",
            stack: stack.id,
            cookie: format!("{cookie:x}"),
            orphan: false,
        }
    }

    /// Waits for connections, or for datagrams from anybody: what `ss -l` shows.
    pub(super) fn is_listening(&self) -> bool {
        match self.proto {
            Netid::Tcp => self.state == "LISTEN",
            Netid::Udp | Netid::Unknown => self.state == "UNCONN",
        }
    }

    /// Listeners first, then by protocol and address; stable from call to call.
    pub(super) fn order(&self) -> (Netid, bool, String, String) {
        (
            self.proto,
            !self.is_listening(),
            self.local.clone(),
            self.remote.clone(),
        )
    }
}

/// The kind of the socket's V-NIC. One that serves several (a listener, an unconnected UDP socket)
/// names all of their kinds.
fn path(row: &SockRow, stack: &StackInfo) -> String {
    if row.paired {
        return "shm".to_owned();
    }
    if let Some(kind) = row.nic.and_then(|slot| stack.kind_of(slot)) {
        return kind.to_owned();
    }
    let mut kinds: Vec<&str> = stack.vnics.iter().map(|v| v.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() {
        "none".to_owned()
    } else {
        kinds.join("+")
    }
}

/// `192.0.2.1:80`, `[2001:db8::1]:80`, `0.0.0.0:80`, `[::]:80`.
fn address(e: Endpoint) -> String {
    format!("{}:{}", ip(e.ip), e.port)
}

fn ip(ip: Ip) -> String {
    if ip.is_v4() {
        ip.to_string()
    } else {
        format!("[{ip}]")
    }
}

/// As [`address`]; without a peer it is `0.0.0.0:*` or `[::]:*`. The memory of an unconnected socket
/// is zero, so the family is that of the local side.
fn peer(local: Endpoint, remote: Endpoint) -> String {
    if remote.port == 0 {
        format!("{}:*", ip(local.ip.unspecified_same_family()))
    } else {
        address(remote)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use flyover_core::SockRef;
    use flyover_shm::Idx;

    use super::*;
    use crate::stacks::VnicInfo;

    pub(in super::super) fn sample(
        kind: Kind,
        state: TcpState,
        local: &str,
        remote: &str,
    ) -> SockRow {
        SockRow {
            id: SockRef {
                id: Idx::new(1),
                generation: 1,
            },
            kind,
            state,
            recv_q: 0,
            send_q: 128,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            nic: Some(0),
            reason: 0,
            cookie: 0x1f,
            orphan: false,
            v6: false,
            handed_over: false,
            paired: false,
            sopts: 0,
        }
    }

    pub(in super::super) fn stack(kinds: &[&str]) -> StackInfo {
        let vnic = |(slot, kind): (usize, &&str)| VnicInfo {
            slot: slot as u32,
            kind: (*kind).to_owned(),
            ..VnicInfo::default()
        };
        StackInfo {
            id: 3,
            vnics: kinds.iter().enumerate().map(vnic).collect(),
            ..StackInfo::default()
        }
    }

    #[test]
    fn accelerated() {
        let r = sample(
            Kind::Tcp,
            TcpState::Established,
            "10.0.0.1:80",
            "10.0.0.2:5000",
        );
        let row = Row::new(&r, &stack(&["packet"]), None);
        assert_eq!(
            (row.proto, row.state, row.path.as_str()),
            (Netid::Tcp, "ESTAB", "packet")
        );
        assert_eq!(
            (row.local.as_str(), row.remote.as_str()),
            ("10.0.0.1:80", "10.0.0.2:5000")
        );
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!(
            (&json["proto"], &json["path"]),
            (&"tcp".into(), &"packet".into())
        );
    }

    #[test]
    fn what_was_handed_over_is_the_kernels() {
        let mut r = sample(Kind::Tcp, TcpState::Closed, "10.0.0.1:80", "10.0.0.2:5000");
        r.handed_over = true;
        let known = Known {
            inode: 0,
            proto: Netid::Tcp,
            state: 1,
            recv_q: 5,
            send_q: 6,
            local: r.local,
            remote: r.remote,
        };
        let row = Row::new(&r, &stack(&["packet"]), Some(&known));
        assert_eq!(
            (row.path.as_str(), row.reason, row.state, row.recv_q),
            ("kernel", "handed-over", "ESTAB", 5)
        );
        r.handed_over = false;
        r.sopts = WITHDRAWN;
        let row = Row::new(&r, &stack(&["packet"]), None);
        assert_eq!((row.path.as_str(), row.reason), ("kernel", "handed-over"));
    }

    #[test]
    fn listeners_are_on_all_vnics() {
        let mut r = sample(Kind::Tcp, TcpState::Listen, "0.0.0.0:80", "[::]:0");
        assert_eq!(Row::new(&r, &stack(&["xdp"]), None).remote, "0.0.0.0:*");
        r.local = "[::]:80".parse().unwrap();
        r.nic = None;
        let row = Row::new(&r, &stack(&["xdp", "packet", "xdp"]), None);
        assert_eq!(
            (row.path.as_str(), row.local.as_str()),
            ("packet+xdp", "[::]:80")
        );
        assert_eq!(row.remote, "[::]:*");
        assert!(row.is_listening());
    }

    #[test]
    fn kernel_sockets_are_asked_for() {
        let mut r = sample(Kind::Kernel, TcpState::Closed, "127.0.0.1:80", "0.0.0.0:0");
        r.reason = u32::from(Reason::Loopback.code());
        let row = Row::new(&r, &stack(&[]), None);
        assert_eq!(
            (row.proto, row.path.as_str(), row.reason),
            (Netid::Unknown, "kernel", "loopback")
        );
        let known = Known {
            inode: 0,
            proto: Netid::Tcp,
            state: 1,
            recv_q: 5,
            send_q: 6,
            local: "127.0.0.1:80".parse().unwrap(),
            remote: "127.0.0.1:9".parse().unwrap(),
        };
        let row = Row::new(&r, &stack(&[]), Some(&known));
        assert_eq!(
            (row.proto, row.state, row.recv_q, row.send_q),
            (Netid::Tcp, "ESTAB", 5, 6)
        );
        assert_eq!(row.remote, "127.0.0.1:9");
    }
}
