//! From a packet's addresses to the socket that takes it: connection, then listener or UDP socket on the address,
//! then on any address. Buckets of chains by index; the hash is keyed, so that a peer cannot choose collisions.

use crate::sock::{Kind, Sock, SockId, flag};
use crate::stack::{Bucket, Stack};
use core::hash::Hasher;
use flyover_shm::{Idx, OptIdx, SharedCell};
use flyover_wire::{Endpoint, IPPROTO_TCP, IPPROTO_UDP, Ip};
use siphasher::sip::SipHasher13;

/// Which chain of a bucket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chain {
    Listen,
    Udp,
}

impl<'m> Stack<'m> {
    fn bucket_of(self, words: &[u64]) -> &'m Bucket {
        let secret = &self.state.secret;
        let k = |i: usize| secret.get(i).map_or(0, SharedCell::get);
        let mut h = SipHasher13::new_with_keys(k(0), k(1));
        for w in words {
            h.write_u64(*w);
        }
        self.buckets
            .at(Idx::new((h.finish() as u32) & (self.limits().buckets - 1)))
    }

    fn conn_bucket(self, local: Endpoint, remote: Endpoint) -> &'m Bucket {
        // Both families have their addresses' entropy in these words; v4-mapped high halves are constant.
        self.bucket_of(&[
            local.ip.hi() ^ remote.ip.hi().rotate_left(17),
            local.ip.lo(),
            remote.ip.lo(),
            u64::from(local.port) << 32 | u64::from(remote.port),
        ])
    }

    fn port_bucket(self, port: u16) -> &'m Bucket {
        self.bucket_of(&[u64::from(port)])
    }

    /// Enters a connection.
    pub(crate) fn hash_conn(self, id: SockId) {
        let s = self.sock(id);
        let b = self.conn_bucket(s.local(), s.remote());
        self.push(&b.conn, id, s);
    }

    /// Enters a listener or a UDP socket under its port.
    pub(crate) fn hash_port(self, id: SockId) {
        let s = self.sock(id);
        let b = self.port_bucket(s.local().port);
        let cell = if s.kind() == Kind::Udp {
            &b.udp
        } else {
            &b.listen
        };
        self.push(cell, id, s);
    }

    fn push(self, cell: &SharedCell<OptIdx<Sock>>, id: SockId, s: &Sock) {
        if s.has(flag::HASHED) {
            return;
        }
        s.hnext.set(cell.get());
        cell.set(id.into());
        s.set_flag(flag::HASHED);
    }

    /// Takes a socket out of whatever chain it is in.
    pub(crate) fn unhash(self, id: SockId) {
        let s = self.sock(id);
        if !s.has(flag::HASHED) {
            return;
        }
        s.clear_flag(flag::HASHED);
        let (local, remote) = (s.local(), s.remote());
        let conn = self.conn_bucket(local, remote);
        let port = self.port_bucket(local.port);
        for cell in [&conn.conn, &port.listen, &port.udp] {
            if self.remove(cell, id) {
                return;
            }
        }
    }

    fn remove(self, cell: &SharedCell<OptIdx<Sock>>, id: SockId) -> bool {
        let mut at = cell;
        let mut guard = self.limits().socks;
        while let Some(cur) = at.get().opt() {
            if cur == id {
                at.set(self.sock(id).hnext.get());
                self.sock(id).hnext.set(OptIdx::NONE);
                return true;
            }
            if guard == 0 {
                return false;
            }
            guard -= 1;
            at = &self.sock(cur).hnext;
        }
        false
    }

    /// True when it is the connection with exactly this 4-tuple: who polls for a connection of his mostly gets what is for
    /// that, and the look-up can be saved.
    pub(crate) fn is_conn(self, id: SockId, local: Endpoint, remote: Endpoint) -> bool {
        let s = self.sock(id);
        is_between(s, local, remote) && s.has(flag::HASHED)
    }

    /// The connection with exactly this 4-tuple.
    pub(crate) fn find_conn(self, local: Endpoint, remote: Endpoint) -> Option<SockId> {
        let mut cur = self.conn_bucket(local, remote).conn.get().opt();
        let mut guard = self.limits().socks;
        while let Some(id) = cur {
            let s = self.sock(id);
            if is_between(s, local, remote) {
                return Some(id);
            }
            guard = guard.checked_sub(1)?;
            cur = s.hnext.get().opt();
        }
        None
    }

    /// The listener for this local address: an exact one before a wildcard one, of the newest ones the fullest match.
    pub(crate) fn find_listener(self, local: Endpoint) -> Option<SockId> {
        self.find_port(Chain::Listen, local, None)
    }

    /// The UDP socket for a datagram: connected to the sender, else on the address, else on any.
    pub(crate) fn find_udp(self, local: Endpoint, remote: Endpoint) -> Option<SockId> {
        self.find_port(Chain::Udp, local, Some(remote))
    }

    fn find_port(self, chain: Chain, local: Endpoint, remote: Option<Endpoint>) -> Option<SockId> {
        let b = self.port_bucket(local.port);
        let mut cur = match chain {
            Chain::Listen => b.listen.get(),
            Chain::Udp => b.udp.get(),
        }
        .opt();
        let mut best: Option<(u32, SockId)> = None;
        let mut guard = self.limits().socks;
        while let Some(id) = cur {
            let s = self.sock(id);
            if let Some(score) = score(s, local, remote)
                && best.is_none_or(|(b, _)| score > b)
            {
                best = Some((score, id));
            }
            if guard == 0 {
                break;
            }
            guard -= 1;
            cur = s.hnext.get().opt();
        }
        best.map(|(_, id)| id)
    }

    /// The endpoint that a kernel socket stands for. A walk over all slots: used on first sight of a descriptor, and
    /// when the kernel reports a socket's end.
    pub fn sock_by_cookie(self, cookie: u64) -> Option<crate::sock::SockRef> {
        if cookie == 0 {
            return None;
        }
        self.each_sock().find(|r| {
            self.sock(r.id)
                .cookie
                .load(core::sync::atomic::Ordering::Acquire)
                == cookie
        })
    }
}

/// Exactly these addresses.
#[inline]
fn is_between(s: &Sock, local: Endpoint, remote: Endpoint) -> bool {
    s.rport.get() == u32::from(remote.port)
        && s.lport.get() == u32::from(local.port)
        && s.remote_lo.get() == remote.ip.lo()
        && s.local_lo.get() == local.ip.lo()
        && s.remote_hi.get() == remote.ip.hi()
        && s.local_hi.get() == local.ip.hi()
}

/// How well a socket fits; None when it does not.
fn score(s: &Sock, local: Endpoint, remote: Option<Endpoint>) -> Option<u32> {
    if s.lport.get() != u32::from(local.port) {
        return None;
    }
    let bound = Ip::from_halves(s.local_hi.get(), s.local_lo.get());
    let mut score = 0;
    if bound == local.ip {
        score += 2;
    } else if bound.is_unspecified() {
        let same = bound.is_v4() == local.ip.is_v4();
        if !(same || (s.has(flag::DUAL) && local.ip.is_v4())) {
            return None;
        }
        score += u32::from(same);
    } else {
        return None;
    }
    if s.rport.get() != 0 {
        if remote? != s.remote() {
            return None;
        }
        score += 8;
    }
    Some(score)
}

/// The protocol number of a socket kind, for filters.
pub fn proto_of(kind: Kind) -> u8 {
    if kind == Kind::Udp {
        IPPROTO_UDP
    } else {
        IPPROTO_TCP
    }
}
